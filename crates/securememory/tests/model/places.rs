//! Places in memory where a secret was seen, which are looked at later.

use super::common::look_open;
use super::values::Value;

/// What is to be looked for there.
pub enum What {
    /// A secret's bytes; of a paged one, whose pages they are.
    Bytes { value: Value, paged: Option<usize> },
    /// Ciphertext, of this secret. It is no secret, and can be kept as it is.
    Record { record: Vec<u8>, secret: usize },
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes { value, paged } => write!(f, "a value of {} bytes (paged: {paged:?})", value.len()),
            Self::Record { secret, .. } => write!(f, "the record of secret {secret}"),
        }
    }
}

pub struct Place {
    pub vault: usize,
    pub address: usize,
    pub what: What,
}

/// Can memory be looked at in this way here?
pub fn can_peek() -> bool {
    let known = [7u8; 16];
    let mut seen = [0; 16];
    look_open(known.as_ptr().addr(), &mut seen) == 16 && seen == known
}

impl Place {
    /// Is it still there?
    pub fn shows(&self) -> bool {
        let mut seen = [0; 256];
        match &self.what {
            What::Bytes { value, .. } => {
                let room = &mut seen[..value.len().min(256)];
                let got = look_open(self.address, room);
                let shown = value.shows_in(&room[..got]);
                room.fill(0);
                std::hint::black_box(room);
                shown
            }
            What::Record { record, .. } => {
                let room = &mut seen[..record.len()];
                look_open(self.address, room) == record.len() && room == record
            }
        }
    }
}

//! Places in memory where a secret was seen, which are looked at later.

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

/// Copies memory of this process, unless it cannot be read: nothing is touched. Says how much could be.
#[cfg(target_os = "linux")]
pub fn peek(address: usize, room: &mut [u8]) -> usize {
    let to = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    let from = libc::iovec { iov_base: std::ptr::with_exposed_provenance_mut(address), iov_len: room.len() };
    // SAFETY: the kernel writes into the room only, and refuses what cannot be read.
    let got = unsafe { libc::process_vm_readv(libc::getpid(), &raw const to, 1, &raw const from, 1, 0) };
    usize::try_from(got).unwrap_or(0)
}

/// The same.
#[cfg(windows)]
pub fn peek(address: usize, room: &mut [u8]) -> usize {
    super::common::look_open(address, room)
}

/// Can memory be looked at in this way here?
pub fn can_peek() -> bool {
    let known = [7u8; 16];
    let mut seen = [0; 16];
    peek(known.as_ptr().addr(), &mut seen) == 16 && seen == known
}

impl Place {
    /// Is it still there?
    pub fn shows(&self) -> bool {
        let mut seen = [0; 256];
        match &self.what {
            What::Bytes { value, .. } => {
                let room = &mut seen[..value.len().min(256)];
                let got = peek(self.address, room);
                let shown = value.shows_in(&room[..got]);
                room.fill(0);
                std::hint::black_box(room);
                shown
            }
            What::Record { record, .. } => {
                let room = &mut seen[..record.len()];
                peek(self.address, room) == record.len() && room == record
            }
        }
    }
}

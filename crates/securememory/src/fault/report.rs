//! What is told of a fault in our memory.

use std::fmt;

use crate::os::signals::Attempt;

/// Where a fault was, seen from the secret.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Beyond its last byte.
    Overflow {
        /// The first of the bytes that were touched was so many bytes beyond the last: at least 1.
        bytes: usize,
    },
    /// Before its first byte.
    Underflow {
        /// The first of the bytes that were touched was so many bytes before the first.
        bytes: usize,
    },
    /// Beside a view that has ended, or a secret that is closed.
    Ended,
    /// In its pages, while no view was open.
    AtRest,
    /// In a key, or a share of one.
    Key,
    /// In memory that should have been readable, and was not: lost to hardware, or cut away under us.
    Lost,
    /// In memory that somebody has unmapped.
    Unmapped,
    /// In a guard page, not beside anything.
    Guard,
}

/// What the code that failed has tried.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read.
    Read,
    /// To write.
    Write,
    /// To run code.
    Execute,
    /// The processor does not tell, or we do not know how to ask it. x86 and arm tell, of 32 and 64 bits, and powerpc64; s390x does not.
    Unknown,
}

impl From<Attempt> for Access {
    fn from(attempt: Attempt) -> Self {
        match attempt {
            Attempt::Read => Self::Read,
            Attempt::Write => Self::Write,
            Attempt::Execute => Self::Execute,
            Attempt::Unknown => Self::Unknown,
        }
    }
}

/// What kind of memory it was.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Scratch: a view of a sealed secret, an owned view, a copy to be changed.
    View,
    /// The pages of a paged secret.
    Paged,
    /// A key or its shares.
    Key,
    /// Ciphertext.
    Ciphertext,
}

/// What was done about it.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// All secrets were wiped; the process ends.
    Wiped,
    /// Nothing: it was passed on to the handler that was there before.
    PassedOn,
    /// The page was replaced by noise, and what lay in it is [`Error::Poisoned`](crate::Error::Poisoned) from now on.
    Replaced,
    /// A function of the program's is asked.
    Asked,
}

/// A fault in memory of the library. Its `Display` is the line that was written to standard error, without the first
/// word.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultReport {
    /// The signal; on Windows the code of the exception, such as 0xC0000005 for an access violation.
    pub signal: i32,
    /// Its `si_code`, see sigaction(2); on Windows zero, or why memory was lost, as a code of the kernel's.
    pub code: i32,
    /// The address.
    pub address: usize,
    /// The vault.
    pub vault_id: u64,
    /// The secret, if it is known.
    pub secret_id: Option<u64>,
    /// Its label, if there is one, in valid UTF-8 as far as it goes.
    pub label: FaultLabel,
    /// Where, seen from the secret.
    pub place: Place,
    /// What was tried.
    pub access: Access,
    /// What kind of memory it was.
    pub memory: Memory,
    /// The system's id of the thread.
    pub thread: u32,
    /// What was done about it.
    pub done: Done,
}

impl FaultReport {
    /// Nothing has happened.
    pub(super) const EMPTY: Self = Self {
        signal: 0,
        code: 0,
        address: 0,
        vault_id: 0,
        secret_id: None,
        label: FaultLabel::EMPTY,
        place: Place::Guard,
        access: Access::Unknown,
        memory: Memory::View,
        thread: 0,
        done: Done::PassedOn,
    };
}

/// Bytes of a label at most.
pub(super) const LABEL: usize = crate::registry::MAX_LABEL;

/// A label, copied so that nothing has to be allocated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FaultLabel {
    pub(super) bytes: [u8; LABEL],
    pub(super) len: u8,
}

impl FaultLabel {
    /// None.
    pub(super) const EMPTY: Self = Self { bytes: [0; LABEL], len: 0 };

    /// The text; empty where there is no label.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => bytes
                .get(..error.valid_up_to())
                .and_then(|valid| std::str::from_utf8(valid).ok())
                .unwrap_or_default(),
        }
    }
}

impl fmt::Debug for FaultLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for FaultReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut outcome = Ok(());
        super::words::say(self, &mut |piece| {
            if outcome.is_ok() {
                // Pieces are ours, or a label, which is text.
                outcome = f.write_str(std::str::from_utf8(piece).unwrap_or("?"));
            }
        });
        outcome
    }
}

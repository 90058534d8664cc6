//! Our errors as those of `std::io`.

use std::io;

use super::{Error, ErrorKind};
use crate::os::errno;

/// By what a caller can do about it. Ours is inside, and `get_ref` with `downcast_ref` gives it back, but where memory is
/// short ([`Error::OutOfMemory`], and calls that were refused with ENOMEM), since what is inside needs memory.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let short = match error {
            Error::OutOfMemory { .. } => true,
            Error::System(cause) | Error::Refused { cause, .. } | Error::HoldRefused(cause) => {
                cause.errno == errno::ENOMEM
            }
            _ => false,
        };
        if short {
            return io::ErrorKind::OutOfMemory.into();
        }
        let kind = match (error, error.kind()) {
            (Error::Truncated { .. } | Error::EndedEarly { .. }, _) => io::ErrorKind::UnexpectedEof,
            (Error::Reader { kind, .. }, _) => kind,
            (Error::Timeout { .. } | Error::LockTimeout(_), _) => io::ErrorKind::TimedOut,
            (_, ErrorKind::Usage) => io::ErrorKind::InvalidInput,
            (_, ErrorKind::Limit) => io::ErrorKind::OutOfMemory,
            (_, ErrorKind::Protection) => io::ErrorKind::PermissionDenied,
            // Not `WouldBlock`: nobody will tell the caller when to come again.
            (_, ErrorKind::Busy) => io::ErrorKind::ResourceBusy,
            (_, ErrorKind::Gone) => io::ErrorKind::BrokenPipe,
            (_, ErrorKind::Damage) => io::ErrorKind::InvalidData,
            (_, ErrorKind::System) => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn ours_is_inside_and_the_kind_says_what_to_do() {
        let cases = [
            (Error::Complete, io::ErrorKind::InvalidInput),
            (Error::Tampered, io::ErrorKind::InvalidData),
            (Error::Truncated { chunks: 3 }, io::ErrorKind::UnexpectedEof),
            (Error::Forked, io::ErrorKind::BrokenPipe),
            (Error::ScratchExhausted { limit: 1 }, io::ErrorKind::OutOfMemory),
        ];
        for (ours, kind) in cases {
            let theirs = io::Error::from(ours);
            assert_eq!(theirs.kind(), kind);
            assert_eq!(theirs.get_ref().unwrap().downcast_ref::<Error>(), Some(&ours));
        }
    }
}

//! What a secret is to be, and where its bytes come from.

use std::convert::Infallible;

use crate::enclave::Binding;
use crate::error::TryError;
use crate::policy::{Policy, Store};
use crate::region::bytes;

/// What a secret is to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spec {
    pub(crate) align: Option<usize>,
    pub(crate) store: Option<Store>,
    pub(crate) policy: Option<Policy>,
    pub(crate) label: Option<String>,
    /// Where the secret is a chunk of a stream: then it is sealed, whatever the store, and is never changed.
    pub(crate) position: Option<Position>,
}

/// The place of a chunk. It takes the place of a secret's id and version in what the seal is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The stream's id, which no secret of the vault has.
    pub(crate) stream: u64,
    pub(crate) index: u64,
    /// Is it the last chunk of a stream that is complete?
    pub(crate) last: bool,
}

impl Position {
    const CHUNK: u64 = 1 << 63;
    const LAST: u64 = 1 << 62;
    /// No chunk of a stream that has bytes comes so far.
    pub(crate) const MAX_INDEX: u64 = Self::LAST - 1;

    /// As the version of a record.
    pub(crate) fn version(self) -> u64 {
        Self::CHUNK | if self.last { Self::LAST } else { 0 } | (self.index & Self::MAX_INDEX)
    }

    /// What the seal of the chunk at this place, in a stream of this vault, is bound to.
    pub(super) fn binding(self, vault: u64, epoch: u64) -> Binding {
        Binding { vault, secret: self.stream, version: self.version(), epoch }
    }
}

/// What writes a secret's first value into protected memory.
pub(crate) trait Source<E> {
    /// Is it code of the user's? Then no key may be at hand while it runs.
    const FOREIGN: bool;

    /// The bytes, where they lie somewhere already: then they can be sealed from there, without another copy.
    fn bytes(&self) -> Option<&[u8]> {
        None
    }

    fn write(self, room: &mut [u8]) -> Result<(), TryError<E>>;
}

/// Bytes that are there and become a secret.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl Source<Infallible> for Bytes<'_> {
    const FOREIGN: bool = false;

    #[inline]
    fn bytes(&self) -> Option<&[u8]> {
        Some(self.0)
    }

    #[inline]
    fn write(self, room: &mut [u8]) -> Result<(), TryError<Infallible>> {
        bytes::copy_slice(room, self.0);
        Ok(())
    }
}

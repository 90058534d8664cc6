//! How streams are made.

use std::sync::Arc;

use crate::error::Result;
use crate::store::{Buffer, Machinery};
use crate::stream::{Cursor, Phase, SecretStream};
use crate::vault::Vault;

/// With what belongs to a chunk in scratch, the key in use and the canary, it fills 16 KiB.
const DEFAULT_CHUNK: usize = 16 * 1024 - 256;

/// A stream to be.
///
/// ```
/// use securememory::Vault;
/// let vault = Vault::builder().build()?;
/// let stream = vault.stream().chunk_size(4000).build()?;
/// assert_eq!(stream.chunk_size(), 4000);
/// # Ok::<(), securememory::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct StreamBuilder {
    /// `None`: the default one, looked up when the stream is made.
    vault: Option<Arc<Machinery>>,
    chunk_size: usize,
}

// Here and not in `vault`, which knows nothing of streams.
impl Vault {
    /// Begins a stream in this vault, under the vault's policy. It is sealed, also where the vault's store is
    /// [`Store::Paged`](crate::Store::Paged).
    pub fn stream(&self) -> StreamBuilder {
        StreamBuilder { vault: Some(Arc::clone(self.shared())), chunk_size: DEFAULT_CHUNK }
    }
}

impl StreamBuilder {
    pub(super) fn in_default_vault() -> Self {
        Self { vault: None, chunk_size: DEFAULT_CHUNK }
    }

    /// Bytes of a chunk, at least one; 16,128 by default. So much plaintext of the stream is in protected
    /// memory at most; where locking is required, room for as much again is taken for the moment of a seal. With
    /// the default both fit what a vault locks by default. Beyond that, [`VaultBuilder::locked_max`](crate::VaultBuilder::locked_max)
    /// says what happens.
    pub fn chunk_size(mut self, bytes: usize) -> Self {
        self.chunk_size = bytes;
        self
    }

    /// Makes the stream. It takes no protected memory before the first byte is written.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`](crate::Error::Empty) where chunks would have no bytes,
    /// [`Error::TooLarge`](crate::Error::TooLarge) where they cannot be so large,
    /// [`Error::Forked`](crate::Error::Forked) in a child of the process that made the vault; in the default vault,
    /// as [`Vault::global`].
    pub fn build(self) -> Result<SecretStream> {
        Buffer::check(self.chunk_size)?;
        let machinery = match self.vault {
            Some(vault) => vault,
            None => Vault::global_machinery()?,
        };
        machinery.check_alive()?;
        Ok(SecretStream {
            id: machinery.new_id()?,
            machinery,
            chunk_size: self.chunk_size,
            phase: Phase::Writing,
            len: 0,
            chunks: Vec::new(),
            buffer: None,
            cursor: Cursor::default(),
        })
    }
}

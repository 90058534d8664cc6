//! `hardware-enclave`, its feature `memory`. `MemoryEnclave`: AES-256-GCM ciphertext on the heap; the key in two halves
//! in one locked, readable page. A secret of exactly 32 bytes stays in that page in the clear once it was opened (its hot
//! cache), one of another length does not; slots of another length than 32 do not work. `SecureBuffer`: plaintext in a locked page
//! between guard pages, read-only at rest (`freeze`), so readable.

use std::sync::Arc;

use hardware_enclave::memory::{MemoryEnclave, SecureBuffer};

use crate::Failure;
use crate::peer::{Peer, behind_a_mutex};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Enclave {
    Cached,
    /// Of secrets of 32 bytes it keeps 31, which costs as much and is never cached.
    Uncached,
}

impl Peer for Enclave {
    type Secret = MemoryEnclave;
    type Shared = Arc<MemoryEnclave>;

    fn create(&self, source: &mut [u8]) -> Result<MemoryEnclave, Failure> {
        let len = if *self == Self::Uncached && source.len() == 32 { 31 } else { source.len() };
        Ok(MemoryEnclave::seal(&source[..len])?)
    }

    fn read(secret: &mut MemoryEnclave, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        open(secret, look)
    }

    /// It has no way to change a secret: opened, changed in the slot, sealed as a new one.
    fn write(secret: &mut MemoryEnclave, change: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        let mut slot = secret.open()?;
        let bytes = slot.bytes().get_mut(..secret.plaintext_len()).ok_or("a slot is too short")?;
        change(bytes);
        *secret = MemoryEnclave::seal(bytes)?;
        Ok(())
    }

    fn share(secret: MemoryEnclave) -> Self::Shared {
        Arc::new(secret)
    }

    fn read_shared(shared: &Self::Shared, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        open(shared, look)
    }
}

fn open(enclave: &MemoryEnclave, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
    let slot = enclave.open()?;
    Ok(look(slot.as_slice().get(..enclave.plaintext_len()).ok_or("a slot is too short")?))
}

pub struct Buffer;

impl Peer for Buffer {
    type Secret = SecureBuffer;

    fn create(&self, source: &mut [u8]) -> Result<SecureBuffer, Failure> {
        let mut buffer = SecureBuffer::new(source.len())?;
        buffer.bytes().copy_from_slice(source);
        buffer.freeze()?;
        Ok(buffer)
    }

    fn read(secret: &mut SecureBuffer, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        Ok(look(secret.as_slice()))
    }

    fn write(secret: &mut SecureBuffer, change: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        secret.melt()?;
        change(secret.bytes());
        Ok(secret.freeze()?)
    }

    behind_a_mutex!();
}

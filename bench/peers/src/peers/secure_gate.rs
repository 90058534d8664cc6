//! `secure-gate`. Sealed: ChaCha20-Poly1305 ciphertext on heap or stack; each access hashes 16 KiB of locked memory for
//! its key, which are readable at rest or, with `new_idle_noaccess`, not. `Dynamic`: plaintext on the heap.

use std::sync::Arc;

use secure_gate::{Dynamic, Fixed, Prekey, RevealSecret, RevealSecretMut, SealedDynamic, SealedFixed};

use crate::Failure;
use crate::peer::Peer;

pub struct Gate(Arc<Prekey>);

impl Gate {
    pub fn readable_key() -> Self {
        Self(Prekey::new())
    }

    pub fn closed_key() -> Self {
        Self(Prekey::new_idle_noaccess())
    }
}

/// The type that its manual names for each kind of length.
pub enum Sealed {
    Key(SealedFixed<32>),
    Bytes(SealedDynamic<Vec<u8>>),
}

impl Peer for Gate {
    type Secret = Sealed;
    type Shared = Arc<Sealed>;

    fn create(&self, source: &mut [u8]) -> Result<Sealed, Failure> {
        Ok(match <&[u8; 32]>::try_from(&*source) {
            Ok(key) => Sealed::Key(SealedFixed::seal(Fixed::new(*key), &self.0)),
            Err(_) => Sealed::Bytes(SealedDynamic::seal(Dynamic::new(source.to_vec()), &self.0)),
        })
    }

    fn read(secret: &mut Sealed, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        Ok(open(secret, look))
    }

    fn write(secret: &mut Sealed, change: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        match secret {
            Sealed::Key(key) => key.with_secret_mut(|bytes| change(bytes)),
            Sealed::Bytes(bytes) => bytes.with_secret_mut(change),
        }
        Ok(())
    }

    fn share(secret: Sealed) -> Self::Shared {
        Arc::new(secret)
    }

    fn read_shared(shared: &Self::Shared, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        Ok(open(shared, look))
    }
}

fn open(sealed: &Sealed, look: impl FnOnce(&[u8]) -> u64) -> u64 {
    match sealed {
        Sealed::Key(key) => key.with_secret(|bytes| look(bytes)),
        Sealed::Bytes(bytes) => bytes.with_secret(|bytes| look(bytes)),
    }
}

pub struct Plain;

impl Peer for Plain {
    type Secret = Dynamic<Vec<u8>>;
    type Shared = Arc<Dynamic<Vec<u8>>>;

    fn create(&self, source: &mut [u8]) -> Result<Self::Secret, Failure> {
        Ok(Dynamic::new(source.to_vec()))
    }

    fn read(secret: &mut Self::Secret, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        Ok(secret.with_secret(|bytes| look(bytes)))
    }

    fn write(secret: &mut Self::Secret, change: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        secret.with_secret_mut(|bytes| change(bytes));
        Ok(())
    }

    fn share(secret: Self::Secret) -> Self::Shared {
        Arc::new(secret)
    }

    fn read_shared(shared: &Self::Shared, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        Ok(shared.with_secret(|bytes| look(bytes)))
    }
}

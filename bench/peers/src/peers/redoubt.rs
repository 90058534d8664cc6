//! `redoubt`: a `cipherbox`, AEGIS-128L ciphertext on the heap; the master key in one locked page without access at
//! rest, from which each use of a box derives its key.

use std::sync::Arc;

use redoubt::alloc::{RedoubtArray, RedoubtVec};
use redoubt::codec::RedoubtCodec;
use redoubt::vault::{CipherBoxError, cipherbox};
use redoubt::zero::RedoubtZero;

use crate::Failure;
use crate::peer::Peer;

#[cipherbox(KeyBox)]
#[derive(Default, RedoubtCodec, RedoubtZero)]
struct Key {
    bytes: RedoubtArray<u8, 32>,
}

#[cipherbox(BytesBox)]
#[derive(Default, RedoubtCodec, RedoubtZero)]
struct Bytes {
    bytes: RedoubtVec<u8>,
}

pub struct Redoubt;

/// The type that its manual names for each kind of length.
pub enum Sealed {
    Key(KeyBox),
    Bytes(BytesBox),
}

impl Peer for Redoubt {
    type Secret = Sealed;
    type Shared = Arc<Sealed>;

    fn create(&self, source: &mut [u8]) -> Result<Sealed, Failure> {
        if let Ok(source) = <&mut [u8; 32]>::try_from(&mut *source) {
            let mut key = KeyBox::new();
            key.open_bytes_mut(|bytes| {
                bytes.replace_from_mut_array(source);
                Ok::<_, CipherBoxError>(())
            })?;
            return Ok(Sealed::Key(key));
        }
        let mut several = BytesBox::new();
        several.open_bytes_mut(|bytes| {
            bytes.replace_from_mut_slice(source);
            Ok::<_, CipherBoxError>(())
        })?;
        Ok(Sealed::Bytes(several))
    }

    fn read(secret: &mut Sealed, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        open(secret, look)
    }

    fn write(secret: &mut Sealed, change: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        let mut change = Some(change);
        let mut once = |bytes: &mut [u8]| {
            if let Some(change) = change.take() {
                change(bytes);
            }
            Ok::<_, CipherBoxError>(())
        };
        match secret {
            Sealed::Key(key) => key.open_bytes_mut(|bytes| once(bytes.as_mut_slice()))?,
            Sealed::Bytes(several) => several.open_bytes_mut(|bytes| once(bytes.as_mut_slice()))?,
        };
        Ok(())
    }

    fn share(secret: Sealed) -> Self::Shared {
        Arc::new(secret)
    }

    fn read_shared(shared: &Self::Shared, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        open(shared, look)
    }
}

fn open(sealed: &Sealed, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
    let mut look = Some(look);
    let mut once = |bytes: &[u8]| Ok::<_, CipherBoxError>(look.take().map_or(0, |look| look(bytes)));
    Ok(*match sealed {
        Sealed::Key(key) => key.open_bytes(|bytes| once(bytes.as_slice()))?,
        Sealed::Bytes(several) => several.open_bytes(|bytes| once(bytes.as_slice()))?,
    })
}

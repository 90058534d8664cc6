//! `shrouded`: plaintext in a locked page between guard pages. Read by `expose_guarded` it has no access at rest, but
//! only after the first such read: a new one is open, so a creation here ends with one. Read by `expose` it is always
//! readable.

use std::sync::Arc;

use shrouded::{Expose, ExposeGuarded, ExposeGuardedMut, ExposeMut, ShroudedBytes};

use crate::Failure;
use crate::peer::Peer;

pub struct Guarded;

impl Peer for Guarded {
    type Secret = ShroudedBytes;
    /// Its type says that it may be shared.
    type Shared = Arc<ShroudedBytes>;

    fn create(&self, source: &mut [u8]) -> Result<ShroudedBytes, Failure> {
        let secret = ShroudedBytes::from_slice(source)?;
        drop(secret.expose_guarded()?);
        Ok(secret)
    }

    fn read(secret: &mut ShroudedBytes, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        Ok(look(&secret.expose_guarded()?))
    }

    fn write(secret: &mut ShroudedBytes, change: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        change(&mut secret.expose_guarded_mut()?);
        Ok(())
    }

    fn share(secret: ShroudedBytes) -> Self::Shared {
        Arc::new(secret)
    }

    fn read_shared(shared: &Self::Shared, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        Ok(look(&shared.expose_guarded()?))
    }
}

pub struct Exposed;

impl Peer for Exposed {
    type Secret = ShroudedBytes;
    type Shared = Arc<ShroudedBytes>;

    fn create(&self, source: &mut [u8]) -> Result<ShroudedBytes, Failure> {
        Ok(ShroudedBytes::from_slice(source)?)
    }

    fn read(secret: &mut ShroudedBytes, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        Ok(look(secret.expose()))
    }

    fn write(secret: &mut ShroudedBytes, change: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        change(secret.expose_mut());
        Ok(())
    }

    fn share(secret: ShroudedBytes) -> Self::Shared {
        Arc::new(secret)
    }

    fn read_shared(shared: &Self::Shared, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        Ok(look(shared.expose()))
    }
}

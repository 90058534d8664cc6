//! `siegel`: plaintext in pages between guard pages, locked if that is allowed, without access at rest. Its `Siegel` can
//! be read once only; what can be read again is the `ProtectedRegion` inside it, which is what is measured.

use siegel::ProtectedRegion;

use crate::Failure;
use crate::peer::{Peer, behind_a_mutex};

pub struct Siegel;

impl Peer for Siegel {
    type Secret = ProtectedRegion;

    fn create(&self, source: &mut [u8]) -> Result<ProtectedRegion, Failure> {
        let mut region = ProtectedRegion::new(source.len())?;
        region.with_write(|bytes| bytes.copy_from_slice(source))?;
        Ok(region)
    }

    fn read(secret: &mut ProtectedRegion, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        Ok(secret.with_read(look)?)
    }

    fn write(secret: &mut ProtectedRegion, change: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        Ok(secret.with_write(change)?)
    }

    behind_a_mutex!();
}

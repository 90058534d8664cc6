//! `memsafe`: plaintext in a locked page without access at rest; no guard pages. Its `Secret` has its length in its type.

use memsafe::Secret;

use crate::Failure;
use crate::peer::{Peer, behind_a_mutex};

pub struct Memsafe;

/// The lengths that are measured.
pub enum Sized {
    Small(Secret<32>),
    Page(Secret<4096>),
    Large(Secret<{ 1 << 20 }>),
}

impl Peer for Memsafe {
    type Secret = Sized;

    fn create(&self, source: &mut [u8]) -> Result<Sized, Failure> {
        Ok(match source.len() {
            32 => Sized::Small(Secret::new_with(|bytes| bytes.copy_from_slice(source))?),
            4096 => Sized::Page(Secret::new_with(|bytes| bytes.copy_from_slice(source))?),
            _ => Sized::Large(Secret::new_with(|bytes| bytes.copy_from_slice(source))?),
        })
    }

    fn read(secret: &mut Sized, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        Ok(match secret {
            Sized::Small(secret) => look(&*secret.read()?),
            Sized::Page(secret) => look(&*secret.read()?),
            Sized::Large(secret) => look(&*secret.read()?),
        })
    }

    fn write(secret: &mut Sized, change: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        match secret {
            Sized::Small(secret) => change(&mut *secret.write()?),
            Sized::Page(secret) => change(&mut *secret.write()?),
            Sized::Large(secret) => change(&mut *secret.write()?),
        }
        Ok(())
    }

    behind_a_mutex!();
}

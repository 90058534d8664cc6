//! `secrets`: plaintext in libsodium's `sodium_malloc`, without access at rest (`sodium_mprotect_noaccess`).

use secrets::SecretVec;

use crate::Failure;
use crate::peer::{Peer, behind_a_mutex};

pub struct Secrets;

impl Peer for Secrets {
    type Secret = SecretVec<u8>;

    fn create(&self, source: &mut [u8]) -> Result<SecretVec<u8>, Failure> {
        Ok(SecretVec::from(source))
    }

    fn read(secret: &mut SecretVec<u8>, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        Ok(look(&secret.borrow()))
    }

    fn write(secret: &mut SecretVec<u8>, change: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        change(&mut secret.borrow_mut());
        Ok(())
    }

    behind_a_mutex!();
}

//! `secure-types`: plaintext in memsec's memfd_secret where there is such a thing (else in its `malloc`), without access
//! at rest. A descriptor for each secret.

use secure_types::SecureBytes;

use crate::Failure;
use crate::peer::{Peer, behind_a_mutex};

pub struct SecureTypes;

impl Peer for SecureTypes {
    type Secret = SecureBytes;

    fn create(&self, source: &mut [u8]) -> Result<SecureBytes, Failure> {
        SecureBytes::from_slice_mut(source).map_err(|error| error.to_string().into())
    }

    fn read(secret: &mut SecureBytes, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        Ok(secret.unlock_slice(look))
    }

    fn write(secret: &mut SecureBytes, change: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        secret.unlock_slice_mut(change);
        Ok(())
    }

    behind_a_mutex!();
}

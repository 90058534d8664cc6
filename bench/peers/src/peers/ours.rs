//! securememory itself, from the path that this repository has. Sealed: authenticated ciphertext in ordinary memory,
//! the vault's key out of reach as its hold says; paged: pages between guards that nothing may touch.

use std::sync::Arc;

use securememory::{Error, Hold, Level, Policy, Secret, Store, Vault, VaultBuilder};

use crate::peer::Peer;
use crate::{Failure, Skipped};

pub struct Ours(Vault);

impl Ours {
    pub fn sealed(hold: Hold) -> Result<Self, Failure> {
        build(Vault::builder().store(Store::Sealed).hold(hold).hold_level(Level::Require))
    }

    pub fn paged() -> Result<Self, Failure> {
        build(Vault::builder().store(Store::Paged))
    }

    /// With everything else as it is by default.
    pub fn profile(policy: Policy) -> Result<Self, Failure> {
        build(Vault::builder().policy(policy))
    }

    /// Its long secrets cannot be paged: the profile wants memfd_secret, and pages of a secret are not of that. Then
    /// their views are to be locked, of which there may be no more than 64 KiB by default.
    pub fn hardened() -> Result<Self, Failure> {
        build(Vault::builder().policy(Policy::hardened()).store(Store::Sealed).locked_max(16 << 20))
    }
}

/// What cannot be had on every machine is not measured on such a one.
fn build(builder: VaultBuilder) -> Result<Ours, Failure> {
    builder.build().map(Ours).map_err(|error| match error {
        Error::HoldRefused(_) | Error::Unsupported(_) => Skipped(error.to_string()).into(),
        other => other.into(),
    })
}

impl Peer for Ours {
    type Secret = Secret;
    type Shared = Arc<Secret>;

    fn create(&self, source: &mut [u8]) -> Result<Secret, Failure> {
        Ok(self.0.secret().from_bytes(source)?)
    }

    fn read(secret: &mut Secret, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        Ok(secret.with(look)?)
    }

    fn write(secret: &mut Secret, change: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        let mut view = secret.view_mut()?;
        change(&mut view);
        Ok(view.commit()?)
    }

    fn share(secret: Secret) -> Arc<Secret> {
        Arc::new(secret)
    }

    fn read_shared(shared: &Arc<Secret>, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        Ok(shared.with(look)?)
    }
}

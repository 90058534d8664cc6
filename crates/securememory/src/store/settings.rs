//! What a vault is built from.

use std::time::Duration;

use crate::fault::FaultPolicy;
use crate::policy::{Cipher, Hold, Level, Policy, Store};
use crate::store::ledger::{Kind, Limits};

/// What a vault is built from.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) policy: Policy,
    pub(crate) store: Store,
    pub(crate) hold: Hold,
    pub(crate) hold_level: Level,
    pub(crate) sealed_max: usize,
    pub(crate) locked_max: usize,
    pub(crate) views_max: usize,
    /// Secrets and their bytes.
    pub(crate) limits: Limits,
    pub(crate) cipher: Option<Cipher>,
    pub(crate) janitor: bool,
    /// Close the vault when its last handle has gone.
    pub(crate) close_on_drop: bool,
    /// A key that has made so many seals is due to be replaced.
    pub(crate) seals_max: u64,
    /// So is one that is so old.
    pub(crate) age_max: Option<Duration>,
    /// `None`: as for all.
    pub(crate) on_fault: Option<FaultPolicy>,
}

impl Settings {
    /// How a secret of this length is kept that asks for this store.
    pub(super) fn kind_for(&self, store: Store, len: usize) -> Kind {
        match store {
            Store::Sealed => Kind::Sealed,
            Store::Paged => Kind::Paged,
            Store::Auto if len <= self.sealed_max => Kind::Sealed,
            Store::Auto => Kind::Paged,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            store: Store::Auto,
            hold: Hold::Auto,
            hold_level: Level::Prefer,
            sealed_max: 64 * 1024,
            locked_max: 64 * 1024,
            views_max: 4096, // not a page size
            limits: Limits::NONE,
            cipher: None,
            janitor: false,
            close_on_drop: false,
            seals_max: u64::MAX,
            age_max: None,
            on_fault: None,
        }
    }
}

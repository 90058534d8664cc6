//! What a vault is built from.

use std::time::Duration;

use crate::fault::FaultPolicy;
use crate::os;
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

/// Bytes that a vault's key and scratch lock at most by default. A key, or a place for a view, takes a page at least: so that
/// as many are locked where pages are larger, it is as many pages as 64 KiB are of the smallest ones.
const fn usual_locked_max(page: usize) -> usize {
    let (least, pages) = (64 * 1024, 16 * page);
    if least > pages { least } else { pages }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            store: Store::Auto,
            hold: Hold::Auto,
            hold_level: Level::Prefer,
            sealed_max: 64 * 1024,
            locked_max: usual_locked_max(os::page_size()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_pages_are_locked_whatever_their_size() {
        let kib = [4, 8, 16, 64, 2048].map(|page| usual_locked_max(page << 10) >> 10);
        assert_eq!(kib, [64, 128, 256, 1024, 32 << 10]);
    }
}

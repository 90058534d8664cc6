//! What is still there when everything was dropped: mappings, descriptors, locked memory.

#[cfg_attr(windows, path = "leaks/windows.rs")]
#[cfg_attr(not(windows), path = "leaks/linux.rs")]
mod system;

use std::io;

use serde::{Deserialize, Serialize};

/// What the process has of everything that must be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// KiB in mappings that are locked, left out of dumps or wiped in a child, and in memory files.
    marked: u64,
    /// KiB in mappings of ordinary memory that nothing may touch.
    closed: u64,
    /// Open descriptors; on Windows handles.
    descriptors: u64,
    /// KiB that the kernel counts as locked, where it tells.
    locked: u64,
}

/// What is there and should not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaks {
    /// KiB of mappings.
    pub regions_kib: u64,
    /// Descriptors; on Windows handles.
    pub descriptors: u64,
    /// KiB of locked memory.
    pub locked_kib: u64,
    /// Secrets that the vault still counts though all were dropped.
    pub secrets: u64,
    /// Old keys that live though nothing is sealed under them any more.
    pub keys: u64,
}

impl Held {
    /// As it is now.
    pub fn now() -> io::Result<Self> {
        system::now()
    }

    /// What has come since.
    pub fn leaked_since(&self, before: &Self, (secrets, keys): (u64, u64)) -> Leaks {
        let marked = self.marked.saturating_sub(before.marked);
        let closed = self.closed.saturating_sub(before.closed);
        Leaks {
            regions_kib: marked + closed,
            descriptors: self.descriptors.saturating_sub(before.descriptors),
            locked_kib: self.locked.saturating_sub(before.locked),
            secrets,
            keys,
        }
    }
}

impl Leaks {
    /// Is there nothing?
    pub fn none(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_vault_is_seen_while_it_lives_and_not_afterwards() {
        // Other tests of this process have vaults too: what is compared are many against few.
        let before = Held::now().unwrap();
        let vaults: Vec<_> = (0..50).map(|_| securememory::Vault::builder().build().unwrap()).collect();
        let during = Held::now().unwrap();
        let held = during.leaked_since(&before, (0, 0));
        assert!(held.regions_kib > 50 && held.locked_kib + held.descriptors > 50, "{held:?}");
        drop(vaults);
        let after = during.leaked_since(&Held::now().unwrap(), (0, 0));
        assert!(after.regions_kib > 50, "{after:?}");
    }
}

//! What of a vault is in use, in words: for test guards. Feature `testing` only.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::os;
use crate::registry::arenas::{self, Purpose, UNUSED};
use crate::registry::guards::{Finding, Left};
use crate::registry::{BUSY, CHUNK, FREE, NOBODY, OWNED, REVOKED, Slot, Thread, UNNAMED, WRITER};
use crate::store::machinery::Machinery;
use crate::store::object::Object;

impl Machinery {
    /// What there is: handles, secrets, views, and what else ends with the last of them. `ours`: references that the caller
    /// has.
    pub(crate) fn whats_left(self: &Arc<Self>, ours: usize) -> Vec<Finding> {
        if !self.enclave.is_alive() {
            return Vec::new();
        }
        // There are no bytes any more, but for views.
        if self.is_closed() {
            return self.in_use();
        }
        let secrets = self.secrets();
        let mut found: Vec<_> = secrets
            .iter()
            .map(|secret| {
                let label = secret.label().map_or_else(String::new, |label| format!(" {label:?}"));
                (Left::Secret, format!("secret {}{label} of vault {}", secret.id(), self.id))
            })
            .collect();
        // Each secret has one, too.
        let handles = Arc::strong_count(self).saturating_sub(ours + secrets.len());
        if handles > 0 {
            found.push((Left::Vault, format!("vault {}: {handles} handles", self.id)));
        }
        found.extend(self.in_use());
        found
    }

    /// The same of one that ends, and so has neither secrets nor handles.
    pub(super) fn remains(&mut self) -> Vec<Finding> {
        let mut found = self.in_use();
        found.extend(self.pages_left());
        found
    }

    /// Views, and what lingers.
    fn in_use(&self) -> Vec<Finding> {
        let now = os::coarse_now();
        let taken = self.slots().filter_map(|slot| describe(slot, now));
        // A close takes all free ones for itself.
        let taken = taken.filter(|&(what, _)| what != Left::Slot || !self.is_closed());
        let mut found: Vec<_> = taken.map(|view| self.of(view)).collect();
        let lingering = self.lingering.count();
        found.extend((0..lingering).map(|_| self.of((Left::Lingering, "pages of a secret".to_owned()))));
        found
    }

    fn of(&self, (left, text): Finding) -> Finding {
        (left, format!("{text} of vault {}", self.id))
    }

    /// References to its secrets.
    fn secrets(&self) -> Vec<Object> {
        let mut secrets = Vec::new();
        // Without the account they go unnamed; their handles are told of all the same.
        let _ = self.each_secret(|secret| {
            secrets.extend(secret.try_clone());
            true
        });
        secrets
    }

    /// Pages that no secret has any more, that were not wiped, and that the pool does not know of.
    #[allow(unsafe_code)]
    fn pages_left(&mut self) -> Vec<Finding> {
        let mut found = Vec::new();
        let ours = |arena: &&arenas::Arena| {
            arena.is_for(Purpose::Pages)
                && arena.is_of(os::process_id())
                && arena.vault.load(Ordering::Relaxed) == self.seat().number()
        };
        for arena in arenas::all().filter(ours) {
            let regions = arena.regions.load(Ordering::Relaxed);
            for index in 0..if regions.is_null() { 0 } else { arena.count() } {
                // SAFETY: as many regions as the arena has slots. They live until the pages are unmapped, which nobody
                // does meanwhile: we have the machinery for ourselves.
                let region = unsafe { &*regions.add(index) };
                let waits = || self.pool.will_wipe(region.data.load(Ordering::Relaxed));
                if region.state.load(Ordering::Acquire) != UNUSED && !waits() {
                    let secret = region.secret.load(Ordering::Relaxed);
                    found.push(self.of((Left::Pages, format!("pages last of secret {secret}"))));
                }
            }
        }
        found
    }
}

fn describe(slot: &Slot, now: u64) -> Option<Finding> {
    let state = slot.state.load(Ordering::Acquire);
    let secret = slot.secret.load(Ordering::Relaxed);
    if state == FREE {
        return None;
    }
    if state == BUSY || secret == UNNAMED || secret == NOBODY {
        return Some((Left::Slot, format!("a slot in state {state}")));
    }
    let kind = match slot.role.load(Ordering::Relaxed) {
        _ if state & REVOKED != 0 => "revoked owned view",
        CHUNK => "chunk",
        _ if state & OWNED != 0 => "owned view",
        WRITER => "writing view",
        _ => "view",
    };
    let thread = Thread::from_word(slot.thread.load(Ordering::Relaxed)).system_id();
    let age = Duration::from_nanos(now.saturating_sub(slot.since.load(Ordering::Relaxed)));
    Some((
        Left::View,
        format!("{kind} of secret {secret}, opened by thread {thread} {:.3} s ago,", age.as_secs_f64()),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::registry;
    use crate::store::Settings;
    use crate::testing::TestGuard;

    #[test]
    fn a_slot_that_nobody_has_is_named() {
        let _guard = TestGuard::new();
        let machinery = Machinery::make(Settings::default()).unwrap();
        let wait = Duration::from_secs(5);
        let slot = machinery.scratch.take(registry::thread(), NOBODY, 8, 8, false, wait).unwrap();
        slot.close_window();
        let found = machinery.whats_left(1);
        assert!(matches!(&found[..], [(Left::Slot, _)]), "{found:?}");
        slot.abandon();
        assert_eq!(machinery.whats_left(1), []);
        // One more than the caller's.
        assert!(matches!(&machinery.whats_left(0)[..], [(Left::Vault, _)]));
    }
}

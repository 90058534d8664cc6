//! Keys that a child inherits.

use super::Enclave;
use crate::enclave::hold::KeyHold;
use crate::enclave::hold::anchor::Anchor;
use crate::os;
use crate::policy::Level;
use std::ptr::NonNull;
use std::time::Duration;

/// The child does not get it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forfeit;

impl Enclave {
    /// Before a fork: keeps others from changing keys.
    pub(crate) fn freeze(&self, patience: Duration) -> bool {
        self.epochs.freeze_over_fork(patience)
    }

    /// Takes that back.
    pub(crate) fn thaw(&self, in_child: bool) {
        self.epochs.thaw(in_child);
    }

    /// Frozen, before a fork: makes ready what a child needs of the keys. False: that cannot be had.
    pub(crate) fn bequeath(&self) -> bool {
        // What was wiped, and has not gone yet, is not for the child.
        self.epochs.frozen().all(|(live, hold)| !live || hold.bequeath(&self.anchor))
    }

    /// In the parent: what was made for the child is the child's.
    pub(crate) fn leave_heirs(&self) {
        self.epochs.frozen().for_each(|(_, hold)| hold.leave_heir());
    }

    /// In the child: the keys are the child's from now on. Says how many of the bytes that were
    /// locked are not any more: of the first page, and of each key.
    pub(crate) fn adopt(&self) -> Result<(usize, usize), Forfeit> {
        let required = self.levels.lock == Level::Require;
        let was_locked = self.anchor.is_locked();
        if !self.anchor.adopt(required) {
            return Err(Forfeit);
        }
        let page = if was_locked && !self.anchor.is_as_locked() { self.anchor.locked_bytes() } else { 0 };
        let mut key = 0;
        for (live, hold) in self.epochs.frozen() {
            if !hold.adopt(&self.anchor) && live {
                return Err(Forfeit);
            }
            if !hold.lock_again() {
                if required {
                    return Err(Forfeit);
                }
                self.anchor.note_unlocked();
                key = hold.locked_bytes();
            }
        }
        Ok((page, key))
    }

    /// In the child: what was made for it is of no use.
    pub(crate) fn give_up_heirs(&self) {
        self.epochs.frozen().for_each(|(_, hold)| hold.give_up_heir());
    }
}

impl KeyHold {
    fn bequeath(&self, anchor: &Anchor) -> bool {
        match self {
            Self::Split(split) => split.bequeath(anchor),
            // The child has a copy of the page.
            Self::Pkey(_) | Self::Guarded(_) => true,
            // It would be the same page.
            Self::Secretmem(_) => false,
        }
    }

    fn leave_heir(&self) {
        if let Self::Split(split) = self {
            split.leave_heir();
        }
    }

    fn give_up_heir(&self) {
        if let Self::Split(split) = self {
            split.give_up_heir();
        }
    }

    fn adopt(&self, anchor: &Anchor) -> bool {
        match self {
            Self::Split(split) => split.adopt(anchor),
            Self::Pkey(_) | Self::Guarded(_) => true,
            Self::Secretmem(_) => false,
        }
    }

    /// In a child, which inherits no locks of memory: locks what was locked. False: that is refused.
    fn lock_again(&self) -> bool {
        match self {
            Self::Split(_) => true,
            Self::Pkey(page) | Self::Secretmem(page) => page.lock_again(),
            Self::Guarded(guarded) => guarded.lock_again(),
        }
    }
}

/// Locks pages of a key again.
#[allow(unsafe_code)]
pub(super) fn lock(at: *mut u8, len: usize) -> bool {
    // SAFETY: whole pages of ours.
    NonNull::new(at).is_some_and(|at| unsafe { os::lock_again(at, len) }.is_ok())
}

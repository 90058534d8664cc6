//! A split key that a child inherits.
//!
//! Parent and child have the same files, and each of them would destroy the other's key with its own. So before the fork a
//! copy of one share A is made in a file of its own. After it the parent closes that file, and the child the others; then
//! the child makes fresh shares, and destroys those that it has come by. What of this is refused costs the child its vault,
//! or leaves it the share that it has; the parent's is what it was.

use std::sync::atomic::Ordering;

use super::{Split, scrub};
use crate::enclave::cipher::KEY;
use crate::enclave::hold::anchor::{Anchor, Staging};
use crate::os::{self, ShareFile};
use crate::registry::files;

impl Split {
    /// Before a fork: makes a file for the child. Nobody else is at this key's replicas, or in a window. False: there is none.
    pub(crate) fn bequeath(&self, anchor: &Anchor) -> bool {
        if !self.is_owner(anchor) {
            return false;
        }
        let Some(staging) = anchor.take_staging() else { return false };
        let made = self.copy_share(anchor, &staging);
        drop(staging);
        scrub::after_window(scrub::depth(self.renewal_stack()));
        made
    }

    #[inline(never)]
    #[allow(unsafe_code)]
    fn copy_share(&self, anchor: &Anchor, staging: &Staging) -> bool {
        for (index, replica) in self.made().iter().enumerate() {
            let Some(entry) = replica.entry() else { continue };
            let (key, a) = (staging.at(), Self::staged_a(staging));
            // SAFETY: the staging area has room for a head, and for a share behind it.
            let right = unsafe {
                self.fetch_replica(anchor, index, key)
                    && self.confirmation.confirms(&*key.cast::<[u8; KEY]>())
                    && ShareFile::read(entry.number(), a).is_ok()
            };
            if !right {
                continue;
            }
            let Ok(file) = ShareFile::create() else { return false };
            // SAFETY: inside the staging area, which is ours.
            if unsafe { file.write(a) }.is_err() {
                let _ = file.close();
                return false;
            }
            self.heir.publish(&file, entry.place());
            return true;
        }
        false
    }

    /// In the parent, after the fork: the file is the child's alone.
    pub(crate) fn leave_heir(&self) {
        if let Some(entry) = self.heir.last() {
            // Not emptied: the child has it.
            let _ = self.heir.file(entry, self.owner()).close();
            self.heir.clear();
        }
    }

    /// In the child: there will be no use for it.
    pub(crate) fn give_up_heir(&self) {
        if let Some(entry) = self.heir.last() {
            let file = self.heir.file(entry, os::process_id());
            self.heir.clear();
            let _ = file.truncate();
            let _ = file.close();
        }
    }

    /// In the child: the key is the child's from now on. False: it cannot be.
    pub(crate) fn adopt(&self, anchor: &Anchor) -> bool {
        let process = os::process_id();
        let wanted = self.count();
        // The parent's files are given up, and nothing is written to them.
        for replica in &self.replicas {
            let Some(entry) = replica.last() else { continue };
            let file = replica.file(entry, process);
            replica.clear();
            files::withdraw(file.raw_fd().unsigned_abs(), file.identity());
            let _ = file.close();
        }
        self.count.store(0, Ordering::Relaxed);
        self.owner.store(process, Ordering::Relaxed);
        self.next_place.store(self.places().end, Ordering::Relaxed);
        let Some(entry) = self.heir.last() else { return false };
        let file = self.heir.file(entry, process);
        self.heir.clear();
        for place in self.places().filter(|&place| place != entry.place()) {
            Self::wipe_share(anchor, place);
        }
        if let Some(staging) = anchor.take_staging() {
            self.make_fresh(anchor, &staging, &file, entry.place(), wanted);
            drop(staging);
            scrub::after_window(scrub::depth(self.renewal_stack()));
        }
        if self.count() > 0 {
            Self::wipe_share(anchor, entry.place());
            let _ = file.truncate();
            let _ = file.close();
            return true;
        }
        // Then with the one that there is.
        let number = file.raw_fd().unsigned_abs();
        if files::enter(number, file.identity(), process, anchor.vault().number()).is_err() {
            let _ = file.truncate();
            let _ = file.close();
            return false;
        }
        let [first, ..] = &self.replicas;
        first.publish(&file, entry.place());
        self.count.store(1, Ordering::Relaxed);
        true
    }

    /// Fresh shares in files of the child's own, as many as are wanted and can be had.
    #[inline(never)]
    #[allow(unsafe_code)]
    fn make_fresh(&self, anchor: &Anchor, staging: &Staging, heir: &ShareFile, from: usize, wanted: usize) {
        let key = staging.at();
        let places = self.places().filter(|&place| place != from);
        for (index, (replica, place)) in self.replicas.iter().take(wanted).zip(places).enumerate() {
            let Ok(file) = Self::make_file(staging, None) else { return };
            // SAFETY: the staging area has room for a head; a place that nobody reads.
            unsafe {
                if !Self::combine(anchor, heir.raw_fd(), from, key) {
                    Self::discard(file);
                    return;
                }
                self.write_b(anchor, staging, key, place);
            }
            replica.publish(&file, place);
            self.count.store(index + 1, Ordering::Relaxed);
            self.next_place.store(self.after(place, from), Ordering::Relaxed);
        }
    }

    /// The place from which on all are free.
    fn after(&self, place: usize, from: usize) -> usize {
        place.max(from).saturating_add(1).min(self.places().end)
    }
}

//! The one locked page that every vault has: the alive mark, and the second shares of split keys.
//!
//! Where pages are so large that a second locked one may be too much (64 KiB), the first scratch slot lies in
//! the same page.
//!
//! ```text
//! [ alive mark | shares of the keys of four epochs, 64 bytes each | staging ][ from 4096: scratch slot, on large pages ]
//! ```

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::enclave::epoch::LIVE;
use crate::error::Error;
use crate::os;
use crate::policy::{Level, Levels};
use crate::region::{ForkGuard, Secured, Slab, bytes, insist, secure, verify};
use crate::registry::arenas::Purpose;
use crate::registry::arenas::anchor::{self as layout, ALIVE, SHARES_AT};
use crate::registry::vaults::Seat;
use crate::shutdown::mark;
use crate::status::Protections;

pub(crate) use crate::registry::arenas::anchor::SHARE;
/// Shares of one key that have room. While the key lives no place is used again, so this bounds how many replicas it can
/// have had.
pub(crate) const MAX_SHARES: usize = 15;
const STAGING_AT: usize = SHARES_AT + LIVE * MAX_SHARES * SHARE;
/// Bytes for material in the making: a key with its check value, and a share.
pub(crate) const STAGING: usize = 2 * SHARE;
const _: () = assert!(STAGING_AT + STAGING <= SLOT_AT);
const SLOT_AT: usize = layout::LEN;
/// From this page size on, the page is shared with a scratch slot.
const LARGE_PAGE: usize = 64 * 1024;

/// The page. What a child compares with lies outside it: the process id, and a constant.
pub(crate) struct Anchor {
    slab: Option<Slab>,
    at: NonNull<u8>,
    page: usize,
    secured: Secured,
    owner: AtomicU32,
    /// Of a vault that children inherit: the number of the process that it belongs to, see [`mark`].
    mark: AtomicU64,
    /// In a child that has inherited it the page, or one of a key, could not be locked.
    unlocked: AtomicBool,
    vault: Seat,
    /// Is the staging area in use?
    staged: AtomicBool,
}

// SAFETY: after `make`, the page is read by everybody and written only by wipers, with volatile accesses.
#[allow(unsafe_code)]
unsafe impl Send for Anchor {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Anchor {}

impl Anchor {
    /// Maps and protects the page, and checks in the kernel's own listing that it is protected.
    #[allow(unsafe_code)]
    pub(crate) fn make(levels: Levels, vault: Seat) -> Result<Self, Error> {
        let page = os::page_size();
        let mark = AtomicU64::new(if levels.fork == Level::Off { mark::ensure()? } else { 0 });
        let slab = Slab::reserve(page, 1, Purpose::Anchor, vault)?;
        let at = slab.slot(0);
        // SAFETY: a whole slot that nobody else knows yet.
        let secured = unsafe { secure(at, page, levels, true) }.and_then(|mut secured| {
            secured.protections = verify(at, page, secured.protections);
            insist(&secured.protections).map(|()| secured)
        });
        match secured {
            Ok(secured) => {
                // SAFETY: accessible since `secure`, and aligned as a page.
                unsafe { at.cast::<u64>().write_volatile(ALIVE) };
                let owner = AtomicU32::new(os::process_id());
                let [unlocked, staged] = [const { AtomicBool::new(false) }; 2];
                Ok(Self { slab: Some(slab), at, page, secured, owner, mark, unlocked, vault, staged })
            }
            Err(error) => {
                // SAFETY: nobody has seen it.
                let _ = unsafe { slab.release() };
                Err(error)
            }
        }
    }

    /// Is this the process that made the vault? A forked child finds the mark wiped; where it does not have
    /// the page at all, the process id tells.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn is_alive(&self) -> bool {
        // SAFETY: the page is mapped and readable as long as the anchor lives: in the process that made it, and in children
        // if they find it wiped.
        let is_marked = || unsafe { self.at.cast::<u64>().read_volatile() == ALIVE };
        match self.secured.fork {
            ForkGuard::Wiped => is_marked(),
            ForkGuard::Inherited => is_marked() && mark::now() == self.mark.load(Ordering::Relaxed),
            ForkGuard::Absent | ForkGuard::None => self.is_of_process() && is_marked(),
        }
    }

    /// Is it, and not a child that shares its memory either? A system call.
    pub(crate) fn is_owner(&self) -> bool {
        self.is_alive() && self.is_of_process()
    }

    /// The process whose it is, or was.
    pub(crate) fn owner(&self) -> u32 {
        self.owner.load(Ordering::Relaxed)
    }

    fn is_of_process(&self) -> bool {
        os::process_id() == self.owner()
    }

    /// In a child: it is the child's from now on, if the page can be locked where it has to be. False: it is nobody's.
    #[allow(unsafe_code)]
    pub(crate) fn adopt(&self, required: bool) -> bool {
        if self.secured.is_locked() {
            // SAFETY: a whole page of ours.
            let refused = unsafe { os::lock_again(self.at, self.page) }.is_err();
            if refused && required {
                return false;
            }
            self.unlocked.store(refused, Ordering::Relaxed);
        }
        self.owner.store(os::process_id(), Ordering::Relaxed);
        self.mark.store(mark::now(), Ordering::Relaxed);
        true
    }

    /// In a child: it is nobody's after all.
    pub(crate) fn give_up(&self) {
        self.mark.store(mark::NOBODY, Ordering::Relaxed);
    }

    /// Is it, and are the pages of keys, as locked as at creation?
    pub(crate) fn is_as_locked(&self) -> bool {
        !self.unlocked.load(Ordering::Relaxed)
    }

    /// The page of a key could not be locked in a child.
    pub(crate) fn note_unlocked(&self) {
        self.unlocked.store(true, Ordering::Relaxed);
    }

    #[allow(unsafe_code)]
    pub(crate) fn share(&self, index: usize) -> *mut u8 {
        debug_assert!(index < LIVE * MAX_SHARES);
        // SAFETY: inside the page.
        unsafe { self.at.as_ptr().add(SHARES_AT + index * SHARE) }
    }

    /// Room for shares in the making, if nobody else uses it. Wiped when it is given back.
    pub(crate) fn take_staging(&self) -> Option<Staging<'_>> {
        // Not `then_some`, whose value would be made in any case, and give back what is another's when it is dropped.
        (!self.staged.swap(true, Ordering::Acquire)).then(|| Staging(self))
    }

    /// The part of a large page that is left for scratch.
    #[allow(unsafe_code)]
    pub(crate) fn spare(&self) -> Option<(*mut u8, usize)> {
        // SAFETY: inside the page, which is larger.
        (self.page >= LARGE_PAGE).then(|| unsafe { (self.at.as_ptr().add(SLOT_AT), self.page - SLOT_AT) })
    }

    /// Its vault's place in the registry.
    pub(crate) fn vault(&self) -> Seat {
        self.vault
    }

    pub(crate) fn locked_bytes(&self) -> usize {
        if self.secured.is_locked() { self.page } else { 0 }
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.secured.is_locked()
    }

    /// What is in force on the page now.
    pub(crate) fn protections(&self) -> Protections {
        verify(self.at, self.page, self.secured.protections)
    }

    /// What was found in force at creation.
    pub(crate) fn protections_at_creation(&self) -> &Protections {
        &self.secured.protections
    }

    /// Wipes the whole page and gives it back; in the owner process only.
    #[allow(unsafe_code)]
    pub(crate) fn end(&mut self) {
        let Some(slab) = self.slab.take() else { return };
        // SAFETY: the vault that read from the page is being dropped.
        unsafe {
            bytes::wipe(self.at.as_ptr(), self.page);
            let _ = slab.release();
        }
    }
}

/// The right to the staging area.
pub(crate) struct Staging<'a>(&'a Anchor);

impl Staging<'_> {
    /// [`STAGING`] bytes, aligned to 64.
    #[allow(unsafe_code)]
    pub(crate) fn at(&self) -> *mut u8 {
        // SAFETY: inside the page.
        unsafe { self.0.at.as_ptr().add(STAGING_AT) }
    }

    /// The place in the registry of the vault that it is of.
    pub(crate) fn vault(&self) -> Seat {
        self.0.vault
    }
}

impl Drop for Staging<'_> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: our own page, and we are the only one who uses this part of it.
        unsafe { bytes::wipe(self.at(), STAGING) };
        self.0.staged.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::policy::Policy;

    #[test]
    fn who_does_not_get_the_staging_area_leaves_it_to_who_has_it() {
        let mut anchor = Anchor::make(Policy::default().levels(), Seat::take().unwrap()).unwrap();
        let staging = anchor.take_staging().unwrap();
        assert!(anchor.take_staging().is_none() && anchor.take_staging().is_none());
        drop(staging);
        assert!(anchor.take_staging().is_some() && anchor.take_staging().is_some());
        anchor.end();
    }
}

//! The one locked page that every vault has: the alive mark, and the second shares of split keys.
//!
//! Where pages are so large that a second locked one may be too much (64 KiB), the first scratch slot lies in
//! the same page.
//!
//! ```text
//! [ alive mark | shares of the keys of four epochs, 64 bytes each | staging ][ from 4096: scratch slot, on large pages ]
//! ```

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::enclave::epoch::LIVE;
use crate::error::Error;
use crate::os;
use crate::policy::Levels;
use crate::region::{ForkGuard, Secured, Slab, bytes, insist, secure, verify};
use crate::registry::arenas::Purpose;
use crate::registry::arenas::anchor::{self as layout, ALIVE, SHARES_AT};
use crate::registry::vaults::Seat;
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
    owner: u32,
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
                let (owner, staged) = (os::process_id(), AtomicBool::new(false));
                Ok(Self { slab: Some(slab), at, page, secured, owner, vault, staged })
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
            ForkGuard::Absent | ForkGuard::None => os::process_id() == self.owner && is_marked(),
        }
    }

    /// Is it, and not a child that shares its memory either? A system call.
    pub(crate) fn is_owner(&self) -> bool {
        self.is_alive() && os::process_id() == self.owner
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

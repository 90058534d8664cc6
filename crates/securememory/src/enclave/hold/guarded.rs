//! The hold `Guarded`: the key in a page of its own between guard pages, which nothing may touch at rest.
//!
//! Opened and closed like a paged secret, by the same gate; so a fetch costs two protection changes, and
//! waits as a paged reader waits.

use std::sync::atomic::{Ordering, fence};

use super::door::Door;
use super::{CHECK, CHECK_AT, Held, check_equals};
use crate::enclave::cipher::{Confirmation, KEY, UNFIT};
use crate::enclave::heritage::lock;
use crate::error::Error;
use crate::os;
use crate::policy::{Cipher, Levels};
use crate::region::bytes;
use crate::region::pool::{Pages, Pool};
use crate::registry::arenas::Purpose;
use crate::registry::vaults::Seat;

pub(crate) struct Guarded {
    pool: Pool,
    /// `None` only while it is being destroyed.
    pages: Option<Pages>,
    door: Door,
    check: [u64; CHECK / 8],
    confirmation: Confirmation,
}

/// Pages with a key, and what is known of it.
type Filled = (Pages, Door, [u64; CHECK / 8], Confirmation);

impl Guarded {
    /// Makes a fresh key.
    #[allow(unsafe_code)]
    pub(crate) fn make(cipher: Cipher, levels: Levels, vault: Seat) -> Result<Self, Error> {
        let mut pool = Pool::new(Purpose::Key, vault);
        match Self::fill(cipher, &pool, levels) {
            Ok((mut pages, door, check, confirmation)) => {
                pages.check();
                Ok(Self { pool, pages: Some(pages), door, check, confirmation })
            }
            Err(error) => {
                // SAFETY: nobody has been given pages of it; a key that was made was never used.
                unsafe { pool.end() };
                Err(error)
            }
        }
    }

    #[allow(unsafe_code)]
    fn fill(cipher: Cipher, pool: &Pool, levels: Levels) -> Result<Filled, Error> {
        let pages = pool.take(KEY + CHECK, 16, levels)?;
        // SAFETY: fresh, accessible pages that nobody else knows yet, and that live as long as the pool.
        let door = unsafe { Door::paged(pages.start(), pages.capacity(), pages.is_locked()) };
        let at = door.at();
        // SAFETY: as above; the check value is not secret.
        let (check, confirmation) = door.fill(|| unsafe {
            os::random(at, KEY + CHECK)?;
            let confirmation = Confirmation::of(cipher, &*at.cast::<[u8; KEY]>());
            Ok((at.add(CHECK_AT).cast::<[u64; CHECK / 8]>().read(), confirmation))
        })?;
        Ok((pages, door, check, confirmation.map_err(|_| UNFIT)?))
    }

    /// See [`super::KeyHold::fetch`].
    ///
    /// # Safety
    ///
    /// As there.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn fetch(&self, head: *mut u8) -> Result<(), Error> {
        if self.pages.is_none() {
            return Err(Error::KeyLost);
        }
        let at = self.door.at();
        // SAFETY: the pages are readable while the door is open; the head is as the caller vouches. The key half is
        // copied before the check half, which is wiped first.
        let right = self.door.read(|| unsafe {
            bytes::copy(at, head, KEY);
            fence(Ordering::Acquire);
            bytes::copy(at.add(CHECK_AT), head.add(CHECK_AT), CHECK);
            check_equals(head.add(CHECK_AT), &self.check)
        })?;
        if right { Ok(()) } else { Err(Error::KeyLost) }
    }

    /// See [`super::KeyHold::is_intact`].
    ///
    /// # Safety
    ///
    /// As there.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn is_intact(&self, head: *const u8) -> bool {
        // SAFETY: as the caller vouches.
        !self.door.is_destroyed() && unsafe { check_equals(head.add(CHECK_AT), &self.check) }
    }

    pub(crate) fn confirmation(&self) -> &Confirmation {
        &self.confirmation
    }

    /// The key's page; `None` once it is gone.
    pub(crate) fn held(&self) -> Option<Held> {
        let pages = self.pages.as_ref()?;
        Some(Held { at: pages.start(), len: pages.capacity(), claimed: pages.secured().protections })
    }

    pub(crate) fn is_stuck(&self) -> bool {
        self.pages.is_some() && self.door.is_stuck()
    }

    /// In a child, which inherits no locks of memory. False: that is refused.
    pub(crate) fn lock_again(&self) -> bool {
        let Some(pages) = self.pages.as_ref().filter(|pages| pages.is_locked()) else { return true };
        lock(self.door.at(), pages.capacity())
    }

    pub(crate) fn locked_bytes(&self) -> usize {
        self.pool.locked_bytes()
    }

    /// Wipes the key; the check half first.
    #[allow(unsafe_code)]
    pub(crate) fn erase(&self) {
        if self.pages.is_none() {
            return;
        }
        let at = self.door.at();
        // SAFETY: nobody fetches any more. The page is writable inside.
        self.door.destroy(|| unsafe {
            bytes::wipe(at.add(CHECK_AT), CHECK);
            fence(Ordering::Release);
            bytes::wipe(at, KEY);
        });
    }

    /// Gives the page back, which has been erased.
    #[allow(unsafe_code)]
    pub(crate) fn release(&mut self) {
        if self.pages.take().is_none() {
            return;
        }
        // SAFETY: nobody fetches any more.
        unsafe { self.pool.end() };
    }
}

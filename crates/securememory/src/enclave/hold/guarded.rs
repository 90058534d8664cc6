//! The hold `Guarded`: the key in a page of its own between guard pages, which nothing may touch at rest.
//!
//! Opened and closed like a paged secret, by the same gate; so a fetch costs two protection changes, and
//! waits as a paged reader waits.

use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use super::{CHECK, CHECK_AT, check_equals};
use crate::enclave::cipher::KEY;
use crate::enclave::hold::anchor::Anchor;
use crate::error::{Error, Outstanding};
use crate::gate::{Deadline, Gate, Refusal};
use crate::os::{self, Access};
use crate::policy::Levels;
use crate::region::bytes;
use crate::region::pool::{Pages, Pool};
use crate::status::Protections;

/// Nobody holds the page open for longer than a copy of 64 bytes.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) struct Guarded {
    pool: Pool,
    /// `None` only while it is being destroyed.
    pages: Option<Pages>,
    gate: Gate,
    check: [u64; CHECK / 8],
}

impl Guarded {
    /// Makes a fresh key.
    #[allow(unsafe_code)]
    pub(crate) fn make(_anchor: &Anchor, levels: Levels) -> Result<Self, Error> {
        let mut pool = Pool::new();
        match Self::fill(&pool, levels) {
            Ok((mut pages, check)) => {
                pages.check();
                Ok(Self { pool, pages: Some(pages), gate: Gate::new(), check })
            }
            Err(error) => {
                // SAFETY: nobody has been given pages of it; a key that was made was never used.
                unsafe { pool.end() };
                Err(error)
            }
        }
    }

    #[allow(unsafe_code)]
    fn fill(pool: &Pool, levels: Levels) -> Result<(Pages, [u64; CHECK / 8]), Error> {
        let pages = pool.take(KEY + CHECK, 16, levels)?;
        let at = pages.base();
        // SAFETY: fresh, accessible pages that nobody else knows yet; the check value is not secret.
        let check = unsafe {
            os::random(at, KEY + CHECK)?;
            let check = at.add(CHECK_AT).cast::<[u64; CHECK / 8]>().read();
            pages.protect(Access::None)?;
            check
        };
        Ok((pages, check))
    }

    /// See [`super::KeyHold::fetch`].
    ///
    /// # Safety
    ///
    /// As there.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn fetch(&self, head: *mut u8) -> Result<(), Error> {
        let Some(pages) = &self.pages else { return Err(Error::KeyLost) };
        // SAFETY: reading does not conflict with other readers; nobody writes but `destroy`.
        let open = || unsafe { pages.protect(Access::Read) };
        // SAFETY: the gate calls this when nobody is inside.
        let shut = || unsafe { pages.protect(Access::None) };
        self.gate.enter_paged(|| false, || Deadline::after(PATIENCE), open).map_err(|refusal| {
            // Whoever left while we were counted has left the closing to us.
            let _ = self.gate.shut_if_idle(shut);
            match refusal {
                Refusal::Call(cause) => Error::System(cause),
                Refusal::Late => Error::Timeout { waited: PATIENCE, holders: Outstanding::default() },
                Refusal::TooMany => Error::TooManyViews { limit: crate::gate::word::MAX_VIEWS },
                Refusal::Closed => Error::KeyLost,
            }
        })?;
        // SAFETY: the pages are readable while we are inside the gate; the key half is copied before the check
        // half, which is wiped first.
        let right = unsafe {
            bytes::copy(pages.base(), head, KEY);
            fence(Ordering::Acquire);
            bytes::copy(pages.base().add(CHECK_AT), head.add(CHECK_AT), CHECK);
            check_equals(head.add(CHECK_AT), &self.check)
        };
        // A failure leaves the page open until the next fetch closes it.
        let _ = self.gate.leave_paged(shut);
        if right {
            return Ok(());
        }
        Err(Error::KeyLost)
    }

    /// See [`super::KeyHold::is_intact`].
    ///
    /// # Safety
    ///
    /// As there.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn is_intact(&self, head: *const u8) -> bool {
        // SAFETY: as the caller vouches.
        !self.gate.is_closed() && unsafe { check_equals(head.add(CHECK_AT), &self.check) }
    }

    /// What is in force on the key's page, `now` or at creation; `None` once it is gone.
    pub(crate) fn protections(&self, now: bool) -> Option<Protections> {
        let pages = self.pages.as_ref()?;
        Some(if now { pages.protections() } else { pages.secured().protections })
    }

    pub(crate) fn locked_bytes(&self) -> usize {
        self.pool.locked_bytes()
    }

    /// Wipes the key; the check half first.
    #[allow(unsafe_code)]
    pub(crate) fn destroy(&mut self) {
        self.gate.close();
        let Some(pages) = self.pages.take() else { return };
        // SAFETY: nobody fetches any more: the vault is being dropped.
        unsafe {
            if pages.protect(Access::ReadWrite).is_ok() {
                bytes::wipe(pages.base().add(CHECK_AT), CHECK);
                fence(Ordering::Release);
                bytes::wipe(pages.base(), KEY);
            }
            self.pool.end();
        }
    }
}

//! The holds `Pkey` and `Secretmem`: the key in a page of its own between guard pages, closed at rest, and used where
//! it lies. It is never copied to scratch, so what a read leaves of it is on the stack and in registers only.
//!
//! *Pkey*: locked memory under the process's protection key (see [`crate::os::ProtectionKey`]). A read costs two
//! writes to a register and no system call, and opens the page for its own thread only. Signal handlers, also one
//! that interrupts a read, find the page closed.
//!
//! *Secretmem*: memory that the kernel itself does not keep mapped, closed by the same protection key, or where there
//! is none by the gate of paged secrets. It is shared with children unless it is kept from them altogether
//! (MADV_DONTFORK), so a child must not look at it: the alive mark says so before. A child that is forked by a signal
//! handler in the middle of a read, and returns from that handler, faults: a limit.
//!
//! The page has the key and a check value, which is wiped before the key. A key whose check value is right after its
//! use was right all the time.

use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

use super::door::Door;
use super::{CHECK, CHECK_AT, Check, Held, check_equals, lost};
use crate::enclave::cipher::{Confirmation, Forged, KEY, UNFIT};
use crate::enclave::heritage::lock;
use crate::enclave::hold::anchor::Anchor;
use crate::error::{Error, Protection};
use crate::os::{self, Advice, ProtectionKey, SecretFile};
use crate::policy::{Cipher, Levels};
use crate::region::{ForkGuard, Secured, Slab, bytes, insist, secure, settle, verify};
use crate::registry;
use crate::registry::arenas::Purpose;
use crate::registry::dying::why_gone;
use crate::registry::vaults::Seat;
use crate::status::{Achieved, Evidence, Protections};

/// A key in a page of its own.
pub(crate) struct InPlace {
    /// `None` once it is destroyed.
    slab: Option<Slab>,
    door: Door,
    page: usize,
    secured: Secured,
    check: [u64; CHECK / 8],
    confirmation: Confirmation,
}

impl InPlace {
    /// Makes a fresh key in a page that a protection key closes.
    #[allow(unsafe_code)]
    pub(crate) fn pkey(cipher: Cipher, levels: Levels, vault: Seat) -> Result<Self, Error> {
        let key = ProtectionKey::of_process()?;
        let page = os::page_size();
        let slab = Slab::reserve(page, 1, Purpose::Key, vault)?;
        let at = slab.slot(0);
        // Before it is closed by the key: whoever wipes it must not come in between.
        slab.set_key(key);
        // SAFETY: a whole slot that nobody else knows yet.
        let made = unsafe {
            secure(at, page, levels, true).and_then(|secured| Ok((secured, Door::keyed(at, page, key)?)))
        };
        match made.and_then(|(secured, door)| Self::fill(cipher, door, page, secured)) {
            Ok(made) => Ok(Self { slab: Some(slab), ..made }),
            Err(error) => {
                // SAFETY: nobody has seen it; a key that was made was never used.
                let _ = unsafe { slab.release() };
                Err(error)
            }
        }
    }

    /// Makes a fresh key in memory that the kernel does not keep mapped.
    #[allow(unsafe_code)]
    pub(crate) fn secretmem(cipher: Cipher, levels: Levels, vault: Seat) -> Result<Self, Error> {
        let page = os::page_size();
        let slab = Slab::reserve(page, 1, Purpose::Key, vault)?;
        let at = slab.slot(0);
        let made = Self::place(&slab, page, levels).and_then(|secured| {
            // Without a protection key there is page protection.
            let keyed = ProtectionKey::of_process().and_then(|key| {
                // As above. Where the page does not come under it, it does no harm.
                slab.set_key(key);
                // SAFETY: a whole slot that nobody else knows yet, and that lives as long as the door.
                unsafe { Door::keyed(at, page, key) }
            });
            // SAFETY: as above.
            let door = keyed.unwrap_or_else(|_| unsafe { Door::paged(at, page, false) });
            Self::fill(cipher, door, page, secured).map_err(Unmade::Clean)
        });
        match made {
            Ok(made) => Ok(Self { slab: Some(slab), ..made }),
            Err(Unmade::Clean(error)) => {
                // SAFETY: nobody has seen it; a key that was made was never used.
                let _ = unsafe { slab.release() };
                Err(error)
            }
            // Who has the middle of the slab is not known, so it is left as it is.
            Err(Unmade::Torn(error)) => Err(error),
        }
    }

    /// Puts such memory in the place of the slab's slot, and keeps children from it.
    #[allow(unsafe_code)]
    fn place(slab: &Slab, page: usize, levels: Levels) -> Result<Secured, Unmade> {
        let at = slab.slot(0);
        // What is mapped or open when another thread forks is shared with the child, also what is written to it later.
        // A fork waits for this lock.
        let frozen = registry::freeze()?;
        let file = SecretFile::create(page).map_err(Error::from)?;
        // SAFETY: a whole slot that nobody else knows yet.
        unsafe { file.map_over(at) }.map_err(|failed| {
            let error = Error::from(failed.cause);
            if failed.untouched { Unmade::Clean(error) } else { Unmade::Torn(error) }
        })?;
        // SAFETY: as above.
        let kept = unsafe { os::advise(at, page, Advice::DontFork) };
        drop(frozen);
        let guard = if kept.is_ok() { ForkGuard::Absent } else { ForkGuard::None };
        let fork = settle(Protection::Fork, levels.fork, kept)?;
        // The kernel does both by itself. It never swaps such pages, whether it counts them as locked (it lists the flag
        // then) or not, as since 2026; the other is looked up later.
        let dump = Achieved { asked: levels.dump, got: true, evidence: Evidence::Unverified, refused: None };
        let lock = Achieved::by_construction(levels.lock);
        let protections = Protections { guard: Achieved::by_construction(levels.guard), lock, dump, fork };
        Ok(Secured { protections, fork: guard })
    }

    /// Makes the key, and looks up whether its page is protected as was claimed.
    #[allow(unsafe_code)]
    fn fill(cipher: Cipher, door: Door, page: usize, mut secured: Secured) -> Result<Self, Error> {
        let at = door.at();
        // Straight from the kernel, which also populates the page: where there is no memory for it, that is an
        // error and not a signal.
        // SAFETY: the page is open meanwhile, and nobody else knows it yet. The check value is not secret.
        let (check, confirmation) = door.fill(|| unsafe {
            os::random(at, KEY + CHECK)?;
            let confirmation = Confirmation::of(cipher, &*at.cast::<[u8; KEY]>());
            Ok((at.add(CHECK_AT).cast::<[u64; CHECK / 8]>().read(), confirmation))
        })?;
        let confirmation = confirmation.map_err(|_| UNFIT)?;
        // A slab's slot is not at address zero.
        if let Some(at) = NonNull::new(at) {
            secured.protections = verify(at, page, secured.protections);
        }
        insist(&secured.protections)?;
        Ok(Self { slab: None, door, page, secured, check, confirmation })
    }

    /// See [`super::KeyHold::lend`] and [`super::KeyHold::lend_within`].
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn lend<R>(
        &self,
        anchor: &Anchor,
        data: &mut [u8],
        when: Check,
        outer: Option<&Self>,
        work: impl FnOnce(&[u8; KEY], &mut [u8]) -> Result<R, Forged>,
    ) -> Result<Result<R, Forged>, Error> {
        // A child may not even have the page.
        if !anchor.is_alive() {
            return Err(why_gone());
        }
        let at = self.door.at();
        let look = || {
            // SAFETY: the page is readable while the door is open.
            let right = || unsafe { check_equals(at.add(CHECK_AT), &self.check) };
            if !right() {
                return None;
            }
            // SAFETY: as above; aligned as a page. A wiper may change the key meanwhile; then the check after the use
            // fails.
            let key = unsafe { &*at.cast::<[u8; KEY]>() };
            let outcome = work(key, data);
            // The key was read before the check value, which is wiped first.
            fence(Ordering::Acquire);
            (!when.applies(&outcome) || right()).then_some(outcome)
        };
        let outcome = match outer {
            Some(outer) => self.door.read_within(&outer.door, look),
            None => self.door.read(look),
        }?;
        match outcome {
            Some(outcome) if !self.door.is_destroyed() => Ok(outcome),
            _ => Err(lost(anchor)),
        }
    }

    pub(crate) fn confirmation(&self) -> &Confirmation {
        &self.confirmation
    }

    /// The key's page; `None` once it is gone.
    pub(crate) fn held(&self) -> Option<Held> {
        self.slab.as_ref()?;
        let at = NonNull::new(self.door.at())?;
        Some(Held { at, len: self.page, claimed: self.secured.protections })
    }

    pub(crate) fn is_stuck(&self) -> bool {
        self.slab.is_some() && self.door.is_stuck()
    }

    /// In a child, which inherits no locks of memory. False: that is refused.
    pub(crate) fn lock_again(&self) -> bool {
        !self.secured.is_locked() || self.slab.is_none() || lock(self.door.at(), self.page)
    }

    pub(crate) fn locked_bytes(&self) -> usize {
        if self.secured.is_locked() { self.page } else { 0 }
    }

    /// Wipes the key, the check half first, and gives the page back.
    #[allow(unsafe_code)]
    pub(crate) fn erase(&self) {
        if self.slab.is_none() {
            return;
        }
        let at = self.door.at();
        // SAFETY: nobody uses the key any more. The page is writable inside.
        self.door.destroy(|| unsafe {
            bytes::wipe(at.add(CHECK_AT), CHECK);
            fence(Ordering::Release);
            bytes::wipe(at, KEY);
        });
    }

    /// Gives the page back, which has been erased.
    #[allow(unsafe_code)]
    pub(crate) fn release(&mut self) {
        let Some(slab) = self.slab.take() else { return };
        // SAFETY: nobody uses the key any more. Should it not have been wiped: the kernel clears pages before others get them.
        let _ = unsafe { slab.release() };
    }
}

/// Why there is no key.
enum Unmade {
    /// The slab is as it was, or has our pages in its middle.
    Clean(Error),
    /// There may be a hole in the slab, or what another thread has mapped into it.
    Torn(Error),
}

impl From<Error> for Unmade {
    fn from(error: Error) -> Self {
        Self::Clean(error)
    }
}

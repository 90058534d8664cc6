//! The end of a vault: what is at rest at once, what is in use when it ends.
//!
//! In this order: the keys, which nobody finds any more; their shares, in memory and then in files; the secrets' pages; what
//! is left of ciphertext; scratch and pages that nobody uses, given back; and the descriptors, of files that are empty by
//! then. Views that are open keep their scratch, and each that ends gives back what it was the last to need.
//!
//! A secret in the making is found by the walk through all secrets, or finds that the vault is closed: it is there first
//! and looks then, and the one who closes says so first and walks then.

use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use crate::error::Error;
use crate::gate::Deadline;
use crate::locks;
use crate::policy::OnClose;
use crate::region::revocation::revoke_owned;
use crate::registry::{self, BUSY, CHUNK, FREE, NOBODY, OWNED, REVOKED, Slot, UNNAMED, WINDOW};
use crate::signal::masks;
use crate::store::header::{Body, Header};
use crate::store::machinery::Machinery;
use crate::store::sealed::MOMENT;

/// Ciphertext without a key is overwritten for so long also where the caller does not wait.
const TIDYING: Duration = Duration::from_millis(10);

/// Who waits for views looks again after so long, and then less and less often, up to the second.
const NAPS: (Duration, Duration) = (Duration::from_micros(50), Duration::from_millis(1));

/// What a close has achieved.
pub(crate) struct Closing {
    /// Views are left, which the policy's `on_close` was applied to.
    pub(crate) deferred: bool,
    /// The first thing that could not be wiped or given back. A later close tries again.
    pub(crate) failed: Option<Error>,
}

/// May bytes of the vault be visible through what is in this slot, or be about to become so?
fn is_in_use(slot: &Slot) -> bool {
    let state = slot.state.load(Ordering::Acquire);
    match state {
        FREE | BUSY => false,
        WINDOW => true,
        _ if state & REVOKED != 0 => false,
        // The chunk of a stream that is being written can be revoked at any time.
        _ if slot.role.load(Ordering::Relaxed) == CHUNK => false,
        _ => !matches!(slot.secret.load(Ordering::Acquire), UNNAMED | NOBODY),
    }
}

impl Machinery {
    pub(crate) fn is_closed(&self) -> bool {
        self.enclave.is_closed()
    }

    /// Closes: nothing is opened or made any more, what is at rest is wiped, and views are waited for as long as `wait`.
    pub(crate) fn close(&self, wait: Duration) -> Result<Closing, Error> {
        self.enclave.check_owner()?;
        if self.holds_any(registry::thread()) {
            return Err(Error::WouldDeadlock);
        }
        let deadline = Deadline::after(wait);
        let (quiet, told) = self.close_keys(Deadline::after(wait.max(MOMENT)))?;
        // What goes wrong here is tried again below.
        let _ = self.close_secrets(Deadline::after(wait.max(TIDYING)));
        self.revoke_chunks();
        let ended = self.await_views(deadline);
        if !ended {
            self.leave_views();
        }
        // What was left to views that have ended meanwhile.
        let secrets = self.close_secrets(Deadline::after(TIDYING));
        let reclaimed = self.reclaim();
        let released = if quiet { self.release_keys() } else { Ok(()) };
        self.ledger.settle();
        Ok(Closing { deferred: !ended, failed: told.and(secrets).and(reclaimed).and(released).err() })
    }

    /// Destroys the keys. False: a thread may have one in hand. The second: could the account be told?
    fn close_keys(&self, deadline: Deadline) -> Result<(bool, Result<(), Error>), Error> {
        let _shield = masks::shield();
        let mut keys = self.enclave.epochs().freeze()?;
        // Under their lock, so that no key comes after those that are found now.
        self.enclave.close();
        // Without the account a secret may still be begun, but is not made: there is no key, and `check_made`.
        let told = self.ledger.close().and_then(|()| self.ledger.forget_epochs(keys.newest() + 1));
        Ok((self.erase_keys(&mut keys, deadline), told))
    }

    /// Gives pages and descriptors of the keys back, which have been erased.
    #[allow(unsafe_code)]
    fn release_keys(&self) -> Result<(), Error> {
        let mut keys = self.enclave.epochs().freeze()?;
        // SAFETY: erased, which says that all windows were seen to be closed in which they could have been found.
        unsafe { keys.release_withdrawn(self.enclave.anchor()) };
        Ok(())
    }

    /// Closes all secrets; those with views are wiped when these end. Until the deadline ciphertext is overwritten, too, and
    /// plaintext in any case.
    fn close_secrets(&self, deadline: Deadline) -> Result<(), Error> {
        // Between "closed", which was said before, and the look at the headers: `check_made` has the other such fence, between
        // its header and the look at "closed". Without both, each could miss the other on processors that let a store wait
        // behind later loads.
        fence(Ordering::SeqCst);
        let mut outcome = Ok(());
        let mut sealed_only = self.ledger.live()?.paged == 0;
        self.each_secret(|object| {
            let header = object.header();
            header.gate.close();
            let in_time = deadline.left().is_some();
            let now = Some(Deadline::after(Duration::ZERO));
            match header.body() {
                Body::Sealed(_) if !in_time => {}
                Body::Sealed(_) => outcome = outcome.and(header.try_end(now)),
                Body::Paged(_) => {
                    sealed_only = false;
                    outcome = outcome.and(header.try_end(None));
                }
            }
            in_time || !sealed_only
        })?;
        self.sweep_limbo(Deadline::after(Duration::ZERO));
        outcome
    }

    /// Wipes the chunks of streams that are being written, of which nobody sees anything.
    fn revoke_chunks(&self) {
        // Whoever takes room for one does so first, and then asks whether the vault is closed.
        fence(Ordering::SeqCst);
        let is_chunk = |slot: &Slot| slot.role.load(Ordering::Acquire) == CHUNK;
        for slot in self.slots().filter(|slot| slot.state.load(Ordering::Acquire) & OWNED != 0) {
            revoke_owned(slot, || is_chunk(slot));
        }
    }

    /// Waits until no view is open; says whether that was reached by the deadline.
    fn await_views(&self, deadline: Deadline) -> bool {
        let (mut nap, longest) = NAPS;
        loop {
            fence(Ordering::SeqCst);
            if !self.slots().any(is_in_use) {
                return true;
            }
            let Some(left) = deadline.left() else { return false };
            std::thread::sleep(nap.min(left));
            nap = (nap * 2).min(longest);
        }
    }

    /// Does with the views that are left what the vault's policy says.
    fn leave_views(&self) {
        let policy = &self.settings.policy;
        match (policy.on_close, policy.revoke_after) {
            (OnClose::Revoke, _) => {
                self.revoke_later(Duration::ZERO, |_| true);
                let _ = self.tend_time();
            }
            (OnClose::Defer, Some(after)) => self.revoke_later(after, |_| true),
            (OnClose::Defer, None) => {}
        }
    }

    /// Gives back scratch and pages that nobody uses any more.
    fn reclaim(&self) -> Result<(), Error> {
        let scratch = self.scratch.retire();
        self.pool.trim().and(scratch)
    }

    /// To be called when a secret has been made: takes it back where the vault was closed meanwhile.
    pub(super) fn check_made(&self, header: &Header) -> Result<(), Error> {
        fence(Ordering::SeqCst);
        if !self.is_closed() {
            return Ok(());
        }
        header.gate.close();
        let _ = header.try_end(Some(Deadline::after(MOMENT)));
        Err(Error::Closed)
    }

    /// A view of a closed secret has ended: where the vault is closed, too, it may have been the last.
    #[cold]
    pub(super) fn after_last_view(&self) {
        if self.is_closed() && !self.slots().any(is_in_use) {
            // Else whoever has what is needed for it, or a later close.
            let _ = locks::without_waiting(|| self.reclaim());
        }
    }

    /// The last handle of the vault has gone: gives back what its secrets do not need, or closes it.
    #[cold]
    pub(crate) fn after_last_handle(&self) {
        if self.check_alive().is_err() {
            return;
        }
        if self.settings.close_on_drop {
            if self.close(Duration::ZERO).is_err() {
                // Then it is done by `close_if_left`.
                self.turnover.call();
            }
        } else {
            let _ = self.pool.trim();
        }
    }

    /// Closes a vault that should have been closed when its last handle went, and was not. To be called now and then, by
    /// those who do not hold a view.
    #[inline]
    pub(super) fn close_if_left(&self) {
        if self.settings.close_on_drop && self.handles.is_none() && !self.is_closed() {
            self.after_last_handle();
        }
    }
}

//! A vault's keys turn over: a new key seals, what the old ones have sealed is moved to it, and they are destroyed.
//!
//! A record is moved by sealing its plaintext anew and exchanging the pointer, if that still is to the record that was
//! read ([`Sealed::publish_moved`]): never over a commit. Readers find the one or the other. Records are moved in batches,
//! with one fetch of both keys, by whoever finishes a refresh; and by creations and commits, a few by each. Reads move
//! nothing.
//!
//! What cannot be decrypted any more is moved as it is: it stays unreadable ([`Error::Tampered`]), and does not keep the
//! old key alive.
//!
//! A thread that moves signs in for all secrets at once (slots without an id): while its window is open nothing is freed
//! that it may have found, whatever secret it belongs to.

mod mover;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::counters::{self, Count};
use crate::enclave::epoch::{self, Changing};
use crate::error::{Error, Outstanding};
use crate::events::{self, Note};
use crate::gate::Deadline;
use crate::os;
use crate::registry::ANY;
use crate::signal::masks;
use crate::store::census::BATCH;
use crate::store::header::Body;
use crate::store::machinery::Machinery;
use crate::store::sealed::MOMENT;
#[cfg(doc)]
use crate::store::sealed::Sealed;

/// Records that a creation or a commit moves.
const SMALL_BATCH: usize = 8;
/// How long who finishes a refresh leaves others alone before it looks again.
const NAP: Duration = Duration::from_micros(100);
/// How long a janitor does nothing about a key, at the least.
const RETRY: Duration = Duration::from_millis(10);
/// After a refresh that was due by itself was refused, so many seals are made before it is tried again.
const PAUSE: u32 = 1000;

/// What [`Vault::finish_refresh`](crate::Vault::finish_refresh) has done.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// Secrets and chunks of streams that the call has sealed under the new key. Others may have been moved by creations
    /// and commits.
    pub moved: u64,
    /// How many of them were damaged: they could not be opened, and still cannot.
    pub damaged: u64,
}

/// Where the change of keys is.
pub(crate) struct Turnover {
    /// There may be records of older keys.
    unfinished: AtomicBool,
    /// A thread is moving records. Nobody waits for it.
    moving: AtomicBool,
    /// When the present key was made, as [`os::coarse_now`] tells.
    since: AtomicU64,
    /// How often all keys were purged.
    purges: AtomicU64,
    /// Seals that will be made without trying to replace a key that is due.
    pause: AtomicU32,
}

impl Turnover {
    pub(super) fn new() -> Self {
        Self {
            unfinished: AtomicBool::new(false),
            moving: AtomicBool::new(false),
            since: AtomicU64::new(os::coarse_now()),
            purges: AtomicU64::new(0),
            pause: AtomicU32::new(0),
        }
    }

    /// In a child: whoever was at it is not here.
    pub(super) fn forget_others(&self) {
        self.moving.store(false, Ordering::Release);
    }

    /// Has the next who seals something look whether there is something to be done.
    pub(super) fn call(&self) {
        self.unfinished.store(true, Ordering::Release);
    }

    /// The right to move, if nobody has it.
    fn begin(&self) -> Option<Mover<'_>> {
        // Not `then_some`, whose value would be made in any case, and give back the right when it is dropped.
        (!self.moving.swap(true, Ordering::Acquire)).then(|| Mover(self))
    }
}

struct Mover<'a>(&'a Turnover);

impl Drop for Mover<'_> {
    fn drop(&mut self) {
        self.0.moving.store(false, Ordering::Release);
    }
}

impl Machinery {
    /// Makes a new key, which seals from now on.
    pub(crate) fn refresh(&self) -> Result<(), Error> {
        self.check_open()?;
        self.enclave.check_owner()?;
        let has_room = self.enclave.epochs().freeze()?.has_room();
        if !has_room {
            self.finish_refresh(self.settings.policy.wait)?;
        }
        self.install_key()?;
        // Those that seal nothing any more. The new key is in use, whatever comes of it.
        let _ = self.retire_keys();
        Ok(())
    }

    fn install_key(&self) -> Result<(), Error> {
        self.install_next(&mut self.enclave.epochs().freeze()?)?;
        counters::add(Count::Refreshes);
        Ok(())
    }

    fn install_next(&self, keys: &mut Changing<'_>) -> Result<(), Error> {
        // A close says so, and takes the keys away, when it has what we have.
        self.check_open()?;
        // A key that is half made is known to nobody who wipes.
        let _shield = masks::shield();
        let epoch = keys.install(|epoch| self.enclave.make_key(epoch))?;
        events::note(Note::NewKey, self.id, epoch);
        self.turnover.since.store(os::coarse_now(), Ordering::Relaxed);
        self.turnover.pause.store(0, Ordering::Relaxed);
        self.turnover.unfinished.store(true, Ordering::Release);
        if self.settings.janitor {
            self.lingering.wake_janitor();
        }
        self.ledger.open_epoch(epoch)
    }

    /// Destroys older keys that have no records any more. Says whether the present one is the only one left.
    #[allow(unsafe_code)]
    fn retire_keys(&self) -> Result<bool, Error> {
        self.enclave.check_owner()?;
        let _shield = masks::shield();
        let mut keys = self.enclave.epochs().freeze()?;
        let (sealing, _) = self.ledger.current()?;
        let present = keys.newest().min(sealing);
        let mut last = true;
        let older = epoch::up_to(keys.newest()).filter(|&epoch| epoch < present);
        for epoch in older.filter(|&epoch| self.enclave.epochs().has(epoch)) {
            if self.ledger.records_of(epoch)? == 0 {
                keys.withdraw(epoch);
            } else {
                last = false;
            }
        }
        // Nobody should be there, see `enclave::epoch`.
        if !self.scratch.quiesce(ANY, Deadline::after(MOMENT)) {
            return Ok(false);
        }
        // SAFETY: all windows that were open when they were withdrawn have been seen to be closed.
        unsafe { keys.destroy_withdrawn(self.enclave.anchor()) };
        if last {
            self.turnover.unfinished.store(false, Ordering::Release);
        }
        Ok(last)
    }

    /// Moves everything to the present key and destroys the others.
    pub(crate) fn finish_refresh(&self, wait: Duration) -> Result<Refreshed, Error> {
        self.check_open()?;
        self.enclave.check_owner()?;
        let deadline = Deadline::after(wait);
        let mut done = Refreshed::default();
        loop {
            let mut failure = None;
            if let Some(_mover) = self.turnover.begin() {
                self.ledger.walk_from_start()?;
                loop {
                    match self.move_batch(BATCH, &mut done) {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(error @ Error::LockTimeout(_)) => return Err(error),
                        // What stands in the way of some does not keep the others.
                        Err(error) => _ = failure.get_or_insert(error),
                    }
                    if deadline.left().is_none() {
                        break;
                    }
                }
                self.sweep_limbo(Deadline::after(MOMENT));
            }
            if self.retire_keys()? {
                return Ok(done);
            }
            if let Some(error) = failure {
                return Err(error);
            }
            if deadline.left().is_none() {
                return Err(Error::Timeout { waited: deadline.waited(), holders: Outstanding::default() });
            }
            std::thread::sleep(NAP);
        }
    }

    /// To be called after each seal that was published: replaces a key that is due, and moves a few records if there is
    /// something to be moved.
    #[inline]
    pub(super) fn after_seal(&self, seals: u64) {
        let due = seals >= self.settings.seals_max || self.is_key_old();
        if due || self.turnover.unfinished.load(Ordering::Relaxed) {
            self.turn_over();
        }
    }

    /// Is the present key to be replaced?
    fn is_key_due(&self) -> bool {
        !self.is_closed() && self.has_due_key()
    }

    fn has_due_key(&self) -> bool {
        self.is_key_old() || self.ledger.current().is_ok_and(|(_, seals)| seals >= self.settings.seals_max)
    }

    #[inline]
    fn is_key_old(&self) -> bool {
        self.settings.age_max.is_some_and(|age| {
            let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
            os::coarse_now().saturating_sub(self.turnover.since.load(Ordering::Relaxed)) >= age
        })
    }

    /// Says whether nothing was in its way.
    #[cold]
    fn turn_over(&self) -> bool {
        self.close_if_left();
        let Some(_mover) = self.turnover.begin() else { return true };
        // Asked anew: another thread may have found the same key due, and replaced it.
        let due = self.is_key_due();
        let pause = self.turnover.pause.load(Ordering::Relaxed);
        if due && pause > 0 {
            self.turnover.pause.store(pause - 1, Ordering::Relaxed);
        } else if due
            && let Err(error) = self.install_key()
            // Where there are four keys, the next comes as soon as the oldest has been moved, which goes on
            // below.
            && !matches!(error, Error::Busy(_))
        {
            // What was to be done has been done, under the old key. It is told by the status.
            self.turnover.pause.store(PAUSE, Ordering::Relaxed);
            self.note_refusal(error);
        }
        // What goes wrong here is told to whoever finishes the refresh.
        match self.move_batch(SMALL_BATCH, &mut Refreshed::default()) {
            Ok(true) => true,
            Ok(false) => {
                self.sweep_limbo(Deadline::after(Duration::ZERO));
                let _ = self.ledger.walk_from_start();
                self.retire_keys().is_ok()
            }
            Err(_) => false,
        }
    }

    #[cold]
    fn note_refusal(&self, error: Error) {
        let Ok(mut keys) = self.enclave.epochs().freeze() else { return };
        // Told once, until it succeeds.
        if keys.refused().is_none() {
            events::note(Note::RefreshRefused, self.id, events::cause(error.call()));
        }
        keys.note_refusal(error);
    }

    /// Destroys all keys, and with them everything that was sealed; closes what is paged. Then makes a new key.
    #[allow(unsafe_code)]
    pub(crate) fn purge(&self) -> Result<(), Error> {
        self.check_open()?;
        self.enclave.check_owner()?;
        let deadline = Deadline::after(self.settings.policy.wait);
        let _shield = masks::shield();
        let mut keys = self.enclave.epochs().freeze()?;
        let forgotten = self.ledger.forget_epochs(keys.newest() + 1);
        let quiet = self.erase_keys(&mut keys, deadline);
        if quiet {
            // SAFETY: all windows that were open when they were withdrawn have been seen to be closed.
            unsafe { keys.destroy_withdrawn(self.enclave.anchor()) };
        }
        // Not before the account knows that there is none.
        let installed = forgotten.and_then(|()| self.install_next(&mut keys));
        drop(keys);
        let paged = self.purge_paged();
        self.ledger.settle();
        if !quiet {
            return Err(Error::Timeout { waited: deadline.waited(), holders: self.at_work() });
        }
        installed.and(paged)
    }

    /// Makes all keys impossible to be found and destroys them, but keeps what the system gave for them. False: a thread was
    /// in the middle of its work until the deadline, and may have one in hand; of the keys only what can be wiped under
    /// their users is gone.
    #[allow(unsafe_code)]
    pub(super) fn erase_keys(&self, keys: &mut Changing<'_>, deadline: Deadline) -> bool {
        self.turnover.purges.fetch_add(1, Ordering::AcqRel);
        epoch::up_to(keys.newest()).for_each(|epoch| keys.withdraw(epoch));
        let quiet = self.scratch.quiesce(ANY, deadline);
        if quiet {
            // SAFETY: all windows that were open when they were withdrawn have been seen to be closed.
            unsafe { keys.erase_withdrawn(self.enclave.anchor()) };
        } else {
            keys.wipe_withdrawn(self.enclave.anchor());
        }
        quiet
    }

    /// An error where there are no keys any more and will be none.
    fn check_open(&self) -> Result<(), Error> {
        self.check_alive()?;
        if self.enclave.is_closed() { Err(Error::Closed) } else { Ok(()) }
    }

    /// Why what was sealed before a purge cannot be opened.
    #[cold]
    pub(super) fn purged(&self) -> Error {
        if self.enclave.is_closed() { Error::Closed } else { Error::Purged }
    }

    /// How often all keys were purged.
    pub(super) fn purges(&self) -> u64 {
        self.turnover.purges.load(Ordering::Acquire)
    }

    /// Closes all paged secrets; those with views are wiped when these end. Says why the first that could not be wiped was
    /// not.
    fn purge_paged(&self) -> Result<(), Error> {
        if self.ledger.live()?.paged == 0 {
            return Ok(());
        }
        let mut outcome = Ok(());
        self.each_secret(|object| {
            let header = object.header();
            if let Body::Paged(_) = header.body() {
                header.gate.close();
                // Where somebody is inside, the last one out wipes it.
                outcome = outcome.and(header.try_end(None));
            }
            true
        })?;
        outcome
    }

    /// For a janitor: does what is due by age, and moves a batch. Says how soon there is more to do; `None`: not before it
    /// is woken.
    pub(crate) fn tend_keys(&self) -> Option<Duration> {
        let due = self.is_key_due() || self.turnover.unfinished.load(Ordering::Acquire);
        let free = !due || self.turn_over();
        if self.turnover.unfinished.load(Ordering::Acquire) {
            // Others, and what waits for them, should get a word in.
            return Some(if free { NAP } else { RETRY });
        }
        if self.is_key_due() {
            // It has just been refused.
            return Some(RETRY);
        }
        let age = self.settings.age_max?;
        let old = os::coarse_now().saturating_sub(self.turnover.since.load(Ordering::Relaxed));
        Some(age.saturating_sub(Duration::from_nanos(old)).max(RETRY))
    }

    /// Frees what waits for readers, if they are seen to be done by the deadline; says whether something was freed, or
    /// nothing waits.
    #[allow(unsafe_code)]
    pub(super) fn sweep_limbo(&self, deadline: Deadline) -> bool {
        let Some(retired) = self.ledger.retired() else { return true };
        let quiet = self.scratch.quiesce(ANY, deadline);
        if quiet {
            // SAFETY: seen to be done after that was asked.
            unsafe { self.ledger.sweep(None, retired) };
        }
        quiet
    }
}

#[cfg(test)]
mod tests;

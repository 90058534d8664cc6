//! The library's own locks: few, ranked, and with bounded waits.
//!
//! A thread takes locks only in rising rank. Debug builds check that; release builds rely on the waits
//! being bounded: whatever goes wrong, a call ends with [`Error::LockTimeout`] and not in a hang. No lock is
//! held while code of the user runs.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::os;

/// The order in which locks may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Rank {
    /// What a fork has to see to.
    Forks = 0,
    /// Changing a vault's keys.
    Keys = 1,
    /// Growing a vault's scratch.
    Scratch = 2,
    /// A vault's pool of pages.
    Pages = 3,
    /// A vault's account of its secrets and their ciphertext.
    Ledger = 4,
    /// The process's table of vaults.
    Registry = 5,
    /// Installing and uninstalling the coordinator of signals.
    Coordinator = 6,
    /// Changing which signals are ours.
    Signals = 7,
    /// Growing the tables of [`crate::registry`].
    Tables = 8,
}

/// The longest that any call of the library waits for an internal lock.
const LONGEST: Duration = Duration::from_secs(1);

/// How long a sleeper sleeps before it looks again: a wake can be missed, since the one who unlocks looks
/// for sleepers without a full fence.
const NAP: Duration = Duration::from_millis(1);

/// Of a lock's word: nobody has it; a guard; whoever has frozen it, without a guard.
const FREE: u32 = 0;
const TAKEN: u32 = 1;
const FROZEN: u32 = 2;

/// A lock on a value.
///
/// The word is the lock: it can be frozen over a fork, which takes no guard along. Only who has the word touches the
/// standard lock inside, by which the value is got at without unsafe code: so that is free whenever it is tried, also in a
/// child that was forked while the word was frozen.
pub(crate) struct Lock<T> {
    rank: Rank,
    word: AtomicU32,
    sleepers: AtomicU32,
    event: AtomicU32,
    value: Mutex<T>,
}

/// A lock, whatever it guards, for who forks.
pub(crate) trait Freeze: Sync {
    /// As [`Lock::freeze`].
    fn freeze(&self, patience: Duration) -> bool;
    /// As [`Lock::thaw`].
    fn thaw(&self);
    /// As [`Lock::thaw_in_child`].
    fn thaw_in_child(&self);
}

impl<T: Send> Freeze for Lock<T> {
    fn freeze(&self, patience: Duration) -> bool {
        Self::freeze(self, patience)
    }

    fn thaw(&self) {
        Self::thaw(self);
    }

    fn thaw_in_child(&self) {
        Self::thaw_in_child(self);
    }
}

/// The right to the value, until dropped.
pub(crate) struct Guard<'a, T> {
    lock: &'a Lock<T>,
    // `None` only inside drop.
    value: Option<MutexGuard<'a, T>>,
}

impl<T> Lock<T> {
    pub(crate) const fn new(rank: Rank, value: T) -> Self {
        let [word, sleepers, event] = [const { AtomicU32::new(FREE) }; 3];
        Self { rank, word, sleepers, event, value: Mutex::new(value) }
    }

    /// Takes the lock, waiting a second at most.
    #[inline]
    pub(crate) fn lock(&self) -> Result<Guard<'_, T>, Error> {
        order::check(self.rank);
        match self.attempt() {
            Some(guard) => Ok(guard),
            None => self.lock_slowly(),
        }
    }

    /// Takes the lock if it is free, and waits for nobody. For whoever must not wait: a drop, which then leaves its work to
    /// others.
    #[allow(dead_code, reason = "not in use yet")]
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        order::check(self.rank);
        self.attempt()
    }

    /// Takes the lock if it is free.
    #[inline]
    fn attempt(&self) -> Option<Guard<'_, T>> {
        if !self.turn(FREE, TAKEN) {
            return None;
        }
        let value = match self.value.try_lock() {
            Ok(value) => value,
            // Nothing under our locks is left half-done by a panic: no code that can panic runs there.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Nobody else touches it.
            Err(TryLockError::WouldBlock) => return None,
        };
        order::taken(self.rank);
        Some(Guard { lock: self, value: Some(value) })
    }

    #[inline]
    fn turn(&self, from: u32, to: u32) -> bool {
        self.word.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[cold]
    fn lock_slowly(&self) -> Result<Guard<'_, T>, Error> {
        self.wait_for(LONGEST, || self.attempt()).ok_or(Error::LockTimeout(LONGEST))
    }

    fn wait_for<R>(&self, patience: Duration, attempt: impl Fn() -> Option<R>) -> Option<R> {
        let started = Instant::now();
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let outcome = loop {
            let seen = self.event.load(Ordering::Acquire);
            let outcome = attempt();
            let waited = started.elapsed();
            if outcome.is_some() || waited >= patience {
                break outcome;
            }
            os::wait_on(&self.event, seen, Some(NAP.min(patience.saturating_sub(waited))));
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        outcome
    }

    /// Takes the lock over a fork and keeps it, without a guard, until [`Self::thaw`]; waits so long at most. False: it
    /// was not to be had, and is not frozen. Several are frozen one after the other in the order of vaults and ranks, by one
    /// thread of the process at a time, which is the caller's to see to; that order is not checked, nor that the thread
    /// has no lock.
    pub(crate) fn freeze(&self, patience: Duration) -> bool {
        let attempt = || self.turn(FREE, FROZEN).then_some(());
        attempt().or_else(|| self.wait_for(patience, attempt)).is_some()
    }

    /// Gives the lock back if it is frozen; else nothing happens. Waits for nobody. In the parent.
    pub(crate) fn thaw(&self) {
        if self.word.compare_exchange(FROZEN, FREE, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.wake();
        }
    }

    /// The same in the child, where those who slept are not.
    pub(crate) fn thaw_in_child(&self) {
        self.sleepers.store(0, Ordering::Relaxed);
        self.thaw();
    }

    #[inline]
    fn wake(&self) {
        if self.sleepers.load(Ordering::Relaxed) != 0 {
            self.event.fetch_add(1, Ordering::Release);
            os::wake_all(&self.event);
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        match &self.value {
            Some(value) => value,
            None => unreachable!("a lock guard is empty only while it is dropped"),
        }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.value {
            Some(value) => value,
            None => unreachable!("a lock guard is empty only while it is dropped"),
        }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        order::released(self.lock.rank);
        self.value = None;
        self.lock.word.store(FREE, Ordering::Release);
        self.lock.wake();
    }
}

/// Which ranks the thread holds, in debug builds.
#[cfg(debug_assertions)]
mod order {
    use super::Rank;
    use std::cell::Cell;

    thread_local!(static HELD: Cell<u16> = const { Cell::new(0) });

    pub(super) fn check(rank: Rank) {
        let held = HELD.try_with(Cell::get).unwrap_or(0);
        debug_assert!(held >> (rank as u8) == 0, "lock order: {rank:?} wanted while holding {held:#b}");
    }

    pub(super) fn taken(rank: Rank) {
        let _ = HELD.try_with(|held| held.set(held.get() | 1 << (rank as u8)));
    }

    pub(super) fn released(rank: Rank) {
        let _ = HELD.try_with(|held| held.set(held.get() & !(1 << (rank as u8))));
    }
}

#[cfg(not(debug_assertions))]
mod order {
    use super::Rank;

    #[inline]
    pub(super) const fn check(_: Rank) {}
    #[inline]
    pub(super) const fn taken(_: Rank) {}
    #[inline]
    pub(super) const fn released(_: Rank) {}
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_frozen_lock_is_had_by_nobody_until_it_is_thawed() {
        let lock = Lock::new(Rank::Ledger, 7);
        // What is not frozen does not thaw.
        let guard = lock.lock().unwrap();
        lock.thaw();
        assert!(!lock.freeze(Duration::from_millis(5)), "taken");
        drop(guard);
        assert!(lock.freeze(Duration::ZERO));
        assert!(lock.try_lock().is_none() && !lock.freeze(Duration::ZERO));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| lock.lock().map(|guard| *guard));
            std::thread::sleep(Duration::from_millis(20));
            lock.thaw();
            assert_eq!(waits.join().unwrap(), Ok(7));
        });
        assert!(lock.freeze(Duration::ZERO));
        let started = Instant::now();
        assert_eq!(lock.lock().err(), Some(Error::LockTimeout(LONGEST)));
        assert!(started.elapsed() >= LONGEST);
        lock.thaw_in_child();
        assert_eq!(lock.try_lock().map(|guard| *guard), Some(7));
    }
}

//! The library's own locks: few, ranked, and with bounded waits.
//!
//! A thread takes locks only in rising rank. Debug builds check that; release builds rely on the waits
//! being bounded: whatever goes wrong, a call ends with [`Error::LockTimeout`] and not in a hang. No lock is
//! held while code of the user runs.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use crate::counters::{self, Count};
use crate::error::Error;
use crate::os;

/// The order in which locks may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Rank {
    /// Changing a vault's keys.
    Keys = 0,
    /// Growing a vault's scratch.
    Scratch = 1,
    /// A vault's pool of pages.
    Pages = 2,
    /// A vault's account of its secrets and their ciphertext.
    Ledger = 3,
    /// The process's table of vaults.
    Registry = 4,
    /// Installing and uninstalling the coordinator of signals.
    Coordinator = 5,
    /// Changing which signals are ours.
    Signals = 6,
}

/// The longest that any call of the library waits for an internal lock.
const LONGEST: Duration = Duration::from_secs(1);

/// How long a sleeper sleeps before it looks again: a wake can be missed, since the one who unlocks looks
/// for sleepers without a full fence.
const NAP: Duration = Duration::from_millis(1);

/// A lock on a value. The standard lock inside is only ever tried; what it lacks is the deadline.
pub(crate) struct Lock<T> {
    rank: Rank,
    sleepers: AtomicU32,
    event: AtomicU32,
    value: Mutex<T>,
}

/// The right to the value, until dropped.
pub(crate) struct Guard<'a, T> {
    lock: &'a Lock<T>,
    // `None` only inside drop.
    value: Option<MutexGuard<'a, T>>,
}

impl<T> Lock<T> {
    pub(crate) const fn new(rank: Rank, value: T) -> Self {
        Self { rank, sleepers: AtomicU32::new(0), event: AtomicU32::new(0), value: Mutex::new(value) }
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

    /// Takes the lock if it is free.
    #[inline]
    fn attempt(&self) -> Option<Guard<'_, T>> {
        let value = match self.value.try_lock() {
            Ok(value) => value,
            // Nothing under our locks is left half-done by a panic: no code that can panic runs there.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        order::taken(self.rank);
        Some(Guard { lock: self, value: Some(value) })
    }

    #[cold]
    fn lock_slowly(&self) -> Result<Guard<'_, T>, Error> {
        let started = Instant::now();
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let outcome = loop {
            let seen = self.event.load(Ordering::Acquire);
            if let Some(guard) = self.attempt() {
                break Ok(guard);
            }
            if started.elapsed() >= LONGEST {
                counters::add(Count::LockTimeouts);
                break Err(Error::LockTimeout(LONGEST));
            }
            os::wait_on(&self.event, seen, Some(NAP));
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        outcome
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
        if self.lock.sleepers.load(Ordering::Relaxed) != 0 {
            self.lock.event.fetch_add(1, Ordering::Release);
            os::wake_all(&self.lock.event);
        }
    }
}

/// Which ranks the thread holds, in debug builds.
#[cfg(debug_assertions)]
mod order {
    use super::Rank;
    use std::cell::Cell;

    thread_local!(static HELD: Cell<u8> = const { Cell::new(0) });

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

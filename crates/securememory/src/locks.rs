//! The library's own locks: few, ranked, and with bounded waits.
//!
//! A thread waits for locks only in rising rank. Debug builds check that; release builds rely on the waits
//! being bounded: whatever goes wrong, a call ends with [`Error::LockTimeout`] and not in a hang. No lock is
//! held while code of the user runs, which includes whoever receives an event of `tracing`: whoever calls such code says
//! so by [`user_code`]. A drop waits for no lock: it tries ([`Lock::try_lock`]), and where it fails it leaves its work to
//! whoever takes the lock next.

#[cfg(debug_assertions)]
mod order;
#[cfg(not(debug_assertions))]
#[path = "locks/unchecked.rs"]
mod order;

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::TryLockError;
use std::sync::atomic::{AtomicU32, Ordering};
#[cfg(not(tracing_mutex))]
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::counters::{self, Count};
// A second opinion on the order: see `.ci/run`.
#[cfg(tracing_mutex)]
use tracing_mutex::stdsync::tracing::{Mutex, MutexGuard};

use crate::error::Error;
use crate::os;

pub(crate) use order::user_code;

/// The locks that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rank {
    /// Changing a vault's keys.
    Keys,
    /// Growing a vault's scratch.
    Scratch,
    /// A vault's pool of pages.
    Pages,
    /// A vault's account of its secrets and their ciphertext.
    Ledger,
    /// The process's table of vaults.
    Registry,
    /// Installing and uninstalling the coordinator of signals.
    Coordinator,
    /// Changing which signals are ours.
    Signals,
}

impl Rank {
    /// The order in which locks may be taken; of each level a thread has one at most.
    #[cfg(debug_assertions)]
    const fn level(self) -> u8 {
        match self {
            Self::Keys | Self::Coordinator => 1,
            Self::Scratch | Self::Pages | Self::Ledger | Self::Registry | Self::Signals => 2,
        }
    }
}

/// The longest that any call of the library waits for an internal lock.
const LONGEST: Duration = Duration::from_secs(1);

thread_local! {
    // Without a destructor: usable at any time.
    static HASTY: Cell<bool> = const { Cell::new(false) };
}

/// Does something in which the thread waits for no lock: what is not free at once is [`Error::LockTimeout`]. For drops.
pub(crate) fn without_waiting<R>(act: impl FnOnce() -> R) -> R {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            let _ = HASTY.try_with(|hasty| hasty.set(self.0));
        }
    }
    // Where it cannot be noted any more, because the thread is ending, waits are bounded all the same.
    let _before = Before(HASTY.try_with(|hasty| hasty.replace(true)).unwrap_or_default());
    act()
}

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
    #[cfg_attr(not(debug_assertions), allow(dead_code, reason = "only checks ask for it"))]
    rank: Rank,
    word: AtomicU32,
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
        let [word, sleepers, event] = [const { AtomicU32::new(FREE) }; 3];
        Self { rank, word, sleepers, event, value: Mutex::new(value) }
    }

    /// Takes the lock, waiting a second at most.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub(crate) fn lock(&self) -> Result<Guard<'_, T>, Error> {
        let site = order::here();
        order::check(self.address(), self.rank, site);
        match self.attempt(site) {
            Some(guard) => Ok(guard),
            None => self.lock_slowly(site),
        }
    }

    /// Takes the lock if it is free, and waits for nobody: so in any order. For whoever must not wait: a drop, which else
    /// leaves its work to others.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.attempt(order::here())
    }

    /// The value, of whoever has the lock for himself.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        match self.value.get_mut() {
            Ok(value) => value,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    /// Names it, in debug builds.
    #[inline]
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Takes the lock if it is free.
    #[inline]
    fn attempt(&self, site: order::Site) -> Option<Guard<'_, T>> {
        if !self.turn(FREE, TAKEN) {
            return None;
        }
        let value = match self.value.try_lock() {
            Ok(value) => value,
            // Nothing under our locks is left half-done by a panic: no code that can panic runs there.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Nobody else touches it.
            Err(TryLockError::WouldBlock) => {
                self.word.store(FREE, Ordering::Release);
                return None;
            }
        };
        order::taken(self.address(), self.rank, site);
        Some(Guard { lock: self, value: Some(value) })
    }

    #[inline]
    fn turn(&self, from: u32, to: u32) -> bool {
        self.word.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[cold]
    fn lock_slowly(&self, site: order::Site) -> Result<Guard<'_, T>, Error> {
        if HASTY.try_with(Cell::get).unwrap_or_default() {
            return Err(Error::LockTimeout(Duration::ZERO));
        }
        self.wait_for(LONGEST, || self.attempt(site)).ok_or_else(|| {
            counters::add(Count::LockTimeouts);
            Error::LockTimeout(LONGEST)
        })
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
    #[allow(dead_code, reason = "for forks")]
    pub(crate) fn freeze(&self, patience: Duration) -> bool {
        let attempt = || self.turn(FREE, FROZEN).then_some(());
        attempt().or_else(|| self.wait_for(patience, attempt)).is_some()
    }

    /// Gives the lock back if it is frozen; else nothing happens. Waits for nobody. In the parent.
    #[allow(dead_code, reason = "for forks")]
    pub(crate) fn thaw(&self) {
        if self.word.compare_exchange(FROZEN, FREE, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.wake();
        }
    }

    /// The same in the child, where those who slept are not.
    #[allow(dead_code, reason = "for forks")]
    pub(crate) fn thaw_in_child(&self) {
        self.sleepers.store(0, Ordering::Relaxed);
        self.thaw();
    }

    /// Has the lock be somebody else's for a while.
    #[cfg(feature = "testing")]
    pub(crate) fn set_frozen(&self, frozen: bool) -> bool {
        if frozen {
            return self.freeze(LONGEST);
        }
        self.thaw();
        true
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
        let released = order::released(self.lock.address());
        self.value = None;
        self.lock.word.store(FREE, Ordering::Release);
        self.lock.wake();
        order::judge(released);
    }
}

#[cfg(test)]
mod tests;

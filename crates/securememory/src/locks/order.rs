//! What debug builds check of locks, and report with the places in the source that are concerned.
//!
//! A thread notes which locks it has, and where it took them. Nothing of this is in release builds.
//!
//! **How long is too long.** [`TOO_LONG`] on the wall clock: ten times as long as anybody waits for a lock, so that it is a
//! defect whatever the cause. A shorter bound tells of busy machines: on one, to read the kernel's listing of mappings took
//! a status two seconds. The time that the thread has run itself would be the better measure, but to ask for it is a system
//! call each time that a lock is taken, which a filter of the program's may forbid.

use std::cell::Cell;
use std::panic::Location;
use std::time::{Duration, Instant};

use super::{LONGEST, Rank};

/// Where a lock is taken.
pub(super) type Site = &'static Location<'static>;

const TOO_LONG: Duration = LONGEST.saturating_mul(10);

/// Locks that a thread may have at once; what exceeds them is not checked.
const PLACES: usize = 8;

/// A lock that the thread has.
#[derive(Clone, Copy)]
pub(super) struct Held {
    lock: usize,
    rank: Rank,
    site: Site,
    since: Instant,
}

thread_local! {
    // Without a destructor: usable at any time.
    static HELD: [Cell<Option<Held>>; PLACES] = const { [const { Cell::new(None) }; PLACES] };
}

#[cfg(test)]
thread_local! {
    /// In its place, in tests of it.
    pub(super) static BOUND: Cell<Duration> = const { Cell::new(TOO_LONG) };
}

fn too_long() -> Duration {
    #[cfg(test)]
    return BOUND.try_with(Cell::get).unwrap_or(TOO_LONG);
    #[cfg(not(test))]
    TOO_LONG
}

fn held<R>(look: impl FnOnce(&[Cell<Option<Held>>]) -> R) -> Option<R> {
    HELD.try_with(|held| look(held)).ok()
}

#[track_caller]
pub(super) fn here() -> Site {
    Location::caller()
}

/// The thread is going to wait for a lock.
pub(super) fn check(lock: usize, rank: Rank, site: Site) {
    let at_fault = |has: &Held| has.lock == lock || has.rank.level() >= rank.level();
    let has = held(|held| held.iter().filter_map(Cell::get).find(at_fault)).flatten();
    if let Some(has) = has {
        let (what, old) = (has.rank, has.site);
        report(&if has.lock == lock {
            format!(
                "self-deadlock: the lock {rank:?} is wanted at {site} by the thread that has it since {old}"
            )
        } else if has.rank == rank {
            format!(
                "lock order: a second lock {rank:?} is wanted at {site} by the thread that has one since {old}"
            )
        } else {
            format!(
                "lock order: the lock {rank:?} is wanted at {site} by the thread that has {what:?} since {old}"
            )
        });
    }
}

pub(super) fn taken(lock: usize, rank: Rank, site: Site) {
    let new = Held { lock, rank, site, since: Instant::now() };
    held(|held| held.iter().find(|place| place.get().is_none()).map(|place| place.set(Some(new))));
}

/// The thread is giving a lock back. What it says is to be judged when that is done.
pub(super) fn released(lock: usize) -> Option<Held> {
    let is_it = |place: &&Cell<Option<Held>>| place.get().is_some_and(|has| has.lock == lock);
    held(|held| held.iter().find(is_it).and_then(Cell::take)).flatten()
}

/// It may be the machine's fault, so only tests fail.
pub(super) fn judge(released: Option<Held>) {
    if let Some(Held { rank, site, since, .. }) = released
        // Kept over forks, which take as long as they take.
        && !matches!(rank, Rank::Forks | Rank::Registry)
        && since.elapsed() > too_long()
    {
        let time = since.elapsed();
        let message =
            format!("held too long: the lock {rank:?}, taken at {site}, was given back after {time:?}");
        if cfg!(any(test, feature = "testing")) {
            report(&message);
        } else {
            tracing::warn!("{message}");
        }
    }
}

/// Code of the user's is going to run.
#[track_caller]
pub(crate) fn user_code() {
    let site = here();
    if let Some(Held { rank, site: old, .. }) = held(|held| held.iter().find_map(Cell::get)).flatten() {
        report(&format!("code of the user's runs at {site} while the lock {rank:?} is held, taken at {old}"));
    }
}

/// A mistake of the library's own. Nothing is half-done: no lock has been taken, or it has been given back.
#[allow(clippy::panic, reason = "a check in debug builds")]
fn report(message: &str) {
    if std::thread::panicking() {
        // A second panic would end the process.
        eprintln!("securememory: {message}");
    } else {
        panic!("securememory: {message}");
    }
}

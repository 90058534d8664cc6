//! Makes system calls of the library fail on purpose, in tests (feature `testing`).
//!
//! [`fail`] sets a plan for one call; dropping the [`Injection`] that it returns ends the plan. A plan
//! concerns the calling thread only, so that tests can run in parallel; [`Injection::all_threads`] widens it.
//! Counting begins with the plan. Several plans may live at once; of those that want the same call to fail,
//! the one in the lower place of the table wins.
//!
//! The check runs also in signal handlers: the table is plain atomics without a lock.

// Reason: a symbol with a fixed name, so that its absence can be checked.
#![allow(unsafe_code)]

use super::{Call, CallError, CallResult};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Tells that a binary has the injector: a release build must not have this symbol.
// SAFETY: the name is of this library alone; two copies of it in one program with the test feature are a link
// error.
#[used]
#[unsafe(no_mangle)]
pub static SECUREMEMORY_FAULT_INJECTOR: u8 = 1;

/// What is to happen to a call.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The `n`-th call from now on fails, the first being 1; the others are made.
    Nth {
        /// Which one.
        n: u64,
        /// With what error number.
        errno: i32,
    },
    /// The `n`-th call and all that follow fail.
    FromNth {
        /// The first one that fails, counted from 1.
        n: u64,
        /// With what error number.
        errno: i32,
    },
    /// Every call fails.
    Always {
        /// With what error number.
        errno: i32,
    },
    /// The `n`-th call moves half the bytes asked for. Calls that move no bytes fail with error number zero.
    ShortNth {
        /// Which one, counted from 1.
        n: u64,
    },
    /// Every call is made, but only after a pause: this widens the windows in which threads can disturb each
    /// other.
    DelayEach {
        /// The pause.
        duration: Duration,
    },
}

const NTH: u32 = 0;
const FROM_NTH: u32 = 1;
const SHORT: u32 = 2;
const DELAY: u32 = 3;

/// States of a slot, in the two low bits of its word; the rest counts its uses, so that a check can tell
/// whether the plan that it has read is still the same one.
const FREE: u32 = 0;
const FILLING: u32 = 1;
const LIVE: u32 = 2;
const STATE: u32 = 3;
const USE: u32 = 4;

struct Slot {
    word: AtomicU32,
    call: AtomicU32,
    kind: AtomicU32,
    errno: AtomicI32,
    /// Which call, or the nanoseconds of a pause.
    number: AtomicU64,
    /// The thread concerned; zero: all.
    thread: AtomicU64,
    /// The thread that has set it.
    author: AtomicU64,
    /// The call's name, for who tells of plans that were left.
    name: Mutex<&'static str>,
    /// Later plans have higher ones.
    order: AtomicU64,
    calls: AtomicU64,
}

impl Slot {
    const fn new() -> Self {
        Self {
            word: AtomicU32::new(FREE),
            call: AtomicU32::new(0),
            kind: AtomicU32::new(0),
            errno: AtomicI32::new(0),
            number: AtomicU64::new(0),
            thread: AtomicU64::new(0),
            author: AtomicU64::new(0),
            name: Mutex::new(""),
            order: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        }
    }

    /// Is there a plan for this call and thread? Then the word that it was read under.
    fn concerns(&self, call: Call, thread: u64) -> Option<u32> {
        let word = self.word.load(Ordering::Acquire);
        let of = self.thread.load(Ordering::Acquire);
        let concerned = word & STATE == LIVE
            && self.call.load(Ordering::Acquire) == call as u32
            && (of == 0 || of == thread);
        concerned.then_some(word)
    }

    /// Counts a call, and says what is to happen to it.
    fn apply(&self, call: Call, word: u32) -> CallResult<()> {
        let kind = self.kind.load(Ordering::Acquire);
        let errno = self.errno.load(Ordering::Acquire);
        let number = self.number.load(Ordering::Acquire);
        if self.word.load(Ordering::Acquire) != word {
            return Ok(());
        }
        let count = self.calls.fetch_add(1, Ordering::AcqRel) + 1;
        match kind {
            NTH if count == number => Err(CallError::new(call, errno)),
            FROM_NTH if count >= number => Err(CallError::new(call, errno)),
            SHORT if count == number => Err(CallError::short(call)),
            DELAY => {
                pause(Duration::from_nanos(number));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Pauses shorter than this are spent spinning: a sleep takes 50 microseconds more than was asked for.
const SPIN: Duration = Duration::from_micros(100);

fn pause(duration: Duration) {
    if duration >= SPIN {
        return std::thread::sleep(duration);
    }
    let started = Instant::now();
    while started.elapsed() < duration {
        std::hint::spin_loop();
    }
}

/// How many plans can live at once. [`fail`] waits for a place beyond that.
const SLOTS: usize = 128;

static TABLE: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];
/// Plans that live: what a call looks at when there is none.
static PLANS: AtomicU32 = AtomicU32::new(0);
static ORDER: AtomicU64 = AtomicU64::new(0);

/// A plan in force; it ends with this value.
#[derive(Debug)]
#[must_use = "the plan ends when this is dropped"]
pub struct Injection {
    place: usize,
}

/// Sets a plan for a call, for the calling thread.
pub fn fail(call: Call, plan: Plan) -> Injection {
    let place = take_place();
    let slot = &TABLE[place];
    let (kind, number, errno) = match plan {
        Plan::Nth { n, errno } => (NTH, n, errno),
        Plan::FromNth { n, errno } => (FROM_NTH, n, errno),
        Plan::Always { errno } => (FROM_NTH, 0, errno),
        Plan::ShortNth { n } => (SHORT, n, 0),
        Plan::DelayEach { duration } => (DELAY, duration.as_nanos().try_into().unwrap_or(u64::MAX), 0),
    };
    slot.call.store(call as u32, Ordering::Release);
    slot.kind.store(kind, Ordering::Release);
    slot.number.store(number, Ordering::Release);
    slot.errno.store(errno, Ordering::Release);
    slot.thread.store(super::thread_id(), Ordering::Release);
    slot.author.store(super::thread_id(), Ordering::Release);
    *slot.name.lock().unwrap_or_else(PoisonError::into_inner) = call.name();
    slot.order.store(ORDER.fetch_add(1, Ordering::AcqRel) + 1, Ordering::Release);
    slot.calls.store(0, Ordering::Release);
    slot.word.fetch_add(LIVE - FILLING, Ordering::AcqRel);
    PLANS.fetch_add(1, Ordering::AcqRel);
    Injection { place }
}

fn take_place() -> usize {
    loop {
        for (place, slot) in TABLE.iter().enumerate() {
            let word = slot.word.load(Ordering::Acquire);
            let taken = word.wrapping_add(USE) & !STATE | FILLING;
            if word & STATE == FREE
                && slot.word.compare_exchange(word, taken, Ordering::AcqRel, Ordering::Acquire).is_ok()
            {
                return place;
            }
        }
        std::thread::yield_now();
    }
}

impl Injection {
    /// Has the plan concern all threads of the process.
    pub fn all_threads(self) -> Self {
        TABLE[self.place].thread.store(0, Ordering::Release);
        self
    }

    /// How often the call was made since the plan was set, the failed ones included.
    #[must_use]
    pub fn calls(&self) -> u64 {
        TABLE[self.place].calls.load(Ordering::Acquire)
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        PLANS.fetch_sub(1, Ordering::AcqRel);
        TABLE[self.place].word.fetch_sub(LIVE - FREE, Ordering::AcqRel);
    }
}

/// What is told of every call, while there is somebody who wants to know.
static OBSERVER: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Has `see` called before every call that the process makes from now on, whether it is to fail or not; for ever. It may run
/// in a signal handler, and while the library holds locks.
pub fn observe(see: fn(Call)) {
    if OBSERVER.swap(see as *mut (), Ordering::AcqRel).is_null() {
        // So that the plans are looked at.
        PLANS.fetch_add(1, Ordering::AcqRel);
    }
}

/// How often a call was made since the newest plan that concerns it and the calling thread was set; zero
/// without one.
#[must_use]
pub fn calls(call: Call) -> u64 {
    let thread = super::thread_id();
    TABLE
        .iter()
        .filter(|slot| slot.concerns(call, thread).is_some())
        .max_by_key(|slot| slot.order.load(Ordering::Acquire))
        .map_or(0, |slot| slot.calls.load(Ordering::Acquire))
}

/// How many plans were ever set: for [`left_since`].
pub(crate) fn set_so_far() -> u64 {
    ORDER.load(Ordering::Acquire)
}

/// The calls of plans that the calling thread has set since then, and that are in force still.
pub(crate) fn left_since(order: u64) -> Vec<&'static str> {
    let thread = super::thread_id();
    let left = |slot: &&Slot| {
        slot.word.load(Ordering::Acquire) & STATE == LIVE
            && slot.author.load(Ordering::Acquire) == thread
            && slot.order.load(Ordering::Acquire) > order
    };
    let name = |slot: &Slot| *slot.name.lock().unwrap_or_else(PoisonError::into_inner);
    TABLE.iter().filter(left).map(name).collect()
}

/// Asks whether a call is to fail. Every plan that concerns the call counts it.
#[inline]
pub(super) fn check(call: Call) -> CallResult<()> {
    if PLANS.load(Ordering::Acquire) == 0 { Ok(()) } else { check_plans(call) }
}

#[cold]
fn check_plans(call: Call) -> CallResult<()> {
    let observer = OBSERVER.load(Ordering::Acquire);
    if !observer.is_null() {
        // SAFETY: not null, so it is what `observe` was given.
        unsafe { std::mem::transmute::<*mut (), fn(Call)>(observer)(call) };
    }
    let thread = super::thread_id();
    let mut outcome = Ok(());
    for slot in &TABLE {
        if let Some(word) = slot.concerns(call, thread) {
            outcome = outcome.and(slot.apply(call, word));
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::os::{self, errno};

    fn map() -> Result<(), i32> {
        let len = os::page_size();
        let page = os::map(len).map_err(|error| error.errno)?;
        // SAFETY: just mapped, without references.
        unsafe { os::unmap(page, len).map_err(|error| error.errno) }
    }

    #[test]
    fn the_nth_call_of_this_thread_fails_and_no_other() {
        let plan = fail(Call::Mmap, Plan::Nth { n: 2, errno: errno::ENOMEM });
        let elsewhere = std::thread::spawn(|| [map(), map(), map()]).join().unwrap();
        assert_eq!(elsewhere, [Ok(()); 3]);
        assert_eq!([map(), map(), map()], [Ok(()), Err(errno::ENOMEM), Ok(())]);
        assert_eq!((plan.calls(), calls(Call::Mmap), calls(Call::Munmap)), (3, 3, 0));
        drop(plan);
        assert_eq!((map(), calls(Call::Mmap)), (Ok(()), 0));
    }

    #[test]
    fn a_plan_can_concern_all_threads() {
        // A call that no other test makes, since they would suffer.
        let plan = fail(Call::Sysconf, Plan::FromNth { n: 2, errno: 1 }).all_threads();
        let check = || check(Call::Sysconf).is_ok();
        assert!(check());
        assert_eq!(std::thread::spawn(move || [check(), check()]).join().unwrap(), [false; 2]);
        assert_eq!(plan.calls(), 3);
    }

    #[test]
    fn plans_for_one_call_add_up_and_the_newest_is_counted() {
        let _first = fail(Call::Getrlimit, Plan::Nth { n: 2, errno: 1 });
        let check = || check(Call::Getrlimit).map_err(|error| error.errno);
        assert_eq!(check(), Ok(()));
        let _second = fail(Call::Getrlimit, Plan::Nth { n: 2, errno: 2 });
        assert_eq!([check(), check()], [Err(1), Err(2)]);
        assert_eq!(calls(Call::Getrlimit), 2);
    }

    #[test]
    fn a_short_getrandom_is_continued() {
        let plan = fail(Call::Getrandom, Plan::ShortNth { n: 1 });
        let mut bytes = [0_u8; 64];
        // SAFETY: within the array.
        unsafe { os::random(bytes.as_mut_ptr(), bytes.len()).unwrap() };
        assert!(bytes[48..].iter().any(|&byte| byte != 0));
        assert_eq!(plan.calls(), 1);
        let _refused = fail(Call::Getrandom, Plan::Always { errno: errno::ENOSYS });
        // SAFETY: within the array.
        let refused = unsafe { os::random(bytes.as_mut_ptr(), bytes.len()) };
        assert_eq!(refused, Err(CallError::new(Call::Getrandom, errno::ENOSYS)));
    }

    #[test]
    fn a_delay_delays() {
        let _plan = fail(Call::Mmap, Plan::DelayEach { duration: Duration::from_millis(20) });
        let start = Instant::now();
        assert_eq!(map(), Ok(()));
        assert!(start.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn a_short_delay_is_not_a_sleep() {
        let _plan = fail(Call::Mmap, Plan::DelayEach { duration: Duration::from_micros(5) });
        let fastest = (0..100)
            .map(|_| {
                let start = Instant::now();
                assert_eq!(check(Call::Mmap), Ok(()));
                start.elapsed()
            })
            .min()
            .unwrap();
        assert!((Duration::from_micros(5)..Duration::from_micros(50)).contains(&fastest), "{fastest:?}");
    }

    #[test]
    fn places_are_used_again() {
        for _ in 0..3 * SLOTS {
            drop(fail(Call::Sysconf, Plan::Always { errno: 1 }));
        }
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 1..200 {
                        let plan = fail(Call::Madvise, Plan::Nth { n: 1, errno: n });
                        assert_eq!(check(Call::Madvise), Err(CallError::new(Call::Madvise, n)));
                        assert_eq!((check(Call::Madvise), plan.calls()), (Ok(()), 2));
                    }
                });
            }
        });
    }
}

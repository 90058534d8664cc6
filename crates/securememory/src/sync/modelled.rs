//! Atomics for the models: loom's, and on demand broken ones, so that a model can be seen to fail.
//!
//! loom takes a sequentially consistent access for acquire and release, and knows sequentially consistent fences;
//! see [`total_order`]. A relaxed load may see any value that the memory model allows.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use loom::sync::atomic as checked;
pub(crate) use loom::thread::yield_now;
// A spin is a wait for another thread, which the checker has to be told.
pub(crate) use loom::thread::yield_now as spin_loop;

use crate::gate::word::{SEALING, WAITERS};

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// A reader of pages looks at the word first and adds itself then, in two steps.
    LooksBeforeAdding,
    /// The pages are closed without the state SEALING.
    NoSealing,
    /// The open flag is cleared when SEALING has been.
    FlagAfterSealing,
    /// Who seals looks for newcomers and ends SEALING in two steps.
    LeavesInTwoSteps,
    /// Changes of the words order nothing else.
    Unordered,
    /// Sign-in and look have no total order.
    NoTotalOrder,
    /// The id in a slot is written and read without release and acquire.
    PlainId,
    /// So are the states of slots.
    PlainSlots,
    /// Who changes the word wakes nobody.
    NobodyWakes,
    /// A sleeper looks before it says that it sleeps, and not after.
    NoSecondLook,
    /// The event word is not counted up.
    NoEvent,
    /// WAITERS is cleared after the event word was counted up.
    ClearsLate,
}

thread_local! {
    // All threads of a model run on the one thread of their test.
    static FLAW: Cell<Option<Flaw>> = const { Cell::new(None) };
    static PUT_OFF: Cell<Option<Box<dyn FnOnce()>>> = const { Cell::new(None) };
    /// Who sleeps on the one event word.
    static SLEEPERS: RefCell<Vec<loom::thread::Thread>> = const { RefCell::new(Vec::new()) };
}

/// Begins an execution of a model, in which this is broken.
pub(crate) fn begin(flaw: Option<Flaw>) {
    FLAW.set(flaw);
    PUT_OFF.set(None);
    SLEEPERS.take();
}

fn has(flaw: Flaw) -> bool {
    FLAW.get() == Some(flaw)
}

fn order(order: Ordering) -> Ordering {
    if has(Flaw::Unordered) { Ordering::Relaxed } else { order }
}

/// See the form for users in `sync`.
pub(crate) fn total_order() {
    if !has(Flaw::NoTotalOrder) {
        checked::fence(Ordering::SeqCst);
    }
}

#[derive(Debug)]
pub(crate) struct AtomicU64(Arc<checked::AtomicU64>);

impl Default for AtomicU64 {
    fn default() -> Self {
        Self::new(0)
    }
}

impl AtomicU64 {
    pub(crate) fn new(value: u64) -> Self {
        Self(Arc::new(checked::AtomicU64::new(value)))
    }

    pub(crate) fn load(&self, how: Ordering) -> u64 {
        self.0.load(order(if has(Flaw::PlainId) { Ordering::Relaxed } else { how }))
    }

    pub(crate) fn store(&self, value: u64, how: Ordering) {
        self.0.store(value, order(if has(Flaw::PlainId) { Ordering::Relaxed } else { how }));
    }

    pub(crate) fn fetch_add(&self, value: u64, how: Ordering) -> u64 {
        if has(Flaw::LooksBeforeAdding) {
            let before = self.0.load(Ordering::Acquire);
            self.0.fetch_add(value, how);
            return before;
        }
        self.0.fetch_add(value, order(how))
    }

    pub(crate) fn fetch_sub(&self, value: u64, how: Ordering) -> u64 {
        self.0.fetch_sub(value, order(how))
    }

    pub(crate) fn fetch_or(&self, value: u64, how: Ordering) -> u64 {
        if has(Flaw::NoSecondLook) && value == WAITERS {
            let before = self.0.load(Ordering::Acquire);
            self.0.fetch_or(value, how);
            return before;
        }
        self.0.fetch_or(value, order(how))
    }

    pub(crate) fn fetch_and(&self, value: u64, how: Ordering) -> u64 {
        if has(Flaw::ClearsLate) && value == !WAITERS {
            let word = Arc::clone(&self.0);
            PUT_OFF.set(Some(Box::new(move || _ = word.fetch_and(value, how))));
            return 0;
        }
        // Taken before the operation, in which other threads may come to run.
        let put_off = PUT_OFF.take();
        let before = self.0.fetch_and(value, order(how));
        if let Some(late) = put_off {
            late();
        }
        before
    }

    pub(crate) fn compare_exchange_weak(
        &self,
        now: u64,
        next: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        if has(Flaw::LeavesInTwoSteps) && now & SEALING != 0 && next & SEALING == 0 {
            return Ok(self.0.fetch_and(!SEALING, success));
        }
        let next = if has(Flaw::NoSealing) { next & !SEALING } else { next };
        self.0.compare_exchange(now, next, order(success), order(failure))
    }
}

#[derive(Debug)]
pub(crate) struct AtomicBool(Arc<checked::AtomicBool>);

impl AtomicBool {
    pub(crate) fn new(value: bool) -> Self {
        Self(Arc::new(checked::AtomicBool::new(value)))
    }

    pub(crate) fn load(&self, how: Ordering) -> bool {
        self.0.load(order(how))
    }

    pub(crate) fn store(&self, value: bool, how: Ordering) {
        if has(Flaw::FlagAfterSealing) && !value {
            let flag = Arc::clone(&self.0);
            PUT_OFF.set(Some(Box::new(move || flag.store(false, how))));
        } else {
            self.0.store(value, order(how));
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct AtomicU32(checked::AtomicU32);

impl AtomicU32 {
    pub(crate) fn new(value: u32) -> Self {
        Self(checked::AtomicU32::new(value))
    }

    pub(crate) fn load(&self, how: Ordering) -> u32 {
        self.0.load(if has(Flaw::PlainSlots) { Ordering::Relaxed } else { how })
    }

    pub(crate) fn store(&self, value: u32, how: Ordering) {
        self.0.store(value, if has(Flaw::PlainSlots) { Ordering::Relaxed } else { how });
    }

    pub(crate) fn fetch_add(&self, value: u32, how: Ordering) -> u32 {
        let put_off = PUT_OFF.take();
        let before = self.0.fetch_add(if has(Flaw::NoEvent) { 0 } else { value }, how);
        if let Some(late) = put_off {
            late();
        }
        before
    }

    pub(crate) fn compare_exchange(
        &self,
        now: u32,
        next: u32,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u32, u32> {
        self.0.compare_exchange(now, next, success, failure)
    }

    pub(crate) fn compare_exchange_weak(
        &self,
        now: u32,
        next: u32,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u32, u32> {
        self.0.compare_exchange(now, next, success, failure)
    }

    pub(crate) fn fetch_update(
        &self,
        set: Ordering,
        fetch: Ordering,
        f: impl FnMut(u32) -> Option<u32>,
    ) -> Result<u32, u32> {
        self.0.fetch_update(set, fetch, f)
    }
}

#[derive(Debug)]
pub(crate) struct AtomicPtr<T>(checked::AtomicPtr<T>);

impl<T> AtomicPtr<T> {
    pub(crate) fn new(value: *mut T) -> Self {
        Self(checked::AtomicPtr::new(value))
    }

    pub(crate) fn load(&self, how: Ordering) -> *mut T {
        self.0.load(how)
    }

    pub(crate) fn swap(&self, value: *mut T, how: Ordering) -> *mut T {
        self.0.swap(value, how)
    }

    pub(crate) fn compare_exchange(
        &self,
        current: *mut T,
        new: *mut T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<*mut T, *mut T> {
        self.0.compare_exchange(current, new, success, failure)
    }
}

loom::lazy_static! {
    /// One event word for all state words, so that a wake may be meant for another.
    static ref EVENT: AtomicU32 = AtomicU32::new(0);
}

/// The event word of a state word.
pub(crate) fn event_of(_: &AtomicU64) -> &'static AtomicU32 {
    &EVENT
}

/// Sleeps if the word is as expected. No time passes in a model, so a wake that is lost is a sleep for ever, which the
/// checker reports as a deadlock.
pub(crate) fn wait_on(word: &AtomicU32, expected: u32, _timeout: Option<Duration>) {
    // The newest value, as the kernel sees it; looking and lining up are one step, as they are under its lock.
    if word.0.fetch_add(0, Ordering::Relaxed) == expected {
        SLEEPERS.with_borrow_mut(|sleepers| sleepers.push(loom::thread::current()));
        loom::thread::park();
    }
}

pub(crate) fn wake_all(_: &AtomicU32) {
    if !has(Flaw::NobodyWakes) {
        SLEEPERS.take().into_iter().for_each(|sleeper| sleeper.unpark());
    }
}

/// A sleep that time ends.
pub(crate) fn doze(_: &AtomicU32, _seen: u32, _nap: Duration) {
    yield_now();
}

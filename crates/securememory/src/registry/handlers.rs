//! Who has registered for a signal: a fixed table of plain atomics, walked by the signal handler.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::os;

/// Handlers registered at one time, of all signals together, at most.
pub(crate) const MAX: usize = 256;

/// Nobody.
pub(crate) const FREE: u32 = 0;
/// Being filled, or waiting for who is still running it.
pub(crate) const BUSY: u32 = 1;
/// Called in the signal handler.
pub(crate) const DIRECT: u32 = 2;
/// Called on a thread.
pub(crate) const DEFERRED: u32 = 3;
/// Unregistered, and still running: whoever comes back from it last clears the place.
const ABANDONED: u32 = 4;

/// A registration.
#[derive(Debug)]
pub(crate) struct Handler {
    pub(crate) state: AtomicU32,
    pub(crate) signal: AtomicU32,
    /// The lowest is asked first: the priority, and below it how early it was registered.
    pub(crate) order: AtomicU64,
    pub(crate) function: AtomicUsize,
    pub(crate) word: AtomicUsize,
    /// Threads that are running it.
    pub(crate) running: AtomicU32,
    /// Those who wait until nobody is running it.
    waiting: AtomicU32,
}

pub(crate) static HANDLERS: [Handler; MAX] = [const {
    Handler {
        state: AtomicU32::new(FREE),
        signal: AtomicU32::new(0),
        order: AtomicU64::new(0),
        function: AtomicUsize::new(0),
        word: AtomicUsize::new(0),
        running: AtomicU32::new(0),
        waiting: AtomicU32::new(0),
    }
}; MAX];

/// Handlers that were ever in use lie below it.
static USED: AtomicUsize = AtomicUsize::new(0);

/// The part of the table that was ever in use.
pub(crate) fn used() -> &'static [Handler] {
    HANDLERS.get(..USED.load(Ordering::Acquire)).unwrap_or(&HANDLERS)
}

/// Takes a free place that suits, in the state [`BUSY`]; and its index.
pub(crate) fn take(suits: impl Fn(usize) -> bool) -> Option<(usize, &'static Handler)> {
    let (index, handler) = HANDLERS.iter().enumerate().find(|&(index, handler)| {
        let taken = handler.state.load(Ordering::Relaxed) == FREE && handler.exchange(FREE, BUSY);
        if taken && !suits(index) {
            handler.free();
            return false;
        }
        taken
    })?;
    USED.fetch_max(index.saturating_add(1), Ordering::AcqRel);
    Some((index, handler))
}

/// The first handler of a signal, of this kind, after that order. (Without a count of places: what counts can overflow, and
/// that panics.)
pub(crate) fn next(signal: i32, kind: u32, after: u64) -> Option<(u64, &'static Handler)> {
    let of = |handler: &&Handler| {
        handler.state.load(Ordering::Acquire) == kind
            && handler.signal.load(Ordering::Relaxed) == signal as u32
    };
    let orders = used().iter().filter(of).map(|handler| (handler.order.load(Ordering::Relaxed), handler));
    orders.filter(|&(order, _)| order > after).min_by_key(|&(order, _)| order)
}

impl Handler {
    /// Its place in the table.
    pub(crate) fn index(&self) -> usize {
        HANDLERS.iter().position(|handler| std::ptr::eq(handler, self)).unwrap_or(MAX)
    }

    fn exchange(&self, from: u32, to: u32) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// Begins to run it; false: it has been unregistered meanwhile, and is not to be run. [`Handler::finish`] must follow
    /// in both cases. Whoever unregisters changes the state and then looks at the count; who runs it counts and then looks
    /// at the state.
    pub(crate) fn begin(&self, kind: u32, order: u64) -> bool {
        self.running.fetch_add(1, Ordering::SeqCst);
        self.state.load(Ordering::SeqCst) == kind && self.order.load(Ordering::Relaxed) == order
    }

    /// Ends what [`Handler::begin`] has begun. True: it has been abandoned, and is the caller's to clear, to be ended by
    /// [`Handler::free`].
    pub(crate) fn finish(&self) -> bool {
        let last = self.running.fetch_sub(1, Ordering::SeqCst) == 1;
        // No system call unless somebody waits.
        if self.waiting.load(Ordering::SeqCst) != 0 {
            os::wake_all(&self.running);
        }
        last && self.claim()
    }

    /// Takes an abandoned place back, if nobody is running it.
    fn claim(&self) -> bool {
        while self.running.load(Ordering::SeqCst) == 0 {
            if !self.exchange(ABANDONED, BUSY) {
                return false;
            }
            if self.running.load(Ordering::SeqCst) == 0 {
                return true;
            }
            // Somebody has begun in between; by now he may have finished, and found it busy.
            self.state.store(ABANDONED, Ordering::SeqCst);
        }
        false
    }

    /// The place can be taken again.
    pub(crate) fn free(&self) {
        self.state.store(FREE, Ordering::Release);
    }

    /// Leaves it to whoever comes back from it last. True: nobody is there, and it is the caller's to clear.
    pub(crate) fn abandon(&self) -> bool {
        self.state.store(ABANDONED, Ordering::SeqCst);
        self.claim()
    }

    /// Lets nobody begin to run it, and waits until nobody is running it. True: it is the caller's to clear, to be ended
    /// by [`Handler::free`]; false: the wait is over and it has been abandoned.
    pub(crate) fn withdraw(&self, wait: Duration) -> bool {
        self.state.store(BUSY, Ordering::SeqCst);
        let started = Instant::now();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let alone = loop {
            let running = self.running.load(Ordering::SeqCst);
            if running == 0 {
                break true;
            }
            let Some(left) = wait.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) else {
                break false;
            };
            os::wait_on(&self.running, running, Some(left));
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        alone || self.abandon()
    }

    /// Nobody is running it: in a child whose parent's thread was at it.
    #[cfg_attr(windows, allow(dead_code, reason = "there are no children"))]
    pub(crate) fn forget_runner(&self) {
        self.running.store(0, Ordering::SeqCst);
    }
}

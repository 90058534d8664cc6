//! Handlers that are closures: where they are kept, and the work of the thread that calls them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use super::{Outcome, Signal, watch};
use crate::fault::chain::Station;
use crate::fault::thread::{self, Onward};
use crate::locks;
use crate::os::signals::Origin;
use crate::os::{self};
use crate::registry::deliveries;
use crate::registry::handlers::{self, DEFERRED, Handler};

/// A delivery of a signal.
#[derive(Clone, Copy, Debug)]
pub struct Delivered {
    signal: Signal,
    origin: Option<Origin>,
}

/// Who has sent a signal.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The process.
    pub process: u32,
    /// Its real user.
    pub user: u32,
}

impl Delivered {
    /// The signal.
    #[must_use]
    pub fn signal(&self) -> Signal {
        self.signal
    }

    /// Who has sent it; `None`: the kernel has, or it is not known, since very many were waiting.
    #[must_use]
    pub fn sender(&self) -> Option<Sender> {
        let origin = self.origin.filter(Origin::is_process)?;
        Some(Sender { process: origin.process, user: origin.user })
    }

    /// The word that was sent with it. sigqueue(3)
    #[must_use]
    pub fn value(&self) -> Option<usize> {
        self.origin.filter(Origin::is_queued).map(|origin| origin.value)
    }
}

pub(super) type Closure = Box<dyn FnMut(&Delivered) -> Outcome + Send>;

/// By their place among the handlers. A lock is only ever tried: it is held by the thread while that calls the closure, by
/// whoever has taken the place, and for ever in a child that was forked at such a moment.
static CLOSURES: [Mutex<Option<Closure>>; handlers::MAX] = [const { Mutex::new(None) }; handlers::MAX];

fn at(index: usize) -> Option<MutexGuard<'static, Option<Closure>>> {
    match CLOSURES.get(index)?.try_lock() {
        Ok(closure) => Some(closure),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Can a closure be put there?
pub(super) fn is_vacant(index: usize) -> bool {
    at(index).is_some_and(|closure| closure.is_none())
}

/// Puts one there, by whoever has taken the place.
pub(super) fn put(index: usize, closure: Closure) {
    if let Some(mut place) = at(index) {
        *place = Some(closure);
    }
}

/// Clears a place that is the caller's to clear.
pub(super) fn clear(index: usize, handler: &Handler) {
    let closure = at(index).and_then(|mut place| place.take());
    handler.free();
    // What it has captured may do as it likes now.
    locks::user_code();
    if catch_unwind(AssertUnwindSafe(|| drop(closure))).is_err() {
        tracing::error!("what a signal handler had captured has panicked when it was dropped");
    }
}

/// The thread's work. Says how soon it wants to look again.
pub(super) fn work() -> Option<Duration> {
    let process = os::process_id();
    loop {
        let mut idle = true;
        for (signal, station) in thread::all_stations() {
            if station.waiting.load(Ordering::Acquire) == 0 {
                continue;
            }
            station.waiting.fetch_sub(1, Ordering::AcqRel);
            idle = false;
            deliver(signal, station, process);
            // A child that was forked by a handler.
            if os::process_id() != process {
                return None;
            }
        }
        if idle {
            return watch::look_if_due();
        }
    }
}

fn deliver(signal: i32, station: &Station, process: u32) {
    let words = deliveries::take(signal);
    let delivered = Delivered { signal: Signal::known(signal), origin: words.as_ref().map(Origin::of) };
    let mut after = 0;
    while let Some((order, handler)) = handlers::next(signal, DEFERRED, after) {
        after = order;
        let outcome = ask(handler, order, &delivered);
        if os::process_id() != process {
            return;
        }
        match outcome {
            Outcome::Handled => return thread::handled(station),
            Outcome::Terminate => return thread::send_on(signal, station, words.as_ref(), Onward::End),
            Outcome::Pass => {}
        }
    }
    thread::send_on(signal, station, words.as_ref(), Onward::Pass);
}

/// Calls one, unless it has been unregistered meanwhile.
fn ask(handler: &Handler, order: u64, delivered: &Delivered) -> Outcome {
    let index = handler.index();
    let outcome = if handler.begin(DEFERRED, order) { call(index, delivered) } else { Outcome::Pass };
    if handler.finish() {
        clear(index, handler);
    }
    outcome
}

fn call(index: usize, delivered: &Delivered) -> Outcome {
    let Some(mut place) = at(index) else { return Outcome::Pass };
    let Some(closure) = place.as_mut() else { return Outcome::Pass };
    locks::user_code();
    catch_unwind(AssertUnwindSafe(|| closure(delivered))).unwrap_or_else(|_| {
        tracing::error!(signal = %delivered.signal, "a signal handler has panicked; the signal is passed on");
        Outcome::Pass
    })
}

//! Registering handlers, and taking them out again.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::deferred::{self, Closure, Delivered};
use super::{Outcome, Signal, is_installed};
use crate::error::{Error, Result};
use crate::fault::{inside, thread};
use crate::locks;
use crate::os;
use crate::registry::handlers::{self, DEFERRED, DIRECT, Handler};
use crate::store::room;

/// Who is asked first. Among those of the same priority, who has registered first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Before all others: who has to decide whether the signal concerns anybody.
    First,
    /// Before most.
    High,
    /// In the middle.
    #[default]
    Normal,
    /// After most.
    Low,
    /// After all others: what is to be done if nobody else does anything.
    Last,
}

/// A function that is called in the signal handler, with the signal, its `siginfo_t` and its `ucontext_t` as in
/// sigaction(2), and the word that was registered with it.
pub type DirectHandler = unsafe fn(i32, *mut c_void, *mut c_void, usize) -> Outcome;

/// A handler is registered as long as this lives.
///
/// When a drop has returned, the handler is not running on another thread any more, and will not be called again. The drop
/// waits for that, [one second](Registration::unregister) at most: so nobody should hold a lock meanwhile that the handler
/// waits for. Where the time is over, or the handler drops its own registration, it runs to its end, and not again. A
/// registration must not be dropped in a signal handler.
///
/// A delivery that waits for the thread when its handler goes is passed on like any other: to the next handler, or to whoever
/// was there before, which may be the default action.
#[derive(Debug)]
#[must_use = "a handler is unregistered when this is dropped; `keep` leaves it registered"]
pub struct Registration {
    handler: &'static Handler,
    index: usize,
    kind: u32,
}

/// How long a drop waits.
const PATIENCE: Duration = Duration::from_secs(1);

static SEQUENCE: AtomicU64 = AtomicU64::new(1);

/// The lowest is asked first.
fn order(priority: Priority) -> u64 {
    (priority as u64) << 56 | SEQUENCE.fetch_add(1, Ordering::Relaxed)
}

fn check(signal: Signal) -> Result<()> {
    if is_installed(signal) { Ok(()) } else { Err(Error::BadSignal { signal: signal.as_raw() }) }
}

fn enter(
    signal: Signal,
    priority: Priority,
    kind: u32,
    prepare: impl FnOnce(usize, &Handler),
) -> Result<Registration> {
    check(signal)?;
    let place = handlers::take(deferred::is_vacant);
    let (index, handler) = place.ok_or(Error::TooManyHandlers { limit: handlers::MAX })?;
    prepare(index, handler);
    handler.signal.store(signal.as_raw() as u32, Ordering::Relaxed);
    handler.order.store(order(priority), Ordering::Relaxed);
    handler.state.store(kind, Ordering::SeqCst);
    Ok(Registration { handler, index, kind })
}

/// Registers a closure that is called, on a thread of the library's, for each delivery of a signal of the process's
/// [coordinator](super::Coordinator).
///
/// It may allocate, take locks, take its time, register and unregister; as long as it runs, no other closure is called. A
/// panic in it is caught, told through `tracing`, and taken for [`Outcome::Pass`].
///
/// All signals are blocked on that thread but those that a thread raises by what it does. A program that the closure starts
/// inherits that, as `Command` leaves it: it should be started by another thread, or unblock signals before it is executed.
/// A child that is forked there and executes no program ends when the closure returns.
///
/// Any thread may call this at any time, and no delivery waits for it.
///
/// # Errors
///
/// [`Error::BadSignal`] where no coordinator has this signal; [`Error::TooManyHandlers`]; [`Error::System`] where the
/// thread could not be started.
pub fn register(
    signal: Signal,
    priority: Priority,
    handler: impl FnMut(&Delivered) -> Outcome + Send + 'static,
) -> Result<Registration> {
    let handler = Box::write(room::owned()?, handler);
    let closure: Closure = handler;
    check(signal)?;
    thread::on_work(deferred::work);
    thread::ensure()?;
    enter(signal, priority, DEFERRED, |index, _| deferred::put(index, closure))
}

/// Registers a function that is called in the signal handler itself, on the thread that the signal has interrupted. All
/// such functions are asked before the closures of [`register`], whatever their priority. No other signal is delivered to
/// that thread meanwhile.
///
/// # Errors
///
/// [`Error::BadSignal`], [`Error::TooManyHandlers`].
///
/// # Safety
///
/// The function is async-signal-safe (signal-safety(7)): it may interrupt anything, and neither allocates, nor locks, nor
/// panics, nor registers or unregisters; it leaves `errno` as it likes. It can be called with `word` from any thread, on
/// several at once, until the registration has been dropped.
#[allow(unsafe_code)]
pub unsafe fn register_direct(
    signal: Signal,
    priority: Priority,
    function: DirectHandler,
    word: usize,
) -> Result<Registration> {
    let function: inside::Direct = function;
    enter(signal, priority, DIRECT, |_, handler| {
        handler.function.store(function as usize, Ordering::Relaxed);
        handler.word.store(word, Ordering::Relaxed);
    })
}

impl Registration {
    /// Unregisters, and waits so long for the handler to end where it is running on another thread. False: it is running
    /// still, and will not be called again.
    pub fn unregister(self, wait: Duration) -> bool {
        std::mem::ManuallyDrop::new(self).end(wait)
    }

    /// Leaves the handler registered for as long as the process lives.
    pub fn keep(self) {
        let _ = std::mem::ManuallyDrop::new(self);
    }

    fn end(&self, wait: Duration) -> bool {
        let alone = match self.kind {
            // The thread that runs it is this one, or one that was left behind in the parent.
            DEFERRED if thread::is_here() || !thread::is_of(os::process_id()) => {
                self.handler.withdraw(Duration::ZERO)
            }
            _ => self.handler.withdraw(wait),
        };
        if alone {
            deferred::clear(self.index, self.handler);
        }
        alone
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if !self.end(PATIENCE) && !thread::is_here() {
            locks::user_code();
            tracing::warn!("a signal handler was still running a second after it was to be unregistered");
        }
    }
}

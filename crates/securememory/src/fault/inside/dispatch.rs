//! Asks the handlers that the program has registered with the coordinator.

use std::sync::atomic::Ordering;

use crate::fault::chain::{Delivery, Station};
use crate::fault::roles::{ENDING, PASSING};
use crate::fault::thread;
use crate::os;
use crate::registry::handlers::{self, DEFERRED, DIRECT, Handler};

/// What a handler says of a signal.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done with; nobody else is asked.
    Handled,
    /// The next handler is asked; after the last one, whoever was there before the coordinator.
    Pass,
    /// All secrets are wiped, and the signal ends the process. One that ends no process by itself, such as SIGCHLD, ends
    /// it with the exit code 128 and the signal's number.
    Terminate,
}

/// A function that is called in the signal handler: with the signal, its `siginfo_t` and `ucontext_t`, and a word.
pub(crate) type Direct = unsafe fn(i32, *mut std::ffi::c_void, *mut std::ffi::c_void, usize) -> Outcome;

/// Asks all handlers of a signal, in their order, that are called at once; then leaves it to the thread, if there are
/// others.
// Apart: what it takes of the stack is given back before a delivery is passed on.
#[inline(never)]
pub(super) fn dispatch(station: &Station, delivery: &Delivery) -> Outcome {
    match station.sent_on.load(Ordering::Acquire) {
        0 => {}
        // Sent by the thread to itself. What is sent to one thread comes before what is sent to all, so it is this one.
        _ if !thread::is_here() => {}
        what => {
            station.sent_on.store(0, Ordering::Release);
            return match what {
                ENDING => Outcome::Terminate,
                PASSING => Outcome::Pass,
                _ => Outcome::Handled,
            };
        }
    }
    let mut after = 0;
    while let Some((order, handler)) = handlers::next(delivery.signal, DIRECT, after) {
        after = order;
        match ask(handler, order, delivery) {
            Outcome::Pass => {}
            outcome => return outcome,
        }
    }
    if handlers::next(delivery.signal, DEFERRED, 0).is_none() || !thread::is_of(os::process_id()) {
        return Outcome::Pass;
    }
    // In this order: the thread counts what it has looked at before it looks.
    delivery.hand_over();
    station.waiting.fetch_add(1, Ordering::AcqRel);
    thread::wake();
    Outcome::Handled
}

/// Calls one, unless it has been unregistered meanwhile.
#[allow(unsafe_code)]
fn ask(handler: &Handler, order: u64, delivery: &Delivery) -> Outcome {
    let outcome = if handler.begin(DIRECT, order) {
        let word = handler.word.load(Ordering::Relaxed);
        // SAFETY: put there as this type, by who has promised that it may be called here.
        unsafe {
            let function = std::mem::transmute::<usize, Direct>(handler.function.load(Ordering::Relaxed));
            function(delivery.signal, delivery.info.cast(), delivery.context, word)
        }
    } else {
        Outcome::Pass
    };
    if handler.finish() {
        handler.free();
    }
    outcome
}

//! Our signal handler. All that runs in it is in this room, in [`super::chain`] and in [`crate::shutdown::dying`]: no lock,
//! no allocation, no thread-local that is made on first use, no panic, and a bounded stack: what needs room on it is not
//! inlined, returns before the next is called, and tells what is to be done instead of doing it. The tests `handler_object`
//! and `handler_stack` watch over that.
//!
//! A fault is ours if the kernel raised it (`si_code > 0`: of a signal that was sent, the address is somebody's process
//! id) at an address in one of our arenas. What is not ours goes on to whoever was there before.

mod answer;
mod dispatch;
pub(super) mod examine;
pub(super) mod record;
mod recover;

use std::ffi::{c_int, c_void};

use super::chain::{self, COORDINATED, Delivery, ENDS, FAULT, Station};
use crate::os::signals::{self, Info};
use crate::shutdown::dying;
pub use answer::AfterFault;
use answer::Answer;
pub(crate) use answer::{ABORT, Ask, CALL, CALL_ON_FAULT, ON_FAULT, RECOVER, REPORT};
pub(crate) use dispatch::Direct;
pub use dispatch::Outcome;

/// What the kernel calls, for every signal that is ours.
pub(crate) extern "C" fn entry(signal: c_int, info: *mut Info, context: *mut c_void) {
    let errno = signals::errno();
    handle(signal, info, context);
    signals::set_errno(errno);
}

#[allow(unsafe_code)]
fn handle(signal: c_int, info: *mut Info, context: *mut c_void) {
    let Some(station) = chain::station(signal) else { return };
    // SAFETY: the kernel calls us with these, or a handler that was called with them.
    let mut delivery = unsafe { Delivery::new(signal, info, context) };
    if chain::comes_back(station, &delivery) {
        return chain::pass(station, &delivery, false);
    }
    let roles = station.roles();
    let mut answer = Answer::NotOurs;
    if roles & FAULT != 0 && delivery.is_fault() && matches!(signal, libc::SIGSEGV | libc::SIGBUS) {
        answer = answer::answer(&delivery);
    }
    match answer {
        Answer::GoOn => return,
        Answer::End => return chain::pass(station, &delivery, true),
        Answer::PassOn => delivery.is_ours = true,
        Answer::NotOurs => {}
    }
    if roles & COORDINATED != 0 {
        match dispatch::dispatch(station, &delivery) {
            Outcome::Handled => return,
            Outcome::Terminate => return chain::end(&delivery),
            Outcome::Pass => {}
        }
    }
    pass(station, &delivery);
}

fn pass(station: &Station, delivery: &Delivery) {
    let last = station.roles() & ENDS != 0 && !chain::is_ignored(station, delivery);
    if last {
        // Before the handlers that were there before: they may be reporters of crashes, who read memory.
        dying::run(None);
    }
    chain::pass(station, delivery, last);
}

/// Passes a delivery on from the coordinator's thread, outside of any signal handler.
///
/// # Safety
///
/// `info` and `context` are valid until this returns, and what a handler may be called with.
#[allow(unsafe_code)]
pub(super) unsafe fn pass_outside(signal: c_int, info: *mut Info, context: *mut c_void) {
    if let Some(station) = chain::station(signal) {
        // SAFETY: as the caller vouches.
        pass(station, &unsafe { Delivery::new(signal, info, context) });
    }
}

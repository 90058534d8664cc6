//! Where the kernel enters, for every signal that is ours.

use std::ffi::{c_int, c_void};

use super::answer::{self, Answer};
use super::dispatch::{self, Outcome};
use crate::fault::chain::{self, Delivery, Station};
use crate::fault::roles::{COORDINATED, ENDS, FAULT};
use crate::os::signals::{self, Info};
use crate::shutdown::dying;

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
    let roles = station.roles.now();
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
    let last = station.roles.now() & ENDS != 0 && !chain::is_ignored(station, delivery);
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
pub(in crate::fault) unsafe fn pass_outside(signal: c_int, info: *mut Info, context: *mut c_void) {
    if let Some(station) = chain::station(signal) {
        // SAFETY: as the caller vouches.
        pass(station, &unsafe { Delivery::new(signal, info, context) });
    }
}

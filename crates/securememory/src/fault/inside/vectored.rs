//! Where Windows enters: for every exception, for those that nobody has handled, and for console events.

use std::ffi::c_int;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::answer::{self, Answer};
use super::dispatch::{self, Outcome};
use crate::fault::chain::{self, Delivery, Station};
use crate::fault::outside;
use crate::fault::roles::{COORDINATED, ENDING, ENDS, FAULT, PASSING, WIPES};
use crate::os;
use crate::os::signals::{self, Info};
use crate::shutdown::dying;
use windows_sys::Win32::Foundation as f;
use windows_sys::Win32::System::Diagnostics::Debug::LPTOP_LEVEL_EXCEPTION_FILTER;

/// A function that is asked about exceptions that nobody has handled.
type Filter = unsafe extern "system" fn(*const Info) -> i32;

/// The thread goes on where it was.
const GO_ON: i32 = -1;
/// The next handler is asked.
const SEARCH: i32 = 0;

/// The event is done with.
const TRUE: i32 = 1;
const FALSE: i32 = 0;

/// Is it one of those that an access to memory of ours ends in?
fn is_access(exception: c_int) -> bool {
    matches!(exception, f::EXCEPTION_ACCESS_VIOLATION | f::EXCEPTION_IN_PAGE_ERROR | f::EXCEPTION_GUARD_PAGE)
}

/// Is it one that a fault of the program's raises, and not a language's or a debugger's?
fn is_fatal(exception: c_int) -> bool {
    exception.cast_unsigned() >> 28 == 0xC
}

/// First of all handlers: an exception, on the thread that has raised it.
#[allow(unsafe_code)]
pub(in crate::fault) unsafe extern "system" fn on_exception(info: *mut Info) -> i32 {
    let roles = outside::exceptions().roles.now();
    if roles & FAULT == 0 {
        return SEARCH;
    }
    // SAFETY: the system calls us with it.
    let exception = unsafe { signals::words(info) }.code;
    if is_access(exception) {
        // SAFETY: as above.
        let delivery = unsafe { Delivery::of_exception(info) };
        match answer::answer(&delivery) {
            Answer::GoOn => return GO_ON,
            // To whoever is asked next; at last to the system, which ends the process with this very code.
            Answer::End | Answer::PassOn => return SEARCH,
            Answer::NotOurs => {}
        }
    }
    if roles & ENDS != 0 && is_fatal(exception) {
        dying::run(None);
    }
    SEARCH
}

/// Who was asked about exceptions that nobody has handled, before us; zero: nobody.
static BEFORE: AtomicUsize = AtomicUsize::new(0);

pub(in crate::fault) fn set_filter_before(filter: usize) {
    BEFORE.store(filter, Ordering::Release);
}

#[allow(unsafe_code)]
pub(in crate::fault) fn filter_before() -> LPTOP_LEVEL_EXCEPTION_FILTER {
    match BEFORE.load(Ordering::Acquire) {
        0 => None,
        // SAFETY: what SetUnhandledExceptionFilter gave.
        before => Some(unsafe { std::mem::transmute::<usize, Filter>(before) }),
    }
}

/// An exception that nobody has handled: the process ends by it.
#[allow(unsafe_code)]
pub(in crate::fault) unsafe extern "system" fn on_unhandled(info: *const Info) -> i32 {
    if outside::exceptions().roles.now() & FAULT != 0 {
        dying::run(None);
    }
    match filter_before() {
        None => SEARCH,
        // SAFETY: as the system would call it.
        Some(before) => unsafe { before(info) },
    }
}

/// A console event, on a thread of its own.
#[allow(unsafe_code)]
pub(in crate::fault) unsafe extern "system" fn on_event(event: u32) -> i32 {
    let Some(signal) = signals::signal_of(event) else { return FALSE };
    let Some(station) = chain::station(signal) else { return FALSE };
    if station.roles.now() & COORDINATED == 0 {
        return FALSE;
    }
    match ask(station, signal) {
        Outcome::Handled => TRUE,
        Outcome::Terminate => {
            dying::run(None);
            signals::end_by_event()
        }
        Outcome::Pass => {
            if station.roles.now() & (ENDS | WIPES) != 0 {
                // Before the handlers that were there before. After them the system ends the process, unless one of them
                // says that it has handled the event.
                dying::run(None);
            }
            FALSE
        }
    }
}

/// Asks direct handlers, and then waits for what the coordinator's thread says: this thread is the event's own, and until it
/// has answered nobody else is asked.
fn ask(station: &Station, signal: c_int) -> Outcome {
    // One at a time. (The system sees to that, too.)
    while station.asking.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        os::wait_on(&station.asking, 1, None);
    }
    station.answer.store(0, Ordering::Release);
    let delivery = Delivery::of_event(signal);
    let mut outcome = dispatch::dispatch(station, &delivery);
    if delivery.is_handed_over.get() {
        outcome = loop {
            match station.answer.load(Ordering::Acquire) {
                0 => os::wait_on(&station.answer, 0, None),
                PASSING => break Outcome::Pass,
                ENDING => break Outcome::Terminate,
                _ => break Outcome::Handled,
            }
        };
    }
    station.asking.store(0, Ordering::Release);
    os::wake_all(&station.asking);
    outcome
}

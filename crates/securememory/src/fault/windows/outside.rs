//! Installs our handlers and takes them out again: what runs on ordinary threads, under the right to change it (`guard`).

use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::chain::{self, Station};
use super::guard::{Holder, INSTALLED, Put, Uninstalled};
use super::inside;
use super::roles::{COORDINATED, ENDS, FAULT, WIPES};
use super::thread;
use crate::error::{Error, Result};
use crate::os::signals::{self, Action};
use crate::shutdown::dying;
use windows_sys::Win32::System::Diagnostics::Debug::LPTOP_LEVEL_EXCEPTION_FILTER;

/// What ends a process by what one of its threads does: signals of other systems, which nobody can coordinate. The first
/// stands for all exceptions.
pub(crate) const FAULTS: [c_int; 7] = [11, 7, 4, 8, 5, 31, 6];

/// What is known of exceptions.
pub(super) fn exceptions() -> &'static Station {
    chain::of_exceptions()
}

/// There are no forks.
pub(crate) fn settle_forks() -> Result<()> {
    Ok(())
}

/// The handle of our vectored handler; zero: none.
static HANDLE: AtomicUsize = AtomicUsize::new(0);
/// Is our filter of unhandled exceptions called, by the system or by who was put above it?
static FILTERS: AtomicU32 = AtomicU32::new(0);
/// Is our handler of console events added?
static LISTENS: AtomicU32 = AtomicU32::new(0);

/// Has our handlers asked. Under [`changing`](super::guard::changing).
pub(super) fn begin() -> Result<Option<Error>> {
    signals::draw_seed();
    let handle = signals::add_vectored(inside::on_exception)?;
    HANDLE.store(handle, Ordering::Release);
    exceptions().roles.add(FAULT | WIPES);
    put_filter();
    Ok(None)
}

pub(super) extern "C" fn at_exit() {
    if INSTALLED.load(Ordering::Acquire) != 0 {
        dying::run(None);
    }
}

fn address(filter: LPTOP_LEVEL_EXCEPTION_FILTER) -> usize {
    filter.map_or(0, |filter| filter as usize)
}

/// Our filter, of which there is one.
const OURS: LPTOP_LEVEL_EXCEPTION_FILTER = Some(inside::on_unhandled);

/// Has our filter asked about exceptions that nobody has handled. Under [`changing`](super::guard::changing).
fn put_filter() {
    if FILTERS.load(Ordering::Acquire) != 0 {
        return;
    }
    let before = signals::set_filter(OURS);
    if address(before) != address(OURS) {
        inside::set_filter_before(address(before));
    }
    FILTERS.store(1, Ordering::Release);
}

/// Puts back the one that was there before ours, unless somebody has put another one above it. Under [`changing`](super::guard::changing).
fn take_filter() -> Uninstalled {
    let now = signals::set_filter(None);
    if address(now) != address(OURS) {
        signals::set_filter(now);
        return Uninstalled::Dormant;
    }
    signals::set_filter(inside::filter_before());
    FILTERS.store(0, Ordering::Release);
    Uninstalled::Restored
}

/// All exceptions that are errors of the system's are fatal from now on.
pub(super) fn assume_fatal() {
    exceptions().roles.add(ENDS);
}

/// Windows does not tell who has been added.
#[allow(clippy::unnecessary_wraps, reason = "elsewhere it may be refused")]
pub(super) fn others() -> Result<Vec<i32>> {
    Ok(Vec::new())
}

/// Ends fault handling. Under [`changing`](super::guard::changing). Where the system refuses to take our handler out, it passes everything on.
pub(super) fn end_here() -> Result<Uninstalled> {
    INSTALLED.store(0, Ordering::Release);
    exceptions().roles.remove(FAULT | WIPES | ENDS);
    let outcome = take_filter();
    match HANDLE.swap(0, Ordering::AcqRel) {
        0 => {}
        handle => signals::remove_vectored(handle)?,
    }
    Ok(outcome)
}

fn station(signal: c_int) -> Result<&'static Station> {
    let station = chain::station(signal).filter(|_| signals::can_be_handled(signal));
    station.ok_or(Error::BadSignal { signal })
}

/// Has our handler called for a console event, in these roles. Under [`changing`](super::guard::changing).
pub(crate) fn put(signal: c_int, roles: u32) -> Result<Put> {
    let station = station(signal)?;
    if LISTENS.load(Ordering::Acquire) == 0 {
        signals::draw_seed();
        signals::set_console(inside::on_event, true)?;
        LISTENS.store(1, Ordering::Release);
    }
    let joined = station.roles.now() & COORDINATED != 0;
    station.roles.add(roles);
    Ok(if joined { Put::Joined(Action::DEFAULT) } else { Put::Installed(Action::DEFAULT) })
}

/// Gives up roles; with the last one of all console events our handler. Under [`changing`](super::guard::changing).
///
/// The thread of an event that waits for a closure keeps the system's list of handlers to itself. So a closure leaves our
/// handler in it, which passes everything on.
pub(crate) fn take(signal: c_int, roles: u32) -> Result<Uninstalled> {
    station(signal)?.roles.remove(roles);
    let is_wanted = thread::all_stations().any(|(_, station)| station.roles.now() & COORDINATED != 0);
    if !is_wanted && !thread::is_here() && LISTENS.swap(0, Ordering::AcqRel) != 0 {
        signals::set_console(inside::on_event, false).inspect_err(|_| LISTENS.store(1, Ordering::Release))?;
    }
    Ok(Uninstalled::Restored)
}

/// Windows does not tell who has been added above us.
pub(crate) fn come_back(signal: c_int) -> Result<Holder> {
    station(signal).map(|_| Holder::Ours)
}

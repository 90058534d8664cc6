//! Installs our handlers and takes them out again: what runs on ordinary threads.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};

use super::FaultPolicy;
use super::chain::{self, COORDINATED, ENDS, FAULT, Station, WIPES};
use super::inside::{self, record};
use super::report::FaultReport;
use super::thread;
use crate::error::{Error, Result};
use crate::locks::{self, Guard, Lock, Rank};
use crate::os;
use crate::os::signals::{self, Action};
#[cfg(feature = "testing")]
use crate::registry::guards;
use crate::shutdown::dying;
use windows_sys::Win32::System::Diagnostics::Debug::LPTOP_LEVEL_EXCEPTION_FILTER;

/// What ends a process by what one of its threads does: signals of other systems, which nobody can coordinate. The first
/// stands for all exceptions.
pub(crate) const FAULTS: [c_int; 7] = [11, 7, 4, 8, 5, 31, 6];

/// What is known of exceptions.
pub(super) fn exceptions() -> &'static Station {
    chain::of_exceptions()
}

/// Who changes what is installed.
static CHANGES: Lock<()> = Lock::new(Rank::Signals, ());

/// There are no forks.
pub(crate) fn settle_forks() -> Result<()> {
    Ok(())
}

/// Fault handling is to be ended by whoever changes something next: its guard was dropped when others were at it.
static LEFT: AtomicU32 = AtomicU32::new(0);

/// The right to change what is installed.
pub(crate) struct Changing(Option<Guard<'static, ()>>);

impl Drop for Changing {
    fn drop(&mut self) {
        self.0 = None;
        // Who drops a guard says so first and tries then: either he gets the lock, or we see it.
        fence(Ordering::SeqCst);
        finish_left();
    }
}

/// Takes the right to change what is installed.
#[cfg_attr(debug_assertions, track_caller)]
pub(crate) fn changing() -> Result<Changing> {
    let changing = CHANGES.lock()?;
    if LEFT.swap(0, Ordering::SeqCst) != 0 {
        let _ = end_here();
    }
    Ok(Changing(Some(changing)))
}

/// Ends what was left, if nobody else is at it. Waits for nobody.
fn finish_left() {
    while LEFT.load(Ordering::SeqCst) != 0 {
        let Some(changing) = CHANGES.try_lock() else { return };
        if LEFT.swap(0, Ordering::SeqCst) != 0 {
            let _ = end_here();
        }
        drop(changing);
        fence(Ordering::SeqCst);
    }
}

#[cfg(feature = "testing")]
pub(crate) fn set_frozen(frozen: bool) -> bool {
    CHANGES.set_frozen(frozen)
}

/// Is fault handling installed?
static INSTALLED: AtomicU32 = AtomicU32::new(0);
/// Has it been seen to that an exit wipes?
static AT_EXIT: AtomicU32 = AtomicU32::new(0);
/// The handle of our vectored handler; zero: none.
static HANDLE: AtomicUsize = AtomicUsize::new(0);
/// Is our filter of unhandled exceptions called, by the system or by who was put above it?
static FILTERS: AtomicU32 = AtomicU32::new(0);
/// Is our handler of console events added?
static LISTENS: AtomicU32 = AtomicU32::new(0);

/// What became of our handler.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uninstalled {
    /// It is out, and what was there before is there again.
    Restored,
    /// Somebody has installed another handler above ours, and may call ours. It stays, and passes everything on.
    Dormant,
}

/// Fault handling, until it is dropped.
#[derive(Debug)]
#[must_use = "fault handling ends when this is dropped; `keep` leaves it on"]
pub struct FaultGuard(());

/// Handles faults from now on, with this policy for all vaults that have none of their own.
///
/// # Errors
///
/// [`Error::AlreadyInstalled`]; [`Error::Unsupported`] for [`FaultPolicy::Recover`], which is a vault's own;
/// [`Error::System`] where the system refuses, and [`Error::LockTimeout`]. Nothing is changed then.
pub fn install(policy: FaultPolicy) -> Result<FaultGuard> {
    if matches!(policy, FaultPolicy::Recover) {
        return Err(Error::Unsupported("a policy of recovery for all vaults"));
    }
    #[cfg(feature = "testing")]
    guards::installing();
    let changing = changing()?;
    if INSTALLED.load(Ordering::Acquire) != 0 {
        return Err(Error::AlreadyInstalled);
    }
    if AT_EXIT.load(Ordering::Acquire) == 0 {
        signals::at_exit(at_exit)?;
        AT_EXIT.store(1, Ordering::Release);
    }
    signals::draw_seed();
    let (code, function) = policy.encode();
    inside::CALL_ON_FAULT.store(function, Ordering::Relaxed);
    inside::ON_FAULT.store(code, Ordering::Release);
    let handle = signals::add_vectored(inside::on_exception)?;
    HANDLE.store(handle, Ordering::Release);
    exceptions().add_roles(FAULT | WIPES);
    put_filter();
    INSTALLED.store(os::process_id(), Ordering::Release);
    drop(changing);
    Ok(FaultGuard(()))
}

/// Is fault handling installed?
#[cfg(feature = "testing")]
pub(crate) fn is_installed() -> bool {
    INSTALLED.load(Ordering::Acquire) != 0
}

extern "C" fn at_exit() {
    if INSTALLED.load(Ordering::Acquire) != 0 {
        dying::run(None);
    }
}

fn address(filter: LPTOP_LEVEL_EXCEPTION_FILTER) -> usize {
    filter.map_or(0, |filter| filter as usize)
}

/// Our filter, of which there is one.
const OURS: LPTOP_LEVEL_EXCEPTION_FILTER = Some(inside::on_unhandled);

/// Has our filter asked about exceptions that nobody has handled. Under [`changing`].
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

/// Puts back the one that was there before ours, unless somebody has put another one above it. Under [`changing`].
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

impl FaultGuard {
    /// Ends it. What was there before is there again, but where somebody has put a handler above ours.
    ///
    /// # Errors
    ///
    /// [`Error::System`] where the system refuses; [`Error::LockTimeout`].
    pub fn uninstall(self) -> Result<Uninstalled> {
        std::mem::ManuallyDrop::new(self).end()
    }

    /// Leaves it on for as long as the process lives.
    pub fn keep(self) {
        let _ = std::mem::ManuallyDrop::new(self);
    }

    /// Takes every fault that is not ours for fatal: secrets are wiped before the handlers that were there before are called,
    /// and the process ends after them. For programs whose handlers are reporters of crashes, which read memory; not for those
    /// that live on faults, such as virtual machines. On Windows: every exception whose code says that it is an error of the
    /// system's (0xC...), when it is raised.
    pub fn assume_fatal(&self) {
        exceptions().add_roles(ENDS);
    }

    /// Looks whether our handlers are installed, and installs those again that have made place for a handler which needed a
    /// stack of its own. Gives the signals for which somebody else has installed a handler; that is left as it is.
    ///
    /// Windows does not tell who has been added, and asks all of them: there are none.
    ///
    /// # Errors
    ///
    /// [`Error::System`], [`Error::LockTimeout`].
    pub fn check(&self) -> Result<Vec<i32>> {
        let _changing = changing()?;
        Ok(Vec::new())
    }

    fn end(&self) -> Result<Uninstalled> {
        let _changing = changing()?;
        end_here()
    }
}

/// Ends fault handling. Under [`changing`]. Where the system refuses to take our handler out, it passes everything on.
fn end_here() -> Result<Uninstalled> {
    INSTALLED.store(0, Ordering::Release);
    exceptions().drop_roles(FAULT | WIPES | ENDS);
    let outcome = take_filter();
    match HANDLE.swap(0, Ordering::AcqRel) {
        0 => {}
        handle => signals::remove_vectored(handle)?,
    }
    Ok(outcome)
}

/// Waits for nobody. Where others change something at this moment, they end fault handling when they are done.
impl Drop for FaultGuard {
    fn drop(&mut self) {
        match locks::without_waiting(|| self.end()) {
            Ok(_) => {}
            Err(Error::LockTimeout(_)) => {
                LEFT.store(1, Ordering::SeqCst);
                fence(Ordering::SeqCst);
                finish_left();
            }
            Err(error) => {
                locks::user_code();
                tracing::warn!(%error, "fault handling could not be uninstalled");
            }
        }
    }
}

/// The last fault in memory of ours that the process has survived, or is asked about.
#[must_use]
pub fn last_fault() -> Option<FaultReport> {
    record::last()
}

/// Faults in memory of ours so far.
#[must_use]
pub fn faults_seen() -> usize {
    record::SEEN.load(Ordering::Relaxed)
}

/// What [`put`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// Our handler is installed, and this was there before.
    Installed(Action),
    /// It was installed already, above this.
    Joined(Action),
}

/// Who has a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "Windows does not tell; others do")]
pub(crate) enum Holder {
    /// Our handler.
    Ours,
    /// Our handler again: it had made place for a moment.
    Back,
    /// Another.
    Other,
}

fn station(signal: c_int) -> Result<&'static Station> {
    let station = chain::station(signal).filter(|_| signals::can_be_handled(signal));
    station.ok_or(Error::BadSignal { signal })
}

/// Has our handler called for a console event, in these roles. Under [`changing`].
pub(crate) fn put(signal: c_int, roles: u32) -> Result<Put> {
    let station = station(signal)?;
    if LISTENS.load(Ordering::Acquire) == 0 {
        signals::draw_seed();
        signals::set_console(inside::on_event, true)?;
        LISTENS.store(1, Ordering::Release);
    }
    let joined = station.roles() & COORDINATED != 0;
    station.add_roles(roles);
    Ok(if joined { Put::Joined(Action::DEFAULT) } else { Put::Installed(Action::DEFAULT) })
}

/// Gives up roles; with the last one of all console events our handler. Under [`changing`].
///
/// The thread of an event that waits for a closure keeps the system's list of handlers to itself. So a closure leaves our
/// handler in it, which passes everything on.
pub(crate) fn take(signal: c_int, roles: u32) -> Result<Uninstalled> {
    station(signal)?.drop_roles(roles);
    let is_wanted = thread::all_stations().any(|(_, station)| station.roles() & COORDINATED != 0);
    if !is_wanted && !thread::is_here() && LISTENS.swap(0, Ordering::AcqRel) != 0 {
        signals::set_console(inside::on_event, false).inspect_err(|_| LISTENS.store(1, Ordering::Release))?;
    }
    Ok(Uninstalled::Restored)
}

/// Windows does not tell who has been added above us.
pub(crate) fn come_back(signal: c_int) -> Result<Holder> {
    station(signal).map(|_| Holder::Ours)
}

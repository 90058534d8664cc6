//! Installs our handler and takes it out again: what runs on ordinary threads.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::FaultPolicy;
use super::chain::{self, ASIDE, ENDS, FAULT, LEVELS, Station, WIPES};
use super::inside::{self, record};
use super::report::FaultReport;
use super::thread;
use crate::error::{Error, Result};
use crate::locks::{self, Guard, Lock, Rank};
use crate::os;
use crate::os::signals::{self, Action};
use crate::registry::forks;
#[cfg(feature = "testing")]
use crate::registry::guards;
use crate::shutdown::{dying, fork};

/// What ends a process by what one of its threads does.
pub(crate) const FAULTS: [c_int; 7] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS, libc::SIGABRT];

/// The same, as a mask.
pub(super) fn faults() -> signals::Mask {
    FAULTS.iter().fold(0, |mask, &fault| mask | signals::bit(fault))
}

/// Who changes what is installed.
static CHANGES: Lock<()> = Lock::new(Rank::Signals, ());

/// Sees to it that a child which is forked meanwhile finds nobody at it.
pub(crate) fn settle_forks() -> Result<()> {
    fork::install()?;
    forks::freeze_too(&CHANGES)
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
    settle_forks()?;
    let changing = changing()?;
    if INSTALLED.load(Ordering::Acquire) != 0 {
        return Err(Error::AlreadyInstalled);
    }
    if AT_EXIT.load(Ordering::Acquire) == 0 {
        signals::at_exit(at_exit)?;
        AT_EXIT.store(1, Ordering::Release);
    }
    let (code, function) = policy.encode();
    inside::CALL_ON_FAULT.store(function, Ordering::Relaxed);
    inside::ON_FAULT.store(code, Ordering::Release);
    let mut makes_place = false;
    for (index, &signal) in FAULTS.iter().enumerate() {
        match put(signal, FAULT | WIPES) {
            Ok(Put::Installed(before) | Put::Joined(before)) => {
                makes_place |= before.is_function() && !before.has(libc::SA_ONSTACK);
            }
            Err(error) => {
                for &signal in FAULTS.iter().take(index) {
                    let _ = take(signal, FAULT | WIPES);
                }
                return Err(error);
            }
        }
    }
    // Without it our handler stays away until it is asked to look (`FaultGuard::check`).
    let without = if makes_place { thread::ensure().err() } else { None };
    INSTALLED.store(os::process_id(), Ordering::Release);
    drop(changing);
    if let Some(error) = without {
        locks::user_code();
        tracing::warn!(%error, "nobody puts our handler back when it has made place for another");
    }
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
    /// that live on faults, such as virtual machines.
    pub fn assume_fatal(&self) {
        let stations = FAULTS.iter().filter_map(|&signal| chain::station(signal));
        stations.for_each(|station| station.add_roles(ENDS));
    }

    /// Looks whether our handlers are installed, and installs those again that have made place for a handler which needed a
    /// stack of its own. Gives the signals for which somebody else has installed a handler; that is left as it is.
    ///
    /// # Errors
    ///
    /// [`Error::System`], [`Error::LockTimeout`].
    pub fn check(&self) -> Result<Vec<i32>> {
        let _changing = changing()?;
        let mut others = Vec::new();
        for &signal in &FAULTS {
            if let Holder::Other = come_back(signal)? {
                others.push(signal);
            }
        }
        Ok(others)
    }

    fn end(&self) -> Result<Uninstalled> {
        let _changing = changing()?;
        end_here()
    }
}

/// Ends fault handling. Under [`changing`].
fn end_here() -> Result<Uninstalled> {
    INSTALLED.store(0, Ordering::Release);
    // All of them, also where one is refused.
    let mut outcome = Ok(Uninstalled::Restored);
    for &signal in &FAULTS {
        match take(signal, FAULT | WIPES | ENDS) {
            Ok(Uninstalled::Restored) => {}
            Ok(Uninstalled::Dormant) => outcome = outcome.map(|_| Uninstalled::Dormant),
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    outcome
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
pub(crate) enum Holder {
    /// Our handler.
    Ours,
    /// Our handler again: it had made place for a moment.
    Back,
    /// Another.
    Other,
}

/// Our handler, as it is installed above `before`. Also called in it.
pub(super) fn ours(signal: c_int, before: &Action) -> Action {
    let is_fault = FAULTS.contains(&signal);
    // How a call that is interrupted goes on is said by what is installed: as before, or so that nobody notices us.
    let mut flags = before.flags & (libc::SA_NOCLDSTOP | libc::SA_NOCLDWAIT);
    flags |= if before.is_function() { before.flags & libc::SA_RESTART } else { libc::SA_RESTART };
    // Who ignores it has no zombies. sigaction(2)
    if signal == libc::SIGCHLD && before.handler == libc::SIG_IGN {
        flags |= libc::SA_NOCLDWAIT;
    }
    // One that wants the thread's own stack has it, if ours is called there. Not so for faults: a stack that has
    // overflowed takes no handler.
    if is_fault || !before.is_function() || before.has(libc::SA_ONSTACK) {
        flags |= libc::SA_ONSTACK;
    }
    // A fault in the middle of a fault ends the process at once; and nothing else is to come in between. Nor do other
    // signals come while we are at one: an alternate stack has room for few of the kernel's frames.
    let mask = if is_fault { u64::MAX } else { !faults() };
    let entry: signals::Function = inside::entry;
    Action { handler: entry as usize, flags: flags | libc::SA_SIGINFO, mask }
}

pub(super) fn is_ours(action: &Action) -> bool {
    let entry: signals::Function = inside::entry;
    action.handler == entry as usize
}

/// Is our handler the one that the kernel calls?
pub(super) fn is_on_top(signal: c_int) -> bool {
    signals::action(signal).is_ok_and(|now| is_ours(&now))
}

fn station(signal: c_int) -> Result<&'static Station> {
    chain::station(signal).ok_or(Error::BadSignal { signal })
}

/// Has our handler called for a signal, in these roles. Under [`changing`].
pub(crate) fn put(signal: c_int, roles: u32) -> Result<Put> {
    let station = station(signal)?;
    let before = signals::action(signal)?;
    if is_ours(&before) {
        station.add_roles(roles);
        let below = station.levels().checked_sub(1).and_then(|level| station.previous(level));
        return Ok(Put::Joined(below.unwrap_or(Action::DEFAULT)));
    }
    chain::own();
    // What was installed above us, and may call us, is one level more. A default calls nobody.
    let level = if before.is_function() { station.levels() } else { 0 };
    let levels = station.levels();
    if level >= LEVELS {
        return Err(Error::Unsupported("taking back a signal that others take so often"));
    }
    station.set_previous(level, before);
    station.set_levels(level + 1);
    station.add_roles(roles);
    match signals::set_action(signal, ours(signal, &before)) {
        // Exchanged in between, by another thread.
        Ok(replaced) => {
            if replaced != before {
                station.set_previous(level, replaced);
            }
            Ok(Put::Installed(replaced))
        }
        Err(cause) => {
            station.drop_roles(roles);
            station.set_levels(levels);
            Err(cause.into())
        }
    }
}

/// Gives up roles, and with the last one the signal. Under [`changing`]. The roles are given up also where the system
/// refuses; then our handler passes everything on.
pub(crate) fn take(signal: c_int, roles: u32) -> Result<Uninstalled> {
    let station = station(signal)?;
    let holder = come_back(signal);
    let left = station.drop_roles(roles);
    let holder = holder?;
    let top = station.levels().checked_sub(1);
    let Some((top, before)) = top.and_then(|level| Some((level, station.previous(level)?))) else {
        return Ok(Uninstalled::Restored);
    };
    if left & !ASIDE != 0 {
        return Ok(Uninstalled::Restored);
    }
    if holder == Holder::Other {
        if left & ASIDE == 0 {
            return Ok(Uninstalled::Dormant);
        }
        // It was put above what was there before us, and not above us.
        station.drop_roles(ASIDE);
    } else {
        signals::set_action(signal, before)?;
    }
    station.set_levels(top);
    // With several levels somebody may call us still.
    Ok(if top == 0 { Uninstalled::Restored } else { Uninstalled::Dormant })
}

/// Who has a signal that we have installed a handler for? Where ours has made place, it is put back. Under [`changing`].
pub(crate) fn come_back(signal: c_int) -> Result<Holder> {
    let station = station(signal)?;
    let now = signals::action(signal)?;
    if is_ours(&now) {
        return Ok(Holder::Ours);
    }
    let level = station.levels().saturating_sub(1);
    let Some(before) = station.previous(level).filter(|_| station.levels() > 0) else {
        return Ok(Holder::Other);
    };
    if station.roles() & ASIDE == 0 {
        return Ok(Holder::Other);
    }
    // What we had put in our place, or what has become of it: one that was to be called once has been.
    let once = before.has(libc::SA_RESETHAND) && now.handler == libc::SIG_DFL;
    if now != before && !once {
        return Ok(Holder::Other);
    }
    if once {
        station.set_previous(level, Action::DEFAULT);
    }
    station.drop_roles(ASIDE);
    signals::set_action(signal, ours(signal, &before))?;
    Ok(Holder::Back)
}

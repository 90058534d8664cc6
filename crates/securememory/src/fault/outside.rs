//! Installs our handler and takes it out again: what runs on ordinary threads, under the right to change it (`guard`).

use std::ffi::c_int;
use std::sync::atomic::Ordering;

use super::chain::{self, LEVELS, Station};
use super::guard::{CHANGES, Holder, INSTALLED, Put, Uninstalled};
use super::inside;
use super::roles::{ASIDE, ENDS, FAULT, WIPES};
use super::thread;
use crate::error::{Error, Result};
use crate::os::signals::{self, Action};
use crate::registry::forks;
use crate::shutdown::{dying, fork};

/// What ends a process by what one of its threads does.
pub(crate) const FAULTS: [c_int; 7] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS, libc::SIGABRT];

/// The same, as a mask.
pub(super) fn faults() -> signals::Mask {
    FAULTS.iter().fold(0, |mask, &fault| mask | signals::bit(fault))
}

/// Sees to it that a child which is forked meanwhile finds nobody at it.
pub(crate) fn settle_forks() -> Result<()> {
    fork::install()?;
    forks::freeze_too(&CHANGES)
}

/// Puts our handler in the place of those that there are. If nobody can put it back when it has made place, the reason; then
/// it stays away until it is asked to look ([`FaultGuard::check`](super::FaultGuard::check)). Under
/// [`changing`](super::guard::changing).
pub(super) fn begin() -> Result<Option<Error>> {
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
    Ok(if makes_place { thread::ensure().err() } else { None })
}

pub(super) extern "C" fn at_exit() {
    if INSTALLED.load(Ordering::Acquire) != 0 {
        dying::run(None);
    }
}

/// All faults are fatal from now on.
pub(super) fn assume_fatal() {
    let stations = FAULTS.iter().filter_map(|&signal| chain::station(signal));
    stations.for_each(|station| station.roles.add(ENDS));
}

/// Comes back where our handler has made place; faults that somebody else handles. Under [`changing`](super::guard::changing).
pub(super) fn others() -> Result<Vec<i32>> {
    let mut others = Vec::new();
    for &signal in &FAULTS {
        if let Holder::Other = come_back(signal)? {
            others.push(signal);
        }
    }
    Ok(others)
}

/// Ends fault handling. Under [`changing`](super::guard::changing).
pub(super) fn end_here() -> Result<Uninstalled> {
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

/// Has our handler called for a signal, in these roles. Under [`changing`](super::guard::changing).
pub(crate) fn put(signal: c_int, roles: u32) -> Result<Put> {
    let station = station(signal)?;
    let before = signals::action(signal)?;
    if is_ours(&before) {
        station.roles.add(roles);
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
    station.roles.add(roles);
    match signals::set_action(signal, ours(signal, &before)) {
        // Exchanged in between, by another thread.
        Ok(replaced) => {
            if replaced != before {
                station.set_previous(level, replaced);
            }
            Ok(Put::Installed(replaced))
        }
        Err(cause) => {
            station.roles.remove(roles);
            station.set_levels(levels);
            Err(cause.into())
        }
    }
}

/// Gives up roles, and with the last one the signal. Under [`changing`](super::guard::changing). The roles are given up also where the system
/// refuses; then our handler passes everything on.
pub(crate) fn take(signal: c_int, roles: u32) -> Result<Uninstalled> {
    let station = station(signal)?;
    let holder = come_back(signal);
    // What could not come back stays away.
    let given_up = if holder.is_err() { roles | ASIDE } else { roles };
    let left = station.roles.remove(given_up);
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
        station.roles.remove(ASIDE);
    } else {
        signals::set_action(signal, before)?;
    }
    station.set_levels(top);
    // With several levels somebody may call us still.
    Ok(if top == 0 { Uninstalled::Restored } else { Uninstalled::Dormant })
}

/// Who has a signal that we have installed a handler for? Where ours has made place, it is put back. Under [`changing`](super::guard::changing).
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
    if station.roles.now() & ASIDE == 0 {
        return Ok(Holder::Other);
    }
    // What we had put in our place, or what has become of it: one that was to be called once may have been, and may be called
    // at any moment until ours is there again. Only what that has replaced tells.
    let once = before.has(libc::SA_RESETHAND);
    if now != before && !(once && now.handler == libc::SIG_DFL) {
        return Ok(Holder::Other);
    }
    station.roles.remove(ASIDE);
    if once {
        station.unsettle(level);
    }
    let replaced = signals::set_action(signal, ours(signal, &before));
    if once {
        let is_used = replaced.unwrap_or(now).handler == libc::SIG_DFL;
        station.set_previous(level, if is_used { Action::DEFAULT } else { before });
    }
    if let Err(cause) = replaced {
        // It is away still; whoever asks next tries again.
        station.roles.add(ASIDE);
        return Err(cause.into());
    }
    Ok(Holder::Back)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::{Duration, Instant};

    use super::*;
    use crate::os::Call;
    use crate::os::inject::{self, Injection, Plan};
    use crate::testing::own_process;

    extern "C" fn nothing(_: c_int, _: *mut signals::Info, _: *mut std::ffi::c_void) {}

    /// A handler that wants to be called once is installed, and ours has made place for it.
    fn aside(signal: c_int) -> (&'static Station, Action) {
        let function: signals::Function = nothing;
        let once =
            Action { handler: function as usize, flags: libc::SA_SIGINFO | libc::SA_RESETHAND, mask: 0 };
        // As the kernel tells it.
        signals::set_action(signal, once).unwrap();
        let once = signals::action(signal).unwrap();
        assert_eq!(put(signal, WIPES), Ok(Put::Installed(once)));
        signals::set_action(signal, once).unwrap();
        let station = station(signal).unwrap();
        station.roles.add(ASIDE);
        (station, once)
    }

    fn slowly() -> Injection {
        inject::fail(Call::Sigaction, Plan::DelayEach { duration: Duration::from_millis(300) })
    }

    fn wait_until_unsettled(station: &Station) {
        let started = Instant::now();
        while station.is_settled(0) {
            assert!(started.elapsed() < Duration::from_secs(5), "it never asks");
            std::thread::yield_now();
        }
    }

    /// Ours comes back, slowly, while another thread does `meanwhile`. In a process of its own, whose signals these are.
    fn comes_back(test: &'static str, meanwhile: fn(&Station, Action)) {
        own_process(test).run(|| {
            let (station, once) = aside(libc::SIGURG);
            assert_eq!(station.previous(0), Some(once));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    wait_until_unsettled(station);
                    meanwhile(station, once);
                });
                let _slowly = slowly();
                assert_eq!(come_back(libc::SIGURG), Ok(Holder::Back));
            });
            assert_eq!(take(libc::SIGURG, WIPES), Ok(Uninstalled::Restored));
        });
    }

    #[test]
    fn a_handler_that_is_called_while_ours_comes_back_was_called_once() {
        let test = "fault::outside::tests::a_handler_that_is_called_while_ours_comes_back_was_called_once";
        comes_back(test, |station, once| {
            // The kernel calls it, and comes to ours for the next delivery.
            assert!(signals::put_action(libc::SIGURG, Action::DEFAULT));
            assert_eq!(station.previous(0), Some(Action::DEFAULT), "not once more");
            assert!(!station.use_up(0, &once));
        });
    }

    #[test]
    fn one_that_was_not_called_yet_is_called_by_us() {
        comes_back("fault::outside::tests::one_that_was_not_called_yet_is_called_by_us", |station, once| {
            assert!(station.use_up(0, &once), "when it is known");
            assert!(!station.use_up(0, &once), "once");
        });
    }
}

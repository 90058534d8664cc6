//! The right to change what is installed, and fault handling as who has asked for it has it. What each system does for that
//! is in `outside`.

use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::FaultPolicy;
use super::inside::{self, record};
use super::outside;
use super::report::FaultReport;
use crate::error::{Error, Result};
use crate::locks::{self, Guard, Lock, Rank};
use crate::os;
use crate::os::signals::{self, Action};
#[cfg(feature = "testing")]
use crate::registry::guards;

/// Who changes what is installed.
pub(super) static CHANGES: Lock<()> = Lock::new(Rank::Signals, ());

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
        let _ = outside::end_here();
    }
    Ok(Changing(Some(changing)))
}

/// Ends what was left, if nobody else is at it. Waits for nobody.
fn finish_left() {
    while LEFT.load(Ordering::SeqCst) != 0 {
        let Some(changing) = CHANGES.try_lock() else { return };
        if LEFT.swap(0, Ordering::SeqCst) != 0 {
            let _ = outside::end_here();
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
pub(super) static INSTALLED: AtomicU32 = AtomicU32::new(0);
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
    outside::settle_forks()?;
    let changing = changing()?;
    if INSTALLED.load(Ordering::Acquire) != 0 {
        return Err(Error::AlreadyInstalled);
    }
    if AT_EXIT.load(Ordering::Acquire) == 0 {
        signals::at_exit(outside::at_exit)?;
        AT_EXIT.store(1, Ordering::Release);
    }
    let (code, function) = policy.encode();
    inside::CALL_ON_FAULT.store(function, Ordering::Relaxed);
    inside::ON_FAULT.store(code, Ordering::Release);
    let warning = outside::begin()?;
    INSTALLED.store(os::process_id(), Ordering::Release);
    drop(changing);
    if let Some(error) = warning {
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
        outside::assume_fatal();
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
        outside::others()
    }

    fn end(&self) -> Result<Uninstalled> {
        let _changing = changing()?;
        outside::end_here()
    }
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

/// What [`outside::put`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// Our handler is installed, and this was there before.
    Installed(Action),
    /// It was installed already, above this.
    Joined(Action),
}

/// Who has a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(windows, allow(dead_code, reason = "Windows does not tell; others do"))]
pub(crate) enum Holder {
    /// Our handler.
    Ours,
    /// Our handler again: it had made place for a moment.
    Back,
    /// Another.
    Other,
}

//! Signals, coordinated: one handler of ours for those that a program names, and any number of the program's that are asked
//! in the order of their priority.
//!
//! ```
//! use securememory::signal::{Coordinator, Options, Outcome, Priority, Signal};
//! # use std::sync::mpsc;
//! # use std::time::Duration;
//! // In `main`: these end the process, and all secrets are wiped before.
//! let coordinator = Coordinator::install(&[Signal::TERM, Signal::USR1], Options::new().ends(true))?;
//!
//! // Anywhere, at any time, on any thread. It may allocate and lock.
//! # let (sender, receiver) = mpsc::channel();
//! let registration = securememory::signal::register(Signal::USR1, Priority::Normal, move |delivered| {
//!     println!("{} from {:?}", delivered.signal(), delivered.sender());
//! #   sender.send(()).ok();
//!     Outcome::Handled
//! })?;
//! # #[allow(unused_unsafe)] unsafe { raise(10) };
//! # receiver.recv_timeout(Duration::from_secs(10)).expect("the signal");
//!
//! drop(registration);
//! coordinator.uninstall()?;
//! # unsafe extern "C" { fn raise(signal: i32) -> i32; }
//! # Ok::<(), securememory::Error>(())
//! ```
//!
//! # What becomes of a signal
//!
//! First the functions are asked that are called in the signal handler itself ([`register_direct`]); then the closures
//! ([`register`]), which a thread of the library's calls; each kind in the order of [`Priority`]. The first that says
//! [`Outcome::Handled`] has it. [`Outcome::Terminate`] wipes all secrets and ends the process by the signal. If all
//! [pass](Outcome::Pass), or there are none, it goes to whoever was there before the coordinator, or the default action is
//! taken; with [`Options::ends`] it ends the process, wiped.
//!
//! Each delivery is handled once. Real-time signals are queued by the kernel, and none is lost; ordinary ones are not: two
//! of the same kind that come before the first is delivered are one. signal(7)
//!
//! # Beside others
//!
//! A handler that was there before is called as the kernel would call it, with its mask and flags and what came with the
//! signal. After a closure it is called on the library's thread, so it must not jump out to another thread's stack. One
//! that is installed later is seen by [`Coordinator::check`] or [`Options::watch`]; what is done then is
//! [`Options::if_replaced`]. Crates such as signal-hook, tokio and ctrlc are handlers like others, before or after. A second
//! copy of this library in the process is a stranger, too.
//!
//! The runtimes of Go and of Java ask three things of a handler beside theirs: that it is installed with `SA_ONSTACK`, since
//! their threads have small stacks; that it calls theirs; and that no thread of theirs is made to block their signals,
//! SIGSEGV above all. Ours does all that. It is without `SA_ONSTACK` only above a handler that was without it, which
//! therefore runs on the stack it expects. See the package `os/signal` of Go, and "Signal Chaining" of the Java virtual
//! machine.
//!
//! # Limits
//!
//! Direct functions and closures together are 256 at most. A closure that does not return holds up all others. A forked
//! child has no thread of ours: there closures are passed over, until the child registers one. A program that is executed
//! begins without handlers. The thread that is started for closures stays when the coordinator has gone, asleep.
//!
//! When a thread other than the main one calls [`std::process::exit`], Rust's standard library gives the main thread's alternate
//! stack back, which that thread goes on to use: a signal that is delivered to it after that, and handled by anybody with
//! `SA_ONSTACK`, ends the process by SIGSEGV. A program that ends so uninstalls its coordinator before, or blocks the signals
//! in its main thread.

mod deferred;
pub(crate) mod masks;
mod number;
mod options;
mod register;
mod watch;

use std::sync::atomic::{AtomicU64, Ordering};

pub use crate::fault::Uninstalled;
pub use crate::fault::inside::Outcome;
pub use deferred::{Delivered, Sender};
pub use number::Signal;
pub use options::{Before, Change, IfReplaced, Options};
pub use register::{DirectHandler, Priority, Registration, register, register_direct};

use crate::error::{Error, Result};
use crate::fault::chain;
use crate::fault::guard::{self, Put};
use crate::fault::outside;
use crate::fault::roles::{COORDINATED, ENDS, WIPES};
use crate::fault::thread;
use crate::locks;
use crate::os::signals::{self, Action, Mask};
use crate::registry::forks;
#[cfg(feature = "testing")]
use crate::registry::guards;
use options::{Hook, tell};
use watch::{Current, Watched};

/// The signals of the process's coordinator, those included that are left ignored.
static INSTALLED: AtomicU64 = AtomicU64::new(0);

/// The signals of the process's coordinator, if there is one.
#[cfg(feature = "testing")]
pub(crate) fn coordinated() -> Option<Vec<Signal>> {
    let mut turn = watch::turn().ok()?;
    turn.current()?.as_ref().map(|current| current.signals.iter().map(|watched| watched.signal).collect())
}

fn is_installed(signal: Signal) -> bool {
    INSTALLED.load(Ordering::Acquire) & signal.bit() != 0
}

/// The coordinator of the process's signals, until it is dropped.
#[derive(Debug)]
#[must_use = "the signals are given up when this is dropped; `keep` keeps them"]
pub struct Coordinator(());

impl Coordinator {
    /// Has our handler called for these signals, from now on.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyInstalled`]: a process has one coordinator at a time. [`Error::System`] where the system refuses,
    /// [`Error::LockTimeout`], [`Error::Unsupported`] for a signal that has been taken and taken back too often. Nothing is
    /// changed then.
    pub fn install(signals: &[Signal], options: Options) -> Result<Self> {
        #[cfg(feature = "testing")]
        guards::installing();
        let mut changes = Vec::new();
        let (hook, watch) = (options.hook.clone(), options.watch);
        forks::freeze_too(&watch::CURRENT)?;
        outside::settle_forks()?;
        {
            let mut turn = watch::turn()?;
            let current =
                turn.current().filter(|current| current.is_none()).ok_or(Error::AlreadyInstalled)?;
            thread::on_work(deferred::work);
            if watch.is_some() {
                thread::ensure()?;
            }
            let _changing = guard::changing()?;
            let signals = unique(signals);
            let mut watched = Vec::new();
            for &signal in &signals {
                if let Err(error) = put(signal, options.ends, &mut watched, &mut changes) {
                    for done in watched {
                        let _ = outside::take(done.signal.as_raw(), done.roles);
                    }
                    return Err(error);
                }
            }
            let of = |signals: &mut dyn Iterator<Item = Signal>| {
                signals.fold(0, |mask: Mask, one| mask | one.bit())
            };
            let ending = |watched: &&Watched| watched.roles & ENDS != 0;
            masks::set_ending(of(&mut watched.iter().filter(ending).map(|watched| watched.signal)));
            INSTALLED.store(of(&mut signals.into_iter()), Ordering::Release);
            *current = Some(Current { options, signals: watched });
        }
        watch::begin(watch);
        tell(hook.as_ref(), &changes);
        Ok(Self(()))
    }

    /// Gives the signals up. What was there before is there again, but where somebody has put a handler above ours: then
    /// it is [`Uninstalled::Dormant`]. Registrations stay, and are not asked until another coordinator has their signal.
    ///
    /// # Errors
    ///
    /// [`Error::System`] where the system refuses to give one of them up; [`Error::LockTimeout`].
    pub fn uninstall(self) -> Result<Uninstalled> {
        std::mem::ManuallyDrop::new(self).end()
    }

    /// Keeps the signals for as long as the process lives.
    pub fn keep(self) {
        let _ = std::mem::ManuallyDrop::new(self);
    }

    /// As the function [`register`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register(
        &self,
        signal: Signal,
        priority: Priority,
        handler: impl FnMut(&Delivered) -> Outcome + Send + 'static,
    ) -> Result<Registration> {
        register(signal, priority, handler)
    }

    /// Looks whether our handlers are installed, and does what [`Options::if_replaced`] says. Gives the signals for which
    /// somebody else's handler is installed after that.
    ///
    /// # Errors
    ///
    /// [`Error::System`], [`Error::LockTimeout`], [`Error::Unsupported`] for a signal that has been taken and taken back
    /// too often.
    pub fn check(&self) -> Result<Vec<Signal>> {
        watch::look()
    }

    fn end(&self) -> Result<Uninstalled> {
        let mut changes = Vec::new();
        let mut turn = watch::turn()?;
        let Some(current) = turn.current() else { return Ok(Uninstalled::Restored) };
        let (outcome, hook) = end_here(current, &mut changes);
        drop(turn);
        tell(hook.as_ref(), &changes);
        outcome
    }
}

/// Gives the signals up. By who has the coordinator's turn.
fn end_here(current: &mut Option<Current>, changes: &mut Vec<Change>) -> (Result<Uninstalled>, Option<Hook>) {
    let mut outcome = Ok(Uninstalled::Restored);
    let _changing = match guard::changing() {
        Ok(changing) => changing,
        Err(error) => return (Err(error), None),
    };
    let Some(Current { options, signals }) = current.take() else { return (outcome, None) };
    watch::begin(None);
    INSTALLED.store(0, Ordering::Release);
    masks::set_ending(0);
    for Watched { signal, roles, .. } in signals {
        match outside::take(signal.as_raw(), roles) {
            Ok(Uninstalled::Dormant) => {
                changes.push(Change::Dormant { signal });
                outcome = outcome.and(Ok(Uninstalled::Dormant));
            }
            Ok(Uninstalled::Restored) => changes.push(Change::Restored { signal }),
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    (outcome, options.hook)
}

#[cfg(feature = "testing")]
pub(crate) fn set_frozen(frozen: bool) -> bool {
    watch::set_frozen(frozen)
}

/// Waits for nobody. Where others are at the coordinator at this moment, they give the signals up when they are done, and
/// tell nobody.
impl Drop for Coordinator {
    fn drop(&mut self) {
        match locks::without_waiting(|| self.end()) {
            Ok(_) => {}
            Err(Error::LockTimeout(_)) => watch::leave(),
            Err(error) => {
                locks::user_code();
                tracing::warn!(%error, "the coordinator of signals could not be uninstalled");
            }
        }
    }
}

fn unique(signals: &[Signal]) -> Vec<Signal> {
    let mut signals = signals.to_vec();
    signals.sort_unstable();
    signals.dedup();
    signals
}

/// Takes one signal. Under [`guard::changing`].
fn put(signal: Signal, ends: bool, watched: &mut Vec<Watched>, changes: &mut Vec<Change>) -> Result<()> {
    let number = signal.as_raw();
    let ends = ends && chain::ends_by_default(number);
    if ends && signals::action(number)?.is_ignored() {
        changes.push(Change::LeftIgnored { signal });
        return Ok(());
    }
    let roles = if ends { COORDINATED | ENDS | WIPES } else { COORDINATED };
    let (Put::Installed(before) | Put::Joined(before)) = outside::put(number, roles)?;
    watched.push(Watched::new(signal, roles));
    changes.push(Change::Installed { signal, replaced: before_of(&before) });
    Ok(())
}

fn before_of(action: &Action) -> Before {
    if action.is_default() {
        Before::Default
    } else if action.is_ignored() {
        Before::Ignored
    } else {
        Before::Handler
    }
}

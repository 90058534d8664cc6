//! Forks: a child must find no key on a stack or in a register area of another thread of its parent.
//!
//! Keys and plaintext lie in memory that the kernel wipes in a child, but while a thread decrypts, parts of
//! the key are on its ordinary stack. So the fork hook (pthread_atfork(3)) raises a flag, waits until no
//! thread is in its window, a hundred nanoseconds or so, and lets the fork happen. A reader that
//! would open its window meanwhile waits until the flag falls. The reader sets its slot to WINDOW and then
//! looks at the flag; the hook raises the flag and then looks at the slots; both sequentially consistent, so
//! at least one sees the other.
//!
//! All waits are bounded. A `clone` system call made without the C library does not run the hook: a limit.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Outstanding};
use crate::os::{self, Call, CallError};
use crate::registry::{self, Frozen};

/// Forks in preparation or under way.
static FORKING: AtomicU32 = AtomicU32::new(0);
/// 0: not yet; [`INSTALLED`]; while a thread is at it: [`MAKING`] and the process id.
static HOOK: AtomicU32 = AtomicU32::new(0);
const INSTALLED: u32 = 1;
const MAKING: u32 = 1 << 31;
/// How long a thread waits for another that is installing it.
const INSTALLING: Duration = Duration::from_secs(1);

/// How long a fork waits for windows to close. They last a fraction of a microsecond unless their thread is
/// not scheduled.
const PATIENCE: Duration = Duration::from_millis(200);

thread_local! {
    // Without a destructor, so that its first use in a fork registers and allocates nothing.
    static FROZEN: Cell<Option<ManuallyDrop<Frozen>>> = const { Cell::new(None) };
}

/// Installs the hook, once in a process. When it returns without an error, the hook is there, whoever installed it.
pub(crate) fn install() -> Result<(), CallError> {
    install_once(&HOOK, INSTALLING, || os::on_fork(prepare, parent, child))
}

fn install_once(
    hook: &AtomicU32,
    patience: Duration,
    install: impl FnOnce() -> Result<(), CallError>,
) -> Result<(), CallError> {
    let making = MAKING | os::process_id();
    let started = Instant::now();
    loop {
        let seen = hook.load(Ordering::Acquire);
        if seen == INSTALLED {
            return Ok(());
        }
        // A child that was forked in the middle is alone: the one who was at it is not here. Had it been done, our
        // handler in the child would have said so.
        if seen != making {
            if hook.compare_exchange(seen, making, Ordering::AcqRel, Ordering::Acquire).is_err() {
                continue;
            }
            let outcome = install();
            hook.store(if outcome.is_ok() { INSTALLED } else { 0 }, Ordering::Release);
            os::wake_all(hook);
            return outcome;
        }
        let Some(left) = patience.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) else {
            return Err(CallError::new(Call::Atfork, libc::ETIMEDOUT));
        };
        os::wait_on(hook, seen, Some(left));
    }
}

/// Is a fork under way? To be asked after the slot was set to WINDOW.
#[inline]
pub(crate) fn pending() -> bool {
    FORKING.load(Ordering::SeqCst) != 0
}

/// Waits until no fork is under way.
#[cold]
pub(crate) fn wait_out(wait: Duration) -> Result<(), Error> {
    let started = Instant::now();
    loop {
        let forks = FORKING.load(Ordering::SeqCst);
        if forks == 0 {
            return Ok(());
        }
        let Some(left) = wait.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) else {
            let nobody = Outstanding::default();
            return Err(if wait.is_zero() {
                Error::Busy(nobody)
            } else {
                Error::Timeout { waited: started.elapsed(), holders: nobody }
            });
        };
        os::wait_on(&FORKING, forks, Some(left));
    }
}

extern "C" fn prepare() {
    FORKING.fetch_add(1, Ordering::SeqCst);
    let started = Instant::now();
    // Without the table we cannot know who is in a window: then the fork is not held up, a limit.
    let Ok(frozen) = registry::freeze() else { return };
    let me = registry::thread();
    let mut looks = 0u32;
    while frozen.window_open(me) && started.elapsed() < PATIENCE {
        looks += 1;
        if looks > 100 {
            std::thread::sleep(Duration::from_micros(50));
        } else {
            std::hint::spin_loop();
        }
    }
    // Kept across the fork, so that the child does not inherit a table lock that nobody will ever open.
    let _ = FROZEN.try_with(|kept| kept.set(Some(ManuallyDrop::new(frozen))));
}

fn thaw() {
    if let Ok(Some(frozen)) = FROZEN.try_with(Cell::take) {
        drop(ManuallyDrop::into_inner(frozen));
    }
}

extern "C" fn parent() {
    thaw();
    if FORKING.fetch_sub(1, Ordering::SeqCst) == 1 {
        os::wake_all(&FORKING);
    }
}

extern "C" fn child() {
    thaw();
    // Another thread of our parent may have been about to wipe what is our parent's.
    registry::dying::forget_in_child();
    registry::vaults::forget_in_child();
    crate::fault::chain::own_in_child();
    registry::rename_in_child();
    crate::events::begin_in_child();
    // Also where our parent was about to note it.
    HOOK.store(INSTALLED, Ordering::Release);
    // Other threads that were forking at the same time are not here to take their count back.
    FORKING.store(0, Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    const REFUSED: CallError = CallError::new(Call::Atfork, libc::ENOMEM);

    #[test]
    fn it_is_installed_once_and_after_a_refusal_again() {
        let hook = AtomicU32::new(0);
        let install = |outcome| install_once(&hook, INSTALLING, || outcome);
        assert_eq!(install(Err(REFUSED)), Err(REFUSED));
        assert_eq!(install(Ok(())), Ok(()));
        assert_eq!(install(Err(REFUSED)), Ok(()), "not called");
    }

    #[test]
    fn a_second_installer_waits_for_the_first_and_does_its_work_where_that_failed() {
        for outcome in [Ok(()), Err(REFUSED)] {
            let (hook, begun, called) = (AtomicU32::new(0), AtomicBool::new(false), AtomicBool::new(false));
            std::thread::scope(|scope| {
                let first = scope.spawn(|| {
                    install_once(&hook, INSTALLING, || {
                        begun.store(true, Ordering::Release);
                        std::thread::sleep(Duration::from_millis(50));
                        assert!(!called.load(Ordering::Acquire), "the second waits");
                        outcome
                    })
                });
                while !begun.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                let second = install_once(&hook, Duration::from_secs(60), || {
                    called.store(true, Ordering::Release);
                    Ok(())
                });
                assert_eq!(second, Ok(()));
                assert_eq!(first.join().ok(), Some(outcome));
            });
            assert_eq!(called.load(Ordering::Acquire), outcome.is_err());
        }
    }

    #[test]
    fn nobody_waits_for_ever_and_another_process_is_not_waited_for() {
        let hook = AtomicU32::new(MAKING | os::process_id());
        let late = install_once(&hook, Duration::from_millis(20), || Ok(()));
        assert_eq!(late, Err(CallError::new(Call::Atfork, libc::ETIMEDOUT)));
        let hook = AtomicU32::new(MAKING | (os::process_id() + 1));
        assert_eq!(install_once(&hook, INSTALLING, || Ok(())), Ok(()));
        assert_eq!(hook.into_inner(), INSTALLED);
    }
}

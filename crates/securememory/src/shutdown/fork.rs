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
use crate::locks::{Freeze, Guard};
use crate::os::{self, Call, CallError, errno};
use crate::registry::forks::{self, Forks};
use crate::registry::{self, Frozen};
use crate::shutdown::mark;

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

/// How long a fork waits for each of the process's locks.
const LOCKS: Duration = Duration::from_secs(1);

/// What a thread has in hand while it forks. Kept across the fork, so that a child does not inherit a lock that nobody
/// will ever open.
struct Held {
    tables: Option<Frozen>,
    growing: bool,
    /// Of [`Forks::locks`], as bits.
    locks: u64,
    // Last, so that one thread at a time is at all of them.
    forks: Guard<'static, Forks>,
}

thread_local! {
    // Without a destructor, so that its first use in a fork registers and allocates nothing.
    static HELD: Cell<Option<ManuallyDrop<Held>>> = const { Cell::new(None) };
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
            return Err(CallError::new(Call::Atfork, errno::ETIMEDOUT));
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
    if !pending() {
        return Ok(());
    }
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
    // Without it another thread has been forking for a second: then nothing is held up, a limit.
    let Ok(mut forks) = forks::begin() else { return };
    let inherits = !forks.hold().is_empty();
    let mut tables = settle();
    if inherits {
        // Whoever has a lock of a vault's may wait for the table. Windows stay closed: who would open one waits for us.
        drop(tables.take());
        forks.held().iter().for_each(|vault| vault.prepare());
        tables = settle();
    }
    let freezes = |(bit, &lock): (usize, &&dyn Freeze)| u64::from(lock.freeze(LOCKS)) << (bit % 64);
    let locks = forks.locks().iter().enumerate().map(freezes).fold(0, |all, one| all | one);
    let growing = registry::freeze_growth(LOCKS);
    let _ = HELD.try_with(|held| held.set(Some(ManuallyDrop::new(Held { tables, growing, locks, forks }))));
}

/// Waits until no other thread is in its window. Without the table we cannot know: then the fork is not held up, a limit.
fn settle() -> Option<Frozen> {
    let started = Instant::now();
    let frozen = registry::freeze().ok()?;
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
    Some(frozen)
}

/// Gives everything back. `vaults`: what becomes of those that are inherited.
fn thaw(thaw: fn(&dyn Freeze), vaults: impl FnOnce(&Forks)) {
    let Ok(Some(held)) = HELD.try_with(Cell::take) else { return };
    let Held { tables, growing, locks, mut forks } = ManuallyDrop::into_inner(held);
    if growing {
        registry::thaw_growth(thaw);
    }
    for (bit, &lock) in forks.locks().iter().enumerate().filter(|(bit, _)| locks >> (bit % 64) & 1 != 0) {
        debug_assert!(bit < 64, "more locks than bits");
        thaw(lock);
    }
    drop(tables);
    vaults(&forks);
    forks.release();
}

extern "C" fn parent() {
    thaw(|lock| lock.thaw(), |forks| forks.held().iter().for_each(|vault| vault.after()));
    if FORKING.fetch_sub(1, Ordering::SeqCst) == 1 {
        os::wake_all(&FORKING);
    }
}

extern "C" fn child() {
    // Other threads that were forking at the same time are not here to take their count back.
    FORKING.store(0, Ordering::SeqCst);
    // Also where our parent was about to note it.
    HOOK.store(INSTALLED, Ordering::Release);
    let whole = !registry::dying::has_begun();
    // Another thread of our parent may have been about to wipe what is our parent's.
    registry::dying::forget_in_child();
    registry::rename_in_child();
    crate::events::begin_in_child();
    // Without it nothing is inherited, and nothing is to be.
    let _ = mark::renew();
    thaw(|lock| lock.thaw_in_child(), |forks| forks.held().iter().for_each(|vault| vault.adopt(whole)));
    registry::vaults::forget_in_child();
    crate::fault::chain::own_in_child();
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    const REFUSED: CallError = CallError::new(Call::Atfork, errno::ENOMEM);

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
        assert_eq!(late, Err(CallError::new(Call::Atfork, errno::ETIMEDOUT)));
        let hook = AtomicU32::new(MAKING | (os::process_id() + 1));
        assert_eq!(install_once(&hook, INSTALLING, || Ok(())), Ok(()));
        assert_eq!(hook.into_inner(), INSTALLED);
    }
}

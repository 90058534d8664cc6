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
use crate::os::{self, CallError};
use crate::registry::{self, Frozen};

/// Forks in preparation or under way.
static FORKING: AtomicU32 = AtomicU32::new(0);
/// 0: not yet; 1: being installed; 2: installed.
static HOOK: AtomicU32 = AtomicU32::new(0);

/// How long a fork waits for windows to close. They last a fraction of a microsecond unless their thread is
/// not scheduled.
const PATIENCE: Duration = Duration::from_millis(200);

thread_local! {
    // Without a destructor, so that its first use in a fork registers and allocates nothing.
    static FROZEN: Cell<Option<ManuallyDrop<Frozen>>> = const { Cell::new(None) };
}

/// Installs the hook, once in a process.
pub(crate) fn install() -> Result<(), CallError> {
    match HOOK.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            let outcome = os::on_fork(prepare, parent, child);
            HOOK.store(if outcome.is_ok() { 2 } else { 0 }, Ordering::Release);
            outcome
        }
        Err(_) => Ok(()),
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
    // Other threads that were forking at the same time are not here to take their count back.
    FORKING.store(0, Ordering::SeqCst);
}

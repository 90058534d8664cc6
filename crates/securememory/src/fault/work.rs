//! What every system's thread of the coordinator's has ([`super::thread`]): whose it is, what it has to do, and the walk over all
//! signals.

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::chain::{self, Station, WORK};
use crate::os;
use crate::os::signals::MAX_SIGNAL;

/// The process whose thread it is; zero: there is none. With the bit that is none of an id: somebody is starting it.
pub(super) static PROCESS: AtomicU32 = AtomicU32::new(0);
/// Its id.
pub(super) static ID: AtomicU32 = AtomicU32::new(0);

/// What else there is to do, a [`Work`]; null: nothing. (No `OnceLock`, in which a thread may have to wait for another.)
static ON_WORK: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// It says how soon it wants to be asked again without being woken.
pub(crate) type Work = fn() -> Option<Duration>;

#[allow(unsafe_code)]
pub(super) fn other_work() -> Option<Work> {
    let work = ON_WORK.load(Ordering::Acquire);
    // SAFETY: put there by `on_work`, unless it is null.
    (!work.is_null()).then(|| unsafe { std::mem::transmute::<*mut (), Work>(work) })
}

/// Signals whose handler has been put back and whom that was not told, as bits. None on Windows, where nobody puts ours away.
pub(crate) static BACK: AtomicU64 = AtomicU64::new(0);

/// Does a process have its thread?
pub(crate) fn is_of(process: u32) -> bool {
    PROCESS.load(Ordering::Acquire) == process
}

/// Is this the thread?
pub(crate) fn is_here() -> bool {
    ID.load(Ordering::Relaxed) == os::thread_id() as u32 && is_of(os::process_id())
}

/// Wakes the thread. Callable in a signal handler.
pub(crate) fn wake() {
    WORK.fetch_add(1, Ordering::Release);
    os::wake_all(&WORK);
}

/// Has the thread do something else, each time that it is woken.
pub(crate) fn on_work(work: Work) {
    ON_WORK.store(work as *mut (), Ordering::Release);
}

/// All signals.
pub(crate) fn all_stations() -> impl Iterator<Item = (i32, &'static Station)> {
    (1..=MAX_SIGNAL as i32).filter_map(|signal| Some((signal, chain::station(signal)?)))
}

/// What becomes of a delivery that has been handed to the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Onward {
    /// To whoever was there before us.
    Pass,
    /// The end of the process, after a wipe.
    End,
}

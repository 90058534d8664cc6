//! The thread on which the coordinator's closures are called ([`on_work`]).
//!
//! It is started when it is first needed, sleeps unless there is something to do, and lives as long as the process.

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::chain::{self, ENDING, HANDLED, PASSING, Station, WORK};
use crate::error::{Error, Result};
use crate::os::signals::{self, MAX_SIGNAL, WORDS};
use crate::os::{self, Call, CallError, errno};

/// The process, once it has its thread. With [`STARTING`]: somebody is starting it.
static PROCESS: AtomicU32 = AtomicU32::new(0);
/// Process ids are multiples of four.
const STARTING: u32 = 1;
/// Its id.
static ID: AtomicU32 = AtomicU32::new(0);

/// What there is to do, a [`Work`]; null: nothing.
static ON_WORK: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// It says how soon it wants to be asked again without being woken.
type Work = fn() -> Option<Duration>;

#[allow(unsafe_code)]
fn work() -> Option<Work> {
    let work = ON_WORK.load(Ordering::Acquire);
    // SAFETY: put there by `on_work`, unless it is null.
    (!work.is_null()).then(|| unsafe { std::mem::transmute::<*mut (), Work>(work) })
}

/// Signals whose handler has been put back: none, since nobody puts ours away.
pub(crate) static BACK: AtomicU64 = AtomicU64::new(0);

/// Does a process have its thread?
pub(crate) fn is_of(process: u32) -> bool {
    PROCESS.load(Ordering::Acquire) == process
}

/// Is this the thread?
pub(crate) fn is_here() -> bool {
    ID.load(Ordering::Relaxed) == os::thread_id() as u32 && is_of(os::process_id())
}

/// Wakes the thread.
pub(crate) fn wake() {
    WORK.fetch_add(1, Ordering::Release);
    os::wake_all(&WORK);
}

/// Has the thread do something, each time that it is woken.
pub(crate) fn on_work(work: Work) {
    ON_WORK.store(work as *mut (), Ordering::Release);
}

/// Sees to it that there is a thread.
pub(crate) fn ensure() -> Result<()> {
    let (process, started) = (os::process_id(), Instant::now());
    loop {
        match PROCESS.compare_exchange(0, process | STARTING, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => break,
            Err(seen) if seen == process => return Ok(()),
            Err(_) if started.elapsed() > Duration::from_secs(1) => {
                return Err(CallError::new(Call::ThreadCreate, errno::ETIMEDOUT).into());
            }
            Err(_) => signals::pause(1_000_000),
        }
    }
    let outcome = os::spawn("securememory", run);
    PROCESS.store(if outcome.is_ok() { process } else { 0 }, Ordering::Release);
    outcome.map_err(Error::from)
}

/// All signals.
pub(crate) fn all_stations() -> impl Iterator<Item = (i32, &'static Station)> {
    (1..=MAX_SIGNAL as i32).filter_map(|signal| Some((signal, chain::station(signal)?)))
}

fn run() {
    ID.store(os::thread_id() as u32, Ordering::Relaxed);
    loop {
        // Before it looks: what comes while it looks keeps it from going to sleep.
        let seen = WORK.load(Ordering::Acquire);
        let again = work().and_then(|work| work());
        os::wait_on(&WORK, seen, again);
    }
}

/// What becomes of a delivery that has been handed to the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Onward {
    /// To whoever was there before us.
    Pass,
    /// The end of the process, after a wipe.
    End,
}

/// Tells the event's own thread, which waits for it.
pub(crate) fn send_on(_: i32, station: &Station, _: Option<&[u64; WORDS]>, onward: Onward) {
    tell(station, if onward == Onward::End { ENDING } else { PASSING });
}

/// A delivery is done with.
pub(crate) fn handled(station: &Station) {
    tell(station, HANDLED);
}

fn tell(station: &Station, answer: u32) {
    station.answer.store(answer, Ordering::Release);
    os::wake_all(&station.answer);
}

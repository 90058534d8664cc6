//! The thread on which the coordinator's closures are called ([`on_work`]).
//!
//! It is started when it is first needed, sleeps unless there is something to do, and lives as long as the process.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::chain::{HANDLED, Station, WORK};
use super::roles::{ENDING, PASSING};
pub(crate) use super::work::{BACK, Onward, all_stations, is_here, is_of, on_work, wake};
use super::work::{ID, PROCESS, other_work};
use crate::error::{Error, Result};
use crate::os::signals::{self, WORDS};
use crate::os::{self, Call, CallError, errno};

/// Process ids are multiples of four.
const STARTING: u32 = 1;
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

fn run() {
    ID.store(os::thread_id() as u32, Ordering::Relaxed);
    loop {
        // Before it looks: what comes while it looks keeps it from going to sleep.
        let seen = WORK.load(Ordering::Acquire);
        let again = other_work().and_then(|work| work());
        os::wait_on(&WORK, seen, again);
    }
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

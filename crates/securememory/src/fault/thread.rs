//! The thread that does what a signal handler must not: it puts our handler back where that has made place for another,
//! and carries out what the coordinator has deferred ([`on_work`]).
//!
//! It is started when it is first needed, sleeps unless there is something to do, and lives as long as the process. No
//! signal is delivered to it but those that it sends to itself, to send a delivery on. A forked child has no such thread,
//! until something in it needs one.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::chain::{self, Station, WORK};
use super::guard::{self, Holder};
use super::inside;
use super::outside;
use super::roles::{ASIDE, ENDING, PASSING};
pub(crate) use super::work::{BACK, Onward, all_stations, is_here, is_of, on_work, wake};
use super::work::{ID, PROCESS, other_work};
use crate::error::{Error, Result};
use crate::locks;
use crate::os::signals::{self, WORDS};
use crate::os::{self, Call, CallError};
use crate::registry::deliveries;
use crate::registry::handlers::{self, DEFERRED};

/// Above all process ids. proc_sys_kernel(5), `pid_max`
const STARTING: u32 = 1 << 31;
/// For how long our handler makes place: for the kernel to call the other one, which it does when ours has returned.
/// Were it too short, ours would be called once more for the same delivery, and make place again: so each time it is
/// eight times as long, as it must be under a debugger that looks at every signal.
const PLACE: Duration = Duration::from_millis(1);
const LONGEST_PLACE: Duration = Duration::from_secs(5);
/// What comes as late as this after we were back is another one, however like it may be.
const LATE: Duration = Duration::from_secs(30);
/// Between attempts at what was refused.
const RETRY: Duration = Duration::from_millis(100);

/// Sees to it that there is a thread.
pub(crate) fn ensure() -> Result<()> {
    let (process, started) = (os::process_id(), Instant::now());
    loop {
        let seen = PROCESS.load(Ordering::Acquire);
        if seen == process {
            return Ok(());
        }
        if seen == process | STARTING {
            if started.elapsed() > Duration::from_secs(1) {
                return Err(CallError::new(Call::ThreadCreate, libc::ETIMEDOUT).into());
            }
            signals::pause(100_000);
            continue;
        }
        if PROCESS.compare_exchange(seen, process | STARTING, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            continue;
        }
        if seen != 0 {
            forget_parent();
        }
        // It begins with them blocked, see `run`.
        let before = signals::block(outside::faults());
        let outcome = os::spawn("securememory", move || run(process));
        if let Ok(before) = before {
            signals::set_mask(before);
        }
        PROCESS.store(if outcome.is_ok() { process } else { 0 }, Ordering::Release);
        return outcome.map_err(Error::from);
    }
}

/// What waited for our parent's thread is our parent's.
fn forget_parent() {
    for station in all_stations().map(|(_, station)| station) {
        station.waiting.store(0, Ordering::Release);
        station.sent_on.store(0, Ordering::Release);
    }
    deliveries::forget();
    let deferred =
        handlers::used().iter().filter(|handler| handler.state.load(Ordering::Acquire) == DEFERRED);
    deferred.for_each(handlers::Handler::forget_runner);
}

fn run(process: u32) {
    ID.store(os::thread_id() as u32, Ordering::Relaxed);
    // Nothing that is sent to the process comes here, not even a fault that somebody sends. But where code of the program's
    // runs, a fault must find its handler.
    let mut back = Instant::now();
    loop {
        // Before it looks: what comes while it looks keeps it from going to sleep.
        let seen = WORK.load(Ordering::Acquire);
        let refused = !come_back(&mut back);
        let again = other_work().and_then(with_faults);
        // Somebody's handler has forked: this is the child, whose only thread this is, and it has come to its end.
        if os::process_id() != process {
            return;
        }
        let again = [again, refused.then_some(RETRY)].into_iter().flatten().min();
        os::wait_on(&WORK, seen, again);
    }
}

fn with_faults<T>(work: impl FnOnce() -> T) -> T {
    let before = signals::unblock(outside::faults());
    let result = work();
    if let Some(before) = before {
        signals::set_mask(before);
    }
    result
}

/// For how long place is made where it was made so often in a row for the same delivery.
fn place(again: u32) -> Duration {
    PLACE.saturating_mul(8_u32.saturating_pow(again)).min(LONGEST_PLACE)
}

/// Puts our handlers back where they have made place; false: that was refused.
fn come_back(back: &mut Instant) -> bool {
    let aside = || all_stations().filter(|(_, station)| station.roles.now() & ASIDE != 0);
    let Some(again) = aside().map(|(_, station)| station.made_again()).max() else { return true };
    std::thread::sleep(place(if back.elapsed() < LATE { again } else { 0 }));
    *back = Instant::now();
    let Ok(changing) = guard::changing() else { return false };
    let mut failed = None;
    for (signal, _) in aside() {
        match outside::come_back(signal) {
            Ok(Holder::Back) => _ = BACK.fetch_or(1 << (signal - 1), Ordering::AcqRel),
            Ok(_) => {}
            Err(error) => failed = Some((signal, error)),
        }
    }
    drop(changing);
    if let Some((signal, error)) = failed {
        locks::user_code();
        tracing::warn!(%error, signal, "our signal handler has made place and could not be put back");
    }
    failed.is_none()
}

/// Sends a delivery on, with what came with it. On the thread: it sends the signal to itself, and lets it through.
pub(crate) fn send_on(signal: i32, station: &Station, words: Option<&[u64; WORDS]>, onward: Onward) {
    let on_top = outside::is_on_top(signal);
    match onward {
        // Whoever has put a handler above ours has had it already.
        Onward::Pass if !on_top && station.levels() > 0 => return pass_here(signal, words),
        Onward::End if !on_top => chain::end_here(signal),
        _ => {}
    }
    let what = if onward == Onward::End { ENDING } else { PASSING };
    station.sent_on.store(what, Ordering::Release);
    if !words.is_some_and(|words| signals::send_words(signal, words)) {
        signals::send(signal);
    }
    let_through(signal);
    // Where our handler has been exchanged in between the signal has gone to whoever has it now.
    if station.sent_on.swap(0, Ordering::AcqRel) == ENDING {
        chain::end_here(signal);
    }
}

/// A delivery is done with. Nobody waits for that.
pub(crate) fn handled(_: &Station) {}

fn let_through(signal: i32) {
    if let Some(before) = signals::unblock(signals::bit(signal)) {
        signals::set_mask(before);
    }
}

/// Calls the handler that was there before ours as if it were called by ours. It sees the thread's mask, and no registers.
#[allow(unsafe_code)]
fn pass_here(signal: i32, words: Option<&[u64; WORDS]>) {
    let mut words = words.copied().unwrap_or_else(|| signals::words_of(signal));
    let mut context = signals::context_here();
    // SAFETY: both live over the call.
    unsafe { inside::pass_outside(signal, words.as_mut_ptr().cast(), (&raw mut context).cast()) };
    // What it has sent to this thread: the default action.
    let_through(signal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_is_made_for_longer_each_time_and_not_for_ever() {
        // Milliseconds, not a page size.
        assert_eq!([0, 1, 4].map(place), [1, 8, 4096].map(Duration::from_millis));
        assert_eq!([5, 11, u32::MAX].map(place), [LONGEST_PLACE; 3]);
    }
}

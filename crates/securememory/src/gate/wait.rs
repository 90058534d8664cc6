//! Sleeping until a state word changes, with a deadline, without a queue or an allocation.
//!
//! A sleeper reads the event word that belongs to the address of its state word, sets WAITERS, looks at
//! the state once more, and sleeps on the event word. Whoever changes the state and finds WAITERS clears
//! it, counts the event word up and wakes all who sleep on it. Between the sleeper's last look and its
//! sleep the event word may move on: then the kernel refuses the sleep. Several state words share an event
//! word; a wake meant for another is a look in vain, nothing more.
//!
//! No wake is lost. The sleeper's setting of WAITERS and the changer's change are read-modify-writes of one word, so one
//! comes first: then the sleeper's look sees the change, or the changer sees WAITERS. Unless a third one that
//! changed the word before has cleared WAITERS in between; then its count of the event word comes after its
//! clearing, and so after the sleeper's first look, and the sleep is refused or ended. (In the other order, count first
//! and clear then, the sleeper could have read the new count already.) Acquire and Release order all that; it is
//! SeqCst because nobody is in a hurry here.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::word::WAITERS;
#[cfg(all(loom, test))]
use crate::sync::event_of;
use crate::sync::{self, AtomicU64};

#[cfg(not(all(loom, test)))]
const EVENTS: usize = 64;
#[cfg(not(all(loom, test)))]
static EVENT: [sync::AtomicU32; EVENTS] = [const { sync::AtomicU32::new(0) }; EVENTS];

/// Nobody sleeps longer than this without a look, so that a waker that died (in a forked child, say) costs
/// time and not the program.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);

#[cfg(not(all(loom, test)))]
fn event_of(word: &AtomicU64) -> &'static sync::AtomicU32 {
    // State words lie at least 64 bytes apart.
    &EVENT[(std::ptr::from_ref(word).addr() >> 6) % EVENTS]
}

/// When a wait ends.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    started: Instant,
    wait: Duration,
}

impl Deadline {
    pub(crate) fn after(wait: Duration) -> Self {
        Self { started: Instant::now(), wait }
    }

    /// What is left; `None` when it has passed.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.wait.checked_sub(self.started.elapsed()).filter(|left| !left.is_zero())
    }

    pub(crate) fn waited(&self) -> Duration {
        self.started.elapsed()
    }

    /// A wait of zero: refuse instead of waiting.
    pub(crate) fn is_immediate(&self) -> bool {
        self.wait.is_zero()
    }
}

/// Sleeps until `ready` holds for the word or the deadline passes; says whether it holds.
pub(crate) fn wait_until(word: &AtomicU64, deadline: Deadline, ready: impl Fn(u64) -> bool) -> bool {
    if ready(word.load(Ordering::Acquire)) {
        return true;
    }
    let event = event_of(word);
    loop {
        let seen = event.load(Ordering::Acquire);
        // SeqCst against the waker's read-modify-write of the same word: one of the two sees the other.
        if ready(word.fetch_or(WAITERS, Ordering::SeqCst)) {
            return true;
        }
        let Some(left) = deadline.left() else { return false };
        sync::wait_on(event, seen, Some(left.min(LONGEST_SLEEP)));
    }
}

/// Sleeps until someone changes the word, or for `nap`.
pub(crate) fn sleep(word: &AtomicU64, nap: Duration) {
    let event = event_of(word);
    let seen = event.load(Ordering::Acquire);
    word.fetch_or(WAITERS, Ordering::SeqCst);
    sync::doze(event, seen, nap);
}

/// To be called with the word as it was before a change that someone may wait for.
#[inline]
pub(crate) fn wake_after(word: &AtomicU64, before: u64) {
    if before & WAITERS != 0 {
        wake(word);
    }
}

#[cold]
fn wake(word: &AtomicU64) {
    word.fetch_and(!WAITERS, Ordering::SeqCst);
    let event = event_of(word);
    event.fetch_add(1, Ordering::SeqCst);
    sync::wake_all(event);
}

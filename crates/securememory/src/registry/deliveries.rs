//! What came with the signals that wait for the coordinator's thread. Put here by the signal handler, without waiting for
//! anybody; where there is no room the delivery is counted all the same, but what came with it is not known.

#![cfg_attr(windows, allow(dead_code, reason = "nothing comes with a console event"))]

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use crate::os::signals::WORDS;

/// Deliveries that are remembered at the same time.
const ROOM: usize = 128;

const EMPTY: u32 = 0;
const FILLING: u32 = 1;
const FULL: u32 = 2;

struct Place {
    state: AtomicU32,
    signal: AtomicI32,
    /// Lower ones came earlier.
    ticket: AtomicU64,
    words: [AtomicU64; WORDS],
}

static PLACES: [Place; ROOM] = [const {
    Place {
        state: AtomicU32::new(EMPTY),
        signal: AtomicI32::new(0),
        ticket: AtomicU64::new(0),
        words: [const { AtomicU64::new(0) }; WORDS],
    }
}; ROOM];

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Remembers one, if there is room.
pub(crate) fn put(signal: i32, word: impl Fn(usize) -> u64) {
    let free = |place: &&Place| {
        place.state.load(Ordering::Relaxed) == EMPTY
            && place.state.compare_exchange(EMPTY, FILLING, Ordering::Acquire, Ordering::Relaxed).is_ok()
    };
    let Some(place) = PLACES.iter().find(free) else { return };
    place.signal.store(signal, Ordering::Relaxed);
    place.ticket.store(NEXT.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    let mut index = 0_usize;
    for to in &place.words {
        to.store(word(index), Ordering::Relaxed);
        index = index.wrapping_add(1);
    }
    place.state.store(FULL, Ordering::Release);
}

/// The earliest one of a signal. Called by one thread only.
pub(crate) fn take(signal: i32) -> Option<[u64; WORDS]> {
    let of = |place: &&Place| {
        place.state.load(Ordering::Acquire) == FULL && place.signal.load(Ordering::Relaxed) == signal
    };
    let place = PLACES.iter().filter(of).min_by_key(|place| place.ticket.load(Ordering::Relaxed))?;
    let mut words = [0; WORDS];
    words.iter_mut().zip(&place.words).for_each(|(to, from)| *to = from.load(Ordering::Relaxed));
    place.state.store(EMPTY, Ordering::Release);
    Some(words)
}

/// What waited for a parent's thread is not for its child.
pub(crate) fn forget() {
    PLACES.iter().for_each(|place| place.state.store(EMPTY, Ordering::Release));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_out_as_they_went_in_and_only_so_many() {
        let taken = |signal| take(signal).map(|words| words[0]);
        (1..=3).for_each(|n| put(1, |_| n));
        put(2, |_| 7);
        assert_eq!(taken(1), Some(1));
        // In the place that has become free, before the others.
        put(1, |_| 4);
        assert_eq!(
            [taken(1), taken(1), taken(1), taken(1), taken(2)],
            [Some(2), Some(3), Some(4), None, Some(7)]
        );
        (0..200).for_each(|n| put(1, |_| n));
        (0..ROOM as u64).for_each(|n| assert_eq!(taken(1), Some(n)));
        assert_eq!(taken(1), None);
        put(1, |_| 1);
        forget();
        assert_eq!(taken(1), None);
    }
}

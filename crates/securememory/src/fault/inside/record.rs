//! The report of the last fault, where it can be read afterwards: in this process, or in its core. And the line on
//! standard error.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};

use crate::fault::report::FaultReport;
use crate::fault::words;
use crate::os::signals;

/// Bytes of a line at most. The longest label is 255 of them.
const LINE: usize = 768;

struct Record {
    /// Odd while it is being written.
    turn: AtomicU32,
    report: UnsafeCell<FaultReport>,
    line: UnsafeCell<[u8; LINE]>,
}

// SAFETY: written by whoever has made the turn odd; readers throw away what they have read if the turn has changed.
#[allow(unsafe_code)]
unsafe impl Sync for Record {}

static RECORD: Record = Record {
    turn: AtomicU32::new(0),
    report: UnsafeCell::new(FaultReport::EMPTY),
    line: UnsafeCell::new([0; LINE]),
};

/// Faults in our memory so far.
pub(crate) static SEEN: AtomicUsize = AtomicUsize::new(0);

/// Writes the report down and tells it. Where another thread is at it for long, nothing is written.
#[allow(unsafe_code)]
pub(super) fn keep(write: impl FnOnce(&mut FaultReport)) {
    SEEN.fetch_add(1, Ordering::Relaxed);
    let mut looks = 0_u32;
    let turn = loop {
        let turn = RECORD.turn.load(Ordering::Relaxed);
        let odd = turn.wrapping_add(1);
        if turn & 1 == 0
            && RECORD.turn.compare_exchange(turn, odd, Ordering::Acquire, Ordering::Relaxed).is_ok()
        {
            break odd;
        }
        if looks == 100 {
            return;
        }
        looks = looks.wrapping_add(1);
        signals::pause(100_000);
    };
    fence(Ordering::Release);
    // SAFETY: the turn is odd, so nobody else writes.
    let (report, line) = unsafe { (&mut *RECORD.report.get(), &mut *RECORD.line.get()) };
    write(report);
    let mut len = 0_usize;
    let mut add = |piece: &[u8]| {
        for &byte in piece {
            // Room for the line's end is kept.
            if let Some(place) = line.get_mut(len).filter(|_| len < LINE - 1) {
                // A label must not be able to pretend that a line ends.
                *place = if byte < b' ' { b'?' } else { byte };
                len = len.wrapping_add(1);
            }
        }
    };
    add(b"securememory: ");
    words::say(report, &mut add);
    if let Some(place) = line.get_mut(len) {
        *place = b'\n';
        len = len.wrapping_add(1);
    }
    signals::tell(line.get(..len).unwrap_or_default());
    RECORD.turn.store(turn.wrapping_add(1), Ordering::Release);
}

/// The report of the last fault.
pub(crate) fn last() -> Option<FaultReport> {
    copy(&mut MaybeUninit::uninit()).copied()
}

/// Copies the report of the last fault, without a second copy on the way.
#[inline(never)]
#[allow(unsafe_code)]
pub(super) fn copy(report: &mut MaybeUninit<FaultReport>) -> Option<&FaultReport> {
    if SEEN.load(Ordering::Relaxed) == 0 {
        return None;
    }
    for _ in 0..1000 {
        let before = RECORD.turn.load(Ordering::Acquire);
        if before == 0 {
            return None;
        }
        if before & 1 == 0 {
            // SAFETY: plain bytes, of which any are copied as they are; they are looked at only if nobody has written
            // meanwhile.
            unsafe { report.as_mut_ptr().copy_from_nonoverlapping(RECORD.report.get(), 1) };
            fence(Ordering::Acquire);
            if RECORD.turn.load(Ordering::Relaxed) == before {
                // SAFETY: written whole by `keep`, or as it was at first.
                return Some(unsafe { report.assume_init_ref() });
            }
        }
        signals::pause(10_000);
    }
    None
}

//! Views that a close has left, and that are revoked when their time comes.
//!
//! The time is noted in the view's slot, together with the slot's turn. So a note that comes too late, when the slot has
//! gone to another view, concerns nobody.

use std::sync::atomic::Ordering;

use crate::events::{self, Note};
use crate::os;
use crate::region::lease;
use crate::registry::{BUSY, FREE, OWNED, REVOKED, Slot};

/// Steps of the time in a note: 2^23 ns, about 8 ms.
const STEP_BITS: u32 = 23;

/// Times further ahead than this cannot be told from past ones: about 208 days. Then nothing is noted.
const HORIZON: u64 = 1 << (31 + STEP_BITS);

/// Never zero, so that zero is no note.
fn note(turn: u32, at: u64) -> u64 {
    u64::from(turn) << 32 | u64::from((at >> STEP_BITS) as u32 | 1)
}

/// Nanoseconds from `now` to the time in a note; negative: it has come.
fn ahead(note: u64, now: u64) -> i64 {
    let steps = (note as u32).wrapping_sub((now >> STEP_BITS) as u32 | 1) as i32;
    i64::from(steps) << STEP_BITS
}

impl Slot {
    /// Notes that the view that is here, if it is one of those that `concerned` says by the id of their secret, is revoked
    /// at this time of [`os::coarse_now`]. Says whether there is one.
    pub(crate) fn revoke_at(&self, at: u64, concerned: impl Fn(u64) -> bool) -> bool {
        if at.saturating_sub(os::coarse_now()) >= HORIZON {
            return false;
        }
        loop {
            // Before whose view it is: if it is another's by then, the turn is over.
            let turn = self.turns.load(Ordering::Acquire);
            let before = self.revocation.load(Ordering::Relaxed);
            let in_use = !matches!(self.state.load(Ordering::Acquire), FREE | BUSY);
            if !in_use || !concerned(self.secret.load(Ordering::Acquire)) {
                return false;
            }
            let mark = note(turn, at);
            if self.revocation.compare_exchange(before, mark, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return self.turns.load(Ordering::Acquire) == turn;
            }
        }
    }

    /// Has the time of the view that is here come?
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.revocation.load(Ordering::Relaxed) != 0
            && self.left(os::coarse_now()).is_some_and(|left| left <= 0)
    }

    /// Nanoseconds that the view that is here has left; `None`: no time is set.
    #[cold]
    fn left(&self, now: u64) -> Option<i64> {
        let note = self.revocation.load(Ordering::Acquire);
        let is_current = note != 0 && (note >> 32) as u32 == self.turns.load(Ordering::Acquire);
        is_current.then(|| ahead(note, now))
    }
}

/// Revokes the view that is here if its time has come. Otherwise says when that will be; `None`: never.
pub(crate) fn revoke_if_due(slot: &Slot, now: u64) -> Option<u64> {
    if slot.revocation.load(Ordering::Relaxed) == 0 {
        return None;
    }
    match slot.left(now) {
        Some(left) if left > 0 => Some(now.saturating_add(left.unsigned_abs())),
        Some(_) => {
            if slot.state.load(Ordering::Relaxed) & OWNED != 0 {
                events::note(Note::Revoked, 0, 0);
            }
            revoke_owned(slot, || slot.is_due());
            None
        }
        None => None,
    }
}

/// Revokes the owned view that is here: wipes it unless its bytes are in use at the moment; then its last user does. If it
/// is still one that is `concerned`, which is asked when it can neither end any more nor the slot go to another.
pub(crate) fn revoke_owned(slot: &Slot, concerned: impl Fn() -> bool) {
    // Counted as a use.
    let hold = |state: u32| (state & OWNED != 0).then_some(state + 1);
    if slot.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, hold).is_ok() {
        if concerned() {
            let mark = |state: u32| Some(state | REVOKED);
            let _ = slot.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, mark);
        }
        lease::end_use(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{HELD, thread};

    #[test]
    fn a_note_is_of_one_turn_and_of_its_time() {
        let slots = crate::region::slots::make(1);
        let Ok([slot, ..]) = slots else { return };
        let now = os::coarse_now();
        assert!(!slot.revoke_at(now, |_| true), "nobody is there");
        assert!(slot.take(HELD));
        slot.assign(thread(), 7);
        assert!(!slot.revoke_at(now, |id| id == 8) && !slot.is_due());
        assert!(!slot.revoke_at(now.saturating_add(HORIZON * 2), |_| true), "too far ahead to be told");
        assert!(slot.revoke_at(now + 3_600_000_000_000, |id| id == 7) && !slot.is_due());
        let later = revoke_if_due(slot, now);
        assert!(later.is_some_and(|at| at.abs_diff(now + 3_600_000_000_000) < 2 << STEP_BITS), "{later:?}");
        assert!(slot.revoke_at(now, |id| id == 7) && slot.is_due());
        slot.release();
        assert!(slot.take(HELD));
        slot.assign(thread(), 7);
        assert!(!slot.is_due(), "the next view is another");
    }

    #[test]
    fn times_are_compared_across_the_end_of_the_count() {
        let step = 1_u64 << STEP_BITS;
        let end = u64::from(u32::MAX) << STEP_BITS;
        assert!(ahead(note(0, end), end + 8 * step) < 0);
        assert!(ahead(note(0, end + 8 * step), end) > 0);
        assert_eq!(ahead(note(9, 5 * step), 5 * step), 0);
    }
}

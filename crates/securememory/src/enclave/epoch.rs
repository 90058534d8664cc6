//! The keys of a vault over time: at most [`LIVE`] at once, each with a number, its epoch.
//!
//! A record says which epoch it was sealed in. Its key is found in the cell that the number names. Cells are used again,
//! so whoever uses one compares its number first.
//!
//! **When a key may go.** Who seals or opens is in its window (see [`crate::enclave`]) and then looks for the key
//! ([`Epochs::key`]). Who takes a key away makes it impossible to be found ([`Changing::withdraw`]) and then waits until
//! no window is open that was open before. Either the one finds that the key is gone, or the other sees its window. All
//! that is needed is that each writes its own word before it reads the other's, in one total order. In an ordinary change
//! of keys there is nobody to wait for: a key is only taken away when it has no records, and who is at work with it has
//! one (see `store/ledger.rs`).

use std::cell::UnsafeCell;
use std::ops::RangeInclusive;

use crate::enclave::hold::KeyHold;
use crate::enclave::hold::anchor::Anchor;
use crate::error::{Error, Outstanding};
use crate::locks::{Guard, Lock, Rank};
use crate::sync::{self, AtomicU64};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Keys that a vault has at most.
pub(crate) const LIVE: usize = 4;

/// The cell of an epoch. The first is number 1.
#[inline]
pub(crate) fn cell_of(epoch: u64) -> usize {
    (epoch.wrapping_sub(1) % LIVE as u64) as usize
}

/// Epochs whose keys may be there when this is the newest one.
pub(crate) fn up_to(newest: u64) -> RangeInclusive<u64> {
    newest.saturating_sub(LIVE as u64 - 1).max(1)..=newest
}

/// The number of the key in a cell: zero where it cannot be found.
pub(crate) struct Number(AtomicU64);

impl Number {
    pub(crate) fn new(epoch: u64) -> Self {
        Self(AtomicU64::new(epoch))
    }

    /// For who is in its window: is it the key of this epoch, so that it stays until the window is closed? Of
    /// the epoch zero, which a record that was tampered with may name, there is none: a cell without a key
    /// says zero.
    #[inline]
    pub(crate) fn is(&self, epoch: u64) -> bool {
        sync::total_order();
        self.0.load(Ordering::SeqCst) == epoch && epoch != 0
    }

    /// Can nobody find a key here?
    fn is_withdrawn(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }

    /// The key in the cell is complete, and can be found from now on.
    pub(crate) fn publish(&self, epoch: u64) {
        self.0.store(epoch, Ordering::SeqCst);
    }

    /// Nobody finds it from now on. It may be used until the windows that are open now are closed.
    pub(crate) fn withdraw(&self) {
        self.0.store(0, Ordering::SeqCst);
        sync::total_order();
    }
}

struct Cell {
    number: Number,
    /// `None`: empty. Written by whoever has the lock, while the number is zero and nobody can be using it.
    hold: UnsafeCell<Option<KeyHold>>,
}

/// All keys of a vault.
pub(crate) struct Epochs {
    cells: [Cell; LIVE],
    /// The newest epoch that there ever was; changed by whoever has the lock.
    newest: AtomicU64,
    state: Lock<State>,
}

struct State {
    /// Why the last refresh that was due by itself was not made.
    refused: Option<Error>,
}

// SAFETY: a cell's hold is shared by those who have found its number, and changed only where nobody can have; see above.
#[allow(unsafe_code)]
unsafe impl Sync for Epochs {}

impl Epochs {
    /// With the first key.
    pub(crate) fn new(first: KeyHold) -> Self {
        let mut first = Some(first);
        let cell = |number| Cell { number: Number::new(number), hold: UnsafeCell::new(None) };
        let mut cells = [cell(1), cell(0), cell(0), cell(0)];
        let [one, ..] = &mut cells;
        *one.hold.get_mut() = first.take();
        let state = Lock::new(Rank::Keys, State { refused: None });
        Self { cells, newest: AtomicU64::new(1), state }
    }

    fn cell(&self, epoch: u64) -> &Cell {
        // Never out of bounds.
        let [first, ..] = &self.cells;
        self.cells.get(cell_of(epoch)).unwrap_or(first)
    }

    /// The key of an epoch, if it has not been taken away.
    ///
    /// # Safety
    ///
    /// The caller is in its window, and uses the key until the window is closed and no longer.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) unsafe fn key(&self, epoch: u64) -> Option<&KeyHold> {
        let cell = self.cell(epoch);
        if !cell.number.is(epoch) {
            return None;
        }
        // SAFETY: published, so it is complete; and nobody changes it before the window is closed, see above.
        unsafe { (*cell.hold.get()).as_ref() }
    }

    /// Can the key of this epoch still be found? There is no epoch zero, which is the number of an empty cell.
    pub(crate) fn has(&self, epoch: u64) -> bool {
        epoch != 0 && self.cell(epoch).number.is(epoch)
    }

    /// Was there ever a key of this epoch?
    pub(crate) fn had(&self, epoch: u64) -> bool {
        (1..=self.newest.load(Ordering::SeqCst)).contains(&epoch)
    }

    /// Keeps others from changing keys, and lets all keys be looked at.
    #[cfg_attr(debug_assertions, track_caller)]
    pub(crate) fn freeze(&self) -> Result<Changing<'_>, Error> {
        Ok(Changing { epochs: self, state: self.state.lock()? })
    }

    /// Keeps others from changing keys over a fork.
    pub(crate) fn freeze_over_fork(&self, patience: Duration) -> bool {
        self.state.freeze(patience)
    }

    /// Takes that back.
    pub(crate) fn thaw(&self, in_child: bool) {
        if in_child { self.state.thaw_in_child() } else { self.state.thaw() }
    }

    /// All keys, each with whether it can be found, for who has frozen them, or is alone in a child.
    #[allow(unsafe_code)]
    pub(crate) fn frozen(&self) -> impl Iterator<Item = (bool, &KeyHold)> {
        self.cells.iter().filter_map(|cell| {
            // SAFETY: keys are changed by whoever has the lock, which is frozen.
            let hold = unsafe { (*cell.hold.get()).as_ref() }?;
            Some((!cell.number.is_withdrawn(), hold))
        })
    }

    /// The holds, for the end of the vault.
    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut KeyHold> {
        self.cells.iter_mut().filter_map(|cell| cell.hold.get_mut().as_mut())
    }
}

/// The right to change a vault's keys.
pub(crate) struct Changing<'a> {
    epochs: &'a Epochs,
    state: Guard<'a, State>,
}

impl Changing<'_> {
    /// The newest epoch that there ever was.
    pub(crate) fn newest(&self) -> u64 {
        self.epochs.newest.load(Ordering::SeqCst)
    }

    /// Epochs whose keys can be found, the oldest first.
    pub(crate) fn live(&self) -> impl Iterator<Item = u64> {
        up_to(self.newest()).filter(|&epoch| self.epochs.has(epoch))
    }

    /// The key of an epoch, withdrawn or not, as long as it is there.
    #[allow(unsafe_code)]
    pub(crate) fn key(&self, epoch: u64) -> Option<&KeyHold> {
        // SAFETY: keys are changed only by whoever has the lock, and mutably borrows it.
        unsafe { (*self.epochs.cell(epoch).hold.get()).as_ref() }
    }

    /// The key of the newest epoch, if it can be found.
    pub(crate) fn newest_key(&self) -> Option<&KeyHold> {
        self.epochs.has(self.newest()).then(|| self.key(self.newest())).flatten()
    }

    /// Why the last refresh that was due by itself was not made.
    pub(crate) fn refused(&self) -> Option<Error> {
        self.state.refused
    }

    pub(crate) fn note_refusal(&mut self, error: Error) {
        self.state.refused = Some(error);
    }

    /// Is the cell of the next epoch empty?
    pub(crate) fn has_room(&self) -> bool {
        self.key(self.newest() + 1).is_none()
    }

    /// Has the next epoch's key made, puts it into its cell, and lets it be found. Gives the epoch. Where the cell is not
    /// empty, that is [`Error::Busy`].
    #[allow(unsafe_code)]
    pub(crate) fn install(&mut self, make: impl FnOnce(u64) -> Result<KeyHold, Error>) -> Result<u64, Error> {
        if !self.has_room() {
            return Err(Error::Busy(Outstanding::default()));
        }
        let epoch = self.newest() + 1;
        let hold = make(epoch)?;
        let cell = self.epochs.cell(epoch);
        // SAFETY: empty, so nobody can have found it; and we have the lock.
        unsafe { *cell.hold.get() = Some(hold) };
        self.epochs.newest.store(epoch, Ordering::SeqCst);
        cell.number.publish(epoch);
        self.state.refused = None;
        Ok(epoch)
    }

    /// Lets nobody find the key of an epoch any more.
    pub(crate) fn withdraw(&mut self, epoch: u64) {
        if self.epochs.has(epoch) {
            self.epochs.cell(epoch).number.withdraw();
        }
    }

    /// Destroys the keys that were withdrawn and gives back what the system gave for them.
    ///
    /// # Safety
    ///
    /// Since they were withdrawn, no window was open in which they could have been found, or all of those have been seen
    /// to be closed.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn destroy_withdrawn(&mut self, anchor: &Anchor) {
        // SAFETY: as the caller vouches.
        unsafe {
            self.erase_withdrawn(anchor);
            self.release_withdrawn(anchor);
        }
    }

    /// The first half of it.
    ///
    /// # Safety
    ///
    /// As there.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn erase_withdrawn(&mut self, anchor: &Anchor) {
        // What lies in memory first, of all of them.
        self.wipe_withdrawn(anchor);
        for cell in self.epochs.cells.iter().filter(|cell| cell.number.is_withdrawn()) {
            // SAFETY: as in `key`.
            if let Some(hold) = unsafe { (*cell.hold.get()).as_ref() } {
                hold.erase(anchor);
            }
        }
    }

    /// The second half.
    ///
    /// # Safety
    ///
    /// As there; and they have been erased.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn release_withdrawn(&mut self, anchor: &Anchor) {
        for cell in self.epochs.cells.iter().filter(|cell| cell.number.is_withdrawn()) {
            // SAFETY: nobody finds it or uses it, as the caller vouches; and we have the lock.
            if let Some(mut hold) = unsafe { (*cell.hold.get()).take() } {
                hold.release(anchor);
            }
        }
    }

    /// Wipes what of the withdrawn keys lies in memory and can be wiped under their users.
    #[allow(unsafe_code)]
    pub(crate) fn wipe_withdrawn(&self, anchor: &Anchor) {
        for cell in self.epochs.cells.iter().filter(|cell| cell.number.is_withdrawn()) {
            // SAFETY: as in `key`.
            if let Some(hold) = unsafe { (*cell.hold.get()).as_ref() } {
                hold.wipe(anchor, || ());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::store::{Machinery, Settings};
    use crate::testing::TestGuard;

    #[test]
    fn an_empty_cell_is_no_key() {
        let _guard = TestGuard::new();
        let machinery = Machinery::make(Settings::default()).unwrap();
        let epochs = machinery.enclave.epochs();
        assert_eq!([0, 1, 2, 4, 5].map(|epoch| epochs.has(epoch)), [false, true, false, false, false]);
    }
}

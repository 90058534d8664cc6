//! Records that were replaced while a reader, which may still be decrypting them, does not run.
//!
//! There are few places, and whoever replaces a record has one kept for it beforehand: so what was published can always
//! be left here, without an allocation.

use std::ptr::NonNull;

/// Records that may wait, and places kept for those that are being replaced.
pub(super) const PLACES: usize = 96;

/// A secret's body that is out of use: mostly a record that was replaced.
#[derive(Clone, Copy)]
pub(in crate::store) struct Retired {
    pub(in crate::store) secret: u64,
    pub(in crate::store) at: NonNull<u8>,
    pub(in crate::store) size: usize,
    pub(in crate::store) epoch: u64,
}

// SAFETY: the address of memory that only whoever has this uses.
#[allow(unsafe_code)]
unsafe impl Send for Retired {}

pub(super) struct Limbo {
    /// Each with its number.
    places: [Option<(u64, Retired)>; PLACES],
    /// How many are there, and how many ever came.
    waiting: usize,
    retired: u64,
    /// How many places are kept for somebody.
    pub(super) kept: usize,
}

impl Limbo {
    pub(super) const fn new() -> Self {
        Self { places: [None; PLACES], waiting: 0, retired: 0, kept: 0 }
    }

    /// Keeps a place for somebody, if there is one.
    pub(super) fn keep(&mut self) -> bool {
        let free = self.waiting + self.kept < PLACES;
        self.kept += usize::from(free);
        free
    }

    /// So many places are not needed any more.
    pub(super) fn give_back(&mut self, kept: usize) {
        self.kept = self.kept.saturating_sub(kept);
    }

    /// In a child: those for whom places were kept are not here.
    pub(super) fn forget_others(&mut self) {
        self.kept = 0;
    }

    /// The epochs of those that wait.
    pub(super) fn epochs(&self) -> impl Iterator<Item = u64> {
        self.places.iter().flatten().map(|(_, record)| record.epoch)
    }

    /// Leaves a record in the place that was kept for it. Gives its number.
    pub(super) fn retire(&mut self, record: Retired) -> u64 {
        self.give_back(1);
        self.retired += 1;
        // There is one.
        if let Some(place) = self.places.iter_mut().find(|place| place.is_none()) {
            self.waiting += 1;
            *place = Some((self.retired, record));
        }
        self.retired
    }

    /// How many ever came; `None`: nothing waits.
    pub(super) fn retired(&self) -> Option<u64> {
        (self.waiting > 0).then_some(self.retired)
    }

    /// Takes one away, of one secret if it is named, that did not come after the `last`.
    pub(super) fn take(&mut self, secret: Option<u64>, last: u64) -> Option<Retired> {
        let is_due = |&(number, record): &(u64, Retired)| {
            number <= last && secret.is_none_or(|secret| secret == record.secret)
        };
        let place = self.places.iter_mut().find(|place| place.as_ref().is_some_and(is_due))?;
        let (_, record) = place.take()?;
        self.waiting -= 1;
        Some(record)
    }
}

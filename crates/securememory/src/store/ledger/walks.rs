//! Looking at all headers of a vault, one after the other.

use std::ptr::NonNull;

use super::Ledger;
use crate::enclave::epoch::{LIVE, cell_of};
use crate::error::Error;
use crate::store::roll::Place;

impl Ledger {
    /// Walks on through the headers' pieces, free ones included, and calls `look` with each until it says that it has
    /// enough. False: that was the end of the roll.
    pub(in crate::store) fn walk(&self, mut look: impl FnMut(NonNull<u8>) -> bool) -> Result<bool, Error> {
        let mut inner = self.lock()?;
        while let Some((piece, next)) = inner.roll.at(inner.walk) {
            inner.walk = next;
            if !look(piece) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// In a child: counts the records anew. Those that other threads were making, or were about to take back, are counted
    /// for nobody, and would keep a key alive for ever. `epoch_of`: of the record of a headers' piece, if it has one.
    pub(in crate::store) fn recount(&self, epoch_of: impl Fn(NonNull<u8>) -> Option<u64>) {
        let Ok(mut inner) = self.lock() else { return };
        let inner = &mut *inner;
        inner.limbo.forget_others();
        inner.records = [0; LIVE];
        let mut count = |epoch| {
            if epoch >= inner.oldest {
                inner.records[cell_of(epoch)] += 1;
            }
        };
        inner.limbo.epochs().for_each(&mut count);
        let mut place = Place::default();
        while let Some((piece, next)) = inner.roll.at(place) {
            place = next;
            epoch_of(piece).into_iter().for_each(&mut count);
        }
    }

    /// The headers' piece at a place, free or not, and the place after it. Without a place: the first.
    pub(in crate::store) fn next_piece(&self, place: Option<Place>) -> Option<(NonNull<u8>, Place)> {
        self.lock().ok()?.roll.at(place.unwrap_or_default())
    }

    /// As [`Self::walk`], from a place that the caller keeps.
    pub(in crate::store) fn walk_from(
        &self,
        place: &mut Place,
        mut look: impl FnMut(NonNull<u8>) -> bool,
    ) -> Result<bool, Error> {
        let inner = self.lock()?;
        while let Some((piece, next)) = inner.roll.at(*place) {
            *place = next;
            if !look(piece) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The next walk begins at the start.
    pub(in crate::store) fn walk_from_start(&self) -> Result<(), Error> {
        self.lock()?.walk = Place::default();
        Ok(())
    }
}

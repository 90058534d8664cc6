//! The headers of a vault's secrets, in tables that can be walked.
//!
//! A piece that is not in use is zero from its ninth byte on; the first eight link free pieces. So whoever walks can
//! tell by a header's count of references whether there is a secret: see [`super::object::Object::upgrade`].
//!
//! Nothing here is shared between threads: see [`super::ledger`].

use std::ptr::NonNull;

use crate::error::Error;
use crate::store::slab;

/// Bytes of the first table.
// Bytes of a table that doubles, not a page size.
const MIN_TABLE: usize = 4096;

/// Tables of pieces of one size.
pub(super) struct Roll {
    piece: usize,
    /// Each with its number of pieces.
    tables: Vec<(NonNull<u8>, usize)>,
    /// Pieces of the last table that were cut.
    cut: usize,
    free: Option<NonNull<u8>>,
}

// SAFETY: addresses of memory that the roll owns.
#[allow(unsafe_code)]
unsafe impl Send for Roll {}

/// A place in the walk: the next piece to be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    table: usize,
    piece: usize,
}

impl Roll {
    pub(super) const fn new(piece: usize) -> Self {
        Self { piece, tables: Vec::new(), cut: 0, free: None }
    }

    /// A piece that is zero from its ninth byte on.
    #[allow(unsafe_code)]
    pub(super) fn take(&mut self) -> Result<NonNull<u8>, Error> {
        if let Some(piece) = self.free {
            // SAFETY: a free piece holds the address of the next one, written by `give`.
            self.free = unsafe { piece.cast::<Option<NonNull<u8>>>().read() };
            return Ok(piece);
        }
        let (table, pieces) = match self.tables.last() {
            Some(&(table, pieces)) if self.cut < pieces => (table, pieces),
            _ => self.grow()?,
        };
        debug_assert!(self.cut < pieces);
        // SAFETY: inside the table.
        let piece = unsafe { table.add(self.cut * self.piece) };
        self.cut += 1;
        Ok(piece)
    }

    fn grow(&mut self) -> Result<(NonNull<u8>, usize), Error> {
        self.tables.try_reserve(1).map_err(|_| Error::OutOfMemory { bytes: MIN_TABLE })?;
        let (table, size) = slab::take_slab(MIN_TABLE, self.tables.len())?;
        let grown = (table, size / self.piece.max(1));
        self.tables.push(grown);
        self.cut = 0;
        Ok(grown)
    }

    /// Overwrites a piece and takes it back.
    ///
    /// # Safety
    ///
    /// It came from [`Self::take`] of this roll, and nobody uses it any more.
    #[allow(unsafe_code)]
    pub(super) unsafe fn give(&mut self, piece: NonNull<u8>) {
        // SAFETY: as the caller vouches; a piece has more than eight bytes.
        unsafe {
            slab::overwrite(piece, self.piece);
            piece.cast::<Option<NonNull<u8>>>().write(self.free);
        }
        self.free = Some(piece);
    }

    /// The piece at a place, free or not, and the place after it; `None` at the end.
    #[allow(unsafe_code)]
    pub(super) fn at(&self, mut place: Place) -> Option<(NonNull<u8>, Place)> {
        loop {
            let &(table, pieces) = self.tables.get(place.table)?;
            let cut = if place.table + 1 == self.tables.len() { self.cut } else { pieces };
            if place.piece < cut {
                // SAFETY: inside the table.
                let piece = unsafe { table.add(place.piece * self.piece) };
                return Some((piece, Place { piece: place.piece + 1, ..place }));
            }
            place = Place { table: place.table + 1, piece: 0 };
        }
    }

    /// Frees all tables.
    ///
    /// # Safety
    ///
    /// No piece is in use.
    #[allow(unsafe_code)]
    pub(super) unsafe fn end(&mut self) {
        self.free = None;
        self.cut = 0;
        for (table, pieces) in std::mem::take(&mut self.tables) {
            // SAFETY: taken by `grow`, whole pieces as its sizes are; the caller vouches that none is in use.
            unsafe { slab::give_slab((table, pieces * self.piece)) };
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(unsafe_code, clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use super::*;

    const PIECE: usize = 64;

    fn walk(roll: &Roll) -> BTreeSet<usize> {
        let mut place = Place::default();
        std::iter::from_fn(|| {
            let (piece, next) = roll.at(place)?;
            place = next;
            Some(piece.addr().get())
        })
        .collect()
    }

    #[test]
    fn a_walk_meets_every_piece_once_and_what_was_given_back_is_zero() {
        let mut roll = Roll::new(PIECE);
        assert!(walk(&roll).is_empty());
        // More than the first tables hold.
        let pieces: Vec<_> = (0..1000).map(|_| roll.take().unwrap()).collect();
        let known: BTreeSet<_> = pieces.iter().map(|piece| piece.addr().get()).collect();
        assert_eq!(known.len(), pieces.len());
        assert_eq!(walk(&roll), known);
        for &piece in &pieces {
            // SAFETY: ours.
            unsafe { piece.as_ptr().write_bytes(0xA5, PIECE) };
        }
        for &piece in pieces.iter().step_by(2) {
            // SAFETY: ours, and not used any more.
            unsafe {
                roll.give(piece);
                let rest = std::slice::from_raw_parts(piece.as_ptr().add(8), PIECE - 8);
                assert!(rest.iter().all(|&byte| byte == 0));
            }
        }
        assert_eq!(walk(&roll), known);
        let again: BTreeSet<_> = (0..500).map(|_| roll.take().unwrap().addr().get()).collect();
        assert!(again.len() == 500 && again.is_subset(&known));
        // SAFETY: nobody uses them any more.
        unsafe { roll.end() };
        assert!(walk(&roll).is_empty());
    }
}

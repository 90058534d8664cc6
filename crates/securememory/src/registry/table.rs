//! Tables that grow, whose entries never move and are never freed: so that a signal handler may walk them whatever
//! the threads of the process are doing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::error::Error;
use crate::locks::{Lock, Rank};

/// Entries of the first chunk; each chunk has twice as many as the one before.
const FIRST: usize = 64;
const CHUNKS: usize = 22;

struct Cell<T> {
    /// In the list of free entries: the index of the next, plus one.
    next: AtomicU32,
    value: T,
}

/// A table of values that are all atomics. Which of them are in use is for them to say.
pub(crate) struct Table<T> {
    chunks: [OnceLock<Box<[Cell<T>]>>; CHUNKS],
    /// Entries that were ever taken lie below it.
    made: AtomicU32,
    /// The first free entry's index plus one, and above it how often this was changed: else a thread that was stopped
    /// in the middle could take one that was taken and given back meanwhile.
    free: AtomicU64,
}

/// Growing any of them: not in the middle of a fork, whose child would wait for the one who was at it.
pub(super) static GROWING: Lock<()> = Lock::new(Rank::Tables, ());

/// How many entries the chunks before this one have. In wrapping arithmetic: a handler has no panics.
const fn before(chunk: usize) -> usize {
    FIRST.wrapping_mul(1_usize.wrapping_shl(chunk as u32).wrapping_sub(1))
}

/// Which chunk an entry is in, and where in it.
const fn locate(index: usize) -> (usize, usize) {
    let chunk = ((index / FIRST) + 1).ilog2() as usize;
    (chunk, index - before(chunk))
}

impl<T: Default> Table<T> {
    pub(crate) const fn new() -> Self {
        Self { chunks: [const { OnceLock::new() }; CHUNKS], made: AtomicU32::new(0), free: AtomicU64::new(0) }
    }

    fn cell(&self, index: usize) -> Option<&Cell<T>> {
        let (chunk, at) = locate(index);
        self.chunks.get(chunk)?.get()?.get(at)
    }

    /// An entry that nobody uses, as it was given back, or new.
    pub(crate) fn take(&'static self) -> Result<(u32, &'static T), Error> {
        let mut head = self.free.load(Ordering::Acquire);
        while let Some(index) = (head as u32).checked_sub(1) {
            let Some(cell) = self.cell(index as usize) else { break };
            let next = (head >> 32).wrapping_add(1) << 32 | u64::from(cell.next.load(Ordering::Relaxed));
            match self.free.compare_exchange_weak(head, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok((index, &cell.value)),
                Err(seen) => head = seen,
            }
        }
        let no_memory = Error::OutOfMemory { bytes: size_of::<Cell<T>>() };
        // First the memory, then the number: a number without memory would be lost.
        let mut made = self.made.load(Ordering::Acquire);
        loop {
            self.grow(made as usize)?;
            match self.made.compare_exchange_weak(made, made + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(seen) => made = seen,
            }
        }
        self.cell(made as usize).map(|cell| (made, &cell.value)).ok_or(no_memory)
    }

    /// Sees to it that there is memory for an entry.
    fn grow(&self, index: usize) -> Result<(), Error> {
        let (chunk, _) = locate(index);
        let len = FIRST << chunk;
        let no_memory = Error::OutOfMemory { bytes: len.saturating_mul(size_of::<Cell<T>>()) };
        let place = self.chunks.get(chunk).ok_or(no_memory)?;
        if place.get().is_none() {
            let mut cells = Vec::new();
            cells.try_reserve_exact(len).map_err(|_| no_memory)?;
            cells.extend((0..len).map(|_| Cell { next: AtomicU32::new(0), value: T::default() }));
            let _growing = GROWING.lock()?;
            // Where another thread was faster, this one's is freed.
            let _ = place.set(cells.into_boxed_slice());
        }
        Ok(())
    }

    /// Gives an entry back.
    pub(crate) fn give(&self, index: u32) {
        let Some(cell) = self.cell(index as usize) else { return };
        let mut head = self.free.load(Ordering::Relaxed);
        loop {
            cell.next.store(head as u32, Ordering::Relaxed);
            let next = (head >> 32).wrapping_add(1) << 32 | u64::from(index + 1);
            match self.free.compare_exchange_weak(head, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(seen) => head = seen,
            }
        }
    }

    /// All entries that were ever taken, in use or not. For handlers too.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let made = self.made.load(Ordering::Acquire) as usize;
        // Chunk by chunk, since a handler may have to look at very many.
        (0..CHUNKS).take_while(move |&chunk| before(chunk) < made).flat_map(move |chunk| {
            let cells = self.chunks.get(chunk).and_then(OnceLock::get).map_or(&[][..], |cells| cells);
            cells.iter().take(made.wrapping_sub(before(chunk))).map(|cell| &cell.value)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_index_has_a_place_of_its_own() {
        let places: BTreeSet<_> = (0..10_000).map(locate).collect();
        assert_eq!(places.len(), 10_000);
        assert!(places.iter().all(|&(chunk, at)| at < FIRST << chunk));
        assert_eq!((locate(0), locate(FIRST), locate(3 * FIRST)), ((0, 0), (1, 0), (2, 0)));
    }

    #[test]
    fn threads_never_have_the_same_entry_and_entries_are_used_again() {
        static TABLE: Table<AtomicU32> = Table::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..2000_usize {
                        let taken: Vec<_> = (0..=round % 50).map(|_| TABLE.take().unwrap()).collect();
                        for (index, value) in taken {
                            assert_eq!(value.swap(1, Ordering::SeqCst), 0, "two have it");
                            value.store(0, Ordering::SeqCst);
                            TABLE.give(index);
                        }
                    }
                });
            }
        });
        assert!(TABLE.iter().count() <= 4 * 51);
    }
}

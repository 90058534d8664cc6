//! One replica of share A: which file it is, and where its share B lies.
//!
//! What a reader needs is one word, loaded once. A renewed replica has another place for its share B, which was
//! never used before. So the word never comes back to a value that it had, no reader can combine an old half
//! with a new one, and whoever finds the word unchanged after reading knows that what it read belonged
//! together.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::os::ShareFile;

/// A replica's place in a vault's fixed table; empty at first. Read without a lock, changed by one thread at a time.
#[derive(Default)]
pub(super) struct Replica {
    entry: AtomicU64,
    /// Of the file; only for those who would change or close it. While the entry is exchanged they may be of
    /// another file than the entry's: then that file is taken for somebody else's, and left alone.
    dev: AtomicU64,
    ino: AtomicU64,
}

/// What a reader needs of a replica.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(u64);

impl Entry {
    const MADE: u64 = 1 << 63;
    const PLACE: u32 = 32;

    fn new(number: RawFd, place: usize) -> Self {
        Self(Self::MADE | (place as u64) << Self::PLACE | u64::from(number.unsigned_abs()))
    }

    /// The descriptor's number.
    #[inline]
    pub(super) fn number(self) -> RawFd {
        // Never negative, see `new`.
        (self.0 as u32 & u32::MAX >> 1) as RawFd
    }

    /// Which of the anchor's places holds share B.
    #[inline]
    pub(super) fn place(self) -> usize {
        (self.0 >> Self::PLACE) as usize & 0xFF
    }
}

impl Replica {
    /// What is valid now. The share B in its place is complete.
    #[inline]
    pub(super) fn entry(&self) -> Option<Entry> {
        let word = self.entry.load(Ordering::Acquire);
        (word != 0).then_some(Entry(word))
    }

    /// Is the entry still valid? To be asked after an acquire fence that follows the reads.
    #[inline]
    pub(super) fn is_still(&self, entry: Entry) -> bool {
        self.entry.load(Ordering::Relaxed) == entry.0
    }

    /// Publishes a file, and the share B that was written before.
    pub(super) fn publish(&self, file: &ShareFile, place: usize) {
        let (dev, ino) = file.identity();
        self.dev.store(dev, Ordering::Relaxed);
        self.ino.store(ino, Ordering::Relaxed);
        self.entry.store(Entry::new(file.raw_fd(), place).0, Ordering::Release);
    }

    /// The file, to be changed or closed.
    pub(super) fn file(&self, entry: Entry, owner: u32) -> ShareFile {
        let identity = (self.dev.load(Ordering::Relaxed), self.ino.load(Ordering::Relaxed));
        ShareFile::known(entry.number(), identity, owner)
    }

    /// There is no such replica any more.
    pub(super) fn clear(&self) {
        self.entry.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enclave::hold::anchor::MAX_SHARES;

    #[test]
    fn an_entry_says_what_was_put_in() {
        for number in [0, 3, 63, 1 << 20, RawFd::MAX] {
            for place in 0..MAX_SHARES {
                let entry = Entry::new(number, place);
                assert_eq!((entry.number(), entry.place()), (number, place));
                assert_ne!(entry.0, 0);
            }
        }
    }
}

//! One replica of share A: which file it is, and where its share B lies.
//!
//! What a reader needs is one word, loaded once. A renewed replica has another place for its share B, which was
//! never used before. So the word never comes back to a value that it had, no reader can combine an old half
//! with a new one, and whoever finds the word unchanged after reading knows that what it read belonged
//! together.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::os::{FileNumber, ShareFile};

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
    /// Of every entry.
    const MADE: u64 = 1 << 62;
    /// Until its share was found to make another key than the vault's.
    const TRUSTED: u64 = 1 << 63;
    const PLACE: u32 = 32;

    fn new(number: FileNumber, place: usize) -> Self {
        Self(Self::MADE | Self::TRUSTED | (place as u64) << Self::PLACE | u64::from(number.unsigned_abs()))
    }

    #[inline]
    pub(super) fn is_trusted(self) -> bool {
        self.0 & Self::TRUSTED != 0
    }

    /// The descriptor's number.
    #[inline]
    pub(super) fn number(self) -> FileNumber {
        // Never negative, see `new`.
        (self.0 as u32 & u32::MAX >> 1) as FileNumber
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
        self.last().filter(|entry| entry.is_trusted())
    }

    /// The same, or what was valid until it was distrusted.
    #[inline]
    pub(super) fn last(&self) -> Option<Entry> {
        let word = self.entry.load(Ordering::Acquire);
        (word != 0).then_some(Entry(word))
    }

    /// Nobody is to read by this entry any more. Without effect on a later one.
    pub(super) fn distrust(&self, entry: Entry) {
        let _ = self.entry.compare_exchange(
            entry.0,
            entry.0 & !Entry::TRUSTED,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
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
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::enclave::epoch::LIVE;
    use crate::enclave::hold::anchor::MAX_SHARES;

    #[test]
    fn an_entry_says_what_was_put_in() {
        for number in [0, 3, 63, 1 << 20, FileNumber::MAX] {
            for place in 0..LIVE * MAX_SHARES {
                let entry = Entry::new(number, place);
                assert_eq!((entry.number(), entry.place()), (number, place));
                assert!(entry.is_trusted());
            }
        }
    }

    #[test]
    fn what_is_distrusted_stays_known_and_is_valid_no_more() {
        let replica = Replica::default();
        let (old, new) = (Entry::new(40, 1), Entry::new(41, 2));
        replica.entry.store(old.0, Ordering::Relaxed);
        replica.distrust(new);
        assert!(replica.entry() == Some(old) && replica.is_still(old));
        replica.distrust(old);
        assert!(replica.entry().is_none() && !replica.is_still(old));
        let last = replica.last().unwrap();
        assert!(!last.is_trusted());
        assert_eq!((last.number(), last.place()), (40, 1));
        replica.entry.store(new.0, Ordering::Relaxed);
        replica.distrust(old);
        assert!(replica.entry() == Some(new));
    }
}

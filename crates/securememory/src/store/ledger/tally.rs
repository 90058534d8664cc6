//! How many secrets there are, of which kinds, with how many bytes; and how many there may be.

use super::Kind;
use crate::error::{Error, Quota};

/// What a secret is for the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Item {
    pub(in crate::store) kind: Kind,
    /// A chunk of a stream.
    pub(in crate::store) chunk: bool,
    /// Bytes of the user's.
    pub(in crate::store) len: usize,
}

/// Secrets made and not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Live {
    /// All of them.
    pub(crate) secrets: u64,
    /// Paged ones among them.
    pub(crate) paged: u64,
    /// Chunks of streams among them.
    pub(crate) chunks: u64,
    /// Bytes of the user's, of all of them.
    pub(crate) bytes: u64,
}

impl From<Item> for Live {
    #[inline]
    fn from(item: Item) -> Self {
        Self {
            secrets: 1,
            paged: u64::from(item.kind == Kind::Paged),
            chunks: u64::from(item.chunk),
            bytes: item.len as u64,
        }
    }
}

/// The most that there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) secrets: u64,
    pub(crate) bytes: u64,
}

impl Limits {
    pub(crate) const NONE: Self = Self { secrets: u64::MAX, bytes: u64::MAX };
}

/// The count, below its limits.
pub(super) struct Tally {
    pub(super) live: Live,
    limits: Limits,
}

impl Tally {
    pub(super) fn new(limits: Limits) -> Self {
        Self { live: Live::default(), limits }
    }

    /// Is there room for one more?
    #[inline]
    pub(super) fn check(&self, item: Item) -> Result<(), Error> {
        let Limits { secrets, bytes } = self.limits;
        if self.live.secrets >= secrets || bytes.saturating_sub(self.live.bytes) < item.len as u64 {
            return Err(self.refuse(item));
        }
        Ok(())
    }

    #[cold]
    fn refuse(&self, item: Item) -> Error {
        let Limits { secrets, bytes } = self.limits;
        if self.live.secrets >= secrets {
            Error::OverBudget { of: Quota::Secrets, asked: 1, in_use: self.live.secrets, limit: secrets }
        } else {
            let asked = item.len as u64;
            Error::OverBudget { of: Quota::Bytes, asked, in_use: self.live.bytes, limit: bytes }
        }
    }

    #[inline]
    pub(super) fn add(&mut self, item: Item) {
        let Live { secrets, paged, chunks, bytes } = item.into();
        self.live.secrets += secrets;
        self.live.paged += paged;
        self.live.chunks += chunks;
        self.live.bytes += bytes;
    }

    /// What has ended; of several secrets that others have left, it may come in parts.
    #[inline]
    pub(super) fn remove(&mut self, ended: Live) {
        let Live { secrets, paged, chunks, bytes } = ended;
        let live = &mut self.live;
        debug_assert!(live.secrets >= secrets && live.bytes >= bytes, "{live:?} without {ended:?}");
        live.secrets = live.secrets.saturating_sub(secrets);
        live.paged = live.paged.saturating_sub(paged);
        live.chunks = live.chunks.saturating_sub(chunks);
        live.bytes = live.bytes.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(len: usize) -> Item {
        Item { kind: Kind::Sealed, chunk: false, len }
    }

    #[test]
    fn the_last_byte_and_the_last_secret_fit_and_no_more() {
        let mut tally = Tally::new(Limits { secrets: 2, bytes: 10 });
        assert_eq!(tally.check(item(10)), Ok(()));
        let over = Error::OverBudget { of: Quota::Bytes, asked: 11, in_use: 0, limit: 10 };
        assert_eq!(tally.check(item(11)), Err(over));
        tally.add(item(7));
        let over = Error::OverBudget { of: Quota::Bytes, asked: 4, in_use: 7, limit: 10 };
        assert_eq!((tally.check(item(3)), tally.check(item(4))), (Ok(()), Err(over)));
        tally.add(item(1));
        // Of two that are reached, that one which no smaller secret would help.
        let over = Error::OverBudget { of: Quota::Secrets, asked: 1, in_use: 2, limit: 2 };
        assert_eq!(tally.check(item(usize::MAX)), Err(over));
        tally.remove(item(7).into());
        assert_eq!(tally.check(item(9)), Ok(()));
        tally.remove(item(1).into());
        assert_eq!(tally.live, Live::default());
    }

    #[test]
    fn kinds_are_told_apart() {
        let mut tally = Tally::new(Limits::NONE);
        let (chunk, paged) = (Item { chunk: true, ..item(3) }, Item { kind: Kind::Paged, ..item(4) });
        tally.add(chunk);
        tally.add(paged);
        assert_eq!(tally.live, Live { secrets: 2, paged: 1, chunks: 1, bytes: 7 });
        assert_eq!(tally.check(item(usize::MAX - 7)), Ok(()));
    }
}

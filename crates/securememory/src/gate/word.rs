//! The state word of a secret, as pure functions: what each party may do in which state, and what the word
//! is afterwards. No atomics here, so that every transition can be checked by itself.
//!
//! One layout serves both stores. From the lowest bit:
//!
//! ```text
//! views 24 | spare | WRITER | PENDING | SEALING | CLOSED | FINAL | REVOKED | WAITERS | QUEUE
//! ```
//!
//! `Paged` uses all of it; `Sealed` counts its views elsewhere and has no pages to open: it uses all but the views,
//! PENDING and QUEUE. Whether pages are open is not in the word: see [`super::Gate`].

/// Views open: one is added by whoever enters, before anything else is looked at.
pub(crate) const VIEW: u64 = 1;
const VIEW_BITS: u32 = 24;
const VIEWS: u64 = (1 << VIEW_BITS) - 1;
const FLAGS: u32 = 48;

/// A writer is at work.
pub(crate) const WRITER: u64 = 1 << FLAGS;
/// A writer waits for the readers to leave (`Paged`); new readers wait behind it.
pub(crate) const PENDING: u64 = 1 << (FLAGS + 1);
/// Someone is closing the pages, or has the secret to itself in order to end it.
pub(crate) const SEALING: u64 = 1 << (FLAGS + 2);
/// No reader and no writer is admitted any more.
pub(crate) const CLOSED: u64 = 1 << (FLAGS + 3);
/// What was at rest has been wiped.
pub(crate) const FINAL: u64 = 1 << (FLAGS + 4);
/// A close gave up waiting under `OnClose::Revoke`.
pub(crate) const REVOKED: u64 = 1 << (FLAGS + 5);
/// Someone sleeps until the word changes.
pub(crate) const WAITERS: u64 = 1 << (FLAGS + 6);
/// A reader has waited for a writer (`Paged`): no other writer begins before one has come in.
pub(crate) const QUEUE: u64 = 1 << (FLAGS + 7);

/// Views of one secret at most. Far below what the field holds: those who find it passed take their count
/// back, and until they have, their number is added to it.
pub(crate) const MAX_VIEWS: usize = 1 << (VIEW_BITS - 2);
/// Number of views in a word.
pub(crate) const fn views(word: u64) -> u64 {
    word & VIEWS
}

/// What a reader of pages finds when it has added itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Nothing is in its way but the pages, if they are shut: it opens them, keeping the count.
    Free,
    /// The secret is closed: take the count back.
    Closed,
    /// More readers than can be counted: take the count back.
    TooMany,
    /// A writer is at work or waits: take the count back and wait, unless this thread is inside already.
    Writer,
    /// The pages are being closed: keep the count, wait for SEALING to clear, look again.
    Sealing,
}

/// Decides for a reader of pages; `before` is the word as it was when the reader added itself. `nested`: its thread holds a view of this secret already, so
/// that no writer can be at work and waiting for one would be waiting for itself.
pub(crate) const fn paged_entry(before: u64, nested: bool) -> Entry {
    if before & CLOSED != 0 {
        Entry::Closed
    } else if views(before) >= MAX_VIEWS as u64 {
        Entry::TooMany
    } else if before & WRITER != 0 || (before & PENDING != 0 && !nested) {
        Entry::Writer
    } else if before & SEALING != 0 {
        Entry::Sealing
    } else {
        Entry::Free
    }
}

/// May the one who finds `word` begin to close pages that are open? Then the word to put in its place.
pub(crate) const fn begin_sealing(word: u64) -> Option<u64> {
    let idle = views(word) == 0 && word & (SEALING | WRITER) == 0;
    if idle { Some(word | SEALING) } else { None }
}

/// Has someone come in since SEALING began? Then the word that leaves the pages to them, open.
pub(crate) const fn leave_open(word: u64) -> Option<u64> {
    if views(word) != 0 { Some(word & !SEALING) } else { None }
}

/// May the one who finds `word` take the secret for itself, in order to wipe it? At most one succeeds: FINAL
/// is never set with SEALING clear again.
pub(crate) const fn begin_final(word: u64) -> Option<u64> {
    let idle = views(word) == 0 && word & (SEALING | WRITER) == 0;
    if word & CLOSED != 0 && word & FINAL == 0 && idle { Some(word | SEALING) } else { None }
}

/// May a writer of a sealed secret begin?
pub(crate) const fn begin_write_sealed(word: u64) -> Option<u64> {
    if word & (CLOSED | WRITER) == 0 { Some(word | WRITER) } else { None }
}

/// May a writer of a paged secret wait for the readers to leave, so that new ones wait behind it? Only one does; the
/// others wait as readers do, and behind them.
pub(crate) const fn begin_pending(word: u64) -> Option<u64> {
    if word & (CLOSED | WRITER | PENDING | QUEUE) == 0 { Some(word | PENDING) } else { None }
}

/// May a writer of a paged secret, having set PENDING, begin?
pub(crate) const fn begin_write_paged(word: u64) -> Option<u64> {
    let idle = views(word) == 0 && word & (SEALING | WRITER | CLOSED) == 0;
    if idle { Some((word | WRITER) & !PENDING) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_overlap() {
        let all = [VIEWS, WRITER, PENDING, SEALING, CLOSED, FINAL, REVOKED, WAITERS, QUEUE];
        let sum = all.iter().fold(0u128, |sum, &bits| sum + u128::from(bits));
        let union = all.iter().fold(0u64, |union, &bits| union | bits);
        assert_eq!(sum, u128::from(union));
    }

    #[test]
    fn a_sealer_never_starts_over_a_reader_or_a_writer() {
        assert_eq!(begin_sealing(CLOSED), Some(CLOSED | SEALING));
        for busy in [VIEW, WRITER, SEALING] {
            assert_eq!(begin_sealing(busy), None);
        }
        assert_eq!(leave_open(SEALING | VIEW), Some(VIEW));
        assert_eq!(leave_open(SEALING), None);
    }

    #[test]
    fn the_end_comes_once_and_only_to_an_idle_closed_secret() {
        assert_eq!(begin_final(CLOSED), Some(CLOSED | SEALING));
        for word in [0, CLOSED | VIEW, CLOSED | WRITER, CLOSED | SEALING, CLOSED | FINAL] {
            assert_eq!(begin_final(word), None);
        }
    }

    #[test]
    fn writers_take_turns_with_readers() {
        assert_eq!(begin_pending(VIEW), Some(PENDING | VIEW));
        for word in [WRITER, PENDING, QUEUE, CLOSED] {
            assert_eq!(begin_pending(word), None);
        }
        assert_eq!(begin_write_paged(PENDING | QUEUE), Some(WRITER | QUEUE));
    }

    #[test]
    fn a_nested_reader_passes_a_waiting_writer_but_no_other_does() {
        assert_eq!(paged_entry(PENDING | VIEW, true), Entry::Free);
        assert_eq!(paged_entry(PENDING | VIEW, false), Entry::Writer);
        assert_eq!(paged_entry(WRITER, true), Entry::Writer);
    }
}

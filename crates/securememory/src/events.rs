//! What operators are to know, by `tracing`: noted where no code of the user's may run (under a lock of ours, in the window
//! of a key, in a child that is just being forked), and told at the end of the next call that may take its time.
//!
//! Notes are plain atomics. Of one kind only the last is told, with how many there were.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::counters;
use crate::error::{Error, Protection};
use crate::locks;
use crate::os::{self, CallError};

/// What can be noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Note {
    /// A preferred protection was refused, each of them told once in a process: the cause.
    Guard,
    Lock,
    Dump,
    Fork,
    Secretmem,
    /// The process has nearly locked as much as it may; told once.
    NearLimit,
    /// A secret is sealed because pages could not be locked; told once: the vault, the cause.
    NextStore,
    /// A replica of a key's share was lost, and is there again.
    Replica,
    /// Pages could not be closed: the secret, the cause.
    StuckOpen,
    /// A secret was dropped whose pages cannot be wiped yet: the secret, the cause.
    Unwiped,
    /// A key is due to be replaced, which was refused: the vault, the cause.
    RefreshRefused,
    /// There is a new key: the vault, its epoch.
    NewKey,
    /// An owned view was revoked when its time came.
    Revoked,
    /// A secret has expired: its id.
    Expired,
    /// This process was forked.
    Forked,
}

const ALL: [Note; 15] = [
    Note::Guard,
    Note::Lock,
    Note::Dump,
    Note::Fork,
    Note::Secretmem,
    Note::NearLimit,
    Note::NextStore,
    Note::Replica,
    Note::StuckOpen,
    Note::Unwiped,
    Note::RefreshRefused,
    Note::NewKey,
    Note::Revoked,
    Note::Expired,
    Note::Forked,
];

impl Note {
    const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// That a preferred protection was refused.
    pub(crate) const fn refused(protection: Protection) -> Self {
        match protection {
            Protection::Guard => Self::Guard,
            Protection::Lock => Self::Lock,
            Protection::Dump => Self::Dump,
            Protection::Fork => Self::Fork,
            Protection::Secretmem => Self::Secretmem,
        }
    }

    const fn protection(self) -> Option<Protection> {
        match self {
            Self::Guard => Some(Protection::Guard),
            Self::Lock => Some(Protection::Lock),
            Self::Dump => Some(Protection::Dump),
            Self::Fork => Some(Protection::Fork),
            Self::Secretmem => Some(Protection::Secretmem),
            _ => None,
        }
    }

    /// Is it told once in a process? The status tells it always.
    const ONCE: u32 = Self::Guard.bit()
        | Self::Lock.bit()
        | Self::Dump.bit()
        | Self::Fork.bit()
        | Self::Secretmem.bit()
        | Self::NearLimit.bit()
        | Self::NextStore.bit();
}

struct Place {
    count: AtomicU64,
    first: AtomicU64,
    second: AtomicU64,
}

static PLACES: [Place; ALL.len()] =
    [const { Place { count: AtomicU64::new(0), first: AtomicU64::new(0), second: AtomicU64::new(0) } };
        ALL.len()];
/// Notes that are to be told.
static PENDING: AtomicU32 = AtomicU32::new(0);
/// Those of them that are told once and have been.
static TOLD: AtomicU32 = AtomicU32::new(0);

/// Notes it. Takes no lock, allocates nothing.
#[cold]
pub(crate) fn note(note: Note, first: u64, second: u64) {
    let bit = note.bit();
    if Note::ONCE & bit != 0 && TOLD.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
        return;
    }
    let place = &PLACES[note as usize];
    place.first.store(first, Ordering::Relaxed);
    place.second.store(second, Ordering::Relaxed);
    place.count.fetch_add(1, Ordering::Relaxed);
    PENDING.fetch_or(bit, Ordering::Release);
}

/// As a word of a note; zero where no call is to blame.
pub(crate) fn cause(call: Option<CallError>) -> u64 {
    call.map_or(0, CallError::to_word)
}

/// Has it been noted before, in this process or in one that it was forked from?
pub(crate) fn is_told(note: Note) -> bool {
    TOLD.load(Ordering::Relaxed) & note.bit() != 0
}

/// In a child that was just forked: what is still to be told is the parent's to tell.
pub(crate) fn begin_in_child() {
    PENDING.store(0, Ordering::Relaxed);
    PLACES.iter().for_each(|place| place.count.store(0, Ordering::Relaxed));
    note(Note::Forked, 0, 0);
}

/// To be called at the end of a call of the user's that makes or changes something, with its outcome.
#[inline]
pub(crate) fn ended<T>(outcome: Result<T, Error>) -> Result<T, Error> {
    tell();
    outcome.inspect_err(counters::refused)
}

/// Tells what is to be told. Where code of the user's may run: no lock of ours is held, no key is in hand.
#[inline]
pub(crate) fn tell() {
    if PENDING.load(Ordering::Relaxed) != 0 {
        tell_pending();
    }
}

#[cold]
fn tell_pending() {
    locks::user_code();
    let pending = PENDING.swap(0, Ordering::Acquire);
    for note in ALL.into_iter().filter(|note| pending & note.bit() != 0) {
        let place = &PLACES[note as usize];
        let count = place.count.swap(0, Ordering::Relaxed);
        say(note, count, place.first.load(Ordering::Relaxed), place.second.load(Ordering::Relaxed));
    }
}

fn say(note: Note, count: u64, first: u64, second: u64) {
    let call = |word| CallError::from_word(word).map(tracing::field::display);
    match note {
        Note::Guard | Note::Lock | Note::Dump | Note::Fork | Note::Secretmem => {
            tracing::warn!(
                protection = note.protection().map(Protection::name),
                cause = call(first),
                "a preferred protection was refused; work goes on without it"
            );
        }
        Note::NearLimit => {
            let (limit, locked) = (os::lock_limit(), os::locked_now());
            tracing::warn!(limit, locked, "the process has nearly locked as much memory as it may");
        }
        Note::NextStore => tracing::warn!(
            vault = first,
            cause = call(second),
            "a secret is sealed, since the pages that it was to have could not be locked"
        ),
        Note::Replica => tracing::warn!(
            count,
            "a file with a share of a key was lost and has been replaced; something may close descriptors that are \
             not its own"
        ),
        Note::StuckOpen => tracing::warn!(
            secret = first,
            cause = call(second),
            count,
            "pages could not be closed after their last use; the next operation on the secret tries again"
        ),
        Note::Unwiped => tracing::warn!(
            secret = first,
            cause = call(second),
            count,
            "a secret was dropped that cannot be wiped yet"
        ),
        Note::RefreshRefused => tracing::warn!(
            vault = first,
            cause = call(second),
            "a vault's key is due to be replaced, which was refused; its status says why"
        ),
        Note::NewKey => tracing::debug!(vault = first, epoch = second, "a vault has a new key"),
        Note::Revoked => tracing::info!(count, "views that had outlived a close were revoked"),
        Note::Expired => tracing::debug!(secret = first, count, "a secret has expired"),
        Note::Forked => tracing::debug!("this process was forked; secrets of its parent are gone in it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_note_has_its_place() {
        for (index, note) in ALL.into_iter().enumerate() {
            assert_eq!(note as usize, index);
        }
    }
}

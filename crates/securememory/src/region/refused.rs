//! Tells once in a process of each preferred protection that was refused; `status()` tells it always.
//!
//! Pages are protected under locks, and no subscriber of `tracing` is to run there: so it is noted, and told by whoever
//! comes out of the lock.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::Protection;
use crate::locks;
use crate::os::CallError;

const ALL: [Protection; 5] =
    [Protection::Guard, Protection::Lock, Protection::Dump, Protection::Fork, Protection::Secretmem];

/// Those that are noted or told; those that are noted and not told.
static KNOWN: AtomicU32 = AtomicU32::new(0);
static NOTED: AtomicU32 = AtomicU32::new(0);
/// Only ever tried: a child may have been forked while somebody had it.
static CAUSES: Mutex<[Option<CallError>; ALL.len()]> = Mutex::new([None; ALL.len()]);

fn bit(protection: Protection) -> u32 {
    1 << protection as u32
}

#[cold]
pub(super) fn note(protection: Protection, cause: CallError) {
    if KNOWN.load(Ordering::Relaxed) & bit(protection) != 0 {
        return;
    }
    if let Ok(mut causes) = CAUSES.try_lock()
        && let Some(place) = causes.get_mut(protection as usize)
    {
        place.get_or_insert(cause);
        KNOWN.fetch_or(bit(protection), Ordering::Relaxed);
        NOTED.fetch_or(bit(protection), Ordering::Release);
    }
}

/// Tells what was noted. To be called without a lock.
#[inline]
pub(crate) fn tell() {
    if NOTED.load(Ordering::Relaxed) != 0 {
        tell_all();
    }
}

#[cold]
fn tell_all() {
    locks::user_code();
    let noted = NOTED.swap(0, Ordering::Acquire);
    let causes = CAUSES.try_lock().map(|causes| *causes);
    let Ok(causes) = causes else {
        NOTED.fetch_or(noted, Ordering::Release);
        return;
    };
    for (protection, cause) in ALL.into_iter().zip(causes) {
        if noted & bit(protection) != 0
            && let Some(cause) = cause
        {
            tracing::warn!(%protection, %cause, "a preferred protection was refused; work goes on without it");
        }
    }
}

//! Is this process going down?
//!
//! It is said once and never taken back. From then on nothing of ours is unmapped or freed, since whoever wipes takes no
//! locks and walks through it.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::Error;

static STATE: AtomicU32 = AtomicU32::new(0);

const ALIVE: u32 = 0;
const BEGUN: u32 = 1;
const DONE: u32 = 2;

/// Has the wiping begun?
#[inline]
pub(crate) fn has_begun() -> bool {
    STATE.load(Ordering::SeqCst) != ALIVE
}

/// Is it done?
pub(crate) fn is_done() -> bool {
    STATE.load(Ordering::SeqCst) == DONE
}

/// Says that it begins; false: somebody has begun before.
pub(crate) fn begin() -> bool {
    STATE.compare_exchange(ALIVE, BEGUN, Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

/// Says that it is done.
pub(crate) fn end() {
    STATE.store(DONE, Ordering::SeqCst);
}

/// Why a vault's alive mark is gone.
#[cold]
pub(crate) fn why_gone() -> Error {
    if has_begun() { Error::Dying } else { Error::Forked }
}

/// A child begins anew: what its parent was about to wipe is not the child's.
pub(crate) fn forget_in_child() {
    STATE.store(ALIVE, Ordering::SeqCst);
}

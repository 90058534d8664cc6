//! The atomics of the gate and of the slots: the standard ones, or in the models of `gate/models` (`--cfg loom`) those of a
//! model checker. So the models run the code that users run.

#[cfg(all(loom, test))]
mod modelled;
#[cfg(all(loom, test))]
pub(crate) use modelled::*;

#[cfg(not(all(loom, test)))]
pub(crate) use crate::os::{wait_on, wake_all};
#[cfg(not(all(loom, test)))]
pub(crate) use std::hint::spin_loop;
#[cfg(not(all(loom, test)))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64};
#[cfg(not(all(loom, test)))]
pub(crate) use std::thread::yield_now;

/// Sleeps for `nap` at most: so bounded that a lost wake does not matter.
#[cfg(not(all(loom, test)))]
pub(crate) fn doze(event: &AtomicU32, seen: u32, nap: std::time::Duration) {
    wait_on(event, seen, Some(nap));
}

/// Stands where the code relies on the one total order of sequentially consistent operations. They have that order
/// by themselves; the model checker knows it only of fences, so there this is one.
#[cfg(not(all(loom, test)))]
#[inline(always)]
pub(crate) fn total_order() {}

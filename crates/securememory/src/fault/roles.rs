//! Whose business a signal is, and what is to become of a delivery that has waited.

use std::sync::atomic::{AtomicU32, Ordering};

/// Faults of the process are looked at, and what is fatal wipes.
pub(crate) const FAULT: u32 = 1;
/// The coordinator's handlers are asked.
pub(crate) const COORDINATED: u32 = 1 << 1;
/// What ends the process wipes before.
pub(crate) const WIPES: u32 = 1 << 2;
/// If nobody has handled it, it ends the process, whatever the handler before us does.
pub(crate) const ENDS: u32 = 1 << 3;
/// We have made place for a handler that must have a stack of its own, and want to be back. Not on Windows.
#[cfg(unix)]
pub(crate) const ASIDE: u32 = 1 << 4;

/// To whoever was there before.
pub(crate) const PASSING: u32 = 1;
/// It ends the process.
pub(crate) const ENDING: u32 = 2;

/// Some of [`FAULT`], [`COORDINATED`] and so on. Read by handlers, changed by whoever has the right to change what is installed.
#[derive(Debug)]
pub(crate) struct Roles(AtomicU32);

impl Roles {
    pub(crate) const fn none() -> Self {
        Self(AtomicU32::new(0))
    }

    pub(crate) fn now(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn add(&self, roles: u32) {
        self.0.fetch_or(roles, Ordering::AcqRel);
    }

    /// Takes some away; gives those that are left.
    pub(crate) fn remove(&self, roles: u32) -> u32 {
        self.0.fetch_and(!roles, Ordering::AcqRel) & !roles
    }
}

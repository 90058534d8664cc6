//! What a Windows process has taken from the system.

use std::collections::BTreeSet;

use crate::os::{self, limits};

/// There are none.
pub(super) type Signal = u8;

pub(super) fn begin() {}

pub(super) fn signals() -> Vec<Signal> {
    Vec::new()
}

/// Handles, of which none is judged.
pub(super) fn descriptors() -> (usize, BTreeSet<String>) {
    (limits::handles() as usize, BTreeSet::new())
}

pub(super) fn mappings() -> BTreeSet<String> {
    limits::mappings().into_iter().map(|(at, len)| format!("{len:#x} bytes at {at:#x}")).collect()
}

pub(super) fn locked() -> u64 {
    os::locked_now().unwrap_or(0)
}

pub(super) fn threads() -> usize {
    limits::threads()
}

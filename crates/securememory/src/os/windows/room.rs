//! How much of what is limited is left to this process. Every question has the answer "unknown".

use windows_sys::Win32::System::SystemInformation::{GlobalMemoryStatusEx, MEMORYSTATUSEX};

/// What is in use of something, and what may come to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) in_use: Option<u64>,
    /// The maximum where there is no bound.
    pub(crate) left: Option<u64>,
}

/// Bytes that may be locked. The working set grows with them; how far, only trying tells.
pub(crate) fn locked() -> Room {
    Room { in_use: super::locked_now(), left: None }
}

/// The same, with the limit where there is one.
pub(crate) fn lockable() -> (Option<u64>, Room) {
    (None, locked())
}

/// Mappings: limited by memory alone.
pub(crate) fn mappings() -> Room {
    Room { in_use: None, left: Some(u64::MAX) }
}

/// There are no descriptors, and handles are limited by memory alone.
pub(crate) fn descriptors() -> Room {
    Room { in_use: None, left: Some(u64::MAX) }
}

/// GlobalMemoryStatusEx
fn status() -> Option<MEMORYSTATUSEX> {
    // SAFETY: numbers, for which zero is right.
    let mut status: MEMORYSTATUSEX = unsafe { std::mem::zeroed() };
    status.dwLength = size_of::<MEMORYSTATUSEX>() as u32;
    // SAFETY: writes one structure of the length that it says, which lives over the call.
    (unsafe { GlobalMemoryStatusEx(&raw mut status) } != 0).then_some(status)
}

/// Bytes of address space.
pub(crate) fn address_space() -> Room {
    let known = status();
    let in_use = known.as_ref().map(|status| status.ullTotalVirtual.saturating_sub(status.ullAvailVirtual));
    Room { in_use, left: known.map(|status| status.ullAvailVirtual) }
}

/// Bytes that may be committed: the system's limit, less what all processes have.
pub(crate) fn data() -> Room {
    Room { in_use: None, left: status().map(|status| status.ullAvailPageFile) }
}

/// Bytes that the machine has left for its memory.
pub(crate) fn memory() -> Room {
    data()
}

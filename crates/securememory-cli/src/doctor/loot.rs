//! The files that a process has open, as a thief gets at them.

#[cfg_attr(windows, path = "loot/windows.rs")]
#[cfg_attr(not(windows), path = "loot/linux.rs")]
mod system;

use super::crack::KEY;

pub use system::loot;

/// Descriptors of a process, and what could be read through them.
#[derive(Default)]
pub struct Loot {
    /// Every 32 bytes in a row in files that could be a share.
    pub shares: Vec<[u8; KEY]>,
    /// All that was read.
    pub bytes: Vec<u8>,
    /// Descriptors that there are.
    pub descriptors: usize,
    /// Files that were read.
    pub read: usize,
    /// Files that could not be opened.
    pub refused: usize,
}

/// How to get at another process's files.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// Open them anew by name, as any file-read bug does: the file's mode is asked.
    Name,
    /// Take a duplicate of the descriptor, as a debugger does: nothing is asked.
    Duplicate,
}

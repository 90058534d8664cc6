//! What a process has taken from the system, on Windows.

// Reason: what is wrong with a test is told by a panic.
#![allow(clippy::panic)]

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::os;
use crate::os::limits::{handles, mappings, threads};

/// What the process has taken from the system: handles, private memory that begins with a page without access, as the
/// library's does, bytes that the library has locked, and threads. Other tests of the process would disturb it, so it is
/// for a [process of one's own](super::own_process).
#[derive(Clone, Debug)]
pub struct Footprint {
    handles: u32,
    mappings: BTreeSet<(usize, usize)>,
    locked: u64,
    threads: usize,
}

/// For how long threads that have ended are waited for.
const PATIENCE: Duration = Duration::from_secs(10);

impl Footprint {
    /// As it is now.
    #[must_use]
    pub fn now() -> Self {
        Self {
            handles: handles(),
            mappings: mappings().into_iter().collect(),
            locked: os::locked_now().unwrap_or(0),
            threads: threads(),
        }
    }

    /// Private memory that begins with a page without access.
    #[must_use]
    pub fn mappings(&self) -> usize {
        self.mappings.len()
    }

    /// Bytes that the library has locked.
    #[must_use]
    pub fn locked(&self) -> u64 {
        self.locked
    }

    /// Handles.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.handles as usize
    }

    /// Threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Now there is nothing more, and nothing less, than there was then. Handles are not judged: the system makes some of its
    /// own for threads and locks, and keeps them.
    ///
    /// # Panics
    ///
    /// Where there is; the message names it, and says when.
    #[track_caller]
    pub fn assert_same(&self, when: impl Display) {
        let started = Instant::now();
        while threads() > self.threads && started.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.assert_same_memory(&when);
        let now = threads();
        assert!(now <= self.threads, "{now} threads instead of {} {when}", self.threads);
    }

    /// The same of memory and locked bytes alone.
    ///
    /// # Panics
    ///
    /// As [`Footprint::assert_same`].
    #[track_caller]
    pub fn assert_same_memory(&self, when: impl Display) {
        let now = Self::now();
        assert_eq!(now.locked, self.locked, "locked bytes {when}");
        if now.mappings.len() != self.mappings.len() {
            let new: Vec<_> = now.mappings.difference(&self.mappings).collect();
            let gone: Vec<_> = self.mappings.difference(&now.mappings).collect();
            panic!("other memory {when}; new: {new:#x?}; gone: {gone:#x?}");
        }
    }
}

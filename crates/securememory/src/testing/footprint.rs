//! What a process has taken from the system.

// Reason: what is wrong with a test is told by a panic.
#![allow(clippy::panic)]

#[cfg_attr(unix, path = "footprint/unix.rs")]
#[cfg_attr(windows, path = "footprint/windows.rs")]
mod seen;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::{Duration, Instant};

/// What the process has taken from the system. Other tests of the process would disturb it, so it is for a [process of one's
/// own](super::own_process).
///
/// On Unix: descriptors, mappings, locked bytes, threads, and what the process has done about signals. On Windows: handles,
/// which are counted but not judged, since the system makes some of its own for threads and locks, and keeps them; private
/// memory that begins with a page without access, as the library's does; bytes that the library has locked; threads.
///
/// # Panics
///
/// On Unix all functions here do where /proc cannot be read, unless it is in a process of one's own: that ends as one that
/// cannot run there.
#[derive(Clone, Debug)]
pub struct Footprint {
    descriptors: usize,
    /// Those that are judged: number and name.
    named: BTreeSet<String>,
    /// In small pieces: a large one would be a mapping of its own.
    mappings: BTreeSet<String>,
    locked: u64,
    threads: usize,
    signals: Vec<seen::Signal>,
}

/// For how long threads that have ended are waited for.
const PATIENCE: Duration = Duration::from_secs(10);

impl Footprint {
    /// As it is now.
    #[must_use]
    pub fn now() -> Self {
        seen::begin();
        let (descriptors, named) = seen::descriptors();
        Self {
            descriptors,
            named,
            mappings: seen::mappings(),
            locked: seen::locked(),
            threads: seen::threads(),
            signals: seen::signals(),
        }
    }

    /// Mappings: lines of /proc/self/maps; on Windows, private memory that begins with a page without access.
    #[must_use]
    pub fn mappings(&self) -> usize {
        self.mappings.len()
    }

    /// Bytes locked: `VmLck` of /proc/self/status; on Windows, those that the library has locked.
    #[must_use]
    pub fn locked(&self) -> u64 {
        self.locked
    }

    /// Descriptors, or handles.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.descriptors
    }

    /// Threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Now there is nothing more, and (but for threads) nothing less, than there was then.
    ///
    /// # Panics
    ///
    /// Where there is; the message names it, and says when.
    #[track_caller]
    pub fn assert_same(&self, when: impl Display) {
        // The kernel lists a thread for a moment when it has been joined already: now, and maybe then.
        let started = Instant::now();
        while seen::threads() > self.threads && started.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.assert_same_memory(&when);
        let now = Self::now();
        assert!(now.threads <= self.threads, "{} threads instead of {} {when}", now.threads, self.threads);
        let changed: Vec<_> = (1..)
            .zip(now.signals.iter().zip(&self.signals))
            .filter(|(_, (now, before))| now != before)
            .collect();
        assert!(changed.is_empty(), "signals {when}: {changed:?}");
    }

    /// The same of descriptors, mappings and locked bytes alone.
    ///
    /// # Panics
    ///
    /// As [`Footprint::assert_same`].
    #[track_caller]
    pub fn assert_same_memory(&self, when: impl Display) {
        let now = Self::now();
        assert_eq!(now.named, self.named, "descriptors {when}");
        assert_eq!(now.locked, self.locked, "locked bytes {when}");
        if now.mappings.len() != self.mappings.len() {
            let new: Vec<_> = now.mappings.difference(&self.mappings).collect();
            let gone: Vec<_> = self.mappings.difference(&now.mappings).collect();
            let (before, after) = (self.mappings.len(), now.mappings.len());
            panic!("{after} mappings instead of {before} {when}; new: {new:#?}; gone: {gone:#?}");
        }
    }
}

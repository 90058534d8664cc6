//! What a process has taken from the system.

// Reason: what is wrong with a test is told by a panic.
#![allow(clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use super::own_process;
use crate::os::signals::{self, Action, MAX_SIGNAL};

/// What the process has taken from the system: descriptors, mappings, locked bytes, threads, and what it has done about
/// signals. Other tests of the process would disturb it, so it is for a [process of one's own](super::own_process).
///
/// # Panics
///
/// All functions here do where /proc cannot be read, unless it is in a process of one's own: that ends as one that cannot run
/// there.
#[derive(Clone, Debug)]
pub struct Footprint {
    descriptors: BTreeSet<String>,
    /// In small pieces: a large one would be a mapping of its own.
    mappings: BTreeSet<String>,
    locked: u64,
    threads: usize,
    signals: Vec<Option<Action>>,
}

/// For how long threads that have ended are waited for.
const PATIENCE: Duration = Duration::from_secs(10);

impl Footprint {
    /// As it is now.
    #[must_use]
    pub fn now() -> Self {
        own_process::need_proc();
        Self {
            descriptors: descriptors(),
            mappings: mappings(),
            locked: locked(),
            threads: threads(),
            signals: (1..=MAX_SIGNAL as i32).map(signals::look_at_action).collect(),
        }
    }

    /// Mappings: lines of /proc/self/maps.
    #[must_use]
    pub fn mappings(&self) -> usize {
        self.mappings.len()
    }

    /// Bytes locked: `VmLck` of /proc/self/status.
    #[must_use]
    pub fn locked(&self) -> u64 {
        self.locked
    }

    /// Descriptors.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.descriptors.len()
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
        while threads() > self.threads && started.elapsed() < PATIENCE {
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
        assert_eq!(now.descriptors, self.descriptors, "descriptors {when}");
        assert_eq!(now.locked, self.locked, "locked bytes {when}");
        if now.mappings.len() != self.mappings.len() {
            let new: Vec<_> = now.mappings.difference(&self.mappings).collect();
            let gone: Vec<_> = self.mappings.difference(&now.mappings).collect();
            let (before, after) = (self.mappings.len(), now.mappings.len());
            panic!("{after} mappings instead of {before} {when}; new: {new:#?}; gone: {gone:#?}");
        }
    }
}

fn descriptors() -> BTreeSet<String> {
    let names = std::fs::read_dir("/proc/self/fd").expect("/proc/self/fd").flatten();
    names
        .filter_map(|entry| {
            let target = std::fs::read_link(entry.path()).ok()?;
            let number = entry.file_name().into_string().ok()?;
            // The listing itself.
            (!target.ends_with("fd")).then(|| format!("{number} -> {}", target.display()))
        })
        .collect()
}

fn mappings() -> BTreeSet<String> {
    let file = std::fs::File::open("/proc/self/maps").expect("/proc/self/maps");
    BufReader::new(file).lines().map(|line| line.expect("a line")).collect()
}

fn locked() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = text.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("VmLck");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * 1024
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("/proc/self/task").count()
}

//! What a Unix process has taken from the system, by /proc.

// Reason: what is wrong with a test is told by a panic.
#![allow(clippy::expect_used)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};

use crate::os::signals::{self, Action, MAX_SIGNAL};
use crate::testing::own_process;

/// What is done about a signal.
pub(super) type Signal = Option<Action>;

/// Without /proc there is nothing to be seen.
pub(super) fn begin() {
    own_process::need_proc();
}

pub(super) fn signals() -> Vec<Signal> {
    (1..=MAX_SIGNAL as i32).map(signals::look_at_action).collect()
}

pub(super) fn descriptors() -> (usize, BTreeSet<String>) {
    let names = std::fs::read_dir("/proc/self/fd").expect("/proc/self/fd").flatten();
    let named = names.filter_map(|entry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        let number = entry.file_name().into_string().ok()?;
        // The listing itself.
        (!target.ends_with("fd")).then(|| format!("{number} -> {}", target.display()))
    });
    let named: BTreeSet<String> = named.collect();
    (named.len(), named)
}

pub(super) fn mappings() -> BTreeSet<String> {
    let file = std::fs::File::open("/proc/self/maps").expect("/proc/self/maps");
    let lines = BufReader::new(file).lines().map(|line| line.expect("a line"));
    if cfg!(target_env = "musl") { without_the_allocators(lines.collect()) } else { lines.collect() }
}

/// The allocator of musl makes mappings as it likes, of memory to be written that is of no file. What is the library's lies
/// between two guards. (So do not stacks; threads are counted by themselves.)
fn without_the_allocators(lines: Vec<String>) -> BTreeSet<String> {
    let is_guard = |line: Option<&String>| line.is_some_and(|line| line.contains(" ---p "));
    let is_anonymous = |line: &str| {
        line.contains(" rw-p ") && [" 0", "[heap]"].iter().any(|end| line.trim_end().ends_with(end))
    };
    let is_between = |at: usize| {
        let (before, after) = (at.checked_sub(1).and_then(|at| lines.get(at)), lines.get(at + 1));
        let touch = |low: Option<&String>, high: Option<&String>| {
            let end = low.and_then(|line| line.split(['-', ' ']).nth(1));
            end.is_some() && end == high.and_then(|line| line.split('-').next())
        };
        is_guard(before) && is_guard(after) && touch(before, lines.get(at)) && touch(lines.get(at), after)
    };
    let judged = lines.iter().enumerate().filter(|(at, line)| !is_anonymous(line) || is_between(*at));
    judged.map(|(_, line)| line.clone()).collect()
}

pub(super) fn locked() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = text.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("VmLck");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * 1024
}

pub(super) fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("/proc/self/task").count()
}

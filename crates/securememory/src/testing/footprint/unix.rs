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
    let mut closed_up_to = String::new();
    let lines = BufReader::new(file).lines().map(|line| line.expect("a line"));
    let judged = lines.filter(|line| {
        let (start, rest) = line.split_once('-').expect("a range");
        let (end, rest) = rest.split_once(' ').expect("rights");
        let is_guarded = start == closed_up_to;
        closed_up_to = if rest.starts_with("---p") { end.to_owned() } else { String::new() };
        // The allocator of musl makes mappings as it likes. Those of the library lie behind a guard, as do stacks.
        !cfg!(target_env = "musl") || is_guarded || !is_anonymous(rest)
    });
    judged.collect()
}

/// Is it memory to be written, of no file? `rest` is what follows the addresses.
fn is_anonymous(rest: &str) -> bool {
    let rest = rest.trim_end();
    rest.starts_with("rw-p") && (rest.ends_with(" 0") || rest.ends_with("[heap]"))
}

pub(super) fn locked() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = text.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("VmLck");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * 1024
}

pub(super) fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("/proc/self/task").count()
}

//! Hardening of the whole process: what keeps others from its memory, and its memory from disks. Only by an explicit call.
//!
//! Nothing in this library calls [`process`] by itself: what it does concerns the whole program, debuggers and crash reports
//! included. It says of each measure what has become of it, and undoes nothing.
//!
//! ```
//! use securememory::harden::{self, Options};
//! // What one could do, without doing it.
//! let found = harden::process(Options::look());
//! println!("{found}");
//! // At the start of a program, before it has secrets:
//! let report = harden::process(Options::all());
//! for (measure, error) in report.failures() {
//!     eprintln!("{measure}: {error}");
//! }
//! ```
//!
//! # What "not dumpable" costs
//!
//! The kernel gives the files under /proc/self of a process that is not dumpable to root (proc(5)), so an ordinary user's own
//! process cannot write to `coredump_filter` any more, nor open its `mem`, `pagemap` and `environ`; it still reads `status`,
//! `maps` and `smaps`, so this library's `status()` still verifies. Where /proc is restricted further, it says "unverified".
//! Other processes of the same user read none of these files, `fd` included, and cannot attach: debuggers, profilers and
//! crash reporters that run outside do not work, and of the attacks of `securememory doctor` those that begin in
//! another process fail. execve(2) makes a process dumpable again; a forked child stays as its parent is. A change of user
//! or group sets it to what `fs.suid_dumpable` says.

use std::fmt;

use crate::os::process as os;
use crate::os::{Call, CallError, errno};

/// What is to be done, and what is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "options do nothing by themselves"]
pub struct Options {
    dumpable: bool,
    cores: bool,
    core_contents: bool,
    look: bool,
}

impl Options {
    /// Nothing. For who chooses measures one by one.
    pub const fn none() -> Self {
        Self { dumpable: false, cores: false, core_contents: false, look: false }
    }

    /// No measure, but everything is looked at.
    pub const fn look() -> Self {
        Self::none().checks(true)
    }

    /// Every measure, and everything is looked at.
    pub const fn all() -> Self {
        Self::look().not_dumpable(true).no_cores(true).empty_cores(true)
    }

    /// Other processes of the same user may not read this one's memory nor attach to it, and the kernel writes no core of
    /// it, wherever cores go. `PR_SET_DUMPABLE` in prctl(2).
    pub const fn not_dumpable(mut self, wanted: bool) -> Self {
        self.dumpable = wanted;
        self
    }

    /// The largest core has zero bytes, and that cannot be raised again without rights. `RLIMIT_CORE` in getrlimit(2), soft
    /// and hard; programs that are executed inherit it. A program that takes cores from the kernel (a `|` in
    /// `core_pattern`, as with systemd) is not bound by it.
    pub const fn no_cores(mut self, wanted: bool) -> Self {
        self.cores = wanted;
        self
    }

    /// Should there be a core after all, it contains no memory, only registers. `coredump_filter` in core(5); programs that
    /// are executed inherit it. This does bind what the kernel gives to a program that takes cores.
    pub const fn empty_cores(mut self, wanted: bool) -> Self {
        self.core_contents = wanted;
        self
    }

    /// Looks at swap, at what memory of others cores would contain, at where cores go, and at who may attach.
    pub const fn checks(mut self, wanted: bool) -> Self {
        self.look = wanted;
        self
    }
}

/// A measure, or a look.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Measure {
    /// [`Options::not_dumpable`].
    NotDumpable,
    /// [`Options::no_cores`].
    NoCores,
    /// [`Options::empty_cores`].
    EmptyCores,
    /// A look at swap.
    Swap,
    /// A look at what cores would contain.
    DumpedMemory,
    /// A look at where cores go.
    CorePattern,
    /// A look at who may attach.
    PtraceScope,
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotDumpable => "not dumpable",
            Self::NoCores => "no cores",
            Self::EmptyCores => "empty cores",
            Self::Swap => "swap",
            Self::DumpedMemory => "memory in cores",
            Self::CorePattern => "where cores go",
            Self::PtraceScope => "who may attach",
        })
    }
}

/// What has become of a measure.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was asked for, and a look afterwards shows that it is in force.
    Done,
    /// It was in force before; nothing was done.
    Already,
    /// It was not asked for, and is not in force.
    NotAsked,
    /// It could not be done, or is not in force all the same, or it could not be seen whether it is.
    Failed(CallError),
}

impl Outcome {
    /// Is the measure in force?
    #[must_use]
    pub const fn in_force(self) -> bool {
        matches!(self, Self::Done | Self::Already)
    }

    fn of(
        asked: bool,
        call: Call,
        is_in_force: impl Fn() -> Result<bool, CallError>,
        act: impl FnOnce() -> Result<(), CallError>,
    ) -> Self {
        let carry_out = || {
            Ok(match (is_in_force()?, asked) {
                (true, _) => Self::Already,
                (false, false) => Self::NotAsked,
                (false, true) => {
                    act()?;
                    // What says that it has done something may have done nothing.
                    if is_in_force()? {
                        Self::Done
                    } else {
                        Self::Failed(CallError::new(call, errno::ENOTSUP))
                    }
                }
            })
        };
        carry_out().unwrap_or_else(Self::Failed)
    }
}

/// What a look has found.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen<T> {
    /// This.
    Found(T),
    /// It was not looked at.
    NotAsked,
    /// It could not be seen.
    Failed(CallError),
}

impl<T> Seen<T> {
    fn of(asked: bool, look: impl FnOnce() -> Result<T, CallError>) -> Self {
        if asked { look().map_or_else(Self::Failed, Self::Found) } else { Self::NotAsked }
    }

    /// What was found, if it was.
    #[must_use]
    pub const fn found(&self) -> Option<&T> {
        match self {
            Self::Found(found) => Some(found),
            _ => None,
        }
    }

    fn error(&self) -> Option<CallError> {
        match self {
            Self::Failed(error) => Some(*error),
            _ => None,
        }
    }
}

/// A swap area. proc_swaps(5).
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    /// The device or file.
    pub name: String,
    /// Bytes that it holds.
    pub size: u64,
    /// Bytes that are in use.
    pub used: u64,
    /// It is compressed memory (zram), which is lost without power; unless that writes back to a disk.
    pub zram: bool,
}

/// Memory that cores would contain: writable, private, and not left out with `MADV_DONTDUMP`.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DumpedMemory {
    /// Bytes of address space, all together.
    pub bytes: u64,
    /// Bytes of them that are in memory.
    pub resident: u64,
    /// Those with most in memory, summed by name, the largest first.
    pub largest: Vec<DumpedPart>,
}

/// A part of [`DumpedMemory`].
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpedPart {
    /// A path, `[heap]`, `[stack]` or another name of the kernel's; empty for mappings without one.
    pub name: String,
    /// Bytes of address space.
    pub bytes: u64,
    /// Bytes in memory.
    pub resident: u64,
}

/// Parts that are named at most.
const NAMED: usize = 5;

/// What was done, what could not be, and what was seen. Its `Display` has a line for each.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// See [`Options::not_dumpable`].
    pub not_dumpable: Outcome,
    /// See [`Options::no_cores`].
    pub no_cores: Outcome,
    /// See [`Options::empty_cores`].
    pub empty_cores: Outcome,
    /// The swap areas; what is not locked may be written to them.
    pub swap: Seen<Vec<Swap>>,
    /// What cores would contain of the memory of others.
    pub dumped: Seen<DumpedMemory>,
    /// Where cores go: a file name, or a program after a `|`. core(5).
    pub core_pattern: Seen<String>,
    /// Who may attach to this process: 0 any process of the same user, 1 its parents only, 2 administrators only, 3 nobody.
    /// `kernel.yama.ptrace_scope` in ptrace(2); `None`: there is no such restriction. A process that is not dumpable is
    /// only attached to by administrators in any case.
    pub ptrace_scope: Seen<Option<u8>>,
}

impl Report {
    /// What could not be done or seen, and which call refused.
    pub fn failures(&self) -> impl Iterator<Item = (Measure, CallError)> + use<> {
        let failed = |outcome: Outcome| match outcome {
            Outcome::Failed(error) => Some(error),
            _ => None,
        };
        let all = [
            (Measure::NotDumpable, failed(self.not_dumpable)),
            (Measure::NoCores, failed(self.no_cores)),
            (Measure::EmptyCores, failed(self.empty_cores)),
            (Measure::Swap, self.swap.error()),
            (Measure::DumpedMemory, self.dumped.error()),
            (Measure::CorePattern, self.core_pattern.error()),
            (Measure::PtraceScope, self.ptrace_scope.error()),
        ];
        all.into_iter().filter_map(|(measure, error)| error.map(|error| (measure, error)))
    }
}

/// Carries out the measures that are asked for, and looks at what is asked for.
///
/// The order is such that no measure stands in the way of another. For a program that starts threads by itself: this concerns
/// all of them, at once.
#[must_use = "a measure may have been refused"]
pub fn process(options: Options) -> Report {
    let Options { dumpable, cores, core_contents, look } = options;
    let dumped = Seen::of(look, dumped_memory);
    let is_empty = || Ok(os::core_filter()? == 0);
    let empty_cores = Outcome::of(core_contents, Call::Write, is_empty, os::forbid_core_contents);
    let are_none = || Ok(os::core_limits() == (Some(0), Some(0)));
    let no_cores = Outcome::of(cores, Call::Setrlimit, are_none, os::forbid_cores);
    // Last, since files of /proc are root's afterwards.
    let is_closed = || os::is_dumpable().map(|is| !is);
    let not_dumpable = Outcome::of(dumpable, Call::Prctl, is_closed, os::forbid_dumping);
    Report {
        not_dumpable,
        no_cores,
        empty_cores,
        swap: Seen::of(look, || os::swaps().map(|table| swaps(&table))),
        dumped,
        core_pattern: Seen::of(look, os::core_pattern),
        ptrace_scope: Seen::of(look, os::ptrace_scope),
    }
}

fn swaps(table: &str) -> Vec<Swap> {
    let area = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        let mut kib = words.skip(1).map(|word| word.parse::<u64>().ok()?.checked_mul(1024));
        let (size, used) = (kib.next()??, kib.next()??);
        let zram = name.strip_prefix("/dev/").unwrap_or(&name).starts_with("zram");
        Some(Swap { name, size, used, zram })
    };
    table.lines().skip(1).filter_map(area).collect()
}

fn dumped_memory() -> Result<DumpedMemory, CallError> {
    let mut found = DumpedMemory::default();
    os::each_dumped(|one| {
        found.bytes = found.bytes.saturating_add(one.bytes);
        found.resident = found.resident.saturating_add(one.resident);
        match found.largest.iter_mut().find(|part| part.name == one.name) {
            Some(part) => {
                (part.bytes, part.resident) = (part.bytes + one.bytes, part.resident + one.resident)
            }
            None => {
                let name = one.name.to_owned();
                found.largest.push(DumpedPart { name, bytes: one.bytes, resident: one.resident });
            }
        }
    })?;
    found.largest.sort_by_key(|part| std::cmp::Reverse((part.resident, part.bytes)));
    found.largest.truncate(NAMED);
    Ok(found)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let measures = [
            (Measure::NotDumpable, self.not_dumpable),
            (Measure::NoCores, self.no_cores),
            (Measure::EmptyCores, self.empty_cores),
        ];
        for (n, (measure, outcome)) in measures.into_iter().enumerate() {
            write!(f, "{}{measure}: ", if n == 0 { "" } else { "\n" })?;
            match outcome {
                Outcome::Done => f.write_str("done")?,
                Outcome::Already => f.write_str("in force already")?,
                Outcome::NotAsked => f.write_str("not in force, and not asked for")?,
                Outcome::Failed(error) => write!(f, "failed: {error}")?,
            }
        }
        line(f, Measure::Swap, &self.swap, |f, swaps| {
            if swaps.is_empty() {
                return f.write_str("none");
            }
            for (n, Swap { name, size, used, zram }) in swaps.iter().enumerate() {
                let (comma, kind) =
                    (if n == 0 { "" } else { ", " }, if *zram { " (compressed memory)" } else { "" });
                write!(f, "{comma}{name:?}{kind}: {} of {} KiB in use", used / 1024, size / 1024)?;
            }
            Ok(())
        })?;
        line(f, Measure::DumpedMemory, &self.dumped, |f, found| {
            write!(f, "{} KiB that are not this library's", found.resident / 1024)?;
            for (n, DumpedPart { name, resident, .. }) in found.largest.iter().enumerate() {
                let name: &dyn fmt::Debug = if name.is_empty() { &"(no name)" } else { name };
                write!(f, "{} {} in {name:?}", if n == 0 { ":" } else { "," }, resident / 1024)?;
            }
            Ok(())
        })?;
        line(f, Measure::CorePattern, &self.core_pattern, |f, pattern| {
            let bound =
                if pattern.starts_with('|') { ", a program, which no limit on cores binds" } else { "" };
            write!(f, "{pattern:?}{bound}")
        })?;
        line(f, Measure::PtraceScope, &self.ptrace_scope, |f, scope| {
            f.write_str(match scope {
                None | Some(0) => "any process of the same user",
                Some(1) => "its parents",
                Some(2) => "administrators",
                Some(_) => "nobody",
            })?;
            f.write_str(if self.not_dumpable.in_force() {
                "; it is not dumpable: administrators at most"
            } else {
                ""
            })
        })
    }
}

fn line<T>(
    f: &mut fmt::Formatter<'_>,
    measure: Measure,
    seen: &Seen<T>,
    say: impl FnOnce(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    match seen {
        Seen::NotAsked => Ok(()),
        Seen::Failed(error) => write!(f, "\n{measure}: could not be seen: {error}"),
        Seen::Found(found) => {
            write!(f, "\n{measure}: ")?;
            say(f, found)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_areas_are_listed_with_their_kind() {
        let table = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                     /dev/zram0                              partition\t4194304\t\t1024\t\t100\n\
                     /swap\\040file                           file\t\t8\t\t0\t\t-2\n";
        let found = swaps(table);
        assert_eq!(found.len(), 2);
        let zram = Swap { name: "/dev/zram0".to_owned(), size: 4 << 30, used: 1 << 20, zram: true };
        assert_eq!(found.first(), Some(&zram));
        let file = Swap { name: "/swap\\040file".to_owned(), size: 8192, used: 0, zram: false };
        assert_eq!(found.last(), Some(&file));
        assert!(swaps("Filename\tType\tSize\tUsed\tPriority\n").is_empty());
    }

    #[test]
    fn a_report_says_each_thing_in_a_line() {
        let refused = CallError { call: Call::Prctl, errno: errno::EPERM };
        let part = |name: &str, resident| DumpedPart { name: name.to_owned(), bytes: resident, resident };
        let report = Report {
            not_dumpable: Outcome::Failed(refused),
            no_cores: Outcome::Done,
            empty_cores: Outcome::NotAsked,
            swap: Seen::Found(swaps("head\n/dev/zram0 partition 8 4 1\n")),
            dumped: Seen::Found(DumpedMemory {
                bytes: 9 << 10,
                resident: 7 << 10,
                largest: vec![part("/a\nname", 5 << 10), part("", 2 << 10)],
            }),
            core_pattern: Seen::Found("|/bin/crash %p".to_owned()),
            ptrace_scope: Seen::Found(Some(1)),
        };
        let text = report.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 7, "{text}");
        for (line, part) in lines.iter().zip([
            "not dumpable: failed: prctl: ",
            "no cores: done",
            "empty cores: not in force, and not asked for",
            "swap: \"/dev/zram0\" (compressed memory): 4 of 8 KiB in use",
            "memory in cores: 7 KiB that are not this library's: 5 in \"/a\\nname\", 2 in \"(no name)\"",
            "where cores go: \"|/bin/crash %p\", a program, which no limit on cores binds",
            "who may attach: its parents",
        ]) {
            assert!(line.starts_with(part), "{line:?} {part:?}");
        }
        assert!(report.failures().eq([(Measure::NotDumpable, refused)]));
    }
}

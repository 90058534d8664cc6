//! What concerns the process as a whole: who may look at its memory, and what becomes of that when it crashes.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};

use super::proc::{Lines, kilobytes, own};
use crate::os::{Call, CallError, CallResult, injected};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, dumpable_behavior, getrlimit, set_dumpable_behavior, setrlimit,
};

fn failed(call: Call) -> impl Fn(Errno) -> CallError {
    move |errno| CallError::new(call, errno.raw_os_error())
}

fn io_failed(call: Call) -> impl Fn(std::io::Error) -> CallError {
    move |error| CallError::new(call, error.raw_os_error().unwrap_or(libc::EIO))
}

/// May others of the same user look at it, and may it leave a core? prctl(2), `PR_GET_DUMPABLE`.
pub(crate) fn is_dumpable() -> CallResult<bool> {
    injected(Call::Prctl)?;
    Ok(dumpable_behavior().map_err(failed(Call::Prctl))? != DumpableBehavior::NotDumpable)
}

/// Forbids that. prctl(2), `PR_SET_DUMPABLE`.
pub(crate) fn forbid_dumping() -> CallResult<()> {
    injected(Call::Prctl)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed(Call::Prctl))
}

/// The largest core, in bytes: soft and hard; `None`: any size. getrlimit(2), `RLIMIT_CORE`.
pub(crate) fn core_limits() -> (Option<u64>, Option<u64>) {
    let Rlimit { current, maximum } = getrlimit(Resource::Core);
    (current, maximum)
}

/// Sets both to zero. setrlimit(2).
pub(crate) fn forbid_cores() -> CallResult<()> {
    injected(Call::Setrlimit)?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(failed(Call::Setrlimit))
}

/// Which kinds of memory a core contains, one bit each. core(5), `coredump_filter`.
pub(crate) fn core_filter() -> CallResult<u32> {
    let text = read("/proc/self/coredump_filter")?;
    u32::from_str_radix(text.trim(), 16).map_err(|_| CallError::new(Call::Open, libc::EINVAL))
}

/// No kind at all.
pub(crate) fn forbid_core_contents() -> CallResult<()> {
    injected(Call::Open)?;
    let mut file =
        OpenOptions::new().write(true).open("/proc/self/coredump_filter").map_err(io_failed(Call::Open))?;
    injected(Call::Write)?;
    file.write_all(b"0").map_err(io_failed(Call::Write))
}

/// Where cores go. core(5), `core_pattern`.
pub(crate) fn core_pattern() -> CallResult<String> {
    Ok(read("/proc/sys/kernel/core_pattern")?.trim().to_owned())
}

/// The table of swap areas. proc_swaps(5).
pub(crate) fn swaps() -> CallResult<String> {
    read("/proc/swaps")
}

/// Who may attach to whom; `None`: the kernel has no such restriction. ptrace(2), `ptrace_scope`.
pub(crate) fn ptrace_scope() -> CallResult<Option<u8>> {
    match read("/proc/sys/kernel/yama/ptrace_scope") {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(CallError { errno: libc::ENOENT, .. }) => {
            // Not because there is no /proc.
            core_pattern().map(|_| None)
        }
        Err(error) => Err(error),
    }
}

fn read(path: &str) -> CallResult<String> {
    injected(Call::Open)?;
    std::fs::read_to_string(path).map_err(io_failed(Call::Open))
}

/// A mapping that cores contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dumped<'a> {
    /// A path, or what the kernel calls it; empty where it has no name.
    pub(crate) name: &'a str,
    pub(crate) bytes: u64,
    pub(crate) resident: u64,
}

/// Calls `see` with each mapping of writable private memory that is not left out of cores. proc_pid_smaps(5).
pub(crate) fn each_dumped(see: impl FnMut(Dumped<'_>)) -> CallResult<()> {
    injected(Call::Open)?;
    let file: File = own!("smaps").ok_or(CallError::new(Call::Open, libc::EACCES))?;
    if parse(file, see) { Ok(()) } else { Err(CallError::new(Call::Open, libc::EINVAL)) }
}

/// Says whether there was anything to be read.
fn parse(listing: impl Read, mut see: impl FnMut(Dumped<'_>)) -> bool {
    let mut lines = Lines::new(listing);
    let (mut wanted, mut name, mut bytes, mut resident) = (false, String::new(), 0, 0);
    let mut found = false;
    while let Some(line) = lines.next_line() {
        match line.split_once(':') {
            Some(("Size", size)) => bytes = kilobytes(size).unwrap_or(0),
            Some(("Rss", size)) => resident = kilobytes(size).unwrap_or(0),
            // The last line of a mapping.
            Some(("VmFlags", flags)) => {
                found = true;
                if wanted && !flags.split_whitespace().any(|flag| flag == "dd") {
                    see(Dumped { name: &name, bytes, resident });
                }
                wanted = false;
            }
            _ => {
                if let Some((access, rest)) = header(line) {
                    wanted = access.contains('w') && access.ends_with('p');
                    (bytes, resident) = (0, 0);
                    name.clear();
                    name.push_str(rest);
                }
            }
        }
    }
    found
}

/// Access and name of a mapping, from the line that begins it: `7f0000000000-7f0000001000 rw-p 00000000 00:00 0   [heap]`.
fn header(line: &str) -> Option<(&str, &str)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, stop) = range.split_once('-')?;
    let is_address = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_address(start) || !is_address(stop) {
        return None;
    }
    let (access, rest) = rest.split_once(' ')?;
    // Offset, device and inode.
    let mut name = rest;
    for _ in 0..3 {
        name = name.trim_start().split_once(' ').map_or("", |(_, rest)| rest);
    }
    Some((access, name.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
55d0c0000000-55d0c0010000 r--p 00000000 fd:00 123   /usr/bin/program
Size:                 64 kB
Rss:                  64 kB
VmFlags: rd mr mw me sd
55d0c0010000-55d0c0018000 rw-p 00010000 fd:00 123   /usr/bin/program with: a name
Size:                 32 kB
Rss:                  20 kB
VmFlags: rd wr mr mw me ac sd
55d0c1000000-55d0c1021000 rw-p 00000000 00:00 0                          [heap]
Size:                132 kB
Rss:                   8 kB
VmFlags: rd wr mr mw me ac sd
7f0000000000-7f0000001000 rw-p 00000000 00:00 0
Size:                  4 kB
Rss:                   4 kB
VmFlags: rd wr mr mw me ac sd
7f0000001000-7f0000002000 rw-p 00000000 00:00 0
Size:                  4 kB
Rss:                   4 kB
VmFlags: rd wr mr mw me lo ac dd wf
7f0000002000-7f0000003000 rw-s 00000000 00:01 77                         /memfd:shared (deleted)
Size:                  4 kB
Rss:                   4 kB
VmFlags: rd wr sh mr mw me ms
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
Size:                132 kB
Rss:                  12 kB
VmFlags: rd wr mr mw me gd ac
";

    #[test]
    fn what_cores_contain_is_writable_private_and_not_left_out() {
        let mut found = Vec::new();
        assert!(parse(LISTING.as_bytes(), |one| {
            found.push((one.name.to_owned(), one.bytes / 1024, one.resident / 1024));
        }));
        let expected =
            [("/usr/bin/program with: a name", 32, 20), ("[heap]", 132, 8), ("", 4, 4), ("[stack]", 132, 12)];
        assert!(found.iter().map(|(name, a, b)| (name.as_str(), *a, *b)).eq(expected), "{found:?}");
        assert!(!parse(&b""[..], |_| {}));
    }
}

//! Memory on Linux: from inside through a pipe, from outside through /proc.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use super::Mapping;
use crate::doctor::verdict::Trouble;
use crate::raw;

/// The mappings of a process.
pub fn mappings(pid: u32) -> Result<Vec<Mapping>, Trouble> {
    let text = fs::read(format!("/proc/{pid}/maps")).map_err(Trouble::forbidden("/proc/PID/maps"))?;
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .map(|line| parse(line).ok_or_else(|| Trouble::failed("a line of /proc/PID/maps is strange")))
        .collect()
}

fn parse(line: &str) -> Option<Mapping> {
    let mut parts = line.splitn(6, ' ');
    let (start, end) = parts.next()?.split_once('-')?;
    let rights = parts.next()?.as_bytes();
    Some(Mapping {
        range: usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?,
        write: *rights.get(1)? == b'w',
        shared: *rights.get(3)? == b's',
        name: parts.nth(3)?.trim_start().to_owned(),
    })
}

/// A way to read a process's memory.
pub enum Sight {
    /// This process, with the rights of a load.
    Inside(Stray),
    /// Any process that may be traced, whatever its pages allow.
    Outside {
        /// Whose.
        process: i32,
        /// /proc/PID/mem
        mem: File,
        /// /proc/PID/pagemap, to pass over pages that were never touched.
        pagemap: Option<File>,
    },
}

/// Stray loads and stores of this process, which the kernel carries out: a pipe to oneself.
pub struct Stray {
    read: OwnedFd,
    write: OwnedFd,
}

impl Stray {
    /// A pipe that never blocks.
    pub fn new() -> io::Result<Self> {
        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (read, write) = rustix::pipe::pipe_with(flags)?;
        Ok(Self { read, write })
    }

    /// Stores a byte in this process as a stray store would.
    pub fn store(&self, address: usize, byte: u8) -> io::Result<()> {
        rustix::io::write(&self.write, &[byte])?;
        let stored = raw::receive_into(self.read.as_fd(), address, 1);
        if stored.is_err() {
            rustix::io::read(&self.read, &mut [0; 1])?;
        }
        stored.map(|_| ())
    }
}

impl Sight {
    /// From inside.
    pub fn inside() -> io::Result<Self> {
        Ok(Self::Inside(Stray::new()?))
    }

    /// From outside.
    pub fn outside(pid: u32) -> Result<Self, Trouble> {
        let mem = File::open(format!("/proc/{pid}/mem")).map_err(Trouble::forbidden("/proc/PID/mem"))?;
        let process = i32::try_from(pid).map_err(|_| Trouble::failed("a strange process id"))?;
        Ok(Self::Outside { process, mem, pagemap: File::open(format!("/proc/{pid}/pagemap")).ok() })
    }

    /// Reads some bytes; an error where the very first cannot be read.
    pub fn read(&self, address: usize, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Inside(pipe) => {
                let sent = raw::send_from(pipe.write.as_fd(), address, buffer.len())?;
                let mut read = 0;
                while read < sent {
                    read += rustix::io::read(&pipe.read, &mut buffer[read..sent])?;
                }
                Ok(sent)
            }
            Self::Outside { process, mem, .. } => match mem.read_at(buffer, address as u64) {
                // A kernel may let only who traces it read what its pages do not allow (`proc_mem.force_override`).
                Err(refused) if refused.raw_os_error() == Some(libc::EIO) => {
                    let read = || mem.read_at(buffer, address as u64);
                    raw::trace::as_debugger(*process, read).map_err(|_| refused)?
                }
                read => read,
            },
        }
    }

    /// The parts of a mapping that were ever touched: all that can hold anything.
    pub fn touched(&self, mapping: &Mapping) -> Vec<Range<usize>> {
        let whole = vec![mapping.range.clone()];
        let Self::Outside { pagemap: Some(pagemap), .. } = self else { return whole };
        if !mapping.anonymous() {
            return whole;
        }
        let page = rustix::param::page_size();
        let first = mapping.range.start / page;
        let mut entries = vec![0; (mapping.range.end.div_ceil(page) - first) * 8];
        if pagemap.read_exact_at(&mut entries, (first * 8) as u64).is_err() {
            return whole;
        }
        let mut parts: Vec<Range<usize>> = Vec::new();
        for (number, entry) in (first..).zip(entries.as_chunks::<8>().0) {
            // Present, or in swap: the top bits of an entry, proc_pid_pagemap(5).
            if u64::from_ne_bytes(*entry) >> 62 == 0 {
                continue;
            }
            let start = mapping.range.start.max(number * page);
            let end = mapping.range.end.min((number + 1) * page);
            match parts.last_mut() {
                Some(part) if part.end == start => part.end = end,
                _ => parts.push(start..end),
            }
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn reads_lines_of_maps() {
        let mapping = parse("7f00-8f00 rw-p 00000000 00:00 0                          [heap]").unwrap();
        assert_eq!((mapping.range, mapping.write), (0x7f00..0x8f00, true));
        assert_eq!(mapping.name, "[heap]");
        let mapping = parse("7f00-8f00 ---s 00000000 00:10 7 /secretmem (deleted)").unwrap();
        assert!(mapping.secret() && mapping.own());
        let mapping = parse("7f00-8f00 ---s 00001000 fe:00 77  /a file with spaces (deleted)").unwrap();
        assert_eq!((mapping.write, mapping.shared), (false, true));
        assert_eq!(mapping.name, "/a file with spaces (deleted)");
        assert_eq!(
            parse("1-2 ---p 0 0 0").map(|mapping| mapping.name),
            None,
            "the kernel writes a blank at the end"
        );
        assert!(parse("1-2 ---p 0 0 0 ").unwrap().anonymous());
        assert!(parse("nonsense").is_none());
    }
}

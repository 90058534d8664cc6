//! Memory as an attacker sees it: from inside with the rights of a load, or from outside through /proc.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use super::verdict::Trouble;
use crate::raw;

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;
/// Bytes of the piece before that are shown again, so that nothing is missed where two pieces meet. At least the
/// length of a key.
const CARRY: usize = 32;

/// What the kernel calls memory of memfd_secret(2).
const SECRETMEM: &str = "/secretmem";

/// One line of /proc/PID/maps, proc_pid_maps(5).
#[derive(Clone, Debug)]
pub struct Mapping {
    /// First address and the one after the last.
    pub range: Range<usize>,
    /// May be written by a store.
    pub write: bool,
    /// Shared with other processes.
    shared: bool,
    /// The file, or a name such as `[heap]`; empty for anonymous memory.
    pub name: String,
}

impl Mapping {
    /// Can it hold what the process put there? Not so the pages of files that it only reads.
    pub fn own(&self) -> bool {
        self.write || self.anonymous() || self.secret()
    }

    /// Is it memory that the kernel does not keep mapped, memfd_secret(2)?
    pub fn secret(&self) -> bool {
        self.name.starts_with(SECRETMEM)
    }

    fn anonymous(&self) -> bool {
        !self.shared && !self.name.starts_with('/')
    }
}

/// All of these mappings but this range.
pub fn without(mappings: &[Mapping], hole: Option<Range<usize>>) -> Vec<Mapping> {
    let Some(hole) = hole else { return mappings.to_vec() };
    let mut rest = Vec::new();
    for mapping in mappings {
        let Range { start, end } = mapping.range;
        let parts = [start..end.min(hole.start), start.max(hole.end)..end];
        rest.extend(
            parts
                .into_iter()
                .filter(|part| !part.is_empty())
                .map(|range| Mapping { range, ..mapping.clone() }),
        );
    }
    rest
}

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
    Inside(Pipe),
    /// Any process that may be traced, whatever its pages allow.
    Outside {
        /// /proc/PID/mem
        mem: File,
        /// /proc/PID/pagemap, to pass over pages that were never touched.
        pagemap: Option<File>,
    },
}

/// A pipe to oneself.
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
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
        Ok(Self::Inside(Pipe::new()?))
    }

    /// From outside.
    pub fn outside(pid: u32) -> Result<Self, Trouble> {
        let mem = File::open(format!("/proc/{pid}/mem")).map_err(Trouble::forbidden("/proc/PID/mem"))?;
        Ok(Self::Outside { mem, pagemap: File::open(format!("/proc/{pid}/pagemap")).ok() })
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
            Self::Outside { mem, .. } => mem.read_at(buffer, address as u64),
        }
    }

    /// Reads exactly so many bytes.
    pub fn bytes(&self, address: usize, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.fill(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads exactly as many bytes as there is room for.
    pub fn fill(&self, address: usize, room: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < room.len() {
            match self.read(address + done, &mut room[done..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => done += read,
            }
        }
        Ok(())
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
        for (number, entry) in (first..).zip(entries.chunks_exact(8)) {
            // Present, or in swap: the top bits of an entry, proc_pid_pagemap(5).
            if entry[7] >> 6 == 0 {
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

/// How much was really read: what a claim that nothing was found rests on.
#[derive(Clone, Copy, Default)]
pub struct Walk {
    /// Bytes read.
    pub bytes: usize,
    /// Mappings of which something was read.
    pub mappings: usize,
    /// Mappings of which a page could not be read.
    pub refused: usize,
}

impl std::fmt::Display for Walk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "read {} KiB", self.bytes / 1024)?;
        if self.mappings > 0 {
            write!(f, " in {} mappings", self.mappings)?;
        }
        if self.refused > 0 { write!(f, " ({} refused)", self.refused) } else { Ok(()) }
    }
}

/// Shows every byte that can be read of these mappings to `each`, with the address of the first byte shown.
pub fn walk(sight: &Sight, mappings: &[Mapping], mut each: impl FnMut(usize, &[u8])) -> Walk {
    let page = rustix::param::page_size();
    let mut walk = Walk::default();
    let mut buffer = vec![0; CARRY + CHUNK];
    for mapping in mappings {
        let (mut some, mut refused) = (false, false);
        for part in sight.touched(mapping) {
            let (mut at, mut carry) = (part.start, 0);
            while at < part.end {
                let want = CHUNK.min(part.end - at);
                match sight.read(at, &mut buffer[CARRY..CARRY + want]) {
                    Ok(read) if read > 0 => {
                        each(at - carry, &buffer[CARRY - carry..CARRY + read]);
                        let keep = CARRY.min(carry + read);
                        buffer.copy_within(CARRY + read - keep..CARRY + read, CARRY - keep);
                        (at, carry, some) = (at + read, keep, true);
                        walk.bytes += read;
                    }
                    _ => (at, carry, refused) = (at / page * page + page, 0, true),
                }
            }
        }
        walk.mappings += usize::from(some);
        walk.refused += usize::from(refused);
    }
    walk
}

/// Shows every byte of a file to `each`, as [`walk`] does; the address is the offset.
pub fn walk_file(mut file: File, mut each: impl FnMut(usize, &[u8])) -> io::Result<usize> {
    let mut buffer = vec![0; CARRY + CHUNK];
    let (mut at, mut carry) = (0, 0);
    loop {
        let read = file.read(&mut buffer[CARRY..])?;
        if read == 0 {
            return Ok(at);
        }
        each(at - carry, &buffer[CARRY - carry..CARRY + read]);
        let keep = CARRY.min(carry + read);
        buffer.copy_within(CARRY + read - keep..CARRY + read, CARRY - keep);
        (at, carry) = (at + read, keep);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::{finder::Finder, needle::Needle};
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

    #[test]
    fn a_hole_is_left_out() {
        let whole = [parse("1000-5000 rw-p 0 0 0 ").unwrap()];
        let parts = |hole| {
            let parts =
                without(&whole, Some(hole)).into_iter().map(|part| (part.range.start, part.range.end));
            parts.collect::<Vec<_>>()
        };
        // not a page size: addresses.
        assert_eq!(parts(0x2010..0x2020), [(0x1000, 0x2010), (0x2020, 0x5000)]);
        assert_eq!(parts(0x1000..0x5000), []);
        assert_eq!(parts(0x6000..0x7000), [(0x1000, 0x5000)]);
        assert_eq!(parts(0x0..0x100), [(0x1000, 0x5000)]);
    }

    #[test]
    fn both_sights_find_what_lies_in_the_heap() {
        let needle = Needle::random(64).unwrap();
        // Across the border of two pieces.
        let mut heap = vec![0; 3 * CHUNK];
        let border = (heap.as_ptr() as usize).next_multiple_of(CHUNK) - heap.as_ptr() as usize + CHUNK;
        needle.fill(&mut heap[border - 30..border + 34]);
        let maps = mappings(std::process::id()).unwrap();
        for sight in [Sight::inside().unwrap(), Sight::outside(std::process::id()).unwrap()] {
            let mut finder = Finder::new(&[&needle]);
            let walk = walk(&sight, &maps, |address, bytes| finder.look(address, bytes));
            assert_eq!(finder.found(0), 57);
            assert!(walk.bytes > 100_000 && walk.mappings > 5, "{walk}");
        }
        assert!(needle.is(&heap[border - 30..border + 34]));
    }

    #[test]
    fn a_store_changes_memory_or_is_refused() {
        let pipe = Pipe::new().unwrap();
        let mut place = Box::new(1_u8);
        let address = std::ptr::from_mut(&mut *place).expose_provenance();
        pipe.store(address, 7).unwrap();
        assert_eq!(std::hint::black_box(*place), 7);
        assert!(pipe.store(8, 7).is_err());
        pipe.store(address, 9).unwrap();
        assert_eq!(std::hint::black_box(*place), 9);
    }
}

//! Memory as an attacker sees it: from inside with the rights of a load, or from outside.

#[cfg_attr(windows, path = "memory/windows.rs")]
#[cfg_attr(not(windows), path = "memory/linux.rs")]
mod system;

#[cfg(target_os = "linux")]
use std::fs::File;
use std::io;
#[cfg(target_os = "linux")]
use std::io::Read;
use std::ops::Range;

pub use system::{Sight, Stray, mappings};

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;
/// Bytes of the piece before that are shown again, so that nothing is missed where two pieces meet. At least the
/// length of a key.
const CARRY: usize = 32;

/// What Linux calls memory of memfd_secret(2).
const SECRETMEM: &str = "/secretmem";

/// Memory of one kind. On Linux one line of /proc/PID/maps, proc_pid_maps(5).
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

impl Sight {
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
    let page = crate::system::page_size();
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
#[cfg(target_os = "linux")]
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
    fn a_hole_is_left_out() {
        // not a page size: addresses.
        let whole = [Mapping { range: 0x1000..0x5000, write: true, shared: false, name: String::new() }];
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
        let stray = Stray::new().unwrap();
        let mut place = Box::new(1_u8);
        let address = std::ptr::from_mut(&mut *place).expose_provenance();
        stray.store(address, 7).unwrap();
        assert_eq!(std::hint::black_box(*place), 7);
        assert!(stray.store(8, 7).is_err());
        stray.store(address, 9).unwrap();
        assert_eq!(std::hint::black_box(*place), 9);
    }
}

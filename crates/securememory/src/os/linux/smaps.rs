//! The kernel's listing of mappings and their flags. proc_pid_smaps(5).

use super::proc::Lines;
use crate::os::RangeFlags;
use std::io::Read;

pub(in crate::os) fn range_flags(addr: usize, len: usize) -> Option<RangeFlags> {
    parse(super::proc::own!("smaps")?, addr, len)
}

fn parse(listing: impl Read, addr: usize, len: usize) -> Option<RangeFlags> {
    let end = addr.checked_add(len).filter(|_| len > 0)?;
    let mut found =
        RangeFlags { locked: true, dont_dump: true, wipe_on_fork: true, dont_fork: true, mergeable: false };
    // The first byte that no mapping has covered yet, and the end of the mapping being read if it covers that
    // byte.
    let mut next = addr;
    let mut covering = None;
    let (mut resident, mut counted) = (0, 0);
    let mut lines = Lines::new(listing);
    while next < end {
        let line = lines.next_line()?;
        if let Some((start, stop)) = header(line) {
            if start > next {
                return None;
            }
            covering = (stop > next).then_some(stop);
            (resident, counted) = (0, 0);
        } else if let Some(stop) = covering {
            match line.split_once(':') {
                Some(("Rss", size)) => resident = super::proc::kilobytes(size)?,
                Some(("Locked", size)) => counted = super::proc::kilobytes(size)?,
                // The last line of a mapping.
                Some(("VmFlags", flags)) => {
                    let has = |flag| flags.split_whitespace().any(|other| other == flag);
                    found.locked &= has("lo") && (resident == 0 || counted > 0);
                    found.dont_dump &= has("dd");
                    found.wipe_on_fork &= has("wf");
                    found.dont_fork &= has("dc");
                    found.mergeable |= has("mg");
                    next = stop;
                    covering = None;
                }
                _ => {}
            }
        }
    }
    Some(found)
}

/// Start and end of a mapping, from the line that begins it: `7f0000000000-7f0000001000 rw-p ...`.
fn header(line: &str) -> Option<(usize, usize)> {
    let (start, stop) = line.split_whitespace().next()?.split_once('-')?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(stop, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
1000-2000 rw-p 00000000 00:00 0
Rss:                   4 kB
Locked:                4 kB
VmFlags: rd wr mr lo dd wf
2000-4000 ---p 00000000 00:00 0  [anon:with - and : in it]
Rss:                   0 kB
Locked:                0 kB
VmFlags: mr lo dd
6000-7000 rw-p 00000000 00:00 0
Rss:                   4 kB
Locked:                0 kB
VmFlags: rd lo mg dc
";

    fn flags(addr: usize, len: usize) -> Option<RangeFlags> {
        parse(LISTING.as_bytes(), addr, len)
    }

    #[test]
    fn a_protection_holds_where_every_part_has_it() {
        let first = RangeFlags {
            locked: true,
            dont_dump: true,
            wipe_on_fork: true,
            dont_fork: false,
            mergeable: false,
        };
        // not a page size: addresses in a listing.
        assert_eq!(flags(0x1000, 0x1000), Some(first));
        assert_eq!(flags(0x1800, 0x1000), Some(RangeFlags { wipe_on_fork: false, ..first }));
        let last = RangeFlags {
            locked: false,
            dont_dump: false,
            wipe_on_fork: false,
            dont_fork: true,
            mergeable: true,
        };
        assert_eq!(flags(0x6000, 1), Some(last));
    }

    #[test]
    fn a_hole_or_an_end_in_the_range_is_no_answer() {
        for (addr, len) in
            // Addresses, not a page size.
            [(0, 0x2000), (0x3000, 0x4000), (0x5000, 1), (0x6000, 0x2000), (0x7000, 1), (0x1000, 0)]
        {
            assert_eq!(flags(addr, len), None, "{addr:x} {len:x}");
        }
    }
}

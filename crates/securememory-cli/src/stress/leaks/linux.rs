//! What /proc tells of it.
//!
//! The library marks all memory that it maps for secrets and keys: locked, left out of dumps, wiped in a child, or
//! without any access. Nothing else here has the first three marks. Memory without access surrounds the stacks
//! of threads too, but after a round with as many threads it is as much as before. (The judge has the C library
//! keep all its ordinary memory in one arena: others would reserve address space without access.)

use std::fs;
use std::io;

use super::Held;
use crate::proc::{self, kib, strange};

pub fn now() -> io::Result<Held> {
    let (marked, closed) = regions(&String::from_utf8_lossy(&fs::read("/proc/self/smaps")?))?;
    Ok(Held { marked, closed, descriptors: proc::descriptors()?, locked: proc::locked()? / 1024 })
}

/// KiB of marked and of closed mappings in a listing as in proc_pid_smaps(5).
fn regions(listing: &str) -> io::Result<(u64, u64)> {
    let (mut marked, mut closed) = (0, 0);
    let (mut size, mut untouchable, mut memory_file) = (0, false, false);
    let mut seen = false;
    for line in listing.lines() {
        let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
        match key {
            "Size:" => size = kib(rest).ok_or_else(|| strange("a size in /proc/self/smaps is strange"))?,
            // The last line of a mapping.
            "VmFlags:" => {
                seen = true;
                if memory_file || rest.split_whitespace().any(|flag| ["lo", "dd", "wf"].contains(&flag)) {
                    marked += size;
                } else if untouchable {
                    closed += size;
                }
            }
            _ if !key.ends_with(':') => {
                let mut fields = rest.split_whitespace();
                let private = fields.next() == Some("---p");
                let name = fields.nth(3).unwrap_or("");
                // The kernel's own are marked too: [vvar] and the like are not for dumps.
                let kernels = ["[v", "[uprobes"].iter().any(|start| name.starts_with(start));
                untouchable = private && name.is_empty();
                memory_file = name.starts_with("/secretmem") || name.starts_with("/memfd:");
                if kernels {
                    (untouchable, memory_file) = (false, false);
                }
            }
            _ => {}
        }
    }
    if seen { Ok((marked, closed)) } else { Err(strange("no flags in /proc/self/smaps")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn mapping(rights: &str, name: &str, size: u64, flags: &str) -> String {
        format!(
            "7f00-8f00 {rights} 00000000 00:00 0    {name}\nSize:   {size} kB\nRss:  0 kB\nVmFlags: {flags}\n"
        )
    }

    #[test]
    fn marked_and_closed_mappings_are_told_apart() {
        let mut listing = mapping("rw-p", "", 100, "rd wr mr");
        assert_eq!(regions(&listing).unwrap(), (0, 0));
        listing += &mapping("rw-p", "", 4, "rd wr lo dd wf");
        listing += &mapping("rw-p", "", 8, "rd wr wf");
        listing += &mapping("---p", "", 16, "mr mw me nr");
        listing += &mapping("---s", "/secretmem (deleted)", 32, "mr mw me");
        listing += &mapping("---p", "/lib/some.so", 64, "mr mw me");
        assert_eq!(regions(&listing).unwrap(), (44, 16));
        assert!(regions("").is_err(), "a listing without flags shows nothing");
    }
}

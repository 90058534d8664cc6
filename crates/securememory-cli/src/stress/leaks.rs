//! What is still there when everything was dropped: mappings, descriptors, locked memory.
//!
//! The library marks all memory that it maps for secrets and keys: locked, left out of dumps, wiped in a child, or
//! without any access. Nothing else here has the first three marks. Memory without access surrounds the stacks
//! of threads too, but after a round with as many threads it is as much as before. (The judge has the C library
//! keep all its ordinary memory in one arena: others would reserve address space without access.)

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use crate::proc::{self, kib, strange};

/// What the process has of everything that must be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// KiB in mappings that are locked, left out of dumps or wiped in a child, and in memory files.
    marked: u64,
    /// KiB in mappings of ordinary memory that nothing may touch.
    closed: u64,
    /// Open descriptors.
    descriptors: u64,
    /// KiB that the kernel counts as locked.
    locked: u64,
}

/// What is there and should not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaks {
    /// KiB of mappings.
    pub regions_kib: u64,
    /// Descriptors.
    pub descriptors: u64,
    /// KiB of locked memory.
    pub locked_kib: u64,
    /// Secrets that the vault still counts though all were dropped.
    pub secrets: u64,
    /// Old keys that live though nothing is sealed under them any more.
    pub keys: u64,
}

impl Held {
    /// As it is now.
    pub fn now() -> io::Result<Self> {
        let (marked, closed) = regions(&String::from_utf8_lossy(&fs::read("/proc/self/smaps")?))?;
        Ok(Self { marked, closed, descriptors: proc::descriptors()?, locked: proc::locked()? / 1024 })
    }

    /// What has come since.
    pub fn leaked_since(&self, before: &Self, (secrets, keys): (u64, u64)) -> Leaks {
        let marked = self.marked.saturating_sub(before.marked);
        let closed = self.closed.saturating_sub(before.closed);
        Leaks {
            regions_kib: marked + closed,
            descriptors: self.descriptors.saturating_sub(before.descriptors),
            locked_kib: self.locked.saturating_sub(before.locked),
            secrets,
            keys,
        }
    }
}

impl Leaks {
    /// Is there nothing?
    pub fn none(&self) -> bool {
        *self == Self::default()
    }
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

    #[test]
    fn a_vault_is_seen_while_it_lives_and_not_afterwards() {
        // Other tests of this process have vaults too: what is compared are many against few.
        let before = Held::now().unwrap();
        let vaults: Vec<_> = (0..50).map(|_| securememory::Vault::builder().build().unwrap()).collect();
        let during = Held::now().unwrap();
        let held = during.leaked_since(&before, (0, 0));
        assert!(held.regions_kib > 50 && held.locked_kib + held.descriptors > 50, "{held:?}");
        drop(vaults);
        let after = during.leaked_since(&Held::now().unwrap(), (0, 0));
        assert!(after.regions_kib > 50, "{after:?}");
    }
}

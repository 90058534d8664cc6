//! `swap`: is everything that holds secret or key locked? The kernel's list is asked, not the library.

use std::fs;

use super::captive::Captive;
use super::find_key;
use crate::doctor::crack::With;
use crate::doctor::memory::Sight;
use crate::doctor::order::{Claim, Command, Order};
use crate::doctor::verdict::{Trouble, Verdict};

/// Looks up every place in /proc/PID/smaps, with a view open.
pub fn swap(order: &Order, mut victim: Captive) -> Result<Verdict, Trouble> {
    let sight = Sight::outside(victim.pid)?;
    let mut places = Vec::new();
    if let Some(found) = find_key(order, &mut victim, &sight)? {
        places.push((if found.with == With::Nothing { "key" } else { "key share" }, found.address));
    }
    if let Some((address, _)) = victim.facts.plaintext {
        places.push(("secret at rest", address));
    }
    let claim = victim.facts.locked.clone();
    let (view, unlocked) = victim.open_view()?;
    places.push((VIEW, view));
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", victim.pid))
        .map_err(Trouble::forbidden("/proc/PID/smaps"))?;
    victim.command_done(Command::EndView)?;
    let mut open = Vec::new();
    let mut swapped = 0;
    for (name, address) in &places {
        let entry =
            entry(&smaps, *address).ok_or_else(|| Trouble::failed("a place is not in /proc/PID/smaps"))?;
        if !entry.locked {
            open.push(*name);
        }
        swapped += entry.swapped;
    }
    let names: Vec<&str> = places.iter().map(|(name, _)| *name).collect();
    match (open.is_empty(), claim) {
        (true, _) => Ok(Verdict::blocked(format!(
            "locked by /proc/PID/smaps, {swapped} KiB in swap: {}",
            names.join(", ")
        ))),
        (false, Claim::Refused(why)) => {
            Err(Trouble::NotHere(format!("locking was not granted, and status() says so: {why}")))
        }
        (false, _) if open == [VIEW] && unlocked > 0 => Err(Trouble::NotHere(format!(
            "the view is too large for what the vault may lock, and its status() says so: {unlocked} places for \
             views are not locked"
        ))),
        (false, claim) => {
            let says = if claim == Claim::InForce { ", though status() says they are locked" } else { "" };
            Ok(Verdict::leaked(format!("not locked, so swap may take them: {}{says}", open.join(", "))))
        }
    }
}

/// What an open view is called.
const VIEW: &str = "open view";

struct Entry {
    locked: bool,
    swapped: usize,
}

/// What proc_pid_smaps(5) says of the mapping at an address.
fn entry(smaps: &str, address: usize) -> Option<Entry> {
    let (mut here, mut never) = (false, false);
    let mut swapped = 0;
    for line in smaps.lines() {
        let first = line.split_ascii_whitespace().next()?;
        if let Some((start, end)) = first.split_once('-') {
            let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
            here = (start..end).contains(&address);
            // memfd_secret(2): never swapped. Newer kernels do not count it as locked.
            never = line.contains("/secretmem");
        } else if here && first == "Swap:" {
            swapped = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
        } else if here && first == "VmFlags:" {
            let locked = never || line.split_ascii_whitespace().any(|flag| flag == "lo");
            return Some(Entry { locked, swapped });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn reads_the_entry_of_an_address() {
        let smaps = "1000-2000 rw-p 0 0 0 \nSwap:   8 kB\nVmFlags: rd wr mr\n2000-4000 rw-p 0 0 0 \nLocked: 4 kB\n\
                     Swap: 0 kB\nVmFlags: rd wr lo dd\n";
        let low = entry(smaps, 0x1fff).unwrap();
        assert!(!low.locked && low.swapped == 8);
        assert!(entry(smaps, 0x2000).unwrap().locked);
        // An address, not a page size.
        assert!(entry(smaps, 0x4000).is_none());
        let secret =
            // An address, not a page size.
            entry("1000-2000 rw-s 0 0 0 /secretmem (deleted)\nVmFlags: rd wr sh dd\n", 0x1000).unwrap();
        assert!(secret.locked);
    }
}

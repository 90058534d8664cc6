//! Pages that no other process can read, shown by the victim itself.

use crate::doctor::memory::mappings;
use crate::doctor::needle::{Needle, random};
use crate::doctor::order::Reply;
use crate::doctor::verdict::Trouble;
use crate::raw;

/// The pages of memory that the kernel does not keep mapped, masked.
pub fn show() -> Result<Reply, Trouble> {
    let maps = mappings(std::process::id())?;
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let mut pieces = Vec::new();
    for pages in maps.iter().filter(|mapping| mapping.secret()) {
        let start = format!("{:x}-", pages.range.start);
        let key = smaps
            .lines()
            .skip_while(|line| !line.starts_with(&start))
            .find_map(|line| line.strip_prefix("ProtectionKey:"))
            .and_then(|key| key.trim().parse().ok());
        let mask = random(pages.range.len())?;
        let mut masked = Vec::with_capacity(mask.len());
        let mut next = mask.iter();
        raw::bytes_behind(&pages.range, pages.write, key, |byte| {
            masked.push(byte ^ next.next().copied().unwrap_or_default());
        })?;
        pieces.push((pages.range.start, Needle::masked(masked, mask)));
    }
    Ok(Reply::Memory(pieces))
}

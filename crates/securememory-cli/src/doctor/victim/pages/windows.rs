//! Pages that no other process can read, shown by the victim itself.

use crate::doctor::memory::Sight;
use crate::doctor::needle::Needle;
use crate::doctor::order::Reply;
use crate::doctor::verdict::Trouble;
use crate::raw::{self, Process};
use crate::system;

/// What lies in closed pages, decrypted, masked: CryptProtectMemory's key serves this process alone.
pub fn show() -> Result<Reply, Trouble> {
    let own = std::process::id();
    let (process, sight) = (Process::open(own)?, Sight::outside(own)?);
    let (mut pieces, mut at) = (Vec::new(), 0);
    while let Some(pages) = process.pages(at) {
        at = pages.range.end;
        if !pages.committed || !pages.closed {
            continue;
        }
        for address in pages.range.step_by(system::page_size()) {
            let mut copy = sight.bytes(address, system::page_size())?;
            // A guard page, which was never written to.
            if copy.iter().all(|byte| *byte == 0) {
                continue;
            }
            raw::unveil(&mut copy)?;
            pieces.push((address, Needle::hide(copy)?));
        }
    }
    Ok(Reply::Memory(pieces))
}

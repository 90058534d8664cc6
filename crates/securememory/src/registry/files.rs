//! The files that hold key shares: what a dying process empties.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::table::Table;
use crate::error::Error;

/// A file. What is done to it is done only after its descriptor was found to be it, so a reader that sees parts of two
/// entries does nothing.
#[derive(Debug, Default)]
pub(crate) struct File {
    /// The descriptor plus one; zero: not in use.
    pub(crate) number: AtomicU32,
    pub(crate) owner: AtomicU32,
    pub(crate) device: AtomicU64,
    pub(crate) inode: AtomicU64,
    /// The vault's place in the registry.
    pub(crate) vault: AtomicU32,
}

static FILES: Table<File> = Table::new();

/// All entries, in use or not.
pub(crate) fn all() -> impl Iterator<Item = &'static File> {
    FILES.iter()
}

/// Enters a file of a vault under its descriptor.
pub(crate) fn enter(number: u32, (device, inode): (u64, u64), owner: u32, vault: u32) -> Result<(), Error> {
    let (_, file) = FILES.take()?;
    file.owner.store(owner, Ordering::Relaxed);
    file.device.store(device, Ordering::Relaxed);
    file.inode.store(inode, Ordering::Relaxed);
    file.vault.store(vault, Ordering::Relaxed);
    file.number.store(number + 1, Ordering::Release);
    Ok(())
}

/// Withdraws one that is about to be closed.
pub(crate) fn withdraw(number: u32, identity: (u64, u64)) {
    let of = |file: &File| (file.device.load(Ordering::Relaxed), file.inode.load(Ordering::Relaxed));
    for (index, file) in (0..).zip(FILES.iter()) {
        let found = file.number.load(Ordering::Acquire) == number + 1 && of(file) == identity;
        if found && file.number.compare_exchange(number + 1, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            FILES.give(index);
            return;
        }
    }
}

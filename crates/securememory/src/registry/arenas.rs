//! Which address ranges are ours, and what lies in them: for who is asked about an address, in a signal handler too.
//!
//! An arena is a mapping of slots of one size with a guard page before, between and after them, see
//! [`crate::region::Slab`]. It is entered when it is mapped, and withdrawn before it is unmapped. A process that dies
//! overwrites arenas while other threads go on: see [`Entered::withdraw`].

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::table::Table;
use super::{Slot, dying};
use crate::error::Error;
use crate::os;

/// What an arena is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Purpose {
    /// Alive mark and key shares. Its page begins as [`anchor`] says.
    Anchor = 1,
    /// A key that is used where it lies.
    Key = 2,
    /// Views.
    Scratch = 3,
    /// Paged secrets, and what a writer puts back.
    Pages = 4,
    /// Ciphertext. No guards, no slots.
    Records = 5,
}

/// How the page of an anchor is laid out, for who wipes it.
pub(crate) mod anchor {
    /// What it begins with, eight bytes, while the vault is this process's.
    pub(crate) const ALIVE: u64 = 0x616c_6976_655f_736d;
    /// Where the shares begin.
    pub(crate) const SHARES_AT: usize = 64;
    /// Bytes of a share: half of a key, and half of its check value.
    pub(crate) const SHARE: usize = 64;
    /// Bytes before the part that may be scratch: not a page size, but no more than the smallest one.
    pub(crate) const LEN: usize = 4096;
    /// Where in a share its check half begins.
    pub(crate) const CHECK_AT: usize = 32;
}

/// Pages of one paged secret, or of none.
#[derive(Debug, Default)]
pub(crate) struct Region {
    /// [`UNUSED`], or not.
    pub(crate) state: AtomicU32,
    pub(crate) secret: AtomicU64,
    /// Address and length of the bytes; a length of zero: they are there no more.
    pub(crate) data: AtomicUsize,
    pub(crate) len: AtomicUsize,
    /// The secret's label; null: none. Valid while the secret is the same.
    pub(crate) label: AtomicPtr<String>,
    /// Are the pages locked? [`NOT`], [`LOCKED`], or [`REQUIRED`].
    pub(crate) locked: AtomicU32,
}

/// They are not locked.
pub(crate) const NOT: u32 = 0;
/// They are.
pub(crate) const LOCKED: u32 = 1;
/// They are, and have to be.
pub(crate) const REQUIRED: u32 = 2;

/// Nothing of worth was ever in the pages, or it has been wiped.
pub(crate) const UNUSED: u32 = 0;
/// There is, or is going to be, plaintext.
const USED: u32 = 1;

impl Region {
    /// Something is going to be written here.
    pub(crate) fn begin(&self) {
        self.state.store(USED, Ordering::SeqCst);
    }

    /// Whose bytes they are.
    pub(crate) fn assign(&self, secret: u64, data: usize, len: usize) {
        self.secret.store(secret, Ordering::Relaxed);
        self.data.store(data, Ordering::Relaxed);
        self.len.store(len, Ordering::Release);
    }

    /// What was here is wiped. Whose it was stays known, until others use it.
    pub(crate) fn end(&self) {
        self.label.store(std::ptr::null_mut(), Ordering::Release);
        self.len.store(0, Ordering::Relaxed);
        self.state.store(UNUSED, Ordering::Release);
    }
}

/// An entry of the table.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    /// Zero: not in use. Written last.
    pub(crate) base: AtomicUsize,
    pub(crate) size: AtomicUsize,
    /// Bytes of a slot, without its guards.
    pub(crate) capacity: AtomicUsize,
    pub(crate) purpose: AtomicU32,
    /// The process that has it.
    pub(crate) owner: AtomicU32,
    /// The vault's place in the registry.
    pub(crate) vault: AtomicU32,
    /// The number of the protection key that closes it, plus one; zero: there is none.
    pub(crate) key: AtomicU32,
    /// How often the entry was used.
    pub(crate) turn: AtomicU32,
    /// Of scratch: the first of as many slots as there are.
    pub(crate) slots: AtomicPtr<Slot>,
    /// Of pages: the first of as many regions.
    pub(crate) regions: AtomicPtr<Region>,
}

static ARENAS: Table<Arena> = Table::new();

/// All entries, in use or not.
pub(crate) fn all() -> impl Iterator<Item = &'static Arena> {
    ARENAS.iter()
}

impl Arena {
    /// Is it in use, by this process?
    pub(crate) fn is_of(&self, process: u32) -> bool {
        self.base_of(process).is_some()
    }

    /// Where it begins, if it is in use by this process. Asked again by a process that dies, for each arena that it
    /// changes.
    pub(crate) fn base_of(&self, process: u32) -> Option<usize> {
        let base = self.base.load(Ordering::SeqCst);
        (base != 0 && self.owner.load(Ordering::Relaxed) == process).then_some(base)
    }

    pub(crate) fn purpose(&self) -> Option<Purpose> {
        match self.purpose.load(Ordering::Relaxed) {
            1 => Some(Purpose::Anchor),
            2 => Some(Purpose::Key),
            3 => Some(Purpose::Scratch),
            4 => Some(Purpose::Pages),
            5 => Some(Purpose::Records),
            _ => None,
        }
    }

    pub(crate) fn is_for(&self, purpose: Purpose) -> bool {
        self.purpose.load(Ordering::Relaxed) == purpose as u32
    }

    /// Does the address lie in it? Guards included.
    #[inline]
    pub(crate) fn contains(&self, address: usize) -> bool {
        let base = self.base.load(Ordering::Acquire);
        // Asked once more where it seems so: the size may be that of another mapping, which has the entry meanwhile.
        base != 0
            && address.wrapping_sub(base) < self.size.load(Ordering::Acquire)
            && self.base.load(Ordering::Relaxed) == base
    }

    /// From now on it is this process's: a child's, whose parent had it.
    pub(crate) fn set_owner(&self, process: u32) {
        self.owner.store(process, Ordering::Relaxed);
    }

    /// How many slots it has.
    pub(crate) fn count(&self) -> usize {
        let (size, page) = (self.size.load(Ordering::Relaxed), os::page_size());
        let stride = self.capacity.load(Ordering::Relaxed).saturating_add(page);
        size.saturating_sub(page).checked_div(stride).unwrap_or(0)
    }
}

/// An arena in use.
#[derive(Debug)]
pub(crate) struct Entered {
    index: u32,
    arena: &'static Arena,
}

/// What is to be entered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) base: usize,
    pub(crate) size: usize,
    pub(crate) capacity: usize,
}

/// Enters a mapping.
pub(crate) fn enter(
    extent: Extent,
    purpose: Purpose,
    vault: u32,
    regions: *mut Region,
) -> Result<Entered, Error> {
    let (index, arena) = ARENAS.take()?;
    arena.turn.fetch_add(1, Ordering::Relaxed);
    // Who sees it sees that the entry was withdrawn before, see `Arena::contains`.
    arena.size.store(extent.size, Ordering::Release);
    arena.capacity.store(extent.capacity, Ordering::Relaxed);
    arena.purpose.store(purpose as u32, Ordering::Relaxed);
    arena.owner.store(os::process_id(), Ordering::Relaxed);
    arena.vault.store(vault, Ordering::Relaxed);
    arena.key.store(0, Ordering::Relaxed);
    arena.slots.store(std::ptr::null_mut(), Ordering::Relaxed);
    arena.regions.store(regions, Ordering::Relaxed);
    arena.base.store(extent.base, Ordering::SeqCst);
    Ok(Entered { index, arena })
}

impl Entered {
    /// Its slots' places in the table of views.
    pub(crate) fn set_slots(&self, slots: &'static [Slot]) {
        self.arena.slots.store(slots.as_ptr().cast_mut(), Ordering::Release);
    }

    /// The protection key that it was put under.
    pub(crate) fn set_key(&self, number: u32) {
        self.arena.key.store(number + 1, Ordering::Release);
    }

    /// Withdraws it, and says whether it may be unmapped. Not so where the process is dying: whoever sees to that may
    /// be overwriting it at this moment. Either that one sees that it is withdrawn, or we see that the process is dying:
    /// each writes its own word before it reads the other's.
    #[must_use]
    pub(crate) fn withdraw(self) -> bool {
        self.arena.base.store(0, Ordering::SeqCst);
        let free = !dying::has_begun();
        if free {
            ARENAS.give(self.index);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn an_entry_that_changes_hands_never_seems_larger_than_it_was() {
        let page = os::page_size();
        // Of addresses that nobody has, small and large.
        let extents = [(page, 3 * page), (1 << 30, 1 << 20)];
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    for (base, size) in extents {
                        let extent = Extent { base, size, capacity: page };
                        let entered = enter(extent, Purpose::Records, 0, std::ptr::null_mut()).unwrap();
                        assert!(entered.withdraw());
                    }
                }
            });
            let wrong = (0..2_000_000).find(|_| all().any(|arena| arena.contains(100 * page)));
            over.store(true, Ordering::Relaxed);
            assert_eq!(wrong, None);
        });
    }
}

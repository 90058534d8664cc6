//! What a signal handler has to know of each vault.

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::{MAX_VAULTS, Slot, dying};
use crate::error::Error;
use crate::os;

/// What is known of a vault.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The process that made the vault; zero: the place is free.
    owner: AtomicU32,
    /// The vault's number, as its users know it.
    pub(crate) id: AtomicU64,
    /// What is to be done about a fault in its memory, in the code of [`crate::fault`]; zero: as for all.
    pub(crate) on_fault: AtomicU32,
    /// The function that is asked then, if that is what is to be done.
    pub(crate) call: AtomicUsize,
    /// Faults in its memory, and how many of them were answered by replacing what was lost.
    pub(crate) faults: AtomicU64,
    pub(crate) replaced: AtomicU64,
    /// Its views.
    slots: AtomicPtr<Slot>,
    len: AtomicUsize,
}

static VAULTS: [Entry; MAX_VAULTS] = [const {
    Entry {
        owner: AtomicU32::new(0),
        id: AtomicU64::new(0),
        on_fault: AtomicU32::new(0),
        call: AtomicUsize::new(0),
        faults: AtomicU64::new(0),
        replaced: AtomicU64::new(0),
        slots: AtomicPtr::new(std::ptr::null_mut()),
        len: AtomicUsize::new(0),
    }
}; MAX_VAULTS];

/// A vault's seat in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat(u16);

impl Seat {
    /// As arenas name it.
    pub(crate) fn number(self) -> u32 {
        self.0.into()
    }

    pub(crate) fn entry(self) -> &'static Entry {
        &VAULTS[usize::from(self.0) % MAX_VAULTS]
    }

    /// Takes a place for a vault that is being made.
    pub(crate) fn take() -> Result<Self, Error> {
        let process = os::process_id();
        for (index, entry) in (0..).zip(&VAULTS) {
            let free = entry.owner.load(Ordering::Relaxed) == 0;
            if free && entry.owner.compare_exchange(0, process, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                entry.on_fault.store(0, Ordering::Relaxed);
                entry.id.store(0, Ordering::Relaxed);
                entry.len.store(0, Ordering::Relaxed);
                entry.faults.store(0, Ordering::Relaxed);
                entry.replaced.store(0, Ordering::Relaxed);
                return Ok(Self(index));
            }
        }
        Err(Error::TooManyVaults { limit: MAX_VAULTS })
    }

    /// Says which vault it is, and what is to be done about faults in its memory.
    pub(crate) fn introduce(self, id: u64, on_fault: Option<(u32, usize)>) {
        let entry = self.entry();
        let (code, function) = on_fault.unwrap_or_default();
        entry.id.store(id, Ordering::Relaxed);
        entry.call.store(function, Ordering::Relaxed);
        entry.on_fault.store(code, Ordering::Release);
    }

    /// Shows the vault's views to handlers.
    pub(crate) fn set_slots(self, slots: &'static [Slot]) {
        let entry = self.entry();
        entry.slots.store(slots.as_ptr().cast_mut(), Ordering::Relaxed);
        // The total order: views are made after it, and whoever dies says so before it looks here.
        entry.len.store(slots.len(), Ordering::SeqCst);
    }

    /// Hides them again, and says whether they may be freed: not where the process is dying, and somebody may be
    /// looking at them.
    #[must_use]
    pub(crate) fn hide_slots(self) -> bool {
        self.entry().len.store(0, Ordering::SeqCst);
        !dying::has_begun()
    }

    /// The vault is a child's from now on, whose parent had it.
    pub(crate) fn set_owner(self, process: u32) {
        self.entry().owner.store(process, Ordering::Release);
    }

    /// Gives it back, after everything that names it.
    pub(crate) fn give(self) {
        let entry = self.entry();
        entry.len.store(0, Ordering::SeqCst);
        entry.owner.store(0, Ordering::Release);
    }
}

/// A child has no use for its parent's seats. Not for one that shares its parent's memory.
pub(crate) fn forget_in_child() {
    let process = os::process_id();
    for entry in VAULTS.iter().filter(|entry| entry.owner.load(Ordering::Relaxed) != process) {
        entry.len.store(0, Ordering::Relaxed);
        entry.owner.store(0, Ordering::Release);
    }
}

/// The vault that an arena names.
pub(crate) fn entry(number: u32) -> Option<&'static Entry> {
    VAULTS.get(number as usize)
}

/// The views of a vault: the first, and how many there may be.
pub(crate) struct Views {
    pub(crate) vault: u32,
    pub(crate) first: *const Slot,
    pub(crate) len: usize,
}

/// Those of every vault of this process.
pub(crate) fn views(process: u32) -> impl Iterator<Item = Views> {
    // By number, since whatever counts along has a panic in it.
    (0..MAX_VAULTS as u32).filter_map(move |vault| {
        let entry = entry(vault)?;
        // Read after who wipes has said so; whoever frees them hides them, and then looks whether it was said.
        let len = entry.len.load(Ordering::SeqCst);
        let ours = entry.owner.load(Ordering::Relaxed) == process && len != 0;
        ours.then(|| Views { vault, first: entry.slots.load(Ordering::Relaxed), len })
    })
}

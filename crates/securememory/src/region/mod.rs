//! Pages that hold plaintext or keys: between guard pages, locked, left out of dumps, wiped in a child.

pub(crate) mod bytes;
pub(crate) mod canary;
pub(crate) mod geometry;
pub(crate) mod lease;
mod near;
pub(crate) mod pool;
pub(crate) mod revocation;
pub(crate) mod scratch;
pub(crate) mod scrub;
pub(crate) mod slots;

use std::ptr::NonNull;

use crate::counters::{self, Count};
use crate::error::{Error, Protection};
use crate::events::{self, Note};
use crate::os::{self, Access, Advice, CallError};
use crate::policy::{Level, Levels};
use crate::registry::arenas::{self, Entered, Extent, Purpose, Region};
use crate::registry::vaults::Seat;
use crate::registry::{Slot, lost};
use crate::status::{Achieved, Evidence, Protections};

/// A mapping of slots of one size, with guard pages before, between and after them.
pub(crate) struct Slab {
    base: NonNull<u8>,
    size: usize,
    capacity: usize,
    count: usize,
    page: usize,
    entered: Entered,
    /// Of paged secrets: one for each slot.
    regions: &'static [Region],
}

// SAFETY: a slab is an address range; what lies in it is governed by whoever hands out its slots.
#[allow(unsafe_code)]
unsafe impl Send for Slab {}
// SAFETY: as above; the slab itself is never changed.
#[allow(unsafe_code)]
unsafe impl Sync for Slab {}

impl Slab {
    /// Reserves the address range, and enters it among those that are ours; nothing in it is accessible yet.
    #[allow(unsafe_code)]
    pub(crate) fn reserve(
        capacity: usize,
        count: usize,
        purpose: Purpose,
        vault: Seat,
    ) -> Result<Self, Error> {
        let page = os::page_size();
        let size = geometry::slab_size(capacity, count, page)?;
        let regions = regions(if purpose == Purpose::Pages { count } else { 0 })?;
        let base = match os::map(size) {
            Ok(base) => base,
            Err(cause) => {
                // SAFETY: nobody has seen them.
                unsafe { free_regions(regions) };
                return Err(cause.into());
            }
        };
        let first = if regions.is_empty() { std::ptr::null_mut() } else { regions.as_ptr().cast_mut() };
        let extent = Extent { base: base.addr().get(), size, capacity };
        match arenas::enter(extent, purpose, vault.number(), first) {
            Ok(entered) => Ok(Self { base, size, capacity, count, page, entered, regions }),
            Err(error) => {
                // SAFETY: nobody has seen any of it.
                unsafe {
                    let _ = os::unmap(base, size);
                    free_regions(regions);
                }
                Err(error)
            }
        }
    }

    /// What is not known from the pages of its only slot; see [`Self::of_one`].
    pub(crate) fn into_entry(self) -> Entered {
        self.entered
    }

    /// The slab of one slot that [`Self::into_entry`] was called for.
    pub(crate) fn of_one(
        slot: NonNull<u8>,
        capacity: usize,
        entered: Entered,
        region: Option<&'static Region>,
    ) -> Self {
        let page = os::page_size();
        // A guard page before the slot and one after it. No mapping begins at address zero.
        let base = NonNull::new(slot.as_ptr().wrapping_sub(page)).unwrap_or(slot);
        let regions = region.map_or(&[][..], std::slice::from_ref);
        Self { base, size: capacity + 2 * page, capacity, count: 1, page, entered, regions }
    }

    /// The views that are in the slots of this slab.
    pub(crate) fn set_slots(&self, slots: &'static [Slot]) {
        self.entered.set_slots(slots);
    }

    /// The protection key that its pages were put under.
    pub(crate) fn set_key(&self, key: os::ProtectionKey) {
        self.entered.set_key(key.number());
    }

    /// What is known of the pages of a slot.
    pub(crate) fn region(&self, index: usize) -> Option<&'static Region> {
        self.regions.get(index)
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The first byte of a slot.
    #[allow(unsafe_code)]
    pub(crate) fn slot(&self, index: usize) -> NonNull<u8> {
        debug_assert!(index < self.count);
        // SAFETY: the offset of one of our slots lies inside the mapping.
        unsafe { self.base.add(geometry::slot_offset(self.capacity, index, self.page)) }
    }

    /// Gives the address range back to the system.
    ///
    /// # Safety
    ///
    /// Nothing in it is used any more, and what was secret in it has been wiped.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn release(self) -> Result<(), CallError> {
        // Where the process is dying, somebody may be overwriting it: it stays.
        if !self.entered.withdraw() {
            return Ok(());
        }
        if lost::any() {
            // The addresses are going to be others'.
            lost::forget(self.base.addr().get(), self.size, self.page);
        }
        // SAFETY: the mapping is ours alone and the caller vouches that it is out of use.
        unsafe {
            free_regions(self.regions);
            os::unmap(self.base, self.size)
        }
    }
}

fn regions(count: usize) -> Result<&'static [Region], Error> {
    let mut regions = Vec::new();
    let bytes = count.saturating_mul(std::mem::size_of::<Region>());
    regions.try_reserve_exact(count).map_err(|_| Error::OutOfMemory { bytes })?;
    regions.extend((0..count).map(|_| Region::default()));
    Ok(Box::leak(regions.into_boxed_slice()))
}

/// # Safety
///
/// They came from [`regions`], and nobody refers to them any more.
#[allow(unsafe_code)]
unsafe fn free_regions(regions: &'static [Region]) {
    if !regions.is_empty() {
        // SAFETY: leaked by `regions`; the rest as the caller vouches.
        drop(unsafe { Box::from_raw(std::ptr::from_ref(regions).cast_mut()) });
    }
}

/// How a range is kept from children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForkGuard {
    /// The child finds zeros (MADV_WIPEONFORK).
    Wiped,
    /// The child does not have the pages at all (MADV_DONTFORK): it must not look.
    Absent,
    /// Neither could be had.
    None,
}

/// What was achieved for a range of pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Secured {
    pub(crate) protections: Protections,
    pub(crate) fork: ForkGuard,
}

impl Secured {
    pub(crate) fn is_locked(&self) -> bool {
        self.protections.lock.got
    }
}

/// What became of a call that asked for a protection: an error where it is required.
pub(crate) fn settle(
    protection: Protection,
    asked: Level,
    outcome: Result<(), CallError>,
) -> Result<Achieved, Error> {
    match outcome {
        Ok(()) => Ok(Achieved { asked, got: true, evidence: Evidence::Unverified, refused: None }),
        Err(cause) if asked == Level::Require => Err(Error::Refused { protection, cause }),
        Err(cause) => {
            if asked == Level::Prefer {
                counters::add(Count::Degraded);
                events::note(Note::refused(protection), events::cause(Some(cause)), 0);
            }
            Ok(Achieved { asked, got: false, evidence: Evidence::None, refused: Some(cause) })
        }
    }
}

/// Makes pages accessible and protects them as asked; wiped or fresh pages only. An error leaves them as far
/// as it came, to be given back or tried again by the caller.
///
/// `lock` false: the caller's budget of locked memory is used up.
///
/// # Safety
///
/// The range is whole pages of one of our mappings, used by nobody else.
#[allow(unsafe_code)]
pub(crate) unsafe fn secure(
    at: NonNull<u8>,
    len: usize,
    levels: Levels,
    lock: bool,
) -> Result<Secured, Error> {
    // SAFETY: for all calls below: whole pages of ours, which the caller vouches for.
    unsafe {
        // Before any page exists: a page that is locked, merged or dumped first and protected later was
        // unprotected for a moment.
        let dump = match levels.dump {
            Level::Off => Achieved { asked: Level::Off, got: false, evidence: Evidence::None, refused: None },
            asked => settle(Protection::Dump, asked, os::advise(at, len, Advice::DontDump))?,
        };
        let (fork, guard) = match os::advise(at, len, Advice::WipeOnFork) {
            Ok(()) => (settle(Protection::Fork, levels.fork, Ok(()))?, ForkGuard::Wiped),
            Err(refused) => match os::advise(at, len, Advice::DontFork) {
                Ok(()) => (settle(Protection::Fork, levels.fork, Ok(()))?, ForkGuard::Absent),
                Err(_) => (settle(Protection::Fork, levels.fork, Err(refused))?, ForkGuard::None),
            },
        };
        // Kernels without page merging refuse the advice; then there is nothing to be kept from.
        let _ = os::advise(at, len, Advice::Unmergeable);
        os::protect(at, len, Access::ReadWrite)?;
        let lock = match levels.lock {
            Level::Off => Achieved { asked: Level::Off, got: false, evidence: Evidence::None, refused: None },
            asked if lock => {
                let locked = os::lock(at, len);
                if locked.is_ok() {
                    near::locked_more(len);
                }
                settle(Protection::Lock, asked, locked)?
            }
            asked => Achieved { asked, got: false, evidence: Evidence::None, refused: None },
        };
        let guard_pages = Achieved::by_construction(levels.guard);
        Ok(Secured { protections: Protections { guard: guard_pages, lock, dump, fork }, fork: guard })
    }
}

/// Looks up in the kernel's own listing what is in force on the range, and corrects what was claimed, but for what
/// follows from how the range was made.
pub(crate) fn verify(at: NonNull<u8>, len: usize, claimed: Protections) -> Protections {
    let Some(flags) = os::range_flags(at.addr().get(), len) else { return claimed };
    let correct = |claim: Achieved, in_force: bool| match (claim.got, in_force) {
        (_, true) => Achieved { got: true, evidence: Evidence::Kernel, ..claim },
        (true, false) if claim.evidence == Evidence::Construction => claim,
        (_, false) => Achieved { got: false, evidence: Evidence::None, ..claim },
    };
    Protections {
        guard: claimed.guard,
        lock: correct(claimed.lock, flags.locked),
        dump: correct(claimed.dump, flags.dont_dump),
        fork: correct(claimed.fork, flags.wipe_on_fork || flags.dont_fork),
    }
}

/// What is in force on two ranges together: of each protection what is worse.
pub(crate) fn both(one: Protections, other: Protections) -> Protections {
    let worse = |one: Achieved, other: Achieved| {
        let is_other =
            !other.got || (other.evidence == Evidence::Unverified && one.evidence != Evidence::Unverified);
        if one.got && is_other { other } else { one }
    };
    Protections {
        guard: worse(one.guard, other.guard),
        lock: worse(one.lock, other.lock),
        dump: worse(one.dump, other.dump),
        fork: worse(one.fork, other.fork),
    }
}

/// Refuses what is required but, after [`verify`], not in force.
pub(crate) fn insist(protections: &Protections) -> Result<(), Error> {
    let all = [
        (Protection::Guard, protections.guard),
        (Protection::Lock, protections.lock),
        (Protection::Dump, protections.dump),
        (Protection::Fork, protections.fork),
    ];
    match all.iter().find(|(_, achieved)| achieved.asked == Level::Require && !achieved.got) {
        Some((protection, _)) => Err(Error::NotInForce(*protection)),
        None => Ok(()),
    }
}

//! Pages for paged secrets, pooled: a free one is wiped, protected as asked and accessible, so that creating
//! a secret costs one protection change, and ending it another.

mod left;

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::error::{Error, Protection};
use crate::locks::{Guard, Lock, Rank};
use crate::os::{self, Veil};
use crate::policy::{Level, Levels};
use crate::region::bytes;
use crate::region::geometry;
use crate::region::{Secured, Slab, insist, secure, settle, verify};
use crate::registry::arenas::{Arena, Entered, LOCKED, NOT, Purpose, REQUIRED, Region};
use crate::registry::vaults::Seat;
use crate::registry::{dying, lost};
use crate::status::{Achieved, Evidence, Protections};
use left::Left;

/// Bytes of memory of the owner's that [`Pool::lose`] needs.
pub(crate) const ROOM: usize = left::SIZE;

/// Regions of one page mapped at a time.
const SLAB_REGIONS: usize = 16;

/// Free bytes kept for later use; what exceeds them goes back to the system.
const KEEP: usize = 8 << 20;

/// Pages of one paged secret.
pub(crate) struct Pages {
    base: NonNull<u8>,
    capacity: usize,
    secured: Secured,
    levels: Levels,
    region: Option<&'static Region>,
    /// Where they were mapped for themselves: so that they can be unmapped by themselves.
    single: Option<Entered>,
    veil: Veil,
}

// SAFETY: an address range with one owner; access to its bytes is governed by the secret's gate.
#[allow(unsafe_code)]
unsafe impl Send for Pages {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Pages {}

impl Pages {
    #[inline]
    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.base
    }

    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn secured(&self) -> &Secured {
        &self.secured
    }

    /// Are they locked, also after a fork?
    pub(crate) fn is_locked(&self) -> bool {
        self.secured.is_locked()
            && self.region.is_none_or(|region| region.locked.load(Ordering::Relaxed) != NOT)
    }

    /// Notes for a child whether it has to lock them.
    fn note_lock(&self) {
        if let Some(region) = self.region {
            let required = self.levels.lock == Level::Require;
            let locked = if required { REQUIRED } else { LOCKED };
            region.locked.store(if self.secured.is_locked() { locked } else { NOT }, Ordering::Relaxed);
        }
    }

    /// What was in force when they were made, but for what a fork took.
    fn claimed(&self) -> Protections {
        let mut claimed = self.secured.protections;
        if claimed.lock.got && !self.is_locked() {
            claimed.lock = Achieved { got: false, evidence: Evidence::None, ..claimed.lock };
        }
        claimed
    }

    /// Says whose bytes lie where in them, for who explains a fault. The label is valid until the pages are given back.
    pub(crate) fn assign(&self, secret: u64, data: usize, len: usize, label: *mut String) {
        if let Some(region) = self.region {
            region.assign(secret, data, len);
            region.label.store(label, Ordering::Release);
        }
    }

    /// The secret's label is not there any more.
    pub(crate) fn forget_label(&self) {
        if let Some(region) = self.region {
            region.label.store(std::ptr::null_mut(), Ordering::Release);
        }
    }

    /// Was memory of them lost since they were taken?
    #[inline]
    pub(crate) fn is_poisoned(&self) -> bool {
        lost::any() && lost::in_range(self.base.addr().get(), self.capacity, os::page_size())
    }

    /// The slab that [`map_single`] made for them.
    fn take_single(&mut self) -> Option<Slab> {
        let entered = self.single.take()?;
        Some(Slab::of_one(self.base, self.capacity, entered, self.region))
    }

    /// Says that something is going to be written. Not where the process is dying: either who wipes sees the one, or we see
    /// the other.
    fn begin(&self) -> Result<(), Error> {
        if let Some(region) = self.region {
            region.begin();
        }
        if dying::has_begun() { Err(Error::Dying) } else { Ok(()) }
    }

    fn end(&self) {
        if let Some(region) = self.region {
            region.end();
        }
        if self.is_poisoned() {
            self.renew();
        }
    }

    /// What was lost is as good as new: it has been written anew, or is used for other things.
    pub(crate) fn forget_lost(&self) {
        lost::forget(self.base.addr().get(), self.capacity, os::page_size());
    }

    /// Wipes all of it, which is accessible, since what was replaced is not wiped where there was never a secret.
    #[cold]
    #[allow(unsafe_code)]
    fn renew(&self) {
        // SAFETY: accessible pages of ours, which nobody uses.
        unsafe { bytes::wipe(self.base(), self.capacity) };
        self.forget_lost();
    }

    /// What the kernel's listing says is in force.
    pub(crate) fn protections(&self) -> Protections {
        verify(self.base, self.capacity, self.claimed())
    }

    /// Claims from now on what [`Self::protections`] finds.
    pub(crate) fn check(&mut self) {
        self.secured.protections = self.protections();
        self.note_lock();
    }

    /// Changes who may touch the pages.
    ///
    /// # Safety
    ///
    /// Nobody holds a reference into the pages that the new access forbids.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) unsafe fn protect(&self, access: os::Access) -> Result<(), os::CallError> {
        // SAFETY: whole pages of ours; the caller vouches for the references.
        unsafe { self.veil.protect(self.base, self.capacity, access, || self.is_locked()) }
    }
}

/// What pages for more secrets take. Bytes, but for the mappings.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PagesCost {
    pub(crate) address_space: u64,
    pub(crate) memory: u64,
    /// Where the policy asks for it.
    pub(crate) locked: u64,
    pub(crate) mappings: u64,
}

/// The pages of one vault.
pub(crate) struct Pool {
    inner: Lock<Inner>,
    /// Pages to be taken back by whoever takes the lock next: in their own memory.
    given: Left,
    /// The same with what could not be opened: in memory that their owners had.
    lost: Left,
    locked: AtomicUsize,
    purpose: Purpose,
    vault: Seat,
}

struct Inner {
    free: Vec<Pages>,
    free_bytes: usize,
    slabs: Vec<Slab>,
    /// Slots of the last slab that have not been used yet.
    fresh: usize,
    /// Pages taken and not given back: `free` has room for them, so that the end of a secret never allocates.
    out: usize,
    /// Pages whose owners have gone, but that could not be opened to be wiped.
    lost: Vec<Pages>,
}

impl Pool {
    pub(crate) fn new(purpose: Purpose, vault: Seat) -> Self {
        let (inner, locked) = (Lock::new(Rank::Pages, Inner::new()), AtomicUsize::new(0));
        Self { inner, given: Left::new(), lost: Left::new(), locked, purpose, vault }
    }

    /// Takes the lock, and takes back what was left to whoever does.
    #[cfg_attr(debug_assertions, track_caller)]
    fn lock(&self) -> Result<Guard<'_, Inner>, Error> {
        let mut inner = self.inner.lock()?;
        self.settle(&mut inner);
        Ok(inner)
    }

    fn settle(&self, inner: &mut Inner) {
        self.given.take_all(|pages| {
            if let Some(pages) = inner.take_back(pages) {
                let _ = self.release(pages);
            }
        });
        self.lost.take_all(|pages| inner.lose(pages));
    }

    #[cfg(feature = "testing")]
    pub(crate) fn set_frozen(&self, frozen: bool) -> bool {
        self.inner.set_frozen(frozen)
    }

    /// Gives pages that were mapped for themselves back to the system.
    #[allow(unsafe_code)]
    fn release(&self, mut pages: Pages) -> Result<(), Error> {
        if pages.is_locked() {
            self.locked.fetch_sub(pages.capacity, Ordering::Relaxed);
        }
        pages.take_single().map_or(Ok(()), |slab| {
            // SAFETY: the owner has given the pages back, wiped.
            unsafe { slab.release() }.map_err(Error::from)
        })
    }

    /// Accessible, zeroed pages that hold `len` bytes.
    pub(crate) fn take(&self, len: usize, align: usize, levels: Levels) -> Result<Pages, Error> {
        let page = os::page_size();
        let capacity = geometry::capacity_for(0, len, align, page)?;
        let mut inner = self.lock()?;
        inner.recover();
        // In a child some may be locked no more.
        let suits = |pages: &Pages| levels.lock != Level::Require || pages.is_locked();
        let fits = |pages: &Pages| pages.capacity == capacity && pages.levels == levels && suits(pages);
        // Most recently used first: its lines are still in the cache.
        if let Some(index) = inner.free.iter().rposition(fits) {
            inner.free_bytes -= capacity;
            inner.out += 1;
            let pages = inner.free.swap_remove(index);
            pages.begin()?;
            return Ok(pages);
        }
        let room = inner.out + 1;
        inner
            .free
            .try_reserve(room)
            .map_err(|_| Error::OutOfMemory { bytes: std::mem::size_of::<Pages>() })?;
        let kind = (self.purpose, self.vault);
        let pages = if capacity == page {
            inner.take_fresh(levels, kind)?
        } else {
            map_single(capacity, levels, kind)?
        };
        pages.note_lock();
        pages.begin()?;
        inner.out += 1;
        if pages.is_locked() {
            self.locked.fetch_add(capacity, Ordering::Relaxed);
        }
        Ok(pages)
    }

    /// Takes back pages that are wiped and accessible. On an error they stay mapped, unused. Waits for nobody.
    #[allow(unsafe_code)]
    pub(crate) fn give(&self, mut pages: Pages) -> Result<(), Error> {
        let was_poisoned = pages.is_poisoned();
        pages.end();
        if was_poisoned {
            // Of the new memory less may be in force.
            pages.check();
        }
        let Some(mut inner) = self.inner.try_lock() else {
            let room = pages.base.cast();
            // SAFETY: accessible pages, larger than what is left there, that nobody uses.
            unsafe { self.given.leave(room, pages) };
            return Ok(());
        };
        let surplus = inner.take_back(pages);
        drop(inner);
        surplus.map_or(Ok(()), |pages| self.release(pages))
    }

    /// Takes back pages that could not be opened to be wiped. That is tried again by whoever takes pages next, and
    /// when the pool ends. Waits for nobody; where the lock is not to be had, `room` is in use from then on, and true is
    /// returned.
    ///
    /// # Safety
    ///
    /// [`ROOM`] bytes, aligned to 16, that live as long as the pool, and nobody uses.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn lose(&self, pages: Pages, room: NonNull<u8>) -> bool {
        match self.inner.try_lock() {
            Some(mut inner) => {
                inner.lose(pages);
                false
            }
            None => {
                // SAFETY: as the caller vouches.
                unsafe { self.lost.leave(room, pages) };
                true
            }
        }
    }

    /// Does the address lie in pages that wait to be wiped?
    #[cfg(feature = "testing")]
    pub(crate) fn will_wipe(&self, address: usize) -> bool {
        let contains = |pages: &Pages| address.wrapping_sub(pages.base.addr().get()) < pages.capacity;
        self.lock().is_ok_and(|inner| inner.lost.iter().any(contains))
    }

    /// What [`Self::take`] would take from the system, for so many secrets of `len` bytes beyond what is
    /// free.
    pub(crate) fn cost(&self, count: u64, len: usize, levels: Levels) -> Result<PagesCost, Error> {
        let page = os::page_size();
        let capacity = geometry::capacity_for(0, len, geometry::DEFAULT_ALIGN, page)?;
        let too_large = Error::TooLarge { len, limit: isize::MAX as usize };
        let (free, fresh) = {
            let inner = self.lock()?;
            let fits = |pages: &&Pages| pages.capacity == capacity && pages.levels == levels;
            (inner.free.iter().filter(fits).count() as u64, inner.fresh as u64)
        };
        let new = count.saturating_sub(free);
        let (slabs, each) = if capacity == page {
            let slabs = new.saturating_sub(fresh).div_ceil(SLAB_REGIONS as u64);
            (slabs, geometry::slab_size(page, SLAB_REGIONS, page)?)
        } else {
            (new, geometry::slab_size(capacity, 1, page)?)
        };
        // Room in the list of free pages, which grows by doubling.
        let listed = new.checked_mul(2 * std::mem::size_of::<Pages>() as u64);
        let with_list = |count: u64, size: usize| {
            count.checked_mul(size as u64).zip(listed).and_then(|(pages, list)| pages.checked_add(list))
        };
        Ok(PagesCost {
            address_space: with_list(slabs, each).ok_or(too_large)?,
            memory: with_list(new, capacity).ok_or(too_large)?,
            locked: new.checked_mul(capacity as u64).ok_or(too_large)?,
            // The pages and the guard above them. The one below is the last one's, or that of the mapping
            // before, beside which the kernel places a new one.
            mappings: new.checked_mul(2).ok_or(too_large)?,
        })
    }

    /// Gives back what is free.
    #[allow(unsafe_code)]
    pub(crate) fn trim(&self) -> Result<(), Error> {
        let mut inner = self.lock()?;
        inner.recover();
        let whole = inner.out == 0;
        let (mut kept, mut freed) = (0, 0);
        while let Some(pages) = inner.free.get_mut(kept) {
            let locked = if pages.secured.is_locked() { pages.capacity } else { 0 };
            match pages.take_single() {
                // SAFETY: free pages are wiped, and nobody refers to them.
                Some(slab) => _ = unsafe { slab.release() },
                // A part of a slab, which goes with it.
                None if whole => {}
                None => {
                    kept += 1;
                    continue;
                }
            }
            let gone = inner.free.swap_remove(kept);
            inner.free_bytes -= gone.capacity;
            freed += locked;
        }
        if whole {
            inner.fresh = 0;
            for slab in inner.slabs.drain(..) {
                // SAFETY: all its pages were free.
                let _ = unsafe { slab.release() };
            }
        }
        self.locked.fetch_sub(freed, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn locked_bytes(&self) -> usize {
        self.locked.load(Ordering::Relaxed)
    }

    /// Keeps it as it is over a fork.
    pub(crate) fn freeze(&self, patience: Duration) -> bool {
        self.inner.freeze(patience)
    }

    /// Takes that back.
    pub(crate) fn thaw(&self, in_child: bool) {
        if in_child { self.inner.thaw_in_child() } else { self.inner.thaw() }
    }

    /// In a child, which inherits no locks of memory: locks what was locked. False: what has to be locked cannot be.
    /// `arena`: one of this pool's, at `base`.
    #[allow(unsafe_code)]
    pub(crate) fn lock_again(&self, arena: &Arena, base: usize) -> bool {
        let (page, len) = (os::page_size(), arena.capacity.load(Ordering::Relaxed));
        let first = arena.regions.load(Ordering::Acquire);
        let mut right = true;
        for index in 0..if first.is_null() { 0 } else { arena.count() } {
            // SAFETY: as many as the arena has slots; they live as long as it is entered, see `Slab::release`.
            let region = unsafe { &*first.add(index) };
            let locked = region.locked.load(Ordering::Relaxed);
            let at = NonNull::new((base + page + index * (len + page)) as *mut u8);
            let Some(at) = at.filter(|_| locked != NOT) else { continue };
            // SAFETY: whole pages of ours.
            if unsafe { os::lock_again(at, len) }.is_err() {
                right &= locked != REQUIRED;
                region.locked.store(NOT, Ordering::Relaxed);
                self.locked.fetch_sub(len, Ordering::Relaxed);
            }
        }
        right
    }

    /// Unmaps everything.
    ///
    /// # Safety
    ///
    /// No pages are in use.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn end(&mut self) {
        let mut inner = std::mem::replace(self.inner.get_mut(), Inner::new());
        self.settle(&mut inner);
        inner.recover();
        // What still cannot be wiped is at least given back: the kernel clears pages before others get them.
        let lost = std::mem::take(&mut inner.lost);
        for slab in inner.slabs.drain(..) {
            // SAFETY: the caller vouches that none of its pages is in use.
            let _ = unsafe { slab.release() };
        }
        for mut pages in std::mem::take(&mut inner.free).into_iter().chain(lost) {
            if let Some(slab) = pages.take_single() {
                // SAFETY: as above.
                let _ = unsafe { slab.release() };
            }
        }
    }
}

impl Inner {
    const fn new() -> Self {
        Self { free: Vec::new(), free_bytes: 0, slabs: Vec::new(), fresh: 0, out: 0, lost: Vec::new() }
    }

    /// Takes back wiped pages; those that are too many to be kept it gives to the caller.
    fn take_back(&mut self, pages: Pages) -> Option<Pages> {
        self.out -= 1;
        if pages.single.is_some() && self.free_bytes.saturating_add(pages.capacity) > KEEP {
            return Some(pages);
        }
        self.keep(pages);
        None
    }

    /// Without memory they stay as they are, out of use.
    fn lose(&mut self, pages: Pages) {
        if self.lost.try_reserve(1).is_ok() {
            self.lost.push(pages);
        }
    }

    /// Keeps wiped pages for later use; room for them was made when they were taken.
    fn keep(&mut self, pages: Pages) {
        self.free_bytes += pages.capacity;
        self.free.push(pages);
    }

    /// Tries again to wipe what was lost.
    #[allow(unsafe_code)]
    fn recover(&mut self) {
        while let Some(pages) = self.lost.pop() {
            // SAFETY: the owner has gone, so nobody refers to the pages.
            unsafe {
                if pages.protect(os::Access::ReadWrite).is_err() {
                    self.lost.push(pages);
                    return;
                }
                bytes::wipe(pages.base(), pages.capacity);
            }
            pages.end();
            self.out -= 1;
            self.keep(pages);
        }
    }

    /// The next unused slot of the last slab, or the first of a new one.
    fn take_fresh(&mut self, levels: Levels, (purpose, vault): (Purpose, Seat)) -> Result<Pages, Error> {
        let page = os::page_size();
        if self.fresh == 0 {
            self.slabs
                .try_reserve(1)
                .map_err(|_| Error::OutOfMemory { bytes: std::mem::size_of::<Slab>() })?;
            self.slabs.push(Slab::reserve(page, SLAB_REGIONS, purpose, vault)?);
            self.fresh = SLAB_REGIONS;
        }
        let slab = self.slabs.last().ok_or(Error::OutOfMemory { bytes: page })?;
        let index = slab.count() - self.fresh;
        let (base, region) = (slab.slot(index), slab.region(index));
        let secured = secure_all(base, page, levels)?;
        // Only now: a slot whose protection failed is tried again by the next.
        self.fresh -= 1;
        Ok(Pages { base, capacity: page, secured, levels, region, single: None, veil: Veil::new() })
    }
}

#[allow(unsafe_code)]
fn map_single(capacity: usize, levels: Levels, (purpose, vault): (Purpose, Seat)) -> Result<Pages, Error> {
    let slab = Slab::reserve(capacity, 1, purpose, vault)?;
    let base = slab.slot(0);
    match secure_all(base, capacity, levels) {
        Ok(secured) => {
            let region = slab.region(0);
            let single = Some(slab.into_entry());
            Ok(Pages { base, capacity, secured, levels, region, single, veil: Veil::new() })
        }
        Err(error) => {
            // SAFETY: nobody has seen it.
            let _ = unsafe { slab.release() };
            Err(error)
        }
    }
}

#[allow(unsafe_code)]
fn secure_all(base: NonNull<u8>, capacity: usize, levels: Levels) -> Result<Secured, Error> {
    // SAFETY: a whole slot that nobody else knows yet.
    let mut secured = unsafe { secure(base, capacity, levels, true) }?;
    if secured.is_locked()
        && let Some(cause) = os::unlocked_at_rest()
    {
        secured.protections.lock = settle(Protection::Lock, levels.lock, Err(cause))?;
    }
    // Looking into the kernel's listing costs a hundred times as much as the rest, so it is done at creation only
    // for what is required, and otherwise by `status()`.
    if [levels.lock, levels.dump].contains(&Level::Require) {
        secured.protections = verify(base, capacity, secured.protections);
        insist(&secured.protections)?;
    }
    Ok(secured)
}

//! Scratch: the memory in which a view's plaintext lives while the view does, and a key for the moment of
//! its use.
//!
//! A vault has a table of slots ([`crate::registry::Slot`]). A thread starts looking at the slot that
//! its number points to, so that threads usually find their own at the first look: one compare-and-swap on
//! a line nobody else touches. Nested views take the slots after it. Where none is free, more are mapped, up
//! to the vault's bound; then it is `ScratchExhausted`, at once.
//!
//! In each slot, from its start: [`HEAD`] bytes for a key and its check, room, canary, data.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::error::{Error, Outstanding};
use crate::gate::Deadline;
use crate::locks::{Lock, Rank};
use crate::os;
use crate::policy::{Level, Levels};
use crate::region::geometry::{self, CANARY};
use crate::region::lease::{Lease, wipe_slot};
use crate::region::revocation::revoke_owned;
use crate::region::{Secured, Slab, secure, slots};
use crate::registry::arenas::Purpose;
use crate::registry::vaults::Seat;
use crate::registry::{self, BUSY, OWNED, Slot, Thread, WINDOW};
use crate::shutdown::fork;

/// Bytes at the start of a slot for a key in use.
pub(crate) const HEAD: usize = 128;

/// Slots of one page mapped at a time.
const SLAB_SLOTS: usize = 4;

/// Slots larger than this are made to measure, smaller ones in powers of two, so that few sizes serve all views.
const TO_MEASURE: usize = 4 << 20;

/// All scratch of one vault.
pub(crate) struct Scratch {
    slots: &'static [Slot],
    /// Slots that were ever given memory: those below it are looked at.
    made: AtomicUsize,
    levels: Levels,
    grow: Lock<Grown>,
    locked_max: usize,
    locked: AtomicUsize,
    vault: Seat,
}

/// What was mapped.
struct Grown {
    slabs: Vec<(usize, Slab)>,
    /// Nothing is mapped any more: the vault is closed.
    retired: bool,
}

impl Scratch {
    /// A table of at most `max` slots. `locked_max` bounds the bytes locked by this vault, of which
    /// `locked` are in use elsewhere in it.
    #[allow(unsafe_code)]
    pub(crate) fn new(
        max: usize,
        levels: Levels,
        locked_max: usize,
        locked: usize,
        vault: Seat,
    ) -> Result<Self, Error> {
        let slots = slots::make(max)?;
        if let Err(error) = registry::enlist(slots, free_withdrawn) {
            // SAFETY: not listed, and nobody has a slot of it.
            unsafe { slots::free(slots) };
            return Err(error);
        }
        vault.set_slots(slots);
        Ok(Self {
            vault,
            slots,
            made: AtomicUsize::new(0),
            levels,
            grow: Lock::new(Rank::Scratch, Grown { slabs: Vec::new(), retired: false }),
            locked_max,
            locked: AtomicUsize::new(locked),
        })
    }

    #[cfg(feature = "testing")]
    pub(crate) fn set_frozen(&self, frozen: bool) -> bool {
        self.grow.set_frozen(frozen)
    }

    /// Adds memory that lies elsewhere as the first slot: the rest of the page that holds the key share.
    pub(crate) fn adopt(&self, base: *mut u8, capacity: usize, locked: bool) {
        let slot = &self.slots[0];
        slot.base.store(base, Ordering::Relaxed);
        slot.capacity.store(capacity, Ordering::Relaxed);
        slot.locked.store(u32::from(locked), Ordering::Relaxed);
        self.made.store(1, Ordering::Release);
    }

    /// Takes a slot that holds `len` bytes, with its window open: until [`Lease::close_window`] a fork waits
    /// for it. `wait` bounds the wait for a fork under way.
    #[inline]
    pub(crate) fn take(
        &self,
        thread: Thread,
        secret: u64,
        len: usize,
        align: usize,
        lock: bool,
        wait: Duration,
    ) -> Result<Lease, Error> {
        let made = self.made.load(Ordering::Acquire);
        if made != 0 {
            // Without a division for the first threads.
            let near = if thread.index() < made { thread.index() } else { thread.index() % made };
            let slot = &self.slots[near];
            if let Some(lease) = self.try_slot(slot, thread, secret, len, align, lock) {
                if !fork::pending() {
                    return Ok(lease);
                }
                lease.abandon();
            }
        }
        self.take_slowly(thread, secret, len, align, lock, wait)
    }

    #[inline]
    #[allow(unsafe_code)]
    fn try_slot(
        &self,
        slot: &'static Slot,
        thread: Thread,
        secret: u64,
        len: usize,
        align: usize,
        lock: bool,
    ) -> Option<Lease> {
        // One that is too small is not even looked into.
        if slot.capacity.load(Ordering::Relaxed) < len.saturating_add(HEAD + CANARY)
            || !slot.sign_in(thread, secret)
        {
            return None;
        }
        let capacity = slot.capacity.load(Ordering::Relaxed);
        let base = slot.base.load(Ordering::Relaxed);
        let usable = !base.is_null() && (!lock || slot.locked.load(Ordering::Relaxed) != 0);
        match geometry::place(capacity, HEAD, len, align) {
            // SAFETY: the place was computed for this capacity.
            Some(place) if usable => Some(Lease::new(slot, unsafe { base.add(place.data) }, len)),
            _ => {
                slot.release();
                None
            }
        }
    }

    #[cold]
    fn take_slowly(
        &self,
        thread: Thread,
        secret: u64,
        len: usize,
        align: usize,
        lock: bool,
        wait: Duration,
    ) -> Result<Lease, Error> {
        let fair = Self::fair_capacity(len, align);
        loop {
            fork::wait_out(wait)?;
            let made = self.made.load(Ordering::Acquire);
            // From the thread's own on.
            let (before, after) = self.slots[..made].split_at(thread.index().checked_rem(made).unwrap_or(0));
            // Small views leave large slots alone, or large views would not find them.
            let fits = |slot: &&Slot| slot.capacity.load(Ordering::Relaxed) <= fair;
            let mut some = after.iter().chain(before).filter(fits);
            let found = some.find_map(|slot| self.try_slot(slot, thread, secret, len, align, lock));
            let lease = match found {
                Some(lease) => lease,
                None => self.grow(thread, secret, len, align, lock)?,
            };
            if !fork::pending() {
                return Ok(lease);
            }
            lease.abandon();
        }
    }

    /// The largest slot that a view of so many bytes may take.
    fn fair_capacity(len: usize, align: usize) -> usize {
        let page = os::page_size();
        geometry::capacity_for(HEAD, len, align, page)
            .map_or(usize::MAX, |fit| fit.saturating_mul(4).max(page))
    }

    /// Maps more slots and takes the first of them.
    #[allow(unsafe_code)]
    fn grow(
        &self,
        thread: Thread,
        secret: u64,
        len: usize,
        align: usize,
        lock: bool,
    ) -> Result<Lease, Error> {
        let exhausted = Error::ScratchExhausted { limit: self.slots.len() };
        let page = os::page_size();
        let fit = geometry::capacity_for(HEAD, len, align, page)?;
        let capacity = fit.checked_next_power_of_two().filter(|_| fit < TO_MEASURE).unwrap_or(fit);
        let mut grown = self.grow.lock()?;
        if grown.retired {
            return Err(Error::Closed);
        }
        let first = self.empty_slot(&mut grown).ok_or(exhausted)?;
        // Given back unless it gets its memory, or no view would ever find it, nor the slots after it.
        let vacant = Vacant(&self.slots[first]);
        let made = self.made.load(Ordering::Acquire);
        let count =
            if capacity == page && first == made { SLAB_SLOTS.min(self.slots.len() - made) } else { 1 };
        grown.slabs.try_reserve(1).map_err(|_| Error::OutOfMemory { bytes: 64 })?;
        let slab = Slab::reserve(capacity, count, Purpose::Scratch, self.vault)?;
        slab.set_slots(&self.slots[first..first + count]);
        for index in 0..count {
            match self.equip(&slab, index, lock) {
                Ok(secured) => {
                    let slot = &self.slots[first + index];
                    slot.base.store(slab.slot(index).as_ptr(), Ordering::Relaxed);
                    slot.capacity.store(capacity, Ordering::Relaxed);
                    slot.locked.store(u32::from(secured.is_locked()), Ordering::Relaxed);
                }
                Err(error) if index == 0 => {
                    // SAFETY: nobody has been given a slot of it.
                    let _ = unsafe { slab.release() };
                    return Err(error);
                }
                // The others stay without memory; the next growth finds them.
                Err(_) => break,
            }
        }
        let slot = vacant.keep();
        slot.assign(thread, secret);
        // Readers that see the new bound see the memory of the slots below it; and whoever frees a ciphertext either
        // sees the bound, or has made it unreachable before we load the pointer.
        self.made.fetch_max(first + count, Ordering::SeqCst);
        grown.slabs.push((first, slab));
        let place = geometry::place(capacity, HEAD, len, align).ok_or(exhausted)?;
        // A store is enough: `empty_slot` took it.
        slot.state.store(WINDOW, Ordering::SeqCst);
        let base = slot.base.load(Ordering::Relaxed);
        // SAFETY: as in `try_slot`.
        Ok(Lease::new(slot, unsafe { base.add(place.data) }, len))
    }

    /// Takes a slot without memory: one that was unmapped, or the first that never had any.
    fn empty_slot(&self, _grown: &mut Grown) -> Option<usize> {
        let made = self.made.load(Ordering::Acquire);
        let unmapped = |index: &usize| {
            let slot = &self.slots[*index];
            slot.base.load(Ordering::Relaxed).is_null() && slot.take(BUSY)
        };
        (0..made)
            .find(unmapped)
            .or_else(|| (made < self.slots.len() && self.slots[made].take(BUSY)).then_some(made))
    }

    #[allow(unsafe_code)]
    fn equip(&self, slab: &Slab, index: usize, require_lock: bool) -> Result<Secured, Error> {
        let capacity = slab.capacity();
        let within =
            self.locked.fetch_add(capacity, Ordering::Relaxed).saturating_add(capacity) <= self.locked_max;
        let mut levels = self.levels;
        if require_lock {
            levels.lock = Level::Require;
        }
        let secured = if !within && levels.lock == Level::Require {
            Err(Error::ScratchExhausted { limit: self.made.load(Ordering::Relaxed) })
        } else {
            // SAFETY: a whole slot of a slab that nobody else knows yet.
            unsafe { secure(slab.slot(index), capacity, levels, within) }
        };
        if !matches!(&secured, Ok(secured) if secured.is_locked()) {
            self.locked.fetch_sub(capacity, Ordering::Relaxed);
        }
        secured.map_err(|error| match error {
            // The lock limit of the process is one more bound of the scratch.
            Error::Refused { protection: crate::error::Protection::Lock, .. }
                if index > 0 || self.made.load(Ordering::Relaxed) > 0 =>
            {
                Error::ScratchExhausted { limit: self.made.load(Ordering::Relaxed) }
            }
            other => other,
        })
    }

    /// Keeps it as it is over a fork.
    pub(crate) fn freeze(&self, patience: Duration) -> bool {
        self.grow.freeze(patience)
    }

    /// Takes that back.
    pub(crate) fn thaw(&self, in_child: bool) {
        if in_child { self.grow.thaw_in_child() } else { self.grow.thaw() }
    }

    /// In a child that inherits it: what other threads were about to take, or to give back, is given back, and what was locked
    /// is locked again. False: that is refused, and was `required`. `first`: is the page locked that the first slot may
    /// lie in?
    #[allow(unsafe_code)]
    pub(crate) fn inherit(&self, required: bool, first: bool) -> bool {
        let (me, page) = (registry::thread(), os::page_size());
        for slot in self.used() {
            let Some(at) = NonNull::new(slot.base.load(Ordering::Relaxed)) else { continue };
            let its = Thread::from_word(slot.thread.load(Ordering::Relaxed));
            if matches!(slot.state.load(Ordering::Acquire), WINDOW | BUSY) && its.index() != me.index() {
                wipe_slot(slot);
                slot.release();
            }
            if slot.locked.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let capacity = slot.capacity.load(Ordering::Relaxed);
            let is_locked = if at.addr().get() % page == 0 {
                // SAFETY: whole pages of ours.
                let outcome = unsafe { os::lock_again(at, capacity) };
                if outcome.is_err() {
                    self.note_unlocked(capacity);
                }
                outcome.is_ok()
            } else {
                first
            };
            if !is_locked {
                slot.locked.store(0, Ordering::Relaxed);
                if required {
                    return false;
                }
            }
        }
        true
    }

    /// So many bytes are locked no more.
    pub(crate) fn note_unlocked(&self, bytes: usize) {
        self.locked.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Makes ready what `n` views of the calling thread will need.
    pub(crate) fn warm(&self, n: usize, wait: Duration) -> Result<(), Error> {
        let thread = registry::thread();
        let mut leases = Vec::new();
        leases.try_reserve(n).map_err(|_| Error::OutOfMemory { bytes: n })?;
        let mut outcome = Ok(());
        for _ in 0..n {
            match self.take(thread, registry::UNNAMED, 1, 1, false, wait) {
                Ok(lease) => {
                    // Or a fork would wait for us, and our next slot for the fork.
                    lease.close_window();
                    leases.push(lease);
                }
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        leases.into_iter().for_each(Lease::abandon);
        outcome
    }

    pub(crate) fn used(&self) -> &'static [Slot] {
        &self.slots[..self.made.load(Ordering::SeqCst)]
    }

    /// Adds the views of a secret that are here.
    pub(crate) fn add_holders(&self, secret: u64, outstanding: &mut Outstanding) {
        slots::add_holders(self.used(), secret, outstanding);
    }

    /// Has the thread a borrowed view of the secret, in one of these roles?
    pub(crate) fn holds(&self, secret: u64, thread: Thread, roles: &[u32]) -> bool {
        slots::holds(self.used(), secret, thread, roles)
    }

    /// Waits until no reader can still be decrypting what was made unreachable before the call; says whether
    /// that was reached by the deadline.
    pub(crate) fn quiesce(&self, secret: u64, deadline: Deadline) -> bool {
        registry::quiet(self.used(), secret, || deadline.left().is_some())
    }

    /// Revokes the owned views of a secret: wipes those whose bytes nobody uses at the moment. The others are
    /// wiped by their last user.
    pub(crate) fn revoke(&self, secret: u64) {
        for slot in self.used() {
            let state = slot.state.load(Ordering::SeqCst);
            if state & OWNED == 0 || slot.secret.load(Ordering::Relaxed) != secret {
                continue;
            }
            // Asked again, since it may have changed hands.
            revoke_owned(slot, || slot.secret.load(Ordering::Acquire) == secret);
        }
    }

    pub(crate) fn locked_bytes(&self) -> usize {
        self.locked.load(Ordering::Relaxed)
    }

    /// Slots made, and how many of them are not locked.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let with_memory = self.used().iter().filter(|slot| !slot.base.load(Ordering::Relaxed).is_null());
        with_memory.fold((0, 0), |(all, open), slot| {
            (all + 1, open + usize::from(slot.locked.load(Ordering::Relaxed) == 0))
        })
    }

    /// Does the first slot have memory that is not locked?
    pub(crate) fn first_is_unlocked(&self) -> bool {
        self.used().first().is_some_and(|slot| {
            !slot.base.load(Ordering::Relaxed).is_null() && slot.locked.load(Ordering::Relaxed) == 0
        })
    }

    /// Wipes the keys in use under their users. What their checks are computed from stays: a user has to notice by
    /// other means.
    #[cfg(feature = "testing")]
    #[allow(unsafe_code)]
    pub(crate) fn wipe_keys(&self) {
        const KEY: usize = 32;
        for slot in self.used() {
            let base = slot.base.load(Ordering::Relaxed).cast::<u64>();
            for word in 0..if base.is_null() { 0 } else { KEY / 8 } {
                // SAFETY: a slot with memory has a head, aligned as a page, that stays mapped while the vault lives.
                // Its user reads what is written here meanwhile; that it must not publish then is what tests show.
                unsafe { base.add(word).write_volatile(0) };
            }
        }
    }

    /// Gives back all memory that nobody uses, and takes no more. What is in use is given back by a later call.
    #[allow(unsafe_code)]
    pub(crate) fn retire(&self) -> Result<(), Error> {
        let mut grown = self.grow.lock()?;
        grown.retired = true;
        let mut next = 0;
        while let Some((first, slab)) = grown.slabs.get(next) {
            let slots = &self.slots[*first..*first + slab.count()];
            let taken = slots.iter().take_while(|slot| slot.take(BUSY)).count();
            if taken < slots.len() {
                slots[..taken].iter().for_each(Slot::release);
                next += 1;
                continue;
            }
            for slot in slots {
                if slot.locked.swap(0, Ordering::Relaxed) != 0 {
                    self.locked.fetch_sub(slot.capacity.load(Ordering::Relaxed), Ordering::Relaxed);
                }
                // The place stays taken.
                slot.base.store(std::ptr::null_mut(), Ordering::Relaxed);
                slot.capacity.store(0, Ordering::Relaxed);
            }
            let (_, slab) = grown.slabs.swap_remove(next);
            // SAFETY: free slots are wiped since their release, and nobody takes these any more.
            let _ = unsafe { slab.release() };
        }
        Ok(())
    }

    /// Wipes and gives back everything.
    ///
    /// # Safety
    ///
    /// Nobody uses or takes a slot any more: what is still taken are views that were forgotten.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn end(&mut self) {
        let has_memory = |slot: &&Slot| !slot.base.load(Ordering::Relaxed).is_null();
        for slot in self.used().iter().filter(has_memory).filter(|slot| !slot.take(BUSY)) {
            wipe_slot(slot);
        }
        for (_, slab) in self.grow.get_mut().slabs.drain(..) {
            // SAFETY: the free slots are wiped since their release, the others since just now; the caller vouches that
            // none is in use.
            let _ = unsafe { slab.release() };
        }
        // Where the process is dying the table stays for ever.
        if self.vault.hide_slots() {
            registry::withdraw(self.slots, free_withdrawn);
        }
    }
}

/// Frees a table that was withdrawn by [`Scratch::end`].
#[allow(unsafe_code)]
fn free_withdrawn(slots: &'static [Slot]) {
    // SAFETY: made by `Scratch::new`, of a vault that is no more, and nobody finds it: whoever calls has seen to that.
    unsafe { slots::free(slots) };
}

/// A slot in the state BUSY that has no memory yet.
struct Vacant(&'static Slot);

impl Vacant {
    fn keep(self) -> &'static Slot {
        let slot = self.0;
        let _ = std::mem::ManuallyDrop::new(self);
        slot
    }
}

impl Drop for Vacant {
    fn drop(&mut self) {
        self.0.release();
    }
}

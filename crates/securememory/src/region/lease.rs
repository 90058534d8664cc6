//! A slot of scratch in use: what may be done with its memory, and how it is given back.

use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::error::Error;
use crate::region::bytes;
use crate::region::canary::Canary;
use crate::region::geometry::{self, Place};
use crate::region::scratch::HEAD;
use crate::registry::{self, BUSY, LEFT, OWNED, REVOKED, Slot, WINDOW, lost};
use crate::shutdown::fork;

/// A slot in use. Whoever has one keeps the vault's machinery alive, which the slot belongs to.
pub(crate) struct Lease {
    slot: &'static Slot,
    data: *mut u8,
    len: usize,
}

impl Lease {
    /// Of a slot that the caller has taken; `data` lies in it as [`geometry::place`] said.
    #[inline]
    pub(super) fn new(slot: &'static Slot, data: *mut u8, len: usize) -> Self {
        slot.show(data.addr(), len);
        if lost::any() {
            // What was lost while nobody used it is not missed.
            renew(slot);
        }
        Self { slot, data, len }
    }

    /// Notes the label of the secret, which is valid as long as the lease is, for who explains a fault.
    #[inline]
    pub(crate) fn show_label(&self, label: *mut String) {
        self.slot.label.store(label, Ordering::Relaxed);
    }

    /// For notes from where is decrypted, or whereto is sealed, while the lease is lent.
    pub(crate) fn records(&self) -> Records {
        Records(self.slot)
    }

    /// Was memory of it lost since it was taken?
    #[cold]
    pub(crate) fn is_poisoned(&self) -> bool {
        self.slot.is_poisoned()
    }

    /// The secret that it was taken for.
    pub(crate) fn secret(&self) -> u64 {
        self.slot.secret.load(Ordering::Relaxed)
    }

    /// Where the key in use goes: [`HEAD`] bytes.
    #[inline]
    pub(crate) fn head(&self) -> *mut u8 {
        self.slot.base.load(Ordering::Relaxed)
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.slot.capacity.load(Ordering::Relaxed)
    }

    /// Relative to the head.
    #[inline]
    fn place(&self) -> Place {
        let data = self.data.addr() - self.head().addr();
        Place { canary: data - geometry::CANARY, data, end: data + self.len }
    }

    #[inline]
    pub(crate) fn data_start(&self) -> NonNull<u8> {
        // The dangling default never comes up: a slot's memory does not lie at address zero.
        NonNull::new(self.data).unwrap_or(NonNull::dangling())
    }

    /// Copies a secret of the same length into the slot.
    pub(crate) fn fill(&mut self, from: &[u8]) {
        bytes::copy_slice(self.bytes_mut(), from);
    }

    /// The key in the head, and the data.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn key_and_data(&mut self) -> (&[u8; 32], &mut [u8]) {
        // SAFETY: the slot is ours, borrowed mutably; head and data do not overlap.
        unsafe { (&*self.head().cast::<[u8; 32]>(), std::slice::from_raw_parts_mut(self.data, self.len)) }
    }

    /// The data.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the slot is ours, and its memory readable as long as we have it.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }

    /// The data, to be changed.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.len) }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn write_canary(&self, canary: &Canary) {
        // SAFETY: the slot is ours; the place was computed for this capacity.
        unsafe { canary.write(self.head(), self.capacity(), self.place()) };
    }

    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn check_canary(&self, canary: &Canary) -> Result<(), Error> {
        // SAFETY: as for `write_canary`.
        unsafe { canary.check(self.head(), self.capacity(), self.place()) }
    }

    /// Wipes the head, where a key was.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn wipe_head(&self) {
        // SAFETY: the slot is ours and has at least HEAD bytes.
        unsafe { bytes::wipe(self.head(), HEAD) };
    }

    /// The key is gone from memory, registers and stack: forks need not wait any more.
    #[inline]
    pub(crate) fn close_window(&self) {
        self.slot.close_window();
    }

    /// Opens the window again, to seal what lies here.
    pub(crate) fn open_window(&self, wait: Duration) -> Result<(), Error> {
        Self::open_windows(&[self], wait)
    }

    /// The same with several. All or none: with one open and another waiting for a fork, the fork would wait for us.
    pub(crate) fn open_windows(leases: &[&Self], wait: Duration) -> Result<(), Error> {
        loop {
            leases.iter().for_each(|lease| lease.slot.state.store(WINDOW, Ordering::SeqCst));
            if !fork::pending() {
                return Ok(());
            }
            leases.iter().for_each(|lease| lease.close_window());
            fork::wait_out(wait)?;
        }
    }

    /// From canary to the end of the slack.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn wipe_data(&self) {
        // SAFETY: the slot is ours; the canary lies inside it, and all from there to its end is wiped.
        unsafe {
            let canary = self.data.sub(geometry::CANARY);
            bytes::wipe(canary, self.head().addr() + self.capacity() - canary.addr());
        }
    }

    /// Wipes the data and gives the slot back.
    #[inline]
    pub(crate) fn release(self) {
        self.wipe_data();
        self.vacate();
    }

    /// Gives a wiped slot back, for owners that are dropped by reference: the last thing they may do with it.
    #[inline]
    pub(crate) fn vacate(&self) {
        vacate(self.slot);
    }

    /// Gives back a slot into which nothing was written.
    pub(crate) fn abandon(self) {
        self.vacate();
    }

    /// Gives the slot up without touching its memory: in a child that has none.
    pub(crate) fn forsake(self) {}

    /// Notes that this is a writer's copy.
    pub(crate) fn mark_writer(&self) {
        self.slot.role.store(registry::WRITER, Ordering::Relaxed);
    }

    /// Notes that this is the chunk of a stream that is being written.
    pub(crate) fn mark_chunk(&self) {
        self.slot.role.store(registry::CHUNK, Ordering::Relaxed);
    }

    /// Becomes the place of an owned view with one handle. Sequentially consistent: see `Object::open_owned`.
    pub(crate) fn own(&self) {
        self.slot.handles.store(1, Ordering::Relaxed);
        self.slot.state.store(OWNED, Ordering::SeqCst);
    }

    /// One more handle of an owned view. They are bounded by the references to the secret that each comes with.
    pub(crate) fn share(&self) -> Self {
        self.slot.handles.fetch_add(1, Ordering::Relaxed);
        Self { slot: self.slot, data: self.data, len: self.len }
    }

    /// Gives one handle up; says whether it was the last.
    pub(crate) fn unshare(&self) -> bool {
        self.slot.handles.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Begins a use of an owned view's bytes.
    pub(crate) fn begin_use(&self) -> Result<(), Error> {
        let before = self.slot.state.fetch_add(1, Ordering::AcqRel);
        if self.slot.is_due() {
            // Ours as long as this use is counted.
            let mark = |state: u32| Some(state | REVOKED);
            let _ = self.slot.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, mark);
        } else if before & REVOKED == 0 {
            return Ok(());
        }
        self.end_use();
        Err(Error::Revoked)
    }

    /// Ends a use; the last one after a revocation wipes.
    pub(crate) fn end_use(&self) {
        end_use(self.slot);
    }

    /// Ends an owned view, whose uses have ended but for a revocation that may be wiping it right now. True: the slot is the
    /// caller's to give back. False: the revocation, which is not waited for, wipes it and gives it back.
    pub(crate) fn disown(&self) -> bool {
        let next = |state: u32| Some(if uses(state) == 0 { BUSY } else { state | LEFT });
        let before = self.slot.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        before.is_ok_and(|before| uses(before) == 0)
    }

    /// Of an owned view.
    pub(crate) fn is_revoked(&self) -> bool {
        self.slot.state.load(Ordering::Acquire) & REVOKED != 0 || self.is_due()
    }

    /// Has the time come that a close has left to this view?
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.slot.is_due()
    }
}

/// See [`Lease::records`].
#[derive(Clone, Copy)]
pub(crate) struct Records(&'static Slot);

impl Records {
    /// Notes a record.
    #[inline]
    pub(crate) fn show(self, at: usize, len: usize) {
        self.0.record.store(at, Ordering::Relaxed);
        self.0.record_len.store(len, Ordering::Relaxed);
    }
}

/// How many use the bytes of an owned view at the moment.
fn uses(state: u32) -> u32 {
    state & (LEFT - 1)
}

/// Ends a use of an owned view. The last one after a revocation, or after the view's end, wipes, and only then gives up its
/// count.
pub(super) fn end_use(slot: &Slot) {
    let mut state = slot.state.load(Ordering::Acquire);
    loop {
        let is_last = uses(state) == 1;
        if is_last && state & (REVOKED | LEFT) != 0 {
            wipe_slot(slot);
        }
        let ends = is_last && state & LEFT != 0;
        let next = if ends { BUSY } else { state - 1 };
        match slot.state.compare_exchange_weak(state, next, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) if ends => return vacate(slot),
            Ok(_) => return,
            Err(seen) => state = seen,
        }
    }
}

/// Gives a wiped slot back.
#[inline]
fn vacate(slot: &Slot) {
    if lost::any() {
        renew(slot);
    }
    slot.release();
}

/// Makes memory of a slot that was lost as good as new: wipes it, as a whole, since what it was replaced by lies also where
/// nothing was ever written.
#[cold]
fn renew(slot: &Slot) {
    if slot.is_poisoned() {
        wipe_slot(slot);
        slot.forget_lost();
    }
}

/// Wipes all memory of a slot that nobody reads or can come to read.
#[allow(unsafe_code)]
pub(super) fn wipe_slot(slot: &Slot) {
    let base = slot.base.load(Ordering::Relaxed);
    // SAFETY: the slot is in a state in which its memory is mapped, and nobody reads it (see above).
    unsafe { bytes::wipe(base, slot.capacity.load(Ordering::Relaxed)) };
}

/// A lease whose slot is given back however its owner ends, who has seen to it that nothing of worth is left in it.
pub(crate) struct Room(pub(crate) Lease);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.vacate();
    }
}

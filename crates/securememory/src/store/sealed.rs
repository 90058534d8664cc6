//! The store `Sealed`: authenticated ciphertext in ordinary memory.
//!
//! A record (version, epoch, nonce, tag, ciphertext) never changes once it is published. A commit publishes a new one
//! by exchanging the pointer; the old one is overwritten and freed when no reader can still be decrypting it
//! (see [`crate::gate`]). If that takes longer than a moment, it waits in limbo (see [`super::ledger`]).
//!
//! Two may exchange the pointer: the one writer, and whoever moves records to a new key ([`super::turnover`]). The
//! mover does so only if the pointer is still the one it has read. The writer does so in any case: what the mover has
//! published meanwhile is the same old value.

use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::time::Duration;

use crate::enclave::{self, Binding, Envelope};
use crate::error::{Error, TryError};
use crate::gate::{Current, Deadline, Refusal};
use crate::policy::Policy;
use crate::region::lease::Lease;
use crate::registry::{self, WRITER, lost};
use crate::store::header::Header;
use crate::store::ledger::{Retired, Taken, Taking};
use crate::store::machinery::Machinery;
use crate::store::slab;
use crate::store::spec::{Position, Source};

/// Readers decrypt for less than a microsecond; if one has not finished by then, it is not running.
pub(super) const MOMENT: Duration = Duration::from_micros(200);

/// Where many records are worked on in one window, they have no more bytes than that together: forks, and whoever frees
/// something, wait for it.
pub(super) const WINDOW_BYTES: usize = 256 * 1024;

/// What stands before the ciphertext.
#[repr(C)]
pub(super) struct Record {
    version: u64,
    /// Of the key that it is sealed under.
    epoch: u64,
    envelope: Envelope,
    // Followed by the ciphertext.
}

const HEAD: usize = std::mem::size_of::<Record>();
const _: () = assert!(std::mem::align_of::<Record>() <= crate::store::slab::ALIGN);

/// The pointer to the record that is valid now.
pub(super) struct Sealed {
    record: Current<Record>,
}

impl Sealed {
    /// Without a record yet.
    pub(super) fn new(record: *mut Record) -> Self {
        Self { record: Current::new(record) }
    }

    /// Whatever the pointer is to, also of a secret that is not sealed.
    #[inline]
    pub(super) fn pointer(&self) -> *mut Record {
        self.record.current()
    }

    /// Bytes of a record.
    pub(super) fn size(len: usize) -> Result<usize, Error> {
        let limit = isize::MAX as usize / 2;
        len.checked_add(HEAD).filter(|&size| size <= limit).ok_or(Error::TooLarge { len, limit })
    }

    /// Seals what `source` writes into scratch, as this version, into the body that was taken for it.
    pub(super) fn make<E, S: Source<E>>(
        machinery: &Machinery,
        taken: &mut Taken,
        policy: &Policy,
        (len, align, version): (usize, usize, u64),
        source: S,
    ) -> Result<*mut Record, TryError<E>> {
        let thread = registry::thread();
        let lock = policy.requires_lock();
        // What lies somewhere already is sealed from there; scratch is for the key alone then. But where views must be
        // locked, nothing is taken for which there would be no view.
        let (room, align) = if source.bytes().is_some() && !lock { (1, 1) } else { (len, align) };
        let mut scrap = Scrap(machinery.scratch.take(thread, taken.id, room, align, lock, policy.wait)?);
        let slot = &mut scrap.0;
        if let Some(bytes) = source.bytes() {
            return Ok(Self::seal_draft(machinery, taken, slot, version, Some(bytes))?);
        }
        if S::FOREIGN {
            slot.close_window();
            slot.write_canary(&machinery.canary);
        }
        source.write(slot.bytes_mut())?;
        if S::FOREIGN {
            machinery.check_canary(slot)?;
            machinery.ledger.choose_epoch(taken)?;
            slot.open_window(policy.wait)?;
        }
        Ok(Self::seal_draft(machinery, taken, slot, version, None)?)
    }

    /// Seals what lies in the slot, or elsewhere, into the body.
    fn seal_draft(
        machinery: &Machinery,
        taken: &Taken,
        slot: &mut Lease,
        version: u64,
        elsewhere: Option<&[u8]>,
    ) -> Result<*mut Record, Error> {
        let Taken { id: secret, epoch, .. } = *taken;
        let binding = Binding { vault: machinery.id, secret, version, epoch };
        let record = taken.body.cast::<Record>();
        let len = elsewhere.map_or(slot.len(), <[u8]>::len);
        // SAFETY: the body was taken for a record of this length, and nobody else has it.
        #[allow(unsafe_code)]
        let draft = unsafe { Draft::new(record, len) };
        let before = lost::ever();
        show_large(slot, record.as_ptr(), len);
        let sealed = machinery.enclave.seal(registry::thread(), slot, binding, elsewhere, draft.room);
        let sealed = sealed.map(|envelope| draft.complete(binding, envelope));
        check_lost(before, slot, record.as_ptr(), len).and(sealed).map(|()| record.as_ptr())
    }

    /// Opens a view in scratch.
    #[inline]
    pub(super) fn open(&self, header: &Header) -> Result<Lease, Error> {
        self.open_as(header, None)
    }

    /// As [`Self::open`]. What the record must be bound to can come from the caller (the vault, and the place in a stream),
    /// who then need not believe what header and record say of themselves.
    #[inline]
    pub(super) fn open_as(&self, header: &Header, expected: Option<(u64, Position)>) -> Result<Lease, Error> {
        let machinery = &*header.machinery;
        let policy = header.policy();
        header.check_alive()?;
        header.check_time()?;
        let thread = registry::thread();
        let lock = header.requires_lock();
        let mut slot =
            machinery.scratch.take(thread, header.id, header.len, header.align(), lock, policy.wait)?;
        slot.show_label(header.label_pointer());
        match self.open_into(header, thread, &mut slot, expected) {
            Ok(()) if !(lost::any() && slot.is_poisoned()) => {
                slot.write_canary(&machinery.canary);
                Ok(slot)
            }
            outcome => {
                // What has failed because of that is told by its cause.
                let by_loss = |error| matches!(error, Error::Tampered | Error::KeyLost) && slot.is_poisoned();
                let error = outcome.err().filter(|&error| !by_loss(error));
                slot.release();
                if header.gate.notify() {
                    header.end_left();
                }
                Err(error.unwrap_or(Error::Poisoned))
            }
        }
    }

    #[inline]
    #[allow(unsafe_code)]
    fn open_into(
        &self,
        header: &Header,
        thread: registry::Thread,
        slot: &mut Lease,
        expected: Option<(u64, Position)>,
    ) -> Result<(), Error> {
        let record = self.record.find(&header.gate).ok_or(Error::Closed)?;
        // SAFETY: signed in, so the record is not freed before the window is closed, which is the last thing that
        // `Enclave::open` does.
        let mut sealed = unsafe { sealed_in(header, record) };
        if let Some((vault, position)) = expected {
            sealed.binding = position.binding(vault, sealed.binding.epoch);
        }
        show_large(slot, record.cast(), header.len);
        let opened = header.machinery.enclave.open(thread, slot, &sealed);
        // The record's memory was lost: not somebody's work.
        opened.map_err(|error| match error {
            Error::Tampered | Error::Purged if is_lost(record, header.len) => Error::Poisoned,
            error => error,
        })
    }

    /// What is valid now, for a thread whose slot is signed in: it is not freed before the window is closed.
    #[inline]
    pub(super) fn find(&self, header: &Header) -> Option<NonNull<Record>> {
        self.record.find(&header.gate).and_then(NonNull::new)
    }

    /// Publishes a copy that was sealed under another key, unless there is a newer one than `from`.
    pub(super) fn publish_moved(&self, from: NonNull<Record>, to: NonNull<Record>) -> bool {
        self.record.exchange(from.as_ptr(), to.as_ptr())
    }

    /// Becomes the writer and opens a copy to be changed.
    pub(super) fn open_mut(&self, header: &Header, wait: Duration) -> Result<Lease, Error> {
        header.check_alive()?;
        header.check_time()?;
        let deadline = Deadline::after(wait);
        let thread = registry::thread();
        if header.machinery.holds(header.id, thread, &[WRITER]) {
            return Err(Error::WouldDeadlock);
        }
        header
            .gate
            .begin_write_sealed(deadline)
            .map_err(|refusal| header.machinery.explain(refusal, header.id, deadline))?;
        match self.open(header) {
            Ok(slot) => {
                slot.mark_writer();
                Ok(slot)
            }
            Err(error) => {
                self.end_write(header);
                Err(error)
            }
        }
    }

    /// The writer is done; a close that met it left the end to it.
    pub(super) fn end_write(&self, header: &Header) {
        header.gate.end_write_sealed();
        if header.gate.is_closed() {
            header.end_left();
        }
    }

    /// Seals the writer's copy and publishes it. The copy is gone afterwards, whatever the outcome. Gives the seals made
    /// under the present key so far.
    #[allow(unsafe_code)]
    pub(super) fn commit(&self, header: &Header, slot: &mut Lease) -> Result<u64, Error> {
        let machinery = &*header.machinery;
        let wait = header.policy().wait;
        if header.gate.is_closed() {
            return Err(if header.is_revoked(slot) { Error::Revoked } else { header.why_closed() });
        }
        let size = Self::size(header.len)?;
        let (piece, epoch, seals) = self.take_record(header, size, wait)?;
        let version = slot.open_window(wait).and_then(|()| {
            let current = self.find(header).ok_or(Error::Closed)?;
            // SAFETY: only the writer, which is the caller, changes the value. A mover may exchange the
            // record, but whoever frees the old one waits for our window, which was open since before we
            // look.
            let current = unsafe { current.as_ref() };
            // What was purged stays so: after our epoch was chosen, or a purge could come in between.
            let found =
                machinery.enclave.check_epoch(current.epoch).map(|()| current.version.wrapping_add(1));
            if is_lost(current, header.len) { Err(Error::Poisoned) } else { found }
        });
        let made = version.and_then(|version| {
            let binding = Binding { vault: machinery.id, secret: header.id, version, epoch };
            // SAFETY: taken for a record of this length, and nobody else has it.
            let draft = unsafe { Draft::new(piece.cast(), header.len) };
            let before = lost::ever();
            show_large(slot, piece.as_ptr().cast(), header.len);
            let sealed = machinery.enclave.seal(registry::thread(), slot, binding, None, draft.room);
            let sealed = sealed.map(|envelope| draft.complete(binding, envelope));
            check_lost(before, slot, piece.as_ptr().cast(), header.len).and(sealed)
        });
        if let Err(error) = made {
            slot.close_window();
            // SAFETY: nobody has seen it.
            unsafe { machinery.ledger.free(&[Retired { secret: header.id, at: piece, size, epoch }], 1) };
            return Err(error);
        }
        if let Some(old) = NonNull::new(self.record.replace(piece.cast().as_ptr())) {
            // SAFETY: it is not freed before that is done here.
            let epoch = unsafe { counted_epoch(old, header.len) };
            let old = Retired { secret: header.id, at: old.cast(), size, epoch };
            if machinery.scratch.quiesce(header.id, Deadline::after(MOMENT)) {
                // SAFETY: no reader is left that could have loaded the old pointer.
                unsafe { machinery.ledger.free(&[old], 1) };
            } else if !machinery.ledger.retire(old) {
                machinery.give_up(old);
            }
        }
        Ok(seals)
    }

    /// Memory for a new record. Where too many old ones wait for readers, so does the caller.
    fn take_record(
        &self,
        header: &Header,
        size: usize,
        wait: Duration,
    ) -> Result<(NonNull<u8>, u64, u64), Error> {
        let machinery = &*header.machinery;
        let deadline = Deadline::after(wait);
        let mut swept = false;
        loop {
            match machinery.ledger.take_record(size) {
                Ok(taken) => return Ok(taken),
                Err(Taking::Failed(error)) => return Err(error),
                Err(Taking::LimboFull) => {}
            }
            // Others may have taken what was freed, or only keep places.
            if swept && deadline.left().is_none() || !machinery.sweep_limbo(deadline) {
                return Err(machinery.explain(Refusal::Late, header.id, deadline));
            }
            if swept {
                std::thread::yield_now();
            }
            swept = true;
        }
    }

    /// Version, epoch, address and length of what is at rest.
    #[allow(unsafe_code)]
    pub(super) fn at_rest(&self, header: &Header) -> Option<(u64, u64, (usize, usize))> {
        header.check_alive().ok()?;
        // A reader's sign-in without the reading: what it looks at is not freed meanwhile.
        let policy = header.policy();
        let thread = registry::thread();
        let slot = header.machinery.scratch.take(thread, header.id, 1, 1, false, policy.wait).ok()?;
        // SAFETY: signed in, see `open_into`.
        let found = unsafe { self.look(header) };
        slot.abandon();
        if header.gate.notify() && header.check_alive().is_ok() {
            header.end_left();
        }
        found
    }

    /// Version, epoch, address and length of what is found now.
    ///
    /// # Safety
    ///
    /// It is not freed meanwhile.
    #[allow(unsafe_code)]
    pub(super) unsafe fn look(&self, header: &Header) -> Option<(u64, u64, (usize, usize))> {
        let record = self.find(header)?;
        // SAFETY: as the caller vouches.
        let record = unsafe { record.as_ref() };
        let len = HEAD - std::mem::offset_of!(Record, envelope) + header.len;
        let found = (record.version, record.epoch, ((&raw const record.envelope).addr(), len));
        // Else the numbers are noise.
        (!is_lost(record, header.len)).then_some(found)
    }

    /// Overwrites and frees all records, if no reader is left by the deadline; `None`: there can be none. The caller
    /// has begun the end. Waits for no lock.
    #[allow(unsafe_code)]
    pub(super) fn end(&self, header: &Header, deadline: Option<Deadline>) -> Result<bool, Error> {
        let machinery = &*header.machinery;
        let retired = machinery.ledger.retired_so_far();
        if deadline.is_some_and(|deadline| !machinery.scratch.quiesce(header.id, deadline)) {
            return Ok(false);
        }
        // SAFETY: the readers were seen to be done after that was asked; and nobody finds the last record any more.
        unsafe { machinery.ledger.end_sealed(header.item(), header.id, retired, self.take(header)) };
        Ok(true)
    }

    /// The epoch of the record that is valid now, for the account. In a child, where nobody frees it.
    #[allow(unsafe_code)]
    pub(super) fn epoch_in_child(&self, header: &Header) -> Option<u64> {
        let record = NonNull::new(self.record.current())?;
        // SAFETY: published, and not freed: see above.
        Some(unsafe { counted_epoch(record, header.len) })
    }

    /// Takes the last record away. Only where no reader and no writer is left or will come.
    #[allow(unsafe_code)]
    pub(super) fn take(&self, header: &Header) -> Option<Retired> {
        let last = NonNull::new(self.record.replace(std::ptr::null_mut()))?;
        // SAFETY: it was published, and has not been freed.
        let epoch = unsafe { counted_epoch(last, header.len) };
        Some(Retired { secret: header.id, at: last.cast(), size: Self::size(header.len).ok()?, epoch })
    }
}

impl Machinery {
    /// A record that was replaced, which no place in limbo could be had for, since the ledger's lock is not to be had.
    #[cold]
    #[allow(unsafe_code)]
    pub(super) fn give_up(&self, old: Retired) {
        // For a second others have had the lock. A reader that has not run meanwhile may do so in another. Else the record
        // stays as it is until the vault ends.
        if self.scratch.quiesce(old.secret, Deadline::after(Duration::from_secs(1))) {
            // SAFETY: no reader is left that could have found it.
            unsafe { self.ledger.free(&[old], 1) };
        }
    }
}

/// Was memory of a record lost?
#[inline]
pub(super) fn is_lost(record: *const Record, len: usize) -> bool {
    let size = || Sealed::size(len).unwrap_or(0);
    NonNull::new(record.cast_mut().cast()).is_some_and(|record| lost::any() && slab::is_lost(record, size()))
}

/// The epoch of a record's key, for the account. Zero where it was lost, for which nothing is counted: then the key counts as
/// used for ever.
///
/// # Safety
///
/// The record is complete, and has not been freed.
#[allow(unsafe_code)]
unsafe fn counted_epoch(record: NonNull<Record>, len: usize) -> u64 {
    // SAFETY: as the caller vouches.
    let epoch = unsafe { record.as_ref() }.epoch;
    if is_lost(record.as_ptr(), len) { 0 } else { epoch }
}

/// Notes a record in memory of its own, that the slot's thread is going to read or write.
#[inline]
pub(super) fn show_large(slot: &Lease, record: *const Record, len: usize) {
    let size = len.saturating_add(HEAD);
    if slab::is_large(size) {
        slot.records().show(record.addr(), size);
    }
}

/// Was nothing lost while a record was sealed, of which `before` was asked? Else it may be of noise, or be noise.
#[inline]
fn check_lost(before: usize, slot: &Lease, record: *const Record, len: usize) -> Result<(), Error> {
    if lost::ever() != before && (slot.is_poisoned() || is_lost(record, len)) {
        return Err(Error::Poisoned);
    }
    Ok(())
}

/// The slot of a creation: wiped and given back however it ends.
struct Scrap(Lease);

impl Drop for Scrap {
    fn drop(&mut self) {
        self.0.wipe_data();
        self.0.vacate();
    }
}

/// A record in the making, in memory with any content.
pub(super) struct Draft<'a> {
    record: NonNull<Record>,
    /// For the ciphertext.
    pub(super) room: &'a mut [MaybeUninit<u8>],
}

impl Draft<'_> {
    /// # Safety
    ///
    /// `record` is memory for a record of `len` bytes, which nobody else uses as long as the draft lives.
    #[allow(unsafe_code)]
    pub(super) unsafe fn new(record: NonNull<Record>, len: usize) -> Self {
        // SAFETY: the ciphertext follows the head.
        let room = unsafe {
            std::slice::from_raw_parts_mut(record.as_ptr().cast::<MaybeUninit<u8>>().add(HEAD), len)
        };
        Self { record, room }
    }

    /// Writes the head; the ciphertext is there.
    #[allow(unsafe_code)]
    pub(super) fn complete(self, binding: Binding, envelope: Envelope) {
        let Binding { version, epoch, .. } = binding;
        // SAFETY: memory of ours, see `new`.
        unsafe { self.record.write(Record { version, epoch, envelope }) };
    }
}

/// What is in a record of this secret.
///
/// # Safety
///
/// `record` is complete, and is not freed before the result is dropped.
#[inline]
#[allow(unsafe_code)]
pub(super) unsafe fn sealed_in<'a>(header: &Header, record: *const Record) -> enclave::Sealed<'a> {
    // SAFETY: as the caller vouches; the ciphertext follows the head.
    let (head, ciphertext) =
        unsafe { (&*record, std::slice::from_raw_parts(record.cast::<u8>().add(HEAD), header.len)) };
    let Record { version, epoch, ref envelope } = *head;
    let binding = Binding { vault: header.machinery.id, secret: header.id, version, epoch };
    enclave::Sealed { binding, envelope, ciphertext }
}

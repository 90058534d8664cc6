//! The store `Sealed`: authenticated ciphertext in ordinary memory.
//!
//! A record (version, nonce, tag, ciphertext) never changes once it is published. A commit publishes a new one
//! by exchanging the pointer; the old one is overwritten and freed when no reader can still be decrypting it
//! (see [`crate::gate`]). If that takes longer than a moment, it stays on a chain behind the new record until
//! the next commit or the end.

use std::ptr::NonNull;
use std::time::Duration;

use crate::enclave::{Binding, Envelope};
use crate::error::{Error, TryError};
use crate::gate::{Current, Deadline, Refusal};
use crate::policy::{Level, Policy};
use crate::region::lease::Lease;
use crate::registry::{self, WRITER};
use crate::store::machinery::Machinery;
use crate::store::object::{Header, Source};
use crate::store::slab::Taken;

/// Readers decrypt for less than a microsecond; if one has not finished by then, it is not running.
pub(super) const MOMENT: Duration = Duration::from_micros(200);
/// Retired records on the chain at most; then a commit waits for the readers.
const MAX_RETIRED: usize = 2;

/// What stands before the ciphertext.
#[repr(C)]
struct Record {
    version: u64,
    /// The record that this one replaced, if it could not be freed yet.
    older: *mut Record,
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
    /// Bytes of a record.
    pub(super) fn size(len: usize) -> Result<usize, Error> {
        let limit = isize::MAX as usize / 2;
        len.checked_add(HEAD).filter(|&size| size <= limit).ok_or(Error::TooLarge { len, limit })
    }

    /// Seals what `source` writes into scratch, into the body that was taken for it.
    pub(super) fn make<E, S: Source<E>>(
        machinery: &Machinery,
        taken: &Taken,
        policy: &Policy,
        (len, align, version): (usize, usize, u64),
        source: S,
    ) -> Result<Self, TryError<E>> {
        let thread = registry::thread();
        let lock = policy.levels().lock == Level::Require;
        let slot = machinery.scratch.take(thread, taken.id, len, align, lock, policy.wait)?;
        let mut scrap = Scrap(slot);
        let slot = &mut scrap.0;
        if S::FOREIGN {
            slot.close_window();
            slot.write_canary(&machinery.canary);
        }
        source.write(slot.bytes_mut())?;
        if S::FOREIGN {
            slot.check_canary(&machinery.canary)?;
            slot.open_window(policy.wait)?;
        }
        let binding = Binding { vault: machinery.id, secret: taken.id, version };
        let envelope = machinery.enclave.seal(thread, slot, binding)?;
        let record = taken.body.cast::<Record>();
        write_record(record, version, std::ptr::null_mut(), envelope, slot.bytes());
        Ok(Self { record: Current::new(record.as_ptr()) })
    }

    /// Opens a view in scratch.
    #[inline]
    pub(super) fn open(&self, header: &Header) -> Result<Lease, Error> {
        self.open_as(header, None)
    }

    /// As [`Self::open`]. What the record must be bound to can come from the caller, who then need not believe what
    /// header and record say of themselves.
    #[inline]
    pub(super) fn open_as(&self, header: &Header, expected: Option<Binding>) -> Result<Lease, Error> {
        let machinery = &*header.machinery;
        let policy = header.policy();
        header.check_alive()?;
        let thread = registry::thread();
        let lock = header.requires_lock();
        let mut slot =
            machinery.scratch.take(thread, header.id, header.len, header.align(), lock, policy.wait)?;
        match self.open_into(header, thread, &mut slot, expected) {
            Ok(()) => {
                slot.write_canary(&machinery.canary);
                Ok(slot)
            }
            Err(error) => {
                slot.abandon();
                if header.gate.notify() {
                    header.end_left();
                }
                Err(error)
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
        expected: Option<Binding>,
    ) -> Result<(), Error> {
        let machinery = &*header.machinery;
        let record = self.record.find(&header.gate).ok_or(Error::Closed)?;
        // SAFETY: signed in, so the record is not freed before the window is closed, which is the last thing that
        // `Enclave::open` does.
        unsafe {
            let own = Binding { vault: machinery.id, secret: header.id, version: (*record).version };
            let binding = expected.unwrap_or(own);
            let ciphertext = ciphertext_of(record, header.len);
            machinery.enclave.open(thread, slot, binding, &(*record).envelope, ciphertext)
        }
    }

    /// Becomes the writer and opens a copy to be changed.
    pub(super) fn open_mut(&self, header: &Header, wait: Duration) -> Result<Lease, Error> {
        header.check_alive()?;
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

    /// Seals the writer's copy and publishes it. The copy is gone afterwards, whatever the outcome.
    #[allow(unsafe_code)]
    pub(super) fn commit(&self, header: &Header, slot: &mut Lease) -> Result<(), Error> {
        let machinery = &*header.machinery;
        let wait = header.policy().wait;
        if header.gate.is_closed() {
            return Err(if header.gate.is_revoked() { Error::Revoked } else { Error::Closed });
        }
        let current = self.record.current();
        // SAFETY: only the writer, which is the caller, exchanges and frees records.
        let (version, retired) = unsafe { ((*current).version.wrapping_add(1), chain_length(current)) };
        if retired >= MAX_RETIRED {
            let deadline = Deadline::after(wait);
            if !machinery.scratch.quiesce(header.id, deadline) {
                return Err(machinery.explain(Refusal::Late, header.id, deadline));
            }
            // SAFETY: no reader is left that could have loaded an older pointer.
            unsafe { free_older(header, current) };
        }
        slot.open_window(wait)?;
        let binding = Binding { vault: machinery.id, secret: header.id, version };
        let envelope = machinery.enclave.seal(registry::thread(), slot, binding)?;
        let record = machinery.slabs.take(Self::size(header.len)?)?.cast::<Record>();
        write_record(record, version, current, envelope, slot.bytes());
        let record = record.as_ptr();
        self.record.replace(record);
        if machinery.scratch.quiesce(header.id, Deadline::after(MOMENT)) {
            // SAFETY: as above.
            unsafe { free_older(header, record) };
        }
        Ok(())
    }

    /// Address and length of what is at rest, with its version.
    #[allow(unsafe_code)]
    pub(super) fn at_rest(&self, header: &Header) -> Option<(u64, (usize, usize))> {
        // A reader's sign-in without the reading: what it looks at is not freed meanwhile.
        let policy = header.policy();
        let thread = registry::thread();
        let slot = header.machinery.scratch.take(thread, header.id, 1, 1, false, policy.wait).ok()?;
        let found = self.record.find(&header.gate).map(|record| {
            // SAFETY: signed in, see `open_into`.
            let (version, address) = unsafe { ((*record).version, (&raw const (*record).envelope).addr()) };
            (version, (address, HEAD - std::mem::offset_of!(Record, envelope) + header.len))
        });
        slot.abandon();
        if header.gate.notify() && header.check_alive().is_ok() {
            header.end_left();
        }
        found
    }

    /// Overwrites and frees all records, if no reader is left by the deadline; `None`: there can be none. The caller
    /// has begun the end.
    #[allow(unsafe_code)]
    pub(super) fn end(&self, header: &Header, deadline: Option<Deadline>) -> Result<bool, Error> {
        if deadline.is_some_and(|deadline| !header.machinery.scratch.quiesce(header.id, deadline)) {
            return Ok(false);
        }
        if let Some((body, size)) = self.take(header) {
            // SAFETY: the last record, which nobody finds any more.
            unsafe { header.machinery.slabs.give_secret(None, body, size) };
        }
        Ok(true)
    }

    /// Takes the last record away and frees the others. Only where no reader and no writer is left or will come.
    #[allow(unsafe_code)]
    pub(super) fn take(&self, header: &Header) -> Option<(NonNull<u8>, usize)> {
        let last = NonNull::new(self.record.current())?;
        self.record.replace(std::ptr::null_mut());
        // SAFETY: as the caller vouches.
        unsafe { free_older(header, last.as_ptr()) };
        Some((last.cast(), Self::size(header.len).ok()?))
    }
}

/// The slot of a creation: wiped and given back however it ends.
struct Scrap(Lease);

impl Drop for Scrap {
    fn drop(&mut self) {
        self.0.wipe_data();
        self.0.vacate();
    }
}

/// Fills a record's piece.
#[allow(unsafe_code)]
fn write_record(
    record: NonNull<Record>,
    version: u64,
    older: *mut Record,
    envelope: Envelope,
    ciphertext: &[u8],
) {
    // SAFETY: the callers took a piece of `Sealed::size` for a ciphertext of this length, and nobody else has it.
    unsafe {
        record.write(Record { version, older, envelope });
        let body = record.as_ptr().cast::<u8>().add(HEAD);
        std::ptr::copy_nonoverlapping(ciphertext.as_ptr(), body, ciphertext.len());
    }
}

/// # Safety
///
/// `record` is live and holds `len` bytes.
#[inline]
#[allow(unsafe_code)]
unsafe fn ciphertext_of<'a>(record: *const Record, len: usize) -> &'a [u8] {
    // SAFETY: the ciphertext follows the head.
    unsafe { std::slice::from_raw_parts(record.cast::<u8>().add(HEAD), len) }
}

/// # Safety
///
/// The caller is the only writer, `record` is the current one.
#[allow(unsafe_code)]
unsafe fn chain_length(record: *const Record) -> usize {
    let mut length = 0;
    // SAFETY: records on the chain are freed by the only writer alone.
    let mut older = unsafe { (*record).older };
    while !older.is_null() {
        length += 1;
        // SAFETY: as above.
        older = unsafe { (*older).older };
    }
    length
}

/// Frees all records behind `record`.
///
/// # Safety
///
/// The caller is the only writer, and no reader can still look at them.
#[allow(unsafe_code)]
unsafe fn free_older(header: &Header, record: *mut Record) {
    let Ok(size) = Sealed::size(header.len) else { return };
    // SAFETY: `older` is only read and written by the writer.
    let mut older = unsafe { std::mem::replace(&mut (*record).older, std::ptr::null_mut()) };
    while let Some(piece) = NonNull::new(older) {
        // SAFETY: pieces of this size from the vault's slabs, unlinked.
        unsafe {
            older = (*older).older;
            header.machinery.slabs.give(piece.cast(), size);
        }
    }
}

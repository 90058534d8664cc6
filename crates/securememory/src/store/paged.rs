//! The store `Paged`: plaintext in pages of its own, closed at rest.
//!
//! Views are in place. The first reader opens the pages, the last one closes them (see [`crate::gate`]). A
//! writer has the pages to itself; it keeps an image of what was there in other pages of the pool, and
//! puts it back unless it commits.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{Error, TryError};
use crate::events::{self, Note};
use crate::gate::{Deadline, Refusal};
use crate::os::{Access, CallError};
use crate::policy::{Level, Policy};
use crate::region::bytes;
use crate::region::geometry::{self, Place};
use crate::region::pool::{self, Pages};
use crate::region::scrub;
use crate::registry::dying::why_gone;
use crate::registry::{self, READER, Slot, WRITER, lost};
use crate::status::Protections;
use crate::store::header::Header;
use crate::store::ledger::Taken;
use crate::store::linger;
use crate::store::machinery::Machinery;
use crate::store::spec::Source;

/// A secret's pages. They are given back when the secret ends; that they are gone is said by the null.
pub(super) struct Paged {
    /// To what lies behind this in the same piece of memory.
    pages: AtomicPtr<Pages>,
    /// The same for a writer's image.
    image: AtomicPtr<Pages>,
    /// Is there one? It is the writer's, and lies here since a writer may be forgotten, and the secret not.
    has_image: AtomicBool,
    version: AtomicU64,
    /// Until when open pages may stay open, as [`os::coarse_now`](crate::os::coarse_now) tells.
    pub(super) open_until: AtomicU64,
}

/// What a paged secret has in ordinary memory besides its header.
#[repr(C)]
struct Piece {
    paged: Paged,
    pages: MaybeUninit<Pages>,
    image: MaybeUninit<Pages>,
}

const _: () = assert!(std::mem::align_of::<Piece>() <= crate::store::slab::ALIGN);
const _: () = assert!(std::mem::size_of::<Piece>() >= pool::ROOM);

/// A writer's right to the pages. What it needs to undo lies with the secret.
pub(super) struct Change {
    pub(super) ticket: &'static Slot,
}

fn too_large(len: usize) -> Error {
    Error::TooLarge { len, limit: isize::MAX as usize }
}

impl Paged {
    /// Bytes of ordinary memory besides the header.
    pub(super) const SIZE: usize = std::mem::size_of::<Piece>();

    /// Pages for a secret of this length.
    pub(super) fn reserve<'a>(
        machinery: &'a Machinery,
        policy: &Policy,
        (len, align): (usize, usize),
    ) -> Result<Draft<'a>, Error> {
        machinery.lingering.poll();
        let pages = machinery.pool.take(len, align, machinery.page_levels_for(policy))?;
        Ok(Draft { machinery, pages: Some(pages) })
    }

    /// Keeps what `source` writes into these pages.
    #[allow(unsafe_code)]
    pub(super) fn make<E, S: Source<E>>(
        mut draft: Draft<'_>,
        taken: &Taken,
        (len, align): (usize, usize),
        source: S,
    ) -> Result<*mut Self, TryError<E>> {
        let machinery = draft.machinery;
        let Some(pages) = &draft.pages else { return Err(Error::Closed.into()) };
        let capacity = pages.capacity();
        let base = pages.base();
        let place = geometry::place(capacity, 0, len, align).ok_or(too_large(len))?;
        // SAFETY: pages from the pool are accessible and ours; the place was computed for them.
        let room = unsafe {
            machinery.canary.write(base, capacity, place);
            std::slice::from_raw_parts_mut(base.add(place.data), len)
        };
        source.write(room)?;
        if S::FOREIGN {
            // SAFETY: as above; the slice is no longer used.
            unsafe { machinery.canary.check(base, capacity, place) }?;
        }
        if draft.pages.as_ref().is_some_and(Pages::is_poisoned) {
            return Err(Error::Poisoned.into());
        }
        draft.close()?;
        // What the source's code has left of the bytes.
        scrub::after_view();
        let at = taken.body.cast::<Piece>().as_ptr();
        let Some(pages) = draft.pages.take() else { return Err(Error::Closed.into()) };
        pages.assign(taken.id, base.addr() + place.data, len, std::ptr::null_mut());
        // SAFETY: a fresh piece of the right size and alignment.
        unsafe {
            let place = (&raw mut (*at).pages).cast::<Pages>();
            place.write(pages);
            (&raw mut (*at).paged).write(Self {
                pages: AtomicPtr::new(place),
                image: AtomicPtr::new((&raw mut (*at).image).cast()),
                has_image: AtomicBool::new(false),
                version: AtomicU64::new(0),
                open_until: AtomicU64::new(0),
            });
        }
        Ok(at.cast())
    }

    #[allow(unsafe_code)]
    #[inline]
    fn pages(&self) -> Option<&Pages> {
        // SAFETY: set by `make`; taken out and freed by `wipe`, which runs when nobody is inside the gate; the
        // callers are.
        unsafe { self.pages.load(Ordering::Acquire).as_ref() }
    }

    /// Puts the writer's image where it is found again if the writer is forgotten.
    #[allow(unsafe_code)]
    fn keep_image(&self, image: Pages) {
        // SAFETY: the caller is the one writer, and the place is its alone until it ends, or the secret does.
        unsafe { self.image.load(Ordering::Relaxed).write(image) };
        self.has_image.store(true, Ordering::Release);
    }

    /// For the writer at its end, and for the end of a secret whose writer was forgotten.
    #[allow(unsafe_code)]
    fn take_image(&self) -> Option<Pages> {
        let is_there = self.has_image.swap(false, Ordering::AcqRel);
        // SAFETY: written by `keep_image`, and taken once.
        is_there.then(|| unsafe { self.image.load(Ordering::Relaxed).read() })
    }

    /// Tells who explains a fault the label of the secret, which has its place from now on.
    pub(super) fn show_label(&self, header: &Header) {
        let (label, pages) = (header.label_pointer(), self.pages());
        if let Some((pages, place)) = pages.and_then(|pages| Some((pages, Self::place(header, pages).ok()?)))
            && !label.is_null()
        {
            pages.assign(header.id, pages.base().addr() + place.data, header.len, label);
        }
    }

    #[inline]
    fn place(header: &Header, pages: &Pages) -> Result<Place, Error> {
        geometry::place(pages.capacity(), 0, header.len, header.align()).ok_or(too_large(header.len))
    }

    /// Opens a view in place: the address of the first byte, and the note of who views.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) fn open(&self, header: &Header) -> Result<(NonNull<u8>, &'static Slot), Error> {
        header.check_alive()?;
        header.check_time()?;
        header.machinery.lingering.poll();
        let thread = registry::thread();
        let ticket = header.machinery.take_ticket(thread, header.id)?;
        match self.enter(header, thread, ticket) {
            Ok(data) => Ok((data, ticket)),
            Err(error) => {
                self.settle(header);
                Err(error)
            }
        }
    }

    /// On an error the ticket has been given back.
    #[inline]
    #[allow(unsafe_code)]
    fn enter(&self, header: &Header, thread: registry::Thread, ticket: &Slot) -> Result<NonNull<u8>, Error> {
        let machinery = &*header.machinery;
        let wait = || header.policy().wait;
        let deadline = Cell::new(None);
        let writing = Cell::new(false);
        // Called with the count in the gate, so the pages are there if it has not been closed.
        let open = || match self.pages() {
            // SAFETY: opening forbids nobody anything.
            Some(pages) => unsafe { pages.protect(Access::Read) },
            None => Ok(()),
        };
        let nested = || {
            writing.set(machinery.holds(header.id, thread, &[WRITER]));
            machinery.is_nested(header.id, thread)
        };
        let patience = || {
            // Where the writer is this thread, waiting would be for ever.
            let end = Deadline::after(if writing.get() { Duration::ZERO } else { wait() });
            deadline.set(Some(end));
            end
        };
        match header.gate.enter_paged(nested, patience, open) {
            Ok(()) => {}
            Err(refusal) => {
                // Before the others are named.
                ticket.release();
                if refusal == Refusal::Late && writing.get() {
                    return Err(Error::WouldDeadlock);
                }
                let deadline = deadline.get().unwrap_or_else(|| Deadline::after(wait()));
                return Err(machinery.explain(refusal, header.id, deadline));
            }
        }
        let data = self.pages().ok_or(Error::Closed).and_then(|pages| {
            let place = Self::place(header, pages)?;
            if pages.is_poisoned() {
                return Err(Error::Poisoned);
            }
            // SAFETY: the place was computed for these pages.
            NonNull::new(unsafe { pages.base().add(place.data) }).ok_or(Error::Closed)
        });
        if data.is_err() {
            ticket.release();
            Self::leave(header);
        }
        data
    }

    /// Ends a view: checks what lies around the bytes and closes the pages if nobody else is inside.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) fn release(&self, header: &Header, ticket: &'static Slot) -> Result<(), Error> {
        if header.check_alive().is_err() {
            // The gate is the parent's, copied in whatever state it was; the pages are wiped.
            return Err(why_gone());
        }
        let intact = self.check(header);
        let revoked = if header.gate.is_revoked() || ticket.is_due() { Err(Error::Revoked) } else { Ok(()) };
        ticket.release();
        let shut = self.leave_pages(header);
        // No fence is needed: a close is a change of the gate's word, and so is leaving, so one comes first. Either the close
        // finds us gone, and our ticket too, or we read its mark here.
        if header.gate.is_closed() {
            header.end_left();
        }
        intact.and(revoked).and(shut.map_err(Error::StuckOpen))
    }

    /// Leaves the gate; the last one closes the pages, or has them closed later.
    #[inline]
    fn leave_pages(&self, header: &Header) -> Result<(), CallError> {
        if !header.may_linger() {
            return header.gate.leave_paged(|| self.protect_none(header));
        }
        let machinery = &header.machinery;
        let linger = header.policy().linger;
        if !header.gate.leave_unshut() || machinery.lingering.list(header, linger, machinery.settings.janitor)
        {
            return Ok(());
        }
        self.shut(header)
    }

    /// The last one to leave a closed secret wipes it.
    fn leave(header: &Header) {
        if header.gate.leave() {
            let _ = header.try_end(None);
        }
    }

    #[allow(unsafe_code)]
    #[inline]
    fn check(&self, header: &Header) -> Result<(), Error> {
        let Some(pages) = self.pages() else { return Ok(()) };
        if pages.is_poisoned() {
            return Err(Error::Poisoned);
        }
        let place = Self::place(header, pages)?;
        // SAFETY: the pages are readable: the caller is inside the gate.
        unsafe { header.machinery.canary.check(pages.base(), pages.capacity(), place) }
    }

    /// After a count that was taken back: whoever left meanwhile, and was not the last because of it, has left the
    /// closing of the pages to us, or the end of the secret.
    #[cold]
    fn settle(&self, header: &Header) {
        if self.shut(header).is_err() && header.may_linger() {
            // Nobody comes back to pages that may stay open but whoever sweeps.
            let machinery = &header.machinery;
            machinery.lingering.list(header, linger::RETRY, machinery.settings.janitor);
        }
        if header.gate.is_closed() {
            header.end_left();
        }
    }

    /// Closes the pages if they are open and nobody is inside.
    pub(super) fn shut(&self, header: &Header) -> Result<(), CallError> {
        header.gate.shut_if_idle(|| self.protect_none(header))
    }

    /// To be called by the gate, when nobody is inside.
    #[allow(unsafe_code)]
    #[inline]
    fn protect_none(&self, header: &Header) -> Result<(), CallError> {
        let outcome = match self.pages() {
            // SAFETY: nobody is inside, so nobody has a reference into the pages.
            Some(pages) => unsafe { pages.protect(Access::None) },
            None => Ok(()),
        };
        Self::note_stuck(header, outcome.err());
        outcome
    }

    /// Where pages were to be closed: could they not be?
    #[inline]
    fn note_stuck(header: &Header, refused: Option<CallError>) {
        match refused {
            None => header.stuck.store(false, Ordering::Relaxed),
            Some(_) if header.stuck.swap(true, Ordering::Relaxed) => {}
            Some(_) => events::note(Note::StuckOpen, header.id, events::cause(refused)),
        }
    }

    /// Becomes the writer: the pages are writable, and an image of them is kept.
    #[allow(unsafe_code)]
    pub(super) fn open_mut(&self, header: &Header, wait: Duration) -> Result<(NonNull<u8>, Change), Error> {
        header.check_alive()?;
        header.check_time()?;
        let machinery = &*header.machinery;
        machinery.lingering.poll();
        let thread = registry::thread();
        if machinery.holds(header.id, thread, &[READER, WRITER]) {
            return Err(Error::WouldDeadlock);
        }
        let levels = machinery.page_levels_for(header.policy());
        // Before the gate: whoever waits here holds up nobody.
        let image = machinery.pool.take(header.len, header.align(), levels)?;
        image.assign(header.id, 0, 0, std::ptr::null_mut());
        let give = |image| {
            let _ = machinery.pool.give(image);
        };
        let ticket = match machinery.take_ticket(thread, header.id) {
            Ok(ticket) => ticket,
            Err(error) => {
                give(image);
                return Err(error);
            }
        };
        let deadline = Deadline::after(wait);
        if let Err(refusal) = header.gate.begin_write_paged(deadline) {
            ticket.release();
            give(image);
            return Err(machinery.explain(refusal, header.id, deadline));
        }
        ticket.role.store(WRITER, Ordering::Relaxed);
        let opened = self.pages().ok_or(Error::Closed).and_then(|pages| {
            let place = Self::place(header, pages)?;
            // SAFETY: nobody else is inside the gate; the image has the same capacity.
            unsafe {
                pages.protect(Access::ReadWrite).map_err(Error::System)?;
                bytes::copy(pages.base().add(place.data), image.base().add(place.data), header.len);
                if pages.is_poisoned() || image.is_poisoned() {
                    return Err(Error::Poisoned);
                }
                NonNull::new(pages.base().add(place.data)).ok_or(Error::Closed)
            }
        });
        match opened {
            Ok(data) => {
                self.keep_image(image);
                Ok((data, Change { ticket }))
            }
            Err(error) => {
                // SAFETY: pages of ours, accessible and of this capacity.
                unsafe { bytes::wipe(image.base(), image.capacity()) };
                header.gate.end_write_paged(header.gate.is_open());
                ticket.release();
                self.settle(header);
                give(image);
                Err(error)
            }
        }
    }

    /// Ends a change: keeps it if `keep`, else puts the image back.
    #[allow(unsafe_code)]
    pub(super) fn end_change(&self, header: &Header, change: Change, keep: bool) -> Result<(), Error> {
        if header.check_alive().is_err() {
            return Err(why_gone());
        }
        let (ticket, Some(image)) = (change.ticket, self.take_image()) else { return Err(Error::Closed) };
        let intact = self.check(header);
        // A change of what nobody will find any more is none.
        let ended = match keep {
            true if header.gate.is_revoked() || ticket.is_due() => Err(Error::Revoked),
            true if header.gate.is_closed() => Err(header.why_closed()),
            _ => Ok(()),
        };
        let outcome = intact.and(ended);
        let keep = keep && outcome.is_ok();
        let shut = self.pages().ok_or(Error::Closed).and_then(|pages| {
            let place = Self::place(header, pages)?;
            // SAFETY: nobody else is inside the gate; the pages are writable; the image has the same capacity and is
            // given back below.
            unsafe {
                if !keep {
                    let restore = || {
                        bytes::copy(image.base().add(place.data), pages.base().add(place.data), header.len);
                        // The bytes around may have been damaged: they are made right again, and reported.
                        header.machinery.canary.write(pages.base(), pages.capacity(), place);
                    };
                    restore();
                    if image.is_poisoned() {
                        if !lost::note(pages.base().addr()) {
                            header.gate.close();
                        }
                    } else if pages.is_poisoned() {
                        // Once more, since some may have been lost after it was written; then all is as it was before.
                        pages.forget_lost();
                        restore();
                    }
                }
                bytes::wipe(image.base().add(place.data), header.len);
                pages.protect(Access::None).map_err(Error::StuckOpen)
            }
        });
        if keep {
            self.version.fetch_add(1, Ordering::Relaxed);
        }
        Self::note_stuck(header, shut.err().and_then(|error| error.call()));
        let _ = header.machinery.pool.give(image);
        ticket.release();
        header.gate.end_write_paged(shut.is_err());
        if header.gate.is_closed() {
            header.end_left();
        }
        outcome.and(shut)
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Looks at the pages from inside the gate, so that they do not go away meanwhile.
    fn inspect<T>(&self, header: &Header, look: impl FnOnce(&Pages) -> T) -> Option<T> {
        // A child leaves alone what it inherited.
        header.check_alive().ok()?;
        let seen = header.gate.inspect(|| self.pages().map(look)).flatten();
        self.settle(header);
        seen
    }

    pub(super) fn at_rest(&self, header: &Header) -> Option<(usize, usize)> {
        let place = self.inspect(header, |pages| (pages.base().addr(), Self::place(header, pages)));
        let (base, place) = place?;
        place.ok().map(|place| (base + place.data, header.len))
    }

    /// Are the pages open though nobody is inside, because closing them failed? Others come and go meanwhile, so "open"
    /// and "nobody" alone say nothing.
    pub(super) fn is_stuck(&self, header: &Header) -> bool {
        header.stuck.load(Ordering::Relaxed) && header.gate.views() == 0 && header.gate.is_open()
    }

    pub(super) fn protections(&self, header: &Header) -> Protections {
        let found = self.inspect(header, Pages::protections);
        found.unwrap_or_else(|| header.machinery.enclave.protections_at_creation())
    }

    /// Overwrites the pages and gives them back. The caller has begun the end.
    pub(super) fn end(&self, header: &Header) -> Result<(), Error> {
        self.take(header)?;
        header.machinery.ledger.ended(header.item());
        Ok(())
    }

    /// Overwrites the pages and gives them back, if they are there. Only where nobody is inside or will come.
    #[allow(unsafe_code)]
    pub(super) fn take(&self, header: &Header) -> Result<(), Error> {
        if let Some(image) = self.take_image() {
            // SAFETY: accessible pages of ours; the writer that had them was forgotten.
            unsafe { bytes::wipe(image.base(), image.capacity()) };
            let _ = header.machinery.pool.give(image);
        }
        let Some(at) = NonNull::new(self.pages.load(Ordering::Acquire)) else { return Ok(()) };
        // SAFETY: as the caller vouches; `at` was filled in `make`.
        unsafe {
            let pages = at.as_ref();
            let place = Self::place(header, pages)?;
            pages.protect(Access::ReadWrite).map_err(Error::StuckOpen)?;
            bytes::wipe(pages.base().add(place.canary), pages.capacity() - place.canary);
            self.pages.store(std::ptr::null_mut(), Ordering::Release);
            let _ = header.machinery.pool.give(at.read());
        }
        Ok(())
    }

    /// Where [`Self::take`] has failed: leaves the pages to the pool, which tries again to wipe them. True: the memory that
    /// this lies in is in use by the pool.
    ///
    /// # Safety
    ///
    /// Nobody refers to it any more.
    #[allow(unsafe_code)]
    pub(super) unsafe fn abandon(at: NonNull<Self>, header: &Header) -> bool {
        // SAFETY: filled in `make`, and as the caller vouches; the memory lives as long as the vault.
        unsafe {
            let pages = at.as_ref().pages.swap(std::ptr::null_mut(), Ordering::AcqRel);
            let Some(pages) = NonNull::new(pages).map(|pages| pages.read()) else { return false };
            pages.forget_label();
            header.machinery.pool.lose(pages, at.cast())
        }
    }
}

/// Pages in the making: wiped and given back unless they become a secret.
pub(super) struct Draft<'a> {
    machinery: &'a Machinery,
    pages: Option<Pages>,
}

impl Draft<'_> {
    /// Are the pages not locked, though they should be?
    pub(super) fn is_unlocked(&self) -> bool {
        let lock = self.pages.as_ref().map(|pages| pages.secured().protections.lock);
        lock.is_some_and(|lock| !lock.got && lock.asked != Level::Off)
    }

    /// Closes the pages; the last thing that can fail.
    #[allow(unsafe_code)]
    fn close(&self) -> Result<(), Error> {
        // SAFETY: nobody has a reference into the pages.
        self.pages.as_ref().map_or(Ok(()), |pages| Ok(unsafe { pages.protect(Access::None) }?))
    }
}

impl Drop for Draft<'_> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        let Some(pages) = self.pages.take() else { return };
        // SAFETY: ours alone, and accessible as long as they have not become a secret.
        unsafe { bytes::wipe(pages.base(), pages.capacity()) };
        let _ = self.machinery.pool.give(pages);
    }
}

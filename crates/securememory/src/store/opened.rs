//! Secrets in use: the plaintext behind a view, and what must be done when the view ends.

use std::ops::Range;
use std::ptr::NonNull;
use std::time::Duration;

use crate::counters::{self, Count};
use crate::error::Error;
use crate::locks;
use crate::region::lease::Lease;
use crate::region::scrub;
use crate::registry::Slot;
use crate::registry::dying::why_gone;
use crate::store::header::{Body, Header};
use crate::store::ledger::Kind;
use crate::store::object::Object;
use crate::store::paged::Change;
use crate::store::spec::Position;

enum Place {
    Scratch(Lease),
    Pages(&'static Slot),
}

/// Readable bytes of a secret; borrows it, and stays on its thread.
pub(crate) struct Opened<'a> {
    header: &'a Header,
    data: NonNull<u8>,
    /// `None` when it has ended.
    place: Option<Place>,
}

#[inline]
fn count_view(header: &Header) {
    counters::add(if matches!(header.kind(), Kind::Sealed) { Count::SealedViews } else { Count::PagedViews });
}

impl Object {
    /// Opens a view.
    #[inline]
    pub(crate) fn open(&self) -> Result<Opened<'_>, Error> {
        let header = self.header();
        let (data, place) = match header.body() {
            Body::Sealed(sealed) => {
                let lease = sealed.open(header)?;
                (lease.data_start(), Place::Scratch(lease))
            }
            Body::Paged(paged) => {
                let (data, ticket) = paged.open(header)?;
                (data, Place::Pages(ticket))
            }
        };
        count_view(header);
        Ok(Opened { header, data, place: Some(place) })
    }

    /// Opens a copy that may be changed, or the pages themselves, waiting as long as `wait` for whoever is in the way.
    pub(crate) fn open_mut(&self, wait: Duration) -> Result<OpenedMut<'_>, Error> {
        let header = self.header();
        // A vault that is closed gets round to each secret in time. Who asks need not wait for that, nor for who holds one;
        // and does it himself, so that whoever is told that it is closed does not find it open afterwards.
        let closes = || {
            let closed = header.machinery.is_closed();
            if closed {
                header.gate.close();
            }
            closed
        };
        closes();
        let late = |error| match error {
            Error::Timeout { .. } | Error::Busy(_) | Error::LockTimeout(_) if closes() => Error::Closed,
            other => other,
        };
        let (data, edit) = match header.body() {
            Body::Sealed(sealed) => {
                let lease = sealed.open_mut(header, wait).map_err(late)?;
                (lease.data_start(), Edit::Copy(lease))
            }
            Body::Paged(paged) => {
                let (data, change) = paged.open_mut(header, wait).map_err(late)?;
                (data, Edit::InPlace(change))
            }
        };
        count_view(header);
        Ok(OpenedMut { header, data, edit: Some(edit) })
    }

    /// Opens a view that owns its copy and its reference to the secret.
    pub(crate) fn open_owned(&self) -> Result<Owned, Error> {
        let header = self.header();
        let lease = match header.body() {
            Body::Sealed(sealed) => sealed.open(header).inspect(|_| count_view(header))?,
            // Which opens a view by itself.
            Body::Paged(_) => self.copy_pages()?,
        };
        self.own(lease)
    }

    /// As [`Self::open_owned`], of what must have been sealed as the chunk at this place, in a stream of this vault.
    pub(crate) fn open_owned_at(&self, vault: u64, position: Position) -> Result<Owned, Error> {
        let header = self.header();
        match header.body() {
            Body::Sealed(sealed) => self.own(sealed.open_as(header, Some((vault, position)))?),
            Body::Paged(_) => Err(Error::Tampered),
        }
    }

    fn own(&self, lease: Lease) -> Result<Owned, Error> {
        let header = self.header();
        let object = match self.try_clone() {
            Ok(object) => object,
            Err(error) => {
                lease.release();
                return Err(error);
            }
        };
        // In this order: a close that revokes says so at the gate first and looks for owned views afterwards. Either it
        // finds this one, or we see that it has been there.
        lease.own();
        let opened = Owned { object, lease: Some(lease), range: 0..header.len };
        if header.gate.is_revoked() { Err(Error::Closed) } else { Ok(opened) }
    }

    /// A copy of a paged secret in scratch.
    fn copy_pages(&self) -> Result<Lease, Error> {
        let header = self.header();
        let machinery = &*header.machinery;
        let view = self.open()?;
        let thread = crate::registry::thread();
        let wait = header.policy().wait;
        let lock = header.requires_lock();
        let mut lease = machinery.scratch.take(thread, header.id, header.len, header.align(), lock, wait)?;
        lease.close_window();
        lease.write_canary(&machinery.canary);
        lease.fill(view.bytes());
        match view.finish() {
            Ok(()) => Ok(lease),
            Err(error) => {
                lease.release();
                Err(error)
            }
        }
    }
}

impl<'a> Opened<'a> {
    /// Of a sealed secret that has been opened into this lease.
    pub(super) fn in_scratch(header: &'a Header, lease: Lease) -> Self {
        count_view(header);
        Self { header, data: lease.data_start(), place: Some(Place::Scratch(lease)) }
    }
}

impl Opened<'_> {
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the view keeps them readable and unchanged until it ends, which takes the view itself.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.header.len) }
    }

    /// Ends the view and says what went wrong while it was open.
    #[inline]
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        self.end()
    }

    /// As [`Self::finish`], without moving the view; a second call has nothing left to do.
    #[inline]
    pub(crate) fn end(&mut self) -> Result<(), Error> {
        let outcome = match self.place.take() {
            None => return Ok(()),
            Some(Place::Scratch(lease)) => end_lease(self.header, lease),
            Some(Place::Pages(ticket)) => match self.header.body() {
                Body::Paged(paged) => paged.release(self.header, ticket),
                Body::Sealed(_) => Ok(()),
            },
        };
        // What the user's code has left of the bytes.
        scrub::after_view();
        outcome
    }
}

impl Drop for Opened<'_> {
    #[inline]
    fn drop(&mut self) {
        // Looked at here, too: as a rule it has ended, and whoever ends it is too long to be inlined.
        if self.place.is_some() {
            let _ = self.end();
        }
    }
}

/// Checks and wipes the copy, and gives the slot back.
#[inline]
fn end_lease(header: &Header, lease: Lease) -> Result<(), Error> {
    if header.check_alive().is_err() {
        lease.forsake();
        return Err(why_gone());
    }
    let intact = header.machinery.check_canary(&lease);
    let revoked = if header.is_revoked(&lease) { Err(Error::Revoked) } else { Ok(()) };
    lease.release();
    if header.gate.notify() {
        header.end_left();
    }
    intact.and(revoked)
}

enum Edit {
    Copy(Lease),
    InPlace(Change),
}

/// Changeable bytes of a secret.
pub(crate) struct OpenedMut<'a> {
    header: &'a Header,
    data: NonNull<u8>,
    /// `None` when it has ended.
    edit: Option<Edit>,
}

impl OpenedMut<'_> {
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: only this writer uses the copy, or the pages, until it ends.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.header.len) }
    }

    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.header.len) }
    }

    /// Makes the change valid; on an error the old value is.
    pub(crate) fn commit(mut self) -> Result<(), Error> {
        self.end(true).inspect(|()| counters::add(Count::Commits))
    }

    fn end(&mut self, keep: bool) -> Result<(), Error> {
        let header = self.header;
        let outcome = match (self.edit.take(), header.body()) {
            (Some(Edit::Copy(mut lease)), Body::Sealed(sealed)) => {
                if header.check_alive().is_err() {
                    lease.forsake();
                    return Err(why_gone());
                }
                let committed = if keep {
                    header.machinery.check_canary(&lease).and_then(|()| sealed.commit(header, &mut lease))
                } else {
                    Ok(0)
                };
                lease.release();
                sealed.end_write(header);
                committed.map(|seals| header.machinery.after_seal(seals))
            }
            (Some(Edit::InPlace(change)), Body::Paged(paged)) => paged.end_change(header, change, keep),
            _ => return Ok(()),
        };
        scrub::after_view();
        outcome
    }
}

impl Drop for OpenedMut<'_> {
    fn drop(&mut self) {
        let _ = self.end(false);
    }
}

/// A copy of a secret that may go to other threads and outlive the secret's handle.
pub(crate) struct Owned {
    object: Object,
    /// `None` only while it is dropped.
    lease: Option<Lease>,
    /// The bytes that this handle shows.
    range: Range<usize>,
}

// SAFETY: the slot belongs to this view wherever it is; uses are counted in the slot's atomic state, reading in
// parallel is sound, and wiping happens only when the count is zero.
#[allow(unsafe_code)]
unsafe impl Send for Owned {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Owned {}

/// A use of an owned view's bytes; ends also when the user's code panics.
struct Use<'a>(&'a Lease);

impl Drop for Use<'_> {
    fn drop(&mut self) {
        self.0.end_use();
        scrub::after_view();
    }
}

impl Owned {
    pub(crate) fn object(&self) -> &Object {
        &self.object
    }

    pub(crate) fn len(&self) -> usize {
        self.range.len()
    }

    /// Another handle of the same copy, that shows a part of what this one shows.
    pub(crate) fn part(&self, part: Range<usize>) -> Result<Self, Error> {
        let header = self.object.header();
        header.check_alive()?;
        if part.start > part.end || part.end > self.len() {
            return Err(Error::OutOfRange { start: part.start, end: part.end, len: self.len() });
        }
        let lease = self.lease.as_ref().ok_or(Error::Closed)?;
        if lease.is_revoked() {
            return Err(Error::Revoked);
        }
        let object = self.object.try_clone()?;
        let range = self.range.start + part.start..self.range.start + part.end;
        Ok(Self { object, lease: Some(lease.share()), range })
    }

    /// Lends the bytes; the second result says what went wrong meanwhile.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&[u8]) -> R) -> Result<(R, Result<(), Error>), Error> {
        let header = self.object.header();
        header.check_alive()?;
        let lease = self.lease.as_ref().ok_or(Error::Closed)?;
        lease.begin_use()?;
        let used = Use(lease);
        locks::user_code();
        // Inside the bounds that `part` has checked.
        let result = f(lease.bytes().get(self.range.clone()).unwrap_or_default());
        let outcome =
            if lease.is_revoked() { Err(Error::Revoked) } else { header.machinery.check_canary(lease) };
        drop(used);
        Ok((result, outcome))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            let header = self.object.header();
            if header.check_alive().is_err() {
                lease.forsake();
                return;
            }
            if !lease.unshare() {
                return;
            }
            // What went wrong was reported by `with`; nobody is left to tell here.
            if lease.disown() {
                lease.release();
            }
            if header.gate.notify() {
                header.end_left();
            }
            scrub::after_view();
        }
    }
}

//! Views: the only way to see a secret.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Bound, Deref, DerefMut, RangeBounds};
use std::panic::{RefUnwindSafe, UnwindSafe};

use crate::error::{Result, WithError};
use crate::events;
use crate::store::{Opened, OpenedMut, Owned};

/// Not to be sent to, or shared with, other threads: its end must run on the thread of its beginning.
type OneThread = PhantomData<*const ()>;

/// The bytes of a secret, readable while it lives.
///
/// For a sealed secret a private copy between guard pages, for a paged one the pages themselves.
///
/// One that is kept in a thread-local ends with its thread. One that is leaked (`std::mem::forget`) does not: its bytes stay
/// readable, since a reference to them may have gone to another thread. It stays in [the list](crate::Vault::diagnostics)
/// under the thread that opened it, also when that has ended; a close of its secret tells of it and leaves the rest to it, for
/// ever. Its place is wiped when the vault ends.
#[must_use = "a view that is dropped at once shows nothing"]
pub struct View<'a>(Opened<'a>, OneThread);

impl<'a> View<'a> {
    #[inline]
    pub(super) fn new(opened: Opened<'a>) -> Self {
        Self(opened, PhantomData)
    }

    /// Ends the view and says what went wrong while it was open; a drop does not.
    ///
    /// # Errors
    ///
    /// [`Error::Overrun`](crate::Error::Overrun) where bytes around the secret were written,
    /// [`Error::Revoked`](crate::Error::Revoked) where a close did not wait for it,
    /// [`Error::StuckOpen`](crate::Error::StuckOpen), [`Error::Forked`](crate::Error::Forked).
    #[inline]
    pub fn finish(self) -> Result<()> {
        self.0.finish()
    }
}

impl Deref for View<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// The bytes of a secret, to be changed. The change is valid after [`ViewMut::commit`]; without it, also
/// when a panic unwinds, the secret is as it was.
#[must_use = "a change that is not committed is dropped"]
pub struct ViewMut<'a>(OpenedMut<'a>, OneThread);

impl<'a> ViewMut<'a> {
    pub(super) fn new(opened: OpenedMut<'a>) -> Self {
        Self(opened, PhantomData)
    }

    /// Makes the change valid.
    ///
    /// # Errors
    ///
    /// [`Error::Overrun`](crate::Error::Overrun), [`Error::Closed`](crate::Error::Closed) and
    /// [`Error::Revoked`](crate::Error::Revoked) where a close (or, of a paged secret, a purge of the vault) did not wait
    /// for it, [`Error::Purged`](crate::Error::Purged) where the vault was purged since the copy was opened, and
    /// whatever hinders the sealing. The old value stays valid then, but for
    /// [`Error::StuckOpen`](crate::Error::StuckOpen), which says that the change is valid and the pages are
    /// open.
    pub fn commit(self) -> Result<()> {
        events::ended(self.0.commit())
    }
}

impl Deref for ViewMut<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl DerefMut for ViewMut<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }
}

impl fmt::Debug for ViewMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ViewMut").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// A view that owns its copy: it can be kept, shared and sent to other threads. Its bytes are seen only inside
/// [`OwnedView::with`], so that a close can revoke it.
#[must_use = "an owned view that is dropped at once shows nothing"]
pub struct OwnedView(Owned);

impl OwnedView {
    pub(super) fn new(owned: Owned) -> Self {
        Self(owned)
    }

    /// Lends the bytes to a closure.
    ///
    /// # Errors
    ///
    /// [`WithError::NotRun`] with [`Error::Revoked`](crate::Error::Revoked) or
    /// [`Error::Forked`](crate::Error::Forked); [`WithError::Ran`] where it was revoked meanwhile, or bytes
    /// around the secret were written.
    pub fn with<R>(&self, f: impl FnOnce(&[u8]) -> R) -> Result<R, WithError<R>> {
        match self.0.with(f) {
            Ok((result, Ok(()))) => Ok(result),
            Ok((result, Err(error))) => Err(WithError::Ran { result, error }),
            Err(error) => Err(WithError::NotRun(error)),
        }
    }

    /// A view of a part of the same copy: it can be kept, shared and sent by itself, and keeps the copy alive. No bytes
    /// are copied. A close counts the copy as one view, whatever the number of its parts, and revokes all of them.
    ///
    /// ```
    /// use securememory::{Error, Secret};
    /// let pair = Secret::from_bytes(&mut *b"key:0123/mac:4567".to_vec())?.owned_view()?;
    /// let (key, mac) = (pair.part(4..8)?, pair.part(13..)?);
    /// drop(pair);
    /// let worker = std::thread::spawn(move || mac.with(|bytes| bytes == b"4567"));
    /// assert!(key.with(|bytes| bytes == b"0123")? && worker.join().unwrap()?);
    /// assert!(matches!(key.part(2..5), Err(Error::OutOfRange { .. })));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`](crate::Error::OutOfRange), [`Error::Revoked`](crate::Error::Revoked),
    /// [`Error::Forked`](crate::Error::Forked), and [`Error::TooManyViews`](crate::Error::TooManyViews) at a billion.
    pub fn part(&self, range: impl RangeBounds<usize>) -> Result<Self> {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.saturating_add(1),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.len(),
        };
        self.0.part(start..end).map(Self)
    }

    /// How many bytes it shows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Does it show none? Only a part can.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The id of the secret it shows.
    #[must_use]
    pub fn secret_id(&self) -> u64 {
        self.0.object().id()
    }
}

// As for `Secret`.
impl UnwindSafe for OwnedView {}
impl RefUnwindSafe for OwnedView {}

impl fmt::Debug for OwnedView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedView").field("secret", &self.secret_id()).finish_non_exhaustive()
    }
}

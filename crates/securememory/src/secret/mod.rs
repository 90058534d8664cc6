//! Secrets: made, read, changed, compared, closed.

mod batch;
mod builder;
mod view;

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::counters::{self, Count};
use crate::error::{Error, FromOwnedError, Outstanding, Result, TryError, WithError};
use crate::events;
use crate::locks;
use crate::policy::OnClose;
use crate::region::bytes;
use crate::status::Status;
use crate::store::Object;
use crate::vault::Vault;
pub use batch::ManyError;
pub use builder::SecretBuilder;
pub use view::{OwnedView, View, ViewMut};

/// Bytes under protection, with one owner and a length fixed at creation.
///
/// ```
/// use securememory::Secret;
/// let mut typed = *b"correct horse battery staple";
/// let password = Secret::from_bytes(&mut typed)?;
/// assert_eq!(typed, [0; 28], "the source has been wiped");
/// let length = password.with(|bytes| bytes.len())?;
/// assert_eq!(length, 28);
/// # Ok::<(), securememory::Error>(())
/// ```
///
/// Dropping a secret closes it as [`OnClose::Defer`] does, without waiting. It may be dropped by any thread, also by
/// destructors of thread-locals and while the process exits.
///
/// # In statics
///
/// A static is never dropped. So a secret in one is there to the end of the process and is not wiped by it: the kernel
/// clears its memory before others get it, but a core dump or a debugger that comes at the end may find a paged one, or the
/// key of a sealed one. A program that minds has two ways. With [`fault::install`](crate::fault::install) secrets are wiped
/// when the process exits, or dies by a fault; by a signal such as SIGTERM, with a
/// [`Coordinator`](crate::signal::Coordinator) and [`Options::ends`](crate::signal::Options::ends). Or it
/// [closes](Secret::close) the secret itself, which takes a shared reference only:
///
/// ```
/// use securememory::Secret;
/// use std::sync::OnceLock;
///
/// static TOKEN: OnceLock<Secret> = OnceLock::new();
///
/// fn main() -> Result<(), securememory::Error> {
///     let token = TOKEN.get_or_init(|| Secret::from_bytes(&mut *b"token".to_vec()).expect("protected memory"));
///     token.with(|bytes| assert_eq!(bytes, b"token"))?;
///     // Before the end, by whoever knows that it is the end.
///     token.close()?;
///     Ok(())
/// }
/// ```
///
/// Neither helps where the process ends by `_exit(2)` or SIGKILL. A view that is kept in a static holds up a close like any
/// other.
#[must_use = "a secret that is dropped is wiped"]
pub struct Secret(Object);

/// What a close has achieved.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Everything is wiped.
    Closed,
    /// Nobody can open it any more; the last of these views wipes what is left.
    Deferred {
        /// The views that were open when the deadline passed.
        views: Outstanding,
    },
    /// As `Deferred`, and the views are revoked: see [`OnClose::Revoke`].
    Revoked {
        /// The views that were open when the deadline passed.
        views: Outstanding,
    },
}

impl Secret {
    /// Begins a secret in the default vault, with label, alignment, store or policy of its own.
    pub fn builder() -> SecretBuilder {
        SecretBuilder::in_default_vault()
    }

    /// Takes the bytes into protected memory and wipes the source.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`], [`Error::Refused`] where a required protection cannot be had, [`Error::OverBudget`] at the vault's own
    /// limit, and whatever the system refuses. The source is untouched then.
    pub fn from_bytes(source: &mut [u8]) -> Result<Self> {
        Self::builder().from_bytes(source)
    }

    /// Takes the vector's bytes and wipes it, with the spare capacity.
    ///
    /// # Errors
    ///
    /// As [`Secret::from_bytes`]; the vector comes back untouched.
    pub fn from_vec(source: Vec<u8>) -> Result<Self, FromOwnedError<Vec<u8>>> {
        Self::builder().from_vec(source)
    }

    /// Takes the string's bytes and wipes it, with the spare capacity.
    ///
    /// # Errors
    ///
    /// As [`Secret::from_bytes`]; the string comes back untouched.
    pub fn from_string(source: String) -> Result<Self, FromOwnedError<String>> {
        Self::builder().from_string(source)
    }

    /// Fresh random bytes from the kernel (getrandom(2)).
    ///
    /// # Errors
    ///
    /// As [`Secret::from_bytes`].
    pub fn random(len: usize) -> Result<Self> {
        Self::builder().random(len)
    }

    /// Lets the closure write the secret in place, into zeroed protected memory.
    ///
    /// # Errors
    ///
    /// As [`Secret::from_bytes`], and [`Error::Overrun`] where the closure wrote outside of it.
    pub fn init_with(len: usize, write: impl FnOnce(&mut [u8])) -> Result<Self> {
        Self::builder().init_with(len, write)
    }

    /// As [`Secret::init_with`], with a closure that may fail.
    ///
    /// # Errors
    ///
    /// [`TryError::Closure`] with the closure's error; what it has written is wiped.
    pub fn try_init_with<E>(
        len: usize,
        write: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, TryError<E>> {
        Self::builder().try_init_with(len, write)
    }

    /// Reads exactly `len` bytes, straight into protected memory.
    ///
    /// # Errors
    ///
    /// As [`Secret::from_bytes`], [`Error::EndedEarly`] and [`Error::Reader`]; what was read is wiped.
    pub fn read_from(reader: &mut (impl std::io::Read + ?Sized), len: usize) -> Result<Self> {
        Self::builder().read_from(reader, len)
    }

    /// Makes a secret of `len` bytes from this one, in the same vault; both are in protected memory meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Secret::view`] and [`Secret::init_with`].
    pub fn derive(&self, len: usize, derive: impl FnOnce(&[u8], &mut [u8])) -> Result<Self> {
        let made = self.try_derive(len, |input, output| {
            derive(input, output);
            Ok::<(), std::convert::Infallible>(())
        });
        made.map_err(TryError::into_error)
    }

    /// As [`Secret::derive`], with a closure that may fail.
    ///
    /// # Errors
    ///
    /// [`TryError::Closure`] with the closure's error; what it has written is wiped.
    pub fn try_derive<E>(
        &self,
        len: usize,
        derive: impl FnOnce(&[u8], &mut [u8]) -> Result<(), E>,
    ) -> Result<Self, TryError<E>> {
        let view = self.view()?;
        let made =
            SecretBuilder::in_vault(self.0.machinery()).try_init_with(len, |output| derive(&view, output))?;
        view.finish()?;
        Ok(made)
    }

    /// Opens a view: the bytes, readable until it is dropped.
    ///
    /// Nothing is allocated and nothing waits, but for a fork under way or, of a paged secret, a writer.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::Forked`], [`Error::Tampered`], [`Error::KeyLost`],
    /// [`Error::ScratchExhausted`], [`Error::TooManyViews`]; of a paged secret that is being written,
    /// [`Error::Timeout`] after the policy's wait, or [`Error::Busy`].
    #[inline]
    pub fn view(&self) -> Result<View<'_>> {
        self.0.open().map(View::new).inspect_err(counters::refused)
    }

    /// Opens a view that can be sent to other threads and outlives the borrow: a copy in protected memory.
    ///
    /// # Errors
    ///
    /// As [`Secret::view`].
    pub fn owned_view(&self) -> Result<OwnedView> {
        self.0.open_owned().map(OwnedView::new).inspect_err(counters::refused)
    }

    /// Opens a view whose changes become valid with [`ViewMut::commit`], and are dropped without it. There is
    /// one at a time. Readers of a sealed secret see the old value meanwhile; those of a paged one wait.
    ///
    /// # Errors
    ///
    /// As [`Secret::view`], [`Error::Timeout`] or [`Error::Busy`] while another writes, and
    /// [`Error::WouldDeadlock`] inside a view of the same thread that would have to end first.
    pub fn view_mut(&self) -> Result<ViewMut<'_>> {
        self.try_view_mut_for(self.0.policy().wait)
    }

    /// As [`Secret::view_mut`], with a wait of its own instead of the policy's. Zero: do not wait.
    ///
    /// It bounds the wait for other writers and, of a paged secret, for readers.
    ///
    /// # Errors
    ///
    /// As [`Secret::view_mut`]: [`Error::Busy`] where the wait is zero, [`Error::Timeout`] where it is over; both name
    /// the threads that are in the way.
    pub fn try_view_mut_for(&self, wait: Duration) -> Result<ViewMut<'_>> {
        self.0.open_mut(wait).map(ViewMut::new).inspect_err(counters::refused)
    }

    /// Lends the bytes to a closure.
    ///
    /// # Errors
    ///
    /// [`WithError::NotRun`] as [`Secret::view`]; [`WithError::Ran`] where the closure has run, but something
    /// went wrong meanwhile: [`Error::Overrun`], [`Error::Revoked`], [`Error::StuckOpen`].
    #[inline]
    pub fn with<R>(&self, f: impl FnOnce(&[u8]) -> R) -> Result<R, WithError<R>> {
        let mut opened = match self.0.open() {
            Ok(opened) => opened,
            Err(error) => {
                counters::refused(&error);
                return Err(WithError::NotRun(error));
            }
        };
        locks::user_code();
        let result = f(opened.bytes());
        finished(result, opened.end())
    }

    /// Replaces the value by one of the same length, and wipes the source.
    ///
    /// # Errors
    ///
    /// [`Error::LengthMismatch`], and as [`Secret::view_mut`]: the source is untouched, the old value valid.
    /// [`Error::StuckOpen`]: the new value is valid and the source wiped, but the pages of a paged secret stay open
    /// until the next operation.
    pub fn replace(&self, source: &mut [u8]) -> Result<()> {
        if source.len() != self.len() {
            return Err(Error::LengthMismatch { expected: self.len(), got: source.len() });
        }
        let mut view = self.0.open_mut(self.0.policy().wait).inspect_err(counters::refused)?;
        bytes::copy_slice(view.bytes_mut(), source);
        let committed = events::ended(view.commit());
        // Also where only the pages could not be closed again: the new value is valid then.
        if matches!(committed, Ok(()) | Err(Error::StuckOpen(_))) {
            source.zeroize();
        }
        committed
    }

    /// Are both secrets equal? The time depends on the lengths only (crate `subtle`).
    ///
    /// # Errors
    ///
    /// As [`Secret::with`].
    pub fn ct_eq(&self, other: &Self) -> Result<bool> {
        Ok(with2(self, other, |a, b| bool::from(a.ct_eq(b)))?)
    }

    /// As [`Secret::ct_eq`], with bytes that are not under protection.
    ///
    /// # Errors
    ///
    /// As [`Secret::with`].
    pub fn ct_eq_bytes(&self, other: &[u8]) -> Result<bool> {
        Ok(self.with(|bytes| bool::from(bytes.ct_eq(other)))?)
    }

    /// Closes: no view is opened any more; waits for those that are open as long as the policy's
    /// `close_wait` says, then does with them what its `on_close` says. A second close waits for the first.
    ///
    /// # Errors
    ///
    /// [`Error::WouldDeadlock`] inside a view of the same thread: nothing is changed then.
    /// [`Error::StuckOpen`] where the pages of a paged secret cannot be opened to be wiped: it is closed, and the
    /// next call tries again. [`Error::Forked`] in a child.
    pub fn close(&self) -> Result<Closed> {
        let wait = self.0.policy().close_wait;
        self.close_timeout(wait)
    }

    /// As [`Secret::close`], with a wait of its own.
    ///
    /// # Errors
    ///
    /// As [`Secret::close`].
    pub fn close_timeout(&self, wait: Duration) -> Result<Closed> {
        let mode = self.0.policy().on_close;
        let outstanding = events::ended(self.0.close(wait, mode))?;
        let (secret, vault, label) = (self.id(), self.0.machinery().id, self.label());
        locks::user_code();
        Ok(match (outstanding, mode) {
            (None, _) => {
                counters::add(Count::Closed);
                Closed::Closed
            }
            (Some(views), OnClose::Defer) => {
                counters::add(Count::Deferred);
                tracing::info!(secret, vault, ?label, %views, "a secret was closed under open views, which keep it");
                Closed::Deferred { views }
            }
            (Some(views), OnClose::Revoke) => {
                counters::add(Count::Revoked);
                tracing::warn!(secret, vault, ?label, %views, "a secret was closed, and open views of it revoked");
                Closed::Revoked { views }
            }
        })
    }

    /// What is true of the secret now. Reads the kernel's listing of mappings: a diagnosis, not for every read.
    #[must_use]
    pub fn status(&self) -> Status {
        self.0.status()
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never: a secret has at least one byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Its id, unique in its vault.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id()
    }

    /// Its label, which is no secret.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.0.label()
    }

    /// The vault it belongs to.
    #[must_use]
    pub fn vault(&self) -> Vault {
        Vault::of(self.0.machinery())
    }

    #[cfg(feature = "testing")]
    pub(crate) fn object(&self) -> &Object {
        &self.0
    }

    pub(crate) fn from_object(object: Object) -> Self {
        Self(object)
    }
}

/// Lends the bytes of two secrets to a closure. They may be the same secret.
///
/// # Errors
///
/// As [`Secret::with`].
pub fn with2<R>(a: &Secret, b: &Secret, f: impl FnOnce(&[u8], &[u8]) -> R) -> Result<R, WithError<R>> {
    let first = a.view().map_err(WithError::NotRun)?;
    let second = b.view().map_err(WithError::NotRun)?;
    locks::user_code();
    let result = f(&first, &second);
    let ended = second.finish();
    finished(result, first.finish().and(ended))
}

#[inline]
fn finished<R>(result: R, ended: Result<()>) -> Result<R, WithError<R>> {
    match ended {
        Ok(()) => Ok(result),
        Err(error) => Err(WithError::Ran { result, error }),
    }
}

// A panic in a closure of the user's ends its view like any other end; nothing of ours is left half-done.
impl UnwindSafe for Secret {}
impl RefUnwindSafe for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("id", &self.id()).field("label", &self.label()).finish_non_exhaustive()
    }
}

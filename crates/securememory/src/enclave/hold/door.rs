//! What keeps a page with a key closed at rest: a protection key, which opens it for one thread without a system
//! call, or page protection, which opens it for all.

use std::ptr::NonNull;
use std::time::Duration;

use crate::error::{Error, Outstanding};
use crate::gate::{Deadline, Gate, Refusal};
use crate::os::{Access, CallError, ProtectionKey, Veil};

/// Nobody keeps the page open for longer than a copy of the key, or the work of the cipher.
const PATIENCE: Duration = Duration::from_secs(1);

/// One page, and who may open it.
pub(crate) struct Door {
    at: NonNull<u8>,
    len: usize,
    lock: Lock,
    veil: Veil,
    /// Are the pages to be locked?
    locked: bool,
}

enum Lock {
    Key(ProtectionKey),
    Gate(Gate),
}

// SAFETY: an address range; its bytes are written only while the door is made and destroyed, by one thread.
#[allow(unsafe_code)]
unsafe impl Send for Door {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Door {}

impl Door {
    /// A door for pages that are open now, to be shut by [`Self::shut`].
    ///
    /// # Safety
    ///
    /// Whole pages that live as long as the door and that nobody else uses.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn paged(at: NonNull<u8>, len: usize, locked: bool) -> Self {
        Self { at, len, lock: Lock::Gate(Gate::new()), veil: Veil::new(), locked }
    }

    /// A door that only a thread with the rights of the key can open, shut from now on.
    ///
    /// # Safety
    ///
    /// As for [`Self::paged`].
    #[allow(unsafe_code)]
    pub(crate) unsafe fn keyed(at: NonNull<u8>, len: usize, key: ProtectionKey) -> Result<Self, CallError> {
        // SAFETY: as the caller vouches.
        unsafe { key.protect(at, len) }?;
        Ok(Self { at, len, lock: Lock::Key(key), veil: Veil::new(), locked: false })
    }

    /// The first byte behind it.
    #[inline]
    pub(crate) fn at(&self) -> *mut u8 {
        self.at.as_ptr()
    }

    /// Writes to the page before anybody reads it, and shuts the door.
    #[allow(unsafe_code)]
    pub(crate) fn fill<R>(&self, write: impl FnOnce() -> Result<R, CallError>) -> Result<R, CallError> {
        match &self.lock {
            Lock::Key(key) => {
                let _open = key.open_to_write();
                write()
            }
            Lock::Gate(_) => {
                let written = write()?;
                // SAFETY: whole pages of ours, which nobody refers to yet.
                unsafe { self.protect(Access::None) }.map(|()| written)
            }
        }
    }

    /// Reads from the page while it is open. What `read` does may neither panic nor call code of the user's.
    #[inline]
    pub(crate) fn read<R>(&self, read: impl FnOnce() -> R) -> Result<R, Error> {
        match &self.lock {
            Lock::Key(key) => {
                let _open = key.open_to_read();
                Ok(read())
            }
            Lock::Gate(gate) => {
                self.enter(gate)?;
                let _inside = Inside { door: self, gate };
                Ok(read())
            }
        }
    }

    /// The same for who is reading behind another door already. The process has one protection key, so that what is under
    /// it is open to this thread if the other door is under it, and not to be shut before that one.
    #[inline]
    pub(crate) fn read_within<R>(&self, outer: &Self, read: impl FnOnce() -> R) -> Result<R, Error> {
        match (&self.lock, &outer.lock) {
            (Lock::Key(_), Lock::Key(_)) => Ok(read()),
            _ => self.read(read),
        }
    }

    /// # Safety
    ///
    /// Nobody holds a reference that the new access forbids; and one call at a time, as the gate sees to.
    #[inline]
    #[allow(unsafe_code)]
    unsafe fn protect(&self, access: Access) -> Result<(), CallError> {
        // SAFETY: whole pages of ours; the rest as the caller vouches.
        unsafe { self.veil.protect(self.at, self.len, access, || self.locked) }
    }

    #[allow(unsafe_code)]
    fn enter(&self, gate: &Gate) -> Result<(), Error> {
        // SAFETY: whole pages of ours; being readable does not conflict with other readers, and nobody writes but
        // `destroy`.
        let open = || unsafe { self.protect(Access::Read) };
        gate.enter_paged(|| false, || Deadline::after(PATIENCE), open).map_err(|refusal| {
            // Whoever left while we were counted has left the closing to us.
            let _ = gate.shut_if_idle(|| self.shut());
            match refusal {
                Refusal::Call(cause) => Error::System(cause),
                Refusal::Late => Error::Timeout { waited: PATIENCE, holders: Outstanding::default() },
                Refusal::TooMany => Error::TooManyViews { limit: crate::gate::word::MAX_VIEWS },
                Refusal::Closed => Error::KeyLost,
            }
        })
    }

    /// For the gate to call, when nobody is inside.
    #[allow(unsafe_code)]
    fn shut(&self) -> Result<(), CallError> {
        // SAFETY: whole pages of ours, which nobody refers to.
        unsafe { self.protect(Access::None) }
    }

    /// Could the page not be shut by its last reader? Then one more attempt has just failed.
    pub(crate) fn is_stuck(&self) -> bool {
        match &self.lock {
            Lock::Key(_) => false,
            Lock::Gate(gate) => gate.shut_if_idle(|| self.shut()).is_err(),
        }
    }

    /// Has the page been given up? Then what was read may be what wiping left of it.
    #[inline]
    pub(crate) fn is_destroyed(&self) -> bool {
        match &self.lock {
            Lock::Key(_) => false,
            Lock::Gate(gate) => gate.is_closed(),
        }
    }

    /// Turns readers away where that can be, and has `wipe` write, if the page can be opened.
    #[allow(unsafe_code)]
    pub(crate) fn destroy(&self, wipe: impl FnOnce()) {
        match &self.lock {
            Lock::Key(key) => {
                let _open = key.open_to_write();
                wipe();
            }
            Lock::Gate(gate) => {
                gate.close();
                // SAFETY: whole pages of ours; nobody reads any more: the vault is being dropped.
                if unsafe { self.protect(Access::ReadWrite) }.is_ok() {
                    wipe();
                }
            }
        }
    }
}

/// A reader inside the gate.
struct Inside<'a> {
    door: &'a Door,
    gate: &'a Gate,
}

impl Drop for Inside<'_> {
    #[inline]
    fn drop(&mut self) {
        // A failure leaves the page open until the next reader shuts it.
        let _ = self.gate.leave_paged(|| self.door.shut());
    }
}

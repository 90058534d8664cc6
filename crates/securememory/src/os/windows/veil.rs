//! What is done to pages beyond closing them. Windows unlocks a page whose protection becomes "no access"
//! (STATUS_WAS_UNLOCKED), so what is closed could be written to the page file. Therefore it is encrypted before, where it lies,
//! with a key that the kernel keeps for this process (CryptProtectMemory), and locked again before it is decrypted.
//!
//! That is tried once: a call that succeeds may have done nothing, as on imitations of Windows.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::super::{Access, Call, CallError, CallResult, errno, injected, lock, protect};
use super::succeeded;
use windows_sys::Win32::Security::Cryptography::{
    CRYPTPROTECTMEMORY_SAME_PROCESS, CryptProtectMemory, CryptUnprotectMemory,
};

/// Pages are a multiple of what is encrypted at once.
const BLOCK: usize = 16;

/// Of some pages: whether they are encrypted now. Changed by whoever opens the first and closes the last view, one at a time.
#[derive(Debug)]
pub(crate) struct Veil(AtomicBool);

impl Veil {
    pub(crate) const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Opens or closes pages, and decrypts or encrypts what lies in them. `locked`: they are to be locked while they are open.
    ///
    /// Whatever is refused leaves them as they were, or closed.
    ///
    /// # Safety
    ///
    /// As for [`protect`]; and one call at a time changes whether they are closed.
    pub(crate) unsafe fn protect(
        &self,
        ptr: NonNull<u8>,
        len: usize,
        access: Access,
        locked: impl FnOnce() -> bool,
    ) -> CallResult<()> {
        // SAFETY: for all calls here: as the caller vouches.
        unsafe {
            if access == Access::None {
                if !self.0.load(Ordering::Acquire) && works().is_ok() {
                    protect(ptr, len, Access::ReadWrite)?;
                    conceal(ptr.as_ptr(), len)?;
                    self.0.store(true, Ordering::Release);
                }
                return protect(ptr, len, Access::None);
            }
            if self.0.load(Ordering::Acquire) {
                protect(ptr, len, Access::ReadWrite)?;
                let open = || {
                    if locked() {
                        lock(ptr, len)?;
                    }
                    reveal(ptr.as_ptr(), len)
                };
                if let Err(refused) = open() {
                    // Encrypted, as it was.
                    let _ = protect(ptr, len, Access::None);
                    return Err(refused);
                }
                self.0.store(false, Ordering::Release);
                if access == Access::ReadWrite {
                    return Ok(());
                }
            }
            protect(ptr, len, access)
        }
    }
}

/// CryptProtectMemory
unsafe fn conceal(at: *mut u8, len: usize) -> CallResult<()> {
    injected(Call::ProtectMemory)?;
    debug_assert!(len.is_multiple_of(BLOCK));
    let bytes = u32::try_from(len).map_err(|_| CallError::new(Call::ProtectMemory, errno::EINVAL))?;
    // SAFETY: so many writable bytes of the caller's.
    let done = unsafe { CryptProtectMemory(at.cast::<c_void>(), bytes, CRYPTPROTECTMEMORY_SAME_PROCESS) };
    succeeded(Call::ProtectMemory, done)
}

/// CryptUnprotectMemory
unsafe fn reveal(at: *mut u8, len: usize) -> CallResult<()> {
    injected(Call::UnprotectMemory)?;
    let bytes = u32::try_from(len).map_err(|_| CallError::new(Call::UnprotectMemory, errno::EINVAL))?;
    // SAFETY: so many writable bytes of the caller's.
    let done = unsafe { CryptUnprotectMemory(at.cast::<c_void>(), bytes, CRYPTPROTECTMEMORY_SAME_PROCESS) };
    succeeded(Call::UnprotectMemory, done)
}

/// Zero: not tried yet; 1: it works; else why not, as [`CallError::to_word`] gives it.
static WORKS: AtomicU64 = AtomicU64::new(0);

/// Does encryption have an effect, and decryption undo it? Tried by the first who asks; a refusal by the fault injector
/// concerns that one alone.
fn works() -> CallResult<()> {
    match WORKS.load(Ordering::Acquire) {
        1 => Ok(()),
        0 => {
            injected(Call::ProtectMemory)?;
            let tried = try_out();
            WORKS.store(tried.err().map_or(1, CallError::to_word), Ordering::Release);
            tried
        }
        refused => CallError::from_word(refused).map_or(Ok(()), Err),
    }
}

fn try_out() -> CallResult<()> {
    const SAMPLE: [u8; 2 * BLOCK] = *b"no secret, but bytes to be tried";
    let mut sample = SAMPLE;
    // SAFETY: all of an array of this frame.
    unsafe {
        conceal(sample.as_mut_ptr(), sample.len())?;
        let changed = sample != SAMPLE;
        reveal(sample.as_mut_ptr(), sample.len())?;
        if changed && sample == SAMPLE {
            Ok(())
        } else {
            Err(CallError::new(Call::ProtectMemory, errno::ENOTSUP))
        }
    }
}

/// Are closed pages encrypted on this system, if it can do so?
pub(crate) const IS_HERE: bool = true;

/// Why pages that are locked are not kept from the page file while they are closed; `None`: they are encrypted then.
pub(crate) fn unlocked_at_rest() -> Option<CallError> {
    works().err()
}

//! What is done to pages beyond closing them: nothing. What is locked stays locked while it is closed.

// Reason: the contract of the system that has it; see `crate::os::windows`.
#![allow(unsafe_code)]

use super::{Access, CallError, CallResult};
use std::ptr::NonNull;

/// Of some pages: whether they are encrypted now.
#[derive(Debug)]
pub(crate) struct Veil;

impl Veil {
    pub(crate) const fn new() -> Self {
        Self
    }

    /// Opens or closes pages. See [`super::protect`].
    ///
    /// # Safety
    ///
    /// As there.
    #[inline(always)]
    pub(crate) unsafe fn protect(
        &self,
        ptr: NonNull<u8>,
        len: usize,
        access: Access,
        _locked: impl FnOnce() -> bool,
    ) -> CallResult<()> {
        // SAFETY: the caller's promise.
        unsafe { super::protect(ptr, len, access) }
    }
}

/// Are closed pages encrypted on this system, if it can do so?
pub(crate) const IS_HERE: bool = false;

/// Why pages that are locked are not kept from swap while they are closed: they are.
#[inline(always)]
pub(crate) const fn unlocked_at_rest() -> Option<CallError> {
    None
}

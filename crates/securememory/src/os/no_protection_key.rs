//! A memory protection key where there is none: a type of the same name, of which no value can be had. To ask for one is
//! refused as by a kernel that does not know the call.

// Reason: the functions that say so keep the contract of those that work.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use crate::os::{self, Call, CallError, CallResult, errno};

/// A memory protection key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProtectionKey {}

impl ProtectionKey {
    pub(crate) fn of_process() -> CallResult<Self> {
        os::injected(Call::PkeyAlloc)?;
        Err(CallError::new(Call::PkeyAlloc, errno::ENOSYS))
    }

    pub(crate) fn number(self) -> u32 {
        match self {}
    }

    pub(crate) fn of_number(_: u32) -> Option<Self> {
        None
    }

    pub(crate) unsafe fn protect(self, _: NonNull<u8>, _: usize) -> CallResult<()> {
        match self {}
    }

    pub(crate) fn open_to_read(self) {
        match self {}
    }

    pub(crate) fn open_to_write(self) {
        match self {}
    }
}

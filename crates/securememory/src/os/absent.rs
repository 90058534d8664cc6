//! What only Linux has, for the systems that do not have it: types of the same names. Each call is refused as by a Linux whose
//! kernel does not know it, so the errors are the same everywhere.

// Reason: the functions that say so keep the contract of those that work.
#![allow(unsafe_code)]

pub(crate) use super::no_protection_key::ProtectionKey;

use std::ptr::NonNull;

use crate::os::{self, Call, CallError, CallResult, FileNumber, errno};

fn refused<T>(call: Call) -> CallResult<T> {
    os::injected(call)?;
    Err(CallError::new(call, errno::ENOSYS))
}

/// Memory that the kernel does not keep mapped.
pub(crate) enum SecretFile {}

/// Such memory could not be put where it was to be.
pub(crate) struct Misplaced {
    pub(crate) cause: CallError,
    pub(crate) untouched: bool,
}

impl SecretFile {
    pub(crate) fn create(_: usize) -> CallResult<Self> {
        refused(Call::MemfdSecret)
    }

    pub(crate) unsafe fn map_over(self, _: NonNull<u8>) -> Result<(), Misplaced> {
        match self {}
    }
}

/// A file that lies only in memory, with a share of a key. None can be made, so none is ever read.
#[derive(Debug)]
pub(crate) struct ShareFile {
    number: FileNumber,
    identity: (u64, u64),
}

impl ShareFile {
    pub(crate) const LEN: usize = 64;

    pub(crate) fn create() -> CallResult<Self> {
        Self::create_but(None)
    }

    pub(crate) fn create_but(_: Option<FileNumber>) -> CallResult<Self> {
        refused(Call::MemfdCreate)
    }

    pub(crate) fn known(number: FileNumber, identity: (u64, u64), _: u32) -> Self {
        Self { number, identity }
    }

    pub(crate) fn identity(&self) -> (u64, u64) {
        self.identity
    }

    #[inline]
    pub(crate) unsafe fn read(_: FileNumber, _: *mut u8) -> CallResult<()> {
        refused(Call::Pread)
    }

    pub(crate) fn read_check(_: FileNumber) -> CallResult<[u64; 4]> {
        refused(Call::Pread)
    }

    pub(crate) unsafe fn write(&self, _: *const u8) -> CallResult<()> {
        refused(Call::Pwrite)
    }

    pub(crate) fn truncate(&self) -> CallResult<()> {
        refused(Call::Ftruncate)
    }

    pub(crate) fn close(self) -> CallResult<()> {
        refused(Call::Close)
    }

    pub(crate) fn raw_fd(&self) -> FileNumber {
        self.number
    }
}

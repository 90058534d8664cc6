//! What these systems do not have: each is refused as by a Linux whose kernel does not know the call.

// Reason: the functions that say so keep the contract of those that work.
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::ptr::NonNull;

use super::super::{Call, CallError, CallResult, injected};

const fn none<T>(call: Call) -> CallResult<T> {
    Err(CallError::new(call, libc::ENOSYS))
}

/// A file in memory that holds a key share.
#[derive(Debug)]
pub(crate) struct ShareFile(());

impl ShareFile {
    pub(crate) const LEN: usize = 64;

    pub(crate) fn create() -> CallResult<Self> {
        Self::create_but(None)
    }

    pub(crate) fn create_but(_: Option<RawFd>) -> CallResult<Self> {
        injected(Call::MemfdCreate)?;
        none(Call::MemfdCreate)
    }

    pub(crate) fn known(_: RawFd, _: (u64, u64), _: u32) -> Self {
        Self(())
    }

    pub(crate) fn identity(&self) -> (u64, u64) {
        (0, 0)
    }

    pub(crate) unsafe fn read(_: RawFd, _: *mut u8) -> CallResult<()> {
        none(Call::Pread)
    }

    pub(crate) fn read_check(_: RawFd) -> CallResult<[u64; 4]> {
        none(Call::Pread)
    }

    pub(crate) unsafe fn write(&self, _: *const u8) -> CallResult<()> {
        none(Call::Pwrite)
    }

    pub(crate) fn truncate(&self) -> CallResult<()> {
        none(Call::Ftruncate)
    }

    pub(crate) fn close(self) -> CallResult<()> {
        none(Call::Close)
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        -1
    }
}

/// Memory that the kernel does not keep in its own map.
pub(crate) struct SecretFile(());

/// Why [`SecretFile::map_over`] did not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Misplaced {
    pub(crate) cause: CallError,
    pub(crate) untouched: bool,
}

impl SecretFile {
    pub(crate) fn create(_: usize) -> CallResult<Self> {
        injected(Call::MemfdSecret)?;
        none(Call::MemfdSecret)
    }

    pub(crate) unsafe fn map_over(self, _: NonNull<u8>) -> Result<(), Misplaced> {
        Err(Misplaced { cause: CallError::new(Call::MemfdSecret, libc::ENOSYS), untouched: true })
    }
}

/// A memory protection key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProtectionKey {}

impl ProtectionKey {
    pub(crate) fn of_process() -> CallResult<Self> {
        injected(Call::PkeyAlloc)?;
        none(Call::PkeyAlloc)
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

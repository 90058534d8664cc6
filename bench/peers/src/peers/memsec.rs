//! `memsec`: plaintext in pages from its `malloc` (locked if that is allowed, silently not if not) or from
//! memfd_secret (which the kernel does not keep mapped), without access at rest when the caller asks for that by
//! `mprotect`, as is done here.

// Its functions are unsafe.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use memsec::Prot;

use crate::peer::{Peer, behind_a_mutex};
use crate::{Failure, Skipped};

#[derive(Clone, Copy, PartialEq)]
pub enum Memsec {
    Malloc,
    MemfdSecret,
}

impl Memsec {
    pub fn new(kind: Self) -> Result<Self, Failure> {
        // SAFETY: an allocation that is given back below.
        if kind == Self::MemfdSecret && unsafe { allocate(kind, 32) }.map(|at| free(kind, at)).is_none() {
            return Err(Skipped("there is no memfd_secret(2) here".into()).into());
        }
        Ok(kind)
    }
}

pub struct Pages {
    kind: Memsec,
    at: NonNull<[u8]>,
}

// SAFETY: nothing else has this address, and no thread of its own belongs to it.
unsafe impl Send for Pages {}

/// # Safety
/// As memsec's: for any size; the caller frees it.
unsafe fn allocate(kind: Memsec, len: usize) -> Option<NonNull<[u8]>> {
    // SAFETY: passed on.
    unsafe {
        match kind {
            Memsec::Malloc => memsec::malloc_sized(len),
            Memsec::MemfdSecret => memsec::memfd_secret_sized(len),
        }
    }
}

fn free(kind: Memsec, at: NonNull<[u8]>) {
    // SAFETY: `at` came from the allocator of this kind, its canary may be read, and nobody uses it any more.
    unsafe {
        match kind {
            Memsec::Malloc => memsec::free(at),
            Memsec::MemfdSecret => memsec::free_memfd_secret(at),
        }
    }
}

impl Pages {
    fn protect(&self, access: Prot::Ty) -> Result<(), Failure> {
        // SAFETY: `at` came from memsec, and no reference into it lives.
        if unsafe { memsec::mprotect(self.at, access) } { Ok(()) } else { Err("mprotect failed".into()) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // `free` looks at the canary before it opens the pages.
        if self.protect(Prot::ReadWrite).is_ok() {
            free(self.kind, self.at);
        }
    }
}

impl Peer for Memsec {
    type Secret = Pages;

    fn create(&self, source: &mut [u8]) -> Result<Pages, Failure> {
        // SAFETY: freed by `Pages`.
        let at = unsafe { allocate(*self, source.len()) }.ok_or("the allocation failed")?;
        // SAFETY: as many bytes, just allocated.
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), at.cast().as_ptr(), source.len()) };
        let pages = Pages { kind: *self, at };
        pages.protect(Prot::NoAccess)?;
        Ok(pages)
    }

    fn read(secret: &mut Pages, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        secret.protect(Prot::ReadOnly)?;
        // SAFETY: readable until the next line, and only this thread has it.
        let seen = look(unsafe { secret.at.as_ref() });
        secret.protect(Prot::NoAccess)?;
        Ok(seen)
    }

    fn write(secret: &mut Pages, change: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        secret.protect(Prot::ReadWrite)?;
        // SAFETY: as in `read`, and writable.
        change(unsafe { secret.at.as_mut() });
        secret.protect(Prot::NoAccess)
    }

    behind_a_mutex!();
}

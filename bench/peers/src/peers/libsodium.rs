//! libsodium: plaintext in `sodium_malloc` (locked, guard pages, a canary), without access at rest by
//! `sodium_mprotect_noaccess`. Nothing in it keeps two threads apart: that is the caller's, so a mutex here.

// It is a C library.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::NonNull;

use crate::Failure;
use crate::peer::{Peer, behind_a_mutex};

#[link(name = "sodium")]
unsafe extern "C" {
    fn sodium_init() -> c_int;
    fn sodium_malloc(size: usize) -> *mut c_void;
    fn sodium_free(at: *mut c_void);
    fn sodium_mprotect_noaccess(at: *mut c_void) -> c_int;
    fn sodium_mprotect_readonly(at: *mut c_void) -> c_int;
    fn sodium_mprotect_readwrite(at: *mut c_void) -> c_int;
    fn sodium_version_string() -> *const c_char;
}

pub fn version() -> String {
    // SAFETY: a static string, by libsodium's manual.
    unsafe { CStr::from_ptr(sodium_version_string()) }.to_string_lossy().into_owned()
}

pub struct Sodium;

impl Sodium {
    pub fn new() -> Result<Self, Failure> {
        // SAFETY: may be called at any time, by any thread.
        if unsafe { sodium_init() } < 0 { Err("sodium_init failed".into()) } else { Ok(Self) }
    }
}

pub struct Pages {
    at: NonNull<c_void>,
    len: usize,
}

// SAFETY: nothing else has this address, and no thread of its own belongs to it.
unsafe impl Send for Pages {}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: from `sodium_malloc`, and nobody uses it any more; it may be closed.
        unsafe { sodium_free(self.at.as_ptr()) };
    }
}

fn protect(change: unsafe extern "C" fn(*mut c_void) -> c_int, pages: &Pages) -> Result<(), Failure> {
    // SAFETY: from `sodium_malloc`, and no reference into it lives.
    if unsafe { change(pages.at.as_ptr()) } == 0 { Ok(()) } else { Err("sodium_mprotect failed".into()) }
}

impl Peer for Sodium {
    type Secret = Pages;

    fn create(&self, source: &mut [u8]) -> Result<Pages, Failure> {
        // SAFETY: for any size; freed by `Pages`.
        let at = NonNull::new(unsafe { sodium_malloc(source.len()) }).ok_or("sodium_malloc returned NULL")?;
        // SAFETY: as many bytes, just allocated.
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), at.as_ptr().cast(), source.len()) };
        let pages = Pages { at, len: source.len() };
        protect(sodium_mprotect_noaccess, &pages)?;
        Ok(pages)
    }

    fn read(secret: &mut Pages, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        protect(sodium_mprotect_readonly, secret)?;
        // SAFETY: readable until the next line, and only this thread has it.
        let seen = look(unsafe { std::slice::from_raw_parts(secret.at.as_ptr().cast(), secret.len) });
        protect(sodium_mprotect_noaccess, secret)?;
        Ok(seen)
    }

    fn write(secret: &mut Pages, change: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        protect(sodium_mprotect_readwrite, secret)?;
        // SAFETY: as in `read`, and writable.
        change(unsafe { std::slice::from_raw_parts_mut(secret.at.as_ptr().cast(), secret.len) });
        protect(sodium_mprotect_noaccess, secret)
    }

    behind_a_mutex!();
}

//! OpenSSL's secure heap: plaintext in one locked arena between guard pages, readable at rest; cleared when freed.

// It is a C library.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::Failure;
use crate::peer::Peer;

#[link(name = "crypto")]
unsafe extern "C" {
    fn CRYPTO_secure_malloc_init(size: usize, least: usize) -> c_int;
    fn CRYPTO_secure_malloc(size: usize, file: *const c_char, line: c_int) -> *mut c_void;
    fn CRYPTO_secure_clear_free(at: *mut c_void, size: usize, file: *const c_char, line: c_int);
    fn OpenSSL_version(kind: c_int) -> *const c_char;
}

/// Of the arena: the least power of two in which what is measured has room.
const ARENA: usize = 4 << 20;
/// The least that it gives.
const LEAST: usize = 32;

pub fn version() -> String {
    // SAFETY: a static string, by its manual; 6 is OPENSSL_FULL_VERSION_STRING, of version 3.
    let text = unsafe { OpenSSL_version(6) };
    // SAFETY: as above.
    if text.is_null() { "?".into() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned() }
}

pub struct SecureHeap;

impl SecureHeap {
    pub fn new() -> Result<Self, Failure> {
        // SAFETY: once, before anything is allocated. 2: made, but not locked.
        match unsafe { CRYPTO_secure_malloc_init(ARENA, LEAST) } {
            0 => Err("CRYPTO_secure_malloc_init failed".into()),
            _ => Ok(Self),
        }
    }
}

pub struct Place {
    at: NonNull<c_void>,
    len: usize,
}

// SAFETY: nothing else has this address; the heap has a lock of its own.
unsafe impl Send for Place {}
// SAFETY: through a shared reference it is only read.
unsafe impl Sync for Place {}

impl Place {
    fn bytes(&self) -> &[u8] {
        // SAFETY: always readable, as long as it is not freed; who writes has it alone.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr().cast(), self.len) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // SAFETY: from `CRYPTO_secure_malloc`, with this length, and nobody uses it any more.
        unsafe { CRYPTO_secure_clear_free(self.at.as_ptr(), self.len, c"peers".as_ptr(), 0) };
    }
}

impl Peer for SecureHeap {
    type Secret = Place;
    type Shared = Arc<Place>;

    fn create(&self, source: &mut [u8]) -> Result<Place, Failure> {
        // SAFETY: for any size; freed by `Place`.
        let at = unsafe { CRYPTO_secure_malloc(source.len(), c"peers".as_ptr(), 0) };
        let at = NonNull::new(at).ok_or("CRYPTO_secure_malloc returned NULL")?;
        // SAFETY: as many bytes, just allocated.
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), at.as_ptr().cast(), source.len()) };
        Ok(Place { at, len: source.len() })
    }

    fn read(secret: &mut Place, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        Ok(look(secret.bytes()))
    }

    fn write(secret: &mut Place, change: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        // SAFETY: as in `bytes`, and writable; `secret` is ours alone.
        change(unsafe { std::slice::from_raw_parts_mut(secret.at.as_ptr().cast(), secret.len) });
        Ok(())
    }

    fn share(secret: Place) -> Self::Shared {
        Arc::new(secret)
    }

    fn read_shared(shared: &Self::Shared, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure> {
        Ok(look(shared.bytes()))
    }
}

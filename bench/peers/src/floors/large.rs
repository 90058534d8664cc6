//! The bare cipher on many bytes, from one place to another, and the wipe of what was in the clear.
//!
//! Crate `aegis` has no way from one place to another without an allocation; its C library has.

use std::ffi::c_int;

use aegis::aegis256::Aegis256;

use super::Result;
use super::cipher::{KEY, TAG, random};
use crate::peer::look_at;

macro_rules! symbols {
    ($($seal:ident $open:ident)*) => {
        unsafe extern "C" {
            $(
                fn $seal(
                    c: *mut u8, mac: *mut u8, maclen: usize, m: *const u8, mlen: usize,
                    ad: *const u8, adlen: usize, npub: *const u8, k: *const u8,
                ) -> c_int;
                fn $open(
                    m: *mut u8, c: *const u8, clen: usize, mac: *const u8, maclen: usize,
                    ad: *const u8, adlen: usize, npub: *const u8, k: *const u8,
                ) -> c_int;
            )*
        }
    };
}

symbols! {
    aegis256_encrypt_detached aegis256_decrypt_detached
    aegis256x4_encrypt_detached aegis256x4_decrypt_detached
}

/// A text under a key, and a place for it in the clear.
pub struct Large {
    wide: bool,
    key: [u8; KEY],
    nonce: [u8; KEY],
    tag: [u8; TAG],
    text: Aligned,
    place: Aligned,
}

/// Bytes that begin where a page does: from one that does not, each wide load takes two lines of the cache.
struct Aligned {
    whole: Vec<u8>,
    begin: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize, byte: u8) -> Self {
        const PAGE: usize = 4096;
        let whole = vec![byte; len + PAGE];
        Self { begin: whole.as_ptr().align_offset(PAGE), whole, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.whole[self.begin..self.begin + self.len]
    }
}

impl Large {
    /// With AEGIS-256X4, or with AEGIS-256.
    pub fn new(len: usize, wide: bool) -> Result<Self> {
        let (mut key, mut nonce) = ([0; KEY], [0; KEY]);
        random(&mut key)?;
        random(&mut nonce)?;
        // The library's look at the processor.
        let _ = Aegis256::<TAG>::new(&key, &nonce);
        let (text, place) = (Aligned::new(len, 0), Aligned::new(len, 0x5a));
        let mut large = Self { wide, key, nonce, tag: [0; TAG], text, place };
        large.seal()?;
        Ok(large)
    }

    fn seal(&mut self) -> Result<()> {
        let seal = if self.wide { aegis256x4_encrypt_detached } else { aegis256_encrypt_detached };
        let (from, to) = (self.place.bytes().as_ptr(), self.text.bytes().as_mut_ptr());
        // SAFETY: both places have this length; key, nonce and tag have the lengths that aegis256.h and
        // aegis256x4.h name; no associated data.
        let failed = unsafe {
            let (tag, nonce, key) = (self.tag.as_mut_ptr(), self.nonce.as_ptr(), self.key.as_ptr());
            seal(to, tag, TAG, from, self.place.len, std::ptr::null(), 0, nonce, key)
        };
        if failed == 0 { Ok(()) } else { Err("sealing failed".into()) }
    }

    fn open(&mut self) -> Result<u64> {
        let open = if self.wide { aegis256x4_decrypt_detached } else { aegis256_decrypt_detached };
        let (from, to) = (self.text.bytes().as_ptr(), self.place.bytes().as_mut_ptr());
        // SAFETY: as in `seal`.
        let failed = unsafe {
            let (tag, nonce, key) = (self.tag.as_ptr(), self.nonce.as_ptr(), self.key.as_ptr());
            open(to, from, self.text.len, tag, TAG, std::ptr::null(), 0, nonce, key)
        };
        if failed == 0 { Ok(look_at(self.place.bytes())) } else { Err("the tag does not fit".into()) }
    }
}

/// The parts of a read: opened from one place to another, looked at, wiped.
pub fn open_and_wipe(large: &mut Large) -> Result<u64> {
    let seen = large.open()?;
    wipe(large.place.bytes());
    Ok(seen)
}

/// The parts of a creation: sealed from one place to another, the source wiped.
pub fn seal_and_wipe(large: &mut Large) -> Result<u64> {
    large.seal()?;
    wipe(large.place.bytes());
    Ok(0)
}

/// Zeros that must be there, since they may be looked at.
pub fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(bytes);
}

//! Floors of secrets of many bytes: the bare cipher on ordinary memory, from one place to another or in place.
//!
//! Crate `aegis` has no way from one place to another without an allocation; its C library has.

use std::ffi::c_int;

use aegis::aegis256::Aegis256;
use rustix::io::{Errno, Result};
use securememory::Cipher;

use super::{KEY, TAG, random};
use crate::bench::look_at;

/// The C library's functions for one variant.
macro_rules! symbols {
    ($($seal:ident $open:ident $decrypt:ident)*) => {
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
                fn $decrypt(m: *mut u8, c: *const u8, clen: usize, npub: *const u8, k: *const u8);
            )*
        }
    };
}

symbols! {
    aegis256_encrypt_detached aegis256_decrypt_detached aegis256_decrypt_unauthenticated
    aegis256x4_encrypt_detached aegis256x4_decrypt_detached aegis256x4_decrypt_unauthenticated
}

/// A text under a key, and a place for it in the clear.
pub(in crate::bench) struct Large {
    wide: bool,
    key: [u8; KEY],
    nonce: [u8; KEY],
    tag: [u8; TAG],
    text: Vec<u8>,
    place: Vec<u8>,
}

impl Large {
    /// With the cipher that the library takes for a secret of so many bytes.
    pub(in crate::bench) fn new(len: usize, cipher: Option<Cipher>) -> Result<Self> {
        let (mut key, mut nonce) = ([0; KEY], [0; KEY]);
        random(&mut key)?;
        random(&mut nonce)?;
        // The library's look at the processor.
        let _ = Aegis256::<TAG>::new(&key, &nonce);
        let wide = cipher == Some(Cipher::Aegis256X4);
        let mut large = Self { wide, key, nonce, tag: [0; TAG], text: vec![0; len], place: vec![0x5a; len] };
        large.seal()?;
        Ok(large)
    }

    /// From `place` to `text`.
    fn seal(&mut self) -> Result<()> {
        let seal = if self.wide { aegis256x4_encrypt_detached } else { aegis256_encrypt_detached };
        let (from, to) = (self.place.as_ptr(), self.text.as_mut_ptr());
        // SAFETY: both vectors have the same length; key, nonce and tag have the lengths that aegis256.h and
        // aegis256x4.h name; no associated data.
        let failed = unsafe {
            let (tag, nonce, key) = (self.tag.as_mut_ptr(), self.nonce.as_ptr(), self.key.as_ptr());
            seal(to, tag, TAG, from, self.place.len(), std::ptr::null(), 0, nonce, key)
        };
        if failed == 0 { Ok(()) } else { Err(Errno::INVAL) }
    }

    /// From `text` to `place`, and a look at it.
    pub(in crate::bench) fn open(&mut self) -> Result<u64> {
        let open = if self.wide { aegis256x4_decrypt_detached } else { aegis256_decrypt_detached };
        let (from, to) = (self.text.as_ptr(), self.place.as_mut_ptr());
        // SAFETY: as in `seal`.
        let failed = unsafe {
            let (tag, nonce, key) = (self.tag.as_ptr(), self.nonce.as_ptr(), self.key.as_ptr());
            open(to, from, self.text.len(), tag, TAG, std::ptr::null(), 0, nonce, key)
        };
        if failed == 0 { Ok(look_at(&self.place)) } else { Err(Errno::BADMSG) }
    }

    /// The floor of a read: from one place to another, and what was looked at is wiped.
    pub(in crate::bench) fn open_and_wipe(&mut self) -> Result<u64> {
        let seen = self.open()?;
        wipe(&mut self.place);
        Ok(seen)
    }

    /// The same in place. What lies there afterwards is no ciphertext with a tag, so the tag is not looked at: its cost
    /// does not depend on the length.
    pub(in crate::bench) fn open_in_place_and_wipe(&mut self) -> Result<u64> {
        let decrypt =
            if self.wide { aegis256x4_decrypt_unauthenticated } else { aegis256_decrypt_unauthenticated };
        let at = self.place.as_mut_ptr();
        // SAFETY: one vector, all of it; source and target may be the same; key and nonce as in `seal`.
        unsafe { decrypt(at, at, self.place.len(), self.nonce.as_ptr(), self.key.as_ptr()) };
        let seen = look_at(&self.place);
        wipe(&mut self.place);
        Ok(seen)
    }

    /// The floor of a creation and drop. The library wipes the source, so it is written anew each time; and it
    /// overwrites the ciphertext at the end. Neither is a part of the creation, so both are here as well.
    pub(in crate::bench) fn seal_and_wipe(&mut self) -> Result<()> {
        self.place.fill(0x5a);
        self.seal()?;
        wipe(&mut self.place);
        wipe(&mut self.text);
        Ok(())
    }

    /// The same in place, where source and ciphertext are wiped one after the other, too.
    pub(in crate::bench) fn seal_in_place_and_wipe(&mut self) -> Result<()> {
        self.place.fill(0x5a);
        let seal = if self.wide { aegis256x4_encrypt_detached } else { aegis256_encrypt_detached };
        let at = self.place.as_mut_ptr();
        // SAFETY: as in `seal`; source and target may be the same.
        let failed = unsafe {
            let (tag, nonce, key) = (self.tag.as_mut_ptr(), self.nonce.as_ptr(), self.key.as_ptr());
            seal(at, tag, TAG, at, self.place.len(), std::ptr::null(), 0, nonce, key)
        };
        wipe(&mut self.place);
        wipe(&mut self.place);
        if failed == 0 { Ok(()) } else { Err(Errno::INVAL) }
    }
}

/// Zeros that must be there, since they may be looked at.
fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(bytes);
}

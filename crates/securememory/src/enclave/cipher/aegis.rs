//! AEGIS-256 and its wide variant AEGIS-256X4 (draft-irtf-cfrg-aegis-aead): the functions of the C library that crate
//! `aegis` brings, called with the key where it lies. The crate's own types take a copy of the key, which is then on the
//! stack during a read, where every thread of the process can see it.

#![allow(unsafe_code)] // Reason: a C interface; every block says why it is sound.

use std::ffi::c_int;
use std::mem::MaybeUninit;

use aegis::aegis256::Aegis256;

use super::{Forged, KEY, NONCE, TAG};

/// To `c` and `mac` from `m`, bound to `ad`.
type Seal = unsafe extern "C" fn(
    c: *mut u8,
    mac: *mut u8,
    maclen: usize,
    m: *const u8,
    mlen: usize,
    ad: *const u8,
    adlen: usize,
    npub: *const u8,
    k: *const u8,
) -> c_int;

/// To `m` from `c` and `mac`. Where the tag is wrong, `m` is overwritten with zeros.
type Open = unsafe extern "C" fn(
    m: *mut u8,
    c: *const u8,
    clen: usize,
    mac: *const u8,
    maclen: usize,
    ad: *const u8,
    adlen: usize,
    npub: *const u8,
    k: *const u8,
) -> c_int;

/// The symbols of the C library, with the types above.
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

/// Keys, nonces and tags of both variants have the same lengths.
#[derive(Clone, Copy)]
pub(super) struct Variant {
    seal: Seal,
    open: Open,
}

pub(super) const AEGIS_256: Variant =
    Variant { seal: aegis256_encrypt_detached, open: aegis256_decrypt_detached };
pub(super) const AEGIS_256_X4: Variant =
    Variant { seal: aegis256x4_encrypt_detached, open: aegis256x4_decrypt_detached };

/// The library's look at the processor, once, for all variants; only the crate's own types ask for it.
#[inline]
fn prepare() {
    let _ = Aegis256::<TAG>::new(&[0; KEY], &[0; NONCE]);
}

impl Variant {
    #[inline]
    pub(super) fn seal(
        self,
        key: &[u8; KEY],
        nonce: &[u8; NONCE],
        associated: &[u8],
        plain: &[u8],
        out: &mut [MaybeUninit<u8>],
    ) -> Result<[u8; TAG], Forged> {
        if plain.len() != out.len() {
            return Err(Forged::Data);
        }
        prepare();
        let mut tag = [0; TAG];
        // SAFETY: every pointer is to as many bytes as are given with it, `out` to as many as `plain`, or as the names in
        // aegis256.h and aegis256x4.h say for key and nonce; a mutable borrow overlaps with nothing.
        let failed = unsafe {
            (self.seal)(
                out.as_mut_ptr().cast(),
                tag.as_mut_ptr(),
                TAG,
                plain.as_ptr(),
                plain.len(),
                associated.as_ptr(),
                associated.len(),
                nonce.as_ptr(),
                key.as_ptr(),
            )
        };
        if failed == 0 { Ok(tag) } else { Err(Forged::Data) }
    }

    #[inline]
    pub(super) fn open(
        self,
        key: &[u8; KEY],
        nonce: &[u8; NONCE],
        associated: &[u8],
        sealed: &[u8],
        out: &mut [u8],
        tag: &[u8; TAG],
    ) -> Result<(), Forged> {
        if sealed.len() != out.len() {
            return Err(Forged::Data);
        }
        prepare();
        // SAFETY: as in `seal`.
        let failed = unsafe {
            (self.open)(
                out.as_mut_ptr(),
                sealed.as_ptr(),
                sealed.len(),
                tag.as_ptr(),
                TAG,
                associated.as_ptr(),
                associated.len(),
                nonce.as_ptr(),
                key.as_ptr(),
            )
        };
        if failed == 0 { Ok(()) } else { Err(Forged::Data) }
    }
}

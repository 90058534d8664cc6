//! The ciphers, from known authors, behind two functions.
//!
//! AEGIS-256 was chosen by measurement: key set-up and opening of 32 bytes take a fifth of what the fastest
//! AES-GCM needs, since it has no key schedule. Its implementation (crate `aegis`, in C) needs the
//! processor's AES instructions to be fast and constant-time; elsewhere XChaCha20-Poly1305 is used, which is
//! constant-time everywhere.
//!
//! XChaCha20-Poly1305 takes the key by value and leaves it on the stack; of AEGIS-256, which is called with the key where
//! it lies, what follows from the key may be left there. So callers run them inside a window that ends with
//! [`crate::region::scrub`].

use aegis::aegis256::Aegis256;
use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::aead::{AeadInOut, KeyInit};

use crate::enclave::hold::broken;
use crate::error::Error;
use crate::policy::Cipher;
use crate::region::scrub;

/// Bytes of a key.
pub(crate) const KEY: usize = 32;
/// Bytes of a nonce; XChaCha20 uses the first 24 of them, and the rest is bound like associated data.
pub(crate) const NONCE: usize = 32;
/// Bytes of associated data.
pub(crate) const ASSOCIATED: usize = 48;
/// Bytes of a tag.
pub(crate) const TAG: usize = 16;
const XNONCE: usize = 24;

/// Why a cipher did not do its work.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Forged {
    /// The data is not what was sealed; in sealing, the data cannot be sealed.
    Data,
    /// The key is not the vault's.
    Key,
}

/// Where a key cannot be confirmed that was just made.
pub(crate) const UNFIT: Error = Error::Unsupported("this cipher");

/// Tells a vault's key from others: the tag of sealing nothing under a nonce of zeros, bound to what no record is bound
/// to. The cipher would be broken if it said anything of the key or of another tag, so it is not secret.
///
/// The check value of a hold says that the key was not wiped; this says that it is the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Confirmation {
    cipher: Cipher,
    tag: [u8; TAG],
}

impl Confirmation {
    /// Records begin with "smv1".
    const ASSOCIATED: [u8; ASSOCIATED] = *b"smvk: this tag tells that the key is the right 1";

    /// Of a key in the making. Wipes what that left on the stack.
    #[inline(never)]
    pub(crate) fn of(cipher: Cipher, key: &[u8; KEY]) -> Result<Self, Forged> {
        let tag = Self::tag(cipher, key);
        scrub::after_window(scrub::depth(stack(cipher)));
        Ok(Self { cipher, tag: tag? })
    }

    /// Is it the key? What that leaves on the stack is the caller's to scrub, as with [`seal`].
    #[inline]
    pub(crate) fn confirms(&self, key: &[u8; KEY]) -> bool {
        Self::tag(self.cipher, key).is_ok_and(|tag| tag == self.tag) || broken::skips(broken::CONFIRM)
    }

    pub(crate) fn cipher(&self) -> Cipher {
        self.cipher
    }

    #[inline(never)]
    fn tag(cipher: Cipher, key: &[u8; KEY]) -> Result<[u8; TAG], Forged> {
        seal(cipher, key, &[0; NONCE], &Self::ASSOCIATED, &mut [])
    }
}

/// The cipher that suits this processor.
pub(crate) fn choose() -> Cipher {
    if has_aes() { Cipher::Aegis256 } else { Cipher::XChaCha20Poly1305 }
}

fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    {
        std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("avx")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("aes")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
    {
        false
    }
}

/// The number that stands for a cipher in associated data.
pub(crate) fn number(cipher: Cipher) -> u32 {
    match cipher {
        Cipher::Aegis256 => 1,
        Cipher::XChaCha20Poly1305 => 2,
    }
}

/// Bytes of stack that fetching a key and using it takes at most, with a margin; measured by the test
/// `the_cipher_path_stays_above_the_scrubbed_depth`. The compiled C code of AEGIS is always optimised.
pub(crate) fn stack(cipher: Cipher) -> usize {
    match (cipher, cfg!(debug_assertions)) {
        (Cipher::Aegis256, false) => 768,
        (Cipher::Aegis256, true) => 4096,
        (Cipher::XChaCha20Poly1305, false) => 5120,
        (Cipher::XChaCha20Poly1305, true) => 96 * 1024,
    }
}

/// What XChaCha20-Poly1305 takes for a nonce, and what it binds.
fn split<'a>(
    nonce: &'a [u8; NONCE],
    associated: &[u8; ASSOCIATED],
) -> Result<(&'a [u8; XNONCE], [u8; ASSOCIATED + NONCE - XNONCE]), Forged> {
    let (xnonce, rest) = nonce.split_first_chunk().ok_or(Forged::Data)?;
    let mut bound = [0; ASSOCIATED + NONCE - XNONCE];
    bound[..ASSOCIATED].copy_from_slice(associated);
    bound[ASSOCIATED..].copy_from_slice(rest);
    Ok((xnonce, bound))
}

/// Encrypts in place and returns the tag.
#[inline]
pub(crate) fn seal(
    cipher: Cipher,
    key: &[u8; KEY],
    nonce: &[u8; NONCE],
    associated: &[u8; ASSOCIATED],
    data: &mut [u8],
) -> Result<[u8; TAG], Forged> {
    match cipher {
        Cipher::Aegis256 => in_c::seal(key, nonce, associated, data),
        Cipher::XChaCha20Poly1305 => xchacha_seal(key, nonce, associated, data),
    }
}

// Not inlined: its large frame would be that of every read, and of every scrub, under the other cipher too.
#[inline(never)]
fn xchacha_seal(
    key: &[u8; KEY],
    nonce: &[u8; NONCE],
    associated: &[u8; ASSOCIATED],
    data: &mut [u8],
) -> Result<[u8; TAG], Forged> {
    let (xnonce, bound) = split(nonce, associated)?;
    XChaCha20Poly1305::new(key.into())
        .encrypt_inout_detached(xnonce.into(), &bound, InOutBuf::from(data))
        .map(Into::into)
        .map_err(|_| Forged::Data)
}

pub(crate) fn seal_to(
    c: Cipher,
    k: &[u8; KEY],
    n: &[u8; NONCE],
    a: &[u8; ASSOCIATED],
    plain: &[u8],
    out: &mut [std::mem::MaybeUninit<u8>],
) -> Result<[u8; TAG], Forged> {
    for (o, i) in out.iter_mut().zip(plain) {
        o.write(*i);
    }
    #[allow(unsafe_code)]
    let out = unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<u8>(), out.len()) };
    seal(c, k, n, a, out)
}
pub(crate) fn open_to(
    c: Cipher,
    k: &[u8; KEY],
    n: &[u8; NONCE],
    a: &[u8; ASSOCIATED],
    sealed: &[u8],
    out: &mut [u8],
    tag: &[u8; TAG],
) -> Result<(), Forged> {
    out.copy_from_slice(sealed);
    open(c, k, n, a, out, tag)
}

/// Checks and decrypts in place. On an error the data must not be used.
#[inline]
pub(crate) fn open(
    cipher: Cipher,
    key: &[u8; KEY],
    nonce: &[u8; NONCE],
    associated: &[u8; ASSOCIATED],
    data: &mut [u8],
    tag: &[u8; TAG],
) -> Result<(), Forged> {
    match cipher {
        Cipher::Aegis256 => in_c::open(key, nonce, associated, data, tag),
        Cipher::XChaCha20Poly1305 => xchacha_open(key, nonce, associated, data, tag),
    }
}

// As above.
#[inline(never)]
fn xchacha_open(
    key: &[u8; KEY],
    nonce: &[u8; NONCE],
    associated: &[u8; ASSOCIATED],
    data: &mut [u8],
    tag: &[u8; TAG],
) -> Result<(), Forged> {
    let (xnonce, bound) = split(nonce, associated)?;
    XChaCha20Poly1305::new(key.into())
        .decrypt_inout_detached(xnonce.into(), &bound, InOutBuf::from(data), tag.into())
        .map_err(|_| Forged::Data)
}

/// The functions of the C library that crate `aegis` brings, called with the key where it lies. The crate's own type
/// takes a copy of the key, which is then on the stack during a read, where every thread of the process can see it.
#[allow(unsafe_code)] // Reason: a C interface; every block says why it is sound.
mod in_c {
    use std::ffi::c_int;

    use super::{ASSOCIATED, Aegis256, Forged, KEY, NONCE, TAG};

    unsafe extern "C" {
        fn aegis256_encrypt_detached(
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
        fn aegis256_decrypt_detached(
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
    }

    /// The library's look at the processor, once; only the crate's own types ask for it.
    #[inline]
    fn prepare() {
        let _ = Aegis256::<TAG>::new(&[0; KEY], &[0; NONCE]);
    }

    #[inline]
    pub(super) fn seal(
        key: &[u8; KEY],
        nonce: &[u8; NONCE],
        associated: &[u8; ASSOCIATED],
        data: &mut [u8],
    ) -> Result<[u8; TAG], Forged> {
        prepare();
        let mut tag = [0; TAG];
        let at = data.as_mut_ptr();
        // SAFETY: every pointer is to as many bytes as are given with it, or as the names in aegis256.h say for key and
        // nonce. Source and target may be the same (the crate's `encrypt_in_place` makes the same call).
        let failed = unsafe {
            aegis256_encrypt_detached(
                at,
                tag.as_mut_ptr(),
                TAG,
                at,
                data.len(),
                associated.as_ptr(),
                ASSOCIATED,
                nonce.as_ptr(),
                key.as_ptr(),
            )
        };
        if failed == 0 { Ok(tag) } else { Err(Forged::Data) }
    }

    #[inline]
    pub(super) fn open(
        key: &[u8; KEY],
        nonce: &[u8; NONCE],
        associated: &[u8; ASSOCIATED],
        data: &mut [u8],
        tag: &[u8; TAG],
    ) -> Result<(), Forged> {
        prepare();
        let at = data.as_mut_ptr();
        // SAFETY: as in `seal`.
        let failed = unsafe {
            aegis256_decrypt_detached(
                at,
                at,
                data.len(),
                tag.as_ptr(),
                TAG,
                associated.as_ptr(),
                ASSOCIATED,
                nonce.as_ptr(),
                key.as_ptr(),
            )
        };
        if failed == 0 { Ok(()) } else { Err(Forged::Data) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    fn ciphers() -> impl Strategy<Value = Cipher> {
        prop_oneof![Just(Cipher::Aegis256), Just(Cipher::XChaCha20Poly1305)]
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_what_is_changed_does_not(
            cipher in ciphers(), key: [u8; KEY], nonce: [u8; NONCE], associated: [u8; 48],
            plain in proptest::collection::vec(any::<u8>(), 1..300), flip in any::<prop::sample::Index>(),
        ) {
            let mut data = plain.clone();
            let tag = seal(cipher, &key, &nonce, &associated, &mut data).unwrap();
            let mut opened = data.clone();
            prop_assert_eq!(open(cipher, &key, &nonce, &associated, &mut opened, &tag), Ok(()));
            prop_assert_eq!(&opened, &plain);
            let mut changed = data.clone();
            changed[flip.index(data.len())] ^= 1;
            prop_assert!(open(cipher, &key, &nonce, &associated, &mut changed, &tag).is_err());
            let mut other = associated;
            other[flip.index(48)] ^= 0x80;
            prop_assert!(open(cipher, &key, &nonce, &other, &mut data.clone(), &tag).is_err());
            let mut other = nonce;
            other[flip.index(NONCE)] ^= 0x80;
            prop_assert!(open(cipher, &key, &other, &associated, &mut data, &tag).is_err());
        }

        #[test]
        fn a_key_is_confirmed_and_no_other(cipher in ciphers(), key: [u8; KEY], at in 0..KEY, bits in 1u8..) {
            let confirmation = Confirmation::of(cipher, &key).unwrap();
            prop_assert!(confirmation.confirms(&key));
            let mut other = key;
            other[at] ^= bits;
            prop_assert!(!confirmation.confirms(&other));
        }
    }
}

pub(crate) fn most_seals(_c: Cipher) -> u64 {
    u64::MAX
}

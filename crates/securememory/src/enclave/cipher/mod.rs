//! The ciphers, from known authors, behind four functions: in place, and from one place to another.
//!
//! AEGIS-256 was chosen by measurement: key set-up and opening of 32 bytes take a fifth of what the fastest
//! AES-GCM needs, since it has no key schedule. Its implementation (crate `aegis`, in C) needs the
//! processor's AES instructions to be fast and constant-time; elsewhere XChaCha20-Poly1305 is used, which is
//! constant-time everywhere. AES-256-GCM is there for those whose rules demand it, by feature; without AES
//! instructions its crates compute in constant time too (bitsliced, without tables), and are slow.
//!
//! XChaCha20-Poly1305 and AES-256-GCM leave the key and what follows from it on the stack, and never on the heap; of
//! AEGIS-256, which is called with the key where it lies, what follows from the key may be left there. So callers run
//! them inside a window that ends with [`crate::region::scrub`].

mod aegis;
mod known_answer;
mod rust_crypto;

use std::mem::MaybeUninit;

use chacha20poly1305::aead::inout::InOutBuf;

use self::aegis::{AEGIS_256, AEGIS_256_X4};
#[cfg(feature = "aes-gcm")]
use self::rust_crypto::Aes256Gcm;
use self::rust_crypto::XChaCha20Poly1305;
use crate::enclave::hold::broken;
use crate::error::Error;
use crate::policy::Cipher;
use crate::region::scrub;

/// Bytes of a key.
pub(crate) const KEY: usize = 32;
/// Bytes of a nonce; XChaCha20-Poly1305 uses the first 24 of them, AES-256-GCM the first 12, and the rest is bound like
/// associated data.
pub(crate) const NONCE: usize = 32;
/// Bytes of associated data.
pub(crate) const ASSOCIATED: usize = 48;
/// Bytes of a tag.
pub(crate) const TAG: usize = 16;

/// Bytes from which on the wide variant is taken. Measured on a processor with 512-bit AES: at 256 bytes it is the slower
/// one, at 512 as fast or a little faster, at 1 KiB 1.4 times as fast, at 64 KiB 2.5 to 3 times; with 1 MiB from memory
/// and a wipe 1.35 times.
const WIDE: usize = 1024;

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

/// Of a cipher that gives other answers here than those that were published.
const WRONG: Error = Error::Unsupported("a cipher whose published answers this processor does not give");

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
        seal(cipher, key, &[0; NONCE], &Self::ASSOCIATED, &[], &mut [])
    }
}

/// The cipher that suits this processor.
pub(crate) fn choose() -> Cipher {
    if has_aes() && known_answer::aegis_256() { Cipher::Aegis256 } else { Cipher::XChaCha20Poly1305 }
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

/// The cipher of a record of `len` bytes where the vault's is `cipher`: a wide variant of it for large ones, under the
/// same key, where the processor encrypts four blocks with one instruction. (Without those AEGIS-256X4 is the slower
/// one.) The variants begin with different states even if a nonce were the same.
#[inline]
pub(crate) fn for_len(cipher: Cipher, len: usize) -> Cipher {
    if len >= WIDE && cipher == Cipher::Aegis256 && has_wide_aes() { Cipher::Aegis256X4 } else { cipher }
}

fn has_wide_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("vaes")
            && std::arch::is_x86_feature_detected!("avx512f")
            && known_answer::aegis_256_x4()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Refuses a cipher that was left out of this build, or that this processor computes wrongly.
pub(crate) fn available(cipher: Cipher) -> Result<(), Error> {
    match cipher {
        Cipher::Aes256Gcm if !cfg!(feature = "aes-gcm") => {
            Err(Error::Unsupported("AES-256-GCM (feature `aes-gcm`)"))
        }
        Cipher::Aegis256 if !known_answer::aegis_256() => Err(WRONG),
        Cipher::Aegis256X4 if !known_answer::aegis_256_x4() => Err(WRONG),
        _ => Ok(()),
    }
}

/// The number that stands for a cipher in associated data.
pub(crate) fn number(cipher: Cipher) -> u32 {
    match cipher {
        Cipher::Aegis256 => 1,
        Cipher::XChaCha20Poly1305 => 2,
        Cipher::Aes256Gcm => 3,
        Cipher::Aegis256X4 => 4,
    }
}

/// How many seals one key may make at most, with nonces drawn at random.
///
/// Two equal nonces must not be likelier than 2^-32. With 256 and 192 bits that takes more seals than can be counted
/// here; with the 96 bits of AES-GCM, NIST SP 800-38D, 8.3 allows 2^32. The [`Confirmation`] is one of them.
pub(crate) fn most_seals(cipher: Cipher) -> u64 {
    match cipher {
        Cipher::Aegis256 | Cipher::Aegis256X4 | Cipher::XChaCha20Poly1305 => u64::MAX,
        Cipher::Aes256Gcm => (1 << 32) - 1,
    }
}

/// Bytes of stack that fetching a key and using it takes at most, with a margin; measured by the test
/// `the_cipher_path_stays_above_the_scrubbed_depth`. The compiled C code of AEGIS is always optimised. For AEGIS-256 this
/// holds with what [`for_len`] makes of it too; AEGIS-256X4 by itself may run on narrower registers, from the stack.
pub(crate) fn stack(cipher: Cipher) -> usize {
    match (cipher, cfg!(debug_assertions)) {
        (Cipher::Aegis256, false) => 1024,
        (Cipher::Aegis256X4, false) => 2048,
        // Bytes of stack, not a page size.
        (Cipher::Aegis256 | Cipher::Aegis256X4, true) => 4096,
        (Cipher::XChaCha20Poly1305 | Cipher::Aes256Gcm, false) => 5120,
        (Cipher::XChaCha20Poly1305 | Cipher::Aes256Gcm, true) => 96 * 1024,
    }
}

/// Encrypts `plain` into `out`, which must be as long, and returns the tag; all of `out` is then written. The plaintext is
/// never in `out`.
#[inline]
pub(crate) fn seal(
    cipher: Cipher,
    key: &[u8; KEY],
    nonce: &[u8; NONCE],
    associated: &[u8; ASSOCIATED],
    plain: &[u8],
    out: &mut [MaybeUninit<u8>],
) -> Result<[u8; TAG], Forged> {
    match cipher {
        Cipher::Aegis256 => AEGIS_256.seal(key, nonce, associated, plain, out),
        Cipher::Aegis256X4 => AEGIS_256_X4.seal(key, nonce, associated, plain, out),
        other => seal_in_rust(other, key, nonce, associated, pair(plain, zeroed(out))?),
    }
}

/// Checks `sealed` and decrypts it into `out`, which must be as long. On an error nothing of the plaintext is in `out`:
/// it is as it was, or zeros.
#[inline]
pub(crate) fn open(
    cipher: Cipher,
    key: &[u8; KEY],
    nonce: &[u8; NONCE],
    associated: &[u8; ASSOCIATED],
    sealed: &[u8],
    out: &mut [u8],
    tag: &[u8; TAG],
) -> Result<(), Forged> {
    match cipher {
        Cipher::Aegis256 => AEGIS_256.open(key, nonce, associated, sealed, out, tag),
        Cipher::Aegis256X4 => AEGIS_256_X4.open(key, nonce, associated, sealed, out, tag),
        other => open_in_rust(other, key, nonce, associated, pair(sealed, out)?, tag),
    }
}

fn seal_in_rust(
    cipher: Cipher,
    key: &[u8; KEY],
    nonce: &[u8; NONCE],
    associated: &[u8; ASSOCIATED],
    data: InOutBuf<'_, '_, u8>,
) -> Result<[u8; TAG], Forged> {
    match cipher {
        Cipher::XChaCha20Poly1305 => rust_crypto::seal::<XChaCha20Poly1305>(key, nonce, associated, data),
        #[cfg(feature = "aes-gcm")]
        Cipher::Aes256Gcm => rust_crypto::seal::<Aes256Gcm>(key, nonce, associated, data),
        // In C, or not in this build: see `available`.
        _ => Err(Forged::Data),
    }
}

fn open_in_rust(
    cipher: Cipher,
    key: &[u8; KEY],
    nonce: &[u8; NONCE],
    associated: &[u8; ASSOCIATED],
    data: InOutBuf<'_, '_, u8>,
    tag: &[u8; TAG],
) -> Result<(), Forged> {
    match cipher {
        Cipher::XChaCha20Poly1305 => {
            rust_crypto::open::<XChaCha20Poly1305>(key, nonce, associated, data, tag)
        }
        #[cfg(feature = "aes-gcm")]
        Cipher::Aes256Gcm => rust_crypto::open::<Aes256Gcm>(key, nonce, associated, data, tag),
        // As above.
        _ => Err(Forged::Data),
    }
}

fn pair<'a, 'b>(from: &'a [u8], to: &'b mut [u8]) -> Result<InOutBuf<'a, 'b, u8>, Forged> {
    InOutBuf::new(from, to).map_err(|_| Forged::Data)
}

/// For ciphers that want bytes to write to, not just room. They take so long that this does not matter.
#[allow(unsafe_code)]
fn zeroed(out: &mut [MaybeUninit<u8>]) -> &mut [u8] {
    out.fill(MaybeUninit::new(0));
    // SAFETY: every byte was just written.
    unsafe { &mut *(std::ptr::from_mut(out) as *mut [u8]) }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

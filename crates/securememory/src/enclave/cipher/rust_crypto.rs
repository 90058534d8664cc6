//! XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha) and AES-256-GCM (NIST SP 800-38D), both from the RustCrypto project.
//!
//! Their nonces are shorter than ours: they take the first bytes for one, and the rest is bound like associated data.

use chacha20poly1305::KeyInit;
use chacha20poly1305::aead::array::typenum::Unsigned;
use chacha20poly1305::aead::consts::{U16, U32};
use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::aead::{AeadCore, AeadInOut, Nonce};

use super::{ASSOCIATED, Forged, KEY, NONCE, TAG};

#[cfg(feature = "aes-gcm")]
pub(super) use aes_gcm::Aes256Gcm;
pub(super) use chacha20poly1305::XChaCha20Poly1305;

/// Room for all that is bound.
type Bound = [u8; ASSOCIATED + NONCE];

/// What the cipher takes for a nonce, and what it binds.
fn split<'a, 'b, A: AeadCore>(
    nonce: &'a [u8; NONCE],
    associated: &[u8; ASSOCIATED],
    bound: &'b mut Bound,
) -> Result<(&'a Nonce<A>, &'b [u8]), Forged> {
    let (short, rest) = nonce.split_at_checked(A::NonceSize::USIZE).ok_or(Forged::Data)?;
    let bound = bound.get_mut(..ASSOCIATED + rest.len()).ok_or(Forged::Data)?;
    let (first, last) = bound.split_at_mut_checked(ASSOCIATED).ok_or(Forged::Data)?;
    first.copy_from_slice(associated);
    last.copy_from_slice(rest);
    Ok((short.try_into().map_err(|_| Forged::Data)?, bound))
}

// Not inlined: the large frames would be those of every read, and of every scrub, under the other ciphers too.
#[inline(never)]
pub(super) fn seal<A: KeyInit<KeySize = U32> + AeadInOut<TagSize = U16>>(
    key: &[u8; KEY],
    nonce: &[u8; NONCE],
    associated: &[u8; ASSOCIATED],
    data: InOutBuf<'_, '_, u8>,
) -> Result<[u8; TAG], Forged> {
    let mut bound = [0; ASSOCIATED + NONCE];
    let (nonce, bound) = split::<A>(nonce, associated, &mut bound)?;
    encrypt::<A>(key, nonce, bound, data)
}

// As above.
#[inline(never)]
pub(super) fn open<A: KeyInit<KeySize = U32> + AeadInOut<TagSize = U16>>(
    key: &[u8; KEY],
    nonce: &[u8; NONCE],
    associated: &[u8; ASSOCIATED],
    data: InOutBuf<'_, '_, u8>,
    tag: &[u8; TAG],
) -> Result<(), Forged> {
    let mut bound = [0; ASSOCIATED + NONCE];
    let (nonce, bound) = split::<A>(nonce, associated, &mut bound)?;
    decrypt::<A>(key, nonce, bound, data, tag)
}

/// The cipher as it is published.
#[inline]
pub(super) fn encrypt<A: KeyInit<KeySize = U32> + AeadInOut<TagSize = U16>>(
    key: &[u8; KEY],
    nonce: &Nonce<A>,
    bound: &[u8],
    data: InOutBuf<'_, '_, u8>,
) -> Result<[u8; TAG], Forged> {
    A::new(key.into()).encrypt_inout_detached(nonce, bound, data).map(Into::into).map_err(|_| Forged::Data)
}

/// As above. Both crates look at the tag before they decrypt.
#[inline]
pub(super) fn decrypt<A: KeyInit<KeySize = U32> + AeadInOut<TagSize = U16>>(
    key: &[u8; KEY],
    nonce: &Nonce<A>,
    bound: &[u8],
    data: InOutBuf<'_, '_, u8>,
    tag: &[u8; TAG],
) -> Result<(), Forged> {
    A::new(key.into()).decrypt_inout_detached(nonce, bound, data, tag.into()).map_err(|_| Forged::Data)
}

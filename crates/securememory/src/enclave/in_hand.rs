//! A key in the hands of a thread that is in its window, and the nonces it seals with.

use std::mem::MaybeUninit;

use crate::enclave::cipher::{self, Confirmation, Forged, KEY, NONCE};
use crate::enclave::{Binding, Envelope, Sealed};
use crate::os::{self, CallResult};
use crate::policy::Cipher;

/// Nonces for seals that are made one after the other, a few of them drawn with one call.
///
/// They are from the kernel, fresh for each seal, and never kept for later: who draws them is in its window and uses them
/// up at once, for plaintext that is there already. So a process that is set back to an earlier state (a snapshot of a
/// virtual machine, a checkpoint) either draws others, or seals the same bytes once more.
pub(crate) struct Nonces {
    /// At most 256 bytes, which getrandom(2) gives whole.
    drawn: [[u8; NONCE]; 8],
    used: usize,
}

impl Nonces {
    pub(crate) fn new() -> Self {
        Self { drawn: [[0; NONCE]; 8], used: 8 }
    }

    /// One that was never given out.
    pub(crate) fn draw(&mut self) -> CallResult<[u8; NONCE]> {
        if self.used >= self.drawn.len() {
            os::fill_random(self.drawn.as_flattened_mut())?;
            self.used = 0;
        }
        let nonce = self.drawn.get(self.used).copied().unwrap_or_default();
        self.used += 1;
        Ok(nonce)
    }
}

/// A vault's key in the hands of a thread that is in its window.
pub(crate) struct InHand<'a> {
    pub(super) cipher: Cipher,
    pub(super) key: &'a [u8; KEY],
    pub(super) confirmation: &'a Confirmation,
}

impl InHand<'_> {
    /// Decrypts into `out`, which is as long as the ciphertext.
    #[inline]
    pub(crate) fn open(&self, sealed: &Sealed<'_>, out: &mut [u8]) -> Result<(), Forged> {
        let cipher = cipher::for_len(self.cipher, sealed.ciphertext.len());
        let associated = sealed.binding.associated(cipher, sealed.ciphertext.len());
        let Envelope { nonce, tag } = sealed.envelope;
        cipher::open(cipher, self.key, nonce, &associated, sealed.ciphertext, out, tag)
            // Where it is the key that is wrong, it is not the data that was tampered with.
            .map_err(|forged| if self.is_right() { forged } else { Forged::Key })
    }

    /// Encrypts into `out`, which is as long as the plaintext, under a nonce that was never used. The key must have been
    /// found right.
    #[inline]
    pub(crate) fn seal(
        &self,
        binding: Binding,
        nonce: &[u8; NONCE],
        plain: &[u8],
        out: &mut [MaybeUninit<u8>],
    ) -> Result<Envelope, Forged> {
        let cipher = cipher::for_len(self.cipher, plain.len());
        let associated = binding.associated(cipher, plain.len());
        let tag = cipher::seal(cipher, self.key, nonce, &associated, plain, out)?;
        Ok(Envelope { nonce: *nonce, tag })
    }

    /// Is it the vault's key? The check value that its hold has compared does not say that.
    #[inline]
    pub(crate) fn is_right(&self) -> bool {
        self.confirmation.confirms(self.key)
    }
}

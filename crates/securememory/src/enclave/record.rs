//! What a record is besides ciphertext: what it is bound to, and what stands before it.

use crate::enclave::cipher::{self, ASSOCIATED, NONCE, TAG};
use crate::policy::Cipher;

/// What a ciphertext is bound to.
#[derive(Clone, Copy)]
pub(crate) struct Binding {
    pub(crate) vault: u64,
    pub(crate) secret: u64,
    pub(crate) version: u64,
    pub(crate) epoch: u64,
}

impl Binding {
    /// `"smv1"`, cipher, vault, secret, version, epoch, length; little endian.
    #[inline]
    pub(super) fn associated(&self, cipher: Cipher, len: usize) -> [u8; ASSOCIATED] {
        let mut bytes = [0; ASSOCIATED];
        bytes[..4].copy_from_slice(b"smv1");
        bytes[4..8].copy_from_slice(&cipher::number(cipher).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.vault.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.secret.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.version.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[40..48].copy_from_slice(&(len as u64).to_le_bytes());
        bytes
    }
}

/// What stands before the ciphertext in a record.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Envelope {
    pub(crate) nonce: [u8; NONCE],
    pub(crate) tag: [u8; TAG],
}

/// Ciphertext to be opened.
pub(crate) struct Sealed<'a> {
    pub(crate) binding: Binding,
    pub(crate) envelope: &'a Envelope,
    pub(crate) ciphertext: &'a [u8],
}

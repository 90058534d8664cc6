//! What is searched for, kept masked.
//!
//! A searcher that held the secret in plain would find itself, and would put a copy of the user's key where the
//! key must not be. So a needle is two random-looking halves; every comparison masks the byte from memory
//! instead of unmasking the needle.

use std::hint::black_box;
use std::io;

use serde::{Deserialize, Serialize};

/// So many bytes in a row make a match. Shorter ones occur by chance.
pub const WINDOW: usize = 8;

/// A secret, masked, with the windows of it that prove nothing.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Needle {
    masked: Vec<u8>,
    mask: Vec<u8>,
    /// Windows that a process without the secret has too, sorted.
    common: Vec<u32>,
}

impl Needle {
    /// A random secret that nobody has ever seen: both halves are random.
    pub fn random(len: usize) -> io::Result<Self> {
        Ok(Self { masked: random(len)?, mask: random(len)?, common: Vec::new() })
    }

    /// What was masked already, with its mask.
    #[cfg(target_os = "linux")]
    pub fn masked(masked: Vec<u8>, mask: Vec<u8>) -> Self {
        Self { masked, mask, common: Vec::new() }
    }

    /// Masks bytes that are at hand.
    pub fn hide(bytes: impl IntoIterator<Item = u8>) -> io::Result<Self> {
        let mut needle = Self::default();
        let mut bytes = bytes.into_iter();
        loop {
            let mask = random(1024)?;
            let masked: Vec<u8> = mask.iter().zip(&mut bytes).map(|(mask, byte)| mask ^ byte).collect();
            let full = masked.len() == mask.len();
            needle.masked.extend_from_slice(&masked);
            needle.mask.extend_from_slice(&mask[..masked.len()]);
            if !full {
                return Ok(needle);
            }
        }
    }

    /// Adds one byte.
    pub fn push(&mut self, byte: u8) -> io::Result<()> {
        let mask = random(1)?[0];
        self.masked.push(byte ^ mask);
        self.mask.push(mask);
        Ok(())
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.masked.len()
    }

    /// Writes the secret itself, once, to where it is to be kept.
    pub fn fill(&self, place: &mut [u8]) {
        for ((place, masked), mask) in place.iter_mut().zip(&self.masked).zip(&self.mask) {
            // One byte at a time: a vectorised loop would leave the secret in registers, a leak of the doctor's own.
            *place = black_box(*masked) ^ black_box(*mask);
        }
    }

    /// The secret itself, for an attacker who has to try it.
    pub fn show(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        self.fill(&mut bytes);
        bytes
    }

    /// Are these bytes the secret?
    pub fn is(&self, bytes: &[u8]) -> bool {
        let mut differences = 0;
        for ((byte, masked), mask) in bytes.iter().zip(&self.masked).zip(&self.mask) {
            // black_box: the compiler must not turn it round and unmask the needle.
            differences |= black_box(byte ^ mask) ^ masked;
        }
        bytes.len() == self.len() && differences == 0
    }

    /// The windows, each as (number, masked, mask), without those that prove nothing.
    pub fn windows(&self) -> impl Iterator<Item = (u32, u64, u64)> + '_ {
        let masked = self.masked.windows(WINDOW);
        let mask = self.mask.windows(WINDOW);
        let numbered =
            (0u32..).zip(masked.zip(mask)).map(|(number, (masked, mask))| (number, word(masked), word(mask)));
        numbered.filter(|(number, ..)| self.common.binary_search(number).is_err())
    }

    /// Says which windows occur in a process without the secret; they are not searched for any more.
    pub fn leave_out(&mut self, common: &[u32]) {
        self.common.extend_from_slice(common);
        self.common.sort_unstable();
        self.common.dedup();
    }
}

impl Drop for Needle {
    /// Both halves in freed memory would be two shares of the secret, which a thief puts together.
    fn drop(&mut self) {
        self.mask.fill(0);
        black_box(&self.mask);
    }
}

/// The first bytes as a number.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().take(WINDOW).rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

/// Kernel random bytes.
pub fn random(len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    crate::system::random(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn masked_and_back() {
        let text = b"correct horse battery staple";
        let needle = Needle::hide(*text).unwrap();
        let mut place = [0; 28];
        needle.fill(&mut place);
        assert_eq!(&place, text);
        assert!(needle.is(text));
        assert!(!needle.is(b"correct horse battery stapel"));
        assert!(!needle.is(&text[..27]));
        assert_eq!(needle.windows().count(), 21);
    }

    #[test]
    fn long_needles_are_masked_whole() {
        // Lengths, not a page size.
        for len in [1023, 1024, 1025, 4096] {
            let bytes: Vec<u8> = (0..len).map(|n: u32| n as u8).collect();
            let needle = Needle::hide(bytes.iter().copied()).unwrap();
            assert_eq!(needle.len(), bytes.len());
            assert!(needle.is(&bytes));
        }
    }
}

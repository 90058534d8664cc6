//! Does this processor compute AEGIS as it is published? Asked once for each variant, with a vector of the publication,
//! before the variant is used: an emulator that gets one wide AES instruction wrong was met, under which every tag was
//! zeros, so that nothing was bound to anything. Keys and texts here are public.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU8, Ordering};

use super::aegis::{AEGIS_256, AEGIS_256_X4, Variant};
use super::{KEY, NONCE, TAG};

/// Bytes of the longest text.
const MOST: usize = 120;

/// A vector of draft-irtf-cfrg-aegis-aead-17, appendix A.
struct Vector {
    key: [u8; KEY],
    nonce: [u8; NONCE],
    associated: &'static [u8],
    text: &'static [u8],
    tag: u128,
}

/// The fifth of AEGIS-256.
const OF_256: Vector = Vector {
    key: from(&[0x10, 0x01]),
    nonce: from(&[0x10, 0x00, 0x02]),
    associated: &counted::<42>(0, 42),
    text: &counted::<40>(0x10, 40),
    tag: 0xab8a_7d53_fd0e_98d7_27ac_cca9_4925_e128,
};

/// Of AEGIS-256X4, in A.7.3.
const OF_256_X4: Vector = Vector {
    key: counted(0, 32),
    nonce: counted(0x10, 32),
    associated: &[1, 2, 3, 4, 1, 2, 3, 4],
    text: &counted::<MOST>(4, 4),
    tag: 0xb63b_611b_1397_5e2f_3dc3_cb6c_2397_bfcd,
};

/// These bytes, and zeros.
const fn from<const N: usize>(first: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    let mut at = 0;
    while at < first.len() {
        bytes[at] = first[at];
        at += 1;
    }
    bytes
}

/// Counts up from `first`, and begins again after `period` bytes.
const fn counted<const N: usize>(first: u8, period: usize) -> [u8; N] {
    let mut bytes = [0; N];
    let mut at = 0;
    while at < N {
        bytes[at] = first + (at % period) as u8;
        at += 1;
    }
    bytes
}

/// What is known of a variant: threads that ask at once find the same.
struct Known(AtomicU8);

impl Known {
    const UNKNOWN: u8 = 0;
    const RIGHT: u8 = 1;
    const WRONG: u8 = 2;

    const fn new() -> Self {
        Self(AtomicU8::new(Self::UNKNOWN))
    }

    #[inline]
    fn right(&self, ask: impl FnOnce() -> bool) -> bool {
        match self.0.load(Ordering::Relaxed) {
            Self::UNKNOWN => self.ask(ask),
            known => known == Self::RIGHT,
        }
    }

    #[cold]
    fn ask(&self, ask: impl FnOnce() -> bool) -> bool {
        let right = ask();
        self.0.store(if right { Self::RIGHT } else { Self::WRONG }, Ordering::Relaxed);
        right
    }
}

pub(super) fn aegis_256() -> bool {
    static KNOWN: Known = Known::new();
    KNOWN.right(|| agrees(AEGIS_256, &OF_256))
}

#[inline]
pub(super) fn aegis_256_x4() -> bool {
    static KNOWN: Known = Known::new();
    KNOWN.right(|| agrees(AEGIS_256_X4, &OF_256_X4))
}

/// Does sealing give the tag, and opening the text again?
fn agrees(variant: Variant, vector: &Vector) -> bool {
    let Vector { key, nonce, associated, text, tag } = vector;
    let tag: [u8; TAG] = tag.to_be_bytes();
    let (mut sealed, mut opened) = ([MaybeUninit::new(0); MOST], [0; MOST]);
    let (Some(sealed), Some(opened)) = (sealed.get_mut(..text.len()), opened.get_mut(..text.len())) else {
        return false;
    };
    variant.seal(key, nonce, associated, text, sealed) == Ok(tag)
        && variant.open(key, nonce, associated, written(sealed), opened, &tag) == Ok(())
        && opened == *text
}

/// What was initialised when it was made.
#[allow(unsafe_code)]
fn written(bytes: &[MaybeUninit<u8>]) -> &[u8] {
    // SAFETY: `agrees` makes every byte with a value, and sealing does not take one away.
    unsafe { &*(std::ptr::from_ref(bytes) as *const [u8]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_answer_is_found_out() {
        for (variant, vector) in [(AEGIS_256, OF_256), (AEGIS_256_X4, OF_256_X4)] {
            assert!(!agrees(variant, &Vector { tag: vector.tag ^ 1, ..vector }));
        }
        assert!(agrees(AEGIS_256, &OF_256));
    }

    #[test]
    fn it_is_asked_for_once() {
        for answer in [true, false] {
            let (known, mut asked) = (Known::new(), 0);
            for _ in 0..3 {
                let right = known.right(|| {
                    asked += 1;
                    answer
                });
                assert_eq!(right, answer);
            }
            assert_eq!(asked, 1);
        }
    }
}

//! The bytes of a program's secrets, kept so that a search of the process does not find the program's own knowledge.

use zeroize::Zeroize;

use super::common::Needle;

/// Added to each byte.
const MASK: u8 = 0x5b;

/// What a secret must have. Never unmasked as a whole.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Value(Vec<u8>);

impl Value {
    /// Bytes of the needle.
    pub fn of(needle: &Needle, from: usize, len: usize) -> Self {
        let byte = |at: usize| needle.byte((from + at) % needle.len()).wrapping_add(MASK);
        Self((0..len).map(byte).collect())
    }

    /// Bytes that nobody knows beforehand.
    pub fn seen(bytes: &[u8]) -> Self {
        Self(bytes.iter().map(|byte| byte.wrapping_add(MASK)).collect())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is(&self, bytes: &[u8]) -> bool {
        self.0.len() == bytes.len()
            && self.0.iter().zip(bytes).all(|(own, byte)| own.wrapping_sub(MASK) == *byte)
    }

    /// Do so many of its first bytes lie there that it is not by chance?
    pub fn shows_in(&self, bytes: &[u8]) -> bool {
        let known = self.0.len().min(bytes.len());
        known >= 8 && self.part(0, known).is(&bytes[..known])
    }

    pub fn part(&self, start: usize, end: usize) -> Self {
        Self(self.0[start..end].to_vec())
    }

    pub fn push(&mut self, more: &Self) {
        self.0.extend_from_slice(&more.0);
    }

    pub fn set(&mut self, at: usize, byte: u8) {
        self.0[at] = byte.wrapping_add(MASK);
    }

    pub fn write(&self, room: &mut [u8]) {
        for (place, byte) in room.iter_mut().zip(&self.0) {
            *place = byte.wrapping_sub(MASK);
        }
    }

    pub fn bytes(&self) -> Plain {
        let mut bytes = Plain(vec![0; self.0.len()]);
        self.write(&mut bytes);
        bytes
    }
}

/// Bytes in the clear, for as long as it lives.
#[derive(Default)]
pub struct Plain(pub Vec<u8>);

impl Drop for Plain {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::ops::Deref for Plain {
    type Target = Vec<u8>;
    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl std::ops::DerefMut for Plain {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

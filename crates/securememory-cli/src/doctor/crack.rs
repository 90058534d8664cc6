//! What a thief does with what he has: tries everything that could be the vault's key on a sealed record.
//!
//! Where things lie is no secret (ARCHITECTURE.md): a record is `[nonce 32][tag 16][ciphertext]`, its associated
//! data names vault, secret, version and epoch, and with the hold Split the key is the exclusive-or of 32 bytes in an
//! in-memory file and 32 bytes in memory. The thief is told where the record lies; he only has to find the key.

use std::io;
use std::ops::Range;

use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305};
use serde::{Deserialize, Serialize};

use super::memory::{Mapping, Sight, walk};

/// Bytes of a key and of each of its shares.
pub const KEY: usize = 32;
const NONCE: usize = 32;
const TAG: usize = 16;

/// Where a record lies and what it is bound to, as `Secret::status` tells.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RecordAt {
    /// First byte in the victim's memory.
    pub address: usize,
    /// 1: AEGIS-256, 2: XChaCha20-Poly1305.
    pub cipher: u32,
    /// The vault.
    pub vault: u64,
    /// The secret.
    pub id: u64,
    /// How often it was changed.
    pub version: u64,
    /// Which of the vault's keys it is under.
    pub epoch: u64,
    /// Bytes of the secret.
    pub len: usize,
}

impl RecordAt {
    /// All of it: nonce, tag, ciphertext.
    pub fn range(&self) -> Range<usize> {
        self.address..self.address + NONCE + TAG + self.len
    }
}

/// A record, taken out of the victim's memory.
pub struct Record {
    cipher: u32,
    /// Its nonce.
    pub nonce: [u8; NONCE],
    tag: [u8; TAG],
    ciphertext: Vec<u8>,
    bound: Vec<u8>,
}

impl Record {
    /// Takes it.
    pub fn take(sight: &Sight, at: &RecordAt) -> io::Result<Self> {
        let bytes = sight.bytes(at.address, at.range().len())?;
        Self::parse(&bytes, at).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// These bytes, taken for a record that is bound as `at` says; `None` if there are too few of them.
    pub fn parse(bytes: &[u8], at: &RecordAt) -> Option<Self> {
        let (nonce, rest) = bytes.split_first_chunk()?;
        let (tag, ciphertext) = rest.split_first_chunk()?;
        let numbers = [at.vault, at.id, at.version, at.epoch, at.len as u64];
        let mut bound = b"smv1".to_vec();
        bound.extend(at.cipher.to_le_bytes());
        bound.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        let ciphertext = ciphertext.get(..at.len)?.to_vec();
        Some(Self { cipher: at.cipher, nonce: *nonce, tag: *tag, ciphertext, bound })
    }

    /// The plaintext, if this is the key.
    pub fn open(&self, key: &[u8; KEY]) -> Option<Vec<u8>> {
        let mut bytes = self.ciphertext.clone();
        if self.cipher == 1 {
            let cipher = aegis::aegis256::Aegis256::<TAG>::new(key, &self.nonce);
            cipher.decrypt_in_place(&mut bytes, &self.tag, &self.bound).ok()?;
        } else if self.cipher == 4 {
            let cipher = aegis::aegis256x4::Aegis256X4::<TAG>::new(key, &self.nonce);
            cipher.decrypt_in_place(&mut bytes, &self.tag, &self.bound).ok()?;
        } else {
            let nonce = self.nonce.first_chunk::<24>()?;
            let bound = [&self.bound[..], &self.nonce[24..]].concat();
            let cipher = XChaCha20Poly1305::new(key.into());
            let place = bytes.as_mut_slice().into();
            cipher.decrypt_inout_detached(nonce.into(), &bound, place, (&self.tag).into()).ok()?;
        }
        Some(bytes)
    }
}

/// A key that opens the record, and where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The vault's key.
    pub key: [u8; KEY],
    /// Where it, or the share of it that lies in memory, was found.
    pub address: usize,
    /// What it was combined with.
    pub with: With,
}

/// What makes the key of 32 bytes in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// Nothing: they are the key.
    Nothing,
    /// These bytes of a file.
    File([u8; KEY]),
    /// Other bytes in memory, at this address.
    Memory(usize),
}

/// A search for the key.
pub struct Crack<'a> {
    record: &'a Record,
    shares: &'a [[u8; KEY]],
    step: usize,
    /// Sets of 32 bytes that were tried, each alone and with every share.
    pub tried: usize,
    /// The first of them, and where they were.
    kept: Vec<(usize, [u8; KEY])>,
    /// What was found.
    pub found: Option<Found>,
}

impl<'a> Crack<'a> {
    /// Prepares to try every `step` bytes; `shares` come from files.
    pub fn new(record: &'a Record, shares: &'a [[u8; KEY]], step: usize) -> Self {
        Self { record, shares, step, tried: 0, kept: Vec::new(), found: None }
    }

    /// Tries all of these bytes.
    pub fn look(&mut self, address: usize, bytes: &[u8]) {
        let start = address.next_multiple_of(self.step) - address;
        let windows = bytes.get(start..).unwrap_or_default().windows(KEY).step_by(self.step);
        for (place, window) in (address + start..).step_by(self.step).zip(windows) {
            let Some(candidate) = window.first_chunk::<KEY>().filter(|candidate| looks_random(candidate))
            else {
                continue;
            };
            if self.found.is_some() {
                return;
            }
            self.tried += 1;
            if self.kept.len() < MOST_PAIRED {
                self.kept.push((place, *candidate));
            }
            self.attempt(*candidate, place, With::Nothing);
            for share in self.shares {
                self.attempt(both(candidate, share), place, With::File(*share));
            }
        }
    }

    /// Tries every two of the sets that were kept together.
    pub fn look_at_pairs(&mut self) {
        let sets = std::mem::take(&mut self.kept);
        for (number, (place, one)) in sets.iter().enumerate() {
            for (address, other) in &sets[..number] {
                self.attempt(both(one, other), *address, With::Memory(*place));
            }
        }
    }

    fn attempt(&mut self, key: [u8; KEY], address: usize, with: With) {
        if self.found.is_none() && self.record.open(&key).is_some() {
            self.found = Some(Found { key, address, with });
        }
    }
}

/// So many sets of 32 bytes make half a second of pairs.
const MOST_PAIRED: usize = 4000;

fn both(one: &[u8; KEY], other: &[u8; KEY]) -> [u8; KEY] {
    std::array::from_fn(|byte| one[byte] ^ other[byte])
}

/// Keys and shares of keys look random; text, code, pointers and zeros do not. Of 32 random bytes at least 16
/// differ, but for one time in 10^12.
pub fn looks_random(bytes: &[u8; KEY]) -> bool {
    let mut seen = [0_u64; 4];
    for byte in bytes {
        seen[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }
    seen.iter().map(|word| word.count_ones()).sum::<u32>() >= 16
}

/// Searches what the process can have written for the key: every set of 32 bytes alone, with every share, and
/// every two sets together.
pub fn search(
    sight: &Sight,
    mappings: &[Mapping],
    record: &Record,
    shares: &[[u8; KEY]],
) -> (Option<Found>, usize) {
    let mut crack = everywhere(sight, mappings, record, shares);
    if crack.found.is_none() {
        crack.look_at_pairs();
    }
    (crack.found, crack.tried)
}

/// The same without pairs, which may still be tried.
pub fn everywhere<'a>(
    sight: &Sight,
    mappings: &[Mapping],
    record: &'a Record,
    shares: &'a [[u8; KEY]],
) -> Crack<'a> {
    // The heap comes last: in it lie the doctor's own masks, which look random too.
    let own: Vec<Mapping> = mappings.iter().rev().filter(|mapping| mapping.own()).cloned().collect();
    // Keys and shares are at least 16-byte aligned.
    let mut crack = Crack::new(record, shares, 16);
    walk(sight, &own, |address, bytes| crack.look(address, bytes));
    crack
}

#[cfg(test)]
pub mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// The bytes of a record, bound as `at` says.
    pub fn seal(at: &RecordAt, key: &[u8; KEY], nonce: [u8; NONCE], plain: &[u8]) -> Vec<u8> {
        let bytes = [&nonce[..], &[0; TAG], plain].concat();
        let Record { bound, mut ciphertext, .. } = Record::parse(&bytes, at).unwrap();
        let tag: [u8; TAG] = if at.cipher == 1 {
            let sealer = aegis::aegis256::Aegis256::<TAG>::new(key, &nonce);
            sealer.encrypt_in_place(&mut ciphertext, &bound)
        } else if at.cipher == 4 {
            let sealer = aegis::aegis256x4::Aegis256X4::<TAG>::new(key, &nonce);
            sealer.encrypt_in_place(&mut ciphertext, &bound)
        } else {
            let sealer = XChaCha20Poly1305::new(key.into());
            let bound = [&bound[..], &nonce[24..]].concat();
            let place = ciphertext.as_mut_slice().into();
            sealer
                .encrypt_inout_detached(nonce.first_chunk::<24>().unwrap().into(), &bound, place)
                .unwrap()
                .into()
        };
        [&nonce[..], &tag, &ciphertext].concat()
    }

    fn sealed(cipher: u32, key: [u8; KEY]) -> (Record, Vec<u8>) {
        let plain = b"what is kept".to_vec();
        let at = RecordAt { address: 0, cipher, vault: 3, id: 2, version: 1, epoch: 4, len: plain.len() };
        (Record::parse(&seal(&at, &key, [7; NONCE], &plain), &at).unwrap(), plain)
    }

    #[test]
    fn finds_a_key_alone_and_with_a_share() {
        let key: [u8; KEY] = std::array::from_fn(|n| (n * 7 + 3) as u8);
        let share: [u8; KEY] = std::array::from_fn(|n| (n * 91 + 40) as u8);
        let mut other = key;
        other.iter_mut().zip(share).for_each(|(byte, share)| *byte ^= share);
        for cipher in [1, 2, 4] {
            let (record, plain) = sealed(cipher, key);
            for (hidden, with) in [(key, With::Nothing), (other, With::File(share))] {
                let mut memory = vec![0; 200];
                memory[68..100].copy_from_slice(&hidden);
                let shares = [[9; KEY], share];
                let mut crack = Crack::new(&record, &shares, 4);
                // not a page size: addresses.
                crack.look(0x1000, &memory);
                let found = crack.found.unwrap();
                assert_eq!((found.address, found.with), (0x1000 + 68, with));
                assert_eq!(record.open(&found.key).unwrap(), plain);
                let mut misaligned = Crack::new(&record, &shares, 8);
                misaligned.look(0x1000, &memory);
                assert!(misaligned.found.is_none());
            }
            let mut memory = vec![0; 200];
            memory[32..64].copy_from_slice(&share);
            memory[128..160].copy_from_slice(&other);
            let mut crack = Crack::new(&record, &[], 16);
            // An address, not a page size.
            crack.look(0x1000, &memory);
            assert!(crack.found.is_none());
            crack.look_at_pairs();
            assert_eq!(crack.found, Some(Found { key, address: 0x1020, with: With::Memory(0x1080) }));
        }
    }

    #[test]
    fn text_and_pointers_do_not_look_random() {
        assert!(!looks_random(b"this is only text, text and text"));
        assert!(!looks_random(&[0; KEY]));
        assert!(looks_random(&std::array::from_fn(|n| (n * 7) as u8)));
    }
}

//! Values that tell whether they are right: every byte follows from the number of the secret and the version.

use super::random::Random;

/// Bytes at the start of every value: number, version, and a sum over both and the length.
pub const HEAD: usize = 24;

/// Lengths of secrets: small ones, and those around the end of a page with what the library puts beside them.
// Lengths, not a page size.
pub const LENGTHS: [usize; 10] = [24, 40, 64, 1000, 3952, 3953, 4080, 4081, 4096, 5000];

/// Marks a version that is written and never made valid: nobody may see it but its writer.
pub const DISCARDED: u64 = 1 << 63;

/// A value that is not what it should be.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    /// How many bytes are wrong.
    pub bytes: u64,
    /// What is wrong. (No bytes, although these are no one's secrets: whoever adapts this keeps the habit.)
    pub what: String,
}

impl Wrong {
    /// The whole value is not the one it should be.
    pub fn whole(bytes: &[u8], what: String) -> Self {
        Self { bytes: bytes.len() as u64, what }
    }
}

/// The words of a value, without end.
fn words(number: u64, version: u64, len: usize) -> impl Iterator<Item = [u8; 8]> {
    let mut random = Random::new(number ^ version.rotate_left(24) ^ (len as u64).rotate_left(48));
    let sum = random.next();
    let rest = std::iter::from_fn(move || Some(random.next()));
    [number, version, sum].into_iter().chain(rest).map(u64::to_le_bytes)
}

/// Writes the value.
pub fn write(room: &mut [u8], number: u64, version: u64) {
    let len = room.len();
    for (chunk, word) in room.chunks_mut(8).zip(words(number, version, len)) {
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

/// Checks every byte, and says which version it is.
pub fn check(bytes: &[u8], number: u64) -> Result<u64, Wrong> {
    let version = bytes.get(8..16).and_then(|word| word.try_into().ok()).map(u64::from_le_bytes);
    let Some(version) = version.filter(|_| bytes.len() >= HEAD) else {
        return Err(Wrong::whole(bytes, format!("{} bytes are no value", bytes.len())));
    };
    let (mut wrong, mut first) = (0, None);
    for (n, (chunk, word)) in bytes.chunks(8).zip(words(number, version, bytes.len())).enumerate() {
        if *chunk == word[..chunk.len()] {
            continue;
        }
        for (m, _) in chunk.iter().zip(word).enumerate().filter(|(_, (is, should))| **is != *should) {
            wrong += 1;
            first.get_or_insert(8 * n + m);
        }
    }
    match first {
        None => Ok(version),
        Some(first) => {
            let len = bytes.len();
            Err(Wrong {
                bytes: wrong,
                what: format!("{wrong} of {len} bytes are wrong, the first at {first}"),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_single_wrong_bit_is_seen() {
        for len in LENGTHS {
            let mut bytes = vec![0; len];
            write(&mut bytes, 7, 1000);
            assert_eq!(check(&bytes, 7), Ok(1000));
            for at in 0..len {
                bytes[at] ^= 1 << (at % 8);
                let wrong = check(&bytes, 7).unwrap_err();
                // A wrong version makes all that follows from it wrong.
                assert!(wrong.bytes == 1 || (8..16).contains(&at) && wrong.bytes >= 6, "{at}: {wrong:?}");
                bytes[at] ^= 1 << (at % 8);
            }
        }
    }

    #[test]
    fn the_value_of_another_secret_or_a_torn_one_is_wrong() {
        let (mut old, mut new) = ([0; 64], [0; 64]);
        write(&mut old, 1, 5);
        write(&mut new, 1, 6);
        assert!(check(&old, 2).is_err());
        old[32..].copy_from_slice(&new[32..]);
        assert!(check(&old, 1).unwrap_err().bytes > 20);
        assert!(check(&[0; 64], 1).is_err());
        assert_eq!(check(&[1; 23], 1).unwrap_err().bytes, 23);
    }
}

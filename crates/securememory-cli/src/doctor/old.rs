//! Older records: what a key opens besides the record that is in force.

use super::crack::{KEY, Record, RecordAt, looks_random};
use super::snapshot::Piece;

/// How many secrets that were made after the first may have held the same bytes.
const COPIES: u64 = 16;

/// What records of this secret, and of copies that were made of it later, may have been bound to so far.
pub fn with_copies(now: &RecordAt) -> Vec<RecordAt> {
    (now.id..=now.id + COPIES).flat_map(|id| versions(&RecordAt { id, ..*now })).collect()
}

/// What records of this secret may have been bound to so far.
pub fn versions(now: &RecordAt) -> Vec<RecordAt> {
    let epochs = (0..=now.epoch).map(|epoch| RecordAt { epoch, ..*now });
    epochs.flat_map(|now| (0..=now.version).map(move |version| RecordAt { version, ..now })).collect()
}

/// Where this key opens a record that is bound in one of these ways, which are of one length.
pub fn openings(key: &[u8; KEY], pieces: &[Piece], bindings: &[RecordAt]) -> Vec<usize> {
    let mut found = Vec::new();
    for (start, bytes) in pieces {
        let aligned = start.next_multiple_of(8)..start + bytes.len();
        for address in aligned.step_by(8) {
            let Some(bytes) = bytes.get(address - start..) else { break };
            // A nonce comes first.
            if !bytes.first_chunk().is_some_and(looks_random) {
                continue;
            }
            let opens =
                |at: &RecordAt| Record::parse(bytes, at).is_some_and(|record| record.open(key).is_some());
            if bindings.iter().any(opens) {
                found.push(address);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::crack::tests::seal;
    use super::*;

    #[test]
    fn an_old_record_is_found_wherever_it_lies_and_a_wiped_one_is_not() {
        let key = std::array::from_fn(|n| (n * 7 + 3) as u8);
        let nonce = std::array::from_fn(|n| (n * 11 + 5) as u8);
        for cipher in [1, 2] {
            let now = RecordAt { address: 0, cipher, vault: 9, id: 2, version: 5, epoch: 2, len: 21 };
            let old = RecordAt { version: 3, epoch: 1, ..now };
            let copy = RecordAt { id: 7, version: 0, ..now };
            let record = seal(&old, &key, nonce, b"once this was in use ");
            let mut memory = vec![0; 1000];
            memory[68..68 + record.len()].copy_from_slice(&record);
            memory[500..500 + record.len()].copy_from_slice(&seal(
                &copy,
                &key,
                nonce,
                b"and this was a copy  ",
            ));
            let mut pieces = vec![(0x1004, memory)];
            assert_eq!(openings(&key, &pieces, &versions(&now)), [0x1004 + 68]);
            assert_eq!(openings(&key, &pieces, &with_copies(&now)), [0x1004 + 68, 0x1004 + 500]);
            assert!(openings(&[1; KEY], &pieces, &with_copies(&now)).is_empty());
            let later = RecordAt { id: 3, ..now };
            assert!(openings(&key, &pieces, &versions(&later)).is_empty(), "of another secret");
            pieces[0].1[68 + 32..68 + 48].fill(0);
            assert!(openings(&key, &pieces, &versions(&now)).is_empty(), "without its tag");
        }
    }
}

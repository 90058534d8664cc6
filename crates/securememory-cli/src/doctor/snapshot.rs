//! Memory as it was at one moment, kept by the thief.

use super::memory::{Mapping, Sight, walk};

/// Bytes in a row, and where they were.
pub type Piece = (usize, Vec<u8>);

/// All that can be read of what the process can have written.
pub fn snapshot(sight: &Sight, mappings: &[Mapping]) -> Vec<Piece> {
    let own: Vec<Mapping> = mappings.iter().filter(|mapping| mapping.own()).cloned().collect();
    let mut pieces: Vec<Piece> = Vec::new();
    walk(sight, &own, |address, bytes| match pieces.last_mut() {
        // What is shown again is known.
        Some((start, piece)) if (*start..=*start + piece.len()).contains(&address) => {
            piece.extend_from_slice(&bytes[*start + piece.len() - address..]);
        }
        _ => pieces.push((address, bytes.to_vec())),
    });
    pieces
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::memory::mappings;
    use super::*;

    #[test]
    fn what_is_longer_than_one_look_is_in_one_piece() {
        let pid = std::process::id();
        let bytes: Vec<u8> =
            (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let at = bytes.as_ptr().addr();
        let pieces = snapshot(&Sight::outside(pid).unwrap(), &mappings(pid).unwrap());
        let whole = |(start, piece): &Piece| {
            at.checked_sub(*start).and_then(|from| piece.get(from..from + bytes.len())) == Some(&bytes[..])
        };
        assert!(pieces.iter().any(whole));
    }
}

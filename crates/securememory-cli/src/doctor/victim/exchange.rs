//! `exchange-ciphertexts`: what two secrets are at rest, exchanged by stray stores.

use std::ops::Range;

use securememory::Error;

use super::held::Held;
use super::inside::{Change, nowhere, read_changed};
use crate::doctor::memory::{Sight, Stray};
use crate::doctor::needle::Needle;
use crate::doctor::order::Order;
use crate::doctor::verdict::{Trouble, Verdict};

/// With another secret of the same vault, and with one of another vault, both of the same length.
pub fn exchange(order: &Order, held: &Held) -> Result<Verdict, Trouble> {
    let other = Needle::random(order.needle.len())?;
    let pairs =
        [("in one vault", held.sibling(&other)?), ("between two vaults", Held::make(order.kept, &other)?)];
    let mut seen = Vec::new();
    for (where_to, with) in &pairs {
        match exchange_with(order, held, with, &other)? {
            Outcome::Noticed => seen.push(format!("{where_to}: both reads say \"{}\"", Error::Tampered)),
            Outcome::Faulted => seen.push(format!("{where_to}: every store faulted")),
            Outcome::Unnoticed => {
                return Ok(Verdict::leaked(format!("{where_to}: other bytes were read, and nobody noticed")));
            }
        }
    }
    Ok(Verdict::blocked(format!("{}; exchanged back, both read as before", seen.join(", "))))
}

enum Outcome {
    Noticed,
    Faulted,
    Unnoticed,
}

fn exchange_with(order: &Order, held: &Held, with: &Held, other: &Needle) -> Result<Outcome, Trouble> {
    let places = [held.facts().at_rest().ok_or_else(nowhere)?, with.facts().at_rest().ok_or_else(nowhere)?];
    let sight = Sight::inside()?;
    let read = |place: &Range<usize>| sight.bytes(place.start, place.len());
    // Where a page cannot be read, it is only of interest whether the store faults as well.
    let [ours, theirs] = places.each_ref().map(|place| read(place).unwrap_or_else(|_| vec![0; place.len()]));
    let readable = places.iter().all(|place| read(place).is_ok());
    let stray = Stray::new()?;
    let stored = put(&stray, &places[0], &theirs) + put(&stray, &places[1], &ours);
    let outcome = match stored {
        0 => Outcome::Faulted,
        _ if !readable || stored < 2 * ours.len() => {
            return Err(Trouble::failed(format!("only {stored} bytes could be exchanged")));
        }
        _ => {
            let changes = [read_changed(held, &order.needle), read_changed(with, other)];
            put(&stray, &places[0], &ours);
            put(&stray, &places[1], &theirs);
            judge(&changes)?
        }
    };
    // The proof that it was the exchange that was noticed, and that a store that faulted did not store.
    for (held, needle) in [(held, &order.needle), (with, other)] {
        held.read(needle).map_err(|why| Trouble::failed(format!("all put back, but a read gives {why}")))?;
    }
    Ok(outcome)
}

fn judge(changes: &[Change]) -> Result<Outcome, Trouble> {
    for change in changes {
        match change {
            Change::Unnoticed => return Ok(Outcome::Unnoticed),
            Change::Idle => return Err(Trouble::failed("the exchange made no difference")),
            Change::Noticed(why) if *why == Error::Tampered.to_string() => {}
            Change::Noticed(why) => {
                return Err(Trouble::failed(format!("noticed, but as something else: {why}")));
            }
        }
    }
    Ok(Outcome::Noticed)
}

/// Stores byte by byte, and returns how many stores did not fault.
fn put(stray: &Stray, place: &Range<usize>, bytes: &[u8]) -> usize {
    place.clone().zip(bytes).filter(|(address, byte)| stray.store(*address, **byte).is_ok()).count()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_reader_who_notices_nothing_is_enough() {
        let noticed = || Change::Noticed(Error::Tampered.to_string());
        assert!(matches!(judge(&[noticed(), noticed()]), Ok(Outcome::Noticed)));
        assert!(matches!(judge(&[noticed(), Change::Unnoticed]), Ok(Outcome::Unnoticed)));
        assert!(judge(&[noticed(), Change::Idle]).is_err());
        assert!(judge(&[noticed(), Change::Noticed(Error::KeyLost.to_string())]).is_err());
    }
}

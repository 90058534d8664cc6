//! `old-share`: what a thief has of before a refresh, with what he has of after it.

use super::captive::Captive;
use super::find_key;
use crate::doctor::crack::{Crack, Found, KEY, Record, With};
use crate::doctor::loot::{Through, loot};
use crate::doctor::memory::{Sight, mappings};
use crate::doctor::order::{Command, Order};
use crate::doctor::promises::Kept;
use crate::doctor::search::Search;
use crate::doctor::snapshot::{Piece, snapshot};
use crate::doctor::verdict::{Trouble, Verdict};

/// Takes everything twice, and crosses it.
pub fn old_share(order: &Order, mut victim: Captive) -> Result<Verdict, Trouble> {
    let sight = Sight::outside(victim.pid)?;
    let mut search = Search::new(order, None)?;
    let maps = mappings(victim.pid)?;
    search.memory(&sight, &maps);
    search.saw()?;
    if let Some(finds) = search.finds(&maps) {
        return Ok(Verdict::leaked(format!("before the refresh: {}, {finds}", search.walk)));
    }
    let Some(old) = find_key(order, &mut victim, &sight)? else {
        return Ok(Verdict::blocked(search.nothing()));
    };
    let before = Moment::take(order, &mut victim, &sight)?;
    victim.command_facts(Command::Refresh)?;
    let after = Moment::take(order, &mut victim, &sight)?;
    // A thief who cannot open what he has all of at one time is blind.
    let blind =
        |when: &str| Trouble::failed(format!("what was taken {when} the refresh does not open its record"));
    let whole = before.opens().ok_or_else(|| blind("before"))?.with == With::Nothing;
    after.opens().ok_or_else(|| blind("after"))?;
    if whole && order.kept == Kept::SealedSplit {
        return Ok(Verdict::leaked("the key lies in memory whole, not in two shares"));
    }
    let mut tried = 0;
    if let Some(how) = cross(&before, &after, whole, &mut tried) {
        return Ok(Verdict::leaked(how));
    }
    let maps = mappings(victim.pid)?;
    let mut search = Search::new(order, Some(&old))?;
    search.memory(&sight, &maps);
    search.saw()?;
    if let Some(finds) = search.finds(&maps) {
        return Ok(Verdict::leaked(format!("of before the refresh, after it: {}, {finds}", search.walk)));
    }
    Ok(Verdict::blocked(format!(
        "all of one time opens the record of that time; crossed, none of {tried} sets of 32 bytes opens either; of \
         before the refresh, after it: {}",
        search.nothing()
    )))
}

/// What a thief has of one moment.
struct Moment {
    memory: Vec<Piece>,
    shares: Vec<[u8; KEY]>,
    record: Record,
}

impl Moment {
    /// Takes all there is.
    fn take(order: &Order, victim: &mut Captive, sight: &Sight) -> Result<Self, Trouble> {
        let decoy = victim.facts.decoy.ok_or_else(|| Trouble::failed("a vault key without a record"))?;
        let mut memory = snapshot(sight, &mappings(victim.pid)?);
        if order.kept == Kept::SealedSecretmem {
            memory.extend(victim.show(Command::ShowPages)?);
        }
        let shares = loot(victim.pid, Through::Duplicate)?.shares;
        Ok(Self { memory, shares, record: Record::take(sight, &decoy)? })
    }

    /// The key of this moment's record, in all of this moment.
    fn opens(&self) -> Option<Found> {
        let mut crack = Crack::new(&self.record, &self.shares, ALIGNED);
        self.memory.iter().for_each(|(address, bytes)| crack.look(*address, bytes));
        crack.found
    }
}

/// Keys and shares are at least so aligned.
const ALIGNED: usize = 16;

/// Tries to open each record with all that is not of its own time alone; says how, if that works. `whole`: a key
/// lies in memory whole, so that memory and record of one time are all there is.
fn cross(before: &Moment, after: &Moment, whole: bool, tried: &mut usize) -> Option<String> {
    for (one, other, name) in [(before, after, "before"), (after, before, "after")] {
        let mut attempt = |memory: &[&Moment], shares: &[[u8; KEY]], pairs: bool| {
            let mut crack = Crack::new(&one.record, shares, ALIGNED);
            let pieces = memory.iter().flat_map(|moment| &moment.memory);
            pieces.for_each(|(address, bytes)| crack.look(*address, bytes));
            if pairs {
                crack.look_at_pairs();
            }
            *tried += crack.tried;
            crack.found.is_some()
        };
        let files = [&one.shares[..], &other.shares].concat();
        let mut ways =
            vec![("memory of the other time with files of both times", attempt(&[other], &files, false))];
        if !whole {
            ways.push(("memory of that time with files of the other", attempt(&[one], &other.shares, false)));
            ways.push(("memory of both times without files", attempt(&[one, other], &[], true)));
        }
        if let Some((how, _)) = ways.iter().find(|(_, opened)| *opened) {
            return Some(format!("the record of {name} the refresh is opened by {how}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::doctor::crack::RecordAt;
    use crate::doctor::crack::tests::seal;

    /// Looks random, and is another for each number.
    fn noise(number: u8) -> [u8; KEY] {
        std::array::from_fn(|n| (n as u8).wrapping_mul(2 * number + 7).wrapping_add(number.wrapping_mul(53)))
    }

    fn moment(key: [u8; KEY], memory: &[[u8; KEY]], shares: &[[u8; KEY]]) -> Moment {
        let at = RecordAt { address: 0, cipher: 1, vault: 1, id: 1, version: 0, epoch: 0, len: 4 };
        let record = Record::parse(&seal(&at, &key, noise(99), b"test"), &at).unwrap();
        // An address, not a page size.
        Moment { memory: vec![(0x1000, memory.as_flattened().to_vec())], shares: shares.to_vec(), record }
    }

    fn both(one: [u8; KEY], other: [u8; KEY]) -> [u8; KEY] {
        std::array::from_fn(|n| one[n] ^ other[n])
    }

    fn in_shares(key: [u8; KEY], share: [u8; KEY]) -> Moment {
        moment(key, &[noise(50), both(key, share)], &[share])
    }

    #[test]
    fn a_new_key_in_new_shares_cannot_be_crossed_and_every_lesser_refresh_can() {
        let old = in_shares(noise(1), noise(2));
        let share_b = both(noise(1), noise(2));
        let how = |after: &Moment| {
            assert!(old.opens().is_some() && after.opens().is_some());
            cross(&old, after, false, &mut 0)
        };
        assert_eq!(how(&in_shares(noise(3), noise(4))), None);
        for (lesser, after, way) in [
            ("no refresh at all", in_shares(noise(1), noise(2)), "record of before"),
            ("the same key in new shares", in_shares(noise(1), noise(4)), "record of before"),
            ("the share in the file stays", in_shares(noise(3), noise(2)), "files of the other"),
            ("the share in memory stays", in_shares(noise(3), both(noise(3), share_b)), "files of both"),
            ("the old key is left over", moment(noise(3), &[noise(3), noise(1)], &[]), "record of before"),
        ] {
            let how = how(&after);
            assert!(how.as_ref().is_some_and(|how| how.contains(way)), "{lesser}: {how:?}");
        }
        let veiled = moment(noise(3), &[both(noise(3), share_b)], &[]);
        let how = cross(&old, &veiled, false, &mut 0).unwrap();
        assert!(how.contains("both times without files"), "the new key under the old share: {how}");
    }

    #[test]
    fn a_whole_key_may_open_the_record_of_its_own_time_only() {
        let old = moment(noise(1), &[noise(1)], &[]);
        let mut tried = 0;
        assert_eq!(cross(&old, &moment(noise(3), &[noise(3)], &[]), true, &mut tried), None);
        assert_eq!(tried, 2);
        assert!(cross(&old, &moment(noise(3), &[noise(3), noise(1)], &[]), true, &mut tried).is_some());
        assert!(cross(&old, &moment(noise(1), &[noise(1)], &[]), true, &mut tried).is_some());
    }
}

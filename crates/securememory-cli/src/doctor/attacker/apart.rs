//! The key without the ciphertext, and the ciphertext without the key: `key-only`, `ciphertext-only`, `vault-close`.

use super::captive::Captive;
use super::find_key;
use crate::doctor::crack::{Crack, Found, KEY, Record, With, search as search_key};
use crate::doctor::loot::{Through, loot};
use crate::doctor::memory::{Sight, mappings, without};
use crate::doctor::old::{openings, versions, with_copies};
use crate::doctor::order::{Command, Order, Reply};
use crate::doctor::search::{Search, how, place};
use crate::doctor::snapshot::snapshot;
use crate::doctor::verdict::{Trouble, Verdict};

/// All but the place where the secret rests, the key included.
pub fn key_only(order: &Order, mut victim: Captive) -> Result<Verdict, Trouble> {
    let sight = Sight::outside(victim.pid)?;
    victim.command_facts(Command::Exercise)?;
    victim.command_facts(Command::Plant)?;
    let key = find_key(order, &mut victim, &sight)?;
    let maps = without(&mappings(victim.pid)?, victim.facts.at_rest());
    let files = loot(victim.pid, Through::Duplicate)?;
    let mut search = Search::new(order, None)?;
    search.memory(&sight, &maps);
    search.finder.look(0, &files.bytes);
    search.saw()?;
    if let Some(finds) = search.finds(&maps) {
        return Ok(Verdict::leaked(format!("{}, {finds}", search.walk)));
    }
    let (Some(key), Some(secret), Some(decoy)) = (key, victim.facts.record, victim.facts.decoy) else {
        return Ok(Verdict::blocked(search.nothing()));
    };
    let mut pieces = snapshot(&sight, &without(&maps, Some(decoy.range())));
    pieces.push((0, files.bytes));
    let old = openings(&key.key, &pieces, &with_copies(&secret));
    let planted = openings(&key.key, &pieces, &versions(&decoy));
    match (old.first(), planted.len()) {
        (Some(address), _) => Ok(Verdict::leaked(format!(
            "the key opens {} older records of the secret, the first {}",
            old.len(),
            place(&maps, *address)
        ))),
        (None, 0) => {
            Err(Trouble::failed("the search was blind: it did not open the old record that was laid out"))
        }
        (None, 1) => Ok(Verdict::blocked(format!(
            "{}; an old record that was laid out was opened, and no other",
            search.nothing()
        ))),
        (None, more) => Ok(Verdict::leaked(format!(
            "besides the old record that was laid out, the key opens {} of the same secret",
            more - 1
        ))),
    }
}

/// A copy of what was at rest, and all that is left when `end` has destroyed the keys.
pub fn ciphertext_only(order: &Order, mut victim: Captive, end: Command) -> Result<Verdict, Trouble> {
    let sight = Sight::outside(victim.pid)?;
    let copy = victim.show(Command::CopyAtRest)?;
    if copy.iter().any(|(_, bytes)| order.needle.is(bytes)) {
        return Ok(Verdict::leaked("what was copied is the secret"));
    }
    if copy.is_empty() && victim.facts.record.is_some() {
        return Err(Trouble::failed("the record could not be copied"));
    }
    // That it is found now is the proof that it would be found later.
    let key = find_key(order, &mut victim, &sight)?;
    let decoy = victim.facts.decoy.map(|at| Record::take(&sight, &at)).transpose()?;
    let ways = match victim.command(end)? {
        Reply::Tried { worked, .. } if !worked.is_empty() => {
            return Ok(Verdict::leaked(format!("after that these still worked: {}", worked.join(", "))));
        }
        Reply::Tried { mut refused, .. } => {
            let tries = refused.len();
            refused.sort_unstable();
            refused.dedup();
            format!("{tries} ways to use it are refused ({})", refused.join("; "))
        }
        other => return Err(Captive::unexpected(&other)),
    };
    let maps = mappings(victim.pid)?;
    let mut search = Search::new(order, key.as_ref())?;
    search.memory(&sight, &maps);
    search.saw()?;
    if let Some(finds) = search.finds(&maps) {
        return Ok(Verdict::leaked(format!("after that: {}, {finds}", search.walk)));
    }
    let Some(decoy) = decoy else {
        return Ok(Verdict::blocked(format!("the copy faulted; {ways}; {}", search.nothing())));
    };
    let files = loot(victim.pid, Through::Duplicate)?;
    let (found, tried) = search_key(&sight, &maps, &decoy, &files.shares);
    let mut rest = Crack::new(&decoy, &files.shares, KEY);
    victim.show(Command::ShowPages)?.iter().for_each(|(address, bytes)| rest.look(*address, bytes));
    rest.look(0, files.shares.as_flattened());
    let zeros = decoy.open(&[0; KEY]).map(|_| Found { key: [0; KEY], address: 0, with: With::Nothing });
    if let Some(found) = found.or(rest.found).or(zeros) {
        return Ok(Verdict::leaked(format!("after that {}", how(&found, &maps))));
    }
    Ok(Verdict::blocked(format!(
        "{ways}; {}; zeros, none of {} sets of 32 bytes and no two of them open the copy",
        search.nothing(),
        tried + rest.tried
    )))
}

//! `residue`: what is left in memory after reads, after the close, after the end of the vault.

use super::captive::Captive;
use super::find_key;
use crate::doctor::crack::{KEY, With};
use crate::doctor::memory::{Sight, mappings, without};
use crate::doctor::order::{Command, Order};
use crate::doctor::promises::Kept;
use crate::doctor::search::Search;
use crate::doctor::verdict::{Trouble, Verdict};

/// Searches all memory three times, with less and less that may be there.
pub fn residue(order: &Order, mut victim: Captive) -> Result<Verdict, Trouble> {
    let sight = Sight::outside(victim.pid)?;
    victim.command_facts(Command::Exercise)?;
    let key = find_key(order, &mut victim, &sight)?;
    // Where the key rests whole is its page (Pkey, Secretmem, Guarded); put together from shares (Split) it rests nowhere.
    let key_at =
        key.filter(|found| found.with == With::Nothing).map(|found| found.address..found.address + KEY);
    if key_at.is_some() && order.kept == Kept::SealedSplit {
        return Ok(Verdict::leaked("the key lies in memory whole, not in two shares"));
    }
    let mut seen = Vec::new();
    for (stage, end) in STAGES {
        if let Some(end) = end {
            victim.command_done(*end)?;
        }
        let mut maps = mappings(victim.pid)?;
        let mut search = Search::new(order, key.as_ref())?;
        if end.is_none() {
            // Where it is meant to be it is not even read: a user's key has no business in this process.
            maps = without(&maps, victim.facts.plaintext.map(|(address, len)| address..address + len));
        }
        if *end != Some(Command::GiveUp) {
            key_at.iter().for_each(|range| search.ignore_key(range.clone()));
        }
        search.memory(&sight, &maps);
        search.saw()?;
        match search.finds(&maps) {
            Some(finds) => return Ok(Verdict::leaked(format!("{stage}: {}, {finds}", search.walk))),
            None => seen.push((*stage, search)),
        }
    }
    let stages: Vec<String> =
        seen.iter().map(|(stage, search)| format!("{stage} ({})", search.walk)).collect();
    let nothing = seen.last().map(|(_, search)| search.none()).unwrap_or_default();
    Ok(Verdict::blocked(format!("{}: saw the beacon each time, {nothing}", stages.join(", "))))
}

/// What is done before each search.
const STAGES: &[(&str, Option<Command>)] = &[
    ("after reads and changes", None),
    ("after the close", Some(Command::Close)),
    ("after the end of the vault", Some(Command::GiveUp)),
];

//! What a forked child has: `fork-child`, `fork-in-read`.

use std::time::{Duration, Instant};

use super::captive::Captive;
use super::find_key;
use crate::doctor::crack::{Record, search as search_key};
use crate::doctor::loot::{Through, loot};
use crate::doctor::memory::{Mapping, Sight, Walk, mappings};
use crate::doctor::order::{Command, Order, Reply};
use crate::doctor::promises::Kept;
use crate::doctor::search::{Search, place};
use crate::doctor::verdict::{Trouble, Verdict};

/// How long it goes on forking.
const FORKING: Duration = Duration::from_millis(1500);

/// One child of a quiet process: it tries every way itself, and is searched, its memory combined with its files.
pub fn fork_child(order: &Order, mut victim: Captive) -> Result<Verdict, Trouble> {
    let parent = Sight::outside(victim.pid)?;
    let key = find_key(order, &mut victim, &parent)?;
    let (child, worked, mut refused) = child(victim.command(Command::Fork)?)?;
    let tries = worked.len() + refused.len();
    refused.sort_unstable();
    refused.dedup();
    let ways =
        format!("{} of {tries} ways to use it are refused ({})", tries - worked.len(), refused.join("; "));
    let sight = Sight::outside(child)?;
    let maps = mappings(child)?;
    let mut search = Search::new(order, key.as_ref())?;
    search.memory(&sight, &maps);
    search.saw()?;
    if !worked.is_empty() {
        let also = search.finds(&maps).unwrap_or_default();
        return Ok(Verdict::leaked(format!("in the child these worked: {}; {also}", worked.join(", "))));
    }
    if let Some(finds) = search.finds(&maps) {
        return Ok(Verdict::leaked(format!("{ways}, but a search of the child {finds}")));
    }
    if let Some(decoy) = victim.facts.decoy {
        let shares = loot(child, Through::Duplicate)?.shares;
        let (found, _) = search_key(&sight, &maps, &Record::take(&parent, &decoy)?, &shares);
        if let Some(found) = found {
            let place = place(&maps, found.address);
            return Ok(Verdict::leaked(format!(
                "the key can be put together from the child's memory {place} and its files"
            )));
        }
    }
    Ok(Verdict::blocked(format!("{ways}; in the child: {}", search.nothing())))
}

/// Many children, made at any moment of a read in another thread.
pub fn fork_in_read(order: &Order, mut victim: Captive) -> Result<Verdict, Trouble> {
    let sight = Sight::outside(victim.pid)?;
    let key = find_key(order, &mut victim, &sight)?;
    let mut search = Search::new(order, key.as_ref())?;
    let (mut children, mut total, mut finds, mut leaky) = (0_u64, Walk::default(), None, 0_u64);
    let start = Instant::now();
    let mut reply = victim.command(Command::ForkInRead)?;
    loop {
        let (child, ..) = child(reply)?;
        let maps: Vec<Mapping> = mappings(child)?.into_iter().filter(Mapping::own).collect();
        search.finder.reset();
        search.walk = Walk::default();
        search.memory(&Sight::outside(child)?, &maps);
        search.saw()?;
        total.bytes += search.walk.bytes;
        children += 1;
        if let Some(found) = search.finds(&maps) {
            leaky += 1;
            finds.get_or_insert(found);
        }
        if start.elapsed() > FORKING || (finds.is_some() && order.kept == Kept::Plain) {
            break;
        }
        reply = victim.command(Command::Next)?;
    }
    let reads = match victim.command(Command::Stop)? {
        Reply::Readers { reads, error: None } if reads > children => reads,
        Reply::Readers { reads, error: None } => {
            return Err(Trouble::failed(format!("only {reads} reads beside {children} forks")));
        }
        Reply::Readers { error: Some(error), .. } => {
            return Err(Trouble::failed(format!("a fork made a read fail in the parent: {error}")));
        }
        other => return Err(Captive::unexpected(&other)),
    };
    let beside = format!("{children} children made beside {reads} reads");
    match finds {
        Some(finds) => Ok(Verdict::leaked(format!("{leaky} of {beside} had something: {finds}"))),
        None => {
            search.walk = total;
            Ok(Verdict::blocked(format!("{beside}: {}", search.nothing())))
        }
    }
}

fn child(reply: Reply) -> Result<(u32, Vec<String>, Vec<String>), Trouble> {
    match reply {
        Reply::Child { pid, worked, refused } => Ok((pid, worked, refused)),
        other => Err(Captive::unexpected(&other)),
    }
}

//! Attacks by code inside the process: stray reads, stray writes, reads after the close.

use std::io;

use super::held::Held;
use crate::doctor::crack::{Crack, Record, search as search_key};
use crate::doctor::finder::Finder;
use crate::doctor::memory::{Sight, Stray, mappings, walk};
use crate::doctor::needle::Needle;
use crate::doctor::order::{Order, Reply};
use crate::doctor::search::{Search, how, windows};
use crate::doctor::verdict::{Trouble, Verdict};

/// Reads every byte that a load can read; searches for the secret, and tries all of it as the key.
pub fn stray_read(order: &Order, held: &Held) -> Result<Verdict, Trouble> {
    let sight = Sight::inside()?;
    let maps = mappings(std::process::id())?;
    let mut search = Search::new(order, None)?;
    let record = held.facts().decoy.map(|at| Record::take(&sight, &at)).transpose()?;
    let mut crack = record.as_ref().map(|record| Crack::new(record, &[], 8));
    search.walk = walk(&sight, &maps, |address, bytes| {
        search.finder.look(address, bytes);
        if let Some(crack) = &mut crack {
            crack.look(address, bytes);
        }
    });
    search.saw()?;
    if let Some(finds) = search.finds(&maps) {
        return Ok(Verdict::leaked(format!("{}; {finds}", search.walk)));
    }
    let (Some(crack), Some(record)) = (crack, &record) else { return Ok(Verdict::blocked(search.nothing())) };
    let found = crack.found.or_else(|| search_key(&sight, &maps, record, &[]).0);
    Ok(match found {
        Some(found) => Verdict::leaked(how(&found, &maps)),
        None => {
            let tried = crack.tried;
            Verdict::blocked(format!("{}; none of {tried} sets of 32 bytes is the key", search.nothing()))
        }
    })
}

/// For a control process, which does not have the secret: the windows of it that are here nevertheless.
pub fn common(order: &Order) -> Result<Vec<u32>, Trouble> {
    let mut finder = Finder::new(&[&order.beacon, &order.needle]);
    let walk =
        walk(&Sight::inside()?, &mappings(std::process::id())?, |address, bytes| finder.look(address, bytes));
    if finder.found(0) == 0 {
        return Err(Trouble::failed(format!("the control was blind: {walk}")));
    }
    Ok(finder.numbers(1))
}

/// What a load can read at the place where the secret rests: nothing, if that faults.
pub fn copy_at_rest(held: &Held) -> Result<Reply, Trouble> {
    let place = held.facts().at_rest().ok_or_else(nowhere)?;
    let copy = Sight::inside()?.bytes(place.start, place.len()).ok();
    Ok(Reply::Memory(
        copy.map(|copy| Ok((place.start, Needle::hide(copy)?))).into_iter().collect::<io::Result<_>>()?,
    ))
}

/// Changes each byte at rest as a stray store would, reads, and puts it back.
pub fn tamper(order: &Order, held: &Held) -> Result<Verdict, Trouble> {
    let at_rest = held.facts().at_rest().ok_or_else(nowhere)?;
    let (stray, sight) = (Stray::new()?, Sight::inside()?);
    let forced = Sight::outside(std::process::id()).ok();
    let (mut faulted, mut noticed, mut idle, mut unnoticed) = (0, Vec::new(), 0, 0);
    for (n, address) in at_rest.clone().enumerate() {
        let old = match (sight.bytes(address, 1), &forced) {
            (Ok(bytes), _) => bytes[0],
            // A page without access: only whether the store faults is of interest.
            (Err(_), Some(forced)) => forced.bytes(address, 1).map_or(0, |bytes| bytes[0]),
            (Err(_), None) => 0,
        };
        if stray.store(address, old ^ 1 << (n % 8)).is_err() {
            faulted += 1;
            continue;
        }
        let changed = read_changed(held, &order.needle);
        stray.store(address, old)?;
        match changed {
            Change::Noticed(why) => noticed.push(why),
            Change::Idle => idle += 1,
            Change::Unnoticed => unnoticed += 1,
        }
    }
    // The proof that it was the change that was noticed, and that a store that faulted did not store.
    held.read(&order.needle)
        .map_err(|why| Trouble::failed(format!("all put back, but a read gives {why}")))?;
    let bytes = at_rest.len();
    if unnoticed > 0 {
        return Ok(Verdict::leaked(format!("{unnoticed} of {bytes} changed bytes went unnoticed")));
    }
    let mut ways = Vec::new();
    if !noticed.is_empty() {
        let count = noticed.len();
        noticed.sort_unstable();
        noticed.dedup();
        ways.push(format!("{count} of {bytes} changed bytes were noticed ({})", noticed.join("; ")));
    }
    if idle > 0 {
        ways.push(format!("{idle} of {bytes} made no difference"));
    }
    if faulted > 0 {
        ways.push(format!("{faulted} of {bytes} stores faulted"));
    }
    Ok(Verdict::blocked(format!("{}; put back, it reads as before", ways.join(", "))))
}

/// What a reader makes of a change.
pub enum Change {
    /// A read is an error.
    Noticed(String),
    /// A read gives what was stored.
    Idle,
    /// A read gives other bytes, and says nothing.
    Unnoticed,
}

/// Reads what was changed at rest.
pub fn read_changed(held: &Held, needle: &Needle) -> Change {
    let right = match held {
        Held::Plain(bytes) => needle.is(std::hint::black_box(bytes)),
        Held::Kept(kept) => match kept.secret.with(|bytes| needle.is(bytes)) {
            Ok(right) => right,
            Err(failed) => return Change::Noticed(failed.error().to_string()),
        },
    };
    if right { Change::Idle } else { Change::Unnoticed }
}

/// Closes, tries every way to read, and looks at the place where it lay, whatever its pages allow now.
pub fn read_after_close(order: &Order, held: Held) -> Result<Verdict, Trouble> {
    let facts = held.facts();
    let sight = Sight::outside(std::process::id())?;
    let (mut worked, mut refused) = (Vec::new(), Vec::new());
    let record = facts.record.map(|at| (at.address, at.range().len()));
    let (address, len) = record.or(facts.plaintext).ok_or_else(nowhere)?;
    let old_record = record.map(|_| sight.bytes(address, len)).transpose()?;
    // Made now, so that the allocator does not make it where the vector was.
    let mut room = vec![0; len];
    let _still = match held {
        Held::Plain(bytes) => {
            drop(bytes);
            None
        }
        Held::Kept(kept) => {
            let closed = kept.secret.close()?;
            if !matches!(closed, securememory::Closed::Closed) {
                return Err(Trouble::failed("no view was open, but the close was put off"));
            }
            for (way, result) in kept.ways() {
                match result {
                    Ok(()) => worked.push(way),
                    Err(error) => refused.push(error.to_string()),
                }
            }
            Some(kept)
        }
    };
    let now = sight.fill(address, &mut room);
    if !worked.is_empty() {
        return Ok(Verdict::leaked(format!("closed, but these still worked: {}", worked.join(", "))));
    }
    let mut needles = vec![order.needle.clone()];
    if let Some(old) = old_record {
        needles.push(Needle::hide(old)?);
    }
    let mut finder = Finder::new(&needles.iter().collect::<Vec<_>>());
    if now.is_ok() {
        finder.look(address, &room);
    }
    for (needle, name) in
        needles.iter().enumerate().map(|(n, _)| (n, if n == 0 { "secret" } else { "sealed record" }))
    {
        let (found, of) = (finder.found(needle), finder.windows(needle));
        if found > 0 {
            return Ok(Verdict::leaked(format!(
                "the place still has {found} of {} of the {name}",
                windows(of)
            )));
        }
    }
    refused.sort_unstable();
    let tries = refused.len();
    refused.dedup();
    let seen = match now {
        Ok(()) => format!("of {len} bytes where it lay nothing is left"),
        Err(error) => format!("the place where it lay is gone ({error})"),
    };
    Ok(Verdict::blocked(format!("{tries} ways to read it are refused ({}), {seen}", refused.join("; "))))
}

/// Nothing to attack.
pub fn nowhere() -> Trouble {
    Trouble::failed("the library does not tell where the secret lies")
}

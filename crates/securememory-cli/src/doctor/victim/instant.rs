//! `read-instant`: what a second thread can read in the middle of another's reads.
//!
//! Both are bound to one processor: whenever the thief wakes up, the reader has been stopped wherever it was, and
//! stays there while the thief looks. That he sees the plaintext of open views now and then, which no store can
//! hide from him, is the proof that he looks at the right moments and places.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

use super::held::Held;
use crate::doctor::crack::{Crack, Record, With};
use crate::doctor::finder::Finder;
use crate::doctor::memory::{Mapping, Sight, mappings};
use crate::doctor::order::Order;
use crate::doctor::promises::Kept;
use crate::doctor::search::{AEGIS_CONSTANTS, place};
use crate::doctor::verdict::{Trouble, Verdict};

/// How long he looks at least if he finds nothing, and how long in any case.
const LOOKING: Duration = Duration::from_millis(1500);
const ENOUGH: Duration = Duration::from_secs(15);
/// Looks that must have seen an open view before nothing is something.
const SIGHTINGS: u64 = 20;
/// Of a mapping of which it is not known what was touched.
const MOST: usize = 256 * 1024;

/// Looks until he has the key, or long enough.
pub fn read_instant(order: &Order, held: &Held) -> Result<Verdict, Trouble> {
    let mut one = CpuSet::new();
    one.set(sched_getcpu());
    // Where it is not allowed, there are fewer looks in the middle of a read, and the sightings tell.
    let _ = sched_setaffinity(None, &one);
    let (stop, reads, stack) = (AtomicBool::new(false), AtomicU64::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        let reader = scope.spawn(|| -> Result<(), String> {
            let here = 0_u8;
            stack.store(std::ptr::from_ref(&here).addr(), Ordering::Relaxed);
            while !stop.load(Ordering::Relaxed) {
                held.read(&order.needle)?;
                reads.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        while reads.load(Ordering::Relaxed) < 100 && !reader.is_finished() {
            thread::sleep(Duration::from_micros(100));
        }
        let stack = stack.load(Ordering::Relaxed);
        let verdict = look(order, held, &reads, stack, || reader.is_finished());
        stop.store(true, Ordering::Relaxed);
        let read = reader.join().map_err(|_| Trouble::failed("the reading thread panicked"))?;
        read.map_err(|why| Trouble::failed(format!("a read failed beside the looks: {why}")))?;
        verdict
    })
}

fn look(
    order: &Order,
    held: &Held,
    reads: &AtomicU64,
    stack: usize,
    over: impl Fn() -> bool,
) -> Result<Verdict, Trouble> {
    let sight = Sight::inside()?;
    let maps = mappings(std::process::id())?;
    let mut pages = pages(&maps, order.kept);
    let record = held.facts().record.map(|at| Record::take(&sight, &at)).transpose()?;
    // Who finds what the cipher makes of the key first of all has the key.
    let shares: Vec<_> = record.iter().flat_map(|record| [AEGIS_CONSTANTS, record.nonce]).collect();
    let mut crack = record.as_ref().map(|record| Crack::new(record, &shares, 8));
    let mut finder = Finder::new(&[&order.needle]);
    if finder.windows(0) == 0 {
        return Err(Trouble::NotHere("nothing to search for: this key occurs everywhere".to_owned()));
    }
    let (start, mut looks, mut sightings) = (Instant::now(), 0_u64, 0_u64);
    let mut room = vec![0; rustix::param::page_size()];
    while !over() && start.elapsed() < ENOUGH && (start.elapsed() < LOOKING || sightings < SIGHTINGS) {
        // Not in step with the reads.
        thread::sleep(Duration::from_micros(20 + looks * 37 % 200));
        looks += 1;
        finder.reset();
        for (address, before) in &mut pages {
            let Ok(read) = sight.read(*address, &mut room) else { continue };
            if before[..] == room[..read] {
                continue;
            }
            before.clear();
            before.extend_from_slice(&room[..read]);
            finder.look(*address, before);
            if let Some(crack) = &mut crack {
                crack.look(*address, before);
            }
        }
        sightings += u64::from(finder.found(0) > 0);
        if sightings > 0 && crack.is_none() {
            return Ok(Verdict::leaked(format!("look {looks} found the secret, as it is open then")));
        }
        if let Some(found) = crack.as_ref().and_then(|crack| crack.found) {
            let what =
                if found.with == With::Nothing { "the vault's key" } else { "what the cipher makes of it" };
            let on_stack = |map: &Mapping| map.range.contains(&stack) && map.range.contains(&found.address);
            let place = match maps.iter().any(on_stack) {
                true => "on the reading thread's stack".to_owned(),
                false => place(&maps, found.address),
            };
            return Ok(Verdict::leaked(format!("look {looks} found {what} {place}")));
        }
    }
    let (pages, reads) = (pages.len(), reads.load(Ordering::Relaxed));
    let saw = format!(
        "{looks} looks at {pages} pages beside {reads} reads, of which {sightings} saw the plaintext of a view"
    );
    if sightings < SIGHTINGS {
        return Err(Trouble::failed(format!("too few looks were in the middle of a read: {saw}")));
    }
    let tried = crack.map_or(0, |crack| crack.tried);
    Ok(Verdict::blocked(format!("{saw}; none of {tried} sets of 32 bytes is the key")))
}

/// Every page that may hold something, closed ones included, with what was seen there last. The thief's own stack
/// and, where he has to find a key, the heap are left out: what he finds lands there.
fn pages(maps: &[Mapping], kept: Kept) -> Vec<(usize, Vec<u8>)> {
    let touched = Sight::outside(std::process::id());
    let heap_too = matches!(kept, Kept::Plain | Kept::Paged);
    let mut pages = Vec::new();
    for mapping in maps.iter().filter(|mapping| mapping.own() && mapping.name != "[stack]") {
        if mapping.name == "[heap]" && !heap_too {
            continue;
        }
        let parts = match &touched {
            Ok(sight) => sight.touched(mapping),
            Err(_) if mapping.range.len() <= MOST => vec![mapping.range.clone()],
            Err(_) => continue,
        };
        for part in parts {
            pages.extend(part.step_by(rustix::param::page_size()).map(|address| (address, Vec::new())));
        }
    }
    pages
}

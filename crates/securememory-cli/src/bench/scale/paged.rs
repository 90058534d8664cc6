//! The run with paged secrets, which take pages, mappings and locked memory each: at a limit the refusal is
//! clear, and all that was made can be read, changed and closed.

use std::hint::black_box;

use securememory::Error;

use super::crowd::{self, Crowd};
use super::report::Report;
use super::{Args, Taken, creations, drop_all, preflight};
use crate::bench::Failure;

/// Given back at a limit, so that the run itself has the memory to tell of it.
const RESERVE: usize = 1 << 20;

pub(super) fn run(args: &Args, report: &mut Report) -> Result<(), Failure> {
    let mut crowd = Crowd::new(args.count());
    let reserve = black_box(vec![1u8; RESERVE]);
    let before = Taken::now()?;
    crowd::one_works(&args.vault().build()?)?;

    let vault = args.vault().build()?;
    report.hold(format!("{:?}", vault.status().hold).to_lowercase());
    preflight(report, &vault, args.count())?;
    let outcome = crowd.fill(&vault);
    drop(reserve);
    report.made(crowd.made());
    if let Err(error) = outcome {
        report.limit(&error);
        judge(report, &error);
    }
    sizes(report, &before, &Taken::now()?, vault.status().locked_bytes, crowd.made());
    creations(report, &mut crowd, None);

    let read = crowd.read_sample(report);
    report.figure(("read_ns", "a read at random"), "ns", read, None);
    let close = crowd.close_some(report);
    report.figure(("close_ns", "a close"), "ns", close, None);
    // What was closed is room for others, and for the image that a change keeps.
    if let Err(what) = crowd::one_works(&vault) {
        report.wrong(format!("no new secret after some were closed: {what}"));
    }
    let change = crowd.change_sample(report);
    report.figure(("change_ns", "a change at random"), "ns", change, None);
    crowd.read_sample(report);
    drop_all(report, &vault, &mut crowd);
    Ok(())
}

/// Is the refusal that of a limit, with a word on how to raise it?
fn judge(report: &mut Report, error: &Error) {
    use securememory::Hint::{AddressSpace, Descriptors, LockedMemory, Mappings};
    let is_clear = matches!(
        error.hint(),
        Some(AddressSpace { .. } | Descriptors { .. } | LockedMemory { .. } | Mappings { .. })
    ) || matches!(error, Error::OutOfMemory { .. });
    if !is_clear {
        report.wrong(format!("creation ended with `{error}`, which is no clear limit"));
    }
}

fn sizes(report: &mut Report, before: &Taken, after: &Taken, by_vault: usize, made: usize) {
    let more = |after: u64, before: u64| after as f64 - before as f64;
    let each = (more(after.resident, before.resident) + more(after.memory_files, before.memory_files))
        / made as f64
        + std::mem::size_of::<securememory::Secret>() as f64;
    report.figure(("bytes_each", "bytes of each, in all"), "B", each, None);
    report.figure(("locked_bytes", "more memory is locked"), "B", more(after.locked, before.locked), None);
    report.figure(("vault_locked_bytes", "locked, as the vault says"), "B", by_vault as f64, None);
    let mappings = more(after.mappings, before.mappings);
    report.figure(("mappings", "more mappings"), "", mappings, None);
    report.figure(("mappings_each", "mappings of each"), "", mappings / made as f64, None);
    let descriptors = more(after.descriptors, before.descriptors);
    report.figure(("descriptors", "more descriptors"), "", descriptors, None);
}

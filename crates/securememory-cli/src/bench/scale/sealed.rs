//! The run with sealed secrets: a million of them take no more locked memory, mappings and descriptors than
//! one.

use std::mem::size_of;
use std::time::Instant;

use securememory::{Secret, Vault};

use super::crowd::{self, Crowd};
use super::report::Report;
use super::{Args, Taken, creations, drop_all, preflight, turnover};
use crate::bench::Failure;

pub(super) fn run(args: &Args, report: &mut Report) -> Result<(), Failure> {
    let mut crowd = Crowd::new(args.count());
    let before = Taken::now()?;
    // The pages of the program's code that come into memory on first use are no secret's.
    crowd::one_works(&args.vault().build()?)?;
    let warm = Taken::now()?;

    let vault = args.vault().build()?;
    report.hold(format!("{:?}", vault.status().hold).to_lowercase());
    preflight(report, &vault, args.count())?;
    let begin = Instant::now();
    let outcome = crowd.fill(&vault);
    report.made(crowd.made());
    if let Err(error) = outcome {
        report.limit(&error);
        return Err(error.into());
    }
    let seconds = begin.elapsed().as_secs_f64();
    let after = Taken::now()?;
    sizes(report, &vault, crowd.made(), [&before, &warm, &after]);
    report.figure(("create_seconds", "all creations, values included"), "s", seconds, None);
    creations(report, &mut crowd, Some(1.5));

    let read = crowd.read_sample(report);
    report.figure(("read_ns", "a read at random"), "ns", read, None);
    let change = crowd.change_sample(report);
    report.figure(("change_ns", "a change at random"), "ns", change, None);
    crowd.read_sample(report);
    turnover::refresh_beside_reader(report, &vault, &crowd);
    crowd.read_sample(report);
    let close = crowd.close_some(report);
    report.figure(("close_ns", "a close"), "ns", close, None);
    crowd.read_sample(report);
    drop_all(report, &vault, &mut crowd);
    drop(vault);

    // Anew, since nothing is left to be done with secrets after a purge.
    let vault = args.vault().build()?;
    crowd.fill(&vault)?;
    turnover::purge_all(report, &vault, &crowd);
    crowd.drop_all();
    Ok(())
}

fn sizes(report: &mut Report, vault: &Vault, made: usize, [before, warm, after]: [&Taken; 3]) {
    let more = |after: u64, before: u64| after as f64 - before as f64;
    let resident = more(after.resident, warm.resident);
    let files = more(after.memory_files, before.memory_files);
    let handle = size_of::<Secret>() as f64;
    let each = (resident + files) / made as f64 + handle;
    report.figure(("bytes_each", "bytes of each, in all"), "B", each, Some(176.0));
    report.figure(("handle_bytes", "of these the handle"), "B", handle, None);
    report.figure(("resident_bytes", "more memory is resident, without handles"), "B", resident, None);
    report.figure(("memory_file_bytes", "more lies in in-memory files"), "B", files, None);
    let locked = more(after.locked, before.locked);
    report.figure(("locked_bytes", "more memory is locked"), "B", locked, Some(65536.0));
    let by_vault = vault.status().locked_bytes as f64;
    report.figure(("vault_locked_bytes", "locked, as the vault says"), "B", by_vault, Some(65536.0));
    let mappings = more(after.mappings, before.mappings);
    report.figure(("mappings", "more mappings"), "", mappings, Some(100.0));
    let descriptors = more(after.descriptors, before.descriptors);
    report.figure(("descriptors", "more descriptors"), "", descriptors, Some(16.0));
}

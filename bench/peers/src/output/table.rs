//! Tables in Markdown.

use std::fmt::Write;

use super::{Interruption, Measured, Report, Row, Summary};
use crate::bounds::Bound;
use crate::entries::{self, Group, SPLIT};
use crate::peer::AtRest;
use crate::work::Work;
use crate::work::limit::Limit;
use crate::work::memory::{Memory, Usage};

pub fn markdown(report: &Report) -> String {
    let mut out = String::new();
    head(&mut out, report);
    for work in &report.works {
        measured(&mut out, work, report);
    }
    bounds(&mut out, &report.bounds);
    participants(&mut out, report);
    out
}

fn head(out: &mut String, report: &Report) {
    let machine = &report.machine;
    let kind = if machine.r#virtual { ", a virtual machine" } else { "" };
    let _ = writeln!(
        out,
        "# securememory beside other libraries\n\n\
         Made by `bench/peers/run`; its README says how. {}, {} processors, {} GiB{kind}; {}; {}; {}.\n\
         {} passes of {} turns each; medians of all turns, least of all turns, medians of the passes. Other machines\n\
         have other times; ratios carry over.\n",
        machine.processor,
        machine.processors,
        machine.memory_gib,
        machine.kernel,
        machine.date,
        machine.compiler,
        report.passes,
        report.turns,
    );
}

fn measured(out: &mut String, measured: &Measured, report: &Report) {
    let _ = writeln!(out, "## {}\n", measured.title);
    if let (Work::Busy, Some(interruption)) = (measured.work, &report.interruption) {
        state(out, interruption);
    }
    let reference = measured.rows.iter().find(|row| row.who == SPLIT);
    for (heading, rows) in sections(measured) {
        let _ = writeln!(out, "{heading}\n\n{}", columns(measured.work));
        for row in rows {
            let _ = writeln!(out, "| {} | {} |", name(row), cells(measured.work, row, reference).join(" | "));
        }
        out.push('\n');
    }
}

/// Those that keep secrets out of sight; those that do not, apart; and what nobody can go below.
fn sections(measured: &Measured) -> Vec<(&'static str, Vec<&Row>)> {
    let mut sections = [
        ("Inaccessible or encrypted at rest:", Vec::new()),
        ("Readable at rest, so not to be compared with the above:", Vec::new()),
        ("Floors, which protect nothing by themselves:", Vec::new()),
    ];
    for row in &measured.rows {
        let place = match (entries::ALL[row.entry].group, entries::ALL[row.entry].at_rest) {
            (Group::Floor, _) => 2,
            (_, Some(AtRest::Readable)) => 1,
            _ => 0,
        };
        sections[place].1.push(row);
    }
    sections.into_iter().filter(|(_, rows)| !rows.is_empty()).collect()
}

fn name(row: &Row) -> String {
    let entry = &entries::ALL[row.entry];
    if entry.group == Group::Ours { format!("**{}**", entry.id) } else { entry.id.into() }
}

fn columns(work: Work) -> &'static str {
    match work {
        Work::Busy => {
            "| | at rest | alone | beside | times | passes, beside | against ours |\n|---|---|--:|--:|--:|--:|--:|"
        }
        Work::TwoSame | Work::TwoDifferent => {
            "| | at rest | 1 thread, M/s | 2 threads, M/s | gain | passes, 2 threads | ours against it |\n\
             |---|---|--:|--:|--:|--:|--:|"
        }
        Work::LimitRoot | Work::LimitUser => {
            "| | at rest | made | and then | locked then | first and last still readable |\n|---|---|--:|---|--:|---|"
        }
        Work::Memory => {
            "| | at rest | made | resident, each | locked, each | mappings, each | descriptors, each | the first: resident, locked, mappings, descriptors |\n\
             |---|---|--:|--:|--:|--:|--:|--:|"
        }
        _ => "| | at rest | median | least | passes | against ours |\n|---|---|--:|--:|--:|--:|",
    }
}

fn cells(work: Work, row: &Row, reference: Option<&Row>) -> Vec<String> {
    let mut cells = vec![entries::ALL[row.entry].at_rest.map_or("", AtRest::word).to_string()];
    let count = columns(work).lines().next().map_or(0, |line| line.matches('|').count() - 1);
    match work {
        Work::LimitRoot | Work::LimitUser => {
            if let Some(limit) = &row.limit {
                let pages = entries::ALL[row.entry].at_rest == Some(AtRest::Inaccessible);
                cells.extend(of_limit(limit, row.end.as_deref(), pages));
            }
        }
        Work::Memory => cells.extend(row.memory.as_ref().map(of_memory).into_iter().flatten()),
        _ if row.end.is_some() => {}
        Work::Busy => cells.extend(of_two(row, reference, time, |row, other| times(row, other, 1, false))),
        Work::TwoSame | Work::TwoDifferent => {
            cells.extend(of_two(row, reference, millions, |row, other| times(row, other, 1, true)));
        }
        _ => cells.extend(of_cost(row, reference)),
    }
    if cells.len() == 1 {
        cells.push(row.end.clone().unwrap_or_default());
    }
    cells.resize(count - 1, String::new());
    cells
}

fn of_cost(row: &Row, reference: Option<&Row>) -> Vec<String> {
    let Some(first) = &row.first else { return Vec::new() };
    vec![time(first.median), time(first.least), spread(first, time), times(row, reference, 0, false)]
}

fn of_two(
    row: &Row,
    reference: Option<&Row>,
    unit: fn(f64) -> String,
    times: impl Fn(&Row, Option<&Row>) -> String,
) -> Vec<String> {
    let (Some(first), Some(second), Some(gain)) = (&row.first, &row.second, &row.times) else {
        return Vec::new();
    };
    vec![
        unit(first.median),
        unit(second.median),
        format!("{:.2}", gain.median),
        spread(second, unit),
        times(row, reference),
    ]
}

fn of_limit(limit: &Limit, end: Option<&str>, pages: bool) -> Vec<String> {
    let made = if limit.end.is_none() { "at least " } else { "" };
    let then: Vec<&str> = limit.end.as_deref().into_iter().chain(end).collect();
    let readable = limit.readable.map_or("", |readable| if readable { "yes" } else { "no" });
    vec![
        format!("{made}{}", limit.made),
        then.join("; when they were destroyed it ").replace('|', "/"),
        limit.locked.map_or_else(String::new, |locked| with_unlocked(locked, limit.made, pages)),
        readable.into(),
    ]
}

/// Those that keep each secret in a page of its own may have made more than they could lock.
fn with_unlocked(locked: u64, made: usize, pages: bool) -> String {
    let page = rustix::param::page_size() as u64;
    let unlocked = (made as u64).saturating_sub(locked / page);
    let rest = if pages && unlocked > 0 { format!("; {unlocked} of them not") } else { String::new() };
    format!("{}{rest}", bytes(locked as f64))
}

fn of_memory(memory: &Memory) -> Vec<String> {
    let Usage { resident, locked, mappings, descriptors } = memory.each;
    let first = memory.first;
    vec![
        memory.made.to_string(),
        bytes(resident),
        bytes(locked),
        format!("{mappings:.2}"),
        format!("{descriptors:.2}"),
        format!(
            "{}, {}, {}, {}",
            bytes(first.resident),
            bytes(first.locked),
            first.mappings,
            first.descriptors
        ),
    ]
}

/// The row over ours, or ours over the row.
fn times(row: &Row, reference: Option<&Row>, figure: usize, inverse: bool) -> String {
    let pick = |row: &Row| [&row.first, &row.second][figure].as_ref().map(|it| it.median);
    let (Some(it), Some(ours)) = (pick(row), reference.and_then(pick)) else { return String::new() };
    let times = if inverse { ours / it } else { it / ours };
    if times >= 100.0 { format!("{times:.0} ×") } else { format!("{times:.2} ×") }
}

fn spread(summary: &Summary, unit: fn(f64) -> String) -> String {
    let each: Vec<String> = summary.passes.iter().map(|figure| unit(*figure)).collect();
    each.join(" · ")
}

pub fn time(ns: f64) -> String {
    match ns {
        ..10.0 => format!("{ns:.1} ns"),
        ..1000.0 => format!("{ns:.0} ns"),
        ..10_000.0 => format!("{:.2} µs", ns / 1e3),
        ..1_000_000.0 => format!("{:.1} µs", ns / 1e3),
        _ => format!("{:.2} ms", ns / 1e6),
    }
}

pub fn millions(rate: f64) -> String {
    if rate >= 1e6 { format!("{:.2}", rate / 1e6) } else { format!("{:.3}", rate / 1e6) }
}

pub fn bytes(bytes: f64) -> String {
    match bytes {
        ..1024.0 => format!("{bytes:.0} B"),
        ..1_048_576.0 => format!("{:.1} KiB", bytes / 1024.0),
        _ => format!("{:.1} MiB", bytes / 1_048_576.0),
    }
}

fn state(out: &mut String, seen: &Interruption) {
    let Interruption { alone_ns, beside_ns, cheap_passes, dear_passes } = seen;
    let each: Vec<String> = beside_ns.iter().map(|ns| time(*ns)).collect();
    let _ = writeln!(
        out,
        "A protection change interrupts every other core on which the process runs. What that costs has two states on\n\
         virtual machines. A bare mprotect pair took {} alone and, in the passes, {} beside the other thread: the cheap\n\
         state in {cheap_passes} of them, the dear one in {dear_passes}.\n",
        time(*alone_ns),
        each.join(", "),
    );
}

fn bounds(out: &mut String, bounds: &[Bound]) {
    let _ = writeln!(
        out,
        "## Bounds\n\nRatios turn by turn, their median over all turns and the medians of the passes. Counts of \
         instructions and system\ncalls, a million secrets and purges are checked elsewhere (docs/PERFORMANCE.md, \
         `securememory bench scale`).\n\n\
         | what | against | bound | measured | passes | |\n|---|---|---|--:|--:|---|"
    );
    for bound in bounds {
        let ratio = bound.ratio.map_or_else(String::new, |ratio| format!("{ratio:.3}"));
        let passes: Vec<String> = bound.passes.iter().map(|ratio| format!("{ratio:.2}")).collect();
        let verdict = match (bound.met, &bound.why_not) {
            (Some(true), _) => "met".to_string(),
            (Some(false), _) => "**not met**".to_string(),
            (None, why) => format!("not measured: {}", why.as_deref().unwrap_or("?")),
        };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {ratio} | {} | {verdict} |",
            bound.what,
            bound.against,
            bound.goal.words(),
            passes.join(" · ")
        );
    }
    out.push('\n');
}

fn participants(out: &mut String, report: &Report) {
    let _ = writeln!(out, "## Who was measured\n\n| | version | at rest | how |\n|---|---|---|---|");
    for who in report.entries.iter().filter(|who| !who.floor) {
        let version = if who.version.is_empty() { "not there" } else { &who.version };
        let at_rest = who.at_rest.map_or("", AtRest::word);
        let _ = writeln!(out, "| {} | {version} | {at_rest} | {} |", who.id, who.note);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_units_that_fit() {
        assert_eq!(time(1.24), "1.2 ns");
        assert_eq!(
            [time(254.4), time(1270.0), time(19_000.0), time(2_500_000.0)].join(" "),
            "254 ns 1.27 µs 19.0 µs 2.50 ms"
        );
        assert_eq!([bytes(144.2), bytes(4096.0), bytes(8_388_608.0)].join(" "), "144 B 4.0 KiB 8.0 MiB");
        assert_eq!([millions(7_100_000.0), millions(54_000.0)].join(" "), "7.10 0.054");
    }

    #[test]
    fn what_was_not_locked_is_told_of_those_with_pages() {
        let page = rustix::param::page_size() as u64;
        assert!(with_unlocked(10 * page, 30, true).ends_with("; 20 of them not"));
        assert!(!with_unlocked(10 * page, 10, true).contains("not"));
        assert!(!with_unlocked(0, 30, false).contains("not"));
    }

    #[test]
    fn every_row_has_as_many_cells_as_its_table_has_columns() {
        for work in crate::work::ALL {
            let head = columns(*work);
            let (names, lines) = head.split_once('\n').unwrap_or_default();
            assert_eq!(names.matches('|').count(), lines.matches('|').count(), "{head}");
        }
    }
}

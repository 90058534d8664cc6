//! Which pictures there are, and what is in them.

use super::chart::{Bar, Chart, Kind, Section, Unit};
use super::table::{bytes, millions, time};
use super::{Report, Row};
use crate::entries::{self, Group};
use crate::peer::AtRest;
use crate::work::{self, Work};

/// Each with the name of its file.
pub fn all(report: &Report) -> Vec<(&'static str, Chart)> {
    let machine = format!(
        "{}, {} processors, {}, {}. Medians; logarithmic scale.",
        report.machine.processor, report.machine.processors, report.machine.kernel, report.machine.date
    );
    let mut all = Vec::new();
    let mut add = |name, title: &str, series: [&str; 2], works: [Option<(Work, Pick)>; 2], unit| {
        let sections = sections(report, works, unit);
        if !sections.is_empty() {
            let series = series.map(str::to_string);
            all.push((name, Chart { title: title.into(), subtitle: machine.clone(), series, sections }));
        }
    };
    add(
        "read.svg",
        "One read of 32 B, at rest to at rest: less is better",
        ["alone", "while one other thread of the process computes"],
        [Some((Work::Busy, first)), Some((Work::Busy, second))],
        TIME,
    );
    add(
        "threads.svg",
        "Reads of 32 B by two threads, millions a second: more is better",
        ["a secret each", "both the same secret"],
        [Some((Work::TwoDifferent, second)), Some((Work::TwoSame, second))],
        MILLIONS,
    );
    add(
        "create.svg",
        "Create and destroy one secret: less is better",
        ["32 B", "4 KiB"],
        [Some((work::CREATE, first)), Some((Work::CreateDrop(4096), first))],
        TIME,
    );
    add(
        "mib.svg",
        "A secret of 1 MiB: less is better",
        ["create and destroy", "one read, at rest to at rest"],
        [Some((work::CREATE_DROP_MIB, first)), Some((work::READ_MIB, first))],
        TIME,
    );
    add(
        "memory.svg",
        "What each further secret of 32 B takes: less is better",
        ["resident memory", "locked memory (none: no bar)"],
        [Some((Work::Memory, resident)), Some((Work::Memory, locked))],
        BYTES,
    );
    all
}

const TIME: Unit = Unit {
    figure: time,
    tick: |ns| match ns {
        ..1000.0 => format!("{ns} ns"),
        ..1e6 => format!("{} µs", ns / 1e3),
        _ => format!("{} ms", ns / 1e6),
    },
};
const MILLIONS: Unit = Unit { figure: millions, tick: |rate| format!("{}", rate / 1e6) };
const BYTES: Unit = Unit {
    figure: bytes,
    tick: |bytes| if bytes < 1000.0 { format!("{bytes} B") } else { format!("{} kB", bytes / 1e3) },
};

/// A figure of a row.
type Pick = fn(&Row) -> Option<f64>;

fn first(row: &Row) -> Option<f64> {
    row.first.as_ref().map(|it| it.median)
}

fn second(row: &Row) -> Option<f64> {
    row.second.as_ref().map(|it| it.median)
}

fn resident(row: &Row) -> Option<f64> {
    row.memory.as_ref().map(|it| it.each.resident)
}

fn locked(row: &Row) -> Option<f64> {
    row.memory.as_ref().map(|it| it.each.locked)
}

/// In the order of what is at rest; ours first, then the fastest.
fn sections(report: &Report, works: [Option<(Work, Pick)>; 2], unit: Unit) -> Vec<Section> {
    const HEADINGS: [&str; 4] = [
        "securememory",
        "Peers, inaccessible at rest",
        "Peers, encrypted at rest",
        "Readable at rest: not to be compared",
    ];
    let mut sections: Vec<Section> =
        HEADINGS.iter().map(|title| Section { title: (*title).into(), bars: Vec::new() }).collect();
    sections.push(Section { title: "Floors, which protect nothing".into(), bars: Vec::new() });
    for (index, entry) in entries::ALL.iter().enumerate() {
        let rows = works.map(|work| {
            let (work, pick) = work?;
            Some((report.work(work)?.rows.iter().find(|row| row.entry == index)?, pick))
        });
        if rows.iter().all(Option::is_none) {
            continue;
        }
        let (place, kind) = match (entry.group, entry.at_rest) {
            (Group::Ours, _) => (0, Kind::Ours),
            (Group::Floor, _) => (4, Kind::Floor),
            (_, Some(AtRest::Inaccessible)) => (1, Kind::Locked),
            (_, Some(AtRest::Encrypted)) => (2, Kind::Locked),
            _ => (3, Kind::Readable),
        };
        let values = rows.map(|row| {
            let (row, pick) = row?;
            match (&row.end, pick(row)) {
                (Some(end), _) => Some(Err(brief(end))),
                (None, figure) => figure.map(Ok),
            }
        });
        // What this machine has not is in the table; here it would only take room.
        let absent = |value: &Option<Result<f64, String>>| {
            value.as_ref().is_none_or(|value| matches!(value, Err(end) if end.starts_with("not measured")))
        };
        if !values.iter().all(absent) {
            sections[place].bars.push(Bar { label: entry.id.into(), kind, values, unit });
        }
    }
    sections.retain(|section| !section.bars.is_empty());
    sections
}

/// As much of it as there is room for.
fn brief(end: &str) -> String {
    match end.char_indices().nth(44) {
        Some((at, _)) => format!("{}…", &end[..at]),
        None => end.into(),
    }
}

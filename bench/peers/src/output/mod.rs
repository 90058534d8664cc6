//! What is made of the results: JSON, tables, pictures.

pub mod chart;
pub mod pictures;
pub mod table;

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::bounds::{self, Bound};
use crate::entries::{self, Group};
use crate::machine::Machine;
use crate::peer::AtRest;
use crate::plan::Settings;
use crate::results::{Cell, Figure, Results};
use crate::stats::Series;
use crate::work::{self, Work, limit::Limit, memory::Memory};
use crate::{Failure, entries::PAIR};

#[derive(Serialize)]
pub struct Report {
    pub machine: Machine,
    pub passes: usize,
    pub turns: usize,
    pub entries: Vec<Who>,
    pub works: Vec<Measured>,
    pub interruption: Option<Interruption>,
    pub bounds: Vec<Bound>,
}

#[derive(Serialize)]
pub struct Who {
    pub id: &'static str,
    pub ours: bool,
    pub floor: bool,
    pub at_rest: Option<AtRest>,
    pub version: String,
    pub note: &'static str,
}

#[derive(Serialize)]
pub struct Measured {
    pub id: String,
    pub title: String,
    #[serde(skip)]
    pub work: Work,
    pub rows: Vec<Row>,
}

#[derive(Serialize)]
pub struct Row {
    /// The number of the entry in the list of them.
    #[serde(skip)]
    pub entry: usize,
    pub who: &'static str,
    /// Nanoseconds; of two threads, calls a second of one of them alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<Summary>,
    /// Nanoseconds beside a thread that computes; of two threads, calls a second of both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second: Option<Summary>,
    /// The second over the first, turn by turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<Summary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// It did not come through: how, and in how many passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub median: f64,
    pub least: f64,
    pub most: f64,
    pub passes: Vec<f64>,
}

/// What it cost a bare pair of protection changes to interrupt another core. It has two states on virtual machines.
#[derive(Serialize)]
pub struct Interruption {
    pub alone_ns: f64,
    /// Of each pass.
    pub beside_ns: Vec<f64>,
    pub cheap_passes: usize,
    pub dear_passes: usize,
}

/// More than so many nanoseconds for the two interruptions of a pair are the dear state.
const DEAR: f64 = 3000.0;

impl Report {
    pub fn of(results: &Results, settings: &Settings) -> Self {
        let who = |entry: &entries::Entry| Who {
            id: entry.id,
            ours: entry.group == Group::Ours,
            floor: entry.group == Group::Floor,
            at_rest: entry.at_rest,
            version: (entry.version)(),
            note: entry.note,
        };
        Self {
            machine: Machine::here(),
            passes: settings.passes,
            turns: settings.rounds,
            entries: entries::ALL.iter().map(who).collect(),
            works: work::ALL.iter().filter_map(|work| measured(results, *work)).collect(),
            interruption: interruption(results),
            bounds: bounds::all(results),
        }
    }

    pub fn work(&self, work: Work) -> Option<&Measured> {
        self.works.iter().find(|measured| measured.work == work)
    }
}

fn measured(results: &Results, work: Work) -> Option<Measured> {
    let rows: Vec<Row> =
        (0..entries::ALL.len()).filter_map(|entry| Some(row(entry, results.get(entry, work)?))).collect();
    (!rows.is_empty()).then(|| Measured { id: work.id(), title: work.title(), work, rows })
}

fn row(entry: usize, cell: &Cell) -> Row {
    let figure = |figure: Figure| &cell.figures[figure as usize];
    let mut end = cell.ends.first().map(|(_, end)| end.words());
    if let (Some(end), more @ 2..) = (&mut end, cell.ends.len()) {
        end.push_str(&format!(", {more} times"));
    }
    Row {
        entry,
        who: entries::ALL[entry].id,
        first: summary(figure(Figure::First)),
        second: summary(figure(Figure::Second)),
        times: summary(&figure(Figure::Second).over(figure(Figure::First))),
        limit: cell.limit.clone(),
        memory: cell.memory.clone(),
        end,
    }
}

fn summary(series: &Series) -> Option<Summary> {
    let summary = || Summary {
        median: series.median(),
        least: series.least(),
        most: series.most(),
        passes: series.passes(),
    };
    (!series.is_empty()).then(summary)
}

fn interruption(results: &Results) -> Option<Interruption> {
    let alone = results.series(PAIR, Work::Busy, Figure::First)?;
    let beside = results.series(PAIR, Work::Busy, Figure::Second)?;
    let dear =
        beside.passes().iter().zip(alone.passes()).filter(|(beside, alone)| *beside - alone > DEAR).count();
    let beside_ns = beside.passes();
    Some(Interruption {
        alone_ns: alone.median(),
        cheap_passes: beside_ns.len() - dear,
        dear_passes: dear,
        beside_ns,
    })
}

/// Into `peers.json`, `peers.md` and a picture for each kind of work.
pub fn write(report: &Report, directory: &Path) -> Result<(), Failure> {
    fs::create_dir_all(directory)?;
    fs::write(directory.join("peers.json"), serde_json::to_string_pretty(report)? + "\n")?;
    fs::write(directory.join("peers.md"), table::markdown(report))?;
    for (name, chart) in pictures::all(report) {
        fs::write(directory.join(name), chart.svg())?;
    }
    Ok(())
}

//! What was promised, against what was measured: a ratio for each, taken turn by turn, and whether it holds.

use serde::Serialize;

use crate::entries::{BARE_PAIR, OPEN_MIB, PAGED, PAIR, PREAD_OPEN, SEAL_MIB, SODIUM, SPLIT, TWO_FILES};
use crate::peer::AtRest::{self, Encrypted, Inaccessible};
use crate::results::Figure::{self, First, Second, Share};
use crate::results::Results;
use crate::stats::Series;
use crate::work::{self, Work};

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
}
use Goal::{AtLeast, AtMost};

impl Goal {
    fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(goal) => ratio <= goal,
            Self::AtLeast(goal) => ratio >= goal,
        }
    }

    pub fn words(self) -> String {
        match self {
            Self::AtMost(goal) => format!("at most {goal}"),
            Self::AtLeast(goal) => format!("at least {goal}"),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Bound {
    pub what: String,
    pub against: String,
    pub goal: Goal,
    /// The median over all turns, and the medians of the passes.
    pub ratio: Option<f64>,
    pub passes: Vec<f64>,
    /// `None`: cannot be told.
    pub met: Option<bool>,
    pub why_not: Option<String>,
}

/// Threads that have to wait for a processor are seldom in each other's way, whatever they do.
const LEAST_SHARE: f64 = 0.9;
const LOCKED: &[AtRest] = &[Inaccessible, Encrypted];

pub fn all(results: &Results) -> Vec<Bound> {
    let judge = Judge { results };
    let mut all = Vec::new();
    all.extend([
        judge.floor(SPLIT, work::READ, PREAD_OPEN, AtMost(1.4)),
        judge.fastest(SPLIT, work::READ, First, &[Inaccessible], AtMost(0.25)),
        judge.fastest(SPLIT, work::READ, First, &[Encrypted], AtMost(0.38)),
        judge.beside_alone(SPLIT, AtMost(1.2)),
        judge.fastest(SPLIT, Work::Busy, Second, &[Inaccessible], AtMost(0.15)),
        judge.most(Work::TwoDifferent, &[Inaccessible], AtLeast(8.0)),
        judge.most(Work::TwoDifferent, &[Encrypted], AtLeast(8.0)),
        judge.most(Work::TwoSame, &[Inaccessible], AtLeast(8.0)),
        judge.most(Work::TwoSame, &[Encrypted], AtLeast(8.0)),
        judge.gain(Work::TwoDifferent, AtLeast(0.9)),
        judge.gain(Work::TwoSame, AtLeast(0.8)),
        judge.floor(SPLIT, work::CREATE, SODIUM, AtMost(0.05)),
        judge.fastest(SPLIT, work::CREATE, First, LOCKED, AtMost(0.7)),
        judge.floor(PAGED, work::READ, PAIR, AtMost(1.1)),
        judge.floor(PAGED, work::READ, BARE_PAIR, AtMost(1.1)),
        judge.fastest(PAGED, work::CREATE, First, &[Inaccessible], AtMost(0.3)),
        judge.speed_of_cipher(work::CREATE_MIB, &SEAL_MIB, AtLeast(0.95)),
        judge.speed_of_cipher(work::READ_MIB, &OPEN_MIB, AtLeast(0.95)),
    ]);
    for work in [work::CREATE_MIB, work::READ_MIB] {
        for at_rest in [&[Encrypted][..], LOCKED] {
            all.push(judge.speed(work, at_rest, AtLeast(2.5)));
        }
    }
    all
}

struct Judge<'a> {
    results: &'a Results,
}

type Compared = Result<Series, String>;

impl Judge<'_> {
    /// Against one that is named.
    fn floor(&self, id: &str, work: Work, other: &str, goal: Goal) -> Bound {
        let compared =
            self.series(id, work, First).and_then(|ours| Ok(ours.over(self.series(other, work, First)?)));
        judged(format!("{id}: {}", work.title()), other.into(), goal, compared)
    }

    /// The time, against the peer that takes the least.
    fn fastest(&self, id: &str, work: Work, figure: Figure, at_rest: &[AtRest], goal: Goal) -> Bound {
        let what = format!("{id}: {}", work.title());
        let Some((peer, series)) = self.results.fastest(work, figure, at_rest) else {
            return judged(what, fastest(at_rest), goal, Err("no such peer was measured".into()));
        };
        let compared = self.undisturbed(id, work).and_then(|()| self.undisturbed(peer, work));
        let compared = compared.and_then(|()| Ok(self.series(id, work, figure)?.over(series)));
        judged(what, format!("{} ({peer})", fastest(at_rest)), goal, compared)
    }

    /// How many times as fast as that peer.
    fn speed(&self, work: Work, at_rest: &[AtRest], goal: Goal) -> Bound {
        let what = format!("{SPLIT}: {}, speed", work.title());
        let Some((peer, series)) = self.results.fastest(work, First, at_rest) else {
            return judged(what, fastest(at_rest), goal, Err("no such peer was measured".into()));
        };
        let compared = self.series(SPLIT, work, First).map(|ours| series.over(ours));
        judged(what, format!("{} ({peer})", fastest(at_rest)), goal, compared)
    }

    /// How many times as fast as the faster of two floors.
    fn speed_of_cipher(&self, work: Work, floors: &[&'static str; 2], goal: Goal) -> Bound {
        let what = format!("{SPLIT}: {}, speed", work.title());
        let measured = floors.iter().filter_map(|id| Some((*id, self.series(id, work, First).ok()?)));
        let fastest = measured.min_by(|a, b| a.1.median().total_cmp(&b.1.median()));
        let Some((id, floor)) = fastest else {
            return judged(what, floors[0].into(), goal, Err("the floor was not measured".into()));
        };
        judged(what, id.into(), goal, self.series(SPLIT, work, First).map(|ours| floor.over(ours)))
    }

    fn beside_alone(&self, id: &str, goal: Goal) -> Bound {
        let compared = self.undisturbed(id, Work::Busy).and_then(|()| {
            Ok(self.series(id, Work::Busy, Second)?.over(self.series(id, Work::Busy, First)?))
        });
        judged(format!("{id}: {}", Work::Busy.title()), "itself alone".into(), goal, compared)
    }

    /// Reads a second of two threads, against the peer that has the most.
    fn most(&self, work: Work, at_rest: &[AtRest], goal: Goal) -> Bound {
        let what = format!("{SPLIT}: {}, reads a second", work.title());
        let name = fastest(at_rest);
        let Some((peer, series)) = self.results.most(work, Second, at_rest) else {
            return judged(what, name, goal, Err("no such peer was measured".into()));
        };
        let compared = self.undisturbed(SPLIT, work);
        let compared = compared.and_then(|()| Ok(self.series(SPLIT, work, Second)?.over(series)));
        judged(what, format!("{name} ({peer})"), goal, compared)
    }

    /// What the second thread brings, against what it brings to bare calls that have nothing to do with each other.
    fn gain(&self, work: Work, goal: Goal) -> Bound {
        let gain = |id| -> Compared {
            self.undisturbed(id, work)?;
            Ok(self.series(id, work, Second)?.over(self.series(id, work, First)?))
        };
        let compared = gain(SPLIT).and_then(|ours| Ok(ours.over(&gain(TWO_FILES)?)));
        let what = format!("{SPLIT}: {}, gain by the second", work.title());
        judged(what, format!("the gain of {TWO_FILES}"), goal, compared)
    }

    fn series(&self, id: &str, work: Work, figure: Figure) -> Result<&Series, String> {
        self.results.series(id, work, figure).ok_or_else(|| format!("no figures of {id}"))
    }

    fn undisturbed(&self, id: &str, work: Work) -> Result<(), String> {
        let Ok(share) = self.series(id, work, Share) else { return Ok(()) };
        let share = share.median();
        if share >= LEAST_SHARE {
            return Ok(());
        }
        Err(format!(
            "other work on the machine: the threads had a processor for {:.0} % of the time",
            100.0 * share
        ))
    }
}

fn fastest(at_rest: &[AtRest]) -> String {
    let words: Vec<&str> = at_rest.iter().map(|it| it.word()).collect();
    format!("the fastest peer {} at rest", words.join(" or "))
}

fn judged(what: String, against: String, goal: Goal, compared: Compared) -> Bound {
    match compared {
        Ok(ratios) if !ratios.is_empty() => {
            let ratio = ratios.median();
            let met = Some(goal.holds(ratio));
            Bound { what, against, goal, ratio: Some(ratio), passes: ratios.passes(), met, why_not: None }
        }
        other => {
            let why = other.err().unwrap_or_else(|| "they have no turn in common".into());
            Bound { what, against, goal, ratio: None, passes: Vec::new(), met: None, why_not: Some(why) }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::entries;
    use crate::stats::series;
    use crate::team::End;

    fn put(results: &mut Results, id: &str, work: Work, figures: [&[f64]; 3]) {
        let entry = entries::ALL.iter().position(|entry| entry.id == id).unwrap();
        results.cell(entry, work).figures = figures.map(series);
    }

    fn reads(split: &[f64]) -> Results {
        let mut results = Results::default();
        put(&mut results, SPLIT, work::READ, [split, &[], &[]]);
        put(&mut results, PREAD_OPEN, work::READ, [&[100.0, 1000.0, 100.0], &[], &[]]);
        put(&mut results, "memsafe", work::READ, [&[1000.0, 10_000.0, 1000.0], &[], &[]]);
        put(&mut results, "siegel", work::READ, [&[2000.0, 20_000.0, 2000.0], &[], &[]]);
        put(&mut results, "secure-gate, plain", work::READ, [&[1.0, 1.0, 1.0], &[], &[]]);
        results
    }

    #[test]
    fn a_bound_is_met_or_not_by_the_ratio() {
        let results = reads(&[140.0, 1400.0, 140.0]);
        let met = Judge { results: &results }.floor(SPLIT, work::READ, PREAD_OPEN, AtMost(1.4));
        assert_eq!((met.ratio, met.met), (Some(1.4), Some(true)));
        assert_eq!(met.passes, [1.4, 1.4]);
        let results = reads(&[141.0, 1410.0, 141.0]);
        let missed = Judge { results: &results }.floor(SPLIT, work::READ, PREAD_OPEN, AtMost(1.4));
        assert_eq!(missed.met, Some(false));
        assert!(AtLeast(8.0).holds(8.0) && !AtLeast(8.0).holds(7.9));
    }

    #[test]
    fn the_fastest_peer_is_one_that_locks_and_did_not_crash() {
        let mut results = reads(&[250.0, 2500.0, 250.0]);
        let bound = |results: &Results| {
            Judge { results }.fastest(SPLIT, work::READ, First, &[Inaccessible], AtMost(0.25))
        };
        let first = bound(&results);
        assert!(first.against.contains("memsafe"), "{first:?}");
        assert_eq!((first.ratio, first.met), (Some(0.25), Some(true)));
        let entry = entries::ALL.iter().position(|entry| entry.id == "memsafe").unwrap();
        results.cell(entry, work::READ).ends.push((1, End::Crashed("SIGSEGV".into())));
        let second = bound(&results);
        assert!(second.against.contains("siegel"), "{second:?}");
        assert_eq!(second.ratio, Some(0.125));
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let none = Judge { results: &Results::default() };
        let bounds = [
            none.floor(PAGED, work::READ, PAIR, AtMost(1.1)),
            none.most(Work::TwoSame, LOCKED, AtLeast(8.0)),
            none.gain(Work::TwoSame, AtLeast(0.8)),
            none.speed(work::READ_MIB, LOCKED, AtLeast(2.5)),
        ];
        for bound in bounds {
            assert!(bound.met.is_none() && bound.ratio.is_none() && bound.why_not.is_some(), "{bound:?}");
        }
    }

    #[test]
    fn gains_are_compared_and_a_machine_that_is_busy_is_no_measure() {
        let gain = |share: f64| {
            let mut results = Results::default();
            let work = Work::TwoSame;
            put(&mut results, SPLIT, work, [&[100.0, 100.0], &[180.0, 180.0], &[share, share]]);
            put(&mut results, TWO_FILES, work, [&[400.0, 400.0], &[800.0, 800.0], &[1.0, 1.0]]);
            Judge { results: &results }.gain(work, AtLeast(0.8))
        };
        assert_eq!((gain(1.0).ratio, gain(1.0).met), (Some(0.9), Some(true)));
        assert_eq!((gain(0.5).ratio, gain(0.5).met), (None, None));
    }

    #[test]
    fn every_bound_has_something_to_say_on_an_empty_run() {
        assert!(all(&Results::default()).iter().all(|bound| bound.why_not.is_some()));
    }
}

//! A row as it is printed: as text, and as JSON with `--json`.

use std::fmt;

use serde::Serialize;

use super::busy::Burden;
use super::gain::Gains;
use super::measure::Figures;
use super::rows::Row;

/// What a ratio should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn is_met_by(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(most) => ratio <= most,
            Self::AtLeast(least) => ratio >= least,
        }
    }

    fn target(self) -> f64 {
        match self {
            Self::AtMost(figure) | Self::AtLeast(figure) => figure,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::AtMost(_) => "at most",
            Self::AtLeast(_) => "at least",
        }
    }
}

/// One row.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    op: &'static str,
    floor: &'static str,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome {
    Measured(Measured),
    Skipped { skipped: String },
}

#[derive(Debug, Serialize)]
struct Measured {
    ns: f64,
    floor_ns: f64,
    ratio: f64,
    ratio_low: f64,
    ratio_high: f64,
    /// Is the target the most or the least that the ratio should be?
    goal: Option<&'static str>,
    target: Option<f64>,
    met: Option<bool>,
    rounds: u32,
    #[serde(flatten)]
    details: Details,
}

/// What only some kinds of rows have.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Details {
    None {},
    Cost {
        /// Of the least disturbed slice of each.
        least_ns: f64,
        least_floor_ns: f64,
        least_ratio: f64,
    },
    Gain {
        /// Calls a second of two threads over those of one.
        gain: f64,
        floor_gain: f64,
        /// Of one thread, and of two.
        calls_per_s: [f64; 2],
        floor_calls_per_s: [f64; 2],
    },
    Busy {
        /// Of the bare pair of protection changes, in the same two conditions.
        pair_busy_ns: f64,
        pair_ns: f64,
        pair_busy_ratio: f64,
    },
}

impl Line {
    pub(super) fn cost(row: &Row, figures: &Figures, rounds: u32) -> Self {
        let details = figures.least.map_or(Details::None {}, |least| Details::Cost {
            least_ns: round(least.ns, 1),
            least_floor_ns: round(least.floor_ns, 1),
            least_ratio: round(least.ns / least.floor_ns, 3),
        });
        Self::new(row, figures, rounds, details)
    }

    pub(super) fn gain(row: &Row, gains: &Gains, rounds: u32) -> Self {
        let details = Details::Gain {
            gain: round(gains.gain, 3),
            floor_gain: round(gains.floor_gain, 3),
            calls_per_s: gains.rates.map(|rate| round(rate, 0)),
            floor_calls_per_s: gains.floor_rates.map(|rate| round(rate, 0)),
        };
        Self::new(row, &gains.figures, rounds, details)
    }

    pub(super) fn busy(row: &Row, burden: &Burden, rounds: u32) -> Self {
        let details = Details::Busy {
            pair_busy_ns: round(burden.pair.ns, 1),
            pair_ns: round(burden.pair.floor_ns, 1),
            pair_busy_ratio: round(burden.pair.ratio, 3),
        };
        Self::new(row, &burden.op, rounds, details)
    }

    pub(super) fn skipped(row: &Row, reason: String) -> Self {
        Self { op: row.op, floor: row.floor, outcome: Outcome::Skipped { skipped: reason } }
    }

    fn new(row: &Row, figures: &Figures, rounds: u32, details: Details) -> Self {
        let measured = Measured {
            ns: round(figures.ns, 1),
            floor_ns: round(figures.floor_ns, 1),
            ratio: round(figures.ratio, 3),
            ratio_low: round(figures.ratio_low, 3),
            ratio_high: round(figures.ratio_high, 3),
            goal: row.goal.map(Goal::words),
            target: row.goal.map(|goal| round(goal.target(), 3)),
            met: row.goal.map(|goal| goal.is_met_by(figures.ratio)),
            rounds,
            details,
        };
        Self { op: row.op, floor: row.floor, outcome: Outcome::Measured(measured) }
    }
}

fn round(value: f64, digits: i32) -> f64 {
    let unit = 10_f64.powi(digits);
    (value * unit).round() / unit
}

/// Two lines a row, and a third where there is more to say: the names are too long for one.
pub(super) const HEADING: &str = "\
operation                                    ns   ratio  low..high    target
  its floor                                  ns";

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let measured = match &self.outcome {
            Outcome::Measured(measured) => measured,
            Outcome::Skipped { skipped } => return write!(f, "{}\n  skipped: {skipped}", self.op),
        };
        let spread = format!("{:.2}..{:.2}", measured.ratio_low, measured.ratio_high);
        write!(f, "{:<38}{:>9.1}{:>8.3}  {spread:<13}", self.op, measured.ns, measured.ratio)?;
        match (measured.goal, measured.target, measured.met) {
            (Some(goal), Some(target), Some(met)) => {
                let verdict = if met { "met" } else { "not met" };
                write!(f, "{goal} {target:.3}, {verdict}")?;
            }
            _ => write!(f, "-")?,
        }
        write!(f, "\n  {:<36}{:>9.1}", self.floor, measured.floor_ns)?;
        match &measured.details {
            Details::None {} => Ok(()),
            Details::Cost { least_ns, least_floor_ns, least_ratio } => {
                write!(
                    f,
                    "\n  least disturbed: {least_ns:.1}, its floor {least_floor_ns:.1}, ratio {least_ratio:.3}"
                )
            }
            Details::Gain { gain, floor_gain, calls_per_s: [one, two], .. } => {
                let (one, two) = (one / 1e6, two / 1e6);
                write!(f, "\n  a second thread brings {gain:.2} times the calls ")?;
                write!(f, "({one:.2} to {two:.2} million/s), to the floor {floor_gain:.2}")
            }
            Details::Busy { pair_busy_ns, pair_ns, pair_busy_ratio } => {
                write!(f, "\n  the bare mprotect pair: {pair_busy_ns:.1} beside a computing thread, ")?;
                write!(f, "{pair_ns:.1} alone, ratio {pair_busy_ratio:.3}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::Value;

    use super::super::rows::{Kind, Row};
    use super::*;

    const FIGURES: Figures =
        Figures { ns: 400.0, floor_ns: 200.0, ratio: 2.0, ratio_low: 1.9, ratio_high: 2.1, least: None };

    fn row(goal: Option<Goal>) -> Row {
        Row { op: "o", floor: "f", goal, kind: Kind::Cost(|| Err("not run".into())) }
    }

    fn json(line: &Line) -> Value {
        serde_json::from_str(&serde_json::to_string(line).unwrap()).unwrap()
    }

    #[test]
    fn a_goal_is_met_from_its_own_side() {
        for (goal, words, met) in [
            (Goal::AtMost(2.0), "at most", true),
            (Goal::AtMost(1.999), "at most", false),
            (Goal::AtLeast(2.0), "at least", true),
            (Goal::AtLeast(2.001), "at least", false),
        ] {
            let line = Line::cost(&row(Some(goal)), &FIGURES, 7);
            assert_eq!(json(&line)["met"], met, "{goal:?}");
            assert_eq!(json(&line)["goal"], words);
            assert_eq!(json(&line)["target"], goal.target());
            let text = line.to_string();
            assert!(text.contains(words) && text.contains(", not met") != met, "{text}");
        }
    }

    #[test]
    fn without_a_goal_nothing_is_met_or_missed() {
        let line = Line::cost(&row(None), &FIGURES, 7);
        for field in ["goal", "target", "met"] {
            assert_eq!(json(&line)[field], Value::Null, "{field}");
        }
        assert!(!line.to_string().contains("met"), "{line}");
    }

    #[test]
    fn a_skipped_row_says_why_and_has_no_figures() {
        let line = Line::skipped(&row(Some(Goal::AtMost(1.0))), "no such thing".into());
        assert_eq!(json(&line), serde_json::json!({ "op": "o", "floor": "f", "skipped": "no such thing" }));
        assert!(line.to_string().contains("skipped: no such thing"), "{line}");
    }

    #[test]
    fn a_row_of_gains_has_both_and_a_busy_row_has_the_pair() {
        let gains = Gains {
            figures: FIGURES,
            gain: 1.5,
            floor_gain: 2.0,
            rates: [1e6, 1.5e6],
            floor_rates: [2e6, 4e6],
        };
        let line = json(&Line::gain(&row(None), &gains, 7));
        assert_eq!((&line["gain"], &line["floor_gain"]), (&1.5.into(), &2.0.into()));
        assert_eq!(line["floor_calls_per_s"], serde_json::json!([2e6, 4e6]));
        let pair = Figures { ns: 5000.0, floor_ns: 1000.0, ratio: 5.0, ..FIGURES };
        let line = json(&Line::busy(&row(None), &Burden { op: FIGURES, pair }, 7));
        assert_eq!((&line["ratio"], &line["pair_busy_ratio"]), (&2.0.into(), &5.0.into()));
    }
}

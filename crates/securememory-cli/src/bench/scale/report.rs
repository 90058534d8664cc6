//! The figures of a run with their goals, and what was not right: as text and as JSON.

use std::fmt::Write;

use serde::Serialize;
use serde::ser::Serializer;

use securememory::Error;

/// Findings beyond these are only counted.
const TOLD: usize = 10;

/// A figure. Goals are bounds from above.
#[derive(Clone, Copy, Debug, Serialize)]
struct Figure {
    #[serde(skip)]
    name: &'static str,
    #[serde(skip)]
    what: &'static str,
    unit: &'static str,
    /// `None`: not measured.
    value: Option<f64>,
    goal: Option<f64>,
    met: Option<bool>,
}

/// What made a creation stop.
#[derive(Clone, Debug, Serialize)]
struct Limit {
    error: String,
    hint: Option<String>,
}

/// All that is reported. The fields are those of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: u32,
    ok: bool,
    store: &'static str,
    hold: Option<String>,
    /// How many were wanted, and how many were made.
    wanted: usize,
    secrets: usize,
    #[serde(serialize_with = "by_name")]
    figures: Vec<Figure>,
    /// Where not all that were wanted could be made.
    limit: Option<Limit>,
    /// What preflight had said, where something was short.
    preflight: Option<String>,
    wrong: u64,
    found: Vec<String>,
    fault_injector: bool,
}

fn by_name<S: Serializer>(figures: &[Figure], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(figures.iter().map(|figure| (figure.name, figure)))
}

impl Report {
    pub(super) fn new(store: &'static str, wanted: usize) -> Self {
        Self {
            version: 1,
            ok: true,
            store,
            hold: None,
            wanted,
            secrets: 0,
            figures: Vec::new(),
            limit: None,
            preflight: None,
            wrong: 0,
            found: Vec::new(),
            fault_injector: securememory::HAS_INJECTOR,
        }
    }

    pub(super) fn hold(&mut self, hold: String) {
        self.hold = Some(hold);
    }

    pub(super) fn made(&mut self, secrets: usize) {
        self.secrets = secrets;
    }

    pub(super) fn limit(&mut self, error: &Error) {
        let hint = error.hint().map(|hint| hint.to_string());
        self.limit = Some(Limit { error: error.to_string(), hint });
    }

    pub(super) fn preflight(&mut self, said: String) {
        self.preflight = Some(said);
    }

    /// Adds a figure; the order is that of the page.
    pub(super) fn figure(
        &mut self,
        (name, what): (&'static str, &'static str),
        unit: &'static str,
        value: impl Into<Option<f64>>,
        goal: Option<f64>,
    ) {
        let value = value.into().filter(|value| value.is_finite());
        let met = value.zip(goal).map(|(value, goal)| value <= goal);
        self.figures.push(Figure { name, what, unit, value, goal, met });
    }

    /// Something that must not be.
    pub(super) fn wrong(&mut self, what: String) {
        self.ok = false;
        self.wrong += 1;
        if self.found.len() < TOLD {
            self.found.push(what);
        }
    }

    pub(super) fn is_right(&self) -> bool {
        self.ok
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string(self)
            .unwrap_or_else(|error| format!("{{\"ok\":false,\"found\":[\"{error}\"]}}"))
            + "\n"
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let hold = self.hold.as_deref().unwrap_or("unknown");
        writeln!(text, "{} {} secrets of {} bytes, hold {hold}\n", self.secrets, self.store, super::LEN)?;
        for Figure { what, unit, value, goal, met, .. } in &self.figures {
            let value = value.map_or("not measured".to_owned(), |value| format!("{} {unit}", number(value)));
            write!(text, "{what:<52}{value:>20}")?;
            match (goal, met) {
                (Some(goal), Some(met)) => {
                    let verdict = if *met { "" } else { ", not met" };
                    writeln!(text, "   (goal: at most {}{verdict})", number(*goal))?;
                }
                _ => writeln!(text)?,
            }
        }
        if let Some(preflight) = &self.preflight {
            writeln!(text, "\npreflight had said: {preflight}")?;
        }
        if let Some(Limit { error, hint }) = &self.limit {
            writeln!(text, "\nthe limit, after {} of {}: {error}", self.secrets, self.wanted)?;
            writeln!(text, "hint: {}", hint.as_deref().unwrap_or("none"))?;
        }
        for found in &self.found {
            writeln!(text, "\nNOT RIGHT: {found}")?;
        }
        let verdict = match self.wrong {
            0 => "all right: every byte that was read".to_owned(),
            wrong => format!("NOT RIGHT: {wrong} findings"),
        };
        writeln!(text, "\n{verdict}")?;
        if self.fault_injector {
            writeln!(text, "note: this library was built with its fault injector (feature `testing`)")?;
        }
        Ok(())
    }
}

/// Whole numbers as such, others with what can be told of them.
fn number(value: f64) -> String {
    match value.abs() {
        size if value.fract() == 0.0 || size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn figures_keep_their_goals_and_what_is_wrong_decides() {
        let mut report = Report::new("sealed", 5);
        report.made(5);
        report.figure(("bytes_each", "bytes of each"), "B", 170.5, Some(176.0));
        report.figure(("create_ratio", "ratio"), "x", 1.75, Some(1.5));
        report.figure(("purge_ms", "purge"), "ms", None, Some(1.0));
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["figures"]["bytes_each"]["met"], true);
        assert_eq!(json["figures"]["create_ratio"]["met"], false);
        assert!(
            json["figures"]["purge_ms"]["met"].is_null() && json["figures"]["purge_ms"]["value"].is_null()
        );
        // A goal that is not met is nobody's fault.
        assert_eq!(json["ok"], true);
        assert!(report.text().contains("170.5 B") && report.text().contains("not met"), "{}", report.text());
        (0..20).for_each(|n| report.wrong(format!("finding {n}")));
        let text = report.text();
        assert!(!report.is_right() && text.contains("20 findings") && !text.contains("finding 12"), "{text}");
    }

    #[test]
    fn numbers_are_no_longer_than_they_need_be() {
        let cases = [(0.0, "0"), (65536.0, "65536"), (1234.56, "1235"), (170.54, "170.5"), (0.0312, "0.031")];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }
}

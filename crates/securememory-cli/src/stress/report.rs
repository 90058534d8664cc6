//! The verdict, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::leaks::Leaks;
use super::order::{Findings, Order};
use super::tally::{Count, Kind, Reason};

/// All that is reported. The fields are those of `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    version: u32,
    ok: bool,
    /// Why nothing was done.
    skipped: Option<String>,
    parameters: Order,
    /// The key hold that the vaults had.
    hold: Option<String>,
    seconds: f64,
    operations: u64,
    by_kind: BTreeMap<&'static str, Count>,
    refusals: BTreeMap<&'static str, u64>,
    faults: u64,
    wrong_bytes: u64,
    hangs: u64,
    unexpected_errors: u64,
    /// `None` where nobody got to look.
    leaks: Option<Leaks>,
    found: Vec<String>,
    fault_injector: bool,
}

impl Report {
    /// Judges.
    pub fn new(order: Order, hold: Option<String>, findings: Findings) -> Self {
        let counts = &findings.progress.counts;
        let operations = counts.iter().map(|count| count.done + count.refused).sum();
        let zero = findings.faults == 0
            && findings.wrong_bytes == 0
            && findings.hangs == 0
            && findings.unexpected == 0
            && findings.leaks.is_some_and(|leaks| leaks.none());
        let mut found = findings.found;
        if zero && operations == 0 {
            found.push("nothing was done, so nothing is shown".to_owned());
        }
        let kinds = Kind::ALL.iter().map(|kind| kind.name());
        let reasons = Reason::ALL.iter().map(|reason| reason.name());
        Self {
            version: 1,
            // Something was found that nobody counted: not good either.
            ok: zero && operations > 0 && found.is_empty(),
            skipped: None,
            parameters: order,
            hold,
            seconds: (findings.progress.elapsed.as_secs_f64() * 10.0).round() / 10.0,
            operations,
            by_kind: kinds.zip(counts.iter().copied()).collect(),
            refusals: reasons.zip(findings.refusals).collect(),
            faults: findings.faults,
            wrong_bytes: findings.wrong_bytes,
            hangs: findings.hangs,
            unexpected_errors: findings.unexpected,
            leaks: findings.leaks,
            found,
            fault_injector: securememory::HAS_INJECTOR,
        }
    }

    /// Nothing could be done.
    pub fn skipped(order: Order, reason: String) -> Self {
        let mut report = Self::new(order, None, Findings::default());
        report.found.clear();
        report.skipped = Some(reason);
        report
    }

    /// Is everything zero that must be?
    pub fn ok(&self) -> bool {
        self.ok
    }

    /// Was the hold not to be had?
    pub fn is_skipped(&self) -> bool {
        self.skipped.is_some()
    }

    /// One line of JSON.
    pub fn json(&self) -> String {
        serde_json::to_string(self)
            .unwrap_or_else(|error| format!("{{\"ok\":false,\"found\":[\"{error}\"]}}"))
            + "\n"
    }

    /// For people.
    pub fn text(&self) -> String {
        if let Some(reason) = &self.skipped {
            return format!("skipped: {reason}\n");
        }
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "{:16}{:>13}{:>13}", "operation", "done", "refused")?;
        for (kind, count) in
            Kind::ALL.iter().filter_map(|kind| Some((kind.name(), self.by_kind.get(kind.name())?)))
        {
            writeln!(text, "{kind:16}{:>13}{:>13}", count.done, count.refused)?;
        }
        let sum = |of: fn(&Count) -> u64| self.by_kind.values().map(of).sum::<u64>();
        writeln!(text, "{:16}{:>13}{:>13}", "all", sum(|count| count.done), sum(|count| count.refused))?;
        let refusals: Vec<String> =
            self.refusals.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        writeln!(text, "refused because others were at work: {}\n", refusals.join(", "))?;
        for (what, count) in [
            ("faults", self.faults),
            ("wrong bytes", self.wrong_bytes),
            ("hangs", self.hangs),
            ("unexpected errors", self.unexpected_errors),
        ] {
            writeln!(text, "{what:28}{count:>14}")?;
        }
        match &self.leaks {
            Some(leaks) => {
                writeln!(text, "{:28}{:>14}", "leaked mappings, KiB", leaks.regions_kib)?;
                writeln!(text, "{:28}{:>14}", "leaked descriptors", leaks.descriptors)?;
                writeln!(text, "{:28}{:>14}", "leaked locked memory, KiB", leaks.locked_kib)?;
                writeln!(text, "{:28}{:>14}", "leaked secrets", leaks.secrets)?;
                writeln!(text, "{:28}{:>14}", "leaked keys", leaks.keys)?;
            }
            None => writeln!(text, "{:28}{:>14}", "leaks", "not seen")?,
        }
        if !self.found.is_empty() {
            writeln!(text, "\nfound:")?;
        }
        for found in &self.found {
            writeln!(text, "  {found}")?;
        }
        let hold = self.hold.as_deref().unwrap_or("unknown");
        let verdict = if self.ok { "all right" } else { "NOT RIGHT" };
        writeln!(
            text,
            "\n{verdict}: {} operations in {} s, store {}, hold {hold}, seed {}",
            self.operations, self.seconds, self.parameters.store, self.parameters.seed
        )?;
        if self.fault_injector {
            writeln!(text, "note: this library was built with its fault injector (feature `testing`)")?;
        }
        Ok(())
    }
}

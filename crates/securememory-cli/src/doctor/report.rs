//! What came of it all: for people a table, for machines JSON.

use serde::Serialize;
use serde_json::{Value, json};

use super::promises::{Attack, Kept, TABLE};
use super::verdict::{Outcome, Verdict};

/// One attack on one store, and what came of it.
pub struct Check {
    /// The attack.
    pub attack: Attack,
    /// How the secret was kept.
    pub kept: Kept,
    /// What came of it.
    pub verdict: Verdict,
}

/// How a check compares with its promise.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Kept,
    Better,
    Broken,
    Skipped,
    Failed,
}

impl Check {
    fn standing(&self) -> Standing {
        let withstands = self.attack.promise(self.kept).withstands;
        match self.verdict.outcome {
            Outcome::Skipped | Outcome::Absent => Standing::Skipped,
            Outcome::Failed => Standing::Failed,
            Outcome::Blocked if withstands => Standing::Kept,
            Outcome::Leaked if !withstands => Standing::Kept,
            // An attack that the baseline withstands proves nothing of the others.
            Outcome::Blocked if self.kept == Kept::Plain => Standing::Broken,
            Outcome::Blocked => Standing::Better,
            Outcome::Leaked => Standing::Broken,
        }
    }

    fn outcome(&self) -> &'static str {
        match self.verdict.outcome {
            Outcome::Blocked => "blocked",
            Outcome::Leaked => "leaked",
            Outcome::Skipped | Outcome::Absent | Outcome::Failed => "skipped",
        }
    }

    fn promised(&self) -> &'static str {
        if self.attack.promise(self.kept).withstands { "blocked" } else { "leaked" }
    }
}

/// All checks, and where they were made.
pub struct Report {
    /// In the order in which they were made.
    pub checks: Vec<Check>,
    /// About this machine and this build.
    pub host: Value,
    /// What the reader should know besides.
    pub notes: Vec<String>,
    /// Do skips count as failures?
    pub strict: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    attack: Attack,
    store: Kept,
    outcome: &'static str,
    promised: &'static str,
    detail: &'a str,
}

impl Report {
    /// Is everything as promised? Not if there was no store of the library at all to attack.
    pub fn ok(&self) -> bool {
        let mut library = self.checks.iter().filter(|check| check.kept != Kept::Plain).peekable();
        let nothing_there =
            library.peek().is_some() && library.all(|check| check.verdict.outcome == Outcome::Absent);
        let fine = |check: &Check| match check.standing() {
            Standing::Kept | Standing::Better => true,
            Standing::Skipped => !self.strict,
            Standing::Broken | Standing::Failed => false,
        };
        !nothing_there && self.checks.iter().all(fine)
    }

    /// One JSON object.
    pub fn json(&self) -> String {
        let line = |check: &Check| {
            json!(Line {
                attack: check.attack,
                store: check.kept,
                outcome: check.outcome(),
                promised: check.promised(),
                detail: &check.verdict.detail,
            })
        };
        let checks: Vec<Value> = self.checks.iter().map(line).collect();
        format!("{:#}\n", json!({ "version": 1, "ok": self.ok(), "host": self.host, "checks": checks }))
    }

    /// The table, and below it what it does not say.
    pub fn text(&self, colour: bool, verbose: bool) -> String {
        let paint = Paint { colour };
        let columns: Vec<Kept> = Kept::ALL
            .into_iter()
            .filter(|kept| self.checks.iter().any(|check| check.kept == *kept))
            .collect();
        let mut text = paint.bold(&format!("{:21}", "attack"));
        for kept in &columns {
            text += &paint.bold(&format!("{kept:17}"));
        }
        text = text.trim_end().to_owned() + "\n";
        for row in &TABLE {
            if !self.checks.iter().any(|check| check.attack == row.attack) {
                continue;
            }
            text += &format!("{:21}", row.attack.name());
            for kept in &columns {
                let check =
                    self.checks.iter().find(|check| check.attack == row.attack && check.kept == *kept);
                text += &check.map_or_else(|| " ".repeat(17), |check| paint.cell(check));
            }
            text = text.trim_end().to_owned() + "\n";
        }
        text += "\n= as SECURITY.md promises   + better than that   ! worse, or not known   - skipped\n";
        self.explain(&mut text, &paint, verbose);
        text
    }

    fn explain(&self, text: &mut String, paint: &Paint, verbose: bool) {
        let mut tell = |title: &str, standing: &[Standing], only_if: &dyn Fn(&Check) -> bool| {
            let told: Vec<&Check> = self
                .checks
                .iter()
                .filter(|check| standing.contains(&check.standing()) && only_if(check))
                .collect();
            if !told.is_empty() {
                *text += &format!("\n{}\n", paint.bold(title));
            }
            // What is the same for several stores is told once.
            for alike in
                told.chunk_by(|one, two| one.attack == two.attack && one.verdict.detail == two.verdict.detail)
            {
                let stores: Vec<&str> = alike.iter().map(|check| check.kept.name()).collect();
                let check = alike[0];
                *text += &format!(
                    "  {} on {}: {}\n",
                    check.attack.name(),
                    stores.join(", "),
                    check.verdict.detail
                );
            }
        };
        tell("Not as promised", &[Standing::Broken, Standing::Failed], &|_| true);
        tell("Skipped", &[Standing::Skipped], &|check| check.verdict.outcome != Outcome::Absent);
        tell("Leaked, as SECURITY.md says it does", &[Standing::Kept], &|check| {
            check.kept != Kept::Plain && check.verdict.outcome == Outcome::Leaked
        });
        if verbose {
            tell("Better than promised", &[Standing::Better], &|_| true);
            tell("Blocked", &[Standing::Kept], &|check| check.verdict.outcome == Outcome::Blocked);
            tell("The baseline", &[Standing::Kept], &|check| check.kept == Kept::Plain);
        }
        // A store that cannot be had is one thing to tell, not one for each attack.
        let mut absent: Vec<&Check> = Vec::new();
        for check in self.checks.iter().filter(|check| check.verdict.outcome == Outcome::Absent) {
            if !absent.iter().any(|told| told.kept == check.kept) {
                absent.push(check);
            }
        }
        if !absent.is_empty() {
            *text += &format!("\n{}\n", paint.bold("Not to be had here, so not attacked"));
        }
        for check in absent {
            *text += &format!("  {}: {}\n", check.kept, check.verdict.detail);
        }
        for note in &self.notes {
            *text += &format!("\n{}: {note}\n", paint.bold("Note"));
        }
        *text += &format!("\n{}\n", self.sum(paint));
    }

    fn sum(&self, paint: &Paint) -> String {
        let count =
            |standing: Standing| self.checks.iter().filter(|check| check.standing() == standing).count();
        let blocked = |check: &&Check| check.verdict.outcome == Outcome::Blocked && check.kept != Kept::Plain;
        let mut sum = format!(
            "{} checks: {} attacks blocked",
            self.checks.len(),
            self.checks.iter().filter(blocked).count()
        );
        for (standing, words) in [
            (Standing::Broken, "not as promised"),
            (Standing::Failed, "failed to run"),
            (Standing::Skipped, "skipped"),
        ] {
            if count(standing) > 0 {
                sum += &format!(", {} {words}", count(standing));
            }
        }
        let (code, verdict) = match (self.ok(), count(Standing::Skipped)) {
            (true, 0) => ("32;1", "All promises hold here"),
            (true, _) => ("32;1", "All promises that could be checked hold here"),
            (false, _) if count(Standing::Broken) > 0 => ("31;1", "NOT all promises hold here"),
            (false, _) => ("31;1", "NOT shown that the promises hold here"),
        };
        paint.with(code, &format!("{verdict}. {sum}."))
    }
}

/// Colours, or none.
struct Paint {
    colour: bool,
}

impl Paint {
    fn with(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn bold(&self, text: &str) -> String {
        self.with("1", text)
    }

    fn cell(&self, check: &Check) -> String {
        let (mark, code) = match (check.standing(), check.verdict.outcome) {
            (Standing::Kept, Outcome::Blocked) => ("=", "32"),
            (Standing::Kept, _) => ("=", if check.kept == Kept::Plain { "2" } else { "33" }),
            (Standing::Better, _) => ("+", "32"),
            (Standing::Broken | Standing::Failed, _) => ("!", "31;1"),
            (Standing::Skipped, _) => ("-", "36"),
        };
        let word = if check.standing() == Standing::Failed { "not known" } else { check.outcome() };
        self.with(code, &format!("{mark} {word:15}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn report(outcome: Outcome, attack: Attack, kept: Kept, strict: bool) -> Report {
        let verdict = Verdict { outcome, detail: "so it was".to_owned() };
        Report { checks: vec![Check { attack, kept, verdict }], host: json!({}), notes: Vec::new(), strict }
    }

    #[test]
    fn what_counts_as_ok() {
        let ok = |outcome, attack, kept, strict| report(outcome, attack, kept, strict).ok();
        for strict in [false, true] {
            assert!(ok(Outcome::Blocked, Attack::StrayRead, Kept::Paged, strict));
            assert!(!ok(Outcome::Leaked, Attack::StrayRead, Kept::Paged, strict));
            assert!(
                !ok(Outcome::Blocked, Attack::StrayRead, Kept::Plain, strict),
                "a check that cannot fail"
            );
            assert!(ok(Outcome::Leaked, Attack::StrayRead, Kept::Plain, strict));
            assert!(ok(Outcome::Leaked, Attack::ProcMem, Kept::Paged, strict));
            assert!(ok(Outcome::Blocked, Attack::ProcMem, Kept::Paged, strict), "better than promised");
            assert!(!ok(Outcome::Failed, Attack::ProcMem, Kept::Paged, strict), "nothing is known");
            assert_eq!(ok(Outcome::Skipped, Attack::CoreDump, Kept::Paged, strict), !strict);
            assert!(!ok(Outcome::Absent, Attack::Log, Kept::Paged, strict), "nothing there to attack");
        }
    }

    #[test]
    fn a_store_that_cannot_be_had_is_told_once_and_counts_as_skipped() {
        let absent = |attack| {
            let verdict = Verdict { outcome: Outcome::Absent, detail: "no such keys".to_owned() };
            Check { attack, kept: Kept::SealedPkey, verdict }
        };
        let verdict = Verdict::blocked("fine");
        let mut checks = vec![absent(Attack::StrayRead), absent(Attack::Log)];
        checks.push(Check { attack: Attack::Log, kept: Kept::Paged, verdict });
        let mut report = Report { checks, host: json!({}), notes: Vec::new(), strict: false };
        let text = report.text(false, true);
        assert_eq!(text.matches("no such keys").count(), 1, "{text}");
        assert!(text.contains("2 skipped") && report.ok(), "{text}");
        report.strict = true;
        assert!(!report.ok());
    }

    #[test]
    fn json_and_text_say_the_same() {
        let report = report(Outcome::Failed, Attack::ForkInRead, Kept::SealedSplit, false);
        let value: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!((&value["version"], &value["ok"]), (&json!(1), &json!(false)));
        let expected = json!({ "attack": "fork-in-read", "store": "sealed-split", "outcome": "skipped",
            "promised": "blocked", "detail": "so it was" });
        assert_eq!(value["checks"], json!([expected]));
        let text = report.text(false, true);
        assert!(
            text.contains("! not known") && text.contains("so it was") && !text.contains('\u{1b}'),
            "{text}"
        );
        assert!(report.text(true, false).contains('\u{1b}'));
    }
}

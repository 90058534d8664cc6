//! The same for a person.

#[cfg_attr(windows, path = "text/windows.rs")]
#[cfg_attr(not(windows), path = "text/unix.rs")]
mod system;

use std::fmt::Write;

use securememory::{Build, Call, Error, Feature, VaultStatus};

use super::{Info, words};

/// Width of the column of names.
const NAMES: usize = 26;

/// The whole answer.
pub(super) fn page(info: &Info, colour: bool) -> String {
    let mut page = Page { text: String::new(), colour };
    let host = &info.host;
    let kernel = host.kernel.as_deref().unwrap_or("of unknown version");
    page.line(&format!(
        "securememory {} on {} {kernel}, {}, pages of {}",
        env!("CARGO_PKG_VERSION"),
        host.os,
        host.arch,
        words::bytes(host.page_size as u64)
    ));
    build(&mut page);
    system::offers(&mut page, host);
    system::limits(&mut page, host);
    system::eyes(&mut page, host);
    page.heading("Hardening: what `harden::process` would find in this process");
    info.hardening.to_string().lines().for_each(|line| page.item(line));
    page.heading("Key holds");
    for hold in &info.holds {
        match &hold.made {
            Ok(()) => page.explained(hold.name, Tone::Good, "can be had", hold.what),
            Err(error) => {
                page.explained(hold.name, Tone::Fair, "no", hold.what);
                page.more(&error.to_string());
                if let Some(hint) = error.hint() {
                    page.more(&hint.to_string());
                }
            }
        }
    }
    page.heading("A default vault here");
    match &info.vault {
        Ok(status) => {
            vault(&mut page, status);
            if let Some(found) = &info.diagnostics {
                let left = match found.budget.lock_left {
                    None => "not known".to_owned(),
                    Some(u64::MAX) => "any amount".to_owned(),
                    Some(left) => words::bytes(left),
                };
                page.row("may still be locked", Tone::Plain, &left);
                found.degradations.iter().for_each(|degradation| page.more(&degradation.to_string()));
            }
        }
        Err(error) => {
            page.row("cannot be made", Tone::Bad, &error.to_string());
            if let Some(hint) = error.hint() {
                page.more(&hint.to_string());
            }
        }
    }
    if let Some(preflight) = &info.preflight {
        page.heading("The secrets that were asked about");
        page.item(&preflight.as_ref().map_or_else(Error::to_string, |found| found.to_string()));
    }
    page.heading("What to change");
    if info.advice.is_empty() {
        page.line("  Nothing: a default vault gets all that it asks for.");
    }
    for advice in &info.advice {
        page.item(advice);
    }
    page.text
}

/// In two lists: what of the library is in this build, and what the system that it is built for does not have.
fn build(page: &mut Page) {
    page.heading("What this build can do");
    let all = Build::HERE.all();
    let names = |wanted: bool| {
        let found = all.iter().filter(|(_, can)| *can == wanted);
        let names: Vec<_> = found.map(|(name, _)| name.replace('_', " ")).collect();
        if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
    };
    page.row("system calls by", Tone::Plain, Build::HERE.backend);
    page.row("has", Tone::Plain, "");
    page.more(&names(true));
    page.row("does not have", Tone::Plain, "");
    page.more(&names(false));
}

fn vault(page: &mut Page, status: &VaultStatus) {
    let mut hold = words::hold(status.hold).to_owned();
    if status.replicas > 0 {
        let _ = write!(hold, ", its first share in {} in-memory files", status.replicas);
    }
    // Few machines have protection keys: doing without them is no step down that anybody should worry about.
    let no_keys = |error: &Error| matches!(error, Error::System(cause) if cause.call == Call::PkeyAlloc);
    match status.hold_stepped_down {
        None => page.row("key hold", Tone::Good, &hold),
        Some(error) if no_keys(&error) => {
            page.row("key hold", Tone::Good, &hold);
            page.more("the first choice, `pkey`, needs protection keys");
        }
        Some(error) => {
            page.row("key hold", Tone::Fair, &hold);
            page.more(&format!("not the first choice: {error}"));
        }
    }
    page.row("cipher", Tone::Good, words::cipher(status.cipher));
    let protections = &status.protections;
    let always = [
        ("guard pages", &protections.guard),
        ("locked", &protections.lock),
        ("left out of core dumps", &protections.dump),
        ("wiped on fork", &protections.fork),
    ];
    let encrypted = status.closed_encrypted.as_ref().map(|achieved| ("encrypted while closed", achieved));
    for (name, achieved) in always.into_iter().chain(encrypted) {
        let tone = if achieved.got { Tone::Good } else { Tone::Bad };
        page.row(name, tone, &words::achieved(achieved));
    }
    page.row("memory it locked", Tone::Plain, &words::bytes(status.locked_bytes as u64));
    if status.scratch_unlocked > 0 {
        let slots = format!("{} of {} are not locked", status.scratch_unlocked, status.scratch_slots);
        page.row("places for views", Tone::Fair, &slots);
    }
}

/// How a value is to be taken.
#[derive(Clone, Copy)]
enum Tone {
    Plain,
    Good,
    Fair,
    Bad,
}

struct Page {
    text: String,
    colour: bool,
}

impl Page {
    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn painted(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn heading(&mut self, text: &str) {
        let painted = self.painted("1", text);
        self.line("");
        self.line(&painted);
    }

    fn row(&mut self, name: &str, tone: Tone, value: &str) {
        let value = match tone {
            Tone::Plain => value.to_owned(),
            Tone::Good => self.painted("32", value),
            Tone::Fair => self.painted("33", value),
            Tone::Bad => self.painted("31", value),
        };
        self.line(&format!("  {name:<NAMES$}{value}"));
    }

    fn feature(&mut self, name: &str, feature: Feature, what: &str) {
        let tone = match feature {
            Feature::Available => Tone::Good,
            Feature::Unavailable { .. } => Tone::Bad,
            _ => Tone::Fair,
        };
        self.explained(name, tone, &words::feature(feature), what);
    }

    fn explained(&mut self, name: &str, tone: Tone, value: &str, what: &str) {
        let what = self.painted("2", &format!("({what})"));
        self.row(name, tone, value);
        // The explanation goes on the same line, after the painted value.
        self.text.pop();
        self.line(&format!(" {what}"));
    }

    /// A further line to the value above.
    fn more(&mut self, text: &str) {
        let width = 110 - NAMES;
        for line in wrapped(text, width) {
            let line = self.painted("2", &line);
            self.line(&format!("  {:<NAMES$}{line}", ""));
        }
    }

    /// An item of a list.
    fn item(&mut self, text: &str) {
        for (n, line) in wrapped(text, 104).iter().enumerate() {
            self.line(&format!("  {} {line}", if n == 0 { "-" } else { " " }));
        }
    }
}

/// Breaks at spaces.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_broken_at_spaces() {
        assert_eq!(wrapped("one two three four", 9), ["one two", "three", "four"]);
        assert!(wrapped("", 9).is_empty());
    }
}

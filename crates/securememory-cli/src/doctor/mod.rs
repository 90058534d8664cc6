//! `securememory doctor`: attacks its own secrets as a thief would.
//!
//! For every attack and every store the doctor starts an attacker, and the attacker a victim that holds a secret
//! ([`order`] is what they say to each other). The first store is a plain vector, which must lose: a check that
//! cannot fail proves nothing. What the attacks search for is kept masked everywhere but in the victim's secret
//! ([`needle`]), every search must also find a beacon, or it was blind ([`search`]), and what is promised stands
//! in one table ([`promises`]).

mod attacker;
mod crack;
mod finder;
mod input;
mod launch;
mod loot;
mod memory;
mod needle;
mod old;
mod order;
mod promises;
mod report;
mod scene;
mod search;
mod snapshot;
mod verdict;
mod victim;

use std::io::{self, IsTerminal, Write};
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use securememory::Host;

pub use attacker::run as attacker;
pub use victim::run as victim;

use needle::Needle;
use promises::{Attack, Kept, TABLE};
use report::{Check, Report};
use scene::Scene;

/// Options of `securememory doctor`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A key of your own to protect and attack, in a file or on standard input (-); at least 8 bytes. It is kept
    /// masked, and stays out of attacks that are meant to succeed and of everything that touches a disk
    #[arg(long, value_name = "FILE|-")]
    secret: Option<PathBuf>,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Fail if a check had to be skipped
    #[arg(long)]
    strict: bool,
    /// Only these attacks
    #[arg(long, value_name = "ATTACK", value_enum, value_delimiter = ',')]
    only: Vec<Attack>,
    /// Only these ways of keeping a secret
    #[arg(long, value_name = "STORE", value_enum, value_delimiter = ',')]
    store: Vec<Kept>,
    /// Say of every check what was done and seen
    #[arg(long, short)]
    verbose: bool,
    /// Seconds that one attack may take: the default is far more than any needs, but for an emulated processor
    #[arg(long, default_value = "60", value_name = "SECONDS")]
    deadline: NonZero<u64>,
    /// So many secrets besides, in the processes that crash or are killed
    #[arg(long, hide = true, default_value_t = 0, value_name = "N")]
    crowd: usize,
    /// Print the table of SECURITY.md and do nothing else
    #[arg(long, hide = true)]
    print_promises: bool,
}

/// Attacks, and tells. Exit code 0: as promised; 1: not; 2: wrong usage.
pub fn run(args: Args) -> ExitCode {
    if args.print_promises {
        print(&promises::markdown());
        return ExitCode::SUCCESS;
    }
    let key = match args.secret.as_deref().map(input::read_key).transpose() {
        Ok(key) => key,
        Err(why) => {
            eprintln!("securememory doctor: {why}");
            return ExitCode::from(2);
        }
    };
    match examine(&args, key) {
        Ok(report) => {
            print(&if args.json { report.json() } else { report.text(colour(), args.verbose) });
            if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("securememory doctor: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Makes all the checks that were asked for.
fn examine(args: &Args, key: Option<Needle>) -> io::Result<Report> {
    let root = crate::system::is_root();
    let chosen = |attack: Attack| match (args.only.as_slice(), attack) {
        // Not a skip but no question: an ordinary user's doctor cannot be root.
        ([], Attack::ProcFdRoot) => root,
        ([], _) => true,
        (only, _) => only.contains(&attack),
    };
    let attacks: Vec<Attack> = TABLE.iter().map(|row| row.attack).filter(|attack| chosen(*attack)).collect();
    let stores = Kept::ALL.into_iter().filter(|kept| args.store.is_empty() || args.store.contains(kept));
    let stores: Vec<Kept> = stores.collect();
    let notes = notes(key.is_some());
    // Before the scene is set, which changes limits.
    let host = host();
    let mut scene = Scene::set(key, root, args.crowd, Duration::from_secs(args.deadline.get()))?;
    let mut checks = Vec::new();
    for attack in attacks {
        for &kept in &stores {
            progress(&format!("{} on {kept}", attack.name()));
            checks.push(Check { attack, kept, verdict: scene.attack(attack, kept) });
        }
    }
    progress("");
    Ok(Report { checks, host, notes, strict: args.strict })
}

/// What the reader should know besides the checks.
fn notes(own_key: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if securememory::HAS_INJECTOR {
        notes.push(
            "this library was built with its fault injector (feature `testing`): not for production"
                .to_owned(),
        );
    }
    if cfg!(debug_assertions) {
        notes.push(
            "this is a debug build: where the library and its cipher are not optimised either, traces of keys may \
             stay on the stack; the promises are those of `cargo run --release -- doctor`"
                .to_owned(),
        );
    }
    if own_key {
        notes.push(
            "your key was used where SECURITY.md promises that it is safe; the baseline, the attacks that are meant \
             to succeed, and core dumps got random bytes in its place"
                .to_owned(),
        );
    }
    notes
}

fn host() -> serde_json::Value {
    let mut host = crate::info::host_json(&Host::probe());
    host["securememory"] = env!("CARGO_PKG_VERSION").into();
    host["optimised"] = (!cfg!(debug_assertions)).into();
    host["fault_injector"] = securememory::HAS_INJECTOR.into();
    host
}

fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A line that is overwritten by the next, for those who watch.
fn progress(text: &str) {
    if io::stderr().is_terminal() {
        eprint!("\r{text:60}\r");
    }
}

/// A reader that went away (`doctor | head`) is no failure.
fn print(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

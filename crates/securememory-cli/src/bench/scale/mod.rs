//! `securememory bench scale`: what very many secrets take together, and whether each of them can still be
//! used.
//!
//! Figures are printed next to the goals of sealed secrets and judge nothing. What is judged, by the exit
//! code, is that every byte was right and every refusal one that had to be.

mod crowd;
mod latency;
mod paged;
mod report;
mod sealed;
mod turnover;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::ValueEnum;
use securememory::{Error, Store, Vault, VaultBuilder};

use crate::proc;
use crate::stress::{HoldArg, SKIPPED};
use crowd::Crowd;
use report::Report;

/// Bytes of each secret: those of a key.
const LEN: usize = 32;

/// Options of `securememory bench scale`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// How many; by default 1,000,000 sealed ones or 10,000 paged ones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    secrets: Option<u32>,
    /// How they are kept
    #[arg(long, value_name = "S", default_value = "sealed")]
    store: StoreArg,
    /// How the vault's key is kept; exit code 77 where that is not to be had
    #[arg(long, value_name = "H", default_value = "auto")]
    hold: HoldArg,
    /// One JSON object, nothing else
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StoreArg {
    /// Ciphertext in ordinary memory
    Sealed,
    /// Pages without access, until a limit is reached
    Paged,
}

impl StoreArg {
    fn name(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Paged => "paged",
        }
    }
}

impl Args {
    fn count(&self) -> usize {
        let count = self.secrets.unwrap_or(match self.store {
            StoreArg::Sealed => 1_000_000,
            StoreArg::Paged => 10_000,
        });
        count as usize
    }

    fn vault(&self) -> VaultBuilder {
        let (hold, level) = self.hold.wanted();
        let store = match self.store {
            StoreArg::Sealed => Store::Sealed,
            StoreArg::Paged => Store::Paged,
        };
        Vault::builder().store(store).hold(hold).hold_level(level)
    }
}

/// Measures and prints.
pub(super) fn run(args: &Args) -> ExitCode {
    let mut report = Report::new(args.store.name(), args.count());
    let outcome = match args.store {
        StoreArg::Sealed => sealed::run(args, &mut report),
        StoreArg::Paged => paged::run(args, &mut report),
    };
    if let Err(failure) = outcome {
        let refused = matches!(failure.downcast_ref(), Some(Error::HoldRefused(_) | Error::Unsupported(_)));
        if refused && args.hold != HoldArg::Auto {
            eprintln!("skipped: {failure}");
            return ExitCode::from(SKIPPED);
        }
        report.wrong(failure.to_string());
    }
    let page = if args.json { report.json() } else { report.text() };
    match io::stdout().lock().write_all(page.as_bytes()) {
        // A reader that went away is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("the figures could not be printed: {error}");
            ExitCode::FAILURE
        }
        _ if report.is_right() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// What the process has of what secrets may take.
#[derive(Clone, Copy, Debug)]
struct Taken {
    resident: u64,
    memory_files: u64,
    locked: u64,
    mappings: u64,
    descriptors: u64,
}

impl Taken {
    fn now() -> io::Result<Self> {
        Ok(Self {
            resident: proc::resident()?,
            memory_files: proc::memory_files()?,
            locked: proc::locked()?,
            mappings: proc::mappings()?,
            descriptors: proc::descriptors()?,
        })
    }
}

/// Keeps what the library says beforehand, if not all would fit.
fn preflight(report: &mut Report, vault: &Vault, count: usize) -> Result<(), Error> {
    let found = vault.preflight(count, LEN)?;
    if !found.fits || found.unverified().next().is_some() {
        report.preflight(found.to_string());
    }
    Ok(())
}

fn creations(report: &mut Report, crowd: &mut Crowd, goal: Option<f64>) {
    let (second, last) = crowd.creations().unzip();
    let ratio = second.zip(last).map(|(second, last)| last / second);
    report.figure(("create_second_ns", "a creation, median of the second 1,000"), "ns", second, None);
    report.figure(("create_last_ns", "a creation, median of the last 1,000"), "ns", last, None);
    report.figure(("create_ratio", "the last to the second"), "", ratio, goal);
}

/// The end of a vault's secrets.
fn drop_all(report: &mut Report, vault: &Vault, crowd: &mut Crowd) {
    report.figure(("drop_ns", "a drop"), "ns", crowd.drop_all(), None);
    let left = vault.status().secrets;
    if left > 0 {
        report.wrong(format!("all were dropped, and the vault counts {left}"));
    }
}

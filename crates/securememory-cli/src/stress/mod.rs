//! `securememory stress`: many threads do everything that can be done with shared secrets, at the same time and at
//! random, and every byte and every error is judged.
//!
//! The work is done by a process of its own, because a fault ends it: the judge is the parent, which sees by what. It
//! sees too when the worker is silent.

mod actors;
#[cfg_attr(windows, path = "child/windows.rs")]
#[cfg_attr(not(windows), path = "child/linux.rs")]
mod child;
mod leaks;
mod order;
mod progress;
pub mod random;
mod report;
mod sabotage;
mod scene;
mod tally;
pub mod value;
mod worker;

use std::io::{self, BufRead, BufReader, Write};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use order::{Findings, Message, Order, Phase, Sabotage, StoreArg};
use progress::Meter;
use report::Report;

use crate::system;

pub use order::HoldArg;
pub use worker::run as worker;

/// The exit code of a run that could not be, because the hold is not to be had: as in test suites elsewhere.
pub const SKIPPED: u8 = 77;

/// After `hang_after` the worker tells of a hang itself; so much later its judge does not wait for it any more.
const GRACE: Duration = Duration::from_secs(10);

/// Options of `securememory stress`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Threads that work at the same time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Secrets that they share
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    secrets: u32,
    /// How long
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    seconds: u64,
    /// How the secrets are kept
    #[arg(long, value_name = "S", default_value = "auto")]
    store: StoreArg,
    /// How the vaults' keys are kept; exit code 77 where that is not to be had
    #[arg(long, value_name = "H", default_value = "auto")]
    hold: HoldArg,
    /// What the threads choose follows from it (what comes of it depends on the scheduler too); else by the clock
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// One JSON object, nothing else
    #[arg(long)]
    json: bool,
    /// Seconds after which an operation hangs
    #[arg(long, value_name = "N", default_value_t = 10, hide = true)]
    hang_after: u64,
    /// Do something wrong, to see whether it is found
    #[arg(long, value_name = "WHAT", hide = true)]
    sabotage: Option<Sabotage>,
}

/// Has the work done and judges it.
pub fn run(args: Args) -> ExitCode {
    let by_clock =
        || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
    let order = Order {
        threads: args.threads as usize,
        secrets: args.secrets as usize,
        seconds: args.seconds,
        store: args.store,
        hold: args.hold,
        seed: args.seed.unwrap_or_else(by_clock),
        hang_after: args.hang_after,
        sabotage: args.sabotage,
    };
    if !args.json {
        print(&format!(
            "{} threads, {} secrets, {} s, store {}, hold {}, seed {}\n\n",
            order.threads, order.secrets, order.seconds, order.store, order.hold, order.seed
        ));
    }
    let report = match judge(&order) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("securememory stress: {error}");
            return ExitCode::FAILURE;
        }
    };
    print(&if args.json { report.json() } else { report.text() });
    match (report.is_skipped(), report.ok()) {
        (true, _) => ExitCode::from(SKIPPED),
        (_, true) => ExitCode::SUCCESS,
        (_, false) => ExitCode::FAILURE,
    }
}

/// A reader that went away is no failure.
fn print(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

/// Starts the worker, listens to it, and sees how it ends.
fn judge(order: &Order) -> io::Result<Report> {
    let mut command = system::myself("stress-worker")?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    // See `leaks`.
    command.env("GLIBC_TUNABLES", "glibc.malloc.arena_max=1");
    let mut child = command.spawn()?;
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("a worker without pipes"));
    };
    // One that is gone already shows below.
    let _ = writeln!(input, "{}", serde_json::to_string(order)?);
    drop(input);
    let (send, messages) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let Ok(message) = serde_json::from_str(&line) else { return };
            if send.send(message).is_err() {
                return;
            }
        }
    });
    let heard = listen(&messages, order);
    let silent = matches!(heard.end, End::Silent);
    if silent {
        child.kill()?;
    }
    let status = child.wait()?;
    Ok(heard.judge(order, status))
}

/// How the worker's messages ended.
enum End {
    /// There was a last word.
    Word(Message),
    /// The worker has ended without one.
    Gone,
    /// It says nothing any more.
    Silent,
}

/// What was heard of the worker.
struct Heard {
    end: End,
    hold: Option<String>,
    phase: Option<Phase>,
    findings: Findings,
}

fn listen(messages: &mpsc::Receiver<Message>, order: &Order) -> Heard {
    let mut meter = Meter::new(order.seconds);
    let mut heard = Heard { end: End::Gone, hold: None, phase: None, findings: Findings::default() };
    let mut word = None;
    let end = loop {
        match messages.recv_timeout(order.patience() + GRACE) {
            Ok(Message::Begun(hold)) => heard.hold = Some(hold),
            Ok(Message::Phase(phase)) => heard.phase = Some(phase),
            Ok(Message::Progress(progress)) => {
                if heard.phase == Some(Phase::Run) {
                    meter.show(&progress);
                }
                heard.findings.progress = progress;
            }
            // After the last word the worker still has to end.
            Ok(message) => word = Some(message),
            Err(RecvTimeoutError::Disconnected) => break word.map_or(End::Gone, End::Word),
            Err(RecvTimeoutError::Timeout) => break End::Silent,
        }
    };
    meter.clear();
    Heard { end, ..heard }
}

impl Heard {
    fn judge(self, order: &Order, status: ExitStatus) -> Report {
        let Self { end, hold, phase, mut findings } = self;
        let during = match phase {
            None => "before the work",
            Some(Phase::WarmUp) => "in the warm-up",
            Some(Phase::Run) => "during the run",
            Some(Phase::Drop) => "while secrets and vaults were dropped",
        };
        let silent = matches!(end, End::Silent);
        match end {
            End::Word(Message::Skipped(reason)) if status.success() => {
                return Report::skipped(order.clone(), reason);
            }
            End::Word(Message::Done(last)) => findings = last,
            End::Word(Message::Failed(what)) => {
                findings.unexpected += 1;
                findings.found.push(format!("unexpected: {what}"));
            }
            End::Silent => {
                findings.hangs += 1;
                findings.found.push(format!("hang: the process has said nothing for long, {during}"));
            }
            End::Word(_) | End::Gone => {}
        }
        if let Some(killer) = system::killer(status).filter(|_| !silent) {
            findings.faults += 1;
            findings.found.push(format!("fault: the process was killed by {killer} {during}"));
        } else if !silent
            && (!status.success() || findings.progress.counts.is_empty() && findings.found.is_empty())
        {
            findings.unexpected += 1;
            findings.found.push(format!("unexpected: the process ended {during} ({status})"));
        }
        Report::new(order.clone(), hold, findings)
    }
}

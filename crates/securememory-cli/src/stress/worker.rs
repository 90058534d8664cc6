//! The process that does the work: a warm-up round, the round that was ordered, and a look at what is left.
//!
//! Its first thread does no work of its own: it watches the others and reports.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use securememory::Error;

use super::actors::Actor;
use super::leaks::Held;
use super::order::{Findings, HoldArg, Message, Order, Phase, Progress, Sabotage};
use super::scene::{self, Scene};
use super::tally::Tally;
use crate::raw;

/// How long the warm-up lasts.
const WARM_UP: Duration = Duration::from_millis(300);
/// How long old keys may take to be destroyed when nobody is at work.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the watch looks.
const LOOK: Duration = Duration::from_millis(50);
/// How often it reports.
const REPORT: Duration = Duration::from_millis(250);

/// Takes an order from standard input and carries it out.
pub fn run() -> ExitCode {
    let mut line = String::new();
    let order = io::stdin().read_line(&mut line).ok().and_then(|_| serde_json::from_str(&line).ok());
    let Some(order) = order else {
        eprintln!("this command is for `securememory stress` itself");
        return ExitCode::from(2);
    };
    match work(&order) {
        Ok(message) => say(&message),
        Err(what) => say(&Message::Failed(what)),
    }
    ExitCode::SUCCESS
}

/// Without a judge there is nothing to do.
fn say(message: &Message) {
    let Ok(line) = serde_json::to_string(message) else { raw::leave(3) };
    let mut out = io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        raw::leave(3);
    }
}

fn work(order: &Order) -> Result<Message, String> {
    let builder = scene::builder(order);
    let hold = match builder.clone().build() {
        Ok(vault) => format!("{:?}", vault.status().hold).to_lowercase(),
        Err(error @ (Error::HoldRefused(_) | Error::Unsupported(_))) if order.hold != HoldArg::Auto => {
            return Ok(Message::Skipped(error.to_string()));
        }
        Err(error) => return Err(format!("no vault could be made: {error}")),
    };
    say(&Message::Begun(hold));
    let tally = Tally::new(order.threads);
    let begin = |phase| {
        say(&Message::Phase(phase));
        Scene::set(builder.clone(), order).map_err(|error| format!("no secrets could be made: {error}"))
    };

    let scene = begin(Phase::WarmUp)?;
    round(&scene, &tally, order, WARM_UP, None);
    let mut left = end(scene);
    let before = Held::now().map_err(|error| format!("leaks cannot be seen here: {error}"))?;

    let scene = begin(Phase::Run)?;
    let seconds = Duration::from_secs(order.seconds);
    round(&scene, &tally, order, seconds, order.sabotage);
    say(&Message::Phase(Phase::Drop));
    let more = end(scene);
    left = (left.0 + more.0, left.1 + more.1);
    let after = Held::now().map_err(|error| format!("leaks cannot be seen here: {error}"))?;

    let leaks = after.leaked_since(&before, left);
    let mut findings = findings(&tally, seconds);
    if !leaks.none() {
        findings.found.push(format!(
            "leak: {} KiB of mappings, {} descriptors, {} KiB locked, {} secrets, {} keys; \
             before: {before:?}, after: {after:?}",
            leaks.regions_kib, leaks.descriptors, leaks.locked_kib, leaks.secrets, leaks.keys
        ));
    }
    findings.leaks = Some(leaks);
    Ok(Message::Done(findings))
}

fn findings(tally: &Tally, elapsed: Duration) -> Findings {
    let (wrong_bytes, unexpected, faults, found) = tally.found();
    Findings {
        progress: Progress { elapsed, counts: tally.counts() },
        refusals: tally.refusals(),
        faults,
        wrong_bytes,
        unexpected,
        found,
        ..Findings::default()
    }
}

/// Drops everything, the secrets first; says how many of them the vault still counts, and how many old keys
/// it cannot destroy.
fn end(scene: Scene) -> (u64, u64) {
    let vault = scene.vault.clone();
    drop(scene);
    // What comes of it shows in the status.
    let _ = vault.refresh().and_then(|()| vault.finish_refresh(PATIENCE));
    let status = vault.status();
    (status.secrets, status.keys.saturating_sub(1) as u64)
}

/// All threads work for so long. Where one of them hangs, this is the end of the process.
fn round(scene: &Scene, tally: &Tally, order: &Order, lasts: Duration, sabotage: Option<Sabotage>) {
    let begun = Instant::now();
    let ended = AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in 0..order.threads {
            let ended = &ended;
            let sabotage = sabotage.filter(|_| number == 0);
            scope.spawn(move || {
                let mut actor = Actor::new(scene, tally, number, order.seed, sabotage);
                if catch_unwind(AssertUnwindSafe(|| actor.run())).is_err() {
                    tally.unexpected(format!("thread {number} has panicked"));
                    tally.end(number);
                }
                ended.fetch_add(1, Ordering::Release);
            });
        }
        let mut told = Instant::now();
        while ended.load(Ordering::Acquire) < order.threads {
            thread::sleep(LOOK);
            if begun.elapsed() >= lasts {
                scene.stop.store(true, Ordering::Relaxed);
            }
            let stuck = tally.stuck(order.patience());
            if !stuck.is_empty() {
                let mut findings = findings(tally, begun.elapsed());
                findings.hangs = stuck.len() as u64;
                findings.found.extend(stuck.iter().map(|(thread, kind, lasts)| {
                    format!("hang: thread {thread} is in `{}` for {:.1} s", kind.name(), lasts.as_secs_f64())
                }));
                // The threads that hang would never be joined.
                say(&Message::Done(findings));
                raw::leave(0);
            }
            if told.elapsed() >= REPORT {
                told = Instant::now();
                say(&Message::Progress(Progress { elapsed: begun.elapsed(), counts: tally.counts() }));
            }
        }
    });
}

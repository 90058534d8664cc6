//! What a process of its own does: one entry, one work, turn by turn as its parent asks. If it crashes, nobody else does.
//!
//! It answers in lines: `ready`, `skip WHY` or `fail WHY` at first; then, to each line it is sent, its figures. Works
//! that are done once answer `done JSON` and end.

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::{Gid, Uid};

use crate::work::neighbour::Neighbour;
use crate::work::two::Crew;
use crate::work::{Batch, Job, Work, limit, memory};
use crate::{Failure, Skipped, entries};

/// The first argument of a child.
pub const WORD: &str = "child";
pub const READY: &str = "ready";
pub const SKIP: &str = "skip ";
pub const FAIL: &str = "fail ";
pub const DONE: &str = "done ";

/// How long a batch is run before anything counts.
const WARM_UP: Duration = Duration::from_millis(12);
/// Nobody.
const ORDINARY: u32 = 65534;

pub fn run(entry: &str, work: &str, slice: &str) -> ExitCode {
    match serve(entry, work, slice) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let word = if failure.is::<Skipped>() { SKIP } else { FAIL };
            say(&format!("{word}{}", failure.to_string().replace('\n', " ")));
            ExitCode::FAILURE
        }
    }
}

/// A parent that is gone needs no answer.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn serve(entry: &str, work: &str, slice: &str) -> Result<(), Failure> {
    let entry = entries::ALL.get(entry.parse::<usize>()?).ok_or("no such entry")?;
    let work = Work::from_id(work).ok_or("no such work")?;
    let slice = Duration::from_micros(slice.parse()?);
    become_who_is_measured(work)?;
    if work == Work::Memory {
        memory::note_before()?;
    }
    match (entry.make)(work)? {
        Job::Cost(mut batch) => {
            let count = calibrate(&mut batch, slice)?;
            answer(|| Ok(format!("{}", per_call(batch(count)?, count))))
        }
        Job::Busy(mut batch) => {
            let neighbour = Neighbour::start()?;
            let count = calibrate(&mut batch, slice / 2)?;
            let mut turn = 0;
            answer(|| {
                turn += 1;
                beside(&mut batch, count, &neighbour, turn % 2 == 0)
            })
        }
        Job::Two(parts) => {
            let crew = Crew::start(parts)?;
            crew.run(&[0, 1], WARM_UP)?;
            let mut turn = 0;
            answer(|| {
                turn += 1;
                one_and_two(&crew, slice / 2, turn)
            })
        }
        Job::Once(once) => {
            say(&format!("{DONE}{}", once()?));
            Ok(())
        }
    }
}

/// A turn for each line.
fn answer(mut turn: impl FnMut() -> Result<String, Failure>) -> Result<(), Failure> {
    say(READY);
    for line in std::io::stdin().lock().lines() {
        line?;
        say(&turn()?);
    }
    Ok(())
}

/// Alone and beside the neighbour; who goes first changes from turn to turn.
fn beside(batch: &mut Batch, count: u64, neighbour: &Neighbour, first: bool) -> Result<String, Failure> {
    let (mut alone, mut share) = (Duration::ZERO, 0.0);
    if !first {
        alone = batch(count)?;
    }
    neighbour.begin()?;
    let beside = batch(count);
    share += neighbour.end()?;
    if first {
        alone = batch(count)?;
    }
    Ok(format!("{} {} {share}", per_call(alone, count), per_call(beside?, count)))
}

/// Calls a second of one thread and of both; which thread is the only one, and what comes first, changes.
fn one_and_two(crew: &Crew, window: Duration, turn: usize) -> Result<String, Failure> {
    let mut one = Vec::new();
    if turn.is_multiple_of(2) {
        one = crew.run(&[turn / 2 % 2], window)?;
    }
    let both = crew.run(&[0, 1], window)?;
    if one.is_empty() {
        one = crew.run(&[turn / 2 % 2], window)?;
    }
    let sum = |rates: &[crate::work::two::Rate]| rates.iter().map(|rate| rate.calls).sum::<f64>();
    let share = both.iter().map(|rate| rate.share).sum::<f64>() / 2.0;
    Ok(format!("{} {} {share}", sum(&one), sum(&both)))
}

/// Warms up and finds how many calls fill a slice.
fn calibrate(batch: &mut Batch, slice: Duration) -> Result<u64, Failure> {
    let begin = Instant::now();
    let mut count = 1;
    loop {
        let took = batch(count)?;
        if begin.elapsed() >= WARM_UP && took > Duration::ZERO {
            let fitting = slice.as_nanos() * u128::from(count) / took.as_nanos();
            return Ok(u64::try_from(fitting).unwrap_or(u64::MAX).max(1));
        }
        if took < slice {
            count *= 2;
        }
    }
}

fn per_call(time: Duration, count: u64) -> f64 {
    time.as_nanos() as f64 / count as f64
}

/// Limits are met as root, or as an ordinary user with the usual limit on locked memory.
fn become_who_is_measured(work: Work) -> Result<(), Failure> {
    let root = rustix::process::geteuid().is_root();
    match work {
        Work::LimitRoot if !root => Err(Skipped("this was not run by root".into()).into()),
        Work::LimitUser => {
            let lockable = Some(limit::LOCKABLE);
            let hard = rustix::process::getrlimit(Resource::Memlock).maximum;
            if !root && hard.is_some_and(|hard| hard < limit::LOCKABLE) {
                return Err(Skipped("this user may not lock 8 MiB".into()).into());
            }
            rustix::process::setrlimit(Resource::Memlock, Rlimit { current: lockable, maximum: lockable })?;
            if root {
                // There is one thread yet, so that these concern the whole process.
                rustix::thread::set_thread_gid(Gid::from_raw(ORDINARY))?;
                rustix::thread::set_thread_uid(Uid::from_raw(ORDINARY))?;
                // Else its own /proc belongs to root.
                rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

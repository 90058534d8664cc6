//! Many programs: drawn, run, watched, and made shorter when they fail.

use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use securememory::testing::{Left, TestGuard};
use securememory::{Hold, Level, Store, Vault};

use super::actors;
use super::common::{Footprint, keep_stacks, skip, threads};
use super::places::can_peek;
use super::program::{Program, Rows, decode, rows};
use super::run::{Found, Runner, tell_results};

/// Every way to keep the key; those that the host has not are left out, and named.
pub const HOLDS: [Hold; 5] = [Hold::Auto, Hold::Split, Hold::Guarded, Hold::Secretmem, Hold::Pkey];

/// In the ordinary run, of each case.
const PROGRAMS: u64 = 5000;
/// Programs of several threads.
const ACTORS: u64 = 1000;
/// Every so many, the whole process is searched.
const DEEP: u64 = 500;
/// Every so many, what the process has is counted.
const BATCH: u64 = 100;
/// No step takes longer, however busy the machine is.
const STEP: Duration = Duration::from_secs(40);
/// Attempts to make a program shorter.
const SHRINKS: usize = 3000;

/// What comes up in so many programs.
const RESULTS: [&str; 12] = [
    "Ok",
    "Closed",
    "Expired",
    "Purged",
    "Revoked",
    "WouldDeadlock",
    "ScratchExhausted",
    "Complete",
    "Empty",
    "EndedEarly",
    "LengthMismatch",
    "OutOfRange",
];

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// How long a case may take.
pub fn deadline() -> Duration {
    let seconds = number("SECUREMEMORY_MODEL_SECONDS").unwrap_or(0);
    Duration::from_secs(seconds + 600)
}

/// The step that is being run: who watches prints its program if it does not end.
static SINCE: AtomicU64 = AtomicU64::new(0);
static NOW: Mutex<(u64, usize, Option<Program>)> = Mutex::new((0, 0, None));
/// For a handler.
static SEED: AtomicU64 = AtomicU64::new(0);

fn clock() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1
}

fn watch() {
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let since = SINCE.load(Ordering::Relaxed);
            if since != 0 && clock().saturating_sub(since) > STEP.as_millis() as u64 {
                let now = NOW.lock().unwrap();
                eprintln!("seed {}: step {} does not end:\n{:?}", now.0, now.1, now.2);
                std::process::abort();
            }
        }
    });
}

#[cfg(unix)]
extern "C" fn tell_seed(signal: libc::c_int) {
    let mut text = *b"a signal ended the program of seed                     \n";
    let mut left = SEED.load(Ordering::Relaxed);
    for place in text[35..55].iter_mut().rev() {
        *place = b'0' + (left % 10) as u8;
        left /= 10;
    }
    // SAFETY: async-signal-safe calls.
    unsafe {
        libc::write(2, text.as_ptr().cast(), text.len());
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// A crash says which program it was. On Windows the exception of a test's own process is told by whoever started it.
fn tell_crashes() {
    #[cfg(unix)]
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL] {
        // SAFETY: the handler makes async-signal-safe calls only.
        unsafe { libc::signal(signal, tell_seed as *const () as libc::sighandler_t) };
    }
}

/// Says how many views it has forgotten.
fn run_program(program: &Program) -> Found<usize> {
    NOW.lock().unwrap().2 = Some(program.clone());
    let mut runner = Runner::new(program)?;
    for (at, step) in program.steps.iter().enumerate() {
        NOW.lock().unwrap().1 = at;
        SINCE.store(clock(), Ordering::Relaxed);
        let outcome = runner.step(*step).and_then(|()| runner.compare());
        outcome.map_err(|found| format!("step {at}, {step:?}: {found}"))?;
    }
    SINCE.store(clock(), Ordering::Relaxed);
    let forgotten = runner.forgotten.len();
    let needle = program.deep.then(|| super::common::Needle::new(program.seed, runner.needle.len()));
    runner.finish(program.seed).map_err(|found| format!("at the end: {found}"))?;
    let outcome = needle.map_or(Ok(()), |needle| Runner::search(&needle));
    SINCE.store(0, Ordering::Relaxed);
    outcome.map(|()| forgotten)
}

/// Waits until the janitors of vaults that are gone have ended.
fn wait_for_threads(most: usize) {
    let started = Instant::now();
    while threads() > most {
        assert!(started.elapsed() < STEP, "{} threads, of which {most} are ours", threads());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A program under a guard of its own, which judges for itself what is left. A panic is a failure, too.
fn attempt(program: &Program) -> Found {
    let guard = TestGuard::new().patience(Duration::from_secs(10));
    let ran = std::panic::catch_unwind(|| run_program(program));
    SINCE.store(0, Ordering::Relaxed);
    let forgotten = match ran {
        Ok(Ok(forgotten)) => forgotten,
        failed => {
            // What it has left is left because of that.
            _ = std::panic::catch_unwind(AssertUnwindSafe(|| drop(guard.patience(Duration::ZERO))));
            return failed.unwrap_or_else(|_| Err("it panicked".into())).map(drop);
        }
    };
    if forgotten > 0 {
        guard.expect_leak("forgotten by the program", Left::View, forgotten);
    }
    let judged = std::panic::catch_unwind(AssertUnwindSafe(|| drop(guard)));
    judged.map_err(|told| told.downcast_ref::<String>().cloned().unwrap_or_default())
}

fn tree(seed: u64) -> impl ValueTree<Value = Rows> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = Config { failure_persistence: None, ..Config::default() };
    rows().new_tree(&mut TestRunner::new_with_rng(config, rng)).unwrap()
}

fn shrink(
    mut tree: impl ValueTree<Value = Rows>,
    make: impl Fn(&Rows) -> Program,
    found: String,
) -> (Program, String) {
    let (mut best, mut why) = (make(&tree.current()), found);
    if !tree.simplify() {
        return (best, why);
    }
    for _ in 0..SHRINKS {
        let program = make(&tree.current());
        let more = match attempt(&program) {
            Err(found) => {
                (best, why) = (program, found);
                tree.simplify()
            }
            Ok(()) => tree.complicate(),
        };
        if !more {
            break;
        }
    }
    (best, why)
}

/// Those holds that can be had here.
fn possible(holds: &[Hold]) -> Vec<Hold> {
    let has = |hold: &Hold| {
        let made = Vault::builder().hold(*hold).hold_level(Level::Require).build();
        if let Err(error) = &made {
            eprintln!("left out: {hold:?}, {error}");
        }
        made.is_ok()
    };
    holds.iter().copied().filter(has).collect()
}

/// Runs the programs of one case.
pub fn run(name: &str, holds: &[Hold], stores: &[Store]) {
    if !can_peek() {
        skip("process_vm_readv is refused here: what lies in memory could not be looked at");
    }
    let holds = possible(holds);
    tell_crashes();
    watch();
    keep_stacks();
    let first = number("SECUREMEMORY_MODEL_SEED");
    let count = number("SECUREMEMORY_MODEL_PROGRAMS").unwrap_or(if first.is_some() { 1 } else { PROGRAMS });
    let limit = number("SECUREMEMORY_MODEL_SECONDS").map(Duration::from_secs);
    // The same ones every day, other ones in each case.
    let first = first.unwrap_or(1_000_000_000 * name.len() as u64);
    let (ours, started, mut steps, mut done) = (threads(), Instant::now(), 0, 0);
    let mut footprint = None;
    for seed in first..first.saturating_add(count) {
        if limit.is_some_and(|limit| started.elapsed() > limit) {
            break;
        }
        SEED.store(seed, Ordering::Relaxed);
        NOW.lock().unwrap().0 = seed;
        let deep = seed % DEEP == 0 || count == 1;
        let make = |rows: &Rows| decode(rows, &holds, stores, seed, deep);
        let tree = tree(seed);
        let program = make(&tree.current());
        if let Err(found) = attempt(&program) {
            let (program, found) = shrink(tree, make, found);
            panic!("SECUREMEMORY_MODEL_SEED={seed} ({name}):\n{program:?}  {found}");
        }
        if program.vaults.iter().any(|vault| vault.janitor) {
            wait_for_threads(ours);
        }
        steps += program.steps.len();
        done += 1;
        if done % BATCH == 0 {
            NOW.lock().unwrap().2 = None;
            match &footprint {
                None => footprint = Some(Footprint::now()),
                Some(footprint) => footprint.assert_same(format!("after {done} programs")),
            }
        }
    }
    tell_results(if done >= PROGRAMS { &RESULTS } else { &[] });
    eprintln!("{done} programs, {steps} steps, {:.1} s", started.elapsed().as_secs_f64());
}

/// Runs the programs of several threads. They are not made shorter: another run of the same may go well.
pub fn run_actors(name: &str, stores: &[Store]) {
    let holds = possible(&HOLDS);
    tell_crashes();
    watch();
    keep_stacks();
    let first = number("SECUREMEMORY_MODEL_SEED");
    let count = number("SECUREMEMORY_MODEL_PROGRAMS").unwrap_or(ACTORS);
    let limit = number("SECUREMEMORY_MODEL_SECONDS").map(Duration::from_secs);
    let (ours, started, mut footprint, mut done) = (threads(), Instant::now(), None, 0);
    for n in 0..count {
        // A seed is run as often as is asked for.
        let seed = first.unwrap_or(1_000_000_000 * name.len() as u64 + n);
        SEED.store(seed, Ordering::Relaxed);
        NOW.lock().unwrap().0 = seed;
        if limit.is_some_and(|limit| started.elapsed() > limit) {
            break;
        }
        let play = actors::decode(&tree(seed).current(), &holds, stores);
        SINCE.store(clock(), Ordering::Relaxed);
        let guard = TestGuard::new().patience(Duration::from_secs(10));
        let outcome = actors::run(&play);
        if let Err(found) = outcome {
            panic!("SECUREMEMORY_MODEL_SEED={seed} ({name}):\n{play:?}  {found}");
        }
        drop(guard);
        SINCE.store(0, Ordering::Relaxed);
        wait_for_threads(ours);
        done += 1;
        if done % BATCH == 0 {
            match &footprint {
                None => footprint = Some(Footprint::now()),
                Some(footprint) => footprint.assert_same(format!("after {done} programs")),
            }
        }
    }
    eprintln!("{done} programs of several threads, {:.1} s", started.elapsed().as_secs_f64());
}

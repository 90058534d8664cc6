//! `securememory bench`: what the library's operations cost, next to what they cannot cost less than.
//!
//! Absolute times say little on a stranger's machine; a ratio to the bare system calls and the bare
//! cipher, taken in the same run on the same memory layout, says what the library adds.

mod busy;
mod crew;
mod floor;
mod gain;
#[cfg(target_arch = "x86_64")]
mod instructions;
mod line;
mod measure;
mod rows;
mod scale;

use std::io::{self, Write};
use std::process::ExitCode;

use line::Line;
use rows::{Kind, ROWS, Row};

/// Why a row could not be measured.
type Failure = Box<dyn std::error::Error>;

/// There is nothing here that could be measured, which is nobody's fault.
#[derive(Debug)]
struct Skipped(String);

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skipped {}

/// Options of `securememory bench`.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// One JSON object a line and a row, nothing else
    #[arg(long)]
    json: bool,
    /// Only this operation, for example sealed.read.32; or all that begin so, for example sealed
    #[arg(long, value_name = "OP")]
    only: Option<String>,
    /// Rounds of which the medians are taken
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(7..=10_000))]
    rounds: u32,
    /// No timing: carry the chosen operations out so many times, for a tracer that counts system calls
    #[arg(long, value_name = "N", requires = "only", conflicts_with_all = ["json", "rounds"])]
    count: Option<u64>,
}

/// What else there is to measure than the cost of single operations.
#[derive(clap::Subcommand, Debug)]
enum What {
    /// What very many secrets take together, and whether each of them can still be used
    Scale(scale::Args),
    /// How many instructions and system calls an operation takes, counted one by one
    #[cfg(target_arch = "x86_64")]
    Instructions(instructions::Args),
}

/// Measures and prints. The exit code says whether all rows could be measured; it does not judge figures.
pub fn run(args: Args) -> ExitCode {
    if let Some(What::Scale(args)) = &args.what {
        return scale::run(args);
    }
    if securememory::HAS_INJECTOR {
        eprintln!("this build has the fault injector (feature `testing`): its figures would be of no use");
        return ExitCode::from(2);
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(What::Instructions(args)) = &args.what {
        return instructions::run(args);
    }
    let chosen = chosen(args.only.as_deref());
    if chosen.is_empty() {
        let mut ops: Vec<&str> = ROWS.iter().map(|row| row.op).collect();
        ops.dedup();
        eprintln!("no such operation; there are: {}", ops.join(", "));
        return ExitCode::from(2);
    }
    if let Some(count) = args.count {
        return carry_out(&chosen, count);
    }
    match measure_all(&chosen, &args) {
        Ok(code) => code,
        // A reader that went away (`bench | head`) is no failure.
        Err(gone) if gone.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the figures could not be printed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures row by row and prints each as soon as it is there.
fn measure_all(chosen: &[&Row], args: &Args) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    if !args.json {
        writeln!(
            out,
            "Each operation next to its floor: the same bytes through bare system calls and bare cipher.\n\
             Medians of {} rounds, operation and floor in turns; nanoseconds a call.\n\n{}",
            args.rounds,
            line::HEADING
        )?;
    }
    let mut code = ExitCode::SUCCESS;
    for row in chosen {
        match measured(row, args.rounds)
            .or_else(|failure| skipped(row, failure))
            .and_then(|line| Ok(if args.json { serde_json::to_string(&line)? } else { line.to_string() }))
        {
            Ok(line) => writeln!(out, "{line}")?,
            Err(failure) => {
                eprintln!("{} against {}: not measured: {failure}", row.op, row.floor);
                code = ExitCode::FAILURE;
            }
        }
    }
    if !args.json {
        writeln!(
            out,
            "\nA creation includes the drop; a read looks at all bytes; a write opens, changes a byte and commits.\n\
             The six calls are mmap, mprotect, mlock, (32 bytes written), mprotect, munlock, munmap.\n\
             Two threads: nanoseconds of a call while both run; the ratio is that of the gains.\n\
             Other work on the machine changes all figures."
        )?;
    }
    Ok(code)
}

/// The rows of an operation, or else all whose names begin so, up to a dot.
fn chosen(only: Option<&str>) -> Vec<&'static Row> {
    let exact = ROWS.iter().any(|row| only == Some(row.op));
    ROWS.iter().filter(|row| if exact { only == Some(row.op) } else { begins(row.op, only) }).collect()
}

fn begins(op: &str, only: Option<&str>) -> bool {
    only.is_none_or(|only| op.strip_prefix(only).is_some_and(|rest| rest.starts_with('.')))
}

/// The operations alone, each `count` times; the first row of an operation stands for it. Those that need a
/// second thread are left out: what a tracer counts could be of either.
fn carry_out(chosen: &[&Row], count: u64) -> ExitCode {
    let (mut last, mut any) = ("", false);
    for row in chosen.iter().filter(|row| std::mem::replace(&mut last, row.op) != row.op) {
        let done = match row.kind {
            Kind::Cost(make) => make().and_then(|mut halves| marked(|| (halves.op)(count))),
            Kind::Gain(_) | Kind::Busy(_) => Err(Skipped("it needs a second thread".into()).into()),
        };
        match done {
            Ok(()) => any = true,
            Err(failure) if failure.is::<Skipped>() => eprintln!("{}: skipped: {failure}", row.op),
            Err(failure) => {
                eprintln!("{}: {failure}", row.op);
                return ExitCode::FAILURE;
            }
        }
    }
    // Who counts must not take nothing for a count of zero.
    if any { ExitCode::SUCCESS } else { ExitCode::from(2) }
}

/// Between the marks of who counts instructions.
fn marked<T>(work: impl FnOnce() -> T) -> T {
    #[cfg(target_arch = "x86_64")]
    instructions::mark();
    let done = work();
    #[cfg(target_arch = "x86_64")]
    instructions::mark();
    done
}

fn measured(row: &Row, rounds: u32) -> Result<Line, Failure> {
    match row.kind {
        Kind::Cost(make) => {
            let mut halves = make()?;
            let figures = measure::in_turns(&mut halves.op, &mut halves.floor, rounds)?;
            Ok(Line::cost(row, &figures, rounds))
        }
        Kind::Gain(make) => {
            needs_two_processors()?;
            Ok(Line::gain(row, &gain::in_turns(&mut make()?, rounds)?, rounds))
        }
        Kind::Busy(make) => {
            needs_two_processors()?;
            let (mut halves, mut neighbour) = (make()?, busy::Computing::start()?);
            let burden = busy::in_turns(&mut halves.op, &mut halves.floor, &mut neighbour, rounds)?;
            Ok(Line::busy(row, &burden, rounds))
        }
    }
}

/// Two threads that take turns on one processor say nothing about two threads.
fn needs_two_processors() -> Result<(), Failure> {
    match std::thread::available_parallelism()?.get() {
        1 => Err(Skipped("this process may use one processor only".into()).into()),
        _ => Ok(()),
    }
}

/// A line of its own for what cannot be measured here.
fn skipped(row: &Row, failure: Failure) -> Result<Line, Failure> {
    failure.downcast::<Skipped>().map(|reason| Line::skipped(row, reason.0))
}

/// What a reader does at the least: every byte passes through a register. The same for operation and floor; of many
/// bytes several at once, or the look would take longer than the cipher.
fn look_at(bytes: &[u8]) -> u64 {
    bytes.as_chunks().0.iter().fold(0, |sum, word| sum ^ u64::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn ops(only: &str) -> Vec<&'static str> {
        chosen(Some(only)).iter().map(|row| row.op).collect()
    }

    #[test]
    fn an_operation_is_chosen_by_name_or_by_its_beginning() {
        assert_eq!(chosen(None).len(), ROWS.len());
        // Although others begin with it.
        assert_eq!(ops("sealed.read.32"), ["sealed.read.32"]);
        assert_eq!(ops("sealed.create.32"), ["sealed.create.32"; 2]);
        let two = ["sealed.read.32.2threads.different", "sealed.read.32.2threads.same"];
        assert_eq!(ops("sealed.read.32.2threads"), two);
        assert_eq!(ops("paged"), ["paged.read.32", "paged.create.32"]);
        assert!(ops("sealed.re").is_empty() && ops("sealed.").is_empty());
    }

    #[test]
    fn every_row_can_be_made_and_run_once_or_says_why_not() {
        for row in ROWS {
            let made = match row.kind {
                Kind::Cost(make) | Kind::Busy(make) => make().map(|mut halves| {
                    (halves.op)(1).unwrap();
                    (halves.floor)(1).unwrap();
                }),
                Kind::Gain(make) => make().map(|mut threads| {
                    for what in [crew::What::Op, crew::What::Floor] {
                        assert_eq!(crew::Crew::run(&mut threads, what, &[0, 1]).unwrap().len(), 2);
                    }
                }),
            };
            if let Err(failure) = made {
                // Only these may be missing on a machine on which the tests run.
                assert!(row.op.contains(".pkey.") || row.op.contains(".secretmem."), "{}: {failure}", row.op);
                println!("{}: {}", row.op, skipped(row, failure).unwrap());
            }
        }
    }

    #[test]
    fn a_row_has_the_promised_fields() {
        let line = measured(&ROWS[0], 7).unwrap();
        let json: serde_json::Value = serde_json::from_str(&serde_json::to_string(&line).unwrap()).unwrap();
        for field in ["op", "ns", "floor", "floor_ns", "ratio"] {
            assert!(!json[field].is_null(), "{field} in {json}");
        }
        assert_eq!(json["op"], "sealed.read.32");
    }
}

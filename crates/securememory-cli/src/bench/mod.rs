//! `securememory bench`: what the library's operations cost, next to what they cannot cost less than.
//!
//! Absolute times say little on a stranger's machine; a ratio to the bare system calls and the bare
//! cipher, taken in the same run on the same memory layout, says what the library adds.

mod floor;
mod measure;
mod rows;

use std::io::{self, Write};
use std::process::ExitCode;

use rows::{ROWS, Row};
use serde::Serialize;

/// Why a row could not be measured.
type Failure = Box<dyn std::error::Error>;

/// Options of `securememory bench`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// One JSON object a line and a row, nothing else
    #[arg(long)]
    json: bool,
    /// Only this operation, for example sealed.read.32 or sealed
    #[arg(long, value_name = "OP")]
    only: Option<String>,
    /// Rounds of which the medians are taken
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(7..=10_000))]
    rounds: u32,
    /// No timing: carry the chosen operations out so many times, for a tracer that counts system calls
    #[arg(long, value_name = "N", requires = "only", conflicts_with_all = ["json", "rounds"])]
    count: Option<u64>,
}

/// A row as `--json` prints it.
#[derive(Serialize)]
struct Line {
    op: &'static str,
    ns: f64,
    floor: &'static str,
    floor_ns: f64,
    ratio: f64,
    ratio_low: f64,
    ratio_high: f64,
    target: f64,
    met: bool,
    rounds: u32,
}

/// Measures and prints. The exit code says whether all rows could be measured; it does not judge figures.
pub fn run(args: Args) -> ExitCode {
    if securememory::HAS_INJECTOR {
        eprintln!("this build has the fault injector (feature `testing`): its figures would be of no use");
        return ExitCode::from(2);
    }
    let chosen: Vec<&Row> = ROWS.iter().filter(|row| is_chosen(row.op, args.only.as_deref())).collect();
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
             Medians of {} rounds, operation and floor in turns; nanoseconds a call.\n\n\
             {:<18}{:>9}   {:<28}{:>9}{:>8}  {:<15}{:>7}",
            args.rounds, "operation", "ns", "floor", "ns", "ratio", "low..high", "target"
        )?;
    }
    let mut code = ExitCode::SUCCESS;
    for row in chosen {
        let line = measured(row, args.rounds)
            .and_then(|line| if args.json { Ok(serde_json::to_string(&line)?) } else { Ok(text(&line)) });
        match line {
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
            "\nA creation includes the drop; a read looks at all bytes. The six calls are mmap, mprotect, mlock,\n\
             (32 bytes written), mprotect, munlock, munmap. Other work on the machine changes all figures."
        )?;
    }
    Ok(code)
}

/// A whole name, or the beginning of one up to a dot.
fn is_chosen(op: &str, only: Option<&str>) -> bool {
    only.is_none_or(|only| op.strip_prefix(only).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// The operations alone, each `count` times; the first row of an operation stands for it.
fn carry_out(chosen: &[&Row], count: u64) -> ExitCode {
    let mut done = "";
    for row in chosen {
        if row.op == done {
            continue;
        }
        done = row.op;
        if let Err(failure) = (row.make)().and_then(|mut halves| (halves.op)(count)) {
            eprintln!("{}: {failure}", row.op);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn measured(row: &Row, rounds: u32) -> Result<Line, Failure> {
    let mut halves = (row.make)()?;
    let figures = measure::in_turns(&mut halves.op, &mut halves.floor, rounds)?;
    Ok(Line {
        op: row.op,
        ns: round(figures.ns, 1),
        floor: row.floor,
        floor_ns: round(figures.floor_ns, 1),
        ratio: round(figures.ratio, 3),
        ratio_low: round(figures.ratio_low, 3),
        ratio_high: round(figures.ratio_high, 3),
        target: round(row.target, 3),
        met: figures.ratio <= row.target,
        rounds,
    })
}

fn round(value: f64, digits: i32) -> f64 {
    let unit = 10_f64.powi(digits);
    (value * unit).round() / unit
}

fn text(line: &Line) -> String {
    let spread = format!("{:.2}..{:.2}", line.ratio_low, line.ratio_high);
    format!(
        "{:<18}{:>9.1}   {:<28}{:>9.1}{:>8.3}  {:<15}{:>7.3}  {}",
        line.op,
        line.ns,
        line.floor,
        line.floor_ns,
        line.ratio,
        spread,
        line.target,
        if line.met { "met" } else { "not met" }
    )
}

/// What a reader does at the least: every byte passes through a register. The same for operation and floor.
fn look_at(bytes: &[u8]) -> u64 {
    let words =
        bytes.chunks_exact(8).map(|word| word.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    words.fold(0, |sum, word| sum ^ word)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_operation_is_chosen_by_name_or_by_its_beginning() {
        assert!(is_chosen("sealed.read.32", None));
        assert!(is_chosen("sealed.read.32", Some("sealed.read.32")));
        assert!(is_chosen("sealed.read.32", Some("sealed")));
        assert!(!is_chosen("sealed.read.32", Some("sealed.re")));
        assert!(!is_chosen("sealed.read.32", Some("paged")));
    }

    #[test]
    fn every_row_can_be_made_and_run_once() {
        for row in ROWS {
            let mut halves = (row.make)().unwrap();
            (halves.op)(1).unwrap();
            (halves.floor)(1).unwrap();
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

//! `securememory bench instructions`: how many instructions an operation takes, counted one by one.
//!
//! Times differ from run to run and from machine to machine; these do not, so that it is seen at once when something was
//! added to the way of a read. An operation takes what a child that carries it out more often does more.
//!
//! What the cipher does, and what copies and clears, depends on the processor, and is counted apart.

mod symbols;
mod tally;
mod walk;

use std::io::{self, Write};
use std::process::ExitCode;

use super::rows::{Kind, Row};
use crate::stress::SKIPPED;
use symbols::Symbols;
use tally::Each;
use walk::Trouble;
pub(super) use walk::mark;

/// Options of `securememory bench instructions`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Only this operation, or all that begin so, as for `bench`
    #[arg(long, value_name = "OP")]
    only: Option<String>,
    /// One JSON object a line and an operation, nothing else
    #[arg(long, conflicts_with = "functions")]
    json: bool,
    /// Which functions the instructions are in
    #[arg(long)]
    functions: bool,
    /// Exit code 1 if an operation takes more of the library's own; 77 if it is not to be had here
    #[arg(long, value_name = "N", requires = "only")]
    at_most: Option<u32>,
}

#[derive(serde::Serialize)]
struct Line<'a> {
    op: &'a str,
    #[serde(flatten)]
    each: Each,
}

/// How often an operation is carried out: few times, many times. Both are whole batches of those that come in batches.
fn counts(op: &str) -> (u64, u64) {
    if is_large(op) {
        (1, 2)
    } else if op.contains("batch") {
        (16, 32)
    } else {
        (2, 6)
    }
}

/// Has it so many bytes that single steps take minutes? Then it is counted where it is named only.
fn is_large(op: &str) -> bool {
    op.contains("MiB")
}

/// Counts and prints.
pub(super) fn run(args: &Args) -> ExitCode {
    let counted = symbols().and_then(|symbols| {
        let mut out = io::stdout().lock();
        count_all(args, &symbols, &mut out)
    });
    match counted {
        Ok(code) => code,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            eprintln!("skipped: ptrace is forbidden here: {error}");
            ExitCode::from(SKIPPED)
        }
        Err(error) => {
            eprintln!("the instructions could not be counted: {error}");
            ExitCode::FAILURE
        }
    }
}

fn symbols() -> io::Result<Symbols> {
    Symbols::read(&std::fs::read("/proc/self/exe")?)
}

fn count_all(args: &Args, symbols: &Symbols, out: &mut impl Write) -> io::Result<ExitCode> {
    let (mut last, mut code) = ("", ExitCode::SUCCESS);
    let rows = super::chosen(args.only.as_deref());
    let single = |row: &&&Row| {
        matches!(row.kind, Kind::Cost(_)) && (!is_large(row.op) || args.only.as_deref() == Some(row.op))
    };
    if !args.json {
        writeln!(
            out,
            "Instructions of an operation, counted by single steps; a repeated one (`rep`) counts as one.\n\n\
             operation                    library    cipher  clearing      vDSO  system calls"
        )?;
    }
    for Row { op, .. } in rows.iter().filter(single) {
        // An operation stands there once for each floor.
        if std::mem::replace(&mut last, *op) == *op {
            continue;
        }
        let (few, many) = counts(op);
        let each = walk::walk(op, few, symbols)
            .and_then(|few_tally| Ok(Each::of(&few_tally, &walk::walk(op, many, symbols)?, many - few)));
        match each {
            Ok(each) => {
                if args.at_most.is_some_and(|most| each.own > f64::from(most)) {
                    code = ExitCode::FAILURE;
                }
                print(args, out, Line { op, each })?;
            }
            Err(Trouble::Absent) => {
                eprintln!("{op}: skipped: it is not to be had here; `bench --only {op}` says why");
                if args.at_most.is_some() {
                    code = ExitCode::from(SKIPPED);
                }
            }
            Err(Trouble::Failed(error)) => return Err(error),
        }
    }
    if last.is_empty() {
        eprintln!("no such operation");
        code = ExitCode::from(2);
    } else if !args.json {
        writeln!(
            out,
            "\nlibrary: with the bench's own loop and its look at the bytes. cipher, clearing (with copies): as the processor \
             wants them."
        )?;
    }
    Ok(code)
}

fn print(args: &Args, out: &mut impl Write, line: Line<'_>) -> io::Result<()> {
    if args.json {
        return writeln!(out, "{}", serde_json::to_string(&line)?);
    }
    let Line { op, each } = line;
    let calls: Vec<String> = each.calls.iter().map(|(name, count)| format!("{count:.2} {name}")).collect();
    let calls = if calls.is_empty() { "none".to_owned() } else { calls.join(", ") };
    let Each { own, cipher, clearing, kernel, .. } = each;
    writeln!(out, "{op:<26}{own:>10.1}{cipher:>10.1}{clearing:>10.1}{kernel:>10.1}  {calls}")?;
    if args.functions {
        for (kind, name, count) in each.functions.iter().filter(|(.., count)| *count >= 0.05) {
            writeln!(out, "  {count:>10.2} {kind:?} {name}")?;
        }
    }
    Ok(())
}

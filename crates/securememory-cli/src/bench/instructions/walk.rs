//! Runs the tool as a child that carries out an operation some times, and takes it from mark to mark by single steps.
//!
//! The marks are system calls that nothing else makes ([`mark`]). So what comes before, the making of the vault, takes no
//! longer than usual.

use std::collections::HashMap;
use std::io;
use std::process::{Child, Command, Stdio};

use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

use super::symbols::Symbols;
use super::tally::{Kind, Tally};
use crate::raw::step::{self, Held, Standing};

/// The system call that marks where counting begins and ends.
const MARK: u64 = libc::SYS_getppid.unsigned_abs();

/// Makes the mark.
pub(in crate::bench) fn mark() {
    std::hint::black_box(rustix::process::getppid());
}

/// Why nothing was counted.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The operation is not to be had here.
    Absent,
    Failed(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// What one instruction is.
#[derive(Clone, Debug)]
struct Instruction {
    kind: Kind,
    function: String,
    is_call: bool,
    times: u64,
}

/// Counts what happens while the operation is carried out `count` times.
pub(super) fn walk(op: &str, count: u64, symbols: &Symbols) -> Result<Tally, Trouble> {
    // Parent and child take turns: on one processor neither has to be woken on another. If not, it takes longer.
    let mut one = CpuSet::new();
    one.set(sched_getcpu());
    let _ = sched_setaffinity(None, &one);
    let mut command = Command::new("/proc/self/exe");
    command.args(["bench", "--only", op, "--count", &count.to_string()]);
    let mut child = step::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    let tally = from_mark_to_mark(&child, symbols);
    if !matches!(tally, Ok(Some(_))) {
        let _ = child.kill();
    } else {
        step::release(&child)?;
    }
    let status = child.wait();
    match tally? {
        Some(tally) if status?.success() => Ok(tally),
        Some(_) => Err(io::Error::other("the child failed").into()),
        // What cannot be had is told by an exit before the first mark.
        None => Err(Trouble::Absent),
    }
}

/// `None`: it ended before the marks came.
fn from_mark_to_mark(child: &Child, symbols: &Symbols) -> io::Result<Option<Tally>> {
    let mut signal = 0;
    loop {
        match step::to_call(child, signal)? {
            None => return Ok(None),
            Some(Held::Call) if step::standing(child)?.inside == MARK => break,
            Some(Held::Signal(other)) => signal = other,
            Some(_) => signal = 0,
        }
    }
    let places = Places::of(child)?;
    let mut seen: HashMap<u64, Instruction> = HashMap::new();
    let mut tally = Tally::default();
    // The first step ends the system call that the child is in.
    let (mut last, mut signal) = (0, 0);
    loop {
        match step::step(child, signal)? {
            None => return Ok(None),
            Some(Held::Signal(other)) => {
                signal = other;
                continue;
            }
            Some(_) => signal = 0,
        }
        let Standing { at, number, .. } = step::standing(child)?;
        // The processor stops after every round of a repeated one.
        if std::mem::replace(&mut last, at) == at {
            continue;
        }
        let instruction = match seen.entry(at) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(places.look(at, step::code(child, at)?, symbols))
            }
        };
        if instruction.is_call {
            if number == MARK {
                break;
            }
            tally.call(number);
        }
        instruction.times += 1;
    }
    if let Ok(path) = std::env::var("SM_DUMP") {
        let text: String = seen
            .iter()
            .map(|(at, i)| format!("{:x} {} {}\n", at.wrapping_sub(places.base), i.times, i.function))
            .collect();
        std::fs::write(path, text)?;
    }
    for Instruction { kind, function, times, .. } in seen.into_values() {
        tally.add(kind, function, times);
    }
    Ok(Some(tally))
}

/// What is mapped where in the child.
struct Places {
    /// Where this program's addresses begin, and where its code lies.
    base: u64,
    own: Vec<std::ops::Range<u64>>,
    kernel: Vec<std::ops::Range<u64>>,
}

impl Places {
    fn of(child: &Child) -> io::Result<Self> {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", child.id()))?;
        let program = std::fs::read_link(format!("/proc/{}/exe", child.id()))?;
        let program = program.to_string_lossy();
        let mut places = Self { base: u64::MAX, own: Vec::new(), kernel: Vec::new() };
        for line in maps.lines() {
            let mut words = line.split_ascii_whitespace();
            let range = words.next().and_then(|range| range.split_once('-'));
            let Some((start, end)) = range else { continue };
            let number = |text| u64::from_str_radix(text, 16).map_err(io::Error::other);
            let (range, name) = (number(start)?..number(end)?, words.nth(4).unwrap_or_default());
            if name == program {
                places.base = places.base.min(range.start);
                places.own.push(range);
            } else if name == "[vdso]" {
                places.kernel.push(range);
            }
        }
        Ok(places)
    }

    fn look(&self, at: u64, code: [u8; 8], symbols: &Symbols) -> Instruction {
        let within = |places: &[std::ops::Range<u64>]| places.iter().any(|place| place.contains(&at));
        let is_call = code.starts_with(&[0x0f, 0x05]);
        let (kind, function) = if within(&self.own) {
            // An address of a program that is not moved is what its file says.
            let found = symbols.at(at - self.base).or_else(|| symbols.at(at));
            let function = found.map_or("?", |symbol| &symbol.name);
            (Kind::of(function, found.map_or("", |symbol| &symbol.file), code), function)
        } else if within(&self.kernel) {
            (Kind::Kernel, "vDSO")
        } else {
            // Of the C library, the library calls nothing on its way but what copies and clears.
            (Kind::Clearing, "C library")
        };
        Instruction { kind, function: function.to_owned(), is_call, times: 0 }
    }
}

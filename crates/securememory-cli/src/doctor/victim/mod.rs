//! The victim: a process that holds a secret as a program would, does what it is told, and is attacked.

mod bounds;
mod crash;
mod exchange;
mod held;
mod inside;
mod instant;
mod log;
mod turnover;

use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, getrlimit, kill_process, setrlimit, waitpid,
};
use securememory::View;

use super::order::{Command, Order, Reply, Task};
use super::promises::Attack;
use super::verdict::{Trouble, Verdict};
use crate::raw;
use held::Held;

/// Runs to the end of its input.
pub fn run() -> ExitCode {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let mut input = io::stdin().lock();
    let Some(order) = next_line::<Order>(&mut input) else {
        eprintln!("this command is for the doctor's own use; see `securememory doctor --help`");
        return ExitCode::from(2);
    };
    match serve(&mut input, &order) {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            say(&Reply::Trouble(trouble));
            ExitCode::FAILURE
        }
    }
}

/// The next line of the attacker; `None` where he is gone.
fn next_line<T: serde::de::DeserializeOwned>(input: &mut impl BufRead) -> Option<T> {
    let mut line = String::new();
    input.read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

/// Tells the attacker. If he is gone, the next read ends this process.
fn say(reply: &Reply) {
    let line = serde_json::to_string(reply).unwrap_or_default() + "\n";
    let mut output = io::stdout().lock();
    let _ = output.write_all(line.as_bytes()).and_then(|()| output.flush());
}

fn serve(input: &mut impl BufRead, order: &Order) -> Result<(), Trouble> {
    let mut beacon = vec![0; order.beacon.len()];
    order.beacon.fill(&mut beacon);
    if order.task == Task::Control {
        let other = super::needle::Needle::random(order.needle.len())?;
        let held = Held::make(order.kept, &other)?;
        held.read(&other).map_err(Trouble::failed)?;
        say(&Reply::Common(inside::common(order)?));
        return Ok(());
    }
    let mut held = Held::make(order.kept, &order.needle)?;
    held.read(&order.needle).map_err(|why| Trouble::failed(format!("a first read gave {why}")))?;
    let mut planted = Vec::new();
    say(&Reply::Ready(Box::new(held.facts())));
    while let Some(command) = next_line(input) {
        match command {
            Command::Attack => {
                say(&Reply::Verdict(attack(order, held)?));
                return Ok(());
            }
            Command::Exercise => {
                held.exercise(&order.needle)?;
                say(&Reply::Ready(Box::new(held.facts())));
            }
            Command::Plant => {
                planted = held.plant()?;
                say(&Reply::Ready(Box::new(held.facts())));
            }
            Command::CopyAtRest => say(&inside::copy_at_rest(&held)?),
            Command::Refresh => {
                turnover::refresh(&held)?;
                held.read(&order.needle).map_err(|why| Trouble::failed(format!("after a refresh: {why}")))?;
                say(&Reply::Ready(Box::new(held.facts())));
            }
            Command::Purge => {
                turnover::purge(&mut held)?;
                let (worked, refused) = held.try_all();
                say(&Reply::Tried { worked, refused });
            }
            Command::CloseVault => {
                turnover::close(&mut held)?;
                let (worked, refused) = held.try_all();
                say(&Reply::Tried { worked, refused });
            }
            Command::ShowPages => say(&inside::show_pages()?),
            Command::OpenView => {
                let view = open(&held)?;
                say(&Reply::View { address: view.address(), unlocked: held.unlocked() });
                match next_line(input) {
                    Some(Command::Abort) => abort()?,
                    _ => drop(view),
                }
                say(&Reply::Done);
            }
            Command::Close => {
                if let Held::Kept(kept) = &held {
                    kept.secret.close()?;
                }
                if let Held::Plain(bytes) = &mut held {
                    *bytes = Vec::new();
                }
                say(&Reply::Done);
            }
            Command::GiveUp => {
                held = Held::Plain(Vec::new());
                say(&Reply::Done);
            }
            Command::Fork => fork(input, &held)?,
            Command::ForkInRead => fork_in_read(input, order, &held)?,
            Command::Arm(care) => crash::arm(input, order, &held, care)?,
            other => return Err(Trouble::failed(format!("{other:?} is out of turn"))),
        }
    }
    std::hint::black_box((beacon, planted));
    Ok(())
}

/// The attacks that come from inside.
fn attack(order: &Order, held: Held) -> Result<Verdict, Trouble> {
    match order.task {
        Task::Attack(Attack::StrayRead) => inside::stray_read(order, &held),
        Task::Attack(Attack::ReadInstant) => instant::read_instant(order, &held),
        Task::Attack(Attack::Tamper) => inside::tamper(order, &held),
        Task::Attack(Attack::ExchangeCiphertexts) => exchange::exchange(order, &held),
        Task::Attack(Attack::ReadAfterClose) => inside::read_after_close(order, held),
        Task::Attack(Attack::Log) => log::log(order, held),
        Task::Attack(Attack::Overflow) => bounds::overflow(order),
        Task::Attack(Attack::Underflow) => bounds::underflow(order),
        _ => Err(Trouble::failed("not an attack from inside")),
    }
}

/// An open view of either kind of secret.
enum Open<'a> {
    Plain(&'a [u8]),
    Kept(View<'a>),
}

impl Open<'_> {
    fn address(&self) -> usize {
        match self {
            Self::Plain(bytes) => bytes.as_ptr().expose_provenance(),
            Self::Kept(view) => view.as_ptr().expose_provenance(),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Kept(view) => view,
        }
    }
}

fn open(held: &Held) -> Result<Open<'_>, Trouble> {
    match held {
        Held::Plain(bytes) => Ok(Open::Plain(bytes)),
        Held::Kept(kept) => Ok(Open::Kept(kept.secret.view()?)),
    }
}

/// Aborts with a core that has in it all that a core can have.
fn abort() -> Result<(), Trouble> {
    let hard = getrlimit(Resource::Core).maximum;
    if hard == Some(0) {
        return Err(Trouble::NotHere("the hard limit on core dumps is 0 (`ulimit -Hc`)".to_owned()));
    }
    setrlimit(Resource::Core, Rlimit { current: hard, maximum: hard }).map_err(io::Error::from)?;
    // Every kind of mapping, core(5).
    std::fs::write("/proc/self/coredump_filter", "0x1ff")?;
    std::process::abort();
}

/// Forks; the child tries everything, tells what came of it, and waits to be searched.
fn fork(input: &mut impl BufRead, held: &Held) -> Result<(), Trouble> {
    let child = raw::fork_alone(|| {
        let (worked, refused) = held.try_all();
        say(&Reply::Child { pid: std::process::id(), worked, refused });
        loop {
            std::thread::park();
        }
    })?;
    let _ = next_line::<Command>(input);
    end(child)
}

/// Forks again and again beside threads that read.
fn fork_in_read(input: &mut impl BufRead, order: &Order, held: &Held) -> Result<(), Trouble> {
    let readers = Readers { phase: AtomicU8::new(READ), reads: AtomicU64::new(0) };
    let (phase, reads) = (&readers.phase, &readers.reads);
    std::thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(|| readers.read(held, order)));
        let mut fork_on = || -> Result<(), Trouble> {
            loop {
                // The readers rest while a child is searched, which would be slow beside them; now they are at
                // full speed again, and the fork comes at any moment of a read.
                phase.store(READ, Ordering::Relaxed);
                threads.iter().for_each(|reader| reader.thread().unpark());
                let enough = reads.load(Ordering::Relaxed) + 100;
                while reads.load(Ordering::Relaxed) < enough
                    && !threads.iter().any(|reader| reader.is_finished())
                {
                    std::thread::sleep(Duration::from_micros(50));
                }
                let child = raw::fork_and_freeze()?;
                phase.store(REST, Ordering::Relaxed);
                say(&Reply::Child { pid: child, worked: Vec::new(), refused: Vec::new() });
                let next = next_line(input);
                end(child)?;
                if next != Some(Command::Next) {
                    return Ok(());
                }
            }
        };
        let outcome = fork_on();
        phase.store(STOP, Ordering::Relaxed);
        threads.iter().for_each(|reader| reader.thread().unpark());
        let mut error = None;
        for thread in threads {
            error = error.or(thread.join().map_err(|_| Trouble::failed("a reading thread panicked"))?);
        }
        outcome?;
        say(&Reply::Readers { reads: reads.load(Ordering::Relaxed), error });
        Ok(())
    })
}

// What the readers beside the forks are to do.
const READ: u8 = 0;
const REST: u8 = 1;
const STOP: u8 = 2;

/// What the readers beside the forks share.
struct Readers {
    phase: AtomicU8,
    reads: AtomicU64,
}

impl Readers {
    /// Reads until it is told to stop, or until a read fails; then returns why.
    fn read(&self, held: &Held, order: &Order) -> Option<String> {
        loop {
            match self.phase.load(Ordering::Relaxed) {
                READ => match held.read(&order.needle) {
                    Ok(()) => _ = self.reads.fetch_add(1, Ordering::Relaxed),
                    Err(why) => return Some(why),
                },
                REST => std::thread::park(),
                _ => return None,
            }
        }
    }
}

/// Kills a child of ours, which waits for that, and sees it off.
fn end(child: u32) -> Result<(), Trouble> {
    let pid = i32::try_from(child).ok().and_then(Pid::from_raw).ok_or_else(|| Trouble::failed("no child"))?;
    kill_process(pid, Signal::KILL).map_err(io::Error::from)?;
    waitpid(Some(pid), WaitOptions::empty()).map_err(io::Error::from)?;
    Ok(())
}

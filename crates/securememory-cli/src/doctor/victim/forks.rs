//! Forks for the attacker to look at: of a quiet process, and beside threads that read.

use std::io::{self, BufRead};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, getrlimit, kill_process, setrlimit, waitpid,
};

use super::held::Held;
use super::{next_line, say};
use crate::doctor::order::{Command, Order, Reply};
use crate::doctor::verdict::Trouble;
use crate::raw;

/// Aborts with a core that has in it all that a core can have.
pub fn abort() -> Result<(), Trouble> {
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
pub fn fork(input: &mut impl BufRead, held: &Held) -> Result<(), Trouble> {
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
pub fn fork_in_read(input: &mut impl BufRead, order: &Order, held: &Held) -> Result<(), Trouble> {
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

//! The victim under ptrace(2), until every thread of it is held at its exit.
//!
//! A thread stops there with all memory of the process still in place, whatever ends it. What is looked at is the
//! moment when the last thread has come: nobody runs any more, nobody was let go, and what is in memory then stays in memory.
//! (Before Linux 5.16 a thread that would dump a core comes last, and only when all others have gone: their registers are looked
//! at before.)

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use securememory::Host;

use super::captive::Captive;
use crate::doctor::loot::{Loot, Through, loot};
use crate::doctor::memory::{Mapping, mappings};
use crate::doctor::order::{Armed, End};
use crate::doctor::promises::Attack;
use crate::doctor::verdict::Trouble;
use crate::raw::trace::{self, Event};

/// Every way in which a program ends itself that can be looked at. The last one is looked at most closely.
pub const ENDS: &[End] = &[End::StrayRead, End::InView, End::NullWrite, End::Exit, End::Abort];

/// The signal that ends the process, if that is the attack.
pub fn signal_of(attack: Attack) -> Option<i32> {
    match attack {
        Attack::KillTerm => Some(libc::SIGTERM),
        Attack::KillInt => Some(libc::SIGINT),
        Attack::KillHup => Some(libc::SIGHUP),
        Attack::KillQuit => Some(libc::SIGQUIT),
        Attack::KillSegv => Some(libc::SIGSEGV),
        Attack::KillBus => Some(libc::SIGBUS),
        Attack::KillAbrt => Some(libc::SIGABRT),
        _ => None,
    }
}

/// A signal that has not ended it in this part of its time is sent again. Rust's own handler of SIGSEGV and SIGBUS lets the
/// first one pass that is sent, and is gone then.
const AGAIN: u32 = 200;
/// And so much later once more, or where the first one must suffice: one that comes in the middle of the wipe would be
/// delivered to another thread, whose registers are of interest.
const MUCH_LATER: u32 = 20;

/// Is it a kernel on which a thread that dumps core, or would if that were not forbidden, waits for all others to leave their
/// memory, before it comes to its own exit?
fn a_dump_waits_for_all_others() -> bool {
    Host::probe().kernel_version().is_some_and(|version| version < (5, 16))
}

/// A process whose threads are all traced. It is killed when this ends.
pub struct Tracer {
    process: i32,
    threads: Vec<i32>,
    at_exit: Vec<i32>,
    /// Those that had to go before the last one came, with their registers.
    gone: Vec<(i32, Vec<u8>)>,
    /// What there was before they went: with its first thread a process loses its listings.
    before: Option<(Vec<Mapping>, Loot)>,
    let_go: bool,
}

impl Tracer {
    /// Traces all threads there are, and those that they make.
    pub fn seize(pid: u32, _: &Armed) -> Result<Self, Trouble> {
        let process = i32::try_from(pid).map_err(|_| Trouble::failed("a strange process id"))?;
        let mut tracer = Self {
            process,
            threads: Vec::new(),
            at_exit: Vec::new(),
            gone: Vec::new(),
            before: None,
            let_go: false,
        };
        loop {
            let new: Vec<i32> =
                tracer.listed()?.into_iter().filter(|thread| !tracer.threads.contains(thread)).collect();
            if new.is_empty() {
                return Ok(tracer);
            }
            for thread in new {
                trace::seize(thread).map_err(Trouble::forbidden("ptrace"))?;
                tracer.threads.push(thread);
            }
        }
    }

    /// The threads that there are.
    fn listed(&self) -> Result<Vec<i32>, Trouble> {
        let entries = std::fs::read_dir(format!("/proc/{}/task", self.process))?;
        entries
            .map(|entry| {
                let name = entry?.file_name();
                let number = name.to_string_lossy().parse();
                number.map_err(|_| Trouble::failed("a strange thread in /proc/PID/task"))
            })
            .collect()
    }

    /// Sends it a signal, as kill(1) does.
    pub fn send(&self, signal: i32) -> Result<(), Trouble> {
        trace::send(self.process, signal).map_err(|error| Trouble::failed(format!("kill: {error}")))
    }

    /// Lets it run, passes its signals on, and returns when all threads are held at their exit. A signal that
    /// it is to end by is sent again for as long as it lives.
    pub fn until_exit(&mut self, sent: Option<i32>, patience: Duration) -> Result<(), Trouble> {
        let soon = patience / AGAIN;
        let later = soon * MUCH_LATER;
        let mut every = if matches!(sent, Some(libc::SIGSEGV | libc::SIGBUS)) { soon } else { later };
        let begin = Instant::now();
        let (mut again, mut held_since) = (begin, None);
        loop {
            if let Some((thread, event)) = trace::next()? {
                self.take(thread, event)?;
                continue;
            }
            if !self.at_exit.is_empty() {
                let listed = self.listed()?;
                self.threads = listed.into_iter().filter(|thread| !self.is_gone(*thread)).collect();
                if self.threads.iter().all(|thread| self.at_exit.contains(thread)) {
                    return Ok(());
                }
                if held_since.get_or_insert_with(Instant::now).elapsed() > soon
                    && a_dump_waits_for_all_others()
                {
                    self.let_held_go()?;
                }
            }
            if begin.elapsed() > patience {
                let (held, of) = (self.at_exit.len(), self.threads.len());
                return Err(Trouble::failed(format!(
                    "the victim did not end within {} s: {held} of {of} threads did",
                    patience.as_secs()
                )));
            }
            if let Some(signal) = sent
                && self.at_exit.is_empty()
                && self.gone.is_empty()
                && again.elapsed() > every
            {
                (again, every) = (Instant::now(), later);
                self.send(signal)?;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    fn take(&mut self, thread: i32, event: Event) -> Result<(), Trouble> {
        let went_on = match event {
            Event::Exit => {
                self.at_exit.push(thread);
                Ok(())
            }
            Event::Signal(signal) => trace::go_on(thread, signal),
            Event::Halt => trace::leave_stopped(thread),
            Event::Other => trace::go_on(thread, 0),
            Event::Gone if self.is_gone(thread) => Ok(()),
            Event::Gone => {
                return Err(Trouble::failed(format!("thread {thread} ended without being held at its exit")));
            }
        };
        match went_on {
            // Woken by what ends the process: it comes to its exit.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other.map_err(|error: io::Error| Trouble::failed(format!("ptrace: {error}"))),
        }
    }

    /// Mappings and files, where they had to be looked at before its end.
    pub fn seen_before(&mut self) -> Option<(Vec<Mapping>, Loot)> {
        self.before.take()
    }

    fn is_gone(&self, thread: i32) -> bool {
        self.gone.iter().any(|(gone, _)| *gone == thread)
    }

    /// Lets the threads go that are held while another waits for them, in the kernel: nothing changes any more.
    fn let_held_go(&mut self) -> Result<(), Trouble> {
        let held = self.registers()?;
        // Only the first time: afterwards the listings may be gone with the first thread.
        if self.before.is_none() {
            let process = self.process.unsigned_abs();
            self.before = Some((mappings(process)?, loot(process, Through::Duplicate)?));
        }
        for thread in self.at_exit.drain(..) {
            let _ = trace::go_on(thread, 0);
        }
        self.gone = held;
        Ok(())
    }

    /// The registers of all threads, as they were when they were stopped for good.
    pub fn registers(&self) -> Result<Vec<(i32, Vec<u8>)>, Trouble> {
        let of = |&thread: &i32| Ok((thread, trace::registers(thread)?));
        let all: io::Result<Vec<_>> =
            self.gone.iter().cloned().map(Ok).chain(self.at_exit.iter().map(of)).collect();
        all.map_err(|error| Trouble::failed(format!("registers of a thread that exits: {error}")))
    }

    /// Lets all of it end. What is left is for its parent to wait for.
    pub fn let_go(&mut self) {
        self.let_go = true;
        if let Ok(threads) = self.listed() {
            self.threads = threads;
        }
        for thread in &self.at_exit {
            let _ = trace::go_on(*thread, 0);
        }
        let (first, others): (Vec<i32>, Vec<i32>) =
            self.threads.iter().partition(|thread| **thread == self.process);
        others.into_iter().for_each(|thread| trace::see_off(thread, false));
        first.into_iter().for_each(|thread| trace::see_off(thread, true));
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if !self.let_go {
            let _ = trace::send(self.process, libc::SIGKILL);
            self.let_go();
        }
    }
}

/// A process that shares the victim's memory, killed when this ends.
pub struct Witness(i32);

impl Witness {
    /// The one that a victim has left behind, if it has.
    pub fn of(armed: &Armed) -> Option<Self> {
        armed.witness.map(Self)
    }

    /// What it sees in the victim's memory.
    pub fn sees(&self, victim: &mut Captive, range: &Range<usize>) -> Result<Vec<u8>, Trouble> {
        trace::send(self.0, libc::SIGCONT)?;
        let words = [range.start.to_ne_bytes(), range.len().to_ne_bytes()];
        victim.exchange(words.as_flattened(), range.len()).map_err(|error| {
            Trouble::NotHere(format!("a process that shares the memory was ended with it ({error})"))
        })
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = trace::send(self.0, libc::SIGKILL);
    }
}

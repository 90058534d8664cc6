//! Models of the word of a paged secret.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU32;
use loom::thread;

use super::{at_once, fails, holds, join, never};
use crate::gate::{Deadline, Gate, Refusal};
use crate::os::{Call, CallError};
use crate::sync::Flaw;

const NONE: u32 = 0;
const READ: u32 = 1;
const WRITE: u32 = 2;

/// What the checker says when a value is used without order, and what we say when pages are.
const RACE: &str = "ausality violation";
const FAULT: &str = "fault";

/// How the steps around the gate may be wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Steps {
    Right,
    /// Who was refused does not look whether others have left the closing, or the end, to it.
    RefusedWalkAway,
}

/// A paged secret: the gate, and pages whose protection takes effect at once and for all, as the kernel's does,
/// but orders nothing.
struct Secret {
    gate: Gate,
    steps: Steps,
    access: AtomicU32,
    bytes: UnsafeCell<()>,
    wiped: AtomicUsize,
}

fn refused() -> CallError {
    CallError::new(Call::Mprotect, 12)
}

impl Secret {
    fn new(steps: Steps) -> Arc<Self> {
        Arc::new(Self {
            gate: Gate::new(),
            steps,
            access: AtomicU32::new(NONE),
            bytes: UnsafeCell::new(()),
            wiped: AtomicUsize::new(0),
        })
    }

    fn protect(&self, access: u32) -> Result<(), CallError> {
        // A change that orders nothing, and whose successor nobody misses.
        self.access.swap(access, Relaxed);
        Ok(())
    }

    fn accessible(&self) -> u32 {
        self.access.fetch_add(0, Relaxed)
    }

    fn read(&self) {
        // Once is enough: that other threads run before is one of the orders that are tried, that none does another.
        assert_ne!(self.accessible(), NONE, "fault: the pages are closed under a reader");
        self.bytes.with(|_| ());
    }

    // As `store::paged::Paged` does it.

    fn enter(
        &self,
        nested: bool,
        deadline: Deadline,
        open: impl FnOnce() -> Result<(), CallError>,
    ) -> Result<(), Refusal> {
        let entered = self.gate.enter_paged(|| nested, || deadline, open);
        if entered.is_err() && self.steps != Steps::RefusedWalkAway {
            self.settle();
        }
        entered
    }

    fn view(&self, nested: bool, deadline: Deadline) -> Result<(), Refusal> {
        self.enter(nested, deadline, || self.protect(READ))
    }

    fn release(&self) {
        let _ = self.gate.leave_paged(|| self.protect(NONE));
        if self.gate.is_closed() {
            self.try_end();
        }
    }

    fn settle(&self) {
        let _ = self.gate.shut_if_idle(|| self.protect(NONE));
        if self.gate.is_closed() {
            self.try_end();
        }
    }

    fn write(&self, deadline: Deadline) -> Result<(), Refusal> {
        self.gate.begin_write_paged(deadline)?;
        let _ = self.protect(WRITE);
        self.bytes.with_mut(|_| ());
        assert_eq!(self.accessible(), WRITE, "fault: the pages are closed under the writer");
        let _ = self.protect(NONE);
        self.gate.end_write_paged(false);
        if self.gate.is_closed() {
            self.try_end();
        }
        Ok(())
    }

    fn try_end(&self) {
        if self.gate.begin_final() {
            let _ = self.protect(WRITE);
            self.bytes.with_mut(|_| ());
            self.wiped.fetch_add(1, Relaxed);
            assert_eq!(self.accessible(), WRITE, "fault: the pages are closed under the wiper");
            let _ = self.protect(NONE);
            self.gate.end_final();
        }
    }

    /// A close that waits.
    fn close(&self) {
        self.gate.close();
        self.try_end();
        while !self.gate.is_final() {
            self.gate.nap(std::time::Duration::MAX);
            self.try_end();
        }
        assert_eq!(self.wiped.load(Relaxed), 1, "closed, but not wiped");
    }

    /// A close that leaves the end to the last view.
    fn close_and_go(&self) {
        self.gate.close();
        self.try_end();
    }

    /// When all have gone.
    fn rest(&self, closed: bool) {
        assert_eq!(self.gate.views(), 0);
        assert_eq!(self.gate.is_final(), closed, "the end was left to nobody");
        assert_eq!(self.wiped.load(Relaxed), usize::from(closed), "the number of wipers");
        assert_eq!(self.accessible(), NONE, "the pages were left open");
    }
}

fn reader(secret: &Arc<Secret>) -> thread::JoinHandle<()> {
    let secret = Arc::clone(secret);
    thread::spawn(move || match secret.view(false, never()) {
        Ok(()) => {
            secret.read();
            secret.release();
        }
        Err(refusal) => assert_eq!(refusal, Refusal::Closed),
    })
}

// ---- 2 readers ----

fn readers() {
    let secret = Secret::new(Steps::Right);
    let threads = [reader(&secret)];
    secret.view(false, never()).unwrap();
    secret.read();
    secret.release();
    join(threads);
    secret.rest(false);
}

#[test]
fn two_readers() {
    holds("paged, 2 readers", 3, readers);
}

#[test]
fn two_readers_broken() {
    let flaws = [Flaw::LooksBeforeAdding, Flaw::NoSealing, Flaw::FlagAfterSealing];
    for flaw in flaws {
        fails("paged, 2 readers", Some(flaw), 3, &[FAULT], readers);
    }
}

// ---- 2 readers and a closer ----

fn readers_and_closer(waits: bool, steps: Steps) {
    let secret = Secret::new(steps);
    let threads = [reader(&secret), reader(&secret)];
    if waits {
        secret.close()
    } else {
        secret.close_and_go()
    }
    join(threads);
    secret.rest(true);
}

#[test]
fn two_readers_and_a_closer_that_waits() {
    holds("paged, 2 readers, closer", 2, || readers_and_closer(true, Steps::Right));
}

#[test]
fn two_readers_and_a_closer_that_goes() {
    holds("paged, 2 readers, closer that goes", 2, || readers_and_closer(false, Steps::Right));
}

#[test]
fn two_readers_and_a_closer_broken() {
    for flaw in [Flaw::LooksBeforeAdding, Flaw::NoSealing, Flaw::Unordered] {
        fails("paged, closer", Some(flaw), 2, &[FAULT, RACE, "wipe"], || {
            readers_and_closer(true, Steps::Right)
        });
    }
    let walk_away = || readers_and_closer(false, Steps::RefusedWalkAway);
    fails("paged, refused readers walk away", None, 2, &["left to nobody"], walk_away);
}

// ---- 2 readers and a writer ----

fn readers_and_writer() {
    let secret = Secret::new(Steps::Right);
    let threads = [reader(&secret), reader(&secret)];
    secret.write(never()).unwrap();
    join(threads);
    secret.rest(false);
}

#[test]
fn two_readers_and_a_writer() {
    holds("paged, 2 readers, writer", 2, readers_and_writer);
}

#[test]
fn a_reader_and_a_writer() {
    holds("paged, reader, writer", 3, || {
        let secret = Secret::new(Steps::Right);
        let threads = [reader(&secret)];
        secret.write(never()).unwrap();
        join(threads);
        secret.rest(false);
    });
}

#[test]
fn two_readers_and_a_writer_broken() {
    for flaw in [Flaw::LooksBeforeAdding, Flaw::Unordered] {
        fails("paged, writer", Some(flaw), 2, &[FAULT, RACE], readers_and_writer);
    }
    for flaw in [Flaw::NobodyWakes, Flaw::NoSecondLook, Flaw::NoEvent] {
        fails("paged, writer", Some(flaw), 2, &["deadlock"], readers_and_writer);
    }
}

// ---- 2 readers and a writer that gives up ----

fn readers_and_hasty_writer(steps: Steps) {
    let secret = Secret::new(steps);
    // One waits behind the writer, one does not.
    let patient = reader(&secret);
    let other = Arc::clone(&secret);
    let hasty = thread::spawn(move || {
        if other.view(false, at_once()).is_ok() {
            other.read();
            other.release();
        }
    });
    let _ = secret.write(at_once());
    join([patient, hasty]);
    secret.rest(false);
}

#[test]
fn two_readers_and_a_writer_that_gives_up() {
    holds("paged, 2 readers, writer that gives up", 2, || readers_and_hasty_writer(Steps::Right));
}

#[test]
fn two_readers_and_a_writer_that_gives_up_broken() {
    let (flaw, right) = (Flaw::LeavesInTwoSteps, || readers_and_hasty_writer(Steps::Right));
    fails("paged, a reader that gives up", Some(flaw), 2, &["left open"], right);
    let walk_away = || readers_and_hasty_writer(Steps::RefusedWalkAway);
    fails("paged, refused readers walk away", None, 2, &["left open"], walk_away);
}

// ---- a nested reader and a waiting writer ----

fn nested_reader_and_writer(says_so: bool) {
    let secret = Secret::new(Steps::Right);
    let other = Arc::clone(&secret);
    let thread = thread::spawn(move || {
        other.view(false, never()).unwrap();
        other.view(says_so, never()).unwrap();
        other.read();
        other.release();
        other.read();
        other.release();
    });
    secret.write(never()).unwrap();
    join([thread]);
    secret.rest(false);
}

#[test]
fn a_nested_reader_and_a_waiting_writer() {
    holds("paged, nested reader, waiting writer", 3, || nested_reader_and_writer(true));
}

#[test]
fn a_nested_reader_and_a_waiting_writer_broken() {
    fails("paged, nested reader that waits", None, 2, &["deadlock"], || nested_reader_and_writer(false));
}

// ---- a reader, one whose protection change fails, and a closer ----

fn reader_failure_and_closer(closes: bool, steps: Steps) {
    let secret = Secret::new(steps);
    let other = Arc::clone(&secret);
    let unlucky = thread::spawn(move || {
        match other.enter(false, never(), || Err(refused())) {
            // Another one had opened the pages.
            Ok(()) => {
                other.read();
                other.release();
            }
            Err(refusal) => assert!(matches!(refusal, Refusal::Closed | Refusal::Call(_))),
        }
    });
    let threads = [reader(&secret), unlucky];
    if closes {
        secret.close_and_go();
    }
    join(threads);
    secret.rest(closes);
}

#[test]
fn a_reader_and_a_failure_to_open() {
    holds("paged, reader, failed opening", 3, || reader_failure_and_closer(false, Steps::Right));
    holds("paged, reader, failed opening, closer", 2, || reader_failure_and_closer(true, Steps::Right));
}

#[test]
fn a_reader_and_a_failure_to_open_broken() {
    let open = || reader_failure_and_closer(false, Steps::RefusedWalkAway);
    fails("paged, failed opening, refused walk away", None, 2, &["left open"], open);
    let endless = || reader_failure_and_closer(true, Steps::RefusedWalkAway);
    fails("paged, failed opening, refused walk away", None, 2, &["left to nobody", "left open"], endless);
}

/// A protection change that fails at the closing: what is left open is marked so, and the next one closes it.
fn reader_failure_to_shut_and_closer() {
    let secret = Secret::new(Steps::Right);
    let other = Arc::clone(&secret);
    let unlucky = thread::spawn(move || {
        if other.view(false, never()).is_ok() {
            other.read();
            let _ = other.gate.leave_paged(|| Err(refused()));
            if other.gate.is_closed() {
                other.try_end();
            }
        }
    });
    let threads = [reader(&secret), unlucky];
    secret.close_and_go();
    join(threads);
    secret.rest(true);
}

#[test]
fn a_reader_and_a_failure_to_shut_and_a_closer() {
    holds("paged, reader, failed closing, closer", 2, reader_failure_to_shut_and_closer);
}

/// With nobody who closes the secret: marked open, as it is, and shut by the next operation.
#[test]
fn a_failure_to_shut_is_known_and_mended() {
    holds("paged, reader, failed closing", 3, || {
        let secret = Secret::new(Steps::Right);
        let threads = [reader(&secret)];
        secret.view(false, never()).unwrap();
        secret.read();
        let _ = secret.gate.leave_paged(|| Err(refused()));
        join(threads);
        assert_eq!(secret.gate.is_open(), secret.accessible() != NONE);
        secret.settle();
        secret.rest(false);
    });
}

// ---- a reader, a writer and a closer ----

fn reader_writer_and_closer() {
    let secret = Secret::new(Steps::Right);
    let other = Arc::clone(&secret);
    let writer = thread::spawn(move || {
        if let Err(refusal) = other.write(never()) {
            assert_eq!(refusal, Refusal::Closed);
        }
    });
    let threads = [reader(&secret), writer];
    secret.close_and_go();
    join(threads);
    secret.rest(true);
}

#[test]
fn a_reader_a_writer_and_a_closer() {
    holds("paged, reader, writer, closer", 2, reader_writer_and_closer);
}

// ---- two closers ----

#[test]
fn a_reader_and_two_closers() {
    holds("paged, reader, 2 closers", 2, || {
        let secret = Secret::new(Steps::Right);
        let other = Arc::clone(&secret);
        let threads = [reader(&secret), thread::spawn(move || other.close())];
        secret.close();
        join(threads);
        secret.rest(true);
    });
}

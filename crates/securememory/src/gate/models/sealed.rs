//! Models of how a sealed secret's ciphertext is replaced, read and freed.

use std::ptr::from_ref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use loom::cell::UnsafeCell;
use loom::thread;

use super::{fails, holds, join, never};
use crate::gate::{Current, Gate, Refusal};
use crate::registry::{self, Slot, Thread};
use crate::sync::{self, Flaw};

const ID: u64 = 7;
const OTHER_ID: u64 = 8;

/// What the checker says when a record is freed without order to a reader's use, and what we say when it is used later.
const SIGNS: &[&str] = &["ausality violation", "freed"];

/// In which order the steps are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Steps {
    Right,
    /// The writer looks at the slots and exchanges the pointer then.
    LooksBeforeReplacing,
    /// Readers load the pointer and sign in then.
    FindsBeforeSigningIn,
    /// Who could not end the secret does not look again whether others have left the end to it.
    DoesNotLookAgain,
}

#[derive(Default)]
struct Record {
    bytes: UnsafeCell<()>,
    published: AtomicBool,
    freed: AtomicBool,
}

/// A sealed secret with two versions, and the slots of two readers.
struct Secret {
    gate: Gate,
    steps: Steps,
    current: Current<Record>,
    records: [Record; 2],
    slots: [Slot; 2],
    ends: AtomicUsize,
}

impl Secret {
    fn new(steps: Steps) -> Arc<Self> {
        let secret = Arc::new(Self {
            gate: Gate::new(),
            steps,
            current: Current::new(std::ptr::null_mut()),
            records: Default::default(),
            slots: Default::default(),
            ends: AtomicUsize::new(0),
        });
        secret.publish(&secret.records[0]);
        secret
    }

    fn record(&self, at: *mut Record) -> &Record {
        self.records.iter().find(|record| std::ptr::eq(*record, at)).expect("freed: there is no record")
    }

    /// Gives what was there.
    fn publish(&self, record: &Record) -> *mut Record {
        record.published.store(true, Relaxed);
        self.current.replace(from_ref(record).cast_mut())
    }

    fn free(&self, record: &Record) {
        record.bytes.with_mut(|_| ());
        assert!(!record.freed.swap(true, Relaxed), "freed twice");
    }

    fn use_record(&self, record: &Record) {
        assert!(!record.freed.load(Relaxed), "used after it was freed");
        // Without order to a free that comes later this is an error, however long it takes.
        record.bytes.with(|_| ());
    }

    // As `region::scratch` and `store::sealed` do it.

    fn read(&self, slot: &Slot, id: u64) {
        if self.steps == Steps::FindsBeforeSigningIn {
            let found = self.current.find(&self.gate);
            assert!(slot.sign_in(Thread::from_word(1), id));
            if let Some(at) = found {
                self.use_record(self.record(at));
            }
        } else {
            assert!(slot.sign_in(Thread::from_word(1), id));
            // Of the other secret, which is somewhere else, only the slot matters here.
            if id == ID
                && let Some(at) = self.current.find(&self.gate)
            {
                self.use_record(self.record(at));
            }
        }
        slot.close_window();
        slot.release();
    }

    /// Publishes the second record. `patient`: waits for the readers, else leaves the first to whoever ends the secret.
    fn write(&self, patient: bool) {
        match self.gate.begin_write_sealed(never()) {
            Ok(()) => {}
            Err(refusal) => return assert_eq!(refusal, Refusal::Closed),
        }
        if !self.gate.is_closed() {
            let quiet = || registry::quiet(&self.slots, ID, || patient);
            let early = self.steps == Steps::LooksBeforeReplacing;
            let before = early && quiet();
            let old = self.record(self.publish(&self.records[1]));
            if before || (!early && quiet()) {
                self.free(old);
            }
        }
        self.gate.end_write_sealed();
        if self.gate.is_closed() {
            self.try_end(true);
        }
    }

    fn try_end(&self, patient: bool) {
        while self.gate.begin_final() {
            if !registry::quiet(&self.slots, ID, || patient) {
                self.gate.abort_final();
                sync::total_order();
                if self.steps != Steps::DoesNotLookAgain && registry::quiet(&self.slots, ID, || false) {
                    continue;
                }
                return;
            }
            // All that are left, as on the chain behind the last.
            assert!(!self.current.replace(std::ptr::null_mut()).is_null(), "ended twice");
            let left = |record: &&Record| record.published.load(Relaxed) && !record.freed.load(Relaxed);
            for record in self.records.iter().filter(left) {
                self.free(record);
            }
            self.ends.fetch_add(1, Relaxed);
            self.gate.end_final();
            return;
        }
    }

    /// If there is a writer, the end is left to it.
    fn close(&self) {
        self.gate.close();
        self.try_end(true);
    }

    /// A view whose end does what a close that did not wait has left to it. In a model a fence stands before it, where in
    /// use there is only time: see [`Gate::notify`].
    fn read_and_end(&self, slot: &Slot) {
        self.read(slot, ID);
        sync::total_order();
        if self.gate.notify() {
            self.try_end(false);
        }
    }

    fn rest(&self, closed: bool) {
        assert_eq!(self.ends.load(Relaxed), usize::from(closed), "the number of ends");
        let current = self.current.current();
        for record in self.records.iter().filter(|record| record.published.load(Relaxed)) {
            let valid = !closed && std::ptr::eq(record, current);
            assert_eq!(record.freed.load(Relaxed), !valid, "leaked, or freed though valid");
        }
    }
}

fn reader(secret: &Arc<Secret>, slot: usize) -> thread::JoinHandle<()> {
    let secret = Arc::clone(secret);
    thread::spawn(move || secret.read(&secret.slots[slot], ID))
}

fn writer(secret: &Arc<Secret>, patient: bool) -> thread::JoinHandle<()> {
    let secret = Arc::clone(secret);
    thread::spawn(move || secret.write(patient))
}

// ---- 2 readers and a writer ----

fn readers_and_writer(steps: Steps) {
    let secret = Secret::new(steps);
    let threads = [reader(&secret, 0), reader(&secret, 1)];
    secret.write(true);
    join(threads);
    secret.rest(false);
}

#[test]
fn two_readers_and_a_writer() {
    holds("sealed, 2 readers, writer", 2, || readers_and_writer(Steps::Right));
}

#[test]
fn two_readers_and_a_writer_broken() {
    fails("sealed, no total order", Some(Flaw::NoTotalOrder), 2, SIGNS, || readers_and_writer(Steps::Right));
    for steps in [Steps::LooksBeforeReplacing, Steps::FindsBeforeSigningIn] {
        fails("sealed, steps in the wrong order", None, 2, SIGNS, move || readers_and_writer(steps));
    }
}

// ---- 2 readers, a writer and a closer ----

fn everybody(patient: bool, steps: Steps) {
    let secret = Secret::new(steps);
    let threads = [reader(&secret, 0), reader(&secret, 1), writer(&secret, patient)];
    secret.close();
    join(threads);
    secret.rest(true);
}

#[test]
fn two_readers_a_writer_and_a_closer() {
    holds("sealed, 2 readers, writer, closer", 1, || everybody(true, Steps::Right));
}

#[test]
fn two_readers_a_hasty_writer_and_a_closer() {
    holds("sealed, 2 readers, hasty writer, closer", 2, || everybody(false, Steps::Right));
}

#[test]
fn two_readers_a_writer_and_a_closer_broken() {
    fails("sealed, no total order", Some(Flaw::NoTotalOrder), 2, SIGNS, || everybody(true, Steps::Right));
    for steps in [Steps::LooksBeforeReplacing, Steps::FindsBeforeSigningIn] {
        fails("sealed, steps in the wrong order", None, 2, SIGNS, move || everybody(true, steps));
    }
}

// ---- a reader and a closer ----

fn reader_and_closer() {
    let secret = Secret::new(Steps::Right);
    let threads = [reader(&secret, 0)];
    secret.close();
    join(threads);
    secret.rest(true);
}

#[test]
fn a_reader_and_a_closer() {
    holds("sealed, reader, closer", 4, reader_and_closer);
}

#[test]
fn a_reader_and_a_closer_broken() {
    fails("sealed, no total order", Some(Flaw::NoTotalOrder), 3, SIGNS, reader_and_closer);
    fails("sealed, nothing in order", Some(Flaw::PlainSlots), 3, SIGNS, reader_and_closer);
}

// ---- 2 readers and a closer that does not wait ----

fn readers_and_hasty_closer(steps: Steps) {
    let secret = Secret::new(steps);
    let threads = [0, 1].map(|slot| {
        let secret = Arc::clone(&secret);
        thread::spawn(move || secret.read_and_end(&secret.slots[slot]))
    });
    secret.gate.close();
    secret.try_end(false);
    join(threads);
    secret.rest(true);
}

#[test]
fn two_readers_and_a_closer_that_does_not_wait() {
    holds("sealed, 2 readers, hasty closer", 2, || readers_and_hasty_closer(Steps::Right));
}

#[test]
fn two_readers_and_a_closer_that_does_not_wait_broken() {
    let steps = || readers_and_hasty_closer(Steps::DoesNotLookAgain);
    fails("sealed, no second look", None, 3, &["number of ends"], steps);
}

// ---- a slot that changes hands ----

/// The slot's next owner reads another secret: whoever sees its id must be behind the use by the owner before.
fn slot_changes_hands() {
    let secret = Secret::new(Steps::Right);
    let other = Arc::clone(&secret);
    let thread = thread::spawn(move || {
        other.read(&other.slots[0], ID);
        other.read(&other.slots[0], OTHER_ID);
    });
    secret.write(true);
    join([thread]);
    secret.rest(false);
}

#[test]
fn a_slot_that_changes_hands() {
    holds("sealed, a slot that changes hands", 4, slot_changes_hands);
}

#[test]
fn a_slot_that_changes_hands_broken() {
    fails("sealed, a plain id", Some(Flaw::PlainId), 4, SIGNS, slot_changes_hands);
}

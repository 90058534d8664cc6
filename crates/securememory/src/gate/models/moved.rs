//! Models of how a record is moved to another key while others read it, replace it and end the secret.

mod ends;

use std::ptr::from_ref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use loom::cell::UnsafeCell;
use loom::sync::Mutex;
use loom::thread;

use super::{fails, holds, join, never};
use crate::gate::{Current, Gate, Refusal};
use crate::registry::{self, ANY, Slot, Thread, WINDOW};
use crate::sync::{self, Flaw};

const ID: u64 = 7;
const OTHER_ID: u64 = 8;

/// The slots.
const READER: usize = 0;
const MOVER: usize = 1;
const WRITER: usize = 2;

/// What the checker says when a record is freed without order to its use, and what we say when it is used later.
const SIGNS: &[&str] = &["ausality violation", "freed"];
const LOST: &[&str] = &["lost"];

/// In which order the steps are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Steps {
    Right,
    /// The mover closes its window and exchanges the pointer then.
    ClosesBeforeExchanging,
    /// The mover puts its copy there whatever is there.
    StoresInstead,
    /// The mover does not wait for readers.
    FreesAtOnce,
    /// The mover's slot has the id of some secret.
    SignsInForAnother,
    /// The writer takes for the old record what it has found before, and not what it has exchanged.
    TakesWhatItHasFound,
    /// The writer looks at the record that it replaces with its window closed.
    LooksWithoutWindow,
    /// Who sweeps limbo frees what is there when the readers have been seen to be done, and not what was there before.
    SweepsWhatCameLater,
    /// The mover does not look whether a close that met it has left the end to it.
    LeavesTheEnd,
}

/// Memory for a record. Used again, as the allocator's is.
#[derive(Default)]
struct Record {
    bytes: UnsafeCell<()>,
    /// Which version of the secret it has. All records of one version have the same value.
    version: AtomicUsize,
    taken: AtomicBool,
}

/// What waits for readers, each with its number; and how many there ever were. The lock is the ledger's.
#[derive(Default)]
struct Limbo {
    records: Vec<(usize, *mut Record)>,
    retired: usize,
}

/// A sealed secret, and the memory for its records.
struct Secret {
    gate: Gate,
    steps: Steps,
    current: Current<Record>,
    records: [Record; 4],
    ledger: Mutex<Limbo>,
    slots: Vec<Slot>,
    ends: AtomicUsize,
}

impl Secret {
    fn new(steps: Steps, slots: usize) -> Arc<Self> {
        let secret = Arc::new(Self {
            gate: Gate::new(),
            steps,
            current: Current::new(std::ptr::null_mut()),
            records: Default::default(),
            ledger: Mutex::default(),
            slots: (0..slots).map(|_| Slot::default()).collect(),
            ends: AtomicUsize::new(0),
        });
        let first = secret.take();
        secret.fill(first, 0);
        secret.current.replace(from_ref(first).cast_mut());
        secret
    }

    fn record(&self, at: *mut Record) -> &Record {
        self.records.iter().find(|record| std::ptr::eq(*record, at)).expect("freed: there is no record")
    }

    fn take(&self) -> &Record {
        let _account = self.ledger.lock().unwrap();
        self.records.iter().find(|record| !record.taken.swap(true, Relaxed)).expect("memory")
    }

    fn fill(&self, record: &Record, version: usize) {
        record.bytes.with_mut(|_| ());
        record.version.store(version, Relaxed);
    }

    fn free(&self, record: &Record) {
        record.bytes.with_mut(|_| ());
        let _account = self.ledger.lock().unwrap();
        assert!(record.taken.swap(false, Relaxed), "freed twice");
    }

    fn retire(&self, record: &Record) {
        let mut limbo = self.ledger.lock().unwrap();
        limbo.retired += 1;
        let number = limbo.retired;
        limbo.records.push((number, from_ref(record).cast_mut()));
    }

    fn retired(&self) -> usize {
        self.ledger.lock().unwrap().retired
    }

    fn sweep(&self, last: usize) {
        let mut limbo = self.ledger.lock().unwrap();
        limbo.records.retain(|&(number, at)| {
            if number <= last {
                let record = self.record(at);
                record.bytes.with_mut(|_| ());
                assert!(record.taken.swap(false, Relaxed), "freed twice");
            }
            number > last
        });
    }

    /// Gives its version.
    fn use_record(&self, record: &Record) -> usize {
        assert!(record.taken.load(Relaxed), "used after it was freed");
        // Without order to a free that comes later this is an error, however long it takes.
        record.bytes.with(|_| ());
        record.version.load(Relaxed)
    }

    fn sign_in(&self, slot: usize, id: u64) -> &Slot {
        let slot = &self.slots[slot];
        assert!(slot.sign_in(Thread::from_word(1), id));
        slot
    }

    // As `store::sealed` and `store::turnover` do it.

    fn read(&self) {
        let slot = self.sign_in(READER, ID);
        if let Some(at) = self.current.find(&self.gate) {
            self.use_record(self.record(at));
        }
        slot.close_window();
        slot.release();
    }

    fn write(&self) {
        match self.gate.begin_write_sealed(never()) {
            Ok(()) => self.commit(),
            Err(refusal) => return assert_eq!(refusal, Refusal::Closed),
        }
        self.gate.end_write_sealed();
        if self.gate.is_closed() {
            self.try_end(true);
        }
    }

    fn commit(&self) {
        let new = self.take();
        let slot = self.sign_in(WRITER, ID);
        if self.steps == Steps::LooksWithoutWindow {
            slot.close_window();
        }
        let Some(found) = self.current.find(&self.gate) else {
            slot.close_window();
            slot.release();
            return self.free(new);
        };
        self.fill(new, self.use_record(self.record(found)) + 1);
        slot.close_window();
        let replaced = self.current.replace(from_ref(new).cast_mut());
        let old = if self.steps == Steps::TakesWhatItHasFound { found } else { replaced };
        registry::quiet(&self.slots, ID, || true);
        self.free(self.record(old));
        slot.release();
    }

    fn move_record(&self, patient: bool) {
        let id = if self.steps == Steps::SignsInForAnother { OTHER_ID } else { 0 };
        let slot = self.sign_in(MOVER, id);
        slot.close_window();
        // With all slots that are needed, as `Lease::open_windows` does it.
        slot.state.store(WINDOW, SeqCst);
        if let Some(from) = self.current.find(&self.gate) {
            let to = self.take();
            self.fill(to, self.use_record(self.record(from)));
            if self.steps == Steps::ClosesBeforeExchanging {
                slot.close_window();
            }
            let at = from_ref(to).cast_mut();
            let replaced = match self.steps {
                Steps::StoresInstead => Some(self.current.replace(at)),
                _ => self.current.exchange(from, at).then_some(from),
            };
            slot.close_window();
            match replaced.map(|old| self.record(old)) {
                None => self.free(to),
                Some(old) if self.steps == Steps::FreesAtOnce => self.free(old),
                Some(old) if registry::quiet(&self.slots, ANY, || patient) => self.free(old),
                Some(old) => self.retire(old),
            }
        }
        slot.close_window();
        slot.release();
    }

    /// By a reader or a mover that has gone. Readers in use have no fence here, only time: see [`Gate::notify`].
    fn end_left(&self) {
        sync::total_order();
        if self.gate.notify() {
            self.try_end(false);
        }
    }

    fn sweep_limbo(&self) {
        let mut retired = self.retired();
        if registry::quiet(&self.slots, ANY, || true) {
            if self.steps == Steps::SweepsWhatCameLater {
                retired = self.retired();
            }
            self.sweep(retired);
        }
    }

    fn try_end(&self, patient: bool) {
        while self.gate.begin_final() {
            let retired = self.retired();
            if !registry::quiet(&self.slots, ID, || patient) {
                self.gate.abort_final();
                sync::total_order();
                if registry::quiet(&self.slots, ID, || false) {
                    continue;
                }
                return;
            }
            self.sweep(retired);
            let last = self.current.replace(std::ptr::null_mut());
            assert!(!last.is_null(), "ended twice");
            self.free(self.record(last));
            self.ends.fetch_add(1, Relaxed);
            self.gate.end_final();
        }
    }

    fn close(&self, patient: bool) {
        self.gate.close();
        self.try_end(patient);
    }

    /// When all have gone: after so many commits, or the end.
    fn rest(&self, commits: Option<usize>) {
        assert_eq!(self.ends.load(Relaxed), usize::from(commits.is_none()), "the number of ends");
        // As at the end of the vault.
        self.sweep(self.retired());
        let current = self.current.current();
        for record in &self.records {
            let valid = std::ptr::eq(record, current);
            assert_eq!(record.taken.load(Relaxed), valid, "leaked, or freed though valid");
        }
        if let Some(commits) = commits {
            assert_eq!(self.record(current).version.load(Relaxed), commits, "an update was lost");
        }
    }
}

fn spawn(secret: &Arc<Secret>, steps: impl Fn(&Secret) + 'static) -> thread::JoinHandle<()> {
    let secret = Arc::clone(secret);
    thread::spawn(move || steps(&secret))
}

// ---- a reader, a writer and a mover ----

fn reader_writer_and_mover(steps: Steps) {
    let secret = Secret::new(steps, 3);
    let threads = [spawn(&secret, Secret::read), spawn(&secret, Secret::write)];
    secret.move_record(true);
    join(threads);
    secret.rest(Some(1));
}

#[test]
fn a_reader_a_writer_and_a_mover() {
    holds("moved, reader, writer, mover", 2, || reader_writer_and_mover(Steps::Right));
}

#[test]
fn a_reader_a_writer_and_a_mover_broken() {
    let fails = |name, steps, signs| fails(name, None, 2, signs, move || reader_writer_and_mover(steps));
    fails("moved, a store instead of an exchange", Steps::StoresInstead, LOST);
    fails("moved, freed at once", Steps::FreesAtOnce, SIGNS);
    fails("moved, a mover with an id", Steps::SignsInForAnother, SIGNS);
    fails("moved, a writer that frees what it has found", Steps::TakesWhatItHasFound, SIGNS);
    fails("moved, a writer without a window", Steps::LooksWithoutWindow, SIGNS);
}

#[test]
fn a_reader_a_writer_and_a_mover_without_order() {
    let model = || reader_writer_and_mover(Steps::Right);
    fails("moved, no total order", Some(Flaw::NoTotalOrder), 2, SIGNS, model);
    fails("moved, nothing in order", Some(Flaw::PlainSlots), 2, SIGNS, model);
}

// ---- a writer that comes twice, and a mover ----

/// The second commit may get the memory of the record that the mover has found.
fn two_commits_and_mover(steps: Steps) {
    let secret = Secret::new(steps, 3);
    let threads = [spawn(&secret, |secret| (0..2).for_each(|_| secret.write()))];
    secret.move_record(true);
    join(threads);
    secret.rest(Some(2));
}

#[test]
fn two_commits_and_a_mover() {
    holds("moved, 2 commits, mover", 3, || two_commits_and_mover(Steps::Right));
}

#[test]
fn two_commits_and_a_mover_broken() {
    let fails = |name, steps| fails(name, None, 3, LOST, move || two_commits_and_mover(steps));
    fails("moved, the window closed before the exchange", Steps::ClosesBeforeExchanging);
}

// ---- a reader, a mover that does not wait, and one who sweeps limbo ----

fn reader_hasty_mover_and_sweeper(steps: Steps) {
    let secret = Secret::new(steps, 2);
    let threads = [spawn(&secret, Secret::read), spawn(&secret, |secret| secret.move_record(false))];
    secret.sweep_limbo();
    join(threads);
    secret.rest(Some(0));
}

#[test]
fn a_reader_a_hasty_mover_and_a_sweeper() {
    holds("moved, reader, hasty mover, sweeper", 2, || reader_hasty_mover_and_sweeper(Steps::Right));
}

#[test]
fn a_reader_a_hasty_mover_and_a_sweeper_broken() {
    let steps = || reader_hasty_mover_and_sweeper(Steps::SweepsWhatCameLater);
    fails("moved, limbo swept too far", None, 2, SIGNS, steps);
}

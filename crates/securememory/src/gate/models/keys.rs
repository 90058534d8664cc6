//! Models of how keys are taken away and replaced.

use std::ptr::from_ref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use loom::cell::UnsafeCell;
use loom::sync::Mutex;
use loom::thread;

use super::{fails, holds, join};
use crate::enclave::epoch::Number;
use crate::gate::{Current, Gate};
use crate::registry::{self, ANY, Slot, Thread};
use crate::sync::Flaw;

const ID: u64 = 7;

/// The epochs of the models; the third is in the cell of the first.
const OLD: u64 = 1;
const NEW: u64 = 2;
const SAME_CELL: u64 = 5;

/// What the checker says when a key is used without order to its end or its making, and what we say.
const SIGNS: &[&str] = &["ausality violation", "the key"];

/// In which order the steps are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Steps {
    Right,
    /// Who needs a key looks for it and signs in then.
    AsksBeforeSigningIn,
    /// Who needs a key takes whichever is in the cell.
    TakesAnyKey,
    /// The purger destroys the key and waits then.
    DestroysBeforeQuiet,
    /// The purger waits and withdraws the key then.
    WithdrawsAfterQuiet,
    /// A key can be found before it is complete.
    PublishesEarly,
    /// A seal's epoch is chosen, and its record counted, under the lock, but not in one go.
    CountsLater,
    /// A record is counted when it has been sealed.
    CountsAfterSealing,
    /// Records are counted out before seals are made under the new key.
    RetiresBeforeOpening,
    /// A record is counted no more when it was replaced, and freed when no reader is left.
    CountsOutBeforeQuiet,
}

/// The cell of a key.
struct Key {
    number: Number,
    hold: UnsafeCell<()>,
    /// Whose key is in it.
    epoch: AtomicU64,
}

impl Key {
    fn new(epoch: u64) -> Self {
        Self { number: Number::new(epoch), hold: UnsafeCell::new(()), epoch: AtomicU64::new(epoch) }
    }

    fn put(&self, epoch: u64) {
        self.hold.with_mut(|_| ());
        self.epoch.store(epoch, Relaxed);
    }

    fn destroy(&self) {
        self.put(0);
    }

    /// For who has found it.
    fn lend(&self, epoch: u64) {
        assert_eq!(self.epoch.load(Relaxed), epoch, "the key is not the one that was wanted");
        // Without order to its end this is an error, however much later that comes.
        self.hold.with(|_| ());
    }
}

// ---- readers, and a purger that makes a new key ----

struct Purged {
    steps: Steps,
    key: Key,
    slots: [Slot; 2],
}

impl Purged {
    // As `Enclave::open` and `Enclave::seal` do it.
    fn work(&self, slot: &Slot, epoch: u64) {
        let is = || match self.steps {
            Steps::TakesAnyKey => !self.key.number.is(0),
            _ => self.key.number.is(epoch),
        };
        let early = self.steps == Steps::AsksBeforeSigningIn;
        let before = early && is();
        assert!(slot.sign_in(Thread::from_word(1), ID));
        if before || (!early && is()) {
            self.key.lend(epoch);
        }
        slot.close_window();
        slot.release();
    }

    // As `Machinery::purge` does it.
    fn purge(&self) {
        let quiet = || assert!(registry::quiet(&self.slots, ANY, || true));
        if self.steps == Steps::WithdrawsAfterQuiet {
            quiet();
        }
        self.key.number.withdraw();
        match self.steps {
            Steps::WithdrawsAfterQuiet => self.key.destroy(),
            Steps::DestroysBeforeQuiet => {
                self.key.destroy();
                quiet();
            }
            _ => {
                quiet();
                self.key.destroy();
            }
        }
        if self.steps == Steps::PublishesEarly {
            self.key.number.publish(SAME_CELL);
            self.key.put(SAME_CELL);
        } else {
            self.key.put(SAME_CELL);
            self.key.number.publish(SAME_CELL);
        }
    }
}

/// Two that work with the old key, the second of them with the new one afterwards.
fn workers_and_purger(steps: Steps) {
    let vault = Arc::new(Purged { steps, key: Key::new(OLD), slots: Default::default() });
    let threads = [&[OLD][..], &[OLD, SAME_CELL]].into_iter().enumerate().map(|(slot, epochs)| {
        let vault = Arc::clone(&vault);
        thread::spawn(move || epochs.iter().for_each(|&epoch| vault.work(&vault.slots[slot], epoch)))
    });
    let threads: Vec<_> = threads.collect();
    vault.purge();
    join(threads);
    assert!(vault.key.number.is(SAME_CELL));
}

#[test]
fn two_workers_and_a_purger() {
    holds("keys, 2 workers, purger", 3, || workers_and_purger(Steps::Right));
}

#[test]
fn two_workers_and_a_purger_broken() {
    let steps = [
        Steps::AsksBeforeSigningIn,
        Steps::TakesAnyKey,
        Steps::DestroysBeforeQuiet,
        Steps::WithdrawsAfterQuiet,
        Steps::PublishesEarly,
    ];
    for steps in steps {
        fails("keys, steps in the wrong order", None, 2, SIGNS, move || workers_and_purger(steps));
    }
    for flaw in [Flaw::NoTotalOrder, Flaw::PlainId, Flaw::PlainSlots] {
        fails("keys, nothing in order", Some(flaw), 2, SIGNS, || workers_and_purger(Steps::Right));
    }
}

// ---- records counted by epoch: a key that has none is destroyed, and nobody is waited for ----

/// What the ledger's lock guards.
struct Account {
    /// That seals now.
    epoch: u64,
    /// Records of the old epoch.
    records: usize,
}

struct Record {
    epoch: u64,
    bytes: UnsafeCell<()>,
}

struct Counted {
    steps: Steps,
    keys: [Key; 2],
    ledger: Mutex<Account>,
    slots: [Slot; 2],
    /// A secret whose record is read, and moved.
    gate: Gate,
    current: Current<Record>,
    records: [Record; 2],
}

impl Counted {
    fn new(steps: Steps, records: usize) -> Arc<Self> {
        let record = |epoch| Record { epoch, bytes: UnsafeCell::new(()) };
        let vault = Arc::new(Self {
            steps,
            keys: [Key::new(OLD), Key::new(0)],
            ledger: Mutex::new(Account { epoch: OLD, records }),
            slots: Default::default(),
            gate: Gate::new(),
            current: Current::new(std::ptr::null_mut()),
            records: [record(OLD), record(NEW)],
        });
        vault.current.replace(from_ref(&vault.records[0]).cast_mut());
        vault
    }

    /// For who is in its window.
    fn work(&self, epoch: u64) {
        let key = &self.keys[usize::from(epoch == NEW)];
        assert!(key.number.is(epoch), "the key is gone");
        key.lend(epoch);
    }

    // As `store::ledger` does it.

    fn epoch(&self) -> u64 {
        self.ledger.lock().unwrap().epoch
    }

    fn count(&self, epoch: u64) {
        self.ledger.lock().unwrap().records += usize::from(epoch == OLD);
    }

    fn choose_and_count(&self) -> u64 {
        let mut account = self.ledger.lock().unwrap();
        account.records += usize::from(account.epoch == OLD);
        account.epoch
    }

    fn count_out(&self, epoch: u64) {
        self.ledger.lock().unwrap().records -= usize::from(epoch == OLD);
    }

    /// A secret that is made, and dropped.
    fn create(&self, slot: &Slot) {
        let epoch = match self.steps {
            Steps::CountsLater => {
                let epoch = self.epoch();
                self.count(epoch);
                epoch
            }
            Steps::CountsAfterSealing => self.epoch(),
            _ => self.choose_and_count(),
        };
        assert!(slot.sign_in(Thread::from_word(1), ID));
        self.work(epoch);
        slot.close_window();
        slot.release();
        if self.steps == Steps::CountsAfterSealing {
            self.count(epoch);
        }
        self.count_out(epoch);
    }

    fn read(&self, slot: &Slot) {
        assert!(slot.sign_in(Thread::from_word(1), ID));
        let at = self.current.find(&self.gate).unwrap();
        let record = self.records.iter().find(|record| std::ptr::eq(*record, at)).unwrap();
        record.bytes.with(|_| ());
        self.work(record.epoch);
        slot.close_window();
        slot.release();
    }

    /// Moves the record to the new key.
    fn move_record(&self, slot: &Slot) {
        let [old, new] = &self.records;
        assert!(slot.sign_in(Thread::from_word(1), 0));
        self.work(OLD);
        self.work(NEW);
        new.bytes.with_mut(|_| ());
        assert!(self.current.exchange(from_ref(old).cast_mut(), from_ref(new).cast_mut()));
        slot.close_window();
        slot.release();
        if self.steps == Steps::CountsOutBeforeQuiet {
            self.count_out(OLD);
            self.retire();
        }
        assert!(registry::quiet(&self.slots, ANY, || true));
        old.bytes.with_mut(|_| ());
        if self.steps != Steps::CountsOutBeforeQuiet {
            self.count_out(OLD);
        }
    }

    // As `Machinery::install_key` and `Machinery::retire_keys` do it, but for the wait.

    fn refresh(&self) {
        if self.steps == Steps::RetiresBeforeOpening {
            self.retire();
        }
        self.keys[1].put(NEW);
        self.keys[1].number.publish(NEW);
        self.ledger.lock().unwrap().epoch = NEW;
    }

    fn retire(&self) {
        if self.keys[0].number.is(OLD) && self.ledger.lock().unwrap().records == 0 {
            self.keys[0].number.withdraw();
            self.keys[0].destroy();
        }
    }
}

fn creators_and_refresher(steps: Steps) {
    let vault = Counted::new(steps, 0);
    let threads = [0, 1].map(|slot| {
        let vault = Arc::clone(&vault);
        thread::spawn(move || vault.create(&vault.slots[slot]))
    });
    vault.refresh();
    vault.retire();
    join(threads);
    vault.retire();
    assert!(!vault.keys[0].number.is(OLD), "the key was left over");
}

#[test]
fn two_creators_and_a_refresher() {
    holds("keys, 2 creators, refresher", 4, || creators_and_refresher(Steps::Right));
}

#[test]
fn two_creators_and_a_refresher_broken() {
    for steps in [Steps::CountsLater, Steps::CountsAfterSealing, Steps::RetiresBeforeOpening] {
        fails("keys, counted wrongly", None, 3, SIGNS, move || creators_and_refresher(steps));
    }
}

fn reader_mover_and_refresher(steps: Steps) {
    let vault = Counted::new(steps, 1);
    let other = Arc::clone(&vault);
    let reader = thread::spawn(move || other.read(&other.slots[0]));
    vault.refresh();
    let other = Arc::clone(&vault);
    let mover = thread::spawn(move || other.move_record(&other.slots[1]));
    vault.retire();
    join([reader, mover]);
    vault.retire();
    assert!(!vault.keys[0].number.is(OLD), "the key was left over");
}

#[test]
fn a_reader_a_mover_and_a_refresher() {
    holds("keys, reader, mover, refresher", 4, || reader_mover_and_refresher(Steps::Right));
}

#[test]
fn a_reader_a_mover_and_a_refresher_broken() {
    let steps = || reader_mover_and_refresher(Steps::CountsOutBeforeQuiet);
    fails("keys, counted out too early", None, 3, SIGNS, steps);
    let flaw = Some(Flaw::NoTotalOrder);
    fails("keys, no total order", flaw, 3, SIGNS, || reader_mover_and_refresher(Steps::Right));
}

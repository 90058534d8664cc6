//! Models of how references to a secret are counted, while a thread that walks through the roll makes more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use loom::cell::UnsafeCell;
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicU32, fence};
use loom::thread;

use super::{fails, holds, join};

/// What the checker says when a header is given back without order to its use, and what we say.
const SIGNS: &[&str] = &["ausality violation", "given back"];

/// How references are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Steps {
    Right,
    /// Who finds that its reference is the only one does not take it off the count.
    LooksWhetherItIsTheLast,
    /// The walker looks whether there is a secret, and adds itself then.
    LooksBeforeAdding,
    /// The walker adds itself, whatever the count is.
    AddsToZero,
    /// A reference given up orders nothing.
    PlainDrop,
    /// Nor does one that is made by the walker.
    PlainUpgrade,
}

/// A piece of the roll.
struct Piece {
    steps: Steps,
    references: AtomicU32,
    /// The rest of the header.
    header: UnsafeCell<()>,
    in_use: AtomicBool,
    given_back: AtomicUsize,
    ledger: Mutex<()>,
}

impl Piece {
    fn new(steps: Steps, references: u32) -> Arc<Self> {
        Arc::new(Self {
            steps,
            references: AtomicU32::new(references),
            header: UnsafeCell::new(()),
            in_use: AtomicBool::new(references > 0),
            given_back: AtomicUsize::new(0),
            ledger: Mutex::new(()),
        })
    }

    /// For who has a reference.
    fn use_header(&self) {
        assert!(self.in_use.load(Ordering::Relaxed), "used after it was given back");
        // Without order to a use of the piece that comes later this is an error, however long it takes.
        self.header.with(|_| ());
    }

    // As `store::object` does it.

    /// Makes a secret in the piece, if it is free. What the caller gets is a reference.
    fn create(&self) -> bool {
        {
            let _account = self.ledger.lock().unwrap();
            if self.in_use.swap(true, Ordering::Relaxed) {
                return false;
            }
        }
        self.header.with_mut(|_| ());
        self.references.store(1, Ordering::Release);
        true
    }

    /// By who walks through the roll.
    fn upgrade(&self) -> bool {
        let _account = self.ledger.lock().unwrap();
        let (plain, acquire) = (Ordering::Relaxed, Ordering::Acquire);
        match self.steps {
            Steps::LooksBeforeAdding => {
                let there = self.references.load(acquire) > 0;
                if there {
                    self.references.fetch_add(1, acquire);
                }
                there
            }
            Steps::AddsToZero => {
                self.references.fetch_add(1, acquire);
                true
            }
            steps => {
                let order = if steps == Steps::PlainUpgrade { plain } else { acquire };
                let one_more = |count| (count > 0).then_some(count + 1);
                self.references.fetch_update(order, plain, one_more).is_ok()
            }
        }
    }

    fn drop_reference(&self) {
        let seen = self.steps == Steps::LooksWhetherItIsTheLast;
        if !(seen && self.references.load(Ordering::Acquire) == 1) {
            let order = if self.steps == Steps::PlainDrop { Ordering::Relaxed } else { Ordering::Release };
            if self.references.fetch_sub(1, order) != 1 {
                return;
            }
            fence(Ordering::Acquire);
        }
        // The last record and the rest of the header are taken out.
        self.header.with_mut(|_| ());
        let _account = self.ledger.lock().unwrap();
        // Overwritten.
        self.header.with_mut(|_| ());
        self.references.store(0, Ordering::Relaxed);
        assert!(self.in_use.swap(false, Ordering::Relaxed), "given back twice");
        self.given_back.fetch_add(1, Ordering::Relaxed);
    }

    fn use_and_drop(&self) {
        self.use_header();
        self.drop_reference();
    }

    fn walk(&self) {
        if self.upgrade() {
            self.use_and_drop();
        }
    }

    fn rest(&self, secrets: usize) {
        assert_eq!(self.given_back.load(Ordering::Relaxed), secrets, "not given back, or too often");
        assert!(!self.in_use.load(Ordering::Relaxed), "not given back");
    }
}

fn spawn(piece: &Arc<Piece>, steps: impl Fn(&Piece) + 'static) -> thread::JoinHandle<()> {
    let piece = Arc::clone(piece);
    thread::spawn(move || steps(&piece))
}

// ---- two owners and a walker ----

fn owners_and_walker(steps: Steps) {
    let piece = Piece::new(steps, 2);
    let threads = [spawn(&piece, Piece::use_and_drop), spawn(&piece, Piece::walk)];
    piece.use_and_drop();
    join(threads);
    piece.rest(1);
}

#[test]
fn two_owners_and_a_walker() {
    holds("references, 2 owners, walker", 4, || owners_and_walker(Steps::Right));
}

#[test]
fn two_owners_and_a_walker_broken() {
    let wrong =
        [Steps::LooksWhetherItIsTheLast, Steps::LooksBeforeAdding, Steps::AddsToZero, Steps::PlainDrop];
    for steps in wrong {
        fails("references, counted wrongly", None, 4, SIGNS, move || owners_and_walker(steps));
    }
}

// ---- an owner, a walker, and a creation that gets the same piece ----

fn owner_walker_and_creator(steps: Steps) {
    let piece = Piece::new(steps, 1);
    let made = Arc::new(AtomicUsize::new(1));
    let count = Arc::clone(&made);
    let create = move |piece: &Piece| {
        if piece.create() {
            count.fetch_add(1, Ordering::Relaxed);
            piece.use_and_drop();
        }
    };
    let threads = [spawn(&piece, create), spawn(&piece, Piece::walk)];
    piece.use_and_drop();
    join(threads);
    piece.rest(made.load(Ordering::Relaxed));
}

#[test]
fn an_owner_a_walker_and_a_creator() {
    holds("references, owner, walker, creator", 4, || owner_walker_and_creator(Steps::Right));
}

#[test]
fn an_owner_a_walker_and_a_creator_broken() {
    for steps in [Steps::LooksWhetherItIsTheLast, Steps::PlainUpgrade] {
        fails("references, counted wrongly", None, 4, SIGNS, move || owner_walker_and_creator(steps));
    }
}

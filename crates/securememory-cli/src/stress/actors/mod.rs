//! What a thread does: one operation after the other, chosen at random, each judged at once.

mod keys;
mod lives;
mod readers;
mod writers;

use std::sync::atomic::Ordering;
use std::time::Duration;

use securememory::{Error, View, WithError};

use super::order::Sabotage;
use super::random::Random;
use super::sabotage;
use super::scene::{Entry, Facts, Scene};
use super::tally::{Kind, Reason, Tally};
use super::value;

/// Of so many operations, how many are of each kind.
const WEIGHTS: [(Kind, usize); 17] = [
    (Kind::Read, 4000),
    (Kind::Keep, 1000),
    (Kind::Nest, 800),
    (Kind::Lend, 600),
    (Kind::Receive, 600),
    (Kind::Write, 1000),
    (Kind::Discard, 300),
    (Kind::Replace, 500),
    (Kind::Inside, 300),
    (Kind::Create, 400),
    (Kind::Drop, 200),
    (Kind::Close, 250),
    (Kind::Status, 5),
    (Kind::Vault, 5),
    (Kind::Refresh, 40),
    (Kind::Purge, 5),
    (Kind::Fork, if cfg!(windows) { 0 } else { 40 }),
];

/// The operation at which a saboteur strikes.
const STRIKE: u64 = 50;

/// Why an operation ended before its time.
pub enum Stop {
    /// Others' work explains it.
    Refused(Reason),
    /// It was written down as a finding.
    Told,
    /// There was nothing to do.
    Idle,
}

/// What came of an operation.
pub type Outcome = Result<(), Stop>;

/// A thread at work.
pub struct Actor<'a> {
    /// What all share.
    pub scene: &'a Scene,
    /// What all write to.
    pub tally: &'a Tally,
    thread: usize,
    kind: Kind,
    /// Its choices.
    pub random: Random,
    buffer: Vec<u8>,
    sabotage: Option<Sabotage>,
}

impl<'a> Actor<'a> {
    /// An actor of its own number.
    pub fn new(
        scene: &'a Scene,
        tally: &'a Tally,
        thread: usize,
        seed: u64,
        sabotage: Option<Sabotage>,
    ) -> Self {
        let random = Random::new(seed.rotate_left(32) ^ (thread as u64 + 1));
        Self { scene, tally, thread, kind: Kind::Read, random, buffer: Vec::new(), sabotage }
    }

    /// Works until it is told to stop.
    pub fn run(&mut self) {
        let mut operations = 0;
        while !self.scene.stop.load(Ordering::Relaxed) {
            self.kind = self.choose();
            self.tally.begin(self.thread, self.kind);
            operations += 1;
            let outcome = match self.sabotage.filter(|_| operations == STRIKE) {
                Some(sabotage) => sabotage::strike(self, sabotage),
                None => self.operate(),
            };
            match outcome {
                Ok(()) => self.tally.done(self.thread, self.kind),
                Err(Stop::Refused(reason)) => self.tally.refused(self.thread, self.kind, reason),
                Err(Stop::Told | Stop::Idle) => {}
            }
            self.tally.end(self.thread);
        }
    }

    fn choose(&mut self) -> Kind {
        let sum = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut left = self.random.below(sum);
        for (kind, weight) in WEIGHTS {
            match left.checked_sub(weight) {
                Some(rest) => left = rest,
                None => return kind,
            }
        }
        Kind::Read
    }

    fn operate(&mut self) -> Outcome {
        let entry = self.scene.pick(&mut self.random);
        match self.kind {
            Kind::Read => self.read(&entry),
            Kind::Keep => self.keep(&entry),
            Kind::Nest => self.nest(&entry),
            Kind::Lend => self.lend(&entry),
            Kind::Receive => self.receive(),
            Kind::Write => self.write(&entry),
            Kind::Discard => self.discard(&entry),
            Kind::Replace => self.replace(&entry),
            Kind::Inside => self.inside(&entry),
            Kind::Create => self.create(),
            Kind::Drop => self.drop_under_view(entry),
            Kind::Close => self.close(&entry),
            Kind::Status => self.status(&entry),
            Kind::Vault => self.vault(),
            Kind::Refresh => self.refresh(),
            Kind::Purge => self.purge(),
            Kind::Fork => self.fork(&entry),
        }
    }

    // ---- judgement ----

    /// An error: explained by what others do, or a finding.
    pub fn stop(&self, facts: &Facts, error: Error, call: &str) -> Stop {
        match facts.explains(&error) {
            Some(reason) => Stop::Refused(reason),
            None => {
                self.tally.error(&error, &format!("{call} of secret {}", facts.number));
                Stop::Told
            }
        }
    }

    /// Something else that must not be.
    pub(super) fn unexpected(&self, what: String) -> Stop {
        self.tally.unexpected(what);
        Stop::Told
    }

    /// Wrong bytes are a finding, and the operation goes on.
    pub fn check(&self, facts: &Facts, bytes: &[u8], floor: u64, call: &str) {
        if let Err(wrong) = facts.check(bytes, floor) {
            self.tally.wrong(&wrong, &format!("{call} of secret {}", facts.number));
        }
    }

    /// Opens a view and checks it. It must not open if a close has returned before.
    pub(super) fn view<'e>(&self, entry: &'e Entry) -> Result<View<'e>, Stop> {
        let facts = &*entry.facts;
        let (floor, closed) = (facts.floor(), facts.closed.load(Ordering::SeqCst));
        match entry.secret.view() {
            Ok(_) if closed => {
                Err(self.unexpected(format!("secret {} was opened after its close", facts.number)))
            }
            Ok(view) => {
                self.check(facts, &view, floor, "view");
                Ok(view)
            }
            Err(error) => Err(self.stop(facts, error, "view")),
        }
    }

    /// Ends a view, and sees whether it was revoked if it should have been.
    pub(super) fn finish(&self, facts: &Facts, view: View<'_>) -> Outcome {
        let revoked = facts.revoked.load(Ordering::SeqCst);
        match view.finish() {
            Ok(()) if revoked => {
                Err(self.unexpected(format!("a view of secret {} was not revoked", facts.number)))
            }
            Ok(()) => Ok(()),
            Err(error) => Err(self.stop(facts, error, "finish")),
        }
    }

    /// What `with` has come to; its closure has checked the bytes.
    pub(super) fn lent(&self, facts: &Facts, outcome: Result<(), WithError<()>>, call: &str) -> Outcome {
        outcome.map_err(|failed| self.stop(facts, failed.error(), call))
    }

    /// Lets others come in between.
    pub(super) fn dawdle(&mut self) {
        // Now and then longer than the less patient ones wait.
        if self.random.one_in(256) {
            return std::thread::sleep(Duration::from_millis(self.random.below(10) as u64));
        }
        match self.random.below(8) {
            0 => std::thread::sleep(Duration::from_micros(self.random.below(300) as u64)),
            1..4 => std::thread::yield_now(),
            _ => {}
        }
    }

    /// Fills the buffer with a value.
    pub(super) fn value(&mut self, facts: &Facts, len: usize, version: u64) {
        self.buffer.clear();
        self.buffer.resize(len, 0);
        value::write(&mut self.buffer, facts.number, version);
    }
}

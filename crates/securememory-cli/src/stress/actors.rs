//! What a thread does: one operation after the other, chosen at random, each judged at once.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use securememory::{Closed, Error, View, WithError, with2};

use super::child;
use super::order::Sabotage;
use super::random::Random;
use super::sabotage;
use super::scene::{Entry, Facts, Parcel, Scene};
use super::tally::{Kind, Reason, Tally};
use super::value::{self, DISCARDED};

/// Of so many operations, how many are of each kind.
const WEIGHTS: [(Kind, usize); 15] = [
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
    (Kind::Fork, 40),
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
    fn unexpected(&self, what: String) -> Stop {
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
    fn view<'e>(&self, entry: &'e Entry) -> Result<View<'e>, Stop> {
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
    fn finish(&self, facts: &Facts, view: View<'_>) -> Outcome {
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
    fn lent(&self, facts: &Facts, outcome: Result<(), WithError<()>>, call: &str) -> Outcome {
        outcome.map_err(|failed| self.stop(facts, failed.error(), call))
    }

    /// Lets others come in between.
    fn dawdle(&mut self) {
        match self.random.below(8) {
            0 => std::thread::sleep(Duration::from_micros(self.random.below(300) as u64)),
            1..4 => std::thread::yield_now(),
            _ => {}
        }
    }

    /// Fills the buffer with a value.
    fn value(&mut self, facts: &Facts, len: usize, version: u64) {
        self.buffer.clear();
        self.buffer.resize(len, 0);
        value::write(&mut self.buffer, facts.number, version);
    }

    // ---- readers ----

    fn read(&self, entry: &Entry) -> Outcome {
        let facts = &*entry.facts;
        let floor = facts.floor();
        let read = entry.secret.with(|bytes| self.check(facts, bytes, floor, "with"));
        self.lent(facts, read, "with")
    }

    fn keep(&mut self, entry: &Entry) -> Outcome {
        let view = self.view(entry)?;
        self.dawdle();
        self.check(&entry.facts, &view, 0, "a view that was kept");
        self.finish(&entry.facts, view)
    }

    fn nest(&mut self, entry: &Entry) -> Outcome {
        if self.random.one_in(4) {
            let (one, other) = (entry, &*self.scene.pick(&mut self.random));
            let (floor, other_floor) = (one.facts.floor(), other.facts.floor());
            let both = with2(&one.secret, &other.secret, |one_bytes, other_bytes| {
                self.check(&one.facts, one_bytes, floor, "with2");
                self.check(&other.facts, other_bytes, other_floor, "with2");
            });
            // Either of them may be the reason.
            return both.map_err(|failed| match one.facts.explains(&failed.error()) {
                Some(reason) => Stop::Refused(reason),
                None => self.stop(&other.facts, failed.error(), "with2"),
            });
        }
        let outer = self.view(entry)?;
        let inner = self.view(entry);
        self.dawdle();
        if let Ok(inner) = inner {
            self.check(&entry.facts, &outer, 0, "an outer view");
            // In any order: they do not know of each other.
            if self.random.one_in(2) {
                self.finish(&entry.facts, outer)?;
                self.check(&entry.facts, &inner, 0, "an inner view");
                return self.finish(&entry.facts, inner);
            }
            self.finish(&entry.facts, inner)?;
        }
        self.check(&entry.facts, &outer, 0, "an outer view");
        self.finish(&entry.facts, outer)
    }

    fn parcel(&self, entry: &Entry) -> Result<Parcel, Stop> {
        let facts = &entry.facts;
        let (floor, closed) = (facts.floor(), facts.closed.load(Ordering::SeqCst));
        match entry.secret.owned_view() {
            Ok(_) if closed => {
                Err(self.unexpected(format!("secret {} was opened after its close", facts.number)))
            }
            Ok(view) => Ok(Parcel { view, facts: Arc::clone(facts), floor }),
            Err(error) => Err(self.stop(facts, error, "owned_view")),
        }
    }

    fn lend(&self, entry: &Entry) -> Outcome {
        let parcel = self.parcel(entry)?;
        self.scene.send(parcel).map_or(Ok(()), |oldest| self.open_parcel(&oldest))
    }

    fn receive(&mut self) -> Outcome {
        let parcel = self.scene.receive().ok_or(Stop::Idle)?;
        let opened = self.open_parcel(&parcel);
        if opened.is_ok() && self.random.one_in(2) {
            // Several threads may use it one after the other.
            return self.scene.send(parcel).map_or(Ok(()), |oldest| self.open_parcel(&oldest));
        }
        opened
    }

    fn open_parcel(&self, parcel: &Parcel) -> Outcome {
        let facts = &*parcel.facts;
        let revoked = facts.revoked.load(Ordering::SeqCst);
        let used = parcel.view.with(|bytes| self.check(facts, bytes, parcel.floor, "an owned view"));
        if used.is_ok() && revoked {
            return Err(
                self.unexpected(format!("an owned view of secret {} outlived its revocation", facts.number))
            );
        }
        self.lent(facts, used, "an owned view")
    }

    // ---- writers ----

    fn write(&mut self, entry: &Entry) -> Outcome {
        let facts = &*entry.facts;
        let floor = facts.floor();
        let mut view = entry.secret.view_mut().map_err(|error| self.stop(facts, error, "view_mut"))?;
        self.check(facts, &view, floor, "view_mut");
        let change = facts.begin_change();
        value::write(&mut view, facts.number, change.version);
        self.dawdle();
        if value::check(&view, facts.number) != Ok(change.version) {
            self.tally.unexpected(format!("a writer of secret {} was not alone", facts.number));
        }
        let committed = view.commit();
        facts.end_change(change, committed.is_ok());
        committed.map_err(|error| self.stop(facts, error, "commit"))
    }

    fn discard(&mut self, entry: &Entry) -> Outcome {
        let facts = &*entry.facts;
        let floor = facts.floor();
        let mut view = entry.secret.view_mut().map_err(|error| self.stop(facts, error, "view_mut"))?;
        self.check(facts, &view, floor, "view_mut");
        value::write(&mut view, facts.number, DISCARDED | self.random.next());
        self.dawdle();
        if self.random.one_in(2) {
            drop(view);
        } else {
            // Without a message: this does not run the panic hook.
            let _ = catch_unwind(AssertUnwindSafe(move || {
                let _view = view;
                resume_unwind(Box::new(()))
            }));
        }
        Ok(())
    }

    fn replace(&mut self, entry: &Entry) -> Outcome {
        let facts = &*entry.facts;
        let change = facts.begin_change();
        let version = change.version;
        self.value(facts, entry.secret.len(), version);
        let replaced = entry.secret.replace(&mut self.buffer);
        facts.end_change(change, replaced.is_ok());
        match replaced {
            Ok(()) if self.buffer.iter().any(|&byte| byte != 0) => {
                Err(self.unexpected(format!("replace of secret {} has not wiped its source", facts.number)))
            }
            Ok(()) => Ok(()),
            Err(_) if value::check(&self.buffer, facts.number) != Ok(version) => {
                Err(self
                    .unexpected(format!("replace of secret {} failed and changed its source", facts.number)))
            }
            Err(error) => Err(self.stop(facts, error, "replace")),
        }
    }

    // ---- what must be refused ----

    fn inside(&mut self, entry: &Entry) -> Outcome {
        let facts = &*entry.facts;
        if self.random.one_in(3) {
            let view = self.view(entry)?;
            let close = entry.secret.close_timeout(Duration::ZERO);
            self.check(facts, &view, 0, "a view around a refused close");
            drop(view);
            return self.must_be_refused(facts, close.map(|_| ()), "close inside a view");
        }
        // A sealed secret's writer has a copy; readers of the old value are not in its way.
        let sealed = facts.sealed;
        if self.random.one_in(2) {
            let view = self.view(entry)?;
            let writer = entry.secret.view_mut();
            self.check(facts, &view, 0, "a view around a writer");
            return match writer {
                Ok(writer) if sealed => {
                    drop(writer);
                    self.finish(facts, view)
                }
                Err(error) if sealed => Err(self.stop(facts, error, "view_mut inside a view")),
                other => self.must_be_refused(facts, other.map(drop), "view_mut inside a view"),
            };
        }
        let mut writer = entry.secret.view_mut().map_err(|error| self.stop(facts, error, "view_mut"))?;
        value::write(&mut writer, facts.number, DISCARDED);
        match entry.secret.view() {
            Ok(view) if sealed => {
                self.check(facts, &view, 0, "a view inside view_mut");
                self.finish(facts, view)
            }
            Err(error) if sealed => Err(self.stop(facts, error, "a view inside view_mut")),
            other => self.must_be_refused(facts, other.map(drop), "a view inside view_mut"),
        }
    }

    fn must_be_refused(&self, facts: &Facts, outcome: Result<(), Error>, call: &str) -> Outcome {
        match outcome {
            Err(Error::WouldDeadlock) => Err(Stop::Refused(Reason::WouldDeadlock)),
            Err(error) => Err(self.stop(facts, error, call)),
            Ok(()) => Err(self.unexpected(format!("{call} of secret {} succeeded", facts.number))),
        }
    }

    // ---- beginnings and ends ----

    /// A new secret of the shared vault.
    pub fn fresh(&mut self) -> Result<Entry, Stop> {
        let (facts, made) = self.scene.entry(&self.scene.vault, &mut self.random, &mut self.buffer);
        made.map_err(|error| self.stop(&facts, error, "making"))
    }

    fn create(&mut self) -> Outcome {
        let entry = self.fresh()?;
        // Whoever has the last reference drops it.
        drop(self.scene.exchange(&mut self.random, entry));
        Ok(())
    }

    fn drop_under_view(&mut self, picked: Arc<Entry>) -> Outcome {
        drop(picked);
        let entry = self.fresh()?;
        let old = self.scene.exchange(&mut self.random, entry);
        let parcel = self.parcel(&old)?;
        drop(old);
        self.open_parcel(&parcel)
    }

    fn close(&mut self, entry: &Entry) -> Outcome {
        let facts = &*entry.facts;
        let wait = Duration::from_micros(self.random.of(&[0, 200, 2000]));
        facts.closing.store(true, Ordering::SeqCst);
        let closed = entry.secret.close_timeout(wait);
        match closed {
            Ok(Closed::Closed) => {}
            Ok(Closed::Deferred { .. }) if !facts.revokes => {}
            Ok(Closed::Revoked { .. }) if facts.revokes => facts.revoked.store(true, Ordering::SeqCst),
            Ok(other) => return Err(self.unexpected(format!("secret {}: {other:?}", facts.number))),
            Err(error) => return Err(self.stop(facts, error, "close")),
        }
        facts.closed.store(true, Ordering::SeqCst);
        match self.view(entry) {
            Err(Stop::Refused(_)) => {}
            Err(stop) => return Err(stop),
            // `view` has told it.
            Ok(_) => return Err(Stop::Told),
        }
        // Most closed secrets make room, or there would soon be no others.
        if self.random.one_in(4) { Ok(()) } else { self.create() }
    }

    fn status(&self, entry: &Entry) -> Outcome {
        let status = entry.secret.status();
        let vault = self.scene.vault.status();
        if status.stuck_open || status.vault_id != vault.id || status.len != entry.secret.len() {
            return Err(self.unexpected(format!("secret {}: {status:?}", entry.facts.number)));
        }
        Ok(())
    }

    fn vault(&mut self) -> Outcome {
        let vault = self.scene.builder.clone().build();
        let vault = vault.map_err(|error| self.stop(&Facts::default(), error, "a vault's making"))?;
        let (facts, made) = self.scene.entry(&vault, &mut self.random, &mut self.buffer);
        let entry = made.map_err(|error| self.stop(&facts, error, "making"))?;
        // Secrets keep what they need of their vault.
        drop(vault);
        self.read(&entry)
    }

    // ---- forks ----

    fn fork(&mut self, entry: &Entry) -> Outcome {
        if !self.scene.may_fork() {
            return Err(Stop::Idle);
        }
        let others: Vec<Arc<Entry>> = (0..4).map(|_| self.scene.pick(&mut self.random)).collect();
        let view = if self.random.one_in(2) { Some(self.view(entry)?) } else { None };
        child::fork(self.tally, &others, view.as_deref(), false);
        match view {
            Some(view) => {
                self.check(&entry.facts, &view, 0, "a view across a fork");
                self.finish(&entry.facts, view)
            }
            None => Ok(()),
        }
    }
}

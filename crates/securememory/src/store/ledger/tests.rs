//! Random programs against a model that counts by looking at all there is.
#![allow(unsafe_code, clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;

use super::*;
use crate::os;

/// One step; numbers choose among what there is.
#[derive(Clone, Copy, Debug)]
enum Step {
    Make {
        paged: bool,
        later: bool,
        size: usize,
    },
    Choose(usize),
    /// A creation fails.
    Untake(usize),
    /// A creation is done.
    Keep(usize),
    /// Records for new values of one secret.
    Rewrite(usize, usize),
    /// One of these is published, and the old record freed or retired; or it is freed itself.
    Publish {
        draft: usize,
        retire: bool,
    },
    Abandon(usize),
    /// A secret's bytes end before its handle.
    End(usize),
    Drop(usize),
    Sweep,
    SweepOf(usize),
    Refresh,
    Purge,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Within slabs, and beyond.
    let size = prop_oneof![Just(100_usize), 17..900_usize, Just(5000)];
    let make = (any::<bool>(), any::<bool>(), size);
    let step = prop_oneof![
        6 => make.prop_map(|(paged, later, size)| Step::Make { paged, later, size }),
        3 => any::<usize>().prop_map(Step::Choose),
        1 => any::<usize>().prop_map(Step::Untake),
        6 => any::<usize>().prop_map(Step::Keep),
        4 => (any::<usize>(), 1..50_usize).prop_map(|(secret, count)| Step::Rewrite(secret, count)),
        9 => (any::<usize>(), any::<bool>()).prop_map(|(draft, retire)| Step::Publish { draft, retire }),
        2 => any::<usize>().prop_map(Step::Abandon),
        1 => any::<usize>().prop_map(Step::End),
        2 => any::<usize>().prop_map(Step::Drop),
        1 => Just(Step::Sweep),
        2 => any::<usize>().prop_map(Step::SweepOf),
        3 => Just(Step::Refresh),
        1 => Just(Step::Purge),
    ];
    proptest::collection::vec(step, 1..200)
}

/// A secret, made or in the making.
struct Secret {
    taken: Taken,
    item: Item,
    size: usize,
    /// `None`: it has ended.
    body: Option<Retired>,
}

/// What ought to be in the account.
#[derive(Default)]
struct Model {
    making: Vec<Secret>,
    secrets: Vec<Secret>,
    /// Records that are not published, and the ids of their secrets.
    drafts: Vec<Retired>,
    limbo: Vec<Retired>,
    newest: u64,
    oldest: u64,
    epoch: u64,
    seals: u64,
}

/// Few enough to be reached.
const LIMITS: Limits = Limits { secrets: 25, bytes: 20_000 };

fn of<T>(all: &[T], choice: usize) -> Option<usize> {
    choice.checked_rem(all.len())
}

impl Model {
    fn records_of(&self, epoch: u64) -> u64 {
        let made = self.secrets.iter().filter(|secret| secret.item.kind == Kind::Sealed);
        let bodies = made.filter_map(|secret| secret.body).map(|body| body.epoch);
        let making = self.making.iter().map(|secret| secret.taken.epoch);
        let others = self.drafts.iter().chain(&self.limbo).map(|record| record.epoch);
        let all = bodies.chain(making).chain(others);
        if epoch < self.oldest { 0 } else { all.filter(|&of| of == epoch).count() as u64 }
    }

    fn assert_told_by(&self, ledger: &Ledger) {
        for epoch in self.newest.saturating_sub(LIVE as u64 - 1).max(1)..=self.newest {
            assert_eq!(ledger.records_of(epoch), Ok(self.records_of(epoch)), "epoch {epoch}");
        }
        let there = || self.making.iter().chain(self.secrets.iter().filter(|secret| secret.body.is_some()));
        let live = Live {
            secrets: there().count() as u64,
            paged: there().filter(|secret| secret.item.kind == Kind::Paged).count() as u64,
            chunks: there().filter(|secret| secret.item.chunk).count() as u64,
            bytes: there().map(|secret| secret.item.len as u64).sum(),
        };
        assert_eq!(ledger.live(), Ok(live));
        assert_eq!(ledger.current(), Ok((self.epoch, self.seals)));
        assert_eq!(ledger.retired().is_some(), !self.limbo.is_empty());
    }

    /// Of a seal that is made now.
    fn seal(&mut self, epoch: u64, seals: u64) {
        assert_eq!(epoch, self.epoch);
        self.seals += 1;
        assert_eq!(seals, self.seals);
    }

    fn carry_out(&mut self, step: Step, ledger: &Ledger) {
        match step {
            Step::Make { paged, later, size } => {
                let kind = if paged { Kind::Paged } else { Kind::Sealed };
                let choice = if later { Choice::Later } else { Choice::Now };
                let item = Item { kind, chunk: !paged && size % 3 == 0, len: size - 1 };
                let live = ledger.live().unwrap();
                let taken = ledger.take_secret((item, choice), size, None);
                if live.secrets == LIMITS.secrets || live.bytes + item.len as u64 > LIMITS.bytes {
                    assert!(matches!(taken, Err(Error::OverBudget { .. })), "{live:?} {item:?}");
                    return;
                }
                if !paged && !later && self.epoch == 0 {
                    assert_eq!(taken.err(), Some(Error::Purged));
                    return;
                }
                let taken = taken.unwrap();
                if paged || later {
                    assert_eq!((taken.epoch, taken.seals), (0, 0));
                } else {
                    self.seal(taken.epoch, taken.seals);
                }
                self.making.push(Secret { taken, item, size, body: None });
            }
            Step::Choose(choice) => self.choose(choice, ledger),
            Step::Untake(choice) => {
                let Some(index) = of(&self.making, choice) else { return };
                let Secret { taken, item, size, .. } = self.making.swap_remove(index);
                // SAFETY: taken, and not used.
                unsafe { ledger.untake(item, &taken, size) };
            }
            Step::Keep(choice) => {
                let Some(index) = of(&self.making, choice) else { return };
                self.choose(index, ledger);
                let Secret { taken, item, size, .. } = self.making[index];
                if item.kind == Kind::Paged || taken.epoch != 0 {
                    let body = Some(Retired { secret: taken.id, at: taken.body, size, epoch: taken.epoch });
                    self.secrets.push(Secret { body, ..self.making.swap_remove(index) });
                }
            }
            Step::Rewrite(choice, count) => {
                let Some(index) = of(&self.secrets, choice) else { return };
                let Secret { taken: Taken { id: secret, .. }, item, size, .. } = self.secrets[index];
                for _ in 0..if item.kind == Kind::Sealed { count } else { 0 } {
                    let full = self.limbo.len() + self.drafts.len() >= limbo::PLACES;
                    match ledger.take_record(size) {
                        Err(Taking::LimboFull) => assert!(full),
                        Err(Taking::Failed(error)) => assert_eq!((error, self.epoch), (Error::Purged, 0)),
                        Ok((at, epoch, seals)) => {
                            assert!(!full);
                            self.seal(epoch, seals);
                            self.drafts.push(Retired { secret, at, size, epoch });
                        }
                    }
                }
            }
            Step::Publish { draft, retire } => {
                let Some(index) = of(&self.drafts, draft) else { return };
                let new = self.drafts.swap_remove(index);
                let of = self.secrets.iter_mut().find(|secret| secret.taken.id == new.secret);
                match of.and_then(|secret| secret.body.as_mut()) {
                    Some(body) => {
                        let old = std::mem::replace(body, new);
                        if retire {
                            assert!(ledger.retire(old));
                            self.limbo.push(old);
                        } else {
                            // SAFETY: replaced, and nobody reads here.
                            unsafe { ledger.free(&[old], 1) };
                        }
                    }
                    // SAFETY: not published.
                    None => unsafe { ledger.free(&[new], 1) },
                }
            }
            Step::Abandon(choice) => {
                let Some(index) = of(&self.drafts, choice) else { return };
                // SAFETY: not published.
                unsafe { ledger.free(&[self.drafts.swap_remove(index)], 1) };
            }
            Step::End(choice) => {
                let Some(index) = of(&self.secrets, choice) else { return };
                let secret = &mut self.secrets[index];
                if secret.item.kind == Kind::Sealed
                    && let Some(last) = secret.body.take()
                {
                    // SAFETY: nobody reads here.
                    unsafe { ledger.free(&[last], 0) };
                    ledger.ended(secret.item);
                }
            }
            Step::Drop(choice) => {
                let Some(index) = of(&self.secrets, choice) else { return };
                let Secret { taken, item, body, .. } = self.secrets.swap_remove(index);
                // SAFETY: nobody uses it here.
                unsafe { ledger.give_secret(taken.header, item, body, body.is_some()) };
            }
            Step::Sweep => self.sweep(None, ledger),
            Step::SweepOf(choice) => {
                let id = of(&self.limbo, choice).map(|index| self.limbo[index].secret);
                self.sweep(id, ledger);
            }
            Step::Refresh => {
                // The cell of the next epoch must be empty.
                if self.records_of((self.newest + 1).saturating_sub(LIVE as u64)) == 0 {
                    self.newest += 1;
                    (self.epoch, self.seals) = (self.newest, 0);
                    ledger.open_epoch(self.newest).unwrap();
                }
            }
            Step::Purge => {
                (self.oldest, self.epoch) = (self.newest + 1, 0);
                ledger.forget_epochs(self.oldest).unwrap();
            }
        }
    }

    fn choose(&mut self, choice: usize, ledger: &Ledger) {
        let Some(index) = of(&self.making, choice) else { return };
        let Secret { mut taken, item, .. } = self.making[index];
        if item.kind == Kind::Paged {
            return;
        }
        let before = taken.epoch;
        match ledger.choose_epoch(&mut taken) {
            Err(error) => assert_eq!((error, self.epoch, before), (Error::Purged, 0, 0)),
            Ok(()) if before == 0 => self.seal(taken.epoch, taken.seals),
            Ok(()) => assert_eq!(taken.epoch, before, "chosen once"),
        }
        self.making[index].taken = taken;
    }

    fn sweep(&mut self, secret: Option<u64>, ledger: &Ledger) {
        let Some(last) = ledger.retired() else { return };
        // SAFETY: nobody reads here.
        unsafe { ledger.sweep(secret, last) };
        self.limbo.retain(|record| secret.is_some_and(|secret| secret != record.secret));
    }
}

/// Pages of ciphertext may be replaced by noise; what paged secrets have there are addresses.
#[test]
fn what_paged_secrets_have_is_never_replaced() {
    use crate::registry::arenas;
    let mut ledger = Ledger::new(u64::MAX, Limits::NONE, Seat::take().unwrap());
    ledger.open_epoch(1).unwrap();
    // Of slabs as large as these take, most of the pages are whole.
    let many = os::page_size() / 5;
    let replaced = |kind| {
        let item = Item { kind, chunk: false, len: 100 };
        let taken: Vec<_> =
            (0..many).map(|_| ledger.take_secret((item, Choice::Now), 100, None).unwrap()).collect();
        let is_in = |taken: &Taken| arenas::all().any(|arena| arena.contains(taken.body.addr().get()));
        let count = taken.iter().filter(|taken| is_in(taken)).count();
        // SAFETY: nobody uses them.
        taken.iter().for_each(|taken| unsafe { ledger.untake(item, taken, 100) });
        count
    };
    assert!(replaced(Kind::Sealed) > many / 2);
    assert_eq!(replaced(Kind::Paged), 0);
    // SAFETY: nothing is in use.
    unsafe { ledger.end() };
}

proptest! {
    #[test]
    fn every_record_is_counted_from_its_taking_to_its_end(steps in steps()) {
        let mut ledger = Ledger::new(u64::MAX, LIMITS, Seat::take().unwrap());
        ledger.open_epoch(1).unwrap();
        let mut model = Model { newest: 1, oldest: 1, epoch: 1, ..Model::default() };
        for step in steps {
            model.carry_out(step, &ledger);
            model.assert_told_by(&ledger);
        }
        // All that was taken is given back; then nothing is counted.
        while !model.making.is_empty() {
            model.carry_out(Step::Untake(0), &ledger);
        }
        while !model.drafts.is_empty() {
            model.carry_out(Step::Abandon(0), &ledger);
        }
        while !model.secrets.is_empty() {
            model.carry_out(Step::Drop(0), &ledger);
        }
        model.carry_out(Step::Sweep, &ledger);
        model.assert_told_by(&ledger);
        prop_assert_eq!((ledger.live(), ledger.retired()), (Ok(Live::default()), None));
        prop_assert_eq!(ledger.inner.lock().unwrap().records, [0; LIVE]);
        prop_assert_eq!(ledger.inner.lock().unwrap().limbo.kept, 0);
        // SAFETY: nothing is in use.
        unsafe { ledger.end() };
    }

    #[test]
    fn no_more_seals_are_made_than_one_key_may(most in 1..20_u64, later: bool) {
        let mut ledger = Ledger::new(most, Limits::NONE, Seat::take().unwrap());
        ledger.open_epoch(1).unwrap();
        let choice = if later { Choice::Later } else { Choice::Now };
        let item = Item { kind: Kind::Sealed, chunk: false, len: 100 };
        let mut model = Model::default();
        for _ in 0..most {
            let mut taken = ledger.take_secret((item, choice), 100, None).unwrap();
            ledger.choose_epoch(&mut taken).unwrap();
            model.making.push(Secret { taken, item, size: 100, body: None });
        }
        let used_up = Error::KeyUsedUp { limit: most };
        prop_assert!(matches!(ledger.take_record(100), Err(Taking::Failed(error)) if error == used_up));
        prop_assert_eq!(
            ledger.take_secret((item, Choice::Now), 100, None).err(),
            Some(used_up)
        );
        ledger.open_epoch(2).unwrap();
        while !model.making.is_empty() {
            model.carry_out(Step::Untake(0), &ledger);
        }
        prop_assert_eq!(ledger.records_of(1), Ok(0));
        // SAFETY: nothing is in use.
        unsafe { ledger.end() };
    }
}

#[test]
fn a_fork_leaves_half_of_the_seals_to_either_side() {
    let seat = Seat::take().unwrap();
    let ledger = Ledger::new(100, Limits::NONE, seat);
    ledger.open_epoch(1).unwrap();
    let after = |forks| {
        (0..forks).for_each(|_| ledger.share_seals());
        ledger.current().unwrap()
    };
    // All that were ever given away, and what is left, are no more than there were.
    assert_eq!([1, 1, 1, 9].map(after), [(1, 50), (1, 75), (1, 88), (1, 100)]);
    let item = Item { kind: Kind::Sealed, chunk: false, len: 100 };
    let refused = ledger.take_secret((item, Choice::Now), 100, None);
    assert_eq!(refused.err(), Some(Error::KeyUsedUp { limit: 100 }));
    let unbounded = Ledger::new(u64::MAX, Limits::NONE, seat);
    unbounded.open_epoch(1).unwrap();
    unbounded.share_seals();
    assert_eq!(unbounded.current(), Ok((1, 0)));
    seat.give();
}

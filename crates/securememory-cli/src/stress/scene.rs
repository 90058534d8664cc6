//! What the actors share: secrets in slots, what is known about each, and views on their way to other threads.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use securememory::{Error, OnClose, OwnedView, Policy, Secret, SecretBuilder, Store, Vault, VaultBuilder};

use super::order::{Order, StoreArg};
use super::random::Random;
use super::tally::Reason;
use super::value::{self, DISCARDED, LENGTHS, Wrong};

/// How long a secret's calls wait: not at all, not always long enough, nearly always long enough.
const WAITS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(3), Duration::from_millis(200)];
/// Where `auto` changes from one store to the other, so that there are both.
const SEALED_MAX: usize = 1000;
/// Places for views, for each thread: far more than it ever has, so that a lost place shows.
const VIEWS: usize = 16;
/// Owned views on their way, for each thread.
const PARCELS: usize = 4;
/// Forks in all threads together do not follow each other faster than this.
const FORK_PAUSE: Duration = Duration::from_millis(50);

/// What is known about a secret: it outlives the secret.
#[derive(Default)]
pub struct Facts {
    /// The number in its values.
    pub number: u64,
    /// Is it sealed, or paged?
    pub sealed: bool,
    /// Does its policy wait, or refuse at once?
    pub patient: bool,
    /// Does its policy revoke?
    pub revokes: bool,
    /// A close has begun.
    pub closing: AtomicBool,
    /// A close has returned.
    pub closed: AtomicBool,
    /// A close has returned and said that views are revoked.
    pub revoked: AtomicBool,
    /// The newest version's number, and in the lower 16 bits how many changes are under way.
    stamps: AtomicU64,
    /// No view that is opened from now on may show a version below this one.
    floor: AtomicU64,
}

/// A change under way.
pub struct Change {
    /// Its version.
    pub version: u64,
    /// No other was under way when it began, so all with smaller numbers had ended.
    alone: bool,
}

impl Facts {
    /// The version that a view opened now must at least show.
    pub fn floor(&self) -> u64 {
        self.floor.load(Ordering::SeqCst)
    }

    /// A change begins.
    pub fn begin_change(&self) -> Change {
        let before = self.stamps.fetch_add(1 << 16 | 1, Ordering::SeqCst);
        Change { version: (before >> 16) + 1, alone: before & 0xffff == 0 }
    }

    /// A change has ended. If it has been made, and all smaller versions were there before it began, none of them may be
    /// seen any more.
    pub fn end_change(&self, change: Change, made: bool) {
        if made && change.alone {
            self.floor.fetch_max(change.version, Ordering::SeqCst);
        }
        self.stamps.fetch_sub(1, Ordering::SeqCst);
    }

    /// Are these the secret's bytes, and not older than `floor`?
    pub fn check(&self, bytes: &[u8], floor: u64) -> Result<(), Wrong> {
        let version = value::check(bytes, self.number)?;
        let newest = self.stamps.load(Ordering::SeqCst) >> 16;
        let wrong = if version & DISCARDED != 0 {
            "a change that was never committed is seen".to_owned()
        } else if version > newest {
            format!("version {version} is seen, but {newest} is the newest")
        } else if version < floor {
            format!("version {version} is seen after {floor} was valid")
        } else {
            return Ok(());
        };
        Err(Wrong::whole(bytes, wrong))
    }

    /// Does another thread's work explain this error?
    pub fn explains(&self, error: &Error) -> Option<Reason> {
        let closing = self.closing.load(Ordering::SeqCst);
        match error {
            Error::Timeout { .. } if self.patient => Some(Reason::Timeout),
            Error::Busy(_) if !self.patient => Some(Reason::Busy),
            Error::Closed if closing => Some(Reason::Closed),
            Error::Revoked if closing && self.revokes => Some(Reason::Revoked),
            _ => None,
        }
    }
}

/// A secret and what is known about it.
pub struct Entry {
    /// The secret.
    pub secret: Secret,
    /// See there.
    pub facts: Arc<Facts>,
}

/// An owned view on its way to another thread.
pub struct Parcel {
    /// The view.
    pub view: OwnedView,
    /// Of what.
    pub facts: Arc<Facts>,
    /// See [`Facts::floor`].
    pub floor: u64,
}

/// All that is shared.
pub struct Scene {
    /// The vault of the shared secrets.
    pub vault: Vault,
    /// Makes others like it.
    pub builder: VaultBuilder,
    /// The longest secret that is sealed.
    sealed_max: usize,
    slots: Vec<RwLock<Arc<Entry>>>,
    parcels: Mutex<VecDeque<Parcel>>,
    parcels_max: usize,
    numbers: AtomicU64,
    origin: Instant,
    /// The earliest time of the next fork, in milliseconds from the origin.
    next_fork: AtomicU64,
    /// The round is over.
    pub stop: AtomicBool,
}

/// The vaults of a run.
pub fn builder(order: &Order) -> VaultBuilder {
    let (hold, level) = order.hold.wanted();
    let store = match order.store {
        StoreArg::Auto => Store::Auto,
        StoreArg::Sealed => Store::Sealed,
        StoreArg::Paged => Store::Paged,
    };
    Vault::builder()
        .store(store)
        .sealed_max(SEALED_MAX)
        .hold(hold)
        .hold_level(level)
        .views_max(VIEWS * order.threads + 64)
        .policy(Policy::new().wait(WAITS[2]))
}

impl Scene {
    /// Sets the scene: a vault, and a secret in every slot.
    pub fn set(builder: VaultBuilder, order: &Order) -> Result<Self, Error> {
        let vault = builder.clone().build()?;
        let mut scene = Self {
            vault,
            builder,
            sealed_max: match order.store {
                StoreArg::Auto => SEALED_MAX,
                StoreArg::Sealed => usize::MAX,
                StoreArg::Paged => 0,
            },
            slots: Vec::new(),
            parcels: Mutex::new(VecDeque::new()),
            parcels_max: PARCELS * order.threads,
            numbers: AtomicU64::new(1),
            origin: Instant::now(),
            next_fork: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        };
        let mut random = Random::new(order.seed);
        for _ in 0..order.secrets {
            let (_, made) = scene.entry(&scene.vault, &mut random, &mut Vec::new());
            scene.slots.push(RwLock::new(Arc::new(made?)));
        }
        Ok(scene)
    }

    /// Makes a secret in one of the ways there are, of any length. What is known about it comes also where it failed.
    pub fn entry(
        &self,
        vault: &Vault,
        random: &mut Random,
        buffer: &mut Vec<u8>,
    ) -> (Arc<Facts>, Result<Entry, Error>) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (wait, revokes) = (random.of(&WAITS), random.one_in(2));
        let patient = !wait.is_zero();
        let len = random.of(&LENGTHS);
        let sealed = len <= self.sealed_max;
        let facts = Arc::new(Facts { number, sealed, patient, revokes, ..Facts::default() });
        let on_close = if revokes { OnClose::Revoke } else { OnClose::Defer };
        // Of paged secrets, a third stays open for a while after each view.
        let linger = if random.one_in(3) { Duration::from_millis(2) } else { Duration::ZERO };
        let policy = Policy::new().wait(wait).on_close(on_close).linger(linger);
        let made = make(vault.secret().policy(policy), random.below(3), number, len, buffer);
        let entry = made.map(|secret| Entry { secret, facts: Arc::clone(&facts) });
        (facts, entry)
    }

    /// One of the shared secrets.
    pub fn pick(&self, random: &mut Random) -> Arc<Entry> {
        let slot = &self.slots[random.below(self.slots.len())];
        Arc::clone(&slot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a secret in the place of another, which is returned.
    pub fn exchange(&self, random: &mut Random, entry: Entry) -> Arc<Entry> {
        let slot = &self.slots[random.below(self.slots.len())];
        std::mem::replace(&mut *slot.write().unwrap_or_else(PoisonError::into_inner), Arc::new(entry))
    }

    fn parcels(&self) -> MutexGuard<'_, VecDeque<Parcel>> {
        self.parcels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an owned view to whoever comes; the oldest comes back where too many are on their way.
    pub fn send(&self, parcel: Parcel) -> Option<Parcel> {
        let mut parcels = self.parcels();
        parcels.push_back(parcel);
        if parcels.len() > self.parcels_max { parcels.pop_front() } else { None }
    }

    /// An owned view that someone has sent.
    pub fn receive(&self) -> Option<Parcel> {
        self.parcels().pop_front()
    }

    /// Is it time for a fork?
    pub fn may_fork(&self) -> bool {
        let now = self.origin.elapsed().as_millis() as u64;
        let then = now + FORK_PAUSE.as_millis() as u64;
        self.next_fork
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| (at <= now).then_some(then))
            .is_ok()
    }
}

/// Makes a secret whose value is version 0.
fn make(
    builder: SecretBuilder,
    way: usize,
    number: u64,
    len: usize,
    buffer: &mut Vec<u8>,
) -> Result<Secret, Error> {
    if way == 0 {
        return builder.init_with(len, |room| value::write(room, number, 0));
    }
    buffer.clear();
    buffer.resize(len, 0);
    value::write(buffer, number, 0);
    if way == 1 { builder.from_bytes(buffer) } else { builder.read_from(&mut buffer.as_slice(), len) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn bytes(number: u64, version: u64) -> [u8; 40] {
        let mut bytes = [0; 40];
        value::write(&mut bytes, number, version);
        bytes
    }

    #[test]
    fn a_version_is_too_old_only_after_a_change_that_began_when_no_other_was_under_way() {
        let facts = Facts { number: 3, ..Facts::default() };
        let (first, second) = (facts.begin_change(), facts.begin_change());
        assert_eq!((first.version, second.version), (1, 2));
        facts.end_change(second, true);
        assert_eq!(facts.floor(), 0, "the first may still come after the second");
        facts.end_change(first, true);
        assert_eq!(facts.floor(), 1, "the second may have come first or last");
        let third = facts.begin_change();
        facts.end_change(third, false);
        assert_eq!(facts.floor(), 1, "it was not made");
        let fourth = facts.begin_change();
        facts.end_change(fourth, true);
        assert_eq!(facts.floor(), 4);
        assert!(facts.check(&bytes(3, 4), facts.floor()).is_ok());
        let what = |bytes: &[u8]| facts.check(bytes, facts.floor()).unwrap_err().what;
        assert!(what(&bytes(3, 3)).contains("after 4 was valid"));
        assert!(what(&bytes(3, 5)).contains("4 is the newest"));
        assert!(what(&bytes(3, DISCARDED | 4)).contains("never committed"));
        assert!(what(&bytes(2, 4)).contains("of 40 bytes are wrong"));
    }

    #[test]
    fn an_error_is_explained_only_by_what_was_done() {
        let facts = Facts { patient: true, revokes: true, ..Facts::default() };
        assert_eq!(facts.explains(&Error::Closed), None);
        facts.closing.store(true, Ordering::SeqCst);
        assert_eq!(facts.explains(&Error::Closed), Some(Reason::Closed));
        assert_eq!(facts.explains(&Error::Revoked), Some(Reason::Revoked));
        for error in [Error::Tampered, Error::KeyLost, Error::Forked, Error::WouldDeadlock] {
            assert_eq!(facts.explains(&error), None);
        }
        assert_eq!(facts.explains(&Error::ScratchExhausted { limit: 1 }), None);
        let facts = Facts { closing: true.into(), ..Facts::default() };
        assert_eq!(facts.explains(&Error::Revoked), None, "this one defers");
    }
}

//! What the secrets of one vault share, and keep alive by counted references.

mod views;

use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use crate::counters::{self, Count};
use crate::enclave::epoch::LIVE;
use crate::enclave::hold::choice::is_usual;
use crate::enclave::{Enclave, cipher};
use crate::error::{Error, Protection};
use crate::events::{self, Note};
use crate::fault::FaultPolicy;
use crate::os::{self, CallError};
use crate::policy::Level;
use crate::region::canary::Canary;
use crate::region::lease::Lease;
use crate::region::pool::Pool;
use crate::region::scratch::Scratch;
use crate::region::slots;
use crate::registry::arenas::Purpose;
use crate::registry::dying::why_gone;
#[cfg(feature = "testing")]
use crate::registry::guards;
use crate::registry::vaults::Seat;
use crate::registry::{Slot, dying, forks, lost};
use crate::shutdown::fork;
use crate::signal::masks;
use crate::status::{Achieved, Evidence, Protections, VaultStatus};
use crate::store::expiry::Due;
use crate::store::heritage::Ready;
use crate::store::ledger::{Ledger, Live};
use crate::store::linger::Lingering;
use crate::store::room;
use crate::store::settings::Settings;
use crate::store::turnover::Turnover;
use views::{HOMES, Tickets};

/// The machinery of one vault. In this order, since what every read touches shares few cache lines so.
#[repr(C, align(64))]
pub(crate) struct Machinery {
    pub(crate) id: u64,
    /// Who views which paged secret: slots without memory. The first [`HOMES`] belong to one thread each.
    tickets: &'static [Slot],
    /// Tickets that were ever taken lie below it.
    tickets_used: AtomicUsize,
    pub(crate) canary: Canary,
    pub(crate) enclave: Enclave,
    pub(crate) lingering: Lingering,
    pub(crate) settings: Settings,
    /// Bytes that each key locks besides the first page.
    key_bytes: AtomicUsize,
    pub(crate) scratch: Scratch,
    pub(crate) pool: Pool,
    pub(super) ledger: Ledger,
    pub(super) turnover: Turnover,
    pub(super) due: Due,
    /// Secrets that were sealed because pages could not be locked.
    pub(crate) next_store: NextStore,
    pub(crate) handles: Handles,
    /// Its place in the registry.
    pub(super) seat: Seat,
    /// For a child that is about to inherit it.
    pub(super) ready: Ready,
    /// The test guard that it was made under.
    #[cfg(feature = "testing")]
    watch: Option<Arc<guards::Watch>>,
}

/// How many secrets were sealed because pages could not be locked, and why the last.
#[derive(Default)]
pub(crate) struct NextStore {
    count: AtomicU64,
    cause: AtomicU64,
}

impl NextStore {
    fn note(&self, cause: CallError) {
        self.cause.store(cause.to_word(), Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn told(&self) -> Option<(u64, CallError)> {
        let count = self.count.load(Ordering::Relaxed);
        CallError::from_word(self.cause.load(Ordering::Relaxed))
            .filter(|_| count > 0)
            .map(|cause| (count, cause))
    }
}

/// How many handles there are of a vault. Secrets are none.
pub(crate) struct Handles(AtomicUsize);

impl Handles {
    pub(crate) fn take(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Says whether it was the last.
    #[must_use]
    pub(crate) fn give(&self) -> bool {
        self.0.fetch_sub(1, Ordering::AcqRel) == 1
    }

    pub(super) fn is_none(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

// A panic in a closure of the user's leaves nothing of ours half-done.
impl UnwindSafe for Machinery {}
impl RefUnwindSafe for Machinery {}

impl std::fmt::Debug for Machinery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("id", &self.id).finish_non_exhaustive()
    }
}

static NEXT_VAULT: AtomicU64 = AtomicU64::new(1);

impl Machinery {
    pub(crate) fn make(settings: Settings) -> Result<Arc<Self>, Error> {
        if settings.views_max == 0 {
            return Err(Error::ScratchExhausted { limit: 0 });
        }
        if dying::has_begun() {
            return Err(Error::Dying);
        }
        fork::install()?;
        // A key that is half made is known to nobody who wipes.
        let _shield = masks::shield();
        let seat = Seat::take()?;
        let made = Self::make_at(seat, settings).inspect_err(|_| {
            #[cfg(feature = "testing")]
            watch_failure(seat);
            seat.give();
        });
        let made = made?;
        #[cfg(feature = "testing")]
        made.watch();
        if made.is_inherited() {
            let weak: Weak<Self> = Arc::downgrade(&made);
            forks::bequeath(weak)?;
        }
        // Asked again, now that who wipes can see it: it may have looked before.
        if dying::has_begun() { Err(Error::Dying) } else { Ok(made) }
    }

    fn make_at(seat: Seat, mut settings: Settings) -> Result<Arc<Self>, Error> {
        // Asked for first, since from the keys on a refusal has much to undo.
        let (room, event) = (room::shared()?, room::fill(room::shared()?, AtomicU32::new(0)));
        let levels = settings.policy.levels();
        let id = NEXT_VAULT.fetch_add(1, Ordering::Relaxed);
        seat.introduce(id, settings.on_fault.map(FaultPolicy::encode));
        let canary = Canary::new()?;
        let tickets = Tickets::make(settings.views_max.saturating_add(HOMES))?;
        let (wish, level) = (settings.hold, settings.hold_level);
        let mut enclave = Enclave::make(wish, level, settings.cipher, levels, seat)?;
        // Room for all keys that there may be one day counts as used from the start.
        let locked = enclave.locked_bytes(LIVE);
        let scratch = match Scratch::new(settings.views_max, levels, settings.locked_max, locked, seat) {
            Ok(scratch) => scratch,
            Err(error) => {
                enclave.erase_keys();
                enclave.end();
                return Err(error);
            }
        };
        let key_bytes = enclave.locked_bytes(1) - enclave.locked_bytes(0);
        let most_seals = cipher::most_seals(enclave.cipher());
        // Early enough to be tried again many times before it is too late.
        settings.seals_max = settings.seals_max.min(most_seals / 2);
        let ledger = Ledger::new(most_seals, settings.limits, seat);
        if let Err(error) = ledger.open_epoch(1) {
            enclave.erase_keys();
            enclave.end();
            return Err(error);
        }
        if let Some((base, capacity)) = enclave.anchor().spare() {
            scratch.adopt(base, capacity, enclave.anchor().is_locked());
        }
        let machinery = Self {
            id,
            settings,
            enclave,
            canary,
            scratch,
            pool: Pool::new(Purpose::Pages, seat),
            ledger,
            turnover: Turnover::new(),
            due: Due::new(),
            handles: Handles(AtomicUsize::new(0)),
            key_bytes: AtomicUsize::new(key_bytes),
            lingering: Lingering::new(event),
            tickets: tickets.keep(),
            tickets_used: AtomicUsize::new(0),
            next_store: NextStore::default(),
            seat,
            ready: Ready::default(),
            #[cfg(feature = "testing")]
            watch: guards::current(),
        };
        Ok(room::fill(room, machinery))
    }

    pub(crate) fn status(&self) -> VaultStatus {
        let (scratch_slots, scratch_unlocked) = self.scratch.counts();
        let keys = self.enclave.keys();
        // A child leaves the locks alone that it inherited.
        let is_alive = self.enclave.is_alive();
        let (epoch, seals) = if is_alive { self.ledger.current().unwrap_or_default() } else { (0, 0) };
        let protections = self.enclave.protections();
        VaultStatus {
            id: self.id,
            hold: self.enclave.used(),
            hold_stepped_down: self.enclave.stepped_down(),
            key_stuck_open: keys.stuck,
            replicas: keys.replicas,
            replicas_renewed: keys.renewed,
            epoch,
            keys: keys.live,
            seals,
            refresh_refused: keys.refused,
            cipher: self.enclave.cipher(),
            locked_bytes: self.locked_bytes(keys.live),
            scratch_slots,
            scratch_unlocked,
            secrets: if is_alive { self.live().secrets } else { 0 },
            protections,
            closed_encrypted: os::ENCRYPTS_CLOSED
                .then(|| Achieved::by_call(protections.lock.asked, os::unlocked_at_rest())),
        }
    }

    /// In a child: so many bytes of the first page, and of each key, are locked no more.
    pub(super) fn note_unlocked(&self, page: usize, key: usize) {
        self.scratch.note_unlocked(page + LIVE * key);
        if key > 0 {
            self.key_bytes.store(0, Ordering::Relaxed);
        }
    }

    /// Why the vault's key is not held as was preferred, where that is not what most hosts have.
    pub(crate) fn unusual_step_down(&self) -> Option<Error> {
        let Settings { hold, policy, .. } = &self.settings;
        let is_usual = |cause: &Error| is_usual(*hold, policy.levels().secretmem, cause);
        self.enclave.stepped_down().filter(|cause| !is_usual(cause))
    }

    /// A secret is sealed because pages could not be locked.
    #[cold]
    pub(super) fn note_next_store(&self, cause: CallError) {
        self.next_store.note(cause);
        counters::add(Count::Degraded);
        events::note(Note::NextStore, self.id, events::cause(Some(cause)));
    }

    /// Its place in the registry.
    pub(crate) fn seat(&self) -> Seat {
        self.seat
    }

    /// Bytes that the vault has locked, with so many keys.
    pub(crate) fn locked_bytes(&self, keys: usize) -> usize {
        // The scratch's count began with what all keys may lock.
        (self.scratch.locked_bytes() + self.pool.locked_bytes())
            .saturating_sub(LIVE.saturating_sub(keys) * self.key_bytes.load(Ordering::Relaxed))
    }

    /// Secrets whose bytes are there.
    pub(crate) fn live(&self) -> Live {
        self.ledger.live().unwrap_or_default()
    }

    /// An error in a child: the vault is its parent's.
    #[inline]
    pub(crate) fn check_alive(&self) -> Result<(), Error> {
        if self.enclave.is_alive() { Ok(()) } else { Err(why_gone()) }
    }

    /// Are the bytes around a lease's data as they were?
    #[inline]
    pub(super) fn check_canary(&self, lease: &Lease) -> Result<(), Error> {
        if lost::any() && lease.is_poisoned() {
            return Err(Error::Poisoned);
        }
        // In a child that was forked since somebody looked for the alive mark, they are wiped like all the rest.
        lease
            .check_canary(&self.canary)
            .map_err(|error| if self.enclave.is_alive() { error } else { why_gone() })
    }

    /// A child inherits a vault as a whole, or not at all.
    pub(super) fn check_fork(&self, asked: Level) -> Result<(), Error> {
        match (asked, self.settings.policy.levels().fork) {
            (Level::Require, Level::Off) => Err(Error::NotInForce(Protection::Fork)),
            (Level::Off, vault) if vault != Level::Off => {
                Err(Error::Unsupported("a secret that a forked child inherits, in a vault that it does not"))
            }
            _ => Ok(()),
        }
    }

    /// An id that no other secret of the vault has.
    pub(crate) fn new_id(&self) -> Result<u64, Error> {
        self.ledger.new_id()
    }

    /// Destroys a split key as a process that ends has to: the check halves, keys in use, the key halves. Says
    /// whether there is such a key.
    #[cfg(feature = "testing")]
    pub(crate) fn wipe_key(&self) -> bool {
        self.enclave.wipe_newest(|| self.scratch.wipe_keys())
    }

    /// Takes the vault's locks on the way of its secrets and keeps them, or gives them back. False: not all were to be had.
    #[cfg(feature = "testing")]
    pub(crate) fn set_frozen(&self, frozen: bool) -> bool {
        let scratch = self.scratch.set_frozen(frozen);
        let pool = self.pool.set_frozen(frozen);
        self.ledger.set_frozen(frozen) && pool && scratch
    }

    /// Makes it known to the test guard that it was made under.
    #[cfg(feature = "testing")]
    fn watch(self: &Arc<Self>) {
        if let Some(watch) = &self.watch {
            let known: Arc<guards::Anything> = Arc::<Self>::clone(self);
            watch.made(Arc::downgrade(&known));
        }
    }

    /// What is in force on the key and on the first scratch.
    pub(super) fn protections(&self) -> Protections {
        let mut protections = self.enclave.protections();
        if protections.lock.got && self.scratch.first_is_unlocked() {
            protections.lock.got = false;
            protections.lock.evidence = Evidence::None;
        }
        protections
    }
}

/// Tells the test guard what an attempt to make a vault has left.
#[cfg(feature = "testing")]
fn watch_failure(seat: Seat) {
    if let Some(watch) = guards::current() {
        watch.note(guards::remains_of(seat, seat.entry().id.load(Ordering::Relaxed)));
    }
}

impl Drop for Machinery {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if self.settings.janitor {
            // So that it notices and ends.
            self.lingering.wake_janitor();
        }
        // A child leaves alone what it inherited: it is the parent's, or wiped.
        if !self.enclave.is_alive() {
            return;
        }
        #[cfg(feature = "testing")]
        let mut remains = if self.watch.is_some() { self.remains() } else { Vec::new() };
        let _shield = masks::shield();
        // The keys and their shares first; then what is only worth something with them; then descriptors, and last the page
        // that scratch may lie in.
        self.enclave.erase_keys();
        // SAFETY: all secrets and owned views hold references to the machinery, so there are none;
        // a borrowed view that was forgotten can no longer be used by anybody.
        unsafe {
            self.scratch.end();
            self.pool.end();
            self.ledger.end();
            slots::free(self.tickets);
        }
        self.enclave.end();
        #[cfg(feature = "testing")]
        if let Some(watch) = &self.watch {
            remains.extend(guards::remains_of(self.seat, self.id));
            watch.note(remains);
        }
        self.seat.give();
    }
}

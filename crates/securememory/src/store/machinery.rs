//! What the secrets of one vault share, and keep alive by counted references.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::enclave::Enclave;
use crate::error::{Error, Outstanding};
use crate::gate::{Deadline, Refusal, word};
use crate::policy::{Cipher, Hold, Level, Policy, Store};
use crate::region::canary::Canary;
use crate::region::pool::Pool;
use crate::region::scratch::Scratch;
use crate::region::slots;
use crate::registry::{HELD, Slot, Thread};
use crate::shutdown::fork;
use crate::status::{Evidence, Protections, VaultStatus};
use crate::store::linger::Lingering;
use crate::store::slab::Slabs;

/// What a vault is built from.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) policy: Policy,
    pub(crate) store: Store,
    pub(crate) hold: Hold,
    pub(crate) hold_level: Level,
    pub(crate) sealed_max: usize,
    pub(crate) locked_max: usize,
    pub(crate) views_max: usize,
    pub(crate) cipher: Option<Cipher>,
    pub(crate) janitor: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            store: Store::Auto,
            hold: Hold::Auto,
            hold_level: Level::Prefer,
            sealed_max: 64 * 1024,
            locked_max: 64 * 1024,
            views_max: 4096,
            cipher: None,
            janitor: false,
        }
    }
}

impl Settings {
    /// Is a secret of `len` bytes, for which this store is asked, to be sealed?
    pub(super) fn seals(&self, len: usize, store: Option<Store>) -> bool {
        match store.unwrap_or(self.store) {
            Store::Sealed => true,
            Store::Paged => false,
            Store::Auto => len <= self.sealed_max,
        }
    }
}

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
    pub(crate) scratch: Scratch,
    pub(crate) pool: Pool,
    pub(super) slabs: Slabs,
}

/// The first threads have a ticket of their own for a view that is not nested.
const HOMES: usize = 64;

static NEXT_VAULT: AtomicU64 = AtomicU64::new(1);

impl Machinery {
    pub(crate) fn make(settings: Settings) -> Result<Arc<Self>, Error> {
        let levels = settings.policy.levels();
        if levels.fork == Level::Off {
            return Err(Error::Unsupported("a secret that a forked child inherits"));
        }
        if settings.views_max == 0 {
            return Err(Error::ScratchExhausted { limit: 0 });
        }
        fork::install()?;
        let canary = Canary::new()?;
        let tickets = Tickets::make(settings.views_max.saturating_add(HOMES))?;
        let mut enclave = Enclave::make(settings.hold, settings.hold_level, settings.cipher, levels)?;
        let scratch =
            match Scratch::new(settings.views_max, levels, settings.locked_max, enclave.locked_bytes()) {
                Ok(scratch) => scratch,
                Err(error) => {
                    enclave.destroy_key();
                    enclave.end();
                    return Err(error);
                }
            };
        if let Some((base, capacity)) = enclave.anchor().spare() {
            scratch.adopt(base, capacity, enclave.anchor().is_locked());
        }
        Ok(Arc::new(Self {
            id: NEXT_VAULT.fetch_add(1, Ordering::Relaxed),
            settings,
            enclave,
            canary,
            scratch,
            pool: Pool::new(),
            slabs: Slabs::new(),
            lingering: Lingering::new(),
            tickets: tickets.keep(),
            tickets_used: AtomicUsize::new(0),
        }))
    }

    /// Notes a view of a paged secret.
    #[inline]
    pub(super) fn take_ticket(&self, thread: Thread, secret: u64) -> Result<&'static Slot, Error> {
        let home = thread.index();
        if home < HOMES
            && let Some(slot) = self.tickets.get(home)
            && slot.take_own(HELD)
        {
            self.note_ticket(home, slot, thread, secret);
            return Ok(slot);
        }
        self.take_shared_ticket(thread, secret)
    }

    #[cold]
    fn take_shared_ticket(&self, thread: Thread, secret: u64) -> Result<&'static Slot, Error> {
        let shared = self.tickets.get(HOMES..).unwrap_or_default();
        // The first of them, so that what is looked at in search of views stays small.
        let start = thread.index() % shared.len().clamp(1, HOMES);
        let (before, after) = shared.split_at(start);
        for (step, slot) in after.iter().chain(before).enumerate() {
            if slot.take(HELD) {
                self.note_ticket(HOMES + (start + step) % shared.len(), slot, thread, secret);
                return Ok(slot);
            }
        }
        Err(Error::ScratchExhausted { limit: shared.len() })
    }

    #[inline]
    fn note_ticket(&self, index: usize, slot: &Slot, thread: Thread, secret: u64) {
        slot.assign(thread, secret);
        if index >= self.tickets_used.load(Ordering::Relaxed) {
            self.tickets_used.fetch_max(index + 1, Ordering::SeqCst);
        }
    }

    fn tickets(&self) -> &'static [Slot] {
        &self.tickets[..self.tickets_used.load(Ordering::SeqCst)]
    }

    /// All places that views may be in.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &'static Slot> {
        self.scratch.used().iter().chain(self.tickets())
    }

    /// The views of a secret, wherever they are.
    #[cold]
    pub(super) fn holders(&self, secret: u64) -> Outstanding {
        let mut outstanding = Outstanding::default();
        self.scratch.add_holders(secret, &mut outstanding);
        slots::add_holders(self.tickets(), secret, &mut outstanding);
        outstanding
    }

    /// Has the thread a borrowed view of the secret, in one of these roles?
    #[cold]
    pub(super) fn holds(&self, secret: u64, thread: Thread, roles: &[u32]) -> bool {
        self.scratch.holds(secret, thread, roles) || slots::holds(self.tickets(), secret, thread, roles)
    }

    /// Has the thread a view of the paged secret besides the one that it is about to open?
    #[cold]
    pub(super) fn is_nested(&self, secret: u64, thread: Thread) -> bool {
        slots::count(self.tickets(), secret, thread) > 1
    }

    /// Says in the user's terms why the gate refused.
    #[cold]
    pub(super) fn explain(&self, refusal: Refusal, secret: u64, deadline: Deadline) -> Error {
        match refusal {
            Refusal::Closed => Error::Closed,
            Refusal::TooMany => Error::TooManyViews { limit: word::MAX_VIEWS },
            Refusal::Call(cause) => Error::System(cause),
            Refusal::Late if deadline.is_immediate() => Error::Busy(self.holders(secret)),
            Refusal::Late => Error::Timeout { waited: deadline.waited(), holders: self.holders(secret) },
        }
    }

    pub(crate) fn status(&self) -> VaultStatus {
        let (scratch_slots, scratch_unlocked) = self.scratch.counts();
        let (replicas, replicas_renewed) = self.enclave.hold().replicas(self.enclave.anchor());
        VaultStatus {
            id: self.id,
            hold: self.enclave.hold().used(),
            hold_stepped_down: self.enclave.stepped_down(),
            key_stuck_open: self.enclave.is_alive() && self.enclave.hold().is_stuck(),
            replicas,
            replicas_renewed,
            cipher: self.enclave.cipher(),
            // The scratch's count began with the enclave's.
            locked_bytes: self.scratch.locked_bytes() + self.pool.locked_bytes(),
            scratch_slots,
            scratch_unlocked,
            secrets: self.slabs.live(),
            protections: self.enclave.protections(),
        }
    }

    /// Destroys a split key as a process that ends has to: the check halves, keys in use, the key halves. Says
    /// whether there is such a key.
    #[cfg(feature = "testing")]
    pub(crate) fn wipe_key(&self) -> bool {
        self.enclave.hold().wipe(self.enclave.anchor(), || self.scratch.wipe_keys())
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

/// A table of tickets until a vault has taken it.
struct Tickets(&'static [Slot]);

impl Tickets {
    fn make(max: usize) -> Result<Self, Error> {
        slots::make(max).map(Self)
    }

    fn keep(self) -> &'static [Slot] {
        let slots = self.0;
        let _ = std::mem::ManuallyDrop::new(self);
        slots
    }
}

impl Drop for Tickets {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: no vault has taken the table, so nobody has a ticket.
        unsafe { slots::free(self.0) };
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
        // The key first; then what is only worth something with it; the page that scratch may lie in last.
        self.enclave.destroy_key();
        // SAFETY: all secrets and owned views hold references to the machinery, so there are none;
        // a borrowed view that was forgotten can no longer be used by anybody.
        unsafe {
            self.scratch.end();
            self.pool.end();
            self.slabs.end();
            slots::free(self.tickets);
        }
        self.enclave.end();
    }
}

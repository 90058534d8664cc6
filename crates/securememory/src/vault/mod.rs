//! Vaults: an instance with its own policy, limits, stores and keys.

mod budget;
mod closing;
mod degradation;
pub(crate) mod diagnostics;
mod janitor;
mod keys;
mod preflight;

use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use crate::counters::{self, Count};
use crate::error::{Error, Result};
use crate::events;
use crate::fault::FaultPolicy;
use crate::locks;
use crate::policy::{Cipher, Hold, Level, Policy, Store};
#[cfg(feature = "testing")]
use crate::registry::guards;
use crate::status::VaultStatus;
use crate::store::{Machinery, Published, Settings, room};
pub use budget::Budget;
pub use closing::VaultClosed;
pub use degradation::Degradation;
pub use diagnostics::{Diagnostics, OpenView, ViewKind};
pub use keys::Purged;
pub use preflight::{Need, Preflight, Resource, Shortage};

/// An instance of the library: a key of its own, a policy, limits.
///
/// A clone is another handle of the same vault. Secrets keep alive what they need of their vault, and nothing more; the
/// handles may be dropped before them. When the last one has gone, what no secret needs is given back; with
/// [`VaultBuilder::close_on_drop`] the vault is closed. [`Vault::close`] ends it with all its secrets.
///
/// ```
/// use securememory::{Hold, Level, Policy, Vault};
/// let vault = Vault::builder().policy(Policy::new().lock(Level::Prefer)).hold(Hold::Auto).build()?;
/// let token = vault.secret().label("api token").from_bytes(&mut *b"0123456789abcdef".to_vec())?;
/// assert_eq!(token.len(), 16);
/// # Ok::<(), securememory::Error>(())
/// ```
pub struct Vault(Arc<Machinery>);

/// What a vault is to be.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct VaultBuilder(Settings);

/// The default vault. Never dropped: secrets in statics may need it to the end.
static GLOBAL: Published = Published::new();

impl Vault {
    /// A vault with defaults: stores by size, key hold by what works, the default policy.
    pub fn builder() -> VaultBuilder {
        VaultBuilder(Settings::default())
    }

    /// The default vault of the process, made on first use. In a forked child it is another one than in the
    /// parent. It is never dropped: its secrets are wiped when they are dropped or closed; for what is there still when the
    /// process ends, see [`Secret`](crate::Secret#in-statics).
    ///
    /// # Errors
    ///
    /// As [`VaultBuilder::build`]; the next call tries again.
    pub fn global() -> Result<Self> {
        Self::global_machinery().map(|machinery| Self::of(&machinery))
    }

    pub(crate) fn global_machinery() -> Result<Arc<Machinery>> {
        #[cfg(feature = "testing")]
        if let Some(watch) = guards::current() {
            return Self::default_under(&watch);
        }
        if let Some(machinery) = GLOBAL.get().filter(|machinery| machinery.enclave.is_alive()) {
            return Ok(Arc::clone(machinery));
        }
        let room = room::owned()?;
        let made = events::ended(Machinery::make(Settings::default()))?;
        announce(&made);
        // A handle that is never dropped: the process's own.
        made.handles.take();
        Ok(Arc::clone(GLOBAL.publish(made, room)))
    }

    /// What is true of the vault now. Reads the kernel's listing of mappings: a diagnosis, not for every read.
    #[must_use]
    pub fn status(&self) -> VaultStatus {
        events::tell();
        self.0.status()
    }

    /// The vault's id, unique in the process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Makes ready what `views` nested views of the calling thread need, so that none of them has to map
    /// memory.
    ///
    /// # Errors
    ///
    /// [`Error::ScratchExhausted`] where the bound is reached, [`Error::System`] where mapping fails; [`Error::Closed`],
    /// [`Error::Forked`], [`Error::Dying`].
    pub fn warm_thread(&self, views: usize) -> Result<()> {
        self.0.check_alive()?;
        if self.is_closed() {
            return Err(Error::Closed);
        }
        events::ended(self.0.scratch.warm(views, self.0.settings.policy.wait))
    }

    /// Does what is due by time: closes the pages of paged secrets whose [`Policy::linger`] is over, ends secrets that have
    /// [expired](Policy::time_to_live), and wipes owned views that are to be [revoked](Policy::revoke_after). Returns how
    /// long it will be until there is more to do, `None` where nothing is expected: for programs with an event loop, that
    /// want no janitor.
    pub fn tidy(&self) -> Option<Duration> {
        if !self.is_alive() {
            return None;
        }
        let next = [self.0.lingering.tidy(), self.0.tend_time()].into_iter().flatten().min();
        events::tell();
        next
    }

    /// Was it made by this process? In a forked child a vault of the parent is of no use.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.0.enclave.is_alive()
    }

    /// The default vault of threads under a test guard.
    #[cfg(feature = "testing")]
    fn default_under(watch: &guards::Watch) -> Result<Arc<Machinery>> {
        let known = |vault: Arc<guards::Anything>| vault.downcast::<Machinery>().ok();
        if let Some(vault) = watch.default_vault().and_then(known) {
            return Ok(vault);
        }
        let made = Machinery::make(Settings::default())?;
        // The guard's own, as of the process's.
        made.handles.take();
        let offered: Arc<guards::Anything> = Arc::<Machinery>::clone(&made);
        Ok(known(watch.offer_default(offered)).unwrap_or(made))
    }

    pub(crate) fn machinery(&self) -> &Machinery {
        &self.0
    }

    pub(crate) fn shared(&self) -> &Arc<Machinery> {
        &self.0
    }

    pub(crate) fn of(machinery: &Arc<Machinery>) -> Self {
        machinery.handles.take();
        Self(Arc::clone(machinery))
    }
}

/// Tells of a vault that has been made.
fn announce(machinery: &Machinery) {
    locks::user_code();
    counters::add(Count::Vaults);
    let (hold, cipher) = (machinery.enclave.used(), machinery.enclave.cipher());
    if let Some(cause) = machinery.unusual_step_down() {
        counters::add(Count::Degraded);
        tracing::warn!(vault = machinery.id, %cause, ?hold, "the vault's key is not held as was preferred");
    }
    tracing::debug!(vault = machinery.id, ?hold, ?cipher, "a vault was made");
}

impl Clone for Vault {
    fn clone(&self) -> Self {
        Self::of(&self.0)
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        // Where there are no secrets, all of it goes in a moment.
        if self.0.handles.give() && Arc::strong_count(&self.0) > 1 {
            locks::without_waiting(|| self.0.after_last_handle());
        }
    }
}

// A panic in a closure of the user's leaves nothing of ours half-done.
impl UnwindSafe for Vault {}
impl RefUnwindSafe for Vault {}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl VaultBuilder {
    fn settings(&mut self) -> &mut Settings {
        &mut self.0
    }

    /// The policy of secrets that have none of their own, and of the vault's key and scratch.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.0.policy = policy;
        self
    }

    /// The store of secrets that name none.
    pub fn store(mut self, store: Store) -> Self {
        self.0.store = store;
        self
    }

    /// How the vault's key is kept.
    pub fn hold(mut self, hold: Hold) -> Self {
        self.0.hold = hold;
        self
    }

    /// [`Level::Require`] forbids to step down to another hold than the one named; [`Level::Prefer`], the
    /// default, steps down and tells.
    pub fn hold_level(mut self, level: Level) -> Self {
        self.0.hold_level = level;
        self
    }

    /// The largest secret, in bytes, that [`Store::Auto`] seals; 64 KiB by default.
    pub fn sealed_max(mut self, bytes: usize) -> Self {
        self.0.sealed_max = bytes;
        self
    }

    /// Bytes that the vault's key and scratch lock at most; by default 64 KiB, or 16 pages where that is more (256 KiB where
    /// pages have 16 KiB, 1 MiB where they have 64 KiB). Views beyond it get scratch that is not locked where the policy
    /// only prefers locking, else [`Error::ScratchExhausted`]. Paged secrets are not counted: each locks its own pages. A
    /// page for the vault, and where the hold is not `Split` one for each key, are locked in any case.
    pub fn locked_max(mut self, bytes: usize) -> Self {
        self.0.locked_max = bytes;
        self
    }

    /// Views open at the same time at most; 4096 by default. Their memory is kept until the vault ends. Of views of
    /// paged secrets, one of each of the first 64 threads of the process is not counted.
    pub fn views_max(mut self, views: usize) -> Self {
        self.0.views_max = views;
        self
    }

    /// The cipher; by default the one that suits the processor. AEGIS-256 without AES instructions is slow and
    /// may leak through timing.
    pub fn cipher(mut self, cipher: Cipher) -> Self {
        self.0.cipher = Some(cipher);
        self
    }

    /// What is done about a fault in memory of this vault, where that is not what
    /// [`fault::install`](crate::fault::install) has said for all. Without that nothing is handled at all.
    pub fn on_fault(mut self, policy: FaultPolicy) -> Self {
        self.0.on_fault = Some(policy);
        self
    }

    /// Has a thread do what [`Vault::tidy`] does when it is due, replace the key when it is
    /// [due by age](Self::refresh_after), and move to a new key what older ones have sealed. It exists as long as the
    /// vault and its secrets, sleeps unless there is something to do, and receives no signals. Where it is at work when
    /// all others have dropped the vault, it is the one who wipes the key, a moment later.
    pub fn janitor(mut self) -> Self {
        self.0.janitor = true;
        self
    }

    /// Closes the vault when its last handle is dropped, as [`Vault::close`] does without waiting: secrets that are at rest
    /// are wiped, those with open views when these end. By default secrets outlive the handles.
    ///
    /// Where the one that drops the handle has a view of the vault, or another thread is changing the keys in that instant,
    /// it is closed a little later: by whoever makes or changes a secret in it next, by a [janitor](Self::janitor), or when
    /// its last secret goes.
    pub fn close_on_drop(mut self) -> Self {
        self.0.close_on_drop = true;
        self
    }

    /// Makes the vault: its key, its locked page.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] or [`Error::NotInForce`] where a required protection cannot be had,
    /// [`Error::HoldRefused`] where the required hold cannot, [`Error::System`] and [`Error::OutOfMemory`] where
    /// resources are short, [`Error::TooManyVaults`], [`Error::Unsupported`]. Nothing is left behind.
    pub fn build(self) -> Result<Vault> {
        locks::user_code();
        let _span = tracing::debug_span!("build_vault").entered();
        let wants_janitor = self.0.janitor;
        let made = Machinery::make(self.0).and_then(|machinery| {
            if wants_janitor {
                janitor::start(&machinery)?;
            }
            Ok(machinery)
        });
        let machinery = events::ended(made)?;
        announce(&machinery);
        Ok(Vault::of(&machinery))
    }
}

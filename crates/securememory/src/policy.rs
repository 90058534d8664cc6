//! What the user asks for: protections and how badly they are wanted, stores, holds, waits.

use std::time::Duration;

/// How badly a protection is wanted.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Without it nothing is created: the call that would have created it returns an error.
    Require,
    /// Asked for; where the system refuses, work goes on without it, `status()` says so, and one
    /// `tracing` event tells it.
    Prefer,
    /// Not asked for.
    Off,
}

/// A named set of levels.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Profile {
    /// `guard` and `fork` are required, `lock` and `dump` preferred.
    #[default]
    Default,
    /// These four are required.
    Strict,
    /// As `Strict`, and the key of sealed secrets must lie in memory that the kernel itself does not keep mapped: see
    /// [`Policy::secretmem`] for what that costs.
    Hardened,
}

/// How a secret is kept at rest.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Store {
    /// `Sealed` up to the vault's `sealed_max` bytes, `Paged` above.
    #[default]
    Auto,
    /// Authenticated ciphertext in ordinary memory; the vault's key is out of reach.
    Sealed,
    /// Plaintext in pages of its own that nothing may touch at rest.
    Paged,
}

/// How a vault's key is kept at rest.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Hold {
    /// The first of [`Hold::Pkey`], [`Hold::Split`], [`Hold::Guarded`] that works; what was taken is in the status. On
    /// most machines there are no protection keys: taking `Split` for that reason is recorded like every step down,
    /// but not told through `tracing`. [`Level::Require`] forbids the step to `Guarded`. A policy that wants
    /// [`secretmem`](Policy::secretmem) puts [`Hold::Secretmem`] first.
    #[default]
    Auto,
    /// A page that a memory protection key (pkeys(7)) denies to every thread but the one that is using the key. x86-64
    /// Linux, where processor and kernel have such keys. The key is used where it lies.
    ///
    /// One protection key serves all vaults of the process. It is the highest that was free when the first of them was
    /// made, and is never given back. Should the program have used that very number before and freed it, then threads
    /// of that time may still have it open; this cannot be found out.
    Pkey,
    /// Two shares: one in an in-memory file that is never mapped, one in locked memory.
    Split,
    /// Memory that the kernel itself does not keep mapped (memfd_secret(2)), closed at rest by a protection key where
    /// there are such keys, else by page protection. The key is used where it lies. The machine cannot hibernate while
    /// such a vault lives, and its page counts against the limit on locked memory.
    Secretmem,
    /// A page between guard pages that nothing may touch.
    Guarded,
}

/// What a close does with views that outlive its deadline.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum OnClose {
    /// The last view wipes and frees.
    #[default]
    Defer,
    /// Views are marked. An owned view is wiped at once unless its bytes are in use at that moment; a
    /// borrowed view is wiped when its borrow ends, and its `finish` says that it was revoked.
    Revoke,
}

/// What is done about a paged secret whose pages cannot be locked, where locking is preferred.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum OnLockLimit {
    /// It is made, its pages are not locked, and its status says so.
    #[default]
    Degrade,
    /// It is not made: [`Error::Refused`](crate::Error::Refused).
    Refuse,
    /// It is sealed instead, which takes no locked memory of its own, if its store was [`Store::Auto`]; its status says
    /// so ([`Status::next_store`](crate::Status::next_store)). One for which [`Store::Paged`] was named is not made.
    NextStore,
}

/// The authenticated cipher of a vault.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// AEGIS-256 with a 128-bit tag (draft-irtf-cfrg-aegis-aead), where the processor has AES instructions. Secrets of
    /// 1 KiB and more are sealed with [`Cipher::Aegis256X4`] where that is faster.
    Aegis256,
    /// XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha), constant time on every processor.
    XChaCha20Poly1305,
    /// AES-256-GCM (NIST SP 800-38D), for those whose rules demand a standard. Only with the cargo feature `aes-gcm`,
    /// else the vault is [`Error::Unsupported`](crate::Error::Unsupported). Slower than the others on small secrets;
    /// constant time also where the processor has no AES instructions. One key makes at most 2^32 seals, since its
    /// nonces are 96 random bits.
    Aes256Gcm,
    /// AEGIS-256X4 with a 128-bit tag: the wide variant of AEGIS-256, for processors with AES instructions on registers
    /// of 512 bits. Elsewhere it is slower than AEGIS-256.
    Aegis256X4,
}

/// Which protections a secret or a vault must have, and how long its calls may wait.
///
/// ```
/// use securememory::{Level, Policy};
/// use std::time::Duration;
/// let policy = Policy::strict().dump(Level::Prefer).close_wait(Duration::from_millis(50));
/// assert_eq!(policy.levels().lock, Level::Require);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    levels: Levels,
    pub(crate) wait: Duration,
    pub(crate) close_wait: Duration,
    pub(crate) on_close: OnClose,
    pub(crate) revoke_after: Option<Duration>,
    pub(crate) linger: Duration,
    pub(crate) on_lock_limit: OnLockLimit,
    pub(crate) time_to_live: Option<Duration>,
    pub(crate) idle_time: Option<Duration>,
}

/// One level for each protection.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// Guard pages on both sides of everything that holds plaintext or keys.
    pub guard: Level,
    /// Pages are locked into memory (mlock), so that they are not written to swap.
    pub lock: Level,
    /// Pages are left out of core dumps.
    pub dump: Level,
    /// A forked child finds zeros where the parent has keys or plaintext.
    pub fork: Level,
    /// The key of sealed secrets lies in memory that the kernel itself does not keep mapped.
    pub secretmem: Level,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            levels: Levels {
                guard: Level::Require,
                lock: Level::Prefer,
                dump: Level::Prefer,
                fork: Level::Require,
                secretmem: Level::Off,
            },
            wait: Duration::from_secs(1),
            close_wait: Duration::from_secs(1),
            on_close: OnClose::Defer,
            revoke_after: None,
            linger: Duration::ZERO,
            on_lock_limit: OnLockLimit::Degrade,
            time_to_live: None,
            idle_time: None,
        }
    }
}

impl Policy {
    /// The default policy: guard and fork required, lock and dump preferred, waits of one second.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The levels of a profile, with the default waits.
    #[must_use]
    pub fn profile(profile: Profile) -> Self {
        let policy = Self::default();
        match profile {
            Profile::Default => policy,
            Profile::Strict => policy.lock(Level::Require).dump(Level::Require),
            Profile::Hardened => Self::profile(Profile::Strict).secretmem(Level::Require),
        }
    }

    /// Short for [`Profile::Strict`].
    #[must_use]
    pub fn strict() -> Self {
        Self::profile(Profile::Strict)
    }

    /// Short for [`Profile::Hardened`].
    #[must_use]
    pub fn hardened() -> Self {
        Self::profile(Profile::Hardened)
    }

    /// Sets how badly guard pages are wanted. With `Off` they are still there: they cost nothing.
    #[must_use]
    pub fn guard(mut self, level: Level) -> Self {
        self.levels.guard = level;
        self
    }

    /// Sets how badly locking is wanted.
    #[must_use]
    pub fn lock(mut self, level: Level) -> Self {
        self.levels.lock = level;
        self
    }

    /// Sets how badly exclusion from core dumps is wanted.
    #[must_use]
    pub fn dump(mut self, level: Level) -> Self {
        self.levels.dump = level;
        self
    }

    /// Sets how badly it is wanted that a forked child has nothing. `Off` (the child inherits) is not
    /// supported yet and is an error at creation.
    #[must_use]
    pub fn fork(mut self, level: Level) -> Self {
        self.levels.fork = level;
        self
    }

    /// Sets how badly it is wanted that the key of sealed secrets lies in memory that the kernel itself does not keep
    /// mapped (memfd_secret(2)).
    ///
    /// In the policy of a vault whose hold is [`Hold::Auto`], `Require` means [`Hold::Secretmem`] and nothing else, and
    /// `Prefer` means that it is tried first. With another hold named, `Require` is an error. In the policy of a
    /// secret, `Require` is an error unless its vault has that hold, and for a paged secret, whose plaintext lies in
    /// ordinary pages: so also for one that [`Store::Auto`] would make paged.
    ///
    /// The price: the machine cannot hibernate while such a vault lives, and its page counts against the limit on
    /// locked memory (RLIMIT_MEMLOCK).
    #[must_use]
    pub fn secretmem(mut self, level: Level) -> Self {
        self.levels.secretmem = level;
        self
    }

    /// How long `view` and `view_mut` wait; zero gives [`Error::Busy`](crate::Error::Busy) at once.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// How long `close` waits for views to end.
    #[must_use]
    pub fn close_wait(mut self, wait: Duration) -> Self {
        self.close_wait = wait;
        self
    }

    /// What `close` does with views that outlive its deadline.
    #[must_use]
    pub fn on_close(mut self, on_close: OnClose) -> Self {
        self.on_close = on_close;
        self
    }

    /// Revokes views that a close with [`OnClose::Defer`] has left, so long after that close; never by default. From then on
    /// they are as after [`OnClose::Revoke`]: the bytes of an owned view are not to be had any more, and are wiped by the
    /// first who asks for them, by [`Vault::tidy`](crate::Vault::tidy) or by a
    /// [janitor](crate::VaultBuilder::janitor), whichever comes first; the `finish` of a borrowed view says that it was
    /// revoked.
    #[must_use]
    pub fn revoke_after(mut self, time: Duration) -> Self {
        self.revoke_after = Some(time);
        self
    }

    /// Closes a secret when it has existed for so long; never by default. Opening it is
    /// [`Error::Expired`](crate::Error::Expired) from then on. Views that are open stay until they end, as after a close
    /// with [`OnClose::Defer`] that does not wait.
    ///
    /// The time is looked at by whoever opens the secret, on a clock that also runs while the machine is suspended
    /// (`CLOCK_BOOTTIME`, clock_gettime(2)). What is at rest is wiped then, or before that by
    /// [`Vault::tidy`](crate::Vault::tidy) or a [janitor](crate::VaultBuilder::janitor).
    #[must_use]
    pub fn time_to_live(mut self, time: Duration) -> Self {
        self.time_to_live = Some(time);
        self
    }

    /// Closes a secret when nobody has opened it for so long; never by default. Else as [`Policy::time_to_live`]. A view
    /// counts as a use when it is opened, not while it is open.
    #[must_use]
    pub fn idle_time(mut self, time: Duration) -> Self {
        self.idle_time = Some(time);
        self
    }

    /// How long the pages of a paged secret stay open after the last view, so that the next one costs no protection
    /// changes; zero by default. Meanwhile a stray read in the process finds the secret.
    ///
    /// Pages whose time is over are closed by the next operation on a paged secret of the vault, by
    /// [`Vault::tidy`](crate::Vault::tidy), or by a thread that [`VaultBuilder::janitor`](crate::VaultBuilder::janitor)
    /// asks for; without any of these they stay open. At most 64 secrets of a vault linger at the same time; the
    /// pages of others are closed at once.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// What is done about a paged secret whose pages cannot be locked, where locking is preferred: because the limit of the
    /// process is reached, for instance ([`Vault::budget`](crate::Vault::budget)). What is not
    /// [`OnLockLimit::Degrade`] makes of a paged secret one that requires locking, and costs as much: each page that is
    /// new is looked up in the kernel's listing. A change of such a secret is [`Error::Refused`](crate::Error::Refused)
    /// where the image of the old value cannot be locked.
    ///
    /// Views of sealed secrets, and a vault's key, are not meant: see
    /// [`VaultBuilder::locked_max`](crate::VaultBuilder::locked_max).
    #[must_use]
    pub fn on_lock_limit(mut self, on_lock_limit: OnLockLimit) -> Self {
        self.on_lock_limit = on_lock_limit;
        self
    }

    /// The levels asked for.
    #[must_use]
    pub fn levels(&self) -> Levels {
        self.levels
    }

    /// May a secret that asked for this store, and would be paged, be sealed where its pages cannot be locked?
    pub(crate) fn may_seal(&self, store: Store) -> bool {
        store == Store::Auto
            && self.on_lock_limit == OnLockLimit::NextStore
            && self.levels.lock == Level::Prefer
    }

    /// What the pages of a paged secret must have.
    #[inline]
    pub(crate) fn page_levels(&self) -> Levels {
        let mut levels = self.levels;
        if levels.lock == Level::Prefer && self.on_lock_limit != OnLockLimit::Degrade {
            levels.lock = Level::Require;
        }
        levels
    }

    /// Does a secret of this policy expire?
    #[inline]
    pub(crate) fn expires(&self) -> bool {
        self.time_to_live.is_some() || self.idle_time.is_some()
    }

    /// May views lie in locked memory only?
    #[inline]
    pub(crate) fn requires_lock(&self) -> bool {
        self.levels.lock == Level::Require
    }
}

//! How much a vault may hold and the process may lock, and how much of that is taken.

use std::fmt;

use crate::error::Quota;
use crate::os::room;
use crate::store::Limits;
use crate::vault::{Vault, VaultBuilder};

/// What is taken and what there may be, at the moment of the call. Its `Display` says it in two lines.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Secrets of the vault; each sealed chunk of a stream counts as one.
    pub secrets: u64,
    /// As many as there may be: [`VaultBuilder::secrets_max`]. `None`: any number.
    pub secrets_max: Option<u64>,
    /// Bytes of these secrets and chunks.
    pub bytes: u64,
    /// As many as there may be: [`VaultBuilder::bytes_max`]. `None`: any number.
    pub bytes_max: Option<u64>,
    /// Bytes that the vault has locked: its key, its scratch, its pages.
    pub locked: u64,
    /// Bytes that are locked in the process, by whomever, as the kernel counts them against the limit: `VmLck` in
    /// proc_pid_status(5). `None` where it does not tell.
    pub locked_in_process: Option<u64>,
    /// Bytes that the process may lock: `RLIMIT_MEMLOCK` in getrlimit(2), the soft limit. `None` where it is bound by
    /// none, as with CAP_IPC_LOCK.
    pub lock_limit: Option<u64>,
    /// Bytes that may still be locked in the process; [`u64::MAX`] where it is bound by no limit, `None` where it is not
    /// known.
    pub lock_left: Option<u64>,
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        share(f, self.secrets, Quota::Secrets, self.secrets_max)?;
        f.write_str(", ")?;
        share(f, self.bytes, Quota::Bytes, self.bytes_max)?;
        write!(f, "\nlocked: {} bytes by the vault, ", self.locked)?;
        match self.locked_in_process {
            Some(bytes) => write!(f, "{bytes} in the process")?,
            None => f.write_str("an unknown number in the process")?,
        }
        match self.lock_limit {
            Some(limit) => write!(f, ", of {limit} that it may lock"),
            None => f.write_str(", which may lock any number"),
        }
    }
}

fn share(f: &mut fmt::Formatter<'_>, taken: u64, of: Quota, limit: Option<u64>) -> fmt::Result {
    match limit {
        Some(limit) => write!(f, "{taken} of {limit} {of}"),
        None => write!(f, "{taken} {of}"),
    }
}

/// A limit, if it is one.
pub(super) fn bound(limit: u64) -> Option<u64> {
    (limit != u64::MAX).then_some(limit)
}

impl Vault {
    /// Says how many secrets and bytes the vault holds, and may hold; and how much it has locked, next to what the process
    /// has locked in all and may lock. Reads /proc: a diagnosis, not for every creation.
    ///
    /// In a forked child nothing is counted of a vault of the parent's.
    ///
    /// ```
    /// use securememory::{Error, ErrorKind, Vault};
    /// let vault = Vault::builder().secrets_max(2).bytes_max(48).build()?;
    /// let token = vault.secret().random(32)?;
    /// let refused = vault.secret().random(32).unwrap_err();
    /// assert_eq!((refused.kind(), vault.budget().bytes), (ErrorKind::Limit, 32));
    /// drop(token);
    /// assert!(vault.secret().random(32).is_ok());
    /// # Ok::<(), securememory::Error>(())
    /// ```
    #[must_use]
    pub fn budget(&self) -> Budget {
        if !self.is_alive() {
            return Budget::default();
        }
        let machinery = self.machinery();
        let Limits { secrets, bytes } = machinery.settings.limits;
        let live = machinery.live();
        let (lock_limit, room) = room::lockable();
        Budget {
            secrets: live.secrets,
            secrets_max: bound(secrets),
            bytes: live.bytes,
            bytes_max: bound(bytes),
            locked: machinery.locked_bytes(machinery.enclave.keys().live) as u64,
            locked_in_process: room.in_use,
            lock_limit,
            lock_left: room.left,
        }
    }
}

impl VaultBuilder {
    /// Secrets that there may be in the vault at the same time; any number by default. Each sealed chunk of a stream counts
    /// as one. One more is [`Error::OverBudget`](crate::Error::OverBudget).
    ///
    /// A secret counts from the beginning of its creation until it is at rest no more: until it was closed or dropped and
    /// its last view has ended. One that was purged counts until then, too, as what it takes is still there.
    pub fn secrets_max(mut self, secrets: u64) -> Self {
        self.settings().limits.secrets = secrets;
        self
    }

    /// Bytes that all secrets and sealed chunks of the vault may have together; any number by default. Counted is what is
    /// kept, and for as long as [`VaultBuilder::secrets_max`] says; not what it takes to keep it, nor copies in views, nor
    /// the chunk that a stream is filling. (The chunk that stands for an empty stream has one byte.) More is
    /// [`Error::OverBudget`](crate::Error::OverBudget).
    pub fn bytes_max(mut self, bytes: u64) -> Self {
        self.settings().limits.bytes = bytes;
        self
    }
}

//! What can go wrong, as types: which call, which errno, which limit, and what to change.

mod io;

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use crate::os::{Build, Call, CallError, errno};

/// The result of nearly everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Small, comparable, without a byte of any secret.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A secret of zero bytes was asked for.
    #[error("a secret needs at least one byte")]
    Empty,
    /// More bytes than the store or the address space can hold.
    #[error("{len} bytes are more than the {limit} that are possible here")]
    TooLarge {
        /// Bytes asked for.
        len: usize,
        /// The most that is possible.
        limit: usize,
    },
    /// An alignment that is not a power of two, or larger than a page.
    #[error("alignment {align} is not a power of two of at most {limit}")]
    BadAlignment {
        /// Bytes asked for.
        align: usize,
        /// The most that is possible: a page.
        limit: usize,
    },
    /// A label longer than the limit.
    #[error("a label of {len} bytes is longer than {limit}")]
    LabelTooLong {
        /// Bytes given.
        len: usize,
        /// The most that is possible.
        limit: usize,
    },
    /// The new value has another length than the old one.
    #[error("the value has {got} bytes, the secret has {expected}")]
    LengthMismatch {
        /// The length of the secret.
        expected: usize,
        /// The length given.
        got: usize,
    },
    /// A range that does not lie inside the view.
    #[error("{start}..{end} is not a range of {len} bytes")]
    OutOfRange {
        /// Its start.
        start: usize,
        /// Its end.
        end: usize,
        /// Bytes of the view.
        len: usize,
    },
    /// A required protection could not be had.
    #[error("required protection `{protection}` was refused: {cause}")]
    Refused {
        /// Which one.
        protection: Protection,
        /// Who refused, and why.
        cause: CallError,
    },
    /// A required protection is not in force: it was granted by the call, but a check found that it is not there; or
    /// the vault was made without it.
    #[error("required protection `{0}` is not in force")]
    NotInForce(Protection),
    /// The hold that was required cannot be had here.
    #[error("the required key hold is not to be had: {0}")]
    HoldRefused(CallError),
    /// What was asked for does not exist in this version or on this system.
    #[error("{0} is not supported here")]
    Unsupported(&'static str),
    /// The system refused memory, a descriptor, randomness or another resource.
    #[error("{0}")]
    System(CallError),
    /// Ordinary memory ran out.
    #[error("no memory for {bytes} bytes")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// All places for views are in use, or (where locking is required) all lockable ones.
    #[error("all {limit} places for views are in use")]
    ScratchExhausted {
        /// How many there are.
        limit: usize,
    },
    /// The vault's own limit on secrets, or on their bytes:
    /// [`VaultBuilder::secrets_max`](crate::VaultBuilder::secrets_max),
    /// [`bytes_max`](crate::VaultBuilder::bytes_max).
    #[error("{asked} more {of} are over the vault's limit of {limit}, of which {in_use} are in use")]
    OverBudget {
        /// Of what.
        of: Quota,
        /// As many as were wanted.
        asked: u64,
        /// As many as there were.
        in_use: u64,
        /// The most that there may be.
        limit: u64,
    },
    /// As many vaults live in the process as can be.
    #[error("a process cannot have more than {limit} vaults")]
    TooManyVaults {
        /// How many there can be.
        limit: usize,
    },
    /// As many views of one secret are open as can be counted.
    #[error("a secret cannot have more than {limit} views")]
    TooManyViews {
        /// How many can be counted.
        limit: usize,
    },
    /// It is in use, and the policy's wait is zero.
    #[error("in use by {0}")]
    Busy(Outstanding),
    /// It stayed in use until the deadline.
    #[error("still in use after {waited:?} by {holders}")]
    Timeout {
        /// How long the call waited.
        waited: Duration,
        /// Who holds it.
        holders: Outstanding,
    },
    /// The call would wait for a view of the thread that makes it.
    #[error("this thread holds a view for which the call would wait for ever")]
    WouldDeadlock,
    /// The secret, or its vault, has been closed.
    #[error("closed")]
    Closed,
    /// The secret's time is over: see [`Policy::time_to_live`](crate::Policy::time_to_live) and
    /// [`Policy::idle_time`](crate::Policy::idle_time). It has been closed.
    #[error("expired")]
    Expired,
    /// The view outlived a close with [`OnClose::Revoke`](crate::OnClose::Revoke), or the time that
    /// [`Policy::revoke_after`](crate::Policy::revoke_after) gave it.
    #[error("revoked by a close")]
    Revoked,
    /// The secret belongs to the process that forked this one.
    #[error("the secret belongs to the parent process and is gone in this one")]
    Forked,
    /// The process is going down, and has wiped its secrets.
    #[error("the process is ending; its secrets have been wiped")]
    Dying,
    /// Memory of the secret, or of the view, was lost, to failing hardware for instance, and has been replaced by noise: see
    /// [`FaultPolicy::Recover`](crate::fault::FaultPolicy::Recover). What was read meanwhile must be distrusted.
    #[error("memory of the secret was lost; what was read must be distrusted")]
    Poisoned,
    /// Handling of faults, or of a signal, has been installed already: by another part of the program.
    #[error("already installed by another part of the program")]
    AlreadyInstalled,
    /// A signal that cannot be had: there is no such, or it cannot be handled, or it is not one of those that were
    /// installed.
    #[error("signal {signal} cannot be handled here")]
    BadSignal {
        /// Its number.
        signal: i32,
    },
    /// As many handlers are registered in the process as can be.
    #[error("a process cannot have more than {limit} signal handlers registered")]
    TooManyHandlers {
        /// How many there can be.
        limit: usize,
    },
    /// The vault's key cannot be put together: its share in the file, or the one in memory, is lost.
    #[error("the vault's key is lost")]
    KeyLost,
    /// The key that it was sealed under was destroyed by [`Vault::purge`](crate::Vault::purge).
    #[error("purged: its key was destroyed")]
    Purged,
    /// The vault's key has made as many seals as are safe, and could not be replaced by a new one. Nothing is sealed
    /// before [`Vault::refresh`](crate::Vault::refresh) has succeeded.
    #[error("the key has sealed {limit} times, which is as often as is safe, and a new one could not be had")]
    KeyUsedUp {
        /// Seals under one key at most.
        limit: u64,
    },
    /// What lies at rest is not what was stored.
    #[error("what was stored has been changed or exchanged")]
    Tampered,
    /// A stream has no end: its last chunk is missing, or all of them. What was read before is what was written.
    #[error("the stream breaks off after {chunks} chunks; its end is missing")]
    Truncated {
        /// Chunks that are there.
        chunks: u64,
    },
    /// The stream is complete and takes no more bytes.
    #[error("the stream is complete and takes no more bytes")]
    Complete,
    /// Bytes outside the secret were written while a view was open.
    #[error("bytes {side} of the secret were overwritten while a view was open")]
    Overrun {
        /// On which side.
        side: Side,
    },
    /// The view's memory could not be closed again; it is tried again by the next operation.
    #[error("pages could not be protected again: {0}")]
    StuckOpen(CallError),
    /// The reader ended before the secret was full; what it had given was wiped.
    #[error("the reader ended after {got} of {expected} bytes, which were wiped")]
    EndedEarly {
        /// Bytes wanted.
        expected: usize,
        /// Bytes read and wiped.
        got: usize,
    },
    /// The reader failed; what it had given was wiped.
    #[error("the reader failed ({kind}) after {got} bytes, which were wiped")]
    Reader {
        /// As the reader reported it.
        kind: std::io::ErrorKind,
        /// Bytes read and wiped.
        got: usize,
    },
    /// A lock inside the library was not free in time.
    #[error("an internal lock was not free within {0:?}")]
    LockTimeout(Duration),
}

/// What kind of mishap an [`Error`] is: what a caller can do about it.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The call's arguments are wrong: mend the program.
    Usage,
    /// A limit of the system or of the vault is reached: raise it, or hold less.
    Limit,
    /// A protection that the policy requires is not to be had here: change the system or the policy.
    Protection,
    /// Someone else is using it: try again.
    Busy,
    /// It has ended: closed, revoked, or left behind in the parent process.
    Gone,
    /// Memory was damaged: distrust the process.
    Damage,
    /// The system or the caller's reader failed in another way.
    System,
}

impl Error {
    /// The kind, which says what a caller can do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Empty
            | Self::TooLarge { .. }
            | Self::BadAlignment { .. }
            | Self::LabelTooLong { .. }
            | Self::LengthMismatch { .. }
            | Self::OutOfRange { .. }
            | Self::Unsupported(_)
            | Self::Complete
            | Self::AlreadyInstalled
            | Self::BadSignal { .. }
            | Self::WouldDeadlock => ErrorKind::Usage,
            Self::OutOfMemory { .. }
            | Self::ScratchExhausted { .. }
            | Self::OverBudget { .. }
            | Self::TooManyVaults { .. }
            | Self::TooManyViews { .. }
            | Self::TooManyHandlers { .. }
            | Self::KeyUsedUp { .. } => ErrorKind::Limit,
            Self::Refused { cause, .. } if is_out_of_mappings(cause) => ErrorKind::Limit,
            Self::Refused { .. } | Self::NotInForce(_) | Self::HoldRefused(_) => ErrorKind::Protection,
            Self::Busy(_) | Self::Timeout { .. } | Self::LockTimeout(_) => ErrorKind::Busy,
            Self::Closed | Self::Expired | Self::Revoked | Self::Forked | Self::Dying | Self::Purged => {
                ErrorKind::Gone
            }
            Self::KeyLost
            | Self::Tampered
            | Self::Poisoned
            | Self::Truncated { .. }
            | Self::Overrun { .. } => ErrorKind::Damage,
            Self::System(cause) if is_limit(cause) => ErrorKind::Limit,
            Self::System(_) | Self::StuckOpen(_) | Self::EndedEarly { .. } | Self::Reader { .. } => {
                ErrorKind::System
            }
        }
    }

    /// The call that is to blame, if one is.
    pub(crate) const fn call(&self) -> Option<CallError> {
        match self {
            Self::Refused { cause, .. }
            | Self::System(cause)
            | Self::StuckOpen(cause)
            | Self::HoldRefused(cause) => Some(*cause),
            _ => None,
        }
    }

    /// What to change so that it does not happen again, with the limits as they are at this moment. `None`
    /// where there is nothing to change outside the program.
    #[must_use]
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Self::Refused { cause, .. } | Self::System(cause) | Self::StuckOpen(cause) => {
                Hint::of_call(cause)
            }
            Self::HoldRefused(cause) => Hint::of_call(cause),
            Self::OutOfMemory { .. } => Some(
                Hint::of_address_space()
                    .unwrap_or_else(|| Hint::Memory { available: crate::os::room::memory().left }),
            ),
            Self::ScratchExhausted { .. } => Some(Hint::Views),
            &Self::OverBudget { of, .. } => Some(Hint::Budget(of)),
            // No call has claimed it: vault and secret ask for different things.
            Self::NotInForce(Protection::Secretmem) => None,
            Self::NotInForce(_) => Some(Hint::Emulation),
            _ => None,
        }
    }
}

/// No protection was refused, but the room in the list of mappings that a part of one with marks of its own takes: madvise(2)
/// says EAGAIN for the ENOMEM of older kernels.
fn is_out_of_mappings(cause: &CallError) -> bool {
    cause.call == Call::Madvise && matches!(cause.errno, errno::EAGAIN | errno::ENOMEM)
}

fn is_limit(cause: &CallError) -> bool {
    matches!(cause.errno, errno::ENOMEM | errno::EMFILE | errno::ENFILE | errno::EAGAIN | errno::ENOSPC)
}

/// What to change about a limit. Its `Display` is a sentence for the person who runs the program.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// The limit on locked memory.
    LockedMemory {
        /// The soft limit, bytes; `None` where there is none.
        limit: Option<u64>,
        /// Bytes locked by the process now, if known.
        in_use: Option<u64>,
    },
    /// The limit on open descriptors.
    Descriptors {
        /// The soft limit.
        limit: Option<u64>,
    },
    /// The limit on mappings, or on address space.
    Mappings {
        /// `vm.max_map_count`, if known.
        limit: Option<u64>,
    },
    /// The memory of the machine, or of a control group around the process.
    Memory {
        /// Bytes that are left, if known.
        available: Option<u64>,
    },
    /// The limit on address space.
    AddressSpace {
        /// The soft limit, bytes, if known.
        limit: Option<u64>,
    },
    /// A system-call filter or security module refused the call.
    Filter(Call),
    /// The vault's own limit on views.
    Views,
    /// The vault's own limit on secrets or their bytes.
    Budget(Quota),
    /// The kernel accepts calls without carrying them out, as user-mode emulators do.
    Emulation,
}

impl Hint {
    /// The limit on address space, where that is what memory was refused by, as far as that can be told.
    fn of_address_space() -> Option<Self> {
        // A vault takes less at a time, unless it is asked for more.
        const BYTES: u64 = 1 << 24;
        const MAPPINGS: u64 = 64;
        let space = crate::os::room::address_space();
        let limit = space.in_use?.checked_add(space.left.filter(|&left| left < BYTES)?);
        let others = crate::os::room::mappings().left.is_none_or(|left| left > MAPPINGS);
        others.then_some(Self::AddressSpace { limit })
    }

    fn of_call(cause: &CallError) -> Option<Self> {
        match (cause.call, cause.errno) {
            // madvise(2) says EAGAIN where a mapping cannot be split, for ENOMEM.
            (Call::Madvise, errno::EAGAIN) => Some(Self::Mappings { limit: crate::os::mapping_limit() }),
            // The page of a key in secretmem could not be populated: newer kernels count it only then.
            (Call::Getrandom, errno::EFAULT)
            | (Call::Mlock, errno::ENOMEM | errno::EAGAIN | errno::EPERM)
            | (_, errno::EAGAIN) => {
                Some(Self::LockedMemory { limit: crate::os::lock_limit(), in_use: crate::os::locked_now() })
            }
            (_, errno::EMFILE | errno::ENFILE) => {
                Some(Self::Descriptors { limit: crate::os::descriptor_limit() })
            }
            (_, errno::ENOMEM) => Some(
                Self::of_address_space()
                    .unwrap_or_else(|| Self::Mappings { limit: crate::os::mapping_limit() }),
            ),
            // What the system itself does not have nobody can allow.
            (Call::MemfdCreate, errno::ENOSYS) if !Build::HERE.split => None,
            (Call::PkeyAlloc, errno::ENOSYS) if !Build::HERE.pkey => None,
            (Call::MemfdSecret, errno::ENOSYS) if !Build::HERE.secretmem => None,
            (call, errno::EPERM | errno::ENOSYS | errno::EACCES) => Some(Self::Filter(call)),
            _ => None,
        }
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LockedMemory { limit, in_use } => {
                write!(f, "locked memory is limited to ")?;
                bytes_or(f, *limit, "no bound")?;
                write!(f, ", ")?;
                bytes_or(f, *in_use, "an unknown amount")?;
                if cfg!(windows) {
                    return write!(
                        f,
                        " in use; the minimum of the working set could not be raised: give the program more with \
                         SetProcessWorkingSetSize, or its user the right to increase a working set"
                    );
                }
                write!(
                    f,
                    " in use; raise it with `ulimit -l`, LimitMEMLOCK= in a systemd unit, `--ulimit memlock=` \
                     for a container, or grant CAP_IPC_LOCK"
                )
            }
            Self::Descriptors { limit } => {
                write!(f, "open descriptors are limited to ")?;
                number_or(f, *limit)?;
                write!(f, "; raise it with `ulimit -n`, LimitNOFILE= or `--ulimit nofile=`")
            }
            Self::Mappings { .. } | Self::Memory { .. } if cfg!(windows) => write!(
                f,
                "Windows has no more memory to commit: enlarge the page file, add memory, or raise the limit of the job \
                 object"
            ),
            Self::Mappings { limit } => {
                write!(f, "mappings are limited to ")?;
                number_or(f, *limit)?;
                write!(
                    f,
                    " (vm.max_map_count); raise it with sysctl, or look at `ulimit -v`, memory cgroups and \
                     vm.overcommit_memory"
                )
            }
            Self::Memory { available } => {
                bytes_or(f, *available, "an unknown amount")?;
                write!(
                    f,
                    " of memory are left; add some, or raise memory.max (memory.limit_in_bytes) of the cgroup, \
                     `ulimit -d`, or, where vm.overcommit_memory is 2, vm.overcommit_ratio"
                )
            }
            Self::AddressSpace { limit } => {
                write!(f, "address space is limited to ")?;
                bytes_or(f, *limit, "an unknown amount")?;
                write!(f, "; raise it with `ulimit -v` or LimitAS=")
            }
            Self::Filter(call) => {
                write!(f, "a seccomp filter or security module may forbid {}; allow it", call.name())
            }
            Self::Budget(Quota::Secrets) => {
                write!(f, "close secrets and streams that are not needed, or raise secrets_max of the vault")
            }
            Self::Budget(Quota::Bytes) => {
                write!(f, "close secrets and streams that are not needed, or raise bytes_max of the vault")
            }
            Self::Views => write!(f, "hold fewer views, or raise views_max or locked_max of the vault"),
            Self::Emulation => {
                write!(
                    f,
                    "the kernel or emulator accepts the call without effect; make the protection `Prefer`"
                )
            }
        }
    }
}

fn bytes_or(f: &mut fmt::Formatter<'_>, value: Option<u64>, none: &str) -> fmt::Result {
    match value {
        Some(bytes) => write!(f, "{} KiB", bytes / 1024),
        None => f.write_str(none),
    }
}

fn number_or(f: &mut fmt::Formatter<'_>, value: Option<u64>) -> fmt::Result {
    match value {
        Some(number) => write!(f, "{number}"),
        None => f.write_str("an unknown number"),
    }
}

/// What a vault's budget counts.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quota {
    /// Secrets; each sealed chunk of a stream counts as one.
    Secrets,
    /// Bytes of secrets and streams, without what it takes to keep them.
    Bytes,
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secrets => "secrets",
            Self::Bytes => "bytes",
        })
    }
}

/// The protections that a policy speaks of.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protection {
    /// Guard pages.
    Guard,
    /// Locked into memory.
    Lock,
    /// Left out of core dumps.
    Dump,
    /// Wiped in a forked child.
    Fork,
    /// The key in memory that the kernel itself does not keep mapped.
    Secretmem,
}

impl Protection {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Guard => "guard",
            Self::Lock => "lock",
            Self::Dump => "dump",
            Self::Fork => "fork",
            Self::Secretmem => "secretmem",
        }
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where bytes beside a secret were overwritten.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Below its first byte.
    Below,
    /// Above its last byte.
    Above,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Below => "below the start",
            Self::Above => "above the end",
        })
    }
}

/// How many views are open, and whose the first of them are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outstanding {
    pub(crate) views: u32,
    pub(crate) threads: [u32; Self::NAMED],
}

impl Outstanding {
    /// At most so many views are named.
    pub const NAMED: usize = 4;

    /// How many views are open.
    #[must_use]
    pub fn views(&self) -> usize {
        self.views as usize
    }

    /// The system's ids of the threads that made the first of them; an owned view may be elsewhere by now.
    pub fn threads(&self) -> impl Iterator<Item = u32> + '_ {
        self.threads.iter().copied().filter(|&id| id != 0)
    }
}

impl fmt::Display for Outstanding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} view{}", self.views, if self.views == 1 { "" } else { "s" })?;
        for (n, thread) in self.threads().enumerate() {
            write!(f, "{}{thread}", if n == 0 { " (thread " } else { ", " })?;
        }
        if self.threads().next().is_some() { f.write_str(")") } else { Ok(()) }
    }
}

/// What became of a closure that was given a secret's bytes.
///
/// The two cases differ in what a caller may do: what has not run can be tried again, what has run cannot.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WithError<R> {
    /// The closure was not called.
    NotRun(Error),
    /// The closure was called and returned, but what it returned must be distrusted.
    Ran {
        /// What it returned.
        result: R,
        /// Why to distrust it.
        error: Error,
    },
}

impl<R> WithError<R> {
    /// The error in either case.
    #[must_use]
    pub fn error(&self) -> Error {
        match self {
            Self::NotRun(error) | Self::Ran { error, .. } => *error,
        }
    }
}

impl<R> From<WithError<R>> for Error {
    fn from(outcome: WithError<R>) -> Self {
        outcome.error()
    }
}

impl<R> fmt::Display for WithError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRun(error) => write!(f, "not run: {error}"),
            Self::Ran { error, .. } => write!(f, "ran, but its result must be distrusted: {error}"),
        }
    }
}

impl<R: fmt::Debug> std::error::Error for WithError<R> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotRun(error) | Self::Ran { error, .. } => Some(error),
        }
    }
}

/// Why a creation with a closure that may fail did not create.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TryError<E> {
    /// The library's own reason; what the closure had written was wiped.
    #[error(transparent)]
    Failed(#[from] Error),
    /// The closure's reason; what it had written was wiped.
    #[error("the closure failed")]
    Closure(E),
}

impl TryError<Infallible> {
    /// The only way in which a closure that cannot fail has not made a secret.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Failed(error) => error,
            Self::Closure(never) => match never {},
        }
    }
}

/// A creation from an owned value failed; here is the value, untouched.
#[non_exhaustive]
pub struct FromOwnedError<T> {
    /// Why.
    pub error: Error,
    /// What was to become a secret, as it was given.
    pub source: T,
}

// The source is a secret: it is not printed.
impl<T> fmt::Debug for FromOwnedError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromOwnedError").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for FromOwnedError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T> std::error::Error for FromOwnedError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl<T> From<FromOwnedError<T>> for Error {
    fn from(failed: FromOwnedError<T>) -> Self {
        failed.error
    }
}

impl From<CallError> for Error {
    fn from(cause: CallError) -> Self {
        Self::System(cause)
    }
}

const _: () = assert!(std::mem::size_of::<Error>() <= 48, "an error stays small");

//! What was achieved, and how it was checked.

use crate::error::Error;
use crate::os::CallError;
use crate::policy::{Cipher, Level, Store};

/// How it is known that a protection is in force.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// The kernel's own listing (VmFlags in /proc/self/smaps, proc_pid_smaps(5)) says so.
    Kernel,
    /// The call succeeded; there was no listing to check it against.
    Unverified,
    /// It follows from how the memory was made: a reserved page without access, or ciphertext.
    Construction,
    /// It is not in force.
    None,
}

/// One protection: what was asked for and what is in force.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Achieved {
    /// What the policy asked for.
    pub asked: Level,
    /// Is it in force?
    pub got: bool,
    /// How that is known.
    pub evidence: Evidence,
    /// Who refused, where someone did.
    pub refused: Option<CallError>,
}

impl Achieved {
    pub(crate) fn by_construction(asked: Level) -> Self {
        Self { asked, got: true, evidence: Evidence::Construction, refused: None }
    }

    /// By a call that was refused, or was not.
    pub(crate) fn by_call(asked: Level, refused: Option<CallError>) -> Self {
        let got = refused.is_none();
        Self { asked, got, evidence: if got { Evidence::Unverified } else { Evidence::None }, refused }
    }
}

/// The four protections of a secret or of a vault's own memory.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protections {
    /// Guard pages.
    pub guard: Achieved,
    /// Locked into memory. Windows unlocks pages while they are closed: there it means that they are locked while they are open,
    /// and encrypted where they lie while they are closed (CryptProtectMemory).
    pub lock: Achieved,
    /// Left out of core dumps. On Windows: out of the reports of Windows Error Reporting, and of nothing that others write with
    /// MiniDumpWriteDump.
    pub dump: Achieved,
    /// Wiped in a forked child. Windows has no forks: there it is always in force.
    pub fork: Achieved,
}

/// The key hold in use.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HoldUsed {
    /// A page that a memory protection key denies to every thread but the one that is using the key.
    Pkey,
    /// Two shares, one in an in-memory file, one in locked memory.
    Split,
    /// Memory that the kernel itself does not keep mapped, closed at rest.
    Secretmem,
    /// A page that nothing may touch.
    Guarded,
}

/// Where a secret lies at rest. Addresses are no secret; they let other tools check what is there.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtRest {
    /// The first byte: of nonce, tag and ciphertext (`Sealed`), or of the secret (`Paged`).
    pub address: usize,
    /// Bytes.
    pub len: usize,
}

/// What is true of one secret at the moment of the call.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The secret's id, unique in its vault.
    pub id: u64,
    /// Its vault's id.
    pub vault_id: u64,
    /// How often it has been changed.
    pub version: u64,
    /// The number of the key that it is sealed under: the vault's first is 1, and each refresh makes the next. 0 if paged
    /// or closed.
    pub epoch: u64,
    /// Bytes.
    pub len: usize,
    /// [`Store::Sealed`] or [`Store::Paged`].
    pub store: Store,
    /// Is it sealed because the pages that it was to have could not be locked? See
    /// [`OnLockLimit::NextStore`](crate::OnLockLimit::NextStore).
    pub next_store: bool,
    /// The cipher, of a sealed secret: its vault's, or for a large one the wide variant of it.
    pub cipher: Option<Cipher>,
    /// The key hold, of a sealed secret.
    pub hold: Option<HoldUsed>,
    /// Views open.
    pub open_views: usize,
    /// Has it been closed?
    pub closed: bool,
    /// Pages that could not be protected again (`Paged`): they are open until the next operation succeeds.
    pub stuck_open: bool,
    /// Where it lies; `None` when closed.
    pub at_rest: Option<AtRest>,
    /// What is in force: for a sealed secret on the vault's key and first scratch, for a paged one on its pages.
    pub protections: Protections,
}

/// What is true of a vault at the moment of the call.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VaultStatus {
    /// The vault's id, unique in the process.
    pub id: u64,
    /// The key hold in use.
    pub hold: HoldUsed,
    /// Why the hold before the one in use was not taken: the last refusal, where there were several.
    pub hold_stepped_down: Option<Error>,
    /// The page with the key ([`HoldUsed::Guarded`], and [`HoldUsed::Secretmem`] without protection keys) could not be
    /// closed after its last use: it is open until the next use or status closes it.
    pub key_stuck_open: bool,
    /// In-memory files that each hold one replica of the key's first share, and can be read now: each is tried.
    pub replicas: usize,
    /// How many such files were lost, and have been replaced by new ones. If it rises, something in this process
    /// closes descriptors that are not its own; after some twenty of them, lost files stay lost.
    pub replicas_renewed: usize,
    /// The number of the key that seals now: the first is 1, and each refresh makes the next. 0 where a purge has left
    /// none, because a new one could not be had.
    pub epoch: u64,
    /// Keys that live, the present one included: more than one while secrets are still sealed under older ones.
    pub keys: usize,
    /// Seals under the present key.
    pub seals: u64,
    /// Why the last refresh that was due by itself was not made; it is tried again.
    pub refresh_refused: Option<Error>,
    /// The cipher in use.
    pub cipher: Cipher,
    /// Bytes that the vault has locked.
    pub locked_bytes: usize,
    /// Places for views made so far.
    pub scratch_slots: usize,
    /// How many of them are not locked.
    pub scratch_unlocked: usize,
    /// Live secrets; each sealed chunk of a stream counts as one.
    pub secrets: u64,
    /// What is in force on the memory that holds the key and its share.
    pub protections: Protections,
    /// Are pages encrypted where they lie while they are closed: the key's, and those of paged secrets? Asked as locking is,
    /// of which it is a part on Windows ([`Protections::lock`]); by a call that is tried once (CryptProtectMemory), so that one
    /// without effect, as under Wine, is refused. `None` on all other systems, where closed pages stay as they are.
    pub closed_encrypted: Option<Achieved>,
}

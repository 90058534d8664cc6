//! What a vault has and lacks, who has views open, and for how long.

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::events;
use crate::fault::{self, FaultReport};
use crate::os;
use crate::registry::vaults::Seat;
use crate::registry::{BUSY, CHUNK, FREE, NOBODY, OWNED, REVOKED, Slot, Thread, UNNAMED, WINDOW, WRITER};
use crate::registry::{arenas, lost};
use crate::status::HoldUsed;
use crate::store::Machinery;
use crate::vault::degradation;
use crate::vault::{Budget, Degradation, Vault};

/// What kind of view is open.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ViewKind {
    /// A [`View`](crate::View).
    Borrowed,
    /// A [`ViewMut`](crate::ViewMut).
    Writer,
    /// An [`OwnedView`](crate::OwnedView), with all its parts.
    Owned,
    /// An owned view that a close has revoked; its bytes are wiped.
    Revoked,
    /// A view that is just being opened, or a value that is just being sealed: the thread has a key in hand. That takes a
    /// microsecond, unless the thread does not get a processor.
    Opening,
    /// The chunk of a [`SecretStream`](crate::SecretStream) that is being written.
    Chunk,
}

impl fmt::Display for ViewKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Borrowed => "view",
            Self::Writer => "writing view",
            Self::Owned => "owned view",
            Self::Revoked => "revoked owned view",
            Self::Opening => "view in the making",
            Self::Chunk => "chunk",
        })
    }
}

/// One open view.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenView {
    /// The secret's id, unique in its vault; of a chunk, the stream's. 0 where a thread works on many secrets at once.
    pub secret_id: u64,
    /// The secret's label, if it has one.
    pub label: Option<String>,
    /// The system's id of the thread that opened it; an owned view may be elsewhere by now.
    pub thread: u32,
    /// How long it has been open, to the tick of the kernel's coarse clock: 1 to 10 ms.
    pub age: Duration,
    /// What kind of view it is.
    pub kind: ViewKind,
}

impl fmt::Display for OpenView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secret_id, label, thread, age, kind } = self;
        let what = if *kind == ViewKind::Chunk { "stream" } else { "secret" };
        write!(f, "{kind} of {what} {secret_id}")?;
        if let Some(label) = label {
            write!(f, " {label:?}")?;
        }
        write!(f, ", opened by thread {thread} {:.3} s ago", age.as_secs_f64())
    }
}

/// What is going on in a vault at the moment of the call. Its `Display` is a few lines, with one for each degradation and
/// each open view.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    /// The vault's id; 0 for one that a forked child has inherited.
    pub vault_id: u64,
    /// It has been closed.
    pub closed: bool,
    /// Sealed secrets; those that are being made are counted with them.
    pub sealed: u64,
    /// Paged secrets, likewise.
    pub paged: u64,
    /// Sealed chunks of streams.
    pub chunks: u64,
    /// What the vault may hold and the process lock, and how much of it is taken.
    pub budget: Budget,
    /// The key hold in use.
    pub hold: Option<HoldUsed>,
    /// What the vault was asked for and has not got.
    pub degradations: Vec<Degradation>,
    /// Faults in memory of the vault since it was made, if faults are [handled](crate::fault::install).
    pub faults: u64,
    /// How many of them were answered by replacing lost memory: [`FaultPolicy::Recover`](crate::fault::FaultPolicy::Recover).
    pub replaced: u64,
    /// Pages of the vault that are lost now: what lay there is [`Error::Poisoned`](crate::Error::Poisoned).
    pub poisoned: usize,
    /// The last fault in memory of the library, if it was in this vault.
    pub last_fault: Option<FaultReport>,
    /// The views that are open, the oldest first. Other threads open and end views meanwhile: what is listed was open
    /// when it was looked at.
    pub views: Vec<OpenView>,
    /// Paged secrets whose pages are open without a view: see [`Policy::linger`](crate::Policy::linger).
    pub lingering: usize,
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vault_id, closed, sealed, paged, chunks, hold, .. } = self;
        write!(f, "vault {vault_id}{}: ", if *closed { ", closed" } else { "" })?;
        write!(f, "{sealed} sealed and {paged} paged secrets, {chunks} chunks of streams")?;
        if let Some(hold) = hold {
            write!(f, "; key hold {hold:?}")?;
        }
        write!(f, "\n{}", self.budget)?;
        for degradation in &self.degradations {
            write!(f, "\nnote: {degradation}")?;
        }
        if self.faults > 0 || self.poisoned > 0 {
            let Self { faults, replaced, poisoned, .. } = self;
            write!(f, "\n{faults} faults, {replaced} of them answered; {poisoned} pages are poisoned")?;
        }
        if let Some(fault) = &self.last_fault {
            f.write_str("\nlast fault: ")?;
            // It may have a label, which must not be able to pretend that a line ends.
            let safe = |char: char| if char.is_control() { '?' } else { char };
            fault.to_string().chars().map(safe).try_for_each(|char| f.write_char(char))?;
        }
        write!(f, "\n{} open views, {} secrets linger", self.views.len(), self.lingering)?;
        self.views.iter().try_for_each(|view| write!(f, "\n{view}"))
    }
}

fn describe(slot: &Slot, now: u64) -> Option<OpenView> {
    let state = slot.state.load(Ordering::Acquire);
    let secret_id = slot.secret.load(Ordering::Relaxed);
    let is_moving = state == WINDOW && matches!(secret_id, UNNAMED | NOBODY);
    if matches!(state, FREE | BUSY) || matches!(secret_id, UNNAMED | NOBODY) && !is_moving {
        return None;
    }
    let role = slot.role.load(Ordering::Relaxed);
    let kind = match state {
        WINDOW => ViewKind::Opening,
        _ if role == CHUNK => ViewKind::Chunk,
        _ if state & REVOKED != 0 => ViewKind::Revoked,
        _ if state & OWNED != 0 => ViewKind::Owned,
        _ if role == WRITER => ViewKind::Writer,
        _ => ViewKind::Borrowed,
    };
    Some(OpenView {
        secret_id: if is_moving { 0 } else { secret_id },
        label: None,
        thread: Thread::from_word(slot.thread.load(Ordering::Relaxed)).system_id(),
        age: Duration::from_nanos(now.saturating_sub(slot.since.load(Ordering::Relaxed))),
        kind,
    })
}

/// Pages of a vault that are lost now. Of ciphertext that lies in the allocator's memory it is not known whose it is.
fn lost_pages(vault: Seat) -> usize {
    let process = os::process_id();
    let is_in = |page: usize| {
        arenas::all().any(|arena| {
            arena.is_of(process)
                && arena.vault.load(Ordering::Relaxed) == vault.number()
                && arena.contains(page)
        })
    };
    if lost::any() { lost::all().filter(|&page| is_in(page)).count() } else { 0 }
}

/// The open views of a vault, the oldest first.
pub(crate) fn open_views(machinery: &Machinery) -> Vec<OpenView> {
    let now = os::coarse_now();
    let mut views: Vec<_> = machinery.slots().filter_map(|slot| describe(slot, now)).collect();
    let of_secret = |view: &OpenView| view.secret_id != 0 && view.kind != ViewKind::Chunk;
    let mut wanted: BTreeSet<u64> =
        views.iter().filter(|view| of_secret(view)).map(|view| view.secret_id).collect();
    if !wanted.is_empty() {
        // The slots know where labels are, but not whether they are still there.
        machinery.each_label(|id, label| {
            if wanted.remove(&id)
                && let Some(label) = label
            {
                let of_it = views.iter_mut().filter(|view| view.secret_id == id && of_secret(view));
                of_it.for_each(|view| view.label = Some(label.to_owned()));
            }
            !wanted.is_empty()
        });
    }
    views.sort_by_key(|view| std::cmp::Reverse(view.age));
    views
}

impl Vault {
    /// Tells what the vault holds, what it was asked for and has not got, what has gone wrong, and lists the open views: with
    /// whom, for how long. A view that was leaked (`std::mem::forget`) stays in the list. There is no byte of a secret in it.
    ///
    /// It reads the kernel's listings, and looks at each secret of a vault that has paged ones: a diagnosis, not for every
    /// read. In a forked child there is nothing to be told of an inherited vault.
    ///
    /// ```
    /// use securememory::Secret;
    /// let secret = Secret::random(32)?;
    /// let view = secret.view()?;
    /// let found = secret.vault().diagnostics();
    /// assert!(found.views.iter().any(|open| open.secret_id == secret.id()));
    /// println!("{found}");
    /// # drop(view);
    /// # Ok::<(), securememory::Error>(())
    /// ```
    #[must_use]
    pub fn diagnostics(&self) -> Diagnostics {
        if !self.is_alive() {
            return Diagnostics::default();
        }
        events::tell();
        let machinery = self.machinery();
        let live = machinery.live();
        let seat = machinery.seat();
        let entry = seat.entry();
        Diagnostics {
            vault_id: machinery.id,
            closed: self.is_closed(),
            sealed: live.secrets.saturating_sub(live.paged).saturating_sub(live.chunks),
            paged: live.paged,
            chunks: live.chunks,
            budget: self.budget(),
            hold: Some(machinery.enclave.used()),
            degradations: degradation::of(machinery),
            faults: entry.faults.load(Ordering::Relaxed),
            replaced: entry.replaced.load(Ordering::Relaxed),
            poisoned: lost_pages(seat),
            last_fault: fault::last_fault().filter(|fault| fault.vault_id == machinery.id),
            views: open_views(machinery),
            lingering: machinery.lingering.count(),
        }
    }
}

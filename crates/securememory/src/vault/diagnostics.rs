//! Who has views open, and for how long: for finding views that were forgotten.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::os;
use crate::registry::{BUSY, FREE, OWNED, REVOKED, Slot, Thread, WRITER};
use crate::vault::Vault;

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
}

impl fmt::Display for ViewKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Borrowed => "view",
            Self::Writer => "writing view",
            Self::Owned => "owned view",
            Self::Revoked => "revoked owned view",
        })
    }
}

/// One open view.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenView {
    /// The secret's id, unique in its vault.
    pub secret_id: u64,
    /// The system's id of the thread that opened it; an owned view may be elsewhere by now.
    pub thread: u32,
    /// How long it has been open, to the tick of the kernel's coarse clock: 1 to 10 ms.
    pub age: Duration,
    /// What kind of view it is.
    pub kind: ViewKind,
}

impl fmt::Display for OpenView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secret_id, thread, age, kind } = self;
        write!(f, "{kind} of secret {secret_id}, opened by thread {thread} {:.3} s ago", age.as_secs_f64())
    }
}

/// What is going on in a vault at the moment of the call. Its `Display` has one line for each open view.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics {
    /// The views that are open, the oldest first. Other threads open and end views meanwhile: what is listed was open
    /// when it was looked at.
    pub views: Vec<OpenView>,
    /// Paged secrets whose pages are open without a view: see [`Policy::linger`](crate::Policy::linger).
    pub lingering: usize,
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} open views, {} secrets linger", self.views.len(), self.lingering)?;
        self.views.iter().try_for_each(|view| write!(f, "\n{view}"))
    }
}

fn describe(slot: &Slot, now: u64) -> Option<OpenView> {
    let state = slot.state.load(Ordering::Acquire);
    let secret_id = slot.secret.load(Ordering::Relaxed);
    if state == FREE || state == BUSY || secret_id == 0 {
        return None;
    }
    let kind = if state & REVOKED != 0 {
        ViewKind::Revoked
    } else if state & OWNED != 0 {
        ViewKind::Owned
    } else if slot.role.load(Ordering::Relaxed) == WRITER {
        ViewKind::Writer
    } else {
        ViewKind::Borrowed
    };
    Some(OpenView {
        secret_id,
        thread: Thread::from_word(slot.thread.load(Ordering::Relaxed)).system_id(),
        age: Duration::from_nanos(now.saturating_sub(slot.since.load(Ordering::Relaxed))),
        kind,
    })
}

impl Vault {
    /// Lists the open views: with whom, for how long. A view that was leaked (`std::mem::forget`) stays in the list.
    ///
    /// In a forked child the list of an inherited vault is empty.
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
        let now = os::coarse_now();
        let mut views: Vec<_> = self.machinery().slots().filter_map(|slot| describe(slot, now)).collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.age));
        Diagnostics { views, lingering: self.machinery().lingering.count() }
    }
}

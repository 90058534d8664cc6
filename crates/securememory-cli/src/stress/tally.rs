//! What was counted, and what was found.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use securememory::Error;
use serde::{Deserialize, Serialize};

use super::value::Wrong;

/// Findings told in words; all are counted.
const TOLD: usize = 20;

macro_rules! named {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name in tables.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

named! {
    /// The operations.
    Kind {
        /// `with`.
        Read = "read",
        /// A view that is kept for a while.
        Keep = "keep",
        /// Views inside each other, of one secret and of two.
        Nest = "nest",
        /// A view handed to whoever comes.
        Lend = "lend",
        /// A view that another thread has opened.
        Receive = "receive",
        /// A change that is committed.
        Write = "write",
        /// A change that is dropped, or unwound.
        Discard = "discard",
        /// `replace`.
        Replace = "replace",
        /// What would deadlock, from inside one's own view.
        Inside = "inside",
        /// A secret is replaced by a new one.
        Create = "create",
        /// A secret is dropped while its owned view lives.
        Drop = "drop",
        /// `close_timeout`, then a look whether it is closed.
        Close = "close",
        /// `status` of secret and vault.
        Status = "status",
        /// A vault of its own, from beginning to end.
        Vault = "vault",
        /// A new key for the shared vault, and mostly the move to it.
        Refresh = "refresh",
        /// A vault of its own whose keys are destroyed under its secrets.
        Purge = "purge",
        /// A child that tries to read.
        Fork = "fork",
    }
}

named! {
    /// Refusals that another thread's work explains.
    Reason {
        /// It stayed in use to the deadline.
        Timeout = "timeout",
        /// It was in use, and the secret's policy is not to wait.
        Busy = "busy",
        /// Another thread has closed it.
        Closed = "closed",
        /// Another thread's close has revoked the view.
        Revoked = "revoked",
        /// The thread's own view would have to end first.
        WouldDeadlock = "would-deadlock",
    }
}

/// How often one kind was carried out, and how often it was refused for a reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Carried out.
    pub done: u64,
    /// Refused.
    pub refused: u64,
}

/// What one thread counts, on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Row {
    done: [AtomicU64; Kind::ALL.len()],
    refused: [AtomicU64; Kind::ALL.len()],
    reasons: [AtomicU64; Reason::ALL.len()],
    /// What the thread is doing: 0 nothing, else its start in milliseconds and the kind.
    pulse: AtomicU64,
}

/// All that is counted.
pub struct Tally {
    origin: Instant,
    rows: Vec<Row>,
    faults: AtomicU64,
    wrong_bytes: AtomicU64,
    unexpected: AtomicU64,
    found: Mutex<Vec<String>>,
}

/// Counts up; only the row's own thread writes it.
fn up(count: &AtomicU64) {
    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl Tally {
    /// For so many threads.
    pub fn new(threads: usize) -> Self {
        Self {
            origin: Instant::now(),
            rows: (0..threads).map(|_| Row::default()).collect(),
            faults: AtomicU64::new(0),
            wrong_bytes: AtomicU64::new(0),
            unexpected: AtomicU64::new(0),
            found: Mutex::new(Vec::new()),
        }
    }

    /// The thread begins an operation.
    pub fn begin(&self, thread: usize, kind: Kind) {
        let now = self.origin.elapsed().as_millis() as u64;
        self.rows[thread].pulse.store(now << 8 | (kind as u64 + 1), Ordering::Relaxed);
    }

    /// The thread has ended its operation.
    pub fn end(&self, thread: usize) {
        self.rows[thread].pulse.store(0, Ordering::Relaxed);
    }

    /// The operation was carried out.
    pub fn done(&self, thread: usize, kind: Kind) {
        up(&self.rows[thread].done[kind as usize]);
    }

    /// The operation was refused.
    pub fn refused(&self, thread: usize, kind: Kind, reason: Reason) {
        let row = &self.rows[thread];
        up(&row.refused[kind as usize]);
        up(&row.reasons[reason as usize]);
    }

    /// Threads whose operation has not ended for so long: thread, what, how long.
    pub fn stuck(&self, patience: Duration) -> Vec<(usize, Kind, Duration)> {
        let now = self.origin.elapsed();
        let stuck = |(thread, row): (usize, &Row)| {
            let pulse = row.pulse.load(Ordering::Relaxed);
            let kind = *Kind::ALL.get(usize::try_from(pulse & 0xff).ok()?.checked_sub(1)?)?;
            let lasts = now.saturating_sub(Duration::from_millis(pulse >> 8));
            (lasts > patience).then_some((thread, kind, lasts))
        };
        self.rows.iter().enumerate().filter_map(stuck).collect()
    }

    /// The sums of all threads, for each kind.
    pub fn counts(&self) -> Vec<Count> {
        let sum = |of: &dyn Fn(&Row) -> &AtomicU64| {
            self.rows.iter().map(|row| of(row).load(Ordering::Relaxed)).sum()
        };
        let count = |&kind: &Kind| Count {
            done: sum(&|row| &row.done[kind as usize]),
            refused: sum(&|row| &row.refused[kind as usize]),
        };
        Kind::ALL.iter().map(count).collect()
    }

    /// The sums of all threads, for each reason.
    pub fn refusals(&self) -> Vec<u64> {
        let sum = |&reason: &Reason| {
            self.rows.iter().map(|row| row.reasons[reason as usize].load(Ordering::Relaxed)).sum()
        };
        Reason::ALL.iter().map(sum).collect()
    }

    /// A value was not what it should be.
    pub fn wrong(&self, wrong: &Wrong, context: &str) {
        self.wrong_bytes.fetch_add(wrong.bytes, Ordering::Relaxed);
        self.tell(format!("wrong bytes: {context}: {}", wrong.what));
    }

    /// An error that nothing explains.
    pub fn error(&self, error: &Error, context: &str) {
        self.unexpected(format!("{context}: {error} ({error:?})"));
    }

    /// Something else that must not be.
    pub fn unexpected(&self, what: String) {
        self.unexpected.fetch_add(1, Ordering::Relaxed);
        self.tell(format!("unexpected: {what}"));
    }

    /// A child was killed by a signal.
    #[cfg(not(windows))] // There are no forked children.
    pub fn fault(&self, what: String) {
        self.faults.fetch_add(1, Ordering::Relaxed);
        self.tell(format!("fault: {what}"));
    }

    fn tell(&self, what: String) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.len() < TOLD {
            found.push(what);
        }
    }

    /// Wrong bytes, unexpected errors, faults of children, and the first of them in words.
    pub fn found(&self) -> (u64, u64, u64, Vec<String>) {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.wrong_bytes), load(&self.unexpected), load(&self.faults), found)
    }
}

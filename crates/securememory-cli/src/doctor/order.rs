//! What the three processes of one attack say to each other: lines of JSON over pipes.
//!
//! The doctor gives an order to an attacker, the attacker starts a victim under the same order and commands it,
//! and answers the doctor with a verdict. The secret crosses the pipes masked.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::crack::RecordAt;
use super::needle::Needle;
use super::promises::{Attack, Kept};
use super::verdict::{Trouble, Verdict};

/// One attack on one store.
#[derive(Clone, Serialize, Deserialize)]
pub struct Order {
    /// What to do.
    pub task: Task,
    /// How the secret is kept.
    pub kept: Kept,
    /// Is the secret random bytes, so that nothing is lost if it is seen in plain?
    pub stand_in: bool,
    /// The secret; for a control, what to search for.
    pub needle: Needle,
    /// Plain bytes in the victim's heap that every search must find, or it saw nothing.
    pub beacon: Needle,
    /// A directory for a core dump.
    pub directory: Option<PathBuf>,
    /// How many secrets there are besides, with the same bytes, where the process is to end by a crash.
    pub crowd: usize,
    /// How long all of it may take.
    pub deadline: Duration,
}

/// What an order is for.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// An attack.
    Attack(Attack),
    /// To see which windows of the needle a process has that holds another secret.
    Control,
}

/// What the attacker answers to the doctor.
#[derive(Serialize, Deserialize)]
pub enum Answer {
    /// The outcome of an attack.
    Verdict(Verdict),
    /// Windows of the needle that were found in the control process.
    Common(Vec<u32>),
}

/// What the attacker tells the victim to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Carry the attack out yourself, from inside.
    Attack,
    /// Make copies as programs do, then read and change the secret in every way there is.
    Exercise,
    /// Keep a copy of the decoy's record where any program keeps things, then change the decoy.
    Plant,
    /// Show what a load can read at the place where the secret rests.
    CopyAtRest,
    /// Give the vault a new key and destroy the old one.
    Refresh,
    /// Destroy all keys of the vault, then try every way to use the secret.
    Purge,
    CloseVault,
    /// Show the pages that no other process can read.
    ShowPages,
    /// Open a view and keep it.
    OpenView,
    /// End the view.
    EndView,
    /// Abort, with a core as large as it can be.
    Abort,
    /// Close the secret.
    Close,
    /// Give up the vault and all that is in it.
    GiveUp,
    /// Fork; the child tries what it can and answers itself, then waits.
    Fork,
    /// Fork beside reading threads; the child waits.
    ForkInRead,
    /// Kill the child, fork the next one.
    Next,
    /// Kill the child, stop the threads.
    Stop,
    /// Get ready to die, with threads that use the secret.
    Arm(Care),
    /// Die.
    Die(End),
}

/// What a program has done about its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Care {
    /// Nothing.
    None,
    /// `fault::install`.
    Faults,
    /// That, and a coordinator that has SIGTERM, SIGINT, SIGHUP and SIGQUIT end the process.
    FaultsAndSignals,
}

/// How a process comes to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum End {
    /// A stray read of a page that is closed.
    StrayRead,
    /// The same in the thread that has a view open and bytes of it in registers: it reads past the view's end.
    InView,
    /// A write through a null pointer.
    NullWrite,
    /// abort(3).
    Abort,
    /// exit(3).
    Exit,
    /// A signal from outside; the victim itself does nothing for it.
    Sent(i32),
}

/// What the victim exits with, told to exit.
pub const EXIT_CODE: i32 = 73;

/// What a victim tells that is ready to die.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Armed {
    /// The thread that has a view open and bytes of it in registers.
    pub holder: i32,
    /// The thread that reads again and again.
    pub reader: i32,
    /// The stack on which the system saves its registers for a handler.
    pub signal_stack: Option<(usize, usize)>,
    /// Where a word is that says that the process has come to its end, if nobody who traces it is told.
    pub at_end: Option<usize>,
    /// A process that shares its memory and outlives it, where only such a one can see the key's page.
    pub witness: Option<i32>,
    /// Bytes in registers.
    pub held: usize,
    /// Secrets there are besides.
    pub crowd: usize,
    /// Why there are no more.
    pub limit: Option<String>,
}

/// What the victim answers.
#[derive(Clone, Serialize, Deserialize)]
pub enum Reply {
    /// The secret is made.
    Ready(Box<Facts>),
    /// Something went wrong.
    Trouble(Trouble),
    /// Done.
    Done,
    /// Pieces of memory: where each begins, and what is in it, masked.
    Memory(Vec<(usize, Needle)>),
    /// The secret could be used in these ways, and got these errors elsewhere.
    Tried {
        /// Ways that worked.
        worked: Vec<String>,
        /// Errors of the ways that did not.
        refused: Vec<String>,
    },
    /// A view is open.
    View {
        /// Where its bytes are.
        address: usize,
        /// Places for views that are not locked, by `Vault::status`.
        unlocked: usize,
    },
    /// A child of this id exists and waits. It could read or change in these ways, and got these errors elsewhere.
    Child {
        /// Its process id.
        pid: u32,
        /// Ways that worked.
        worked: Vec<String>,
        /// Errors of the ways that did not.
        refused: Vec<String>,
    },
    /// The readers stopped: reads that worked, and what kept others from working.
    Readers {
        /// Reads that gave the right bytes.
        reads: u64,
        /// The first error.
        error: Option<String>,
    },
    /// Ready to die.
    Armed(Armed),
    /// The outcome of an attack from inside.
    Verdict(Verdict),
    /// Windows of the needle that this control process has too.
    Common(Vec<u32>),
}

/// What an attacker is told about his victim: addresses and numbers, no secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// Where the secret's plaintext lies at rest, if it does.
    pub plaintext: Option<(usize, usize)>,
    /// Where a sealed record of the same vault lies, with nothing of value in it.
    pub decoy: Option<RecordAt>,
    /// The sealed record of the secret.
    pub record: Option<RecordAt>,
    /// Locking.
    pub locked: Claim,
    /// Exclusion from cores.
    pub undumped: Claim,
}

impl Facts {
    /// Where the secret rests, sealed or not.
    pub fn at_rest(&self) -> Option<Range<usize>> {
        let plaintext = self.plaintext.map(|(address, len)| address..address + len);
        self.record.map(|record| record.range()).or(plaintext)
    }
}

/// What the library says about a protection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// It is in force.
    InForce,
    /// The host refused it.
    Refused(String),
    /// It is not in force, though nobody refused it.
    Missing,
}

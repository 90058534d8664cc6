//! What the judge orders, and what the process that does the work tells it: lines of JSON over pipes.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use securememory::{Hold, Level};
use serde::{Deserialize, Serialize};

use super::leaks::Leaks;
use super::tally::Count;

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Threads that work at the same time.
    pub threads: usize,
    /// Secrets that they share.
    pub secrets: usize,
    /// How long.
    pub seconds: u64,
    /// The store of the secrets.
    pub store: StoreArg,
    /// The key hold of the vaults.
    pub hold: HoldArg,
    /// What all random choices follow from.
    pub seed: u64,
    /// An operation that takes longer hangs.
    pub hang_after: u64,
    /// What to do wrong, to see whether it is found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sabotage: Option<Sabotage>,
}

impl Order {
    /// See `hang_after`.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.hang_after)
    }
}

/// As `securememory::Store`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreArg {
    /// Up to 1,000 bytes sealed, else paged
    Auto,
    /// Ciphertext in ordinary memory
    Sealed,
    /// Pages without access
    Paged,
}

/// As `securememory::Hold`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldArg {
    /// The best that is to be had
    Auto,
    /// A page behind a memory protection key
    Pkey,
    /// Two shares, one in an in-memory file
    Split,
    /// Memory that the kernel itself does not map
    Secretmem,
    /// A page without access
    Guarded,
}

impl HoldArg {
    /// What a vault's builder is told: who names a hold wants that one and no other.
    pub fn wanted(self) -> (Hold, Level) {
        match self {
            Self::Auto => (Hold::Auto, Level::Prefer),
            Self::Pkey => (Hold::Pkey, Level::Require),
            Self::Split => (Hold::Split, Level::Require),
            Self::Secretmem => (Hold::Secretmem, Level::Require),
            Self::Guarded => (Hold::Guarded, Level::Require),
        }
    }
}

/// Damage done on purpose: what finds it is shown to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sabotage {
    /// A byte of what was read is changed before it is checked
    WrongByte,
    /// A secret is given an older value back, which is a right one in itself
    Stale,
    /// An operation never ends
    Hang,
    /// A vault is never dropped
    Leak,
    /// A store to an address where nothing is
    Fault,
    /// A bit of a ciphertext is flipped
    Error,
    /// A forked child says that it got in
    Child,
    /// A thread panics
    Panic,
}

fn name(value: &impl ValueEnum, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    value.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
}

impl fmt::Display for StoreArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        name(self, f)
    }
}

impl fmt::Display for HoldArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        name(self, f)
    }
}

/// What the worker says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// The hold that was required cannot be had: why.
    Skipped(String),
    /// The work could not begin: why.
    Failed(String),
    /// The vault is there: the hold in use.
    Begun(String),
    /// What the worker turns to now.
    Phase(Phase),
    /// How far it is.
    Progress(Progress),
    /// The last word.
    Done(Findings),
}

/// A part of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// A short round, so that what is allocated only once is there when things are counted.
    WarmUp,
    /// The round that was ordered.
    Run,
    /// Dropping secrets and vaults.
    Drop,
}

/// How far the worker is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Since the round began.
    pub elapsed: Duration,
    /// For each kind, in its order.
    pub counts: Vec<Count>,
}

/// What was found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Findings {
    /// The last state.
    pub progress: Progress,
    /// Refusals that the others' work explains, by reason.
    pub refusals: Vec<u64>,
    /// Forked children that a signal killed.
    pub faults: u64,
    /// Bytes that were not what they should be.
    pub wrong_bytes: u64,
    /// Operations that did not end.
    pub hangs: u64,
    /// Errors that nothing explains.
    pub unexpected: u64,
    /// What was still there after the end; `None` where nobody got to look.
    pub leaks: Option<Leaks>,
    /// The first of all this in words.
    pub found: Vec<String>,
}

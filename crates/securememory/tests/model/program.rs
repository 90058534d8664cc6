//! Programs: what they consist of, and how they are drawn from random bytes. A program is decoded from rows of bytes, so that
//! shrinking is fast and leads to the simplest steps.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use securememory::{Cipher, Hold, Level, OnClose, Store};

/// What a vault of a program is.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub store: Store,
    pub hold: Hold,
    pub lock: Level,
    pub dump: Level,
    pub on_close: OnClose,
    /// Pages stay open for an hour, or close at once.
    pub lingers: bool,
    /// When views that a close has left are revoked: at once, or in an hour.
    pub revoke_after: Option<Span>,
    /// Secrets expire in an hour.
    pub expires: bool,
    pub close_on_drop: bool,
    /// Milliseconds that views and writers wait.
    pub wait: u64,
    /// So few places for views that programs meet the bound.
    pub tight: Option<usize>,
    pub refresh_after: Option<u64>,
    pub janitor: bool,
    pub cipher: Option<Cipher>,
}

/// A time that is over at once, or will not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    None,
    Hour,
}

impl Span {
    pub fn duration(self) -> Duration {
        if self == Self::Hour { Duration::from_secs(3600) } else { Duration::ZERO }
    }
}

/// A policy of a secret's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    pub on_close: OnClose,
    pub time_to_live: Option<Span>,
    pub idle_time: Option<Span>,
}

/// How a secret is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Bytes,
    Owned,
    Random,
    Init,
    InitPanics,
    InitFails,
    Reader,
    ShortReader,
    Batch(usize),
}

/// What happens inside a callback that has a secret's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Nothing,
    Panic,
    Nested,
    Close,
    Write,
}

/// How long a close waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    AsPolicy,
    Zero,
    Short,
}

/// One step. Numbers name one of those that there are, whatever their number; with none, nothing happens.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Create { vault: u8, how: How, len: usize, own: Option<Own>, label: bool },
    Derive { secret: u8, len: usize, panics: bool },
    View { secret: u8 },
    With { secret: u8, then: Then },
    EndView { view: u8 },
    DropView { view: u8 },
    LeakView { view: u8 },
    OpenWriter { secret: u8 },
    Edit { writer: u8, at: u16 },
    Commit { writer: u8 },
    Discard { writer: u8 },
    LeakWriter { writer: u8 },
    WriteAndPanic { secret: u8, at: u16 },
    Replace { secret: u8, longer: bool },
    Compare { secret: u8, other: u8 },
    Own { secret: u8 },
    Part { owned: u8, start: u8, end: u8 },
    Use { owned: u8, then: Then },
    DropOwned { owned: u8 },
    LeakOwned { owned: u8 },
    Close { secret: u8, wait: Wait },
    CloseMany { first: u8, count: u8 },
    DropSecret { secret: u8 },
    LeakSecret { secret: u8 },
    Look { secret: u8 },
    Refresh { vault: u8 },
    FinishRefresh { vault: u8 },
    Purge { vault: u8 },
    Tidy { vault: u8 },
    Warm { vault: u8, views: u8 },
    CloseVault { vault: u8 },
    DropVault { vault: u8 },
    Stream { vault: u8, chunk: usize },
    StreamWrite { stream: u8, len: usize },
    StreamFinish { stream: u8 },
    StreamRead { stream: u8, most: usize },
    StreamChunk { stream: u8, panics: bool },
    StreamRewind { stream: u8 },
    StreamClose { stream: u8 },
    StreamDrop { stream: u8 },
    Fork { new_vault: bool },
}

#[derive(Clone)]
pub struct Program {
    pub vaults: Vec<Setup>,
    pub steps: Vec<Step>,
    /// Where its secrets' bytes come from.
    pub seed: u64,
    /// Is the whole process searched for them?
    pub deep: bool,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.vaults.iter().enumerate().try_for_each(|(n, vault)| writeln!(f, "  vault {n}: {vault:?}"))?;
        self.steps.iter().enumerate().try_for_each(|(n, step)| writeln!(f, "  {n:2}: {step:?}"))
    }
}

/// Bytes that become a program.
pub type Rows = (Vec<[u8; 6]>, Vec<[u8; 6]>);

pub fn rows() -> impl Strategy<Value = Rows> {
    (vec(any::<[u8; 6]>(), 1..3), vec(any::<[u8; 6]>(), 5..41))
}

fn setup(row: [u8; 6], holds: &[Hold], stores: &[Store]) -> Setup {
    let [store, hold, levels, policy, tight, more] = row.map(usize::from);
    let pick = |list: &[Level]| list[levels % list.len()];
    Setup {
        store: stores[store % stores.len()],
        hold: holds[hold % holds.len()],
        lock: pick(&[Level::Prefer, Level::Off, Level::Prefer, Level::Require]),
        dump: pick(&[Level::Prefer, Level::Off, Level::Require]),
        on_close: if policy % 2 == 0 { OnClose::Defer } else { OnClose::Revoke },
        lingers: policy / 2 % 3 == 1,
        revoke_after: [None, None, Some(Span::None), Some(Span::Hour)][more / 3 % 4],
        expires: more / 12 % 8 == 1,
        close_on_drop: more / 96 == 1,
        wait: [1, 0, 50][policy / 6 % 3],
        tight: (tight % 4 == 1).then_some(2 + tight / 4 % 5),
        refresh_after: (tight % 4 == 2).then_some(2 + tight as u64 / 4 % 7),
        janitor: tight % 16 == 3,
        cipher: (more % 3 == 1).then_some(Cipher::XChaCha20Poly1305),
    }
}

/// Short ones mostly; some need several pages.
fn length(number: usize) -> usize {
    match number % 16 {
        // Lengths, not a page size.
        15 => [0, 1, 15, 4096, 4097, 9000][number / 16 % 6],
        12..=14 => 16 + number % 1500,
        _ => 16 + number / 16 % 100,
    }
}

fn then(number: usize) -> Then {
    [Then::Nothing, Then::Panic, Then::Nested, Then::Close, Then::Write][number % 5]
}

fn how(number: usize) -> How {
    match number % 16 {
        0..=4 => How::Bytes,
        5 => How::Owned,
        6..=7 => How::Random,
        8..=9 => How::Init,
        10 => How::InitPanics,
        11 => How::InitFails,
        12 => How::Reader,
        13 => How::ShortReader,
        _ => How::Batch(1 + number / 16 % 4),
    }
}

/// How often each kind of step comes.
const WEIGHTS: [u8; 41] = [
    44, 4, 18, 12, 8, 5, 2, 14, 10, 9, 4, 2, 5, 7, 4, // secrets, borrowed views and writers
    14, 5, 13, 5, 2, // owned views
    11, 2, 5, 1, 8, // ends
    4, 3, 3, 2, 1, 2, 2, // vaults
    7, 12, 3, 6, 4, 2, 2, 2, // streams
    2, // forks
];

fn step([op, a, b, c, d, e]: [u8; 6]) -> Step {
    let total: usize = WEIGHTS.iter().map(|&weight| usize::from(weight)).sum();
    // Two bytes, so that all kinds can come.
    let mut left = (usize::from(op) * 256 + usize::from(e)) * total / 65536;
    let mut kind = 0;
    while left >= usize::from(WEIGHTS[kind]) {
        left -= usize::from(WEIGHTS[kind]);
        kind += 1;
    }
    let [number, at, end] = [b, c, d].map(usize::from);
    let wide = u16::from_le_bytes([c, d]);
    match kind {
        0 => {
            let on_close = [OnClose::Defer, OnClose::Revoke][end / 4 % 2];
            let [time_to_live, idle_time] = [end / 4, end / 32]
                .map(|n| [None, None, None, None, Some(Span::Hour), None, None, Some(Span::None)][n % 8]);
            let own = (end / 2 % 2 == 1).then_some(Own { on_close, time_to_live, idle_time });
            Step::Create { vault: a, how: how(number), len: length(at), own, label: end % 2 == 1 }
        }
        1 => Step::Derive { secret: a, len: length(at), panics: number % 4 == 3 },
        2 => Step::View { secret: a },
        3 => Step::With { secret: a, then: then(number) },
        4 => Step::EndView { view: a },
        5 => Step::DropView { view: a },
        6 => Step::LeakView { view: a },
        7 => Step::OpenWriter { secret: a },
        8 => Step::Edit { writer: a, at: wide },
        9 => Step::Commit { writer: a },
        10 => Step::Discard { writer: a },
        11 => Step::LeakWriter { writer: a },
        12 => Step::WriteAndPanic { secret: a, at: wide },
        13 => Step::Replace { secret: a, longer: number % 8 == 7 },
        14 => Step::Compare { secret: a, other: b },
        15 => Step::Own { secret: a },
        16 => Step::Part { owned: a, start: b, end: c },
        17 => Step::Use { owned: a, then: then(number) },
        18 => Step::DropOwned { owned: a },
        19 => Step::LeakOwned { owned: a },
        20 => Step::Close { secret: a, wait: [Wait::AsPolicy, Wait::Zero, Wait::Short][number % 3] },
        21 => Step::CloseMany { first: a, count: b % 5 },
        22 => Step::DropSecret { secret: a },
        23 => Step::LeakSecret { secret: a },
        24 => Step::Look { secret: a },
        25 => Step::Refresh { vault: a },
        26 => Step::FinishRefresh { vault: a },
        27 => Step::Purge { vault: a },
        28 => Step::Tidy { vault: a },
        29 => Step::Warm { vault: a, views: b % 4 },
        30 => Step::CloseVault { vault: a },
        31 => Step::DropVault { vault: a },
        32 => Step::Stream { vault: a, chunk: 1 + number % 64 },
        33 => Step::StreamWrite { stream: a, len: at % 150 },
        34 => Step::StreamFinish { stream: a },
        35 => Step::StreamRead { stream: a, most: at % 100 },
        36 => Step::StreamChunk { stream: a, panics: number % 8 == 7 },
        37 => Step::StreamRewind { stream: a },
        38 => Step::StreamClose { stream: a },
        39 => Step::StreamDrop { stream: a },
        _ => Step::Fork { new_vault: number % 4 == 3 },
    }
}

/// The program of these bytes, in vaults of these kinds.
pub fn decode((vaults, steps): &Rows, holds: &[Hold], stores: &[Store], seed: u64, deep: bool) -> Program {
    let vaults = vaults.iter().map(|&row| setup_of(row, holds, stores)).collect();
    Program { vaults, steps: steps.iter().map(|&row| step(row)).collect(), seed, deep }
}

/// One vault of these bytes.
pub fn setup_of(row: [u8; 6], holds: &[Hold], stores: &[Store]) -> Setup {
    possible(setup(row, holds, stores))
}

/// Without what would make results uncertain: a janitor takes places for views, too, and may be waited for. And without what
/// is not to be had here.
fn possible(setup: Setup) -> Setup {
    static IS_REFUSED: LazyLock<bool> = LazyLock::new(|| super::common::strict_is_refused().is_some());
    let had = |level| if level == Level::Require && *IS_REFUSED { Level::Prefer } else { level };
    let (lock, dump) = (had(setup.lock), had(setup.dump));
    let janitor = setup.janitor && setup.tight.is_none();
    let close_on_drop = setup.close_on_drop && !janitor;
    Setup { lock, dump, janitor, close_on_drop, wait: if janitor { 5000 } else { setup.wait }, ..setup }
}

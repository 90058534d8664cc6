//! The rows: each an operation, its floor and its goal. A new row is an entry in [`ROWS`] and a function that
//! makes what is timed.

use std::sync::Arc;

use securememory::{Error, Hold, Level, Secret, Store, Vault};

use super::crew::{Part, Threads, Work};
use super::floor::{self, SECRET};
use super::line::Goal::{self, AtLeast, AtMost};
use super::look_at;
use super::measure::Batch;
use super::{Failure, Skipped};

/// One comparison.
pub(super) struct Row {
    /// The operation: store, verb, bytes, and what is special.
    pub(super) op: &'static str,
    /// What it is held against.
    pub(super) floor: &'static str,
    /// What its ratio should be; `None` where no figure was ever promised.
    pub(super) goal: Option<Goal>,
    pub(super) kind: Kind,
}

/// How it is measured. What is prepared may do nothing the first time that it does not do every time.
pub(super) enum Kind {
    /// Operation and floor in turns, on one thread.
    Cost(fn() -> Result<Halves, Failure>),
    /// What a second thread brings to the operation, against what it brings to the floor.
    Gain(fn() -> Result<Threads, Failure>),
    /// The operation beside a thread that computes, against itself alone; its second half is the bare pair,
    /// which is measured in the same way beside it.
    Busy(fn() -> Result<Halves, Failure>),
}

/// The two things that are timed in turns.
pub(super) struct Halves {
    pub(super) op: Batch,
    pub(super) floor: Batch,
}

use Kind::{Busy, Cost, Gain};

const SIXTH: Option<Goal> = Some(AtMost(1.0 / 6.0));
const THIRD: Option<Goal> = Some(AtMost(1.0 / 3.0));
/// Of the bytes a second that the bare cipher does from one place to another, with the wipe; and in place, where it has
/// half the memory to touch.
const OF_CIPHER: Option<Goal> = Some(AtMost(1.0 / 0.95));
const OF_CIPHER_IN_PLACE: Option<Goal> = Some(AtMost(1.0 / 0.8));

const FOUR_KIB: usize = 4 << 10;
const MIB: usize = 1 << 20;

/// All rows, in the order in which they are run.
#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row("sealed.read.32", "pread.64+open.32", Some(AtMost(1.45)), Cost(sealed_read)),
    row("sealed.read.32.2threads.different", "pread.64.2files", Some(AtLeast(0.9)), Gain(two_different)),
    row("sealed.read.32.2threads.same", "pread.64.2files", Some(AtLeast(0.75)), Gain(two_same)),
    row("sealed.read.32.busy", "itself-alone", Some(AtMost(1.3)), Busy(sealed_read_busy)),
    row("sealed.read.4096", "pread.64+open.4096", None, Cost(sealed_read_page)),
    row("sealed.read.1MiB", "open.1MiB+wipe", OF_CIPHER, Cost(sealed_read_mib)),
    row("sealed.read.1MiB", "open.1MiB.in-place+wipe", OF_CIPHER_IN_PLACE, Cost(sealed_read_mib_in_place)),
    row("sealed.batch.read.32", "pread.64+open.32", None, Cost(sealed_batch_read)),
    row("sealed.pkey.read.32", "open.32", None, Cost(pkey_read)),
    row("sealed.secretmem.read.32", "mprotect-pair+open.32", None, Cost(secretmem_read)),
    row("sealed.guarded.read.32", "mprotect-pair+open.32", None, Cost(guarded_read)),
    row("sealed.write.32", "2*pread.64+open.32+random.32+seal.32", None, Cost(sealed_write)),
    row("sealed.create.32", "pread.64+random.32+seal.32", Some(AtMost(1.5)), Cost(sealed_create)),
    row("sealed.create.32", "six-calls", SIXTH, Cost(sealed_create_six)),
    row("sealed.create.1MiB", "fill+seal.1MiB+2*wipe", OF_CIPHER, Cost(sealed_create_mib)),
    row("sealed.create.1MiB", "fill+seal.1MiB.in-place+2*wipe", OF_CIPHER_IN_PLACE, Cost(sealed_create_mib_in_place)),
    row("paged.read.32", "mprotect-pair", Some(AtMost(1.15)), Cost(paged_read)),
    row("paged.create.32", "six-calls", THIRD, Cost(paged_create)),
];

const fn row(op: &'static str, floor: &'static str, goal: Option<Goal>, kind: Kind) -> Row {
    Row { op, floor, goal, kind }
}

fn sealed_read() -> Result<Halves, Failure> {
    let mut cipher = floor::Cipher::new().map_err(no_floor)?;
    Ok(Halves { op: read(&split_vault()?)?, floor: each(move || Ok(cipher.fetch_and_open()?)) })
}

/// Two threads, two secrets of one vault.
fn two_different() -> Result<Threads, Failure> {
    let vault = split_vault()?;
    Threads::start([reader(Arc::new(secret(&vault)?))?, reader(Arc::new(secret(&vault)?))?])
}

/// Two threads, one secret.
fn two_same() -> Result<Threads, Failure> {
    let secret = Arc::new(secret(&split_vault()?)?);
    Threads::start([reader(Arc::clone(&secret))?, reader(secret)?])
}

/// A thread that reads the secret, or a file of its own.
fn reader(secret: Arc<Secret>) -> Result<Part, Failure> {
    let mut share = floor::Share::new().map_err(no_floor)?;
    let op: Work = Box::new(again(move || Ok(secret.with(look_at)?)));
    Ok(Part { op, floor: Box::new(again(move || Ok(share.fetch()?))) })
}

fn sealed_read_busy() -> Result<Halves, Failure> {
    Ok(Halves { op: read(&split_vault()?)?, floor: pair()? })
}

fn sealed_read_page() -> Result<Halves, Failure> {
    let secret = large(&split_vault()?, FOUR_KIB)?;
    let mut share = floor::Share::new().map_err(no_floor)?;
    let mut bare = bare(&secret)?;
    let floor = move || {
        std::hint::black_box(share.fetch()?);
        Ok(bare.open()?)
    };
    Ok(Halves { op: each(move || Ok(secret.with(look_at)?)), floor: each(floor) })
}

fn sealed_read_mib() -> Result<Halves, Failure> {
    let secret = large(&split_vault()?, MIB)?;
    let mut bare = bare(&secret)?;
    Ok(Halves { op: each(move || Ok(secret.with(look_at)?)), floor: each(move || Ok(bare.open_and_wipe()?)) })
}

fn sealed_read_mib_in_place() -> Result<Halves, Failure> {
    let secret = large(&split_vault()?, MIB)?;
    let mut bare = bare(&secret)?;
    let floor = move || Ok(bare.open_in_place_and_wipe()?);
    Ok(Halves { op: each(move || Ok(secret.with(look_at)?)), floor: each(floor) })
}

/// One of many secrets that are read together.
fn sealed_batch_read() -> Result<Halves, Failure> {
    const TOGETHER: usize = 64;
    let secrets = split_vault()?.secrets_from(&mut [[0x5a_u8; SECRET]; TOGETHER])?;
    let mut cipher = floor::Cipher::new().map_err(no_floor)?;
    let op: Batch = Box::new(move |count| {
        let all: Vec<&Secret> = secrets.iter().collect();
        let mut left = usize::try_from(count)?;
        while left > 0 {
            let some = all.get(..left).unwrap_or(&all);
            Secret::with_many(some, |_, bytes| _ = std::hint::black_box(look_at(bytes)))?;
            left -= some.len();
        }
        Ok(())
    });
    Ok(Halves { op, floor: each(move || Ok(cipher.fetch_and_open()?)) })
}

fn pkey_read() -> Result<Halves, Failure> {
    let mut cipher = floor::Cipher::new().map_err(no_floor)?;
    Ok(Halves { op: read(&held_vault(Hold::Pkey)?)?, floor: each(move || Ok(cipher.open()?)) })
}

fn secretmem_read() -> Result<Halves, Failure> {
    closed_key_read(Hold::Secretmem)
}

fn guarded_read() -> Result<Halves, Failure> {
    closed_key_read(Hold::Guarded)
}

/// With a hold whose key lies in a page without access.
fn closed_key_read(hold: Hold) -> Result<Halves, Failure> {
    let op = read(&held_vault(hold)?)?;
    let mut key = floor::ClosedKey::new().map_err(no_floor)?;
    Ok(Halves { op, floor: each(move || Ok(key.fetch_and_open()?)) })
}

fn sealed_write() -> Result<Halves, Failure> {
    let secret = secret(&split_vault()?)?;
    let mut cipher = floor::Cipher::new().map_err(no_floor)?;
    let write = move || {
        let mut view = secret.view_mut()?;
        view[0] = view[0].wrapping_add(1);
        Ok(view.commit()?)
    };
    Ok(Halves { op: each(write), floor: each(move || Ok(cipher.rewrite()?)) })
}

fn sealed_create() -> Result<Halves, Failure> {
    let mut cipher = floor::Cipher::new().map_err(no_floor)?;
    Ok(Halves { op: create(split_vault()?), floor: each(move || Ok(cipher.fetch_and_seal()?)) })
}

fn sealed_create_six() -> Result<Halves, Failure> {
    Ok(Halves { op: create(split_vault()?), floor: six_calls() })
}

fn sealed_create_mib() -> Result<Halves, Failure> {
    let vault = split_vault()?;
    let mut bare = bare(&large(&vault, MIB)?)?;
    Ok(Halves { op: create_large(vault), floor: each(move || Ok(bare.seal_and_wipe()?)) })
}

fn sealed_create_mib_in_place() -> Result<Halves, Failure> {
    let vault = split_vault()?;
    let mut bare = bare(&large(&vault, MIB)?)?;
    Ok(Halves { op: create_large(vault), floor: each(move || Ok(bare.seal_in_place_and_wipe()?)) })
}

fn paged_read() -> Result<Halves, Failure> {
    Ok(Halves { op: read(&paged_vault()?)?, floor: pair()? })
}

fn paged_create() -> Result<Halves, Failure> {
    Ok(Halves { op: create(paged_vault()?), floor: six_calls() })
}

/// Rows that do not name a hold are about this one, and no other.
fn split_vault() -> Result<Vault, Failure> {
    Ok(sealed_vault(Hold::Split)?)
}

/// A hold that cannot be had on every machine: without it there is nothing to be measured.
fn held_vault(hold: Hold) -> Result<Vault, Failure> {
    sealed_vault(hold).map_err(|error| match error {
        Error::HoldRefused(_) | Error::Unsupported(_) => Skipped(error.to_string()).into(),
        other => other.into(),
    })
}

fn sealed_vault(hold: Hold) -> securememory::Result<Vault> {
    Vault::builder().store(Store::Sealed).hold(hold).hold_level(Level::Require).build()
}

fn paged_vault() -> Result<Vault, Failure> {
    Ok(Vault::builder().store(Store::Paged).build()?)
}

fn no_floor(error: rustix::io::Errno) -> Failure {
    format!("the floor needs a page that is locked, and an in-memory file: {error}").into()
}

fn secret(vault: &Vault) -> Result<Secret, Failure> {
    Ok(vault.secret().from_bytes(&mut [0x5a; SECRET])?)
}

fn large(vault: &Vault, len: usize) -> Result<Secret, Failure> {
    Ok(vault.secret().from_vec(vec![0x5a; len])?)
}

/// The cipher that the library has for such a secret, with as many bytes.
fn bare(secret: &Secret) -> Result<floor::Large, Failure> {
    let status = secret.status();
    Ok(floor::Large::new(status.len, status.cipher)?)
}

/// Makes a large secret and drops it. Its source is wiped, and filled each time.
fn create_large(vault: Vault) -> Batch {
    let mut source = vec![0; MIB];
    each(move || {
        source.fill(0x5a);
        Ok(vault.secret().from_bytes(&mut source)?.id())
    })
}

/// Reads one secret again and again.
fn read(vault: &Vault) -> Result<Batch, Failure> {
    let secret = secret(vault)?;
    Ok(each(move || Ok(secret.with(look_at)?)))
}

/// The bare pair of protection changes.
fn pair() -> Result<Batch, Failure> {
    let page = floor::Page::new().map_err(no_floor)?;
    Ok(each(move || Ok(page.open_and_close()?)))
}

/// Makes a secret from bytes and drops it; `from_bytes` wipes its source, so it is filled each time.
fn create(vault: Vault) -> Batch {
    each(move || Ok(vault.secret().from_bytes(&mut [0x5a; SECRET])?.id()))
}

fn six_calls() -> Batch {
    each(|| floor::six_calls(std::hint::black_box(&[0x5a; SECRET])).map_err(no_floor))
}

fn each<T: 'static>(once: impl FnMut() -> Result<T, Failure> + 'static) -> Batch {
    Box::new(again(once))
}

/// Repeats; whatever comes out counts as used.
fn again<T>(mut once: impl FnMut() -> Result<T, Failure>) -> impl FnMut(u64) -> Result<(), Failure> {
    move |count| {
        for _ in 0..count {
            std::hint::black_box(once()?);
        }
        Ok(())
    }
}

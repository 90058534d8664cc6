//! The rows: each an operation, its floor and its target. A new row is an entry in [`ROWS`] and a
//! function that makes its two halves.

use securememory::{Hold, Level, Secret, Store, Vault};

use super::Failure;
use super::floor::{self, SECRET};
use super::look_at;
use super::measure::Batch;

/// One comparison.
pub(super) struct Row {
    /// The operation: store, verb, bytes.
    pub(super) op: &'static str,
    /// What it is held against.
    pub(super) floor: &'static str,
    /// The ratio that it should not exceed.
    pub(super) target: f64,
    /// Prepares both; neither may do anything the first time that it does not do every time.
    pub(super) make: fn() -> Result<Halves, Failure>,
}

/// The two things that are timed in turns.
pub(super) struct Halves {
    pub(super) op: Batch,
    pub(super) floor: Batch,
}

/// All rows, in the order in which they are run.
pub(super) const ROWS: &[Row] = &[
    Row { op: "sealed.read.32", floor: "pread.64+open.32", target: 1.45, make: sealed_read },
    Row { op: "sealed.create.32", floor: "pread.64+random.32+seal.32", target: 1.5, make: sealed_create },
    Row { op: "sealed.create.32", floor: "six-calls", target: 1.0 / 6.0, make: sealed_create_six },
    Row { op: "paged.read.32", floor: "mprotect-pair", target: 1.15, make: paged_read },
    Row { op: "paged.create.32", floor: "six-calls", target: 1.0 / 3.0, make: paged_create },
];

fn sealed_read() -> Result<Halves, Failure> {
    let mut cipher = floor::Cipher::new().map_err(no_floor)?;
    Ok(Halves { op: read(&split_vault()?)?, floor: each(move || Ok(cipher.fetch_and_open()?)) })
}

fn sealed_create() -> Result<Halves, Failure> {
    let mut cipher = floor::Cipher::new().map_err(no_floor)?;
    Ok(Halves { op: create(split_vault()?), floor: each(move || Ok(cipher.fetch_and_seal()?)) })
}

fn sealed_create_six() -> Result<Halves, Failure> {
    Ok(Halves { op: create(split_vault()?), floor: six_calls() })
}

fn paged_read() -> Result<Halves, Failure> {
    let page = floor::Page::new().map_err(no_floor)?;
    Ok(Halves { op: read(&paged_vault()?)?, floor: each(move || Ok(page.open_and_close()?)) })
}

fn paged_create() -> Result<Halves, Failure> {
    Ok(Halves { op: create(paged_vault()?), floor: six_calls() })
}

/// Rows that do not name a hold are about this one, and no other.
fn split_vault() -> Result<Vault, Failure> {
    Ok(Vault::builder().store(Store::Sealed).hold(Hold::Split).hold_level(Level::Require).build()?)
}

fn paged_vault() -> Result<Vault, Failure> {
    Ok(Vault::builder().store(Store::Paged).build()?)
}

fn no_floor(error: rustix::io::Errno) -> Failure {
    format!("the floor needs a page that is locked, and an in-memory file: {error}").into()
}

/// Reads one secret again and again.
fn read(vault: &Vault) -> Result<Batch, Failure> {
    let secret: Secret = vault.secret().from_bytes(&mut [0x5a; SECRET])?;
    Ok(each(move || Ok(secret.with(look_at)?)))
}

/// Makes a secret from bytes and drops it; `from_bytes` wipes its source, so it is filled each time.
fn create(vault: Vault) -> Batch {
    each(move || Ok(vault.secret().from_bytes(&mut [0x5a; SECRET])?.id()))
}

fn six_calls() -> Batch {
    each(|| floor::six_calls(std::hint::black_box(&[0x5a; SECRET])).map_err(no_floor))
}

/// Repeats; whatever comes out counts as used.
fn each<T: 'static>(mut once: impl FnMut() -> Result<T, Failure> + 'static) -> Batch {
    Box::new(move |count| {
        for _ in 0..count {
            std::hint::black_box(once()?);
        }
        Ok(())
    })
}

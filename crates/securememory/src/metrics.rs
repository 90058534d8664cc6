//! Counters for the [`metrics`](https://docs.rs/metrics) facade: cargo feature `metrics`.
//!
//! A recorder is code of the program's, which must not run under a lock of the library or while a key is in hand. So the
//! library counts by itself, and [`publish`] hands all counts to the recorder: to be called before each scrape, or by a timer.
//! Who never calls it sees nothing.
//!
//! ```
//! securememory::metrics::describe(); // once, when the recorder is installed
//! securememory::metrics::publish(); // every few seconds
//! ```
//!
//! All are counters, of the whole process, without unit: they count occurrences.
//!
//! | name | label | counts |
//! |---|---|---|
//! | `securememory_vaults_built_total` | | vaults made |
//! | `securememory_secrets_created_total` | `store`: `sealed`, `paged`, `chunk` | secrets, and sealed chunks of streams |
//! | `securememory_views_opened_total` | `store`: `sealed`, `paged` | views of all kinds, those of `with` included |
//! | `securememory_commits_total` | | changes made valid, by `commit` or `replace` |
//! | `securememory_closes_total` | `outcome`: `closed`, `deferred`, `revoked` | calls that close one secret; not drops |
//! | `securememory_expired_total` | | secrets that have expired |
//! | `securememory_refreshes_total` | | new keys, asked for or due |
//! | `securememory_purges_total` | | purges |
//! | `securememory_refusals_total` | `kind`: as [`ErrorKind`](crate::ErrorKind), in small letters | errors of calls that build, create, view, commit, refresh or purge |
//! | `securememory_degradations_total` | | times that a preferred protection, hold or store was not to be had |
//! | `securememory_lock_timeouts_total` | | internal locks that were not free in time |
//! | `securememory_faults_total` | | faults in memory of the library |
//!
//! # What it costs
//!
//! One addition to an atomic, which up to 16 threads have for themselves, for each creation and each view: 1 to 2 ns. Without
//! the feature nothing of it is compiled.

use metrics::{Unit, counter, describe_counter};

use crate::counters::{Count, sum};
use crate::fault;
use crate::locks;

/// Hands all counts to the recorder that is installed. Code of the recorder's runs in this call only.
pub fn publish() {
    locks::user_code();
    let one = |name: &'static str, count| counter!(name).absolute(sum(count));
    one("securememory_vaults_built_total", Count::Vaults);
    one("securememory_commits_total", Count::Commits);
    one("securememory_expired_total", Count::Expired);
    one("securememory_refreshes_total", Count::Refreshes);
    one("securememory_purges_total", Count::Purges);
    one("securememory_degradations_total", Count::Degraded);
    one("securememory_lock_timeouts_total", Count::LockTimeouts);
    for (store, count) in
        [("sealed", Count::SealedMade), ("paged", Count::PagedMade), ("chunk", Count::ChunksMade)]
    {
        counter!("securememory_secrets_created_total", "store" => store).absolute(sum(count));
    }
    for (store, count) in [("sealed", Count::SealedViews), ("paged", Count::PagedViews)] {
        counter!("securememory_views_opened_total", "store" => store).absolute(sum(count));
    }
    for (outcome, count) in
        [("closed", Count::Closed), ("deferred", Count::Deferred), ("revoked", Count::Revoked)]
    {
        counter!("securememory_closes_total", "outcome" => outcome).absolute(sum(count));
    }
    for (kind, count) in [
        ("usage", Count::RefusedUsage),
        ("limit", Count::RefusedLimit),
        ("protection", Count::RefusedProtection),
        ("busy", Count::RefusedBusy),
        ("gone", Count::RefusedGone),
        ("damage", Count::RefusedDamage),
        ("system", Count::RefusedSystem),
    ] {
        counter!("securememory_refusals_total", "kind" => kind).absolute(sum(count));
    }
    counter!("securememory_faults_total").absolute(fault::faults_seen() as u64);
}

/// Tells the recorder what the counters are.
pub fn describe() {
    for (name, what) in [
        ("securememory_vaults_built_total", "Vaults made"),
        ("securememory_secrets_created_total", "Secrets made, and chunks of streams sealed"),
        ("securememory_views_opened_total", "Views of secrets opened"),
        ("securememory_commits_total", "Changes of secrets made valid"),
        ("securememory_closes_total", "Secrets closed by a call"),
        ("securememory_expired_total", "Secrets that have expired"),
        ("securememory_refreshes_total", "New keys of vaults, besides the first"),
        ("securememory_purges_total", "Purges of vaults"),
        ("securememory_refusals_total", "Calls that returned an error"),
        (
            "securememory_degradations_total",
            "Preferred protections, holds and stores that were not to be had",
        ),
        ("securememory_lock_timeouts_total", "Internal locks that were not free in time"),
        ("securememory_faults_total", "Faults in memory of the library"),
    ] {
        describe_counter!(name, Unit::Count, what);
    }
}

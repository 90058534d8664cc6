//! The gate under a model checker (loom): small programs of two to four threads, run once for each order in which
//! their operations can take effect and each value that the memory model lets a load see.
//!
//! ```text
//! .ci/models 180
//! ```
//!
//! What runs is the code of [`super`], of [`crate::registry::Slot`], of [`crate::registry::quiet`] and of
//! [`crate::enclave::epoch::Number`], with the checker's atomics ([`crate::sync`]). The steps around it, which are the
//! stores' (open and close the pages, what to do when an entry was refused, wipe, move a record), are repeated here in
//! their order. Pages are a value that takes effect at once, as a protection change in the kernel does, and that orders
//! nothing; bytes are cells of the checker, which reports a use that is not ordered against a change. Each property is
//! also checked against a broken gate, or broken steps, and the checker must find that out ([`fails`]).
//!
//! What is covered:
//!
//! - [`paged`]: pages are open while there is a reader, and shut and wiped when the last one has gone.
//! - [`sealed`]: no record is used after it was freed; each is freed, and the secret ended, once.
//! - [`moved`]: so it is with a thread that moves the record to another key, also where memory is used again and where
//!   records wait in limbo; and no commit is lost by it, whoever comes first.
//! - [`keys`]: no key is used that was taken away by a purge, or by a refresh, which waits for nobody because no record
//!   of the key is left; and none is taken for another in the same cell.
//! - [`references`]: no header is used after it was given back, and each is given back once, though the walk through
//!   the roll makes references. The counting is repeated here as well: it is that of `store::object`.
//! - [`waiting`]: nobody sleeps for ever.
//!
//! What is not covered:
//!
//! - Orders with more preemptions than each model says (one to four; `SECUREMEMORY_MODELS_MORE=1` adds one to each, for
//!   long runs). A thread that waits is no preemption.
//! - Time. A deadline never comes or has passed at the start; a nap just gives way. So what relies on naps (a closer
//!   that waits for the views of a sealed secret) is checked to be safe, not to be prompt.
//! - The total order of sequentially consistent operations, which the checker does not know. Where the code relies on it,
//!   the models have a sequentially consistent fence ([`crate::sync::total_order`]). Such fences also forbid that both
//!   sides miss each other, so the models show that the protocol is right given the total order; that the operations
//!   named in [`super`] have it is the language's promise. The checker orders more behind two fences than the language
//!   does, so a missing Release could hide behind them; in the models of sealed secrets, orders without such help
//!   occur too, and the variants with plain ids and states are found out in these.
//! - That the end of a sealed view may miss a close in the same instant ([`Gate::notify`]): there the model has a fence.
//!   The end of a batch of moves has one in use too.
//! - The lock of the ledger is the checker's; that the real one excludes and orders is the standard library's promise.
//!   A batch is one record, and keys are changed by one thread.
//! - More than four threads, three slots, three versions, one secret; the growing of scratch; forks; that state words
//!   share event words by their address (here all share one).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arc_with_non_send_sync,
    reason = "tests; the checker's threads run on one thread, and its cells know it"
)]

mod keys;
mod moved;
mod paged;
mod references;
mod sealed;
mod waiting;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Deadline;
#[cfg(doc)]
use super::Gate;
use crate::sync::{self, Flaw};

/// More preemptions than the models ask for (environment, for long runs).
fn more() -> usize {
    std::env::var("SECUREMEMORY_MODELS_MORE").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Longer than any model takes: one that reaches it has not been explored in full, which is a failure.
const CAP: Duration = Duration::from_secs(150);
const LONG_CAP: Duration = Duration::from_secs(4 * 3600);

/// In a model no time passes; so this never ends, and [`at_once`] has ended.
fn never() -> Deadline {
    Deadline::after(Duration::MAX)
}

fn at_once() -> Deadline {
    Deadline::after(Duration::ZERO)
}

fn join(threads: impl IntoIterator<Item = loom::thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Runs a model in all its forms; returns how many there were.
fn run(flaw: Option<Flaw>, preemptions: usize, model: impl Fn() + Sync + Send + 'static) -> usize {
    let cap = if more() == 0 { CAP } else { LONG_CAP };
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 5_000;
    builder.max_duration = Some(cap);
    builder.checkpoint_interval = 1_000;
    let started = Instant::now();
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        sync::begin(flaw);
        model();
    });
    assert!(started.elapsed() < cap, "not explored in full");
    runs.load(Ordering::Relaxed)
}

/// The model must hold.
fn holds(name: &str, preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let (started, preemptions) = (Instant::now(), preemptions + more());
    let runs = run(None, preemptions, model);
    println!("{name}: {runs} executions, {preemptions} preemptions, {:.1?}", started.elapsed());
}

/// The model must fail, with one of these in its message.
fn fails(
    name: &str,
    flaw: Option<Flaw>,
    preemptions: usize,
    signs: &[&str],
    model: impl Fn() + Sync + Send + 'static,
) {
    let outcome = catch_unwind(AssertUnwindSafe(|| run(flaw, preemptions, model)));
    let Err(payload) = outcome else { panic!("{name}: the flaw {flaw:?} was not found") };
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    assert!(signs.iter().any(|sign| text.contains(sign)), "{name}: failed for another reason: {text}");
    println!("{name}: found, {}", text.lines().next().unwrap_or_default());
}

//! A test's own vaults, and the judgement of what it leaves.

// Reason: what is wrong with a test is told by a panic.
#![allow(clippy::panic)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::fault;
use crate::os::inject;
use crate::registry::dying;
use crate::registry::guards::{self, Finding, Left, Watch};
use crate::registry::handlers::{self, BUSY, FREE};
use crate::signal;
use crate::store::Machinery;

/// Keeps a test apart from others that run in the same process, and sees to it that it leaves nothing behind.
///
/// While it lives, the vaults that its thread makes belong to it; [`Vault::global`](crate::Vault::global), and with it
/// [`Secret::random`](crate::Secret::random) and its like, gives a vault of the guard's own. Other threads are put under
/// it by [`TestGuard::spawn`] or [`TestGuard::handle`]. So it is the first thing that a test makes, and the last that
/// it drops:
///
/// ```
/// use securememory::Secret;
/// use securememory::testing::TestGuard;
///
/// let _guard = TestGuard::new();
/// let secret = Secret::random(32)?;
/// assert_eq!(secret.vault().status().secrets, 1, "nobody else's");
/// # Ok::<(), securememory::Error>(())
/// ```
///
/// When it is dropped, nothing of its vaults may be left: handles, secrets, views, places for views, pages, files; nor plans
/// of the fault injector, nor threads under it. It waits ten seconds for what other threads are about to end. Then it
/// panics, and the message names what is left (where the thread is panicking already, it prints it). What a test leaves on
/// purpose it [expects](TestGuard::expect_leak).
///
/// Fault handling ([`fault::install`](crate::fault::install)) and the coordinator of signals are the process's. Installed
/// under a guard, they are the test's until the guard is dropped: another guard's test that wants to install something
/// waits for that, a minute at most. Then both have to be uninstalled, no handler registered any more, and
/// of every signal the same done as before.
///
/// A forked child is under no guard. What else is the process's (descriptors, mappings, locked bytes) cannot be judged
/// beside other tests.
#[derive(Debug)]
#[must_use = "the guard watches until it is dropped"]
pub struct TestGuard {
    watch: Arc<Watch>,
    /// Plans of the fault injector that were set before.
    plans: u64,
    patience: Duration,
    /// Its end judges the thread of its beginning.
    one_thread: PhantomData<*const ()>,
}

/// Puts threads under a guard.
#[derive(Clone, Debug)]
pub struct GuardHandle(Arc<Watch>);

/// A thread is under a guard as long as this lives.
#[derive(Debug)]
#[must_use = "the thread is under the guard until this is dropped"]
pub struct UnderGuard(Arc<Watch>, PhantomData<*const ()>);

/// For how long a guard waits for what other threads are about to end: they may not get a processor for a while.
const PATIENCE: Duration = Duration::from_secs(10);

impl TestGuard {
    /// From now on.
    #[track_caller]
    pub fn new() -> Self {
        Self::at(Location::caller())
    }

    /// One that was made at this place.
    pub(super) fn at(place: &'static Location<'static>) -> Self {
        let watch = Watch::new(place);
        watch.enter();
        Self { watch, plans: inject::set_so_far(), patience: PATIENCE, one_thread: PhantomData }
    }

    /// Waits so long for what other threads are about to end: ten seconds, if nothing else is said.
    pub fn patience(mut self, wait: Duration) -> Self {
        self.patience = wait;
        self
    }

    /// For threads that the test starts.
    #[must_use]
    pub fn handle(&self) -> GuardHandle {
        GuardHandle(Arc::clone(&self.watch))
    }

    /// Starts a thread that is under the guard.
    pub fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let handle = self.handle();
        std::thread::spawn(move || {
            let _under = handle.enter();
            f()
        })
    }

    /// So many of these are left on purpose, for this reason. Exactly so many have to be.
    pub fn expect_leak(&self, why: &str, what: Left, count: usize) {
        self.watch.expect(why, what, count);
    }

    /// What is left at this moment.
    fn left(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        for vault in self.watch.living() {
            if let Ok(machinery) = vault.downcast::<Machinery>() {
                found.extend(machinery.whats_left(1));
            }
        }
        // After the others: the last reference may have been ours.
        found.extend(self.watch.remains());
        let plans = inject::left_since(self.plans);
        found.extend(plans.into_iter().map(|call| (Left::Plan, format!("of {call}"))));
        let threads = self.watch.threads.load(Ordering::SeqCst);
        found.extend((0..threads).map(|_| (Left::Thread, "under the guard".to_owned())));
        if let Some(changed) = self.watch.changed_signals() {
            found.extend(installed(changed));
        }
        found
    }

    fn judge(&self) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let found = self.left();
            let expected = self.watch.expected();
            if counts(found.iter().map(|&(what, _)| (what, 1))) == counts(expected.iter().map(|e| (e.0, e.1)))
            {
                return Ok(());
            }
            if started.elapsed() > self.patience {
                return Err(message(self.watch.place(), &found, &expected));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Default for TestGuard {
    #[track_caller]
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TestGuard {
    fn drop(&mut self) {
        self.watch.leave();
        // A dying process keeps everything; a child is not watched.
        if !self.watch.is_here() || dying::has_begun() {
            return;
        }
        self.watch.over.store(true, Ordering::SeqCst);
        self.watch.drop_default();
        let verdict = self.judge();
        self.watch.end_turn();
        match verdict {
            Err(message) if std::thread::panicking() => eprintln!("{message}"),
            Err(message) => panic!("{message}"),
            Ok(()) => {}
        }
    }
}

impl GuardHandle {
    /// Puts the calling thread under the guard.
    ///
    /// # Panics
    ///
    /// Where the guard has been dropped.
    pub fn enter(&self) -> UnderGuard {
        self.0.threads.fetch_add(1, Ordering::SeqCst);
        let under = UnderGuard(Arc::clone(&self.0), PhantomData);
        self.0.enter();
        assert!(!self.0.over.load(Ordering::SeqCst), "the test guard at {} is over", self.0.place());
        under
    }
}

impl Drop for UnderGuard {
    fn drop(&mut self) {
        self.0.leave();
        self.0.threads.fetch_sub(1, Ordering::SeqCst);
    }
}

/// As [`TestGuard::expect_leak`], of the guard that the calling thread is under.
///
/// # Panics
///
/// Where it is under none.
pub fn expect_leak(why: &str, what: Left, count: usize) {
    match guards::current() {
        Some(watch) => watch.expect(why, what, count),
        None => panic!("a leak is expected ({why}) where there is no test guard"),
    }
}

/// What is installed in the process.
fn installed(changed: Vec<i32>) -> Vec<Finding> {
    let mut found = Vec::new();
    if fault::guard::is_installed() {
        found.push((Left::FaultHandling, "is installed".to_owned()));
    }
    if let Some(signals) = signal::coordinated() {
        found.push((Left::Coordinator, format!("of {signals:?}")));
    }
    let registered = handlers::used().iter().filter(|handler| {
        // One that is being put in or taken out is nobody's yet, or any more.
        ![FREE, BUSY].contains(&handler.state.load(Ordering::Acquire))
    });
    found.extend(registered.map(|handler| {
        (Left::Registration, format!("for signal {}", handler.signal.load(Ordering::Relaxed)))
    }));
    let words = |signal| format!("{signal} is handled otherwise than before");
    found.extend(changed.into_iter().map(|signal| (Left::Disposition, words(signal))));
    found
}

fn counts(of: impl Iterator<Item = (Left, usize)>) -> BTreeMap<Left, usize> {
    let mut counts = BTreeMap::new();
    of.filter(|&(_, count)| count > 0).for_each(|(what, count)| *counts.entry(what).or_default() += count);
    counts
}

fn message(place: &Location<'_>, found: &[Finding], expected: &[(Left, usize, String)]) -> String {
    let mut text = format!("the test under the guard at {place} has left");
    for (what, words) in found {
        let _ = write!(text, "\n  {what}: {words}");
    }
    if found.is_empty() {
        text.push_str(" nothing");
    }
    for (what, count, why) in expected {
        let _ = write!(text, "\n  expected: {count} of the kind {what:?}, since {why}");
    }
    text
}

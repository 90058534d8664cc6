//! The classic bug of this field: the last reader's closing of the pages lands after a newcomer's opening of them. Here
//! every protection change comes late, so that the window between "nobody is left" and "closed" is wide, and many
//! threads go in and out. The library must not fault. A plain reference count, in the same test, must.
//!
//! `SECUREMEMORY_WIDENED_ENTERS` sets how often the pages are entered.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test; the naive count reads a page that may be closed"
)]

#[cfg_attr(windows, path = "common/windows.rs")]
mod common;

use std::sync::Barrier;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Access, case};
use securememory::testing::TestGuard;
use securememory::testing::inject::{Plan, fail};
use securememory::{Call, Hold, Level, Policy, Store, Vault};

const LATE: Duration = Duration::from_micros(3);
const VALUE: u8 = 0x5a;

fn enters() -> usize {
    let set = std::env::var("SECUREMEMORY_WIDENED_ENTERS").ok().and_then(|text| text.parse().ok());
    set.unwrap_or(1_000_000)
}

fn spin(duration: Duration) {
    let started = Instant::now();
    while started.elapsed() < duration {
        std::hint::spin_loop();
    }
}

/// Enters so often in all, from several threads; each reads what `enter` shows it, and stays away for a while, longer or
/// shorter, and longer the more threads there are, so that there is often nobody inside and soon somebody.
fn hammer(threads: usize, enters: usize, enter: impl Fn(&dyn Fn(&[u8])) + Sync) -> Duration {
    let check = |bytes: &[u8]| assert!(bytes.iter().all(|&byte| byte == VALUE), "a wrong byte");
    let barrier = Barrier::new(threads);
    let started = Instant::now();
    let seeds: Vec<u32> = (1..=threads as u32).collect();
    common::in_threads(&seeds, |&seed| {
        let mut random = seed.wrapping_mul(0x9e37_79b9);
        barrier.wait();
        for _ in 0..enters / threads {
            enter(&check);
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            spin(LATE * (random % 8) * (threads as u32 - 1) / 4);
        }
    });
    started.elapsed()
}

#[test]
fn no_reader_faults_where_protection_changes_come_late() {
    let _guard = TestGuard::new();
    let patient = Policy::new().wait(Duration::from_secs(10));
    let vault = Vault::builder().policy(patient.clone()).store(Store::Paged).build().unwrap();
    let secret = vault.secret().from_bytes(&mut [VALUE; 64]).unwrap();
    let guarded = Vault::builder().policy(patient).store(Store::Sealed).hold(Hold::Guarded);
    let guarded = guarded.hold_level(Level::Require).build().unwrap();
    let sealed = guarded.secret().from_bytes(&mut [VALUE; 64]).unwrap();
    // All threads of the process: the other test makes its own process suffer.
    let plan = fail(Call::Mprotect, Plan::DelayEach { duration: LATE }).all_threads();

    // With two threads the pages are closed most often; with more, there are more newcomers.
    for threads in [2, 4] {
        let (enters, before) = (enters() / 2, plan.calls());
        let took = hammer(threads, enters, |check| secret.with(|bytes| check(bytes)).unwrap());
        let changes = plan.calls() - before;
        println!("paged, {threads} threads: {enters} enters, {changes} protection changes, {took:.1?}");
        // More threads than processors: whoever is interrupted inside keeps the pages open for all.
        assert!(
            changes as usize > enters / 1000,
            "the pages were hardly ever closed: the test shows nothing"
        );
        assert!(!secret.status().stuck_open);
    }
    // The key hold that works by the same gate.
    let (enters, before) = (enters() / 10, plan.calls());
    let took = hammer(4, enters, |check| sealed.with(|bytes| check(bytes)).unwrap());
    let changes = plan.calls() - before;
    println!("guarded, 4 threads: {enters} enters, {changes} protection changes, {took:.1?}");
    assert!(changes as usize > enters / 1000, "the key was hardly ever closed");
}

/// What others do: the first one in opens, the last one out closes.
struct Naive {
    page: AtomicPtr<u8>,
    readers: AtomicUsize,
}

impl Naive {
    fn new() -> Self {
        let page = common::new_page();
        // SAFETY: a page of our own that can be written, before anybody else knows it.
        unsafe { page.write_bytes(VALUE, 64) };
        let naive = Self { page: AtomicPtr::new(page), readers: AtomicUsize::new(0) };
        naive.protect(Access::None);
        naive
    }

    fn protect(&self, access: Access) {
        spin(LATE);
        // That it is taken away under a reader is what is shown.
        common::protect(self.page.load(Ordering::SeqCst), access);
    }

    fn with(&self, f: &dyn Fn(&[u8])) {
        if self.readers.fetch_add(1, Ordering::SeqCst) == 0 {
            self.protect(Access::Read);
        }
        // SAFETY: inside the page; faults when it is closed, as this test expects.
        f(unsafe { std::slice::from_raw_parts(self.page.load(Ordering::SeqCst), 64) });
        if self.readers.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.protect(Access::None);
        }
    }
}

#[test]
fn a_naive_count_faults_in_the_same_test() {
    let case = case("a_naive_count_faults_in_the_same_test");
    #[cfg(unix)]
    let case = case.limit(libc::RLIMIT_CORE, 0);
    case.ending(common::FAULT).run(|| {
        let naive = Naive::new();
        for threads in [2, 4] {
            hammer(threads, enters() / 2, |check| naive.with(check));
        }
    });
}

/// The same code is right where one thread uses it: so it is the threads that it fails on.
#[test]
fn a_naive_count_is_right_in_one_thread() {
    let _guard = TestGuard::new();
    let naive = Naive::new();
    for _ in 0..1_000 {
        naive.with(&|bytes| assert!(bytes.iter().all(|&byte| byte == VALUE)));
    }
}

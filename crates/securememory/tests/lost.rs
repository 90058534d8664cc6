//! Memory that is lost under the library: by a file that is cut, by hardware that fails (where the kernel can be told so), by a
//! stray munmap. What each kind of page does then, under [`FaultPolicy::Recover`] and [`FaultPolicy::Abort`].
#![cfg(all(target_os = "linux", target_pointer_width = "64"))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test, in which memory is lost on purpose"
)]

mod common;

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, Ordering};

use common::lost::{Loss, mappings, page_of, page_size, touch, unmap};
use common::shares::Anchor;
use common::{Needle, case, in_child};
use securememory::fault::{self, Done, FaultPolicy, Memory, Place};
use securememory::testing::TestGuard;
use securememory::{Error, Hold, Level, Secret, Store, Vault, WithError};

/// Ways to lose memory that can be had here; what cannot is told.
fn losses() -> Vec<Loss> {
    let all = [Loss::Cut, Loss::Hardware];
    let (here, not): (Vec<Loss>, Vec<Loss>) = all.into_iter().partition(|loss| loss.is_possible());
    not.iter().for_each(|loss| eprintln!("skipped: {loss:?}: no MADV_HWPOISON here"));
    here
}

/// Runs the body once for each loss, in a process of its own that must come to its end.
fn for_each_loss(name: &'static str, body: impl Fn(Loss)) {
    case(name).shown().run(|| {
        for loss in losses() {
            eprintln!("{name}: {loss:?}");
            let status = in_child(|| {
                fault::install(FaultPolicy::Abort).expect("installed").keep();
                body(loss);
                true
            });
            assert_eq!(status, 0, "{loss:?}: wait status {status:#x}");
        }
    });
}

fn needle() -> Needle {
    Needle::new(0x5ec2_e7b1, 48)
}

fn vault(hold: Hold) -> Result<Vault, Error> {
    common::need("replaces_lost");
    Vault::builder().hold(hold).hold_level(Level::Require).on_fault(FaultPolicy::Recover).build()
}

fn split() -> Vault {
    vault(Hold::Split).expect("a vault with a split key")
}

fn secret(vault: &Vault, store: Store, len: usize) -> Secret {
    let made = vault.secret().store(store).label("lost").init_with(len, |room| {
        assert!(room.iter().all(|&byte| byte == 0), "room for a new secret is empty");
        room.iter_mut().enumerate().for_each(|(index, byte)| *byte = needle().byte(index % 48));
    });
    made.expect("a secret")
}

fn assert_right(secret: &Secret) {
    let right =
        secret.with(|bytes| bytes.iter().enumerate().all(|(index, &byte)| byte == needle().byte(index % 48)));
    assert!(right.expect("it can be read"), "other bytes than were written");
}

fn not_run<R: std::fmt::Debug>(outcome: Result<R, WithError<R>>) -> Error {
    match outcome {
        Err(WithError::NotRun(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// Bytes that nobody takes for zeros, nor for the secret.
fn is_noise(bytes: &[u8]) -> bool {
    let zeros = bytes.iter().filter(|&&byte| byte == 0).count();
    let own = bytes.iter().enumerate().filter(|&(index, &byte)| byte == needle().byte(index % 48)).count();
    zeros < bytes.len() / 4 && own < bytes.len() / 4
}

fn assert_reported(loss: Loss, memory: Memory) {
    let report = fault::last_fault().expect("a report");
    assert_eq!((report.signal, report.code), (libc::SIGBUS, loss.code()), "{report}");
    assert_eq!((report.place, report.done, report.memory), (Place::Lost, Done::Replaced, memory), "{report}");
}

/// New secrets of both kinds can be made and read.
fn assert_works(vault: &Vault) {
    for store in [Store::Sealed, Store::Paged] {
        for len in [1, 48, 700, large()] {
            let fresh = secret(vault, store, len);
            assert_right(&fresh);
            fresh
                .replace(&mut (0..len).map(|index| needle().byte(index % 48)).collect::<Vec<u8>>())
                .expect("replaced");
            assert_right(&fresh);
            fresh.close().expect("closed");
        }
    }
}

/// What a lost key means for its vault: nothing sealed by it can be read, all else works, and after a purge everything.
fn assert_key_lost(vault: &Vault, sealed: &Secret, paged: &Secret) {
    for _ in 0..3 {
        assert_eq!(not_run(sealed.with(|bytes| bytes.to_vec())), Error::KeyLost);
        assert_eq!(vault.secret().store(Store::Sealed).random(32).map(drop), Err(Error::KeyLost));
        assert_right(paged);
    }
    let other = split();
    assert_works(&other);
    paged.close().expect("closed");
    vault.purge().expect("a new key");
    assert_works(vault);
}

#[test]
fn share_b_is_lost() {
    let _guard = TestGuard::new();
    for_each_loss("share_b_is_lost", |loss| {
        let vault = split();
        let (sealed, paged) = (secret(&vault, Store::Sealed, 48), secret(&vault, Store::Paged, 48));
        assert_right(&sealed);
        loss.strike(Anchor::find().address()).expect("struck");
        assert_key_lost(&vault, &sealed, &paged);
        assert_reported(loss, Memory::Key);
    });
}

/// Where a key's page is.
fn key_page(hold: Hold) -> usize {
    let found = mappings(|head, flags| match hold {
        Hold::Secretmem => head.contains("secretmem"),
        // One of the closed pages, and locked.
        Hold::Guarded => head.contains(" ---p ") && flags.contains(" lo "),
        _ => flags.contains(" lo ") && flags.contains(" wf ") && key_of(head) != 0,
    });
    let [page] = found[..] else { panic!("{} pages for {hold:?}", found.len()) };
    page
}

/// The protection key of a mapping, by the first line that tells of it.
fn key_of(head: &str) -> u32 {
    let text = std::fs::read_to_string("/proc/self/smaps").expect("/proc/self/smaps");
    let of = text.split_once(head).map_or("", |(_, rest)| rest);
    let line = of.lines().skip(1).take_while(|line| !line.starts_with("VmFlags"));
    line.filter_map(|line| line.strip_prefix("ProtectionKey:"))
        .next()
        .map_or(0, |key| key.trim().parse().unwrap())
}

fn a_key_is_lost(name: &'static str, hold: Hold) {
    for_each_loss(name, |loss| {
        let vault = match vault(hold) {
            Ok(vault) => vault,
            Err(error) => return eprintln!("skipped: {hold:?} {error}"),
        };
        let page = key_page(hold);
        let (sealed, paged) = (secret(&vault, Store::Sealed, 48), secret(&vault, Store::Paged, 48));
        assert_right(&sealed);
        if let Err(errno) = loss.strike(page) {
            // The kernel does not look into such pages on anybody's behalf.
            assert_eq!((hold, errno), (Hold::Secretmem, libc::EFAULT));
            return eprintln!("not possible: {loss:?} on secretmem");
        }
        assert_key_lost(&vault, &sealed, &paged);
        assert_reported(loss, Memory::Key);
    });
}

#[test]
fn a_guarded_key_is_lost() {
    let _guard = TestGuard::new();
    a_key_is_lost("a_guarded_key_is_lost", Hold::Guarded);
}

#[test]
fn a_key_under_a_protection_key_is_lost() {
    let _guard = TestGuard::new();
    a_key_is_lost("a_key_under_a_protection_key_is_lost", Hold::Pkey);
}

#[test]
fn a_key_in_secretmem_is_lost() {
    let _guard = TestGuard::new();
    a_key_is_lost("a_key_in_secretmem_is_lost", Hold::Secretmem);
}

/// A view whose memory is lost shows noise from then on, and says so at its end.
fn assert_lost_in_view(loss: Loss, sealed: &Secret) {
    let outcome = sealed.with(|bytes| {
        loss.strike(bytes.as_ptr().addr()).expect("struck");
        is_noise(bytes)
    });
    match outcome {
        Err(WithError::Ran { result, error }) => assert_eq!((result, error), (true, Error::Poisoned)),
        other => panic!("{other:?}"),
    }
}

/// Bytes of a secret whose views never lie in the page with shares, as those of small ones do on large pages.
fn beside_nothing() -> usize {
    if page_size() < common::LARGE_PAGE { 3000 } else { page_size() }
}

/// On large pages the first view of a vault lies in the page with its shares, and is lost with them.
#[test]
fn a_view_beside_the_shares_is_lost() {
    let _guard = TestGuard::new();
    for_each_loss("a_view_beside_the_shares_is_lost", |loss| {
        if page_size() < common::LARGE_PAGE {
            return eprintln!("skipped: views lie beside shares on pages of 64 KiB");
        }
        let vault = split();
        let (sealed, paged) = (secret(&vault, Store::Sealed, 3000), secret(&vault, Store::Paged, 48));
        assert_lost_in_view(loss, &sealed);
        assert_key_lost(&vault, &sealed, &paged);
        assert_reported(loss, Memory::Key);
    });
}

#[test]
fn a_view_of_a_sealed_secret_is_lost() {
    let _guard = TestGuard::new();
    for_each_loss("a_view_of_a_sealed_secret_is_lost", |loss| {
        let vault = split();
        let sealed = secret(&vault, Store::Sealed, beside_nothing());
        assert_lost_in_view(loss, &sealed);
        assert_reported(loss, Memory::View);
        assert_eq!(fault::last_fault().and_then(|report| report.secret_id), Some(sealed.id()));
        assert_eq!(fault::last_fault().expect("a report").label.as_str(), "lost");
        // It was only the view.
        assert_right(&sealed);
        let view = sealed.view().expect("a view");
        loss.strike(view.as_ptr().addr()).expect("struck");
        assert!(is_noise(&view));
        assert_eq!(view.finish(), Err(Error::Poisoned));
        let owned = sealed.owned_view().expect("an owned view");
        let outcome = owned.with(|bytes| {
            loss.strike(bytes.as_ptr().addr()).expect("struck");
            touch(bytes.as_ptr().addr());
        });
        assert!(matches!(outcome, Err(WithError::Ran { error: Error::Poisoned, .. })), "{outcome:?}");
        assert!(matches!(owned.with(|_| ()), Err(WithError::Ran { error: Error::Poisoned, .. })));
        drop(owned);
        // A change of a copy that is not what it was.
        let mut change = sealed.view_mut().expect("a copy");
        loss.strike(change.as_ptr().addr()).expect("struck");
        change[1] = 1;
        assert_eq!(change.commit(), Err(Error::Poisoned));
        assert_right(&sealed);
        assert_works(&vault);
    });
}

#[test]
fn scratch_is_lost_while_nobody_uses_it() {
    let _guard = TestGuard::new();
    for_each_loss("scratch_is_lost_while_nobody_uses_it", |loss| {
        let vault = split();
        let len = beside_nothing();
        let sealed = secret(&vault, Store::Sealed, len);
        for round in 0..4 {
            let scratch = sealed.with(|bytes| bytes.as_ptr().addr()).expect("it can be read");
            loss.strike(scratch).expect("struck");
            // Our own routines find it lost.
            if round % 2 == 0 {
                assert_eq!(not_run(sealed.with(|bytes| bytes.to_vec())), Error::Poisoned);
            } else {
                let made = vault.secret().store(Store::Sealed).init_with(len, |room| room.fill(1));
                assert_eq!(made.map(drop), Err(Error::Poisoned));
            }
            assert_reported(loss, Memory::View);
            assert_right(&sealed);
            assert_works(&vault);
        }
        assert_eq!(fault::faults_seen(), 4);
    });
}

/// Where the ciphertext of a secret lies, with what belongs to it and stands before it.
fn record(secret: &Secret) -> std::ops::Range<usize> {
    const BEFORE: usize = 16;
    let at_rest = secret.status().at_rest.expect("it is at rest");
    at_rest.address - BEFORE..at_rest.address + at_rest.len
}

/// Bytes that have whole pages to themselves, wherever they begin.
fn large() -> usize {
    5 * page_size() - 480
}

/// Makes many, closes every third, and says of the others where they lie. The pieces that are free have the addresses of
/// others in them.
fn many(vault: &Vault, len: usize) -> Vec<(Secret, std::ops::Range<usize>)> {
    // So many that the slab in the middle has whole pages.
    let all: Vec<Secret> = (0..page_size() / 8).map(|_| secret(vault, Store::Sealed, len)).collect();
    let (mut kept, mut closed) = (Vec::new(), Vec::new());
    for (index, secret) in all.into_iter().enumerate() {
        if index % 3 == 0 { closed.push(secret) } else { kept.push(secret) }
    }
    closed.iter().for_each(|secret| assert!(secret.close().is_ok()));
    kept.into_iter().map(|secret| (record(&secret), secret)).map(|(at, secret)| (secret, at)).collect()
}

fn ciphertext_is_lost(vault: &Vault, loss: Loss, len: usize) {
    let secrets = many(vault, len);
    let mut pages: Vec<usize> = secrets.iter().map(|(_, at)| page_of(at.end)).collect();
    pages.sort_unstable();
    // In the middle: the pages at the ends are not the library's alone.
    let page = pages[pages.len() / 2];
    loss.strike(page).expect("struck");
    let is_hit = |at: &std::ops::Range<usize>| at.start < page + page_size() && page < at.end;
    // Free pieces are taken first, and some of them lie in what was lost.
    let fresh: Vec<Secret> = (0..500).map(|_| secret(vault, Store::Sealed, len)).collect();
    fresh.iter().for_each(assert_right);
    let mut sources = vec![vec![7; len]; 100];
    let batch = vault.secrets_from(&mut sources).expect("many secrets");
    assert!(
        batch.iter().all(|secret| secret.with(|bytes| bytes.iter().all(|&byte| byte == 7)).expect("read"))
    );
    let mut hit = 0;
    for (secret, at) in &secrets {
        if is_hit(at) {
            hit += 1;
            assert_eq!(not_run(secret.with(|bytes| bytes.to_vec())), Error::Poisoned);
            assert_eq!(secret.replace(&mut vec![7; len]), Err(Error::Poisoned));
        } else {
            assert_right(secret);
        }
    }
    assert!(hit > 0);
    assert_reported(loss, Memory::Ciphertext);
    // All that are read before the first one that is lost are right.
    let all: Vec<&Secret> = secrets.iter().map(|(secret, _)| secret).collect();
    let first = secrets.iter().position(|(_, at)| is_hit(at)).expect("one");
    let mut read = 0;
    let failed = Secret::with_many(&all, |_, bytes| {
        assert_eq!(bytes[0], needle().byte(0));
        read += 1;
    });
    let failed = failed.expect_err("one of them is lost");
    assert_eq!((failed.index, failed.ran, failed.error, read), (first, false, Error::Poisoned, first));
    // A new key: what is lost stays so, and is not taken for what somebody has changed.
    vault.refresh().expect("a new key");
    let _ = vault.finish_refresh(std::time::Duration::from_millis(200));
    for (secret, at) in &secrets {
        if is_hit(at) {
            assert_eq!(not_run(secret.with(|bytes| bytes.to_vec())), Error::Poisoned);
        } else {
            assert_right(secret);
        }
    }
    secrets.iter().for_each(|(secret, _)| assert!(secret.close().is_ok()));
    let again: Vec<Secret> = (0..2000).map(|_| secret(vault, Store::Sealed, len)).collect();
    again.iter().chain(&fresh).for_each(assert_right);
    assert_works(vault);
}

#[test]
fn ciphertext_in_a_slab_is_lost() {
    let _guard = TestGuard::new();
    for_each_loss("ciphertext_in_a_slab_is_lost", |loss| {
        let vault = split();
        ciphertext_is_lost(&vault, loss, 48);
        drop(vault);
        // Nothing is remembered of addresses that are others' now.
        let vault = split();
        let all: Vec<Secret> = (0..2000).map(|_| secret(&vault, Store::Sealed, 48)).collect();
        all.iter().for_each(assert_right);
    });
}

#[test]
fn large_ciphertext_is_lost() {
    let _guard = TestGuard::new();
    for_each_loss("large_ciphertext_is_lost", |loss| {
        let vault = split();
        for len in [large(), 10 * large()] {
            let (one, other) = (secret(&vault, Store::Sealed, len), secret(&vault, Store::Sealed, len));
            let at = record(&one);
            loss.strike((at.start + at.end) / 2).expect("struck");
            for _ in 0..2 {
                assert_eq!(not_run(one.with(|bytes| bytes.to_vec())), Error::Poisoned);
            }
            assert_right(&other);
            assert_reported(loss, Memory::Ciphertext);
            one.close().expect("closed");
            // The allocator gives the same memory again.
            let again: Vec<Secret> = (0..8).map(|_| secret(&vault, Store::Sealed, len)).collect();
            again.iter().chain([&other]).for_each(assert_right);
            // One that is moved to a new key, read by many at once.
            let at = record(&other);
            loss.strike((at.start + at.end) / 2).expect("struck");
            let failed = Secret::with_many(&[&again[0], &other], |_, _| ()).expect_err("one is lost");
            assert_eq!((failed.index, failed.error), (1, Error::Poisoned));
            let at = record(&again[0]);
            loss.strike((at.start + at.end) / 2).expect("struck");
            vault.refresh().expect("a new key");
            for _ in 0..3 {
                let _ = vault.finish_refresh(std::time::Duration::from_millis(100));
            }
            assert_eq!(not_run(other.with(|bytes| bytes.to_vec())), Error::Poisoned);
            assert_eq!(not_run(again[0].with(|bytes| bytes.to_vec())), Error::Poisoned);
            again[1..].iter().for_each(assert_right);
            vault.purge().expect("all is new");
        }
        assert_works(&vault);
    });
}

#[test]
fn a_replaced_page_of_ciphertext_is_there_in_a_child() {
    let _guard = TestGuard::new();
    for_each_loss("a_replaced_page_of_ciphertext_is_there_in_a_child", |loss| {
        if page_size() >= common::LARGE_PAGE {
            return eprintln!(
                "skipped: no whole page of 64 KiB lies in what the allocator keeps when it is freed"
            );
        }
        let vault = split();
        // Small enough for the allocator to keep the memory when it is freed.
        let large = secret(&vault, Store::Sealed, 60_000);
        let at = record(&large);
        let middle = (at.start + at.end) / 2;
        loss.strike(middle).expect("struck");
        assert_eq!(not_run(large.with(|_| ())), Error::Poisoned);
        large.close().expect("closed");
        drop(large);
        // A child knows its own thread, too.
        let status = in_child(|| {
            let vault = split();
            let large = secret(&vault, Store::Sealed, 200_000);
            let at = record(&large);
            loss.strike((at.start + at.end) / 2).expect("struck");
            not_run(large.with(|bytes| bytes.to_vec())) == Error::Poisoned
        });
        assert_eq!(status, 0, "{status:#x}");
        // The allocator's memory again, of which a child has a copy.
        let block = std::hint::black_box(vec![7_u8; 60_000]);
        assert!(block.as_ptr_range().contains(&(middle as *const u8)), "the allocator gave other memory");
        let status = in_child(|| block.iter().all(|&byte| byte == 7));
        assert_eq!(status, 0);
    });
}

fn paged_is_lost(loss: Loss, len: usize, strike: impl Fn(&Vault, &Secret)) {
    let vault = split();
    let (paged, other) = (secret(&vault, Store::Paged, len), secret(&vault, Store::Paged, len));
    let place = paged.status().at_rest.expect("it is at rest").address;
    strike(&vault, &paged);
    for _ in 0..2 {
        assert_eq!(not_run(paged.with(|bytes| bytes.to_vec())), Error::Poisoned);
        assert_eq!(paged.view_mut().map(drop), Err(Error::Poisoned));
        assert_eq!(paged.owned_view().map(drop), Err(Error::Poisoned));
    }
    assert_right(&other);
    assert_reported(loss, Memory::Paged);
    paged.close().expect("closed");
    let again: Vec<Secret> = (0..20).map(|_| secret(&vault, Store::Paged, len)).collect();
    assert!(
        again.iter().any(|secret| secret.status().at_rest.is_some_and(|at| at.address == place)),
        "used again"
    );
    again.iter().chain([&other]).for_each(assert_right);
    // In pages that were replaced all is as promised.
    let status = |secret: &Secret| {
        let got = secret.status().protections;
        (got.lock.got, got.dump.got, got.fork.got)
    };
    again.iter().for_each(|secret| assert_eq!(status(secret), status(&other)));
    assert_works(&vault);
}

#[test]
fn a_paged_secret_is_lost_at_rest() {
    let _guard = TestGuard::new();
    for_each_loss("a_paged_secret_is_lost_at_rest", |loss| {
        for len in [48, large()] {
            paged_is_lost(loss, len, |_, paged| {
                let at = paged.status().at_rest.expect("it is at rest").address;
                loss.strike(at).expect("struck");
                match paged.with(|bytes| is_noise(&bytes[..48])) {
                    Err(WithError::Ran { result, error }) => {
                        assert_eq!((result, error), (true, Error::Poisoned))
                    }
                    other => panic!("{other:?}"),
                }
            });
        }
    });
}

#[test]
fn a_paged_secret_is_lost_under_a_view() {
    let _guard = TestGuard::new();
    for_each_loss("a_paged_secret_is_lost_under_a_view", |loss| {
        for len in [48, large()] {
            paged_is_lost(loss, len, |_, paged| {
                let nested = paged.view().expect("a view");
                let outcome = paged.with(|bytes| {
                    loss.strike(bytes.as_ptr().addr() + len - 1).expect("struck");
                    is_noise(&bytes[len - 40..])
                });
                match outcome {
                    Err(WithError::Ran { result, error }) => {
                        assert_eq!((result, error), (true, Error::Poisoned))
                    }
                    other => panic!("{other:?}"),
                }
                assert_eq!(nested.finish(), Err(Error::Poisoned));
            });
        }
    });
}

#[test]
fn a_paged_secret_is_lost_under_its_writer() {
    let _guard = TestGuard::new();
    for_each_loss("a_paged_secret_is_lost_under_its_writer", |loss| {
        let vault = split();
        for len in [48, large()] {
            let paged = secret(&vault, Store::Paged, len);
            for keep in [true, false] {
                let mut change = paged.view_mut().expect("pages");
                loss.strike(change.as_ptr().addr()).expect("struck");
                change.fill(3);
                if keep {
                    assert_eq!(change.commit(), Err(Error::Poisoned));
                } else {
                    drop(change);
                }
                // The old value was kept elsewhere.
                assert_right(&paged);
                assert_reported(loss, Memory::Paged);
            }
            // Lost, and not touched before the writer ends.
            let change = paged.view_mut().expect("pages");
            loss.strike(change.as_ptr().addr()).expect("struck");
            drop(change);
            assert_right(&paged);
        }
        assert_works(&vault);
    });
}

/// Descriptors by which a child that dies tells that it has come so far, and hears that it may go on.
static TOLD: AtomicI32 = AtomicI32::new(-1);
static GO_ON: AtomicI32 = AtomicI32::new(-1);

/// The handler that was there before ours, and is called after it.
extern "C" fn stop(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    let mut byte = 1_u8;
    // SAFETY: one byte of this frame.
    unsafe {
        libc::write(TOLD.load(Ordering::Relaxed), (&raw const byte).cast(), 1);
        libc::read(GO_ON.load(Ordering::Relaxed), (&raw mut byte).cast(), 1);
    }
}

fn pipe() -> (c_int, c_int) {
    let mut ends = [0; 2];
    // SAFETY: two numbers.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    (ends[0], ends[1])
}

/// Has a process lose memory, looks into it when our handler has done its work, and says how many times there was something
/// of a secret, and how it ended.
fn die(signal: c_int, policy: FaultPolicy, hold: Hold, lose: impl FnOnce(&Vault, usize)) -> (usize, c_int) {
    let ((told, tells), (hears, go_on)) = (pipe(), pipe());
    // SAFETY: the child does not return; no other thread of this process takes locks now.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            TOLD.store(tells, Ordering::Relaxed);
            GO_ON.store(hears, Ordering::Relaxed);
            // SAFETY: zero is right for what is not set; the handler is async-signal-safe.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = stop as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                assert_eq!(libc::sigaction(signal, &raw const action, std::ptr::null_mut()), 0);
            }
            fault::install(policy).expect("installed").keep();
            let vault = Vault::builder().hold(hold).hold_level(Level::Require).build().expect("a vault");
            // As long as no paged secret looks like one.
            let key = if hold == Hold::Split { Anchor::find().address() } else { key_page(hold) };
            let kept = [secret(&vault, Store::Sealed, 48), secret(&vault, Store::Paged, 48)];
            let view = kept[0].view().expect("a view");
            lose(&vault, key);
            drop(view);
        }));
        // SAFETY: ends the process.
        unsafe { libc::_exit(3) };
    }
    // SAFETY: numbers; one byte that lives over the call.
    unsafe {
        libc::close(tells);
        let mut byte = 0_u8;
        assert_eq!(libc::read(told, (&raw mut byte).cast(), 1), 1, "the handler before ours was not called");
        let mut found = needle().find_in(child);
        // A child has its signal stack where its parent has it.
        found.retain(|place| !common::is_in_saved_registers(place));
        found.iter().for_each(|place| eprintln!("found: {place}"));
        if !matches!(policy, FaultPolicy::Abort) {
            libc::kill(child, libc::SIGKILL);
        }
        libc::write(go_on, (&raw const byte).cast(), 1);
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        [told, hears, go_on].iter().for_each(|&end| assert_eq!(libc::close(end), 0));
        (found.len(), if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { 0 })
    }
}

/// Loses memory in every kind of page, in a process each. All is wiped, and the signal is what it was.
fn aborts(loss: Loss) {
    let dies = |what: &str, hold: Hold, lose: &dyn Fn(&Vault, usize)| {
        eprintln!("{what}, {loss:?}");
        assert_eq!(die(libc::SIGBUS, FaultPolicy::Abort, hold, lose), (0, libc::SIGBUS), "{what}, {loss:?}");
    };
    let strike = |at: usize| loss.strike(at).expect("struck");
    let sealed = |vault: &Vault| secret(vault, Store::Sealed, 48);
    dies("share B", Hold::Split, &|vault, page| {
        let sealed = sealed(vault);
        strike(page);
        let _ = sealed.with(|_| ());
    });
    dies("a view", Hold::Split, &|vault, _| {
        let _ = sealed(vault).with(|bytes| {
            strike(bytes.as_ptr().addr());
            touch(bytes.as_ptr().addr())
        });
    });
    dies("a large view, in the middle", Hold::Split, &|vault, _| {
        let _ = secret(vault, Store::Sealed, large()).with(|bytes| {
            strike(bytes.as_ptr().addr() + 10_000);
            touch(bytes.as_ptr().addr() + 10_000)
        });
    });
    dies("scratch at rest", Hold::Split, &|vault, _| {
        let sealed = sealed(vault);
        strike(sealed.with(|bytes| bytes.as_ptr().addr()).expect("read"));
        let _ = sealed.with(|_| ());
    });
    dies("ciphertext in a slab", Hold::Split, &|vault, _| {
        let secrets = many(vault, 48);
        let (secret, at) = &secrets[secrets.len() / 2];
        strike(at.start);
        let _ = secret.with(|_| ());
    });
    dies("large ciphertext", Hold::Split, &|vault, _| {
        let large = secret(vault, Store::Sealed, large());
        let at = record(&large);
        // Not in the page of its beginning, which has what the allocator keeps there.
        strike((at.start + at.end) / 2);
        let _ = large.with(|_| ());
    });
    for len in [48, large()] {
        dies("a paged secret at rest", Hold::Split, &|vault, _| {
            let paged = secret(vault, Store::Paged, len);
            strike(paged.status().at_rest.expect("it is at rest").address + len / 2);
            let _ = paged.with(|bytes| touch(bytes.as_ptr().addr() + len / 2));
        });
        dies("a paged secret under its writer", Hold::Split, &|vault, _| {
            let paged = secret(vault, Store::Paged, len);
            let mut change = paged.view_mut().expect("pages");
            strike(change.as_ptr().addr() + len / 2);
            change.fill(1);
        });
    }
    for hold in [Hold::Guarded, Hold::Pkey, Hold::Secretmem] {
        if let Err(error) = vault(hold) {
            eprintln!("skipped: {hold:?} {error}");
        } else if (hold, loss) == (Hold::Secretmem, Loss::Hardware) {
            eprintln!("not possible: {loss:?} on secretmem");
        } else {
            dies(&format!("a key, {hold:?}"), hold, &|vault, page| {
                let sealed = sealed(vault);
                strike(page);
                let _ = sealed.with(|_| ());
            });
        }
    }
}

#[test]
fn under_abort_all_is_wiped_and_the_signal_ends_the_process() {
    case("under_abort_all_is_wiped_and_the_signal_ends_the_process").shown().run(|| {
        losses().into_iter().for_each(aborts);
    });
}

/// The search of the test above finds what there is.
#[test]
fn what_is_not_wiped_is_found() {
    case("what_is_not_wiped_is_found").run(|| {
        let (found, signal) = die(libc::SIGBUS, FaultPolicy::Report, Hold::Split, |vault, _| {
            let _ = secret(vault, Store::Sealed, large()).with(|bytes| {
                Loss::Cut.strike(bytes.as_ptr().addr()).expect("struck");
                touch(bytes.as_ptr().addr())
            });
        });
        assert_eq!(signal, libc::SIGKILL);
        assert!(found >= 2, "the view and the paged secret");
    });
}

/// Somebody has unmapped a page of ours: that is no loss to recover from.
#[test]
fn a_page_that_is_not_there_ends_the_process_with_all_wiped() {
    case("a_page_that_is_not_there_ends_the_process_with_all_wiped").run(|| {
        for len in [48, large()] {
            for policy in [FaultPolicy::Abort, FaultPolicy::Report] {
                let outcome = die(libc::SIGSEGV, policy, Hold::Split, |vault, _| {
                    let paged = secret(vault, Store::Paged, len);
                    let _ = paged.with(|bytes| {
                        let at = bytes.as_ptr().addr() + len / 2;
                        unmap(at);
                        touch(at)
                    });
                });
                match policy {
                    FaultPolicy::Abort => assert_eq!(outcome, (0, libc::SIGSEGV)),
                    _ => assert!(outcome.0 >= 2 && outcome.1 == libc::SIGKILL),
                }
            }
            let outcome = die(libc::SIGSEGV, FaultPolicy::Abort, Hold::Split, |_, _| {
                let vault = split();
                let _ = secret(&vault, Store::Sealed, len).with(|bytes| {
                    unmap(bytes.as_ptr().addr());
                    touch(bytes.as_ptr().addr())
                });
            });
            assert_eq!(outcome, (0, libc::SIGSEGV), "under recovery too");
        }
    });
}

/// The kernel may tell of an error before anybody touches the memory: here to a process whose child shares the page.
#[test]
fn an_error_is_told_before_anybody_touches_it() {
    case("an_error_is_told_before_anybody_touches_it").shown().run(|| {
        if !Loss::Hardware.is_possible() {
            return eprintln!("skipped: no MADV_HWPOISON here");
        }
        // SAFETY: numbers.
        let early =
            unsafe { libc::prctl(libc::PR_MCE_KILL, libc::PR_MCE_KILL_SET, libc::PR_MCE_KILL_EARLY, 0, 0) };
        assert_eq!(early, 0);
        let _handling = fault::install(FaultPolicy::Abort).expect("installed");
        let vault = split();
        let secrets = many(&vault, 48);
        let (lost, at) = &secrets[secrets.len() / 2];
        // SAFETY: the child ends at once; in it the page is only read.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::signal(libc::SIGBUS, libc::SIG_IGN);
                libc::madvise(page_of(at.start) as *mut c_void, page_size(), libc::MADV_HWPOISON);
                libc::_exit(0);
            }
            // Interrupted by the signal.
            let mut status = 0;
            while libc::waitpid(child, &raw mut status, 0) != child {
                assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EINTR));
            }
        }
        let report = fault::last_fault().expect("a report");
        assert_eq!((report.signal, report.code), (libc::SIGBUS, libc::BUS_MCEERR_AO), "{report}");
        assert_eq!((report.done, fault::faults_seen()), (Done::Replaced, 1));
        assert_eq!(not_run(lost.with(|_| ())), Error::Poisoned);
        assert_works(&vault);
    });
}

#[test]
fn without_handling_a_loss_ends_the_process() {
    case("without_handling_a_loss_ends_the_process").ending(common::Ending::Signal(libc::SIGBUS)).run(|| {
        let vault = split();
        let sealed = secret(&vault, Store::Sealed, 48);
        let _ = sealed.with(|bytes| {
            Loss::Cut.strike(bytes.as_ptr().addr()).expect("struck");
            touch(bytes.as_ptr().addr())
        });
    });
}

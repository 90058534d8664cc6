//! The budget of a vault and of the process: counted exactly, refused at the limit, given back whatever ends.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests end by panics, and lock memory by raw calls"
)]

#[cfg_attr(windows, path = "common/windows.rs")]
mod common;

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

#[cfg(unix)]
use common::case;
use securememory::testing::inject::{self, Plan};
use securememory::testing::{TestGuard, errno};
use securememory::{
    Call, CallError, Error, ErrorKind, Hint, Level, OnLockLimit, Policy, Protection, Quota, Resource, Secret,
    Store, Vault, VaultBuilder,
};

#[cfg(unix)]
fn page() -> u64 {
    common::page_size() as u64
}

fn stores() -> [(&'static str, VaultBuilder); 2] {
    [("sealed", Vault::builder().store(Store::Sealed)), ("paged", Vault::builder().store(Store::Paged))]
}

fn counted(vault: &Vault) -> (u64, u64) {
    let budget = vault.budget();
    assert_eq!(budget.secrets, vault.status().secrets);
    (budget.secrets, budget.bytes)
}

fn over_bytes(asked: u64, in_use: u64, limit: u64) -> Error {
    Error::OverBudget { of: Quota::Bytes, asked, in_use, limit }
}

#[test]
fn the_last_byte_fits_and_what_is_refused_is_untouched() {
    let _guard = TestGuard::new();
    for (name, builder) in stores() {
        let vault = builder.bytes_max(100).secrets_max(3).build().unwrap();
        let first = vault.secret().random(60).unwrap();
        let mut source = vec![7; 41];
        let refused = vault.secret().from_bytes(&mut source).unwrap_err();
        assert_eq!(refused, over_bytes(41, 60, 100), "{name}");
        assert_eq!((refused.kind(), refused.hint()), (ErrorKind::Limit, Some(Hint::Budget(Quota::Bytes))));
        assert!(refused.hint().unwrap().to_string().contains("bytes_max"), "{name}");
        assert_eq!(source, [7; 41], "{name}");
        let called = std::cell::Cell::new(false);
        let refused = vault.secret().init_with(41, |_| called.set(true)).unwrap_err();
        assert_eq!((refused, called.get()), (over_bytes(41, 60, 100), false), "{name}");
        let second = vault.secret().random(40).unwrap();
        assert_eq!(counted(&vault), (2, 100), "{name}");
        drop(first);
        let third = vault.secret().random(1).unwrap();
        let fourth = vault.secret().random(1).unwrap();
        let refused = vault.secret().random(1).unwrap_err();
        assert_eq!(
            refused,
            Error::OverBudget { of: Quota::Secrets, asked: 1, in_use: 3, limit: 3 },
            "{name}"
        );
        assert!(refused.hint().unwrap().to_string().contains("secrets_max"), "{name}");
        assert_eq!(
            refused.to_string(),
            "1 more secrets are over the vault's limit of 3, of which 3 are in use"
        );
        second.close().unwrap();
        second.close().unwrap();
        assert_eq!(counted(&vault), (2, 2), "{name}: a closed one counts no more, and only once");
        drop((second, third, fourth));
        assert_eq!(counted(&vault), (0, 0), "{name}");
    }
}

#[test]
fn creations_that_fail_give_back_what_they_had_taken() {
    let _guard = TestGuard::new();
    for (name, builder) in stores() {
        let vault = builder.bytes_max(32).build().unwrap();
        let failed = vault.secret().try_init_with(32, |_| Err("no"));
        assert!(failed.is_err(), "{name}");
        let failed = vault.secret().read_from(&mut &b"too short"[..], 32);
        assert_eq!(failed.err(), Some(Error::EndedEarly { expected: 32, got: 9 }), "{name}");
        let panicked = std::panic::catch_unwind(|| vault.secret().init_with(32, |_| panic!("in a closure")));
        assert!(panicked.is_err(), "{name}");
        for n in 1..8 {
            let plan = inject::fail(Call::Getrandom, Plan::Nth { n, errno: errno::EIO });
            let made = vault.secret().random(32);
            drop(plan);
            assert!(made.is_ok() || counted(&vault) == (0, 0), "{name}, call {n}");
        }
        assert_eq!(counted(&vault), (0, 0), "{name}");
        drop(vault.secret().random(32).unwrap());
    }
}

#[test]
fn a_batch_is_all_or_nothing_also_where_the_budget_ends_in_the_middle() {
    let _guard = TestGuard::new();
    let vault = Vault::builder().store(Store::Sealed).bytes_max(99 * 10).build().unwrap();
    let mut sources: Vec<Vec<u8>> = (0..100).map(|_| vec![5; 10]).collect();
    assert_eq!(vault.secrets_from(&mut sources).err(), Some(over_bytes(10, 990, 990)));
    assert!(sources.iter().all(|source| *source == [5; 10]));
    assert_eq!(counted(&vault), (0, 0));
    let made = vault.secrets_from(&mut sources[1..]).unwrap();
    assert_eq!(counted(&vault), (99, 990));
    drop(made);
    assert_eq!(counted(&vault), (0, 0));
}

#[test]
fn a_value_that_is_replaced_costs_nothing_however_often() {
    let _guard = TestGuard::new();
    for (name, builder) in stores() {
        let vault = builder.bytes_max(32).secrets_max(1).build().unwrap();
        let secret = vault.secret().random(32).unwrap();
        // The pages of a paged one are the writer's alone.
        let view = (name == "sealed").then(|| secret.view().unwrap());
        for round in 0..200_u8 {
            secret.replace(&mut [round; 32]).unwrap();
        }
        drop(view);
        vault.refresh().unwrap();
        vault.finish_refresh(std::time::Duration::from_secs(5)).unwrap();
        assert!(secret.ct_eq_bytes(&[199; 32]).unwrap(), "{name}");
        assert_eq!(counted(&vault), (1, 32), "{name}");
    }
}

#[test]
fn what_is_purged_counts_until_it_is_let_go_and_pages_only_until_then() {
    let _guard = TestGuard::new();
    let vault = Vault::builder().bytes_max(64).build().unwrap();
    let sealed = vault.secret().store(Store::Sealed).random(20).unwrap();
    let paged = vault.secret().store(Store::Paged).random(30).unwrap();
    let view = paged.view().unwrap();
    vault.purge().unwrap();
    assert_eq!(counted(&vault), (2, 50), "the pages are in use");
    drop(view);
    assert_eq!(counted(&vault), (1, 20));
    drop(sealed);
    assert_eq!(counted(&vault), (0, 0));
    drop(paged);
    assert_eq!(counted(&vault), (0, 0));
}

#[test]
fn chunks_of_streams_count_when_they_are_sealed() {
    let _guard = TestGuard::new();
    let vault = Vault::builder().bytes_max(10_000).build().unwrap();
    let mut stream = vault.stream().chunk_size(1000).build().unwrap();
    stream.write_all(&[3; 9_999]).unwrap();
    stream.finish().unwrap();
    assert_eq!(counted(&vault), (10, 9_999));
    // One more chunk, and none after it.
    let mut second = vault.stream().chunk_size(1).build().unwrap();
    let refused = second.write_all(&[3; 3]).unwrap_err();
    let inner = refused.get_ref().and_then(|error| error.downcast_ref::<Error>());
    assert_eq!(inner, Some(&over_bytes(1, 10_000, 10_000)));
    // It has its bytes still, and goes on when there is room.
    assert_eq!((second.len(), second.chunks()), (2, 1));
    assert_eq!(second.finish().err(), Some(over_bytes(1, 10_000, 10_000)));
    drop(stream);
    second.finish().unwrap();
    let mut bytes = Vec::new();
    second.read_to_end(&mut bytes).unwrap();
    assert_eq!((bytes.as_slice(), counted(&vault)), (&[3; 2][..], (2, 2)));
    second.close().unwrap();
    assert_eq!(counted(&vault), (0, 0));
    // An empty one has a chunk that says so.
    let mut empty = vault.stream().build().unwrap();
    empty.finish().unwrap();
    assert_eq!(counted(&vault), (1, 1));
    drop(empty);
    assert_eq!(counted(&vault), (0, 0));
}

#[test]
fn a_view_that_outlives_its_secret_keeps_it_counted() {
    let _guard = TestGuard::new();
    for (name, builder) in stores() {
        let vault = builder.build().unwrap();
        let secret = vault.secret().random(32).unwrap();
        let view = secret.owned_view().unwrap();
        drop(secret);
        let held = counted(&vault);
        assert!(held == (1, 32), "{name}: {held:?}");
        drop(view);
        assert_eq!(counted(&vault), (0, 0), "{name}");
    }
}

#[test]
fn it_stays_exact_and_bounded_under_threads() {
    let _guard = TestGuard::new();
    for (name, builder) in stores() {
        const MAX: u64 = 640;
        let vault = builder.bytes_max(MAX).build().unwrap();
        let kept: Arc<Mutex<Vec<Secret>>> = Arc::default();
        let (made, refused) = (std::sync::atomic::AtomicU64::new(0), std::sync::atomic::AtomicU64::new(0));
        let count = |counter: &std::sync::atomic::AtomicU64| {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
        };
        common::in_threads(&[1_usize, 2, 3, 4], |&seed| {
            for step in 0..2000 {
                let len = 1 + (seed * 31 + step * 17) % 100;
                match vault.secret().random(len) {
                    Ok(secret) => {
                        count(&made);
                        kept.lock().unwrap().push(secret);
                    }
                    Err(Error::OverBudget { of: Quota::Bytes, asked, in_use, limit }) => {
                        assert!(
                            asked == len as u64 && in_use + asked > limit && in_use <= MAX && limit == MAX
                        );
                        count(&refused);
                        let dropped = kept.lock().unwrap().pop();
                        drop(dropped);
                    }
                    Err(error) => panic!("{name}: {error}"),
                }
            }
        });
        let kept = std::mem::take(&mut *kept.lock().unwrap());
        let bytes: u64 = kept.iter().map(|secret| secret.len() as u64).sum();
        assert!(made.into_inner() > 100 && refused.into_inner() > 100, "{name}");
        assert_eq!(counted(&vault), (kept.len() as u64, bytes), "{name}");
        drop(kept);
        assert_eq!(counted(&vault), (0, 0), "{name}");
    }
}

#[test]
fn preflight_knows_the_limits_of_the_vault() {
    let _guard = TestGuard::new();
    let vault = Vault::builder().secrets_max(10).bytes_max(100).build().unwrap();
    let _one = vault.secret().random(20).unwrap();
    assert!(vault.preflight(8, 10).unwrap().fits);
    let found = vault.preflight(9, 10).unwrap();
    let shortages: Vec<_> = found.shortages().collect();
    assert!(!found.fits && shortages.len() == 1, "{found}");
    assert_eq!(shortages[0].resource, Resource::SecretBytes);
    assert!(shortages[0].refuses);
    assert_eq!((shortages[0].need.needed, shortages[0].need.available), (90, Some(80)));
    let found = vault.preflight(10, 1).unwrap();
    assert_eq!(found.shortages().next().map(|shortage| shortage.resource), Some(Resource::Secrets));
    let unlimited = Vault::builder().build().unwrap().preflight(10, 1).unwrap();
    assert_eq!(
        (unlimited.secrets.available, unlimited.secret_bytes.available),
        (Some(u64::MAX), Some(u64::MAX))
    );
}

/// Locks pages as other code in the process does.
#[cfg(unix)]
fn lock_elsewhere(bytes: u64) {
    // SAFETY: a new mapping, which stays.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let at = libc::mmap(
            std::ptr::null_mut(),
            bytes as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        );
        assert!(at != libc::MAP_FAILED && libc::mlock(at, bytes as usize) == 0);
    }
}

#[cfg(unix)]
#[test]
fn the_limit_on_locked_memory_is_counted_as_the_kernel_does() {
    case("the_limit_on_locked_memory_is_counted_as_the_kernel_does")
        .limit(libc::RLIMIT_MEMLOCK, 40 * page())
        .run(|| {
            common::need("verifies");
            common::become_ordinary_user();
            let vault = Vault::builder().store(Store::Paged).policy(Policy::strict()).build().unwrap();
            let mut secrets = Vec::new();
            let mut others = 0;
            loop {
                let budget = vault.budget();
                assert_eq!(budget.lock_limit, Some(40 * page()));
                assert_eq!(budget.locked + others, common::locked(), "{budget}");
                assert_eq!(budget.locked_in_process, Some(common::locked()));
                assert_eq!(budget.lock_left, Some(40 * page() - common::locked()));
                let made = vault.secret().random(32);
                // Exactly as many as it says.
                assert_eq!(made.is_ok(), budget.lock_left >= Some(page()), "{budget}");
                match made {
                    Ok(secret) => secrets.push(secret),
                    Err(error) => {
                        assert!(matches!(error, Error::Refused { protection: Protection::Lock, .. }));
                        break;
                    }
                }
                if secrets.len() == 5 {
                    lock_elsewhere(7 * page());
                    others = 7 * page();
                }
            }
            assert!(secrets.len() > 10, "{}", secrets.len());
        });
}

#[cfg(unix)]
#[test]
fn without_a_limit_on_locked_memory_any_number_is_left() {
    case("without_a_limit_on_locked_memory_any_number_is_left").run(|| {
        common::need("verifies");
        // SAFETY: asks for a number.
        if unsafe { libc::geteuid() } != 0 || common::status_line("CapEff").ends_with("0000") {
            common::skip("needs CAP_IPC_LOCK");
        }
        let names = std::fs::read_to_string("/proc/self/uid_map").unwrap();
        if !names.split_whitespace().eq(["0", "0", "4294967295"]) {
            common::skip("CAP_IPC_LOCK is worth nothing in a user namespace");
        }
        let budget = Vault::builder().build().unwrap().budget();
        assert_eq!((budget.lock_limit, budget.lock_left), (None, Some(u64::MAX)));
        assert!(budget.to_string().ends_with("which may lock any number"), "{budget}");
    });
}

fn with(on_lock_limit: OnLockLimit) -> VaultBuilder {
    Vault::builder().sealed_max(8).policy(Policy::new().on_lock_limit(on_lock_limit))
}

#[test]
fn where_pages_cannot_be_locked_the_policy_decides() {
    let _guard = TestGuard::new();
    let refusal = CallError { call: Call::Mlock, errno: errno::ENOMEM };
    let refused = Error::Refused { protection: Protection::Lock, cause: refusal };
    // Vaults that can lock what they begin with.
    let [degrade, refuse, next] = [OnLockLimit::Degrade, OnLockLimit::Refuse, OnLockLimit::NextStore]
        .map(|what| with(what).build().unwrap());
    let plan = inject::fail(Call::Mlock, Plan::Always { errno: errno::ENOMEM });
    let secret = degrade.secret().random(32).unwrap();
    let status = secret.status();
    assert_eq!((status.store, status.protections.lock.got, status.next_store), (Store::Paged, false, false));
    let mut source = [9; 32];
    assert_eq!(refuse.secret().from_bytes(&mut source).err(), Some(refused));
    assert_eq!((source, refuse.status().secrets), ([9; 32], 0));
    let secret = next.secret().label("moved").from_bytes(&mut source).unwrap();
    let status = secret.status();
    assert_eq!((status.store, status.next_store, source), (Store::Sealed, true, [0; 32]));
    assert!(secret.ct_eq_bytes(&[9; 32]).unwrap());
    assert_eq!(secret.label(), Some("moved"));
    // For a store that was named there is no next one.
    assert_eq!(next.secret().store(Store::Paged).random(32).err(), Some(refused));
    // A closure runs once.
    let runs = std::cell::Cell::new(0);
    let write = |_: &mut [u8]| runs.set(runs.get() + 1);
    assert!(next.secret().init_with(32, write).unwrap().status().next_store);
    assert_eq!(runs.get(), 1);
    let many = next.secrets_from(&mut [[1_u8; 4].to_vec(), [2; 40].to_vec()]).unwrap();
    assert_eq!(many.iter().map(|one| one.status().next_store).collect::<Vec<_>>(), [false, true]);
    drop(plan);
    // When there is room again, they are paged again, and locked.
    let not_here = common::strict_is_refused();
    if let Some(cause) = not_here {
        eprintln!("skipped: pages are not locked here: {cause}");
    }
    for vault in [&refuse, &next].into_iter().filter(|_| not_here.is_none()) {
        let status = vault.secret().random(32).unwrap().status();
        assert_eq!(
            (status.store, status.protections.lock.got, status.next_store),
            (Store::Paged, true, false)
        );
    }
    // Whoever does not want locking is not concerned.
    let plan = inject::fail(Call::Mlock, Plan::Always { errno: errno::ENOMEM });
    let policy = Policy::new().lock(Level::Off).on_lock_limit(OnLockLimit::Refuse);
    assert!(Vault::builder().store(Store::Paged).policy(policy).build().unwrap().secret().random(32).is_ok());
    drop(plan);
}

#[cfg(unix)]
#[test]
fn at_the_real_limit_as_well() {
    case("at_the_real_limit_as_well").limit(libc::RLIMIT_MEMLOCK, 32 * page()).run(|| {
        common::become_ordinary_user();
        let vault = with(OnLockLimit::NextStore).build().unwrap();
        let secrets: Vec<Secret> = (0..60).map(|_| vault.secret().random(32).unwrap()).collect();
        let sealed = secrets.iter().filter(|secret| secret.status().next_store).count();
        let paged = secrets.iter().filter(|secret| secret.status().store == Store::Paged).count();
        assert!(sealed > 20 && paged > 10 && sealed + paged == 60, "{sealed} {paged}");
        for secret in &secrets {
            let status = secret.status();
            assert!(status.store == Store::Sealed || status.protections.lock.got, "{status:?}");
            secret.with(|bytes| assert!(bytes.iter().any(|&byte| byte != 0))).unwrap();
        }
        let refusing = with(OnLockLimit::Refuse).build().unwrap();
        let mut kept = Vec::new();
        let refused = loop {
            match refusing.secret().random(32) {
                Ok(secret) => kept.push(secret),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, Error::Refused { protection: Protection::Lock, .. }), "{refused:?}");
    });
}

//! A drop waits for no lock: where others have it, what is dropped is wiped at once and given back by whoever takes the
//! lock next.
#![allow(clippy::unwrap_used, clippy::panic)]

#[cfg_attr(windows, path = "common/windows.rs")]
mod common;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{case, look};
use securememory::fault::{self, FaultPolicy};
use securememory::signal::{Coordinator, Options, Signal};
use securememory::testing::inject::{Plan, fail};
use securememory::testing::{TestGuard, freeze_process, freeze_vault};
use securememory::{Call, Closed, Level, OnClose, Policy, Secret, Store, Vault, VaultBuilder};

/// A wait for a lock lasts a second. A drop that does none must be over long before, also on a busy machine.
const AT_ONCE: Duration = Duration::from_millis(500);
/// As long as somebody has the lock.
const LONG: Duration = Duration::from_millis(1200);

/// A signal that the coordinator takes here, and that ends nobody while this runs.
const USUAL: Signal = if cfg!(windows) { Signal::HUP } else { Signal::USR1 };

fn at_once<R>(what: &str, act: impl FnOnce() -> R) -> R {
    let started = Instant::now();
    let result = act();
    let took = started.elapsed();
    assert!(took < AT_ONCE, "{what} took {took:?}");
    result
}

fn vault(store: Store) -> Vault {
    builder(store).build().unwrap()
}

fn builder(store: Store) -> VaultBuilder {
    Vault::builder().store(store)
}

fn make(vault: &Vault, len: usize, count: usize) -> Vec<Secret> {
    (0..count).map(|_| vault.secret().from_bytes(&mut vec![0xA5; len]).unwrap()).collect()
}

fn places(secrets: &[Secret]) -> BTreeSet<usize> {
    secrets.iter().map(|secret| secret.status().at_rest.unwrap().address).collect()
}

fn secrets_are_dropped(store: Store, len: usize) {
    const COUNT: usize = 300;
    let vault = vault(store);
    let kept = make(&vault, len, 1);
    let secrets = make(&vault, len, COUNT);
    let before = places(&secrets);
    let rest = secrets[7].status().at_rest.unwrap();
    let bytes = look(rest.address, rest.len).unwrap();
    assert!(freeze_vault(&vault, true));
    let started = Instant::now();
    for secret in secrets {
        at_once("the drop of a secret", || drop(secret));
    }
    // Nothing of it waits unwiped. (Of what is large the memory may be the allocator's again, afterwards.)
    let now = look(rest.address, rest.len).unwrap();
    let left = bytes.windows(16).filter(|window| now.windows(16).any(|now| now == *window)).count();
    assert_eq!(left, 0, "bytes of a dropped secret wait to be wiped");
    std::thread::sleep(LONG.saturating_sub(started.elapsed()));
    assert!(freeze_vault(&vault, false));
    assert_eq!(vault.status().secrets, 1);
    let again = make(&vault, len, COUNT);
    // Bytes of a secret, not a page size.
    if len <= 4096 {
        assert_eq!(places(&again), before, "the memory is used again");
    }
    assert_eq!(vault.status().secrets, 1 + COUNT as u64);
    for secret in again.iter().chain(&kept) {
        secret.with(|bytes| assert!(bytes.len() == len && bytes.iter().all(|&byte| byte == 0xA5))).unwrap();
    }
}

#[test]
fn sealed_secrets_are_dropped_while_others_have_the_locks() {
    let _guard = TestGuard::new();
    secrets_are_dropped(Store::Sealed, 200);
}

#[test]
fn large_sealed_secrets_are_dropped_while_others_have_the_locks() {
    let _guard = TestGuard::new();
    secrets_are_dropped(Store::Sealed, 5000);
}

#[test]
fn paged_secrets_are_dropped_while_others_have_the_locks() {
    let _guard = TestGuard::new();
    secrets_are_dropped(Store::Paged, 200);
}

#[test]
fn paged_secrets_of_many_pages_are_dropped_while_others_have_the_locks() {
    let _guard = TestGuard::new();
    secrets_are_dropped(Store::Paged, 9000);
}

/// The account must be right to the last record, or the old key could never go.
#[test]
fn a_key_can_go_when_its_secrets_were_dropped_while_others_had_the_locks() {
    let _guard = TestGuard::new();
    let vault = vault(Store::Sealed);
    let secrets = make(&vault, 100, 50);
    assert!(freeze_vault(&vault, true));
    at_once("the drop of secrets", || drop(secrets));
    assert!(freeze_vault(&vault, false));
    vault.refresh().unwrap();
    assert_eq!(vault.status().keys, 1, "no record of the old key is counted");
}

#[test]
fn views_that_are_the_last_of_their_secrets_are_dropped_while_others_have_the_locks() {
    let _guard = TestGuard::new();
    for store in [Store::Sealed, Store::Paged] {
        let vault = vault(store);
        let secrets = make(&vault, 100, 3);
        let place = secrets[0].status().at_rest.unwrap();
        let bytes = look(place.address, place.len);
        let view = secrets[0].view().unwrap();
        let owned = secrets[1].owned_view().unwrap();
        let change = secrets[2].view_mut().unwrap();
        for secret in &secrets {
            // By another thread, which has no view.
            let close = || secret.close_timeout(Duration::ZERO).unwrap();
            let closed = std::thread::scope(|scope| scope.spawn(close).join().unwrap());
            assert!(matches!(closed, Closed::Deferred { .. }), "{closed:?}");
        }
        assert!(freeze_vault(&vault, true));
        at_once("the drop of a view", || drop(view));
        at_once("the drop of an owned view", || drop(owned));
        at_once("the drop of a change", || drop(change));
        if let (Some(bytes), Some(now)) = (bytes, look(place.address, place.len)) {
            assert!(
                !now.windows(16).any(|now| bytes.windows(16).any(|before| before == now && now != [0; 16]))
            );
        }
        assert!(freeze_vault(&vault, false));
        // Closed by its last view, and counted so, though the handle is there.
        assert_eq!(vault.status().secrets, 0, "{store:?}");
        assert!(secrets.iter().all(|secret| secret.status().at_rest.is_none()));
        drop(secrets);
        assert_eq!(vault.status().secrets, 0, "{store:?}");
    }
}

/// An old record that a reader kept from being freed is wiped when the secret ends.
#[test]
fn old_records_go_with_a_secret_that_ends_while_others_have_the_locks() {
    if !common::can("split") {
        return;
    }
    let _guard = TestGuard::new();
    // A read of this hold makes a call that can be held up.
    let vault = builder(Store::Sealed).hold(common::HOLD).hold_level(Level::Require).build().unwrap();
    let secret = vault.secret().from_bytes(&mut [1; 100]).unwrap();
    let old = secret.status().at_rest.unwrap();
    let bytes = look(old.address, old.len).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            // Fetches its key for long, and ends the secret when it is through.
            let _plan = fail(Call::Pread, Plan::DelayEach { duration: Duration::from_secs(1) });
            secret.with(<[u8]>::len).ok();
        });
        while secret.status().open_views == 0 {
            std::thread::yield_now();
        }
        secret.replace(&mut [2; 100]).unwrap();
        let closed = secret.close_timeout(Duration::ZERO).unwrap();
        assert!(matches!(closed, Closed::Deferred { .. }), "{closed:?}");
        assert_eq!(look(old.address, old.len).unwrap(), bytes, "the old record waits for the reader");
        assert!(freeze_vault(&vault, true));
        reader.join().unwrap();
        assert_eq!(look(old.address, old.len).unwrap(), bytes, "and for the lock");
        assert!(freeze_vault(&vault, false));
    });
    assert_eq!(vault.status().secrets, 0);
    let now = look(old.address, old.len).unwrap();
    assert!(!now.windows(16).any(|now| bytes.windows(16).any(|before| before == now)), "the old record");
}

/// A close is no drop: it waits for the lock, and nothing is left to others when it is through.
#[test]
fn threads_that_drop_while_others_have_the_lock_now_and_then_lose_nothing() {
    let _guard = TestGuard::new();
    for store in [Store::Sealed, Store::Paged] {
        let vault = vault(store);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (vault, stop) = (&vault, &stop);
            let workers: Vec<_> = (0..3)
                .map(|number| {
                    scope.spawn(move || {
                        for round in 0..common::tries(400) {
                            let secret = vault.secret().from_bytes(&mut vec![number; 40 + round]).unwrap();
                            if round % 3 == 0 {
                                secret.view_mut().unwrap().commit().unwrap();
                            }
                            if round % 5 == 0 {
                                secret.close().unwrap();
                            }
                            secret.owned_view().map(drop).ok();
                        }
                    })
                })
                .collect();
            let disturbs = scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    assert!(freeze_vault(vault, true));
                    std::thread::sleep(Duration::from_micros(200));
                    assert!(freeze_vault(vault, false));
                    std::thread::sleep(Duration::from_micros(300));
                }
            });
            let outcomes: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            stop.store(true, Ordering::Relaxed);
            disturbs.join().unwrap();
            outcomes.into_iter().for_each(|outcome| outcome.unwrap());
        });
        assert_eq!(vault.status().secrets, 0, "{store:?}");
        vault.refresh().unwrap();
        assert_eq!(vault.status().keys, 1, "all records have been counted out");
    }
}

/// The last one to go takes the vault along, and a fork may just be looking at the table of vaults.
#[test]
fn vaults_are_dropped_while_others_have_the_locks_of_the_process() {
    case("vaults_are_dropped_while_others_have_the_locks_of_the_process").run(|| {
        let before = common::locked();
        // More than there may be at a time: those that were dropped do not count.
        for _ in 0..60 {
            let vaults: Vec<_> = (0..20).map(|_| vault(Store::Sealed)).collect();
            let secrets: Vec<_> = vaults.iter().map(|vault| make(vault, 10, 1)).collect();
            assert!(freeze_process(true));
            at_once("the drop of a vault", || drop((vaults, secrets)));
            assert!(freeze_process(false));
            assert_eq!(common::locked(), before, "nothing stays locked");
        }
    });
}

#[test]
fn the_last_handle_of_a_vault_is_dropped_while_others_have_the_locks() {
    let _guard = TestGuard::new();
    for store in [Store::Sealed, Store::Paged] {
        let vault = builder(store).close_on_drop().build().unwrap();
        let [secret, other] = [(); 2].map(|()| vault.secret().from_bytes(&mut [7; 32]).unwrap());
        let helper = vault.clone();
        assert!(freeze_vault(&helper, true));
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // Long enough for the drop, not for who waits.
                std::thread::sleep(LONG);
                let _ = freeze_vault(&secret.vault(), false);
                drop(secret);
            });
            at_once("the drop of the last handle", || drop((helper, vault)));
        });
        assert_eq!(other.len(), 32);
    }
}

/// A revoked view is wiped, and a secret that lingers is closed, by others at the same moment.
#[test]
fn owned_views_end_while_they_are_revoked() {
    let _guard = TestGuard::new();
    let vault = builder(Store::Sealed).policy(Policy::new().on_close(OnClose::Revoke)).build().unwrap();
    for _ in 0..common::tries(500) {
        let secret = vault.secret().from_bytes(&mut [7; 3000]).unwrap();
        let views: Vec<_> = (0..3).map(|_| secret.owned_view().unwrap()).collect();
        std::thread::scope(|scope| {
            let close = scope.spawn(|| secret.close_timeout(Duration::ZERO).unwrap());
            scope.spawn(|| drop(views));
            close.join().unwrap();
        });
    }
    let slots = vault.status().scratch_slots;
    assert!(slots <= 8, "{slots}: slots are given back");
    assert!(vault.diagnostics().views.is_empty());
}

#[test]
fn lingering_secrets_are_dropped_while_a_sweeper_is_at_them() {
    case("lingering_secrets_are_dropped_while_a_sweeper_is_at_them").run(|| {
        let policy = Policy::new().linger(Duration::from_millis(1));
        let vault = builder(Store::Paged).policy(policy).build().unwrap();
        let secret = vault.secret().from_bytes(&mut [7; 100]).unwrap();
        let place = secret.status().at_rest.unwrap().address;
        secret.with(<[u8]>::len).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // The sweeper's change of protection takes longer than anybody waits.
                let _plan = fail(Call::Mprotect, Plan::DelayEach { duration: LONG });
                begun.store(true, Ordering::Release);
                vault.tidy();
                done.store(true, Ordering::Release);
            });
            while !begun.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(100));
            at_once("the drop of a lingering secret", || drop(secret));
            assert!(!done.load(Ordering::Acquire), "the sweeper is at it still");
        });
        assert_eq!((vault.status().secrets, vault.diagnostics().lingering), (0, 0));
        let now = look(place, 100).unwrap();
        assert!(now.iter().all(|&byte| byte == 0), "wiped by the sweeper");
    });
}

#[test]
fn guards_are_dropped_while_others_change_what_is_installed() {
    case("guards_are_dropped_while_others_change_what_is_installed").run(|| {
        for _ in 0..3 {
            let guard = fault::install(FaultPolicy::Report).unwrap();
            let coordinator = Coordinator::install(&[USUAL], Options::new()).unwrap();
            assert!(freeze_process(true));
            at_once("the drop of a fault guard", || drop(guard));
            at_once("the drop of a coordinator", || drop(coordinator));
            assert!(freeze_process(false));
            // Whoever comes next finds that they have gone.
        }
        let guard = fault::install(FaultPolicy::Report).unwrap();
        let coordinator = Coordinator::install(&[USUAL], Options::new()).unwrap();
        assert!(coordinator.check().unwrap().is_empty() && guard.check().unwrap().is_empty());
        coordinator.uninstall().unwrap();
        guard.uninstall().unwrap();
        // Windows does not tell who has been added.
        #[cfg(unix)]
        let action = |signal| {
            let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
            #[allow(unsafe_code, reason = "asks what is installed")]
            // SAFETY: a structure of its own for the answer.
            unsafe {
                assert_eq!(libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()), 0);
                action.assume_init().sa_sigaction
            }
        };
        #[cfg(unix)]
        for signal in [libc::SIGUSR1, libc::SIGILL] {
            assert_eq!(action(signal), libc::SIG_DFL);
        }
    });
}

//! Pages that stay open after their last view, and who closes them.
#![allow(clippy::unwrap_used, clippy::panic)]

#[cfg_attr(windows, path = "common/windows.rs")]
mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Access, access, case, threads};
use securememory::testing::inject::{Plan, calls, fail};
use securememory::testing::{TestGuard, errno};
use securememory::{Call, Closed, Policy, Secret, Store, Vault, VaultBuilder};

const LINGER: Duration = Duration::from_millis(60);
/// The tick of the coarse clock, twice.
const TICKS: Duration = Duration::from_millis(20);

fn vault(linger: Duration) -> VaultBuilder {
    Vault::builder().store(Store::Paged).policy(Policy::new().linger(linger))
}

fn secret(vault: &Vault) -> Secret {
    vault.secret().from_bytes(&mut b"sixteen bytes ok".to_vec()).unwrap()
}

fn read(secret: &Secret) {
    assert!(secret.ct_eq_bytes(b"sixteen bytes ok").unwrap());
}

#[test]
fn a_lingering_secret_is_read_without_protection_changes() {
    let _guard = TestGuard::new();
    let vault = vault(Duration::from_secs(3600)).build().unwrap();
    let secret = secret(&vault);
    let place = secret.status().at_rest.unwrap().address;
    read(&secret);
    assert_eq!(access(place), Access::Read);
    let plan = fail(Call::Mprotect, Plan::Nth { n: u64::MAX, errno: 0 });
    for _ in 0..100 {
        read(&secret);
    }
    assert_eq!((plan.calls(), calls(Call::Mprotect)), (0, 0));
    assert_eq!(vault.diagnostics().lingering, 1);
    assert!(vault.tidy().unwrap() > Duration::from_secs(3500), "not due yet");
    assert_eq!(access(place), Access::Read);
    assert_eq!(secret.close().unwrap(), Closed::Closed);
    drop(secret);
    assert_eq!((vault.diagnostics().lingering, vault.tidy()), (0, None));
}

#[test]
fn without_linger_pages_close_with_the_last_view() {
    let _guard = TestGuard::new();
    let vault = vault(Duration::ZERO).build().unwrap();
    let secret = secret(&vault);
    let place = secret.status().at_rest.unwrap().address;
    let view = secret.view().unwrap();
    assert_eq!(access(place), Access::Read);
    view.finish().unwrap();
    assert_eq!(access(place), Access::None);
    assert_eq!(vault.tidy(), None);
}

#[test]
fn the_next_operation_closes_what_is_due() {
    let _guard = TestGuard::new();
    let vault = vault(LINGER).build().unwrap();
    let [first, second] = [secret(&vault), secret(&vault)];
    let place = first.status().at_rest.unwrap().address;
    read(&first);
    sleep(LINGER + TICKS);
    assert_eq!(access(place), Access::Read, "nobody has come to close them");
    read(&second);
    assert_eq!(access(place), Access::None);
    // Open again, with a view that outlives its time: closed after that view, not under it.
    let view = first.view().unwrap();
    read(&first);
    sleep(LINGER + TICKS);
    read(&second);
    assert_eq!(&*view, b"sixteen bytes ok");
    view.finish().unwrap();
    sleep(LINGER + TICKS);
    assert_eq!(vault.tidy(), None);
    assert_eq!(access(place), Access::None);
}

#[test]
fn a_janitor_closes_what_is_due_and_ends_with_its_vault() {
    case("a_janitor_closes_what_is_due_and_ends_with_its_vault").run(|| {
        let before = threads();
        let vault = vault(LINGER).janitor().build().unwrap();
        assert_eq!(threads(), before + 1);
        let secret = secret(&vault);
        let place = secret.status().at_rest.unwrap().address;
        for _ in 0..3 {
            read(&secret);
            let started = Instant::now();
            assert_eq!(access(place), Access::Read);
            while access(place) != Access::None {
                assert!(started.elapsed() < Duration::from_secs(10));
                sleep(Duration::from_millis(2));
            }
            assert!(started.elapsed() + TICKS > LINGER, "{:?}", started.elapsed());
        }
        drop(vault);
        drop(secret);
        let started = Instant::now();
        while threads() != before {
            assert!(started.elapsed() < Duration::from_secs(10));
            sleep(Duration::from_millis(2));
        }
    });
}

#[test]
fn a_janitor_that_cannot_be_started_is_an_error() {
    let _guard = TestGuard::new();
    let _plan = fail(Call::ThreadCreate, Plan::Always { errno: errno::EAGAIN });
    let error = vault(LINGER).janitor().build().unwrap_err();
    let name = if cfg!(windows) { "CreateThread" } else { "pthread_create" };
    assert!(error.to_string().contains(name), "{error}");
}

#[test]
fn a_protection_change_that_fails_is_tried_again() {
    let _guard = TestGuard::new();
    let vault = vault(Duration::from_millis(1)).build().unwrap();
    let secret = secret(&vault);
    let place = secret.status().at_rest.unwrap().address;
    read(&secret);
    sleep(TICKS);
    let plan = fail(Call::Mprotect, Plan::Always { errno: errno::ENOMEM });
    assert!(vault.tidy().is_some(), "it is still to be closed");
    assert_eq!(plan.calls(), 1);
    drop(plan);
    assert_eq!(access(place), Access::Read);
    sleep(TICKS + TICKS);
    assert_eq!(vault.tidy(), None);
    assert_eq!(access(place), Access::None);
    read(&secret);
}

#[test]
fn more_than_have_a_place_are_closed_at_once() {
    let _guard = TestGuard::new();
    let vault = vault(Duration::from_secs(3600)).build().unwrap();
    let secrets: Vec<_> = (0..70).map(|_| secret(&vault)).collect();
    let places: Vec<_> = secrets.iter().map(|one| one.status().at_rest.unwrap().address).collect();
    secrets.iter().for_each(read);
    assert_eq!(vault.diagnostics().lingering, 64);
    assert_eq!(places.iter().filter(|&&place| access(place) == Access::Read).count(), 64);
    drop(secrets);
    assert_eq!(vault.diagnostics().lingering, 0);
}

#[test]
fn readers_sweepers_writers_and_closers_at_once() {
    case("readers_sweepers_writers_and_closers_at_once").run(|| {
        let vault = vault(Duration::from_nanos(1)).janitor().build().unwrap();
        let stop = AtomicBool::new(false);
        // They live from beginning to end, while others come, are listed where these were, and go.
        let lasting: Vec<_> = (0..4).map(|_| secret(&vault)).collect();
        let places: Vec<_> = lasting.iter().map(|one| one.status().at_rest.unwrap().address).collect();
        std::thread::scope(|scope| {
            for n in 0..4 {
                let (vault, stop, lasting) = (&vault, &stop, &lasting);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let secret = secret(vault);
                        std::thread::scope(|inner| {
                            inner.spawn(|| (0..50).for_each(|_| read(&secret)));
                            for turn in 0..20 {
                                read(&secret);
                                read(&lasting[turn % 4]);
                                if n == 0 {
                                    secret.replace(&mut b"sixteen bytes ok".to_vec()).unwrap();
                                }
                            }
                        });
                        if n == 1 {
                            assert_eq!(secret.close().unwrap(), Closed::Closed);
                        }
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        vault.tidy();
                    }
                });
            }
            sleep(Duration::from_secs(3));
            stop.store(true, Ordering::Relaxed);
        });
        sleep(TICKS);
        vault.tidy();
        sleep(TICKS);
        assert_eq!(vault.diagnostics().lingering, 0);
        assert!(places.iter().all(|&place| access(place) == Access::None), "open, and nobody knows of it");
    });
}

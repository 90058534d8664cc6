//! Parts of owned views, writers with a deadline, and the list of open views.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::mpsc;
use std::time::{Duration, Instant};

use securememory::testing::{Left, TestGuard, expect_leak};
use securememory::{
    Closed, Error, OnClose, Outstanding, OwnedView, Policy, Secret, Store, Vault, ViewKind, WithError,
};

const STORES: [Store; 2] = [Store::Sealed, Store::Paged];
const MOMENT: Duration = Duration::from_millis(50);

fn secret(store: Store, policy: Policy) -> Secret {
    let vault = Vault::builder().policy(policy).store(store).build().unwrap();
    vault.secret().from_bytes(&mut b"sixteen bytes ok".to_vec()).unwrap()
}

fn my_thread() -> u32 {
    securememory::testing::thread_id()
}

fn holds(view: &OwnedView, expected: &[u8]) -> bool {
    view.with(|bytes| bytes == expected).unwrap()
}

#[test]
fn parts_are_bounds_checked_and_nest() {
    let _guard = TestGuard::new();
    for store in STORES {
        let whole = secret(store, Policy::new()).owned_view().unwrap();
        let middle = whole.part(4..=11).unwrap();
        assert!(holds(&middle, b"een byte") && middle.len() == 8);
        assert!(holds(&middle.part(..3).unwrap(), b"een"));
        assert!(holds(&middle.part(4..).unwrap().part(..).unwrap(), b"byte"));
        let empty = whole.part(16..).unwrap();
        assert!(empty.is_empty() && holds(&empty, b""));
        let outside = |start, end, len| Error::OutOfRange { start, end, len };
        assert_eq!(middle.part(..9).unwrap_err(), outside(0, 9, 8));
        assert_eq!(middle.part(9..).unwrap_err(), outside(9, 8, 8));
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = whole.part(5..2);
        assert_eq!(reversed.unwrap_err(), outside(5, 2, 16));
        assert_eq!(whole.part(0..=usize::MAX).unwrap_err(), outside(0, usize::MAX, 16));
    }
}

#[test]
fn a_part_outlives_its_whole_and_its_secret_and_is_one_view_with_it() {
    let _guard = TestGuard::new();
    for store in STORES {
        let secret = secret(store, Policy::new().close_wait(MOMENT));
        let vault = secret.vault();
        let whole = secret.owned_view().unwrap();
        let part = whole.part(8..).unwrap();
        assert_eq!(secret.status().open_views, 1);
        drop(whole);
        assert_eq!(secret.status().open_views, 1);
        assert!(matches!(secret.close().unwrap(), Closed::Deferred { views } if views.views() == 1));
        drop(secret);
        let worker = std::thread::spawn(move || holds(&part, b"bytes ok"));
        assert!(worker.join().unwrap());
        assert_eq!(vault.diagnostics().views, []);
    }
}

#[test]
fn a_revocation_wipes_for_all_parts() {
    let _guard = TestGuard::new();
    for store in STORES {
        let secret = secret(store, Policy::new().close_wait(Duration::ZERO).on_close(OnClose::Revoke));
        let whole = secret.owned_view().unwrap();
        let part = whole.part(8..).unwrap();
        assert!(matches!(secret.close().unwrap(), Closed::Revoked { .. }));
        for view in [&whole, &part] {
            assert_eq!(view.with(|_| ()).unwrap_err(), WithError::NotRun(Error::Revoked));
            assert_eq!(view.part(..).unwrap_err(), Error::Revoked);
        }
        assert_eq!(secret.vault().diagnostics().views[0].kind, ViewKind::Revoked);
        drop(part);
        drop(whole);
        assert_eq!(secret.close().unwrap(), Closed::Closed);
    }
}

#[test]
fn many_parts_in_many_threads() {
    let _guard = TestGuard::new();
    for store in STORES {
        let secret = secret(store, Policy::new());
        std::thread::scope(|scope| {
            for _ in 0..200 {
                let whole = secret.owned_view().unwrap();
                for at in 0..4 {
                    let part = whole.part(at..at + 8).unwrap();
                    scope.spawn(move || assert!(holds(&part, &b"sixteen bytes ok"[at..at + 8])));
                }
            }
        });
        assert_eq!(secret.vault().diagnostics().views, []);
    }
}

#[test]
fn a_writer_waits_as_long_as_it_says_and_names_who_is_in_the_way() {
    let _guard = TestGuard::new();
    for store in STORES {
        let secret = secret(store, Policy::new().wait(Duration::from_secs(3600)));
        let (tell, told) = mpsc::channel();
        let (let_go, go) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let shared = &secret;
            scope.spawn(move || {
                let view = shared.view_mut().unwrap();
                tell.send(my_thread()).unwrap();
                go.recv().unwrap();
                view.commit().unwrap();
            });
            let writer = told.recv().unwrap();
            let names = |holders: Outstanding| holders.threads().any(|thread| thread == writer);
            let started = Instant::now();
            match secret.try_view_mut_for(Duration::ZERO).unwrap_err() {
                Error::Busy(holders) => assert!(names(holders)),
                other => panic!("{other}"),
            }
            match secret.try_view_mut_for(MOMENT).unwrap_err() {
                Error::Timeout { waited, holders } => assert!(waited >= MOMENT && names(holders)),
                other => panic!("{other}"),
            }
            assert!(started.elapsed() < Duration::from_secs(60));
            let_go.send(()).unwrap();
            secret.try_view_mut_for(Duration::from_secs(60)).unwrap().commit().unwrap();
        });
        assert_eq!(secret.status().version, 2);
    }
}

#[test]
fn open_views_are_listed_with_kind_thread_and_age() {
    let _guard = TestGuard::new();
    expect_leak("views are forgotten", Left::View, STORES.len());
    for store in STORES {
        let secret = secret(store, Policy::new());
        let vault = secret.vault();
        assert_eq!(vault.diagnostics().views, []);
        let (owned, thread) = std::thread::scope(|scope| {
            scope.spawn(|| (secret.owned_view().unwrap(), my_thread())).join().unwrap()
        });
        std::thread::sleep(MOMENT);
        let leaked = secret.view().unwrap();
        let found = vault.diagnostics();
        let [old, new] = &found.views[..] else { panic!("{found}") };
        assert_eq!((old.kind, old.thread, old.secret_id), (ViewKind::Owned, thread, secret.id()));
        assert_eq!((new.kind, new.thread, new.secret_id), (ViewKind::Borrowed, my_thread(), secret.id()));
        // Two ticks of the slowest coarse clock.
        assert!(
            old.age >= MOMENT - Duration::from_millis(20) && old.age < Duration::from_secs(60),
            "{found}"
        );
        assert!(new.age < old.age, "{found}");
        assert!(found.to_string().contains(&format!("owned view of secret {}", secret.id())), "{found}");
        drop(owned);
        #[allow(clippy::mem_forget, reason = "a leak is what is to be found")]
        std::mem::forget(leaked);
        assert_eq!(vault.diagnostics().views.len(), 1);
        drop(secret);
        assert_eq!(vault.diagnostics().views.len(), 1, "a leaked view stays in the list");
    }
    let secret = secret(Store::Sealed, Policy::new());
    let writer = secret.view_mut().unwrap();
    assert_eq!(secret.vault().diagnostics().views[0].kind, ViewKind::Writer);
    drop(writer);
}

//! Secrets that expire, and views that are revoked some time after a close.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use securememory::testing::TestGuard;
use securememory::{Closed, Error, Policy, Secret, Store, Vault, VaultBuilder, ViewKind, WithError};

const STORES: [Store; 2] = [Store::Sealed, Store::Paged];
const HOUR: Duration = Duration::from_secs(3600);
const MOMENT: Duration = Duration::from_millis(60);
/// The clock of views goes in steps of up to 10 ms, and notes of times in steps of 8.
const STEPS: Duration = Duration::from_millis(30);

fn builder(store: Store, policy: Policy) -> VaultBuilder {
    Vault::builder().store(store).policy(policy)
}

fn secret(vault: &Vault) -> Secret {
    vault.secret().label("short-lived").from_bytes(&mut b"sixteen bytes ok".to_vec()).unwrap()
}

/// Waits until it holds, two seconds at most.
fn soon(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(2), "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_secret_is_there_until_its_time_is_over() {
    let _guard = TestGuard::new();
    for store in STORES {
        let vault = builder(store, Policy::new().time_to_live(MOMENT)).build().unwrap();
        let born = Instant::now();
        let secret = secret(&vault);
        let before = secret.with(<[u8]>::to_vec);
        let in_time = born.elapsed() < MOMENT;
        assert!(!in_time || before.as_deref().ok() == Some(&b"sixteen bytes ok"[..]), "{before:?}");
        // From now on, not from when it was `born`: the secret itself came to be some time after that.
        std::thread::sleep(MOMENT);
        assert_eq!(secret.view().unwrap_err(), Error::Expired);
        assert_eq!(secret.view_mut().unwrap_err(), Error::Expired);
        assert_eq!(secret.owned_view().unwrap_err(), Error::Expired);
        assert!(matches!(secret.with(|_| ()), Err(WithError::NotRun(Error::Expired))));
        assert_eq!(secret.replace(&mut [0; 16]).unwrap_err(), Error::Expired);
        let status = secret.status();
        assert!(status.closed && status.at_rest.is_none(), "{status:?}");
        assert_eq!(vault.status().secrets, 0);
        assert_eq!(secret.close().unwrap(), Closed::Closed, "a close of what has expired finds it closed");
        assert_eq!(secret.view().unwrap_err(), Error::Expired);
    }
}

#[test]
fn what_is_used_does_not_get_idle() {
    let _guard = TestGuard::new();
    for store in STORES {
        let idle = Duration::from_millis(400);
        let vault = builder(store, Policy::new().idle_time(idle)).build().unwrap();
        let secret = secret(&vault);
        for _ in 0..12 {
            let pause = Instant::now();
            std::thread::sleep(idle / 8);
            match secret.view() {
                Ok(view) => view.finish().unwrap(),
                // The machine was too busy to wake us in time.
                Err(error) => {
                    assert!(
                        error == Error::Expired && pause.elapsed() >= idle,
                        "{error} {:?}",
                        pause.elapsed()
                    );
                    return;
                }
            }
        }
        std::thread::sleep(idle);
        assert_eq!(secret.view().unwrap_err(), Error::Expired);
    }
}

#[test]
fn a_view_that_is_open_when_the_time_is_over_stays_until_it_ends() {
    let _guard = TestGuard::new();
    for store in STORES {
        let vault = builder(store, Policy::new()).build().unwrap();
        let policy = Policy::new().time_to_live(MOMENT);
        let secret = vault.secret().policy(policy).from_bytes(&mut b"sixteen bytes ok".to_vec()).unwrap();
        let Ok(view) = secret.view() else { continue };
        std::thread::sleep(MOMENT);
        assert_eq!(secret.view().unwrap_err(), Error::Expired);
        assert_eq!(&*view, b"sixteen bytes ok");
        assert_eq!(vault.status().secrets, u64::from(store == Store::Paged), "what is at rest is wiped");
        view.finish().unwrap();
        assert_eq!(vault.status().secrets, 0);

        let policy = Policy::new().time_to_live(MOMENT);
        let secret = vault.secret().policy(policy).store(Store::Sealed).random(16).unwrap();
        let Ok(mut change) = secret.view_mut() else { continue };
        std::thread::sleep(MOMENT);
        change[0] ^= 1;
        assert_eq!(secret.view().unwrap_err(), Error::Expired);
        assert_eq!(change.commit().unwrap_err(), Error::Expired);
    }
}

#[test]
fn what_nobody_uses_is_wiped_by_tidy_and_by_a_janitor() {
    let _guard = TestGuard::new();
    for store in STORES {
        let vault = builder(store, Policy::new()).build().unwrap();
        let short = Policy::new().time_to_live(MOMENT);
        let born = Instant::now();
        let kept: Vec<Secret> = (0..100).map(|_| secret(&vault)).collect();
        let gone: Vec<Secret> =
            (0..100).map(|_| vault.secret().policy(short.clone()).random(16).unwrap()).collect();
        let left = vault.tidy();
        assert!(left.is_some_and(|left| left <= MOMENT) || born.elapsed() >= MOMENT, "{left:?}");
        std::thread::sleep(MOMENT);
        assert_eq!(vault.tidy(), None);
        assert_eq!(vault.status().secrets, 100);
        assert!(gone.iter().all(|secret| secret.status().closed));
        assert!(kept.iter().all(|secret| secret.view().is_ok()));

        let vault = builder(store, Policy::new().idle_time(MOMENT)).janitor().build().unwrap();
        let secrets = [secret(&vault), secret(&vault)];
        soon("wiped by the janitor", || vault.status().secrets == 0);
        assert!(secrets.iter().all(|secret| secret.view().err() == Some(Error::Expired)));
    }
}

#[test]
fn one_that_was_closed_before_has_not_expired_and_one_made_in_a_batch_does() {
    let _guard = TestGuard::new();
    for store in STORES {
        let vault = builder(store, Policy::new().time_to_live(MOMENT)).build().unwrap();
        let secret = secret(&vault);
        secret.close().unwrap();
        let mut sources = [*b"one............."; 3];
        let batch = vault.secrets_from(&mut sources).unwrap();
        std::thread::sleep(MOMENT);
        assert_eq!(secret.view().unwrap_err(), Error::Closed);
        let all: Vec<&Secret> = batch.iter().collect();
        assert!(Secret::with_many(&all, |_, _| ()).is_err());
        assert_eq!(batch[2].view().unwrap_err(), Error::Expired);
    }
}

#[test]
fn views_that_a_close_has_left_are_revoked_when_their_time_comes() {
    let _guard = TestGuard::new();
    for store in STORES {
        let policy = Policy::new().close_wait(Duration::ZERO).revoke_after(MOMENT);
        let vault = builder(store, policy).build().unwrap();
        let (secret, other) = (secret(&vault), secret(&vault));
        let (owned, untouched, same) =
            (secret.owned_view().unwrap(), secret.owned_view().unwrap(), other.owned_view().unwrap());
        std::thread::scope(|scope| {
            let (go, wait) = std::sync::mpsc::channel::<()>();
            let (tell, told) = std::sync::mpsc::channel();
            let borrowed = &secret;
            let reader = scope.spawn(move || {
                let view = borrowed.view().unwrap();
                tell.send(()).unwrap();
                wait.recv().unwrap();
                assert_eq!(&*view, b"sixteen bytes ok", "a borrow is never taken away");
                view.finish()
            });
            told.recv().unwrap();
            let closed = Instant::now();
            assert!(matches!(secret.close().unwrap(), Closed::Deferred { .. }));
            let early = owned.with(|bytes| bytes == b"sixteen bytes ok");
            assert!(early.is_ok_and(|same| same) || closed.elapsed() >= MOMENT);
            let left = vault.tidy();
            assert!(
                left.is_some_and(|left| left <= MOMENT + STEPS) || closed.elapsed() >= MOMENT,
                "{left:?}"
            );
            std::thread::sleep(MOMENT + STEPS);
            assert!(matches!(owned.with(|_| ()), Err(WithError::NotRun(Error::Revoked))));
            // Nobody has asked for the other one: that is for the sweep.
            let revoked = || {
                let found = vault.diagnostics();
                found.views.iter().filter(|view| view.kind == ViewKind::Revoked).count()
            };
            assert_eq!(revoked(), 1);
            assert_eq!(vault.tidy(), None);
            assert_eq!(revoked(), 2);
            assert!(same.with(|_| ()).is_ok(), "a view of another secret is as it was");
            go.send(()).unwrap();
            assert_eq!(reader.join().unwrap(), Err(Error::Revoked));
        });
        drop((owned, untouched));
        assert_eq!(secret.close().unwrap(), Closed::Closed);
    }
}

#[test]
fn a_view_of_the_next_secret_in_the_same_place_is_not_revoked() {
    let _guard = TestGuard::new();
    for store in STORES {
        let policy = Policy::new().close_wait(Duration::ZERO).revoke_after(MOMENT);
        let vault = builder(store, policy).build().unwrap();
        let (first, second) = (secret(&vault), secret(&vault));
        let owned = first.owned_view().unwrap();
        first.close().unwrap();
        drop(owned);
        let owned = second.owned_view().unwrap();
        let view = second.view().unwrap();
        std::thread::sleep(MOMENT + STEPS);
        vault.tidy();
        assert!(owned.with(|_| ()).is_ok());
        view.finish().unwrap();
    }
}

#[test]
fn far_ahead_is_never() {
    let _guard = TestGuard::new();
    let vault =
        builder(Store::Auto, Policy::new().time_to_live(Duration::MAX).idle_time(HOUR)).build().unwrap();
    let secret = secret(&vault);
    assert!(vault.tidy().is_some_and(|left| left <= HOUR));
    secret.view().unwrap().finish().unwrap();
    let policy = Policy::new().close_wait(Duration::ZERO).revoke_after(Duration::MAX);
    let left = vault.secret().policy(policy).random(16).unwrap();
    let owned = left.owned_view().unwrap();
    left.close().unwrap();
    vault.tidy();
    assert!(owned.with(|_| ()).is_ok());
}

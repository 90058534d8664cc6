//! The public promises about views, writers and closers of one secret.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::mpsc;
use std::time::{Duration, Instant};

use securememory::testing::{Left, TestGuard, expect_leak};
use securememory::{Closed, Error, OnClose, Policy, Secret, Store, Vault, WithError};

const STORES: [Store; 2] = [Store::Sealed, Store::Paged];

fn secret(store: Store, policy: Policy) -> Secret {
    let vault = Vault::builder().policy(policy).store(store).build().unwrap();
    vault.secret().from_bytes(&mut b"sixteen bytes ok".to_vec()).unwrap()
}

fn short() -> Policy {
    Policy::new().wait(Duration::from_millis(50)).close_wait(Duration::from_millis(50))
}

fn my_thread() -> u32 {
    securememory::testing::thread_id()
}

#[test]
fn two_readers_nested_and_out_of_order() {
    let _guard = TestGuard::new();
    for store in STORES {
        let secret = secret(store, short());
        let first = secret.view().unwrap();
        let second = secret.view().unwrap();
        assert_eq!(secret.status().open_views, 2);
        first.finish().unwrap();
        assert_eq!(&*second, b"sixteen bytes ok");
        let third = secret.view().unwrap();
        second.finish().unwrap();
        assert_eq!(&*third, b"sixteen bytes ok");
    }
}

#[test]
fn many_nested_views() {
    let _guard = TestGuard::new();
    for store in STORES {
        let secret = secret(store, short());
        let views: Vec<_> = (0..300).map(|_| secret.view().unwrap()).collect();
        assert!(views.iter().all(|view| &**view == b"sixteen bytes ok"));
    }
}

#[test]
fn closing_or_writing_pages_inside_an_own_view_is_refused_at_once() {
    let _guard = TestGuard::new();
    for store in STORES {
        let secret = secret(store, Policy::new());
        let started = Instant::now();
        let view = secret.view().unwrap();
        assert_eq!(secret.close().unwrap_err(), Error::WouldDeadlock);
        if store == Store::Paged {
            assert_eq!(secret.view_mut().unwrap_err(), Error::WouldDeadlock);
        }
        assert!(started.elapsed() < Duration::from_millis(500));
        view.finish().unwrap();
        let inside = secret.with(|_| secret.close().unwrap_err()).unwrap();
        assert_eq!(inside, Error::WouldDeadlock);
        let writer = secret.view_mut().unwrap();
        assert_eq!(secret.view_mut().unwrap_err(), Error::WouldDeadlock);
        if store == Store::Paged {
            assert_eq!(secret.view().unwrap_err(), Error::WouldDeadlock);
        } else {
            // Readers of a sealed secret see the old value.
            assert_eq!(&*secret.view().unwrap(), b"sixteen bytes ok");
        }
        drop(writer);
        assert_eq!(secret.close().unwrap(), Closed::Closed, "nothing was changed by the refusals");
    }
}

#[test]
fn a_close_names_the_thread_that_holds_a_view() {
    let _guard = TestGuard::new();
    for store in STORES {
        let secret = secret(store, short());
        let (tell, told) = mpsc::channel();
        let (let_go, go) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let borrowed = &secret;
            scope.spawn(move || {
                let view = borrowed.view().unwrap();
                tell.send(my_thread()).unwrap();
                go.recv().unwrap();
                assert_eq!(&*view, b"sixteen bytes ok", "the bytes stay as long as the view");
                view.finish().unwrap();
            });
            let holder = told.recv().unwrap();
            if store == Store::Paged {
                match secret.view_mut().unwrap_err() {
                    Error::Timeout { waited, holders } => {
                        assert!(waited >= Duration::from_millis(50));
                        assert!(holders.threads().any(|thread| thread == holder));
                    }
                    other => panic!("{other}"),
                }
            }
            match secret.close().unwrap() {
                Closed::Deferred { views } => {
                    assert_eq!(views.views(), 1);
                    assert_eq!(views.threads().collect::<Vec<_>>(), [holder]);
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(secret.view().unwrap_err(), Error::Closed);
            let_go.send(()).unwrap();
        });
        assert_eq!(secret.close().unwrap(), Closed::Closed);
        assert_eq!(secret.status().at_rest, None);
    }
}

#[test]
fn a_second_close_waits_for_the_views_of_the_first() {
    let _guard = TestGuard::new();
    for store in STORES {
        let secret = secret(store, Policy::new().close_wait(Duration::from_secs(20)));
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let view = secret.view().unwrap();
                tell.send(()).unwrap();
                std::thread::sleep(Duration::from_millis(100));
                view.finish().unwrap();
            });
            told.recv().unwrap();
            let closers = [scope.spawn(|| secret.close()), scope.spawn(|| secret.close())];
            for closer in closers {
                assert_eq!(closer.join().unwrap().unwrap(), Closed::Closed);
            }
        });
    }
}

#[test]
fn an_owned_view_outlives_its_secret_and_is_named_by_a_close() {
    let _guard = TestGuard::new();
    for store in STORES {
        let secret = secret(store, short());
        let owned = secret.owned_view().unwrap();
        // Nobody waits for an owned view to write.
        let mut writer = secret.view_mut().unwrap();
        writer[0] = b'S';
        writer.commit().unwrap();
        match secret.close().unwrap() {
            Closed::Deferred { views } => assert_eq!(views.threads().collect::<Vec<_>>(), [my_thread()]),
            other => panic!("{other:?}"),
        }
        drop(secret);
        let other = std::thread::spawn(move || owned.with(<[u8]>::to_vec).unwrap());
        assert_eq!(other.join().unwrap(), b"sixteen bytes ok");
    }
}

#[test]
fn a_change_of_what_was_closed_meanwhile_is_refused() {
    let _guard = TestGuard::new();
    for store in STORES {
        for (on_close, expected) in [(OnClose::Defer, Error::Closed), (OnClose::Revoke, Error::Revoked)] {
            let secret = secret(store, short().on_close(on_close));
            let mut writer = secret.view_mut().unwrap();
            writer[0] = b'S';
            std::thread::scope(|scope| {
                scope.spawn(|| assert_ne!(secret.close().unwrap(), Closed::Closed));
            });
            assert_eq!(writer.commit().unwrap_err(), expected, "{store:?}");
            assert_eq!(secret.close().unwrap(), Closed::Closed);
        }
    }
    let secret = secret(Store::Paged, short());
    let writer = secret.view_mut().unwrap();
    secret.vault().purge().unwrap();
    assert_eq!(writer.commit().unwrap_err(), Error::Closed);
}

#[test]
fn a_revoked_view_gives_nothing_any_more() {
    let _guard = TestGuard::new();
    for store in STORES {
        let secret = secret(store, short().on_close(OnClose::Revoke));
        let owned = secret.owned_view().unwrap();
        assert!(matches!(secret.close().unwrap(), Closed::Revoked { views } if views.views() == 1));
        assert_eq!(owned.with(|_| ()).unwrap_err(), WithError::NotRun(Error::Revoked));
        drop(owned);
        assert_eq!(secret.close().unwrap(), Closed::Closed);
    }
}

#[test]
fn a_view_that_is_revoked_while_it_is_used_says_so_at_its_end() {
    let _guard = TestGuard::new();
    for store in STORES {
        let secret = secret(store, short().on_close(OnClose::Revoke));
        let owned = secret.owned_view().unwrap();
        let outcome = owned.with(|bytes| {
            // From another thread: inside an owned view's own call a close would be met by the same answer.
            let closed = std::thread::scope(|scope| scope.spawn(|| secret.close()).join().unwrap());
            assert!(matches!(closed.unwrap(), Closed::Revoked { .. }));
            bytes.to_vec()
        });
        match outcome {
            Err(WithError::Ran { result, error }) => {
                assert_eq!(result, b"sixteen bytes ok");
                assert_eq!(error, Error::Revoked);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_wait_of_zero_is_busy() {
    let _guard = TestGuard::new();
    let secret = secret(Store::Paged, Policy::new().wait(Duration::ZERO));
    let _view = secret.view().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(matches!(secret.view_mut().unwrap_err(), Error::Busy(_))));
    });
}

#[test]
fn a_panic_in_a_closure_leaves_the_secret_usable() {
    let _guard = TestGuard::new();
    for store in STORES {
        let secret = secret(store, short());
        let caught = std::panic::catch_unwind(|| secret.with(|_| panic!("the user's")));
        assert!(caught.is_err());
        assert_eq!(secret.status().open_views, 0);
        let caught = std::panic::catch_unwind(|| {
            let mut writer = secret.view_mut().unwrap();
            writer[0] = b'X';
            panic!("the user's");
        });
        assert!(caught.is_err());
        assert!(secret.ct_eq_bytes(b"sixteen bytes ok").unwrap());
        assert_eq!(secret.close().unwrap(), Closed::Closed);
    }
}

#[test]
fn a_forgotten_view_does_not_keep_a_secret_alive() {
    let _guard = TestGuard::new();
    expect_leak("views are forgotten", Left::View, STORES.len());
    for store in STORES {
        let vault = Vault::builder().store(store).build().unwrap();
        let secret = vault.secret().random(32).unwrap();
        #[allow(clippy::mem_forget)] // it is what is tested
        std::mem::forget(secret.view().unwrap());
        drop(secret);
        assert_eq!(vault.status().secrets, 0);
    }
}

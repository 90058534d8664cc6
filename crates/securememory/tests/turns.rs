//! Nobody is kept out for ever: writers among steady readers, readers among steady writers, closers among closers.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use securememory::testing::TestGuard;
use securememory::{Closed, OnClose, Policy, Secret, Store, Vault};

const STORES: [Store; 2] = [Store::Sealed, Store::Paged];
const TURNS: usize = 40;

fn secret(store: Store, policy: Policy) -> Secret {
    let vault = Vault::builder().policy(policy).store(store).build().unwrap();
    vault.secret().from_bytes(&mut [0; 32]).unwrap()
}

fn my_thread() -> u32 {
    securememory::testing::thread_id()
}

/// Runs `steady` over and over in some threads while `turn` is taken so often; returns the longest turn, and how often
/// the others came by.
fn among(threads: usize, steady: impl Fn() + Sync, mut turn: impl FnMut()) -> (Duration, u64) {
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let longest = std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    steady();
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Stops the others also when a turn fails.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&stop);
        while rounds.load(Ordering::Relaxed) < threads as u64 {
            std::thread::yield_now();
        }
        let turns = (0..TURNS).map(|_| {
            let started = Instant::now();
            turn();
            started.elapsed()
        });
        turns.max().unwrap()
    });
    (longest, rounds.into_inner())
}

fn write(secret: &Secret) {
    let mut view = secret.view_mut().unwrap();
    let next = view[0].wrapping_add(1);
    view.fill(next);
    view.commit().unwrap();
}

fn read(bytes: &[u8]) {
    assert!(bytes.iter().all(|&byte| byte == bytes[0]), "a torn value");
}

#[test]
fn a_writer_gets_in_among_steady_readers() {
    let _guard = TestGuard::new();
    for store in STORES {
        let secret = secret(store, Policy::new().wait(Duration::from_secs(5)));
        let (longest, reads) = among(4, || secret.with(read).unwrap(), || write(&secret));
        println!("{store:?}: longest write {longest:.1?} among {reads} reads");
        assert!(secret.with(|bytes| bytes[0] as usize == TURNS).unwrap());
    }
}

/// Views that overlap, so that there is never none unless newcomers wait.
#[test]
fn a_writer_gets_in_where_views_overlap() {
    let _guard = TestGuard::new();
    for store in STORES {
        let secret = secret(store, Policy::new().wait(Duration::from_secs(5)));
        let steady = || {
            let view = secret.view().unwrap();
            std::thread::sleep(Duration::from_millis(2));
            read(&view);
            view.finish().unwrap();
        };
        let (longest, reads) = among(4, steady, || write(&secret));
        println!("{store:?}: longest write {longest:.1?} among {reads} views of 2 ms");
    }
}

#[test]
fn readers_get_in_among_steady_writers() {
    let _guard = TestGuard::new();
    for store in STORES {
        let secret = secret(store, Policy::new().wait(Duration::from_secs(5)));
        let (longest, writes) = among(3, || write(&secret), || secret.with(read).unwrap());
        println!("{store:?}: longest read {longest:.1?} among {writes} writes");
        assert!(writes > 0);
    }
}

#[test]
fn a_close_gets_in_among_steady_readers_and_writers() {
    let _guard = TestGuard::new();
    for store in STORES {
        let secret = secret(store, Policy::new().close_wait(Duration::from_secs(5)));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for writes in [false, false, true] {
                let (secret, stop) = (&secret, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        if writes {
                            let _ = secret.view_mut().map(|view| view.commit());
                        } else {
                            let _ = secret.with(read);
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(50));
            let closed = secret.close();
            stop.store(true, Ordering::Relaxed);
            assert_eq!(closed.unwrap(), Closed::Closed);
        });
    }
}

#[test]
fn no_closer_returns_before_the_view_has_ended() {
    let _guard = TestGuard::new();
    for store in STORES {
        let secret = secret(store, Policy::new().close_wait(Duration::from_secs(20)));
        let ended = AtomicBool::new(false);
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let view = secret.view().unwrap();
                tell.send(()).unwrap();
                while !secret.status().closed {
                    std::thread::yield_now();
                }
                // Long enough for a second closer that does not wait to be seen.
                std::thread::sleep(Duration::from_millis(50));
                ended.store(true, Ordering::SeqCst);
                view.finish().unwrap();
            });
            told.recv().unwrap();
            let close = || {
                let closed = secret.close().unwrap();
                assert!(ended.load(Ordering::SeqCst), "closed under a view");
                closed
            };
            let closers = [scope.spawn(close), scope.spawn(close), scope.spawn(close)];
            for closer in closers {
                assert_eq!(closer.join().unwrap(), Closed::Closed);
            }
        });
    }
}

#[test]
fn a_close_names_the_thread_of_an_owned_view() {
    let _guard = TestGuard::new();
    for (store, mode) in
        STORES.into_iter().flat_map(|store| [(store, OnClose::Defer), (store, OnClose::Revoke)])
    {
        let secret = secret(store, Policy::new().close_wait(Duration::from_millis(20)).on_close(mode));
        let (tell, told) = mpsc::channel();
        let (let_go, go) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let borrowed = &secret;
            scope.spawn(move || {
                let view = borrowed.owned_view().unwrap();
                tell.send(my_thread()).unwrap();
                go.recv().unwrap();
                assert_eq!(view.with(read).is_ok(), mode == OnClose::Defer);
            });
            let holder = told.recv().unwrap();
            let views = match (secret.close().unwrap(), mode) {
                (Closed::Deferred { views }, OnClose::Defer) => views,
                (Closed::Revoked { views }, OnClose::Revoke) => views,
                other => panic!("{other:?}"),
            };
            assert_eq!(views.threads().collect::<Vec<_>>(), [holder]);
            let_go.send(()).unwrap();
        });
        assert_eq!(secret.close().unwrap(), Closed::Closed);
    }
}

#[test]
fn no_writer_waits_for_an_owned_view() {
    let _guard = TestGuard::new();
    for store in STORES {
        // A wait of zero: a writer that had to wait would be refused.
        let secret = secret(store, Policy::new().wait(Duration::ZERO));
        let owned = secret.owned_view().unwrap();
        owned.with(|_| std::thread::scope(|scope| scope.spawn(|| write(&secret)).join().unwrap())).unwrap();
    }
}

//! The end of a vault: by a close, and by the drop of its last handle.
#![allow(clippy::unwrap_used, clippy::panic)]

#[cfg(unix)]
mod common;
#[cfg(windows)]
#[path = "common/windows.rs"]
mod common;

use std::io::{Read, Write};
use std::sync::{Barrier, mpsc};
use std::time::{Duration, Instant};

use common::{Needle, case};
use securememory::testing::{TestGuard, freeze_vault};
use securememory::{Error, Hold, OnClose, Policy, Secret, Store, Vault, VaultBuilder, ViewKind, WithError};

const STORES: [Store; 2] = [Store::Sealed, Store::Paged];
const HOLDS: [Hold; 2] = [Hold::Auto, Hold::Guarded];
const VALUE: &[u8; 16] = b"sixteen bytes ok";
const SHORT: Duration = Duration::from_millis(50);

fn builder(store: Store) -> VaultBuilder {
    Vault::builder().store(store).policy(Policy::new().wait(SHORT).close_wait(SHORT))
}

fn secret(vault: &Vault, label: &str) -> Secret {
    vault.secret().label(label).from_bytes(&mut VALUE.to_vec()).unwrap()
}

/// Everything that may be asked of a closed vault and its secrets.
fn assert_closed(vault: &Vault, secret: &Secret) {
    assert!(vault.is_closed() && vault.is_alive());
    assert_eq!(secret.view().unwrap_err(), Error::Closed);
    assert_eq!(secret.view_mut().unwrap_err(), Error::Closed);
    assert_eq!(secret.owned_view().unwrap_err(), Error::Closed);
    assert!(matches!(secret.with(|_| ()), Err(WithError::NotRun(Error::Closed))));
    assert_eq!(secret.replace(&mut [0; 16]).unwrap_err(), Error::Closed);
    let status = secret.status();
    assert!(status.closed && status.at_rest.is_none(), "{status:?}");
    for store in STORES {
        let mut source = *VALUE;
        assert_eq!(vault.secret().store(store).from_bytes(&mut source).unwrap_err(), Error::Closed);
        assert_eq!(&source, VALUE, "untouched");
        assert_eq!(vault.secret().store(store).random(16).unwrap_err(), Error::Closed);
        assert_eq!(vault.secret().store(store).init_with(16, |_| ()).unwrap_err(), Error::Closed);
    }
    assert!(vault.secrets_from(&mut [*VALUE; 3]).is_err());
    assert_eq!(vault.stream().build().unwrap_err(), Error::Closed);
    assert_eq!(vault.refresh().unwrap_err(), Error::Closed);
    assert_eq!(vault.finish_refresh(SHORT).unwrap_err(), Error::Closed);
    assert_eq!(vault.purge().unwrap_err(), Error::Closed);
    assert_eq!(vault.preflight(1, 1).unwrap_err(), Error::Closed);
    assert_eq!(vault.warm_thread(1).unwrap_err(), Error::Closed);
    let status = vault.status();
    assert_eq!((status.secrets, status.keys, status.epoch, status.replicas), (0, 0, 0, 0), "{status:?}");
}

#[test]
fn a_closed_vault_opens_and_makes_nothing() {
    let _guard = TestGuard::new();
    for hold in HOLDS {
        for store in STORES {
            let vault = builder(store).hold(hold).build().unwrap();
            let (secret, other) = (secret(&vault, "one"), secret(&vault, "two"));
            vault.refresh().unwrap();
            let late = vault.secret().random(16).unwrap();
            let started = Instant::now();
            let closed = vault.close(Duration::from_secs(20)).unwrap();
            assert!(started.elapsed() < Duration::from_secs(5), "nobody to wait for");
            assert!(closed.is_complete(), "{closed}");
            assert_eq!(closed.to_string(), "closed");
            assert_closed(&vault, &secret);
            assert_eq!(late.view().unwrap_err(), Error::Closed);
            assert_eq!(vault.diagnostics().views, []);
            assert!(vault.close(Duration::ZERO).unwrap().is_complete(), "again");
            assert!(secret.close().is_ok());
            drop((vault, other, secret));
            assert_eq!(late.view().unwrap_err(), Error::Closed);
        }
    }
}

#[test]
fn views_that_outlive_the_wait_are_named_and_keep_their_bytes() {
    let _guard = TestGuard::new();
    for store in STORES {
        let vault = builder(store).build().unwrap();
        let (lent, kept, idle) = (secret(&vault, "lent"), secret(&vault, "kept"), secret(&vault, "idle"));
        let owned = kept.owned_view().unwrap();
        let (tell, told) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let borrowed = &lent;
            scope.spawn(move || {
                let view = borrowed.view().unwrap();
                // The number of this thread, as the kernel tells it.
                tell.send(securememory::testing::thread_id()).unwrap();
                wait.recv().unwrap();
                assert_eq!(&*view, VALUE, "as long as the view lives");
                view.finish().unwrap();
            });
            let holder = told.recv().unwrap();
            let started = Instant::now();
            let closed = vault.close(SHORT).unwrap();
            let took = started.elapsed();
            assert!(took >= SHORT && took < SHORT + Duration::from_secs(1), "{took:?}");
            assert!(!closed.is_complete() && !closed.revoked && closed.failed.is_none(), "{closed}");
            let mut found: Vec<_> = closed.outstanding.iter().collect();
            found.sort_by_key(|view| view.label.clone());
            let [kept_view, lent_view] = found[..] else { panic!("{closed}") };
            assert_eq!((kept_view.label.as_deref(), kept_view.kind), (Some("kept"), ViewKind::Owned));
            assert_eq!((lent_view.label.as_deref(), lent_view.thread), (Some("lent"), holder));
            assert_eq!((lent_view.kind, lent_view.secret_id), (ViewKind::Borrowed, lent.id()));
            assert!(lent_view.age >= SHORT / 2, "{closed}");
            let text = closed.to_string();
            assert!(text.contains("closed, but for 2 views") && text.contains("\"lent\""), "{text}");
            // What is at rest is gone, whoever has views.
            assert_closed_but(&vault, &[&idle, &lent, &kept]);
            assert!(owned.with(|bytes| bytes == VALUE).unwrap());
            go.send(()).unwrap();
        });
        let closed = vault.close(Duration::ZERO).unwrap();
        assert_eq!(closed.outstanding.len(), 1, "{closed}");
        drop(owned);
        assert!(vault.close(Duration::ZERO).unwrap().is_complete());
        assert_closed(&vault, &idle);
    }
}

fn assert_closed_but(vault: &Vault, secrets: &[&Secret]) {
    assert_eq!(vault.status().keys, 0);
    for secret in secrets {
        assert_eq!(secret.view().unwrap_err(), Error::Closed);
    }
}

#[test]
fn a_close_waits_for_views_that_end_in_time() {
    let _guard = TestGuard::new();
    for store in STORES {
        let vault = builder(store).build().unwrap();
        let secret = secret(&vault, "used");
        let owned = secret.owned_view().unwrap();
        std::thread::scope(|scope| {
            let ended = scope.spawn(move || {
                std::thread::sleep(SHORT);
                drop(owned);
                Instant::now()
            });
            let closers = [0, 1].map(|_| {
                scope.spawn(|| {
                    let closed = vault.close(Duration::from_secs(60)).unwrap();
                    assert!(closed.is_complete(), "{closed}");
                    Instant::now()
                })
            });
            let closed = closers.map(|closer| closer.join().unwrap());
            let ended = ended.join().unwrap();
            // The view was given back before that was noted.
            assert!(closed.iter().all(|closed| *closed + Duration::from_millis(20) >= ended));
        });
        assert_closed(&vault, &secret);
    }
}

#[test]
fn revoked_views_are_wiped_and_say_so() {
    let _guard = TestGuard::new();
    for store in STORES {
        let policy = Policy::new().on_close(OnClose::Revoke);
        let vault = builder(store).policy(policy).build().unwrap();
        let secret = secret(&vault, "revoked");
        let owned = secret.owned_view().unwrap();
        std::thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let (go, wait) = mpsc::channel::<()>();
            let borrowed = &secret;
            let reader = scope.spawn(move || {
                let view = borrowed.view().unwrap();
                tell.send(()).unwrap();
                wait.recv().unwrap();
                assert_eq!(&*view, VALUE);
                view.finish()
            });
            told.recv().unwrap();
            let closed = vault.close(SHORT).unwrap();
            assert!(closed.revoked && closed.outstanding.len() == 2, "{closed}");
            assert!(closed.to_string().contains("2 views revoked"), "{closed}");
            assert!(matches!(owned.with(|_| ()), Err(WithError::NotRun(Error::Revoked))));
            go.send(()).unwrap();
            assert_eq!(reader.join().unwrap(), Err(Error::Revoked));
        });
        drop(owned);
        assert_closed(&vault, &secret);
    }
}

#[test]
fn views_may_be_revoked_some_time_later() {
    let _guard = TestGuard::new();
    for store in STORES {
        let policy = Policy::new().revoke_after(SHORT);
        let vault = builder(store).policy(policy).janitor().build().unwrap();
        let secret = secret(&vault, "later");
        let owned = secret.owned_view().unwrap();
        let started = Instant::now();
        let closed = vault.close(Duration::ZERO).unwrap();
        assert!(!closed.revoked && closed.outstanding.len() == 1, "{closed}");
        let early = owned.with(|bytes| bytes == VALUE);
        assert!(early.is_ok_and(|same| same) || started.elapsed() >= SHORT);
        while vault.diagnostics().views[0].kind != ViewKind::Revoked {
            assert!(started.elapsed() < Duration::from_secs(5), "the janitor wipes it");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(started.elapsed() >= SHORT / 2);
        assert!(matches!(owned.with(|_| ()), Err(WithError::NotRun(Error::Revoked))));
    }
}

#[test]
fn inside_a_view_of_ones_own_nothing_is_changed() {
    let _guard = TestGuard::new();
    for store in STORES {
        let vault = builder(store).build().unwrap();
        let secret = secret(&vault, "open");
        let started = Instant::now();
        secret
            .with(|_| assert_eq!(vault.close(Duration::from_secs(60)).unwrap_err(), Error::WouldDeadlock))
            .unwrap();
        assert!(started.elapsed() < Duration::from_secs(5));
        assert!(!vault.is_closed());
        assert!(secret.ct_eq_bytes(VALUE).unwrap());
    }
}

#[test]
fn changes_that_are_under_way_cannot_be_committed() {
    let _guard = TestGuard::new();
    for store in STORES {
        let vault = builder(store).build().unwrap();
        let secret = secret(&vault, "changed");
        std::thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let (go, wait) = mpsc::channel::<()>();
            let borrowed = &secret;
            let writer = scope.spawn(move || {
                let mut change = borrowed.view_mut().unwrap();
                change[0] ^= 1;
                tell.send(()).unwrap();
                wait.recv().unwrap();
                change.commit()
            });
            told.recv().unwrap();
            let closed = vault.close(Duration::ZERO).unwrap();
            assert_eq!(closed.outstanding[0].kind, ViewKind::Writer, "{closed}");
            go.send(()).unwrap();
            let committed = writer.join().unwrap();
            assert_eq!(committed, Err(Error::Closed), "{store:?}");
        });
        assert_closed(&vault, &secret);
    }
}

#[test]
fn streams_end_with_their_vault() {
    let _guard = TestGuard::new();
    let vault = builder(Store::Auto).build().unwrap();
    let mut written = vault.stream().build().unwrap();
    written.write_all(&[7; 100]).unwrap();
    let mut full = vault.stream().chunk_size(64).build().unwrap();
    full.write_all(&[9; 1000]).unwrap();
    let mut read = vault.stream().chunk_size(64).build().unwrap();
    read.write_all(&[5; 1000]).unwrap();
    read.read_exact(&mut [0; 10]).unwrap();
    let mut begun = vault.stream().build().unwrap();
    let started = Instant::now();
    let closed = vault.close(SHORT).unwrap();
    assert!(started.elapsed() >= SHORT, "the chunk that is being read is a view");
    assert_eq!(closed.outstanding.len(), 1, "{closed}");
    assert_eq!(closed.outstanding[0].kind, ViewKind::Owned);
    let inside = |error: std::io::Error| *error.into_inner().unwrap().downcast::<Error>().unwrap();
    assert_eq!(inside(written.write_all(&[1; 10]).unwrap_err()), Error::Closed);
    assert_eq!(inside(begun.write_all(&[1; 10]).unwrap_err()), Error::Closed, "not even its first bytes");
    assert_eq!(written.finish().unwrap_err(), Error::Closed);
    assert_eq!(full.finish().unwrap_err(), Error::Closed);
    let mut rest = [0; 990];
    assert_eq!(inside(read.read_exact(&mut rest).unwrap_err()), Error::Closed);
    assert_eq!(&rest[..54], [5; 54], "what was open could be read to its end");
    drop((written, full, read, begun));
    assert!(vault.close(Duration::ZERO).unwrap().is_complete());
}

#[test]
fn a_secret_in_the_making_does_not_survive() {
    let _guard = TestGuard::new();
    for store in STORES {
        let vault = builder(store).build().unwrap();
        let (tell, told) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let borrowed = &vault;
            let maker = scope.spawn(move || {
                borrowed.secret().init_with(16, |room| {
                    room.copy_from_slice(VALUE);
                    tell.send(()).unwrap();
                    wait.recv().unwrap();
                })
            });
            told.recv().unwrap();
            let closed = vault.close(SHORT).unwrap();
            // Of a paged one there is nothing in scratch.
            assert_eq!(closed.outstanding.len(), usize::from(store == Store::Sealed), "{closed}");
            go.send(()).unwrap();
            assert_eq!(maker.join().unwrap().unwrap_err(), Error::Closed);
        });
        assert_eq!(vault.status().secrets, 0);
        assert!(vault.close(Duration::ZERO).unwrap().is_complete());
    }
}

#[test]
fn what_no_secret_needs_goes_with_the_last_handle() {
    let _guard = TestGuard::new();
    let vault = Vault::builder().store(Store::Paged).build().unwrap();
    let kept = secret(&vault, "kept");
    let large: Vec<Secret> = (0..8).map(|_| vault.secret().random(100_000).unwrap()).collect();
    let locked = large.iter().all(|secret| secret.status().protections.lock.got);
    drop(large);
    let again = kept.vault();
    let before = vault.status();
    drop(vault);
    assert_eq!(again.status().locked_bytes, before.locked_bytes, "there is another handle");
    drop(again);
    assert!(kept.ct_eq_bytes(VALUE).unwrap(), "secrets outlive the handles");
    let status = kept.vault().status();
    // Where pages of secrets can be locked, and so many: on Windows where what is closed can be encrypted.
    if locked {
        assert!(before.locked_bytes - status.locked_bytes >= 8 * 100_000, "{before:?} {status:?}");
    } else {
        eprintln!("skipped: pages of secrets are not locked here");
    }
}

#[test]
fn a_vault_may_close_with_its_last_handle() {
    let _guard = TestGuard::new();
    for store in STORES {
        let vault = builder(store).close_on_drop().build().unwrap();
        let (secret, other) = (secret(&vault, "one"), secret(&vault, "two"));
        let owned = other.owned_view().unwrap();
        drop(vault.clone());
        assert!(secret.ct_eq_bytes(VALUE).unwrap(), "there is a handle left");
        drop(secret.vault());
        let started = Instant::now();
        drop(vault);
        assert!(started.elapsed() < Duration::from_secs(1), "a drop does not wait");
        assert_eq!(secret.view().unwrap_err(), Error::Closed);
        assert!(owned.with(|bytes| bytes == VALUE).unwrap(), "what is in use is left to its last user");
        drop(owned);
        assert_closed(&secret.vault(), &secret);
    }
}

#[test]
fn a_vault_whose_last_handle_goes_inside_a_view_is_closed_by_the_next_who_makes_something() {
    let _guard = TestGuard::new();
    let vault = builder(Store::Sealed).close_on_drop().build().unwrap();
    let secret = secret(&vault, "one");
    let builder = vault.secret();
    secret.with(|_| drop(vault)).unwrap();
    assert!(secret.view().is_ok());
    drop(builder.random(16).unwrap());
    assert_eq!(secret.view().unwrap_err(), Error::Closed);
}

#[test]
fn a_closed_vault_gives_everything_back_though_its_secrets_live() {
    let _guard = TestGuard::new();
    for hold in HOLDS {
        for store in STORES {
            let vault = builder(store).hold(hold).build().unwrap();
            let secrets: Vec<Secret> = (0..20).map(|_| secret(&vault, "many")).collect();
            let nested: Vec<_> = secrets.iter().map(|secret| secret.view().unwrap()).collect();
            drop(nested);
            let before = vault.status();
            let owned = secrets[3].owned_view().unwrap();
            vault.close(Duration::ZERO).unwrap();
            drop(owned);
            let after = vault.status();
            // The page with the alive mark stays, by which a child is told from its parent.
            assert!(
                after.locked_bytes <= common::page_size().max(before.locked_bytes / 4),
                "{before:?} {after:?}"
            );
            // And, on large pages, the place for a view that is in it.
            let places = usize::from(common::page_size() >= common::LARGE_PAGE);
            assert_eq!((after.scratch_slots, after.secrets), (places, 0), "{after:?}");
            assert!(secrets.iter().all(|secret| secret.view().err() == Some(Error::Closed)));
        }
    }
}

#[test]
fn a_purge_names_the_views_that_keep_their_bytes() {
    let _guard = TestGuard::new();
    for store in STORES {
        let vault = builder(store).build().unwrap();
        let (kept, _idle) = (secret(&vault, "kept"), secret(&vault, "idle"));
        let owned = kept.owned_view().unwrap();
        let purged = vault.purge().unwrap();
        let [view] = &purged.outstanding[..] else { panic!("{purged:?}") };
        assert_eq!((view.label.as_deref(), view.kind), (Some("kept"), ViewKind::Owned));
        assert!(owned.with(|bytes| bytes == VALUE).unwrap());
        drop(owned);
        assert_eq!(vault.purge().unwrap().outstanding, []);
    }
}

// The search of all memory by ReadProcessMemory takes minutes under Wine.
#[cfg_attr(windows, ignore = "takes minutes where the kernel is asked through another process")]
#[test]
fn nothing_is_to_be_found_once_a_vault_is_closed() {
    case("nothing_is_to_be_found_once_a_vault_is_closed").run(|| {
        for (seed, hold) in (1..).zip(HOLDS) {
            let vault = Vault::builder().hold(hold).build().unwrap();
            let needles: Vec<Needle> = (1..=4).map(|part| Needle::new(seed * 100 + 2 * part, 256)).collect();
            let make = |store, needle: &Needle| {
                vault.secret().store(store).init_with(256, |room| needle.write(room, 0)).unwrap()
            };
            let kept = [make(Store::Sealed, &needles[0]), make(Store::Paged, &needles[1])];
            let owned = make(Store::Sealed, &needles[2]).owned_view().unwrap();
            let mut stream = vault.stream().build().unwrap();
            for at in (0..256).step_by(8) {
                let mut eight = [0; 8];
                needles[3].write(&mut eight, at);
                stream.write_all(&eight).unwrap();
                // Our own copy is not to be found.
                std::hint::black_box(&mut eight).fill(0);
                std::hint::black_box(&eight);
            }
            let found: Vec<bool> = needles.iter().map(|needle| !needle.find().is_empty()).collect();
            assert!(found[2] && found[3], "the search finds what is in use: {found:?}");
            let closed = vault.close(Duration::ZERO).unwrap();
            assert_eq!(closed.outstanding.len(), 1, "{closed}");
            let found: Vec<bool> = needles.iter().map(|needle| !needle.find().is_empty()).collect();
            assert_eq!(found, [false, false, true, false], "all but the view");
            drop(owned);
            assert_eq!(needles[2].find(), [""; 0]);
            drop((kept, stream));
        }
    });
}

/// What closes each secret waits for a lock; a writer waits for neither that nor the other writer.
#[test]
fn who_wants_to_write_is_turned_away_before_its_secret_is_closed() {
    let _guard = TestGuard::new();
    for store in [Store::Sealed, Store::Paged] {
        let vault = Vault::builder().store(store).build().unwrap();
        let held = secret(&vault, "held");
        let (begun, done) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let writer = held.view_mut().unwrap();
                begun.wait();
                done.wait();
                drop(writer);
            });
            begun.wait();
            assert!(freeze_vault(&vault, true));
            let _ = vault.close(Duration::ZERO);
            let started = Instant::now();
            let refused = held.try_view_mut_for(Duration::from_secs(20)).unwrap_err();
            let took = started.elapsed();
            assert!(freeze_vault(&vault, false));
            done.wait();
            assert_eq!((refused, vault.is_closed()), (Error::Closed, true), "{store:?}");
            assert!(took < Duration::from_secs(5), "{took:?}");
        });
        assert!(vault.close(Duration::from_secs(20)).unwrap().is_complete());
    }
}

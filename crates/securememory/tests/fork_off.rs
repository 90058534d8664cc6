//! Vaults that a child inherits: it reads what its parent had, and from then on each goes its own way.
#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests end by panics; forks are made by raw calls"
)]

mod common;

use std::io::Write;
use std::time::Duration;

use common::inherited::{BYTES, Family, builder, builders, off, own_vaults_work};
use common::{case, in_child, share_files};
use securememory::{
    Cipher, Closed, Error, Hold, HoldUsed, Level, Policy, Protection, Store, Vault, ViewKind,
};

/// Changes, creates, streams, turns keys over, closes and purges; all as it should be.
fn lives(family: &mut Family, mark: u8) -> bool {
    assert!(family.is_whole());
    for secret in [&family.sealed, &family.paged] {
        let mut view = secret.view_mut().unwrap();
        view[0] = mark;
        view.commit().unwrap();
        let is_marked = |bytes: &[u8]| bytes[0] == mark && bytes[1..] == BYTES[1..];
        assert!(secret.with(is_marked).unwrap());
        secret.owned_view().unwrap().with(|bytes| assert!(is_marked(bytes))).unwrap();
        let store = secret.status().store;
        let made = family.vault.secret().store(store).from_bytes(&mut [mark; 100]).unwrap();
        assert!(made.ct_eq_bytes(&[mark; 100]).unwrap());
        made.close().unwrap();
    }
    family.writing.write_all(&BYTES[8..]).unwrap();
    family.writing.finish().unwrap();
    let mut read = Vec::new();
    family.writing.for_each_chunk(|chunk| read.extend_from_slice(chunk)).unwrap();
    assert_eq!(read, [*BYTES, *BYTES].concat());
    for _ in 0..6 {
        family.vault.refresh().unwrap();
    }
    family.vault.finish_refresh(Duration::from_secs(60)).unwrap();
    assert_eq!(family.vault.status().keys, 1);
    assert!(family.sealed.with(|bytes| bytes[0] == mark).unwrap());
    true
}

fn ends(family: Family) -> bool {
    let Family { vault, sealed, paged, writing, complete } = family;
    vault.purge().unwrap();
    assert_eq!(sealed.view().err(), Some(Error::Purged));
    assert_eq!(paged.view().err(), Some(Error::Closed));
    assert!(vault.secret().random(10).unwrap().view().is_ok());
    let (before, own) = (share_files().len(), vault.status().replicas);
    drop((sealed, paged, writing, complete, vault));
    share_files().len() + own == before
}

#[test]
fn parent_and_child_each_have_their_own() {
    case("parent_and_child_each_have_their_own").run(|| {
        for builder in builders() {
            let mut family = Some(Family::new(builder));
            for round in 0..3 {
                let shares = share_files();
                let status = in_child(|| {
                    let mut family = family.take().unwrap();
                    let before = family.vault.status();
                    assert!(family.vault.is_alive());
                    assert_eq!(before.secrets, 5, "{before:#?}");
                    assert_eq!(before.replicas, shares.len());
                    lives(&mut family, b'0' + round) && own_vaults_work() && {
                        // And its own child.
                        let mut both = Some(family);
                        let status = in_child(|| {
                            let family = both.take().unwrap();
                            family.paged.with(|bytes| bytes[0] == b'0' + round).unwrap() && ends(family)
                        });
                        assert_eq!(status, 0);
                        let family = both.take().unwrap();
                        assert!(family.sealed.with(|bytes| bytes[0] == b'0' + round).unwrap());
                        ends(family)
                    }
                });
                assert_eq!(status, 0);
                assert_eq!(share_files(), shares, "nothing has come to the parent or gone from it");
                let family = family.as_mut().unwrap();
                assert!(family.is_whole());
                assert_eq!(family.vault.status().replicas, shares.len());
                family.vault.refresh().unwrap();
                family.vault.finish_refresh(Duration::from_secs(60)).unwrap();
                assert!(family.is_whole());
            }
            let mut family = family.take().unwrap();
            assert!(lives(&mut family, b'P') && ends(family));
        }
    });
}

#[test]
fn what_cannot_be_is_refused() {
    case("what_cannot_be_is_refused").run(|| {
        let unsupported = |error: Option<Error>| matches!(error, Some(Error::Unsupported(_)));
        assert!(unsupported(builder(Hold::Secretmem).build().err()));
        let with = |level| Vault::builder().policy(off().secretmem(level)).build();
        assert!(unsupported(with(Level::Require).err()));
        assert_ne!(with(Level::Prefer).unwrap().status().hold, HoldUsed::Secretmem);
        let inherited = builder(Hold::Split).build().unwrap();
        let not = Vault::builder().build().unwrap();
        for store in [Store::Sealed, Store::Paged] {
            let make = |vault: &Vault, level| {
                vault.secret().store(store).policy(Policy::new().fork(level)).random(8).map(drop)
            };
            assert_eq!(make(&inherited, Level::Require), Err(Error::NotInForce(Protection::Fork)));
            assert_eq!(make(&inherited, Level::Off), Ok(()));
            assert_eq!(make(&inherited, Level::Prefer), Ok(()));
            assert!(unsupported(make(&not, Level::Off).err()));
            let secret = inherited.secret().store(store).random(8).unwrap();
            assert!(!secret.status().protections.fork.got, "it does not claim what is not");
        }
    });
}

#[test]
fn views_of_the_thread_that_forks_go_on_in_both() {
    case("views_of_the_thread_that_forks_go_on_in_both").run(|| {
        for builder in builders() {
            let family = Family::new(builder);
            for secret in [&family.sealed, &family.paged] {
                let mut view = Some(secret.view().unwrap());
                let owned = secret.owned_view().unwrap();
                let ends = |view: &mut Option<securememory::View<'_>>| {
                    let view = view.take().unwrap();
                    assert_eq!(&*view, BYTES);
                    // What is its own is known by its own number.
                    assert_eq!(secret.close().err(), Some(Error::WouldDeadlock));
                    assert_eq!(view.finish(), Ok(()));
                    owned.with(|bytes| assert_eq!(bytes, BYTES)).unwrap();
                    true
                };
                assert_eq!(in_child(|| ends(&mut view)), 0);
                assert!(ends(&mut view));
                drop(owned);
                let mut writer = Some(secret.view_mut().unwrap());
                let commits = |writer: &mut Option<securememory::ViewMut<'_>>, with: u8| {
                    let mut writer = writer.take().unwrap();
                    writer[0] = with;
                    writer.commit().unwrap();
                    secret.with(|bytes| bytes[0] == with && bytes[1..] == BYTES[1..]).unwrap()
                };
                assert_eq!(in_child(|| commits(&mut writer, b'C')), 0);
                assert!(commits(&mut writer, b't'));
                // Within `with`; the child comes back from there.
                let mut pid = -1;
                let lent = secret.with(|bytes| {
                    // SAFETY: the child ends below, by `_exit`.
                    pid = unsafe { libc::fork() };
                    bytes == BYTES
                });
                let right = lent == Ok(true) && secret.ct_eq_bytes(BYTES) == Ok(true);
                if pid == 0 {
                    let right = right && secret.close() == Ok(Closed::Closed);
                    // SAFETY: ends the child.
                    unsafe { libc::_exit(i32::from(!right)) };
                }
                let mut status = -1;
                // SAFETY: one word is written.
                assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
                assert_eq!((right, status), (true, 0));
                assert_eq!(secret.ct_eq_bytes(BYTES), Ok(true));
            }
        }
    });
}

#[test]
fn views_of_other_threads_stay_counted_in_the_child() {
    case("views_of_other_threads_stay_counted_in_the_child").run(|| {
        for builder in builders() {
            let family = Family::new(builder.policy(off().wait(Duration::from_millis(20))));
            let vault = &family.vault;
            for secret in [&family.sealed, &family.paged] {
                let (open, done) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        let view = secret.view().unwrap();
                        open.wait();
                        done.wait();
                        assert_eq!(&*view, BYTES);
                    });
                    open.wait();
                    let status = in_child(|| {
                        let mut views = vault.diagnostics().views;
                        // A stream has its chunk open.
                        views.retain(|view| view.secret_id == secret.id());
                        let [view] = views.try_into().unwrap();
                        assert_eq!((view.secret_id, view.kind), (secret.id(), ViewKind::Borrowed));
                        assert_eq!(secret.ct_eq_bytes(BYTES), Ok(true));
                        if secret.status().store == Store::Paged {
                            assert!(matches!(secret.view_mut().err(), Some(Error::Timeout { holders, .. }) if holders.views() == 1));
                        } else {
                            secret.replace(&mut [b'x'; 16]).unwrap();
                        }
                        let closed = secret.close_timeout(Duration::from_millis(10));
                        assert!(matches!(closed, Ok(Closed::Deferred { views }) if views.views() == 1));
                        secret.view().err() == Some(Error::Closed)
                    });
                    assert_eq!(status, 0);
                    done.wait();
                });
                assert_eq!(secret.ct_eq_bytes(BYTES), Ok(true));
                assert!(vault.diagnostics().views.iter().all(|view| view.secret_id != secret.id()));
            }
        }
    });
}

#[test]
fn pages_that_linger_are_closed_by_the_child_too() {
    case("pages_that_linger_are_closed_by_the_child_too").run(|| {
        let vault = builder(Hold::Guarded).store(Store::Paged).build().unwrap();
        let policy = off().linger(Duration::from_millis(20));
        let secret = vault.secret().policy(policy).from_bytes(&mut BYTES.to_vec()).unwrap();
        drop(secret.view().unwrap());
        let closes = || {
            assert_eq!(vault.diagnostics().lingering, 1);
            std::thread::sleep(Duration::from_millis(60));
            while vault.tidy().is_some() {}
            vault.diagnostics().lingering == 0 && secret.ct_eq_bytes(BYTES) == Ok(true)
        };
        assert_eq!(in_child(closes), 0);
        assert!(closes());
    });
}

/// Parent and child seal the same bytes, under the same key and with the same number, and each time it is something else.
#[test]
fn nothing_is_sealed_twice_with_the_same_nonce() {
    case("nothing_is_sealed_twice_with_the_same_nonce").run(|| {
        for cipher in [Cipher::Aegis256, Cipher::XChaCha20Poly1305] {
            let vault = builder(Hold::Split).cipher(cipher).store(Store::Sealed).build().unwrap();
            let secret = vault.secret().from_bytes(&mut BYTES.to_vec()).unwrap();
            let (from, to) = std::io::pipe().unwrap();
            let seal = || {
                secret.replace(&mut BYTES.to_vec()).unwrap();
                let place = secret.status().at_rest.unwrap();
                // SAFETY: what is at rest, which nobody changes meanwhile.
                let bytes = unsafe { std::slice::from_raw_parts(place.address as *const u8, place.len) };
                (secret.status().version, bytes.to_vec())
            };
            let sealed = || {
                let (version, bytes) = seal();
                assert_eq!(bytes.len(), 32 + 16 + 16);
                (&to).write_all(&bytes).unwrap();
                version == 1
            };
            let mut all: Vec<Vec<u8>> = (0..20)
                .map(|_| {
                    assert_eq!(in_child(sealed), 0);
                    let mut bytes = vec![0; 64];
                    std::io::Read::read_exact(&mut &from, &mut bytes).unwrap();
                    bytes
                })
                .collect();
            all.push(seal().1);
            for part in [0..32, 32..48, 48..64] {
                let parts: std::collections::BTreeSet<_> =
                    all.iter().map(|bytes| &bytes[part.clone()]).collect();
                assert_eq!(parts.len(), 21, "{part:?}");
            }
        }
    });
}

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

use common::inherited::{BYTES, Family, own_vaults_work};
use common::{case, in_child, share_files};
use securememory::fault::{self, FaultPolicy};
use securememory::{
    Cipher, Error, Hold, HoldUsed, Level, Policy, Protection, Secret, Store, Vault, VaultBuilder,
};

fn off() -> Policy {
    Policy::new().fork(Level::Off)
}

fn builder(hold: Hold) -> VaultBuilder {
    Vault::builder().policy(off()).hold(hold).hold_level(Level::Require)
}

/// One of each hold that can be had here, but for the one that cannot be inherited.
fn builders() -> Vec<VaultBuilder> {
    let built = [Hold::Split, Hold::Guarded, Hold::Pkey].into_iter().filter(|&hold| match builder(hold).build() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("SKIPPED {hold:?}: {error}");
            false
        }
    });
    built.map(builder).collect()
}

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

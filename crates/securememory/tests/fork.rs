//! A forked child finds nothing of its parent's secrets, and does nothing to them.
#![cfg(target_os = "linux")]
// fork(2) cannot be had without. Each test forks in a process of its own: the child of a process with other test
// threads may only do what is async-signal-safe.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use common::in_child;
use securememory::testing::TestGuard;
use securememory::{Error, Hold, Level, Secret, Store, Vault};

const CASE: &str = "SECUREMEMORY_FORK_CASE";

/// Runs the named test alone in a process of its own; false in that process.
fn delegated(case: &str) -> bool {
    if std::env::var(CASE).is_ok() {
        return false;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let status = command.args(["--exact", case, "--nocapture", "--test-threads=1"]).env(CASE, case).status();
    assert!(status.unwrap().success(), "{case}");
    true
}

fn vaults() -> [Vault; 3] {
    let sealed = Vault::builder().store(Store::Sealed);
    [
        sealed.clone().hold(common::HOLD).hold_level(Level::Require).build().unwrap(),
        sealed.hold(Hold::Guarded).build().unwrap(),
        Vault::builder().store(Store::Paged).build().unwrap(),
    ]
}

fn secret(vault: &Vault) -> Secret {
    vault.secret().from_bytes(&mut b"the parent's own".to_vec()).unwrap()
}

fn is_whole(secret: &Secret) -> bool {
    secret.ct_eq_bytes(b"the parent's own") == Ok(true)
}

#[test]
fn a_child_gets_a_clear_error_and_the_parent_keeps_its_secrets() {
    let _guard = TestGuard::new();
    if delegated("a_child_gets_a_clear_error_and_the_parent_keeps_its_secrets") {
        return;
    }
    for vault in vaults() {
        let secret = secret(&vault);
        let status = in_child(|| {
            let refused = [
                secret.view().err(),
                secret.view_mut().err(),
                secret.owned_view().err(),
                secret.close().err(),
                vault.secret().random(8).err(),
                vault.preflight(1, 8).err(),
                secret.replace(&mut [0; 16]).err(),
            ];
            !vault.is_alive() && refused.iter().all(|error| *error == Some(Error::Forked))
        });
        assert_eq!(status, 0);
        assert!(is_whole(&secret));
        // Dropped in the child, they are whole in the parent.
        let mut both = Some((secret, vault));
        assert_eq!(in_child(|| both.take().is_some()), 0);
        let (secret, _vault) = both.unwrap();
        assert!(is_whole(&secret));
    }
}

#[test]
fn new_vaults_work_in_a_child_also_the_default_one() {
    let _guard = TestGuard::new();
    if delegated("new_vaults_work_in_a_child_also_the_default_one") {
        return;
    }
    let before = Secret::from_bytes(&mut b"the parent's own".to_vec()).unwrap();
    let status = in_child(|| {
        let own = Secret::from_bytes(&mut b"the child's own!".to_vec()).unwrap();
        let grandchild = in_child(|| own.view().err() == Some(Error::Forked));
        grandchild == 0
            && own.ct_eq_bytes(b"the child's own!").unwrap()
            && before.view().err() == Some(Error::Forked)
    });
    assert_eq!(status, 0);
    assert!(is_whole(&before));
}

#[test]
fn a_view_alive_across_a_fork_ends_silently_in_the_child() {
    let _guard = TestGuard::new();
    if delegated("a_view_alive_across_a_fork_ends_silently_in_the_child") {
        return;
    }
    for vault in vaults() {
        let secret = secret(&vault);
        let mut view = Some(secret.view().unwrap());
        let status = in_child(|| {
            let view = view.take().unwrap();
            let wiped = view.iter().all(|&byte| byte == 0);
            wiped && view.finish() == Err(Error::Forked)
        });
        assert_eq!(status, 0);
        let view = view.unwrap();
        assert_eq!(&*view, b"the parent's own");
        assert_eq!(in_child(|| true), 0);
        view.finish().unwrap();
        let owned = secret.owned_view().unwrap();
        let status = in_child(|| owned.with(|_| ()).map_err(Error::from) == Err(Error::Forked));
        assert_eq!(status, 0);
        let mut writer = secret.view_mut().unwrap();
        assert_eq!(in_child(|| true), 0);
        writer[0] = b'T';
        writer.commit().unwrap();
        assert!(secret.ct_eq_bytes(b"The parent's own").unwrap());
    }
}

#[test]
fn forks_beside_readers_and_writers() {
    let _guard = TestGuard::new();
    if delegated("forks_beside_readers_and_writers") {
        return;
    }
    for vault in vaults() {
        let secret = secret(&vault);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert!(is_whole(&secret));
                }
            });
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let made = vault.secret().random(24).unwrap();
                    made.view_mut().unwrap().commit().unwrap();
                }
            });
            for _ in 0..100 {
                assert_eq!(in_child(|| secret.view().err() == Some(Error::Forked)), 0);
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn descriptors_do_not_survive_an_exec() {
    let _guard = TestGuard::new();
    let _vault = vaults();
    let listing = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    let listing = String::from_utf8(listing.stdout).unwrap();
    assert!(!listing.contains("memfd"), "{listing}");
}

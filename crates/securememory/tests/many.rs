//! Many secrets at once: the same as each by itself.
#![cfg_attr(windows, allow(unused_imports, reason = "some tests are not there"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests end by panics")]

#[cfg(unix)]
mod common;
#[cfg(windows)]
#[path = "common/windows.rs"]
mod common;

use std::time::Duration;

#[cfg(unix)]
use common::Footprint;
use common::case;
use securememory::testing::TestGuard;
use securememory::testing::inject::{self, Plan};
use securememory::{Call, CallError, Closed, Error, Hold, Policy, Secret, Store, Vault};

fn sources(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| vec![n as u8; 1 + n * 7 % 300]).collect()
}

fn all(secrets: &[Secret]) -> Vec<&Secret> {
    secrets.iter().collect()
}

/// Reads all and compares.
fn assert_right(secrets: &[&Secret], expected: &[Vec<u8>]) {
    let mut seen = 0;
    Secret::with_many(secrets, |at, bytes| {
        assert_eq!((at, bytes), (seen, &expected[at][..]));
        seen += 1;
    })
    .unwrap();
    assert_eq!(seen, expected.len());
}

#[test]
fn they_are_what_each_by_itself_would_be() {
    let _guard = TestGuard::new();
    for hold in [common::HOLD, Hold::Guarded] {
        let vault = Vault::builder().hold(hold).sealed_max(200).build().unwrap();
        for count in [0, 1, 2, 7, 8, 9, 63, 64, 65, 200] {
            let expected = sources(count);
            let mut given = expected.clone();
            let secrets = vault.secrets_from(&mut given).unwrap();
            assert_eq!(secrets.len(), count);
            assert!(given.iter().flatten().all(|&byte| byte == 0), "the sources are wiped");
            assert!(secrets.iter().zip(&expected).all(|(secret, bytes)| {
                let store = if bytes.len() <= 200 { Store::Sealed } else { Store::Paged };
                secret.ct_eq_bytes(bytes).unwrap() && secret.status().store == store
            }));
            assert_right(&all(&secrets), &expected);
            assert_eq!(vault.status().secrets, count as u64);
            let closed = Secret::close_many(&all(&secrets)).unwrap();
            assert_eq!(closed, vec![Closed::Closed; count]);
            assert_eq!(vault.status().secrets, 0);
            assert!(secrets.iter().all(|secret| secret.view().err() == Some(Error::Closed)));
        }
    }
}

#[test]
fn secrets_of_several_vaults_and_keys_may_be_mixed() {
    let _guard = TestGuard::new();
    let expected = sources(60);
    let vaults = [Vault::builder().build().unwrap(), Vault::builder().build().unwrap()];
    let mut secrets = Vec::new();
    for (n, bytes) in expected.iter().enumerate() {
        if n % 10 == 5 {
            // Those made before stay under the older key for now.
            vaults[0].refresh().unwrap();
            vaults[0].finish_refresh(Duration::from_secs(5)).unwrap();
            vaults[0].refresh().unwrap();
        }
        secrets.push(vaults[n / 3 % 2].secret().from_bytes(&mut bytes.clone()).unwrap());
    }
    assert_right(&all(&secrets), &expected);
    let twice: Vec<&Secret> = secrets.iter().flat_map(|secret| [secret, secret]).collect();
    let expected: Vec<Vec<u8>> = expected.iter().flat_map(|bytes| [bytes.clone(), bytes.clone()]).collect();
    assert_right(&twice, &expected);
}

#[test]
fn the_first_that_cannot_be_read_is_named() {
    let _guard = TestGuard::new();
    let vault = Vault::builder().store(Store::Sealed).build().unwrap();
    let secrets = vault.secrets_from(&mut sources(20)).unwrap();
    secrets[12].close().unwrap();
    let mut seen = Vec::new();
    let failed = Secret::with_many(&all(&secrets), |at, _| seen.push(at)).unwrap_err();
    assert_eq!((failed.index, failed.ran, failed.error), (12, false, Error::Closed));
    assert_eq!(seen, (0..12).collect::<Vec<_>>());
    assert_eq!(failed.to_string(), "number 12 of many: closed");
    // Nobody stays inside.
    assert_eq!(vault.diagnostics().views.len(), 0);
}

#[test]
fn a_panic_in_the_closure_ends_all_views() {
    let _guard = TestGuard::new();
    let vault = Vault::builder().store(Store::Sealed).build().unwrap();
    let secrets = vault.secrets_from(&mut sources(20)).unwrap();
    let panics = std::panic::catch_unwind(|| Secret::with_many(&all(&secrets), |at, _| assert_ne!(at, 3)));
    assert!(panics.is_err());
    assert_eq!(vault.diagnostics().views.len(), 0);
    assert_eq!(Secret::close_many(&all(&secrets)).unwrap(), vec![Closed::Closed; 20]);
}

#[test]
fn with_little_room_they_are_opened_a_few_at_a_time() {
    let _guard = TestGuard::new();
    let policy = Policy::new().lock(securememory::Level::Off);
    for views in [1, 2, 3, 5] {
        let vault =
            Vault::builder().store(Store::Sealed).policy(policy.clone()).views_max(views).build().unwrap();
        let expected = sources(20);
        let secrets = vault.secrets_from(&mut expected.clone()).unwrap();
        assert_right(&all(&secrets), &expected);
    }
}

#[test]
fn a_close_of_many_waits_for_all_together() {
    let _guard = TestGuard::new();
    let policy = Policy::new().close_wait(Duration::from_millis(100));
    let vault = Vault::builder().store(Store::Sealed).policy(policy).build().unwrap();
    let secrets = vault.secrets_from(&mut sources(20)).unwrap();
    let views: Vec<_> = secrets.iter().step_by(2).map(|secret| secret.owned_view().unwrap()).collect();
    let started = std::time::Instant::now();
    let closed = Secret::close_many(&all(&secrets)).unwrap();
    assert!(started.elapsed() < Duration::from_millis(800), "{:?}", started.elapsed());
    for (n, closed) in closed.iter().enumerate() {
        assert_eq!(matches!(closed, Closed::Deferred { .. }), n % 2 == 0, "{closed:?}");
    }
    drop(views);
    // What cannot be closed from inside one's own view does not keep the others.
    assert_eq!(vault.status().secrets, 0);
    let more = vault.secrets_from(&mut sources(3)).unwrap();
    let view = more[1].view().unwrap();
    let refused = Secret::close_many(&all(&more)).unwrap_err();
    assert_eq!((refused.index, refused.error), (1, Error::WouldDeadlock));
    assert_eq!(vault.status().secrets, 1);
    assert!(more[2].view().is_err());
    drop(view);
    assert!(more[1].with(|bytes| bytes.len()).is_ok());
}

#[test]
fn what_must_be_locked_is_moved_and_opened_in_locked_memory_or_not_at_all() {
    case("what_must_be_locked_is_moved_and_opened_in_locked_memory_or_not_at_all").run(|| {
        let vault =
            Vault::builder().store(Store::Sealed).locked_max(8 * common::page_size()).build().unwrap();
        let locked = Policy::new().lock(securememory::Level::Require);
        // On Windows only where what is closed can be encrypted.
        let lacking = vault.secret().policy(locked.clone()).random(1).err();
        if cfg!(windows)
            && matches!(lacking, Some(Error::Refused { cause, .. }) if cause.call == Call::ProtectMemory)
        {
            securememory::testing::skip("the key cannot be locked here: CryptProtectMemory does nothing");
        }
        let secrets: Vec<Secret> =
            (0..3).map(|_| vault.secret().policy(locked.clone()).from_bytes(&mut [7; 32]).unwrap()).collect();
        // Views take all the locked places that there are.
        let mut views = Vec::new();
        while let Ok(view) = secrets[0].owned_view() {
            views.push(view);
        }
        let all = all(&secrets);
        let failed = Secret::with_many(&all, |_, _| panic!("there is no room")).unwrap_err();
        assert!(matches!(failed.error, Error::ScratchExhausted { .. }), "{failed}");
        vault.refresh().unwrap();
        let moved = vault.finish_refresh(Duration::from_millis(100));
        assert!(matches!(moved, Err(Error::ScratchExhausted { .. })), "{moved:?}");
        drop(views);
        assert_eq!(vault.finish_refresh(Duration::from_secs(5)).unwrap().moved, 3);
        Secret::with_many(&all, |_, bytes| assert_eq!(bytes, [7; 32])).unwrap();
    });
}

#[cfg(unix)]
/// None is made, no source is touched, nothing is left; afterwards all works.
fn assert_refused(vault: &Vault, expected: Error) {
    let before = Footprint::now();
    let given = sources(100);
    let mut sources = given.clone();
    assert_eq!(vault.secrets_from(&mut sources).err(), Some(expected));
    assert!(sources == given);
    assert_eq!(vault.status().secrets, 0);
    drop(sources);
    before.assert_same("after a refusal");
}

// Its key has a share in a file.
#[cfg(unix)]
#[test]
fn all_are_made_or_none() {
    case("all_are_made_or_none").run(|| {
        let vault = Vault::builder().store(Store::Sealed).hold(Hold::Split).build().unwrap();
        drop(vault.secrets_from(&mut sources(100)).unwrap());
        // The second batch has no nonces any more.
        for n in [1, 3, 9] {
            let refused =
                inject::fail(Call::Getrandom, Plan::Nth { n, errno: securememory::testing::errno::EIO });
            assert_refused(
                &vault,
                Error::System(CallError { call: Call::Getrandom, errno: securememory::testing::errno::EIO }),
            );
            drop(refused);
        }
        let mut with_empty = sources(100);
        with_empty[70].clear();
        let given = with_empty.clone();
        assert_eq!(vault.secrets_from(&mut with_empty).err(), Some(Error::Empty));
        assert!(with_empty == given && vault.status().secrets == 0);
        let lost = inject::fail(Call::Pread, Plan::Always { errno: securememory::testing::errno::EIO });
        assert_refused(&vault, Error::KeyLost);
        drop(lost);
        // An old key without records is gone: so the count of records is right.
        vault.refresh().unwrap();
        assert_eq!(vault.status().keys, 1);
        drop(vault.secrets_from(&mut sources(100)).unwrap());
    });
}

// Where a fetch is a call that can be counted.
#[cfg(unix)]
#[test]
fn one_fetch_serves_many() {
    case("one_fetch_serves_many").run(|| {
        let vault = Vault::builder().store(Store::Sealed).hold(Hold::Split).build().unwrap();
        let count = |work: &mut dyn FnMut()| {
            let fetches = inject::fail(
                Call::Pread,
                Plan::Nth { n: u64::MAX, errno: securememory::testing::errno::EIO },
            );
            work();
            fetches.calls()
        };
        let mut secrets = Vec::new();
        assert_eq!(count(&mut || secrets = vault.secrets_from(&mut sources(64)).unwrap()), 1);
        let views = all(&secrets);
        assert_eq!(count(&mut || Secret::with_many(&views, |_, _| ()).unwrap()), 64 / 8);
    });
}

//! What a user does every day.
#![allow(clippy::unwrap_used)]

use securememory::testing::TestGuard;
use securememory::{Build, Closed, Error, Hold, HoldUsed, Host, Level, Secret, Store, Vault, with2};

/// Where a build has no split keys, the other hold stands in.
const HOLD: Hold = if Build::HERE.split { Hold::Split } else { Hold::Guarded };

/// A vault for each way to keep a secret.
fn vaults() -> Vec<(&'static str, Vault)> {
    let split = Vault::builder().store(Store::Sealed).hold(HOLD).hold_level(Level::Require);
    let guarded = Vault::builder().store(Store::Sealed).hold(Hold::Guarded);
    let paged = Vault::builder().store(Store::Paged);
    vec![
        ("sealed-split", split.build().unwrap()),
        ("sealed-guarded", guarded.build().unwrap()),
        ("paged", paged.build().unwrap()),
    ]
}

#[test]
fn bytes_come_back_and_the_source_is_wiped() {
    let _guard = TestGuard::new();
    for (store, vault) in vaults() {
        // Lengths, not a page size.
        for len in [1, 15, 16, 17, 31, 32, 33, 255, 4000, 4096, 5000, 70_000] {
            let original: Vec<u8> = (0..len).map(|n| (n * 7 + 3) as u8).collect();
            let mut source = original.clone();
            let secret = vault.secret().from_bytes(&mut source).unwrap();
            assert!(source.iter().all(|&byte| byte == 0), "{store} {len}");
            secret.with(|bytes| assert_eq!(bytes, original)).unwrap();
            let view = secret.view().unwrap();
            assert_eq!(*view, original[..], "{store} {len}");
            assert_eq!(view.as_ptr().addr() % 16, 0);
            view.finish().unwrap();
            let owned = secret.owned_view().unwrap();
            assert!(secret.ct_eq_bytes(&original).unwrap());
            drop(secret);
            owned.with(|bytes| assert_eq!(bytes, original)).unwrap();
        }
    }
}

#[test]
fn every_way_to_make_one() {
    let _guard = TestGuard::new();
    for (_, vault) in vaults() {
        let random = vault.secret().random(64).unwrap();
        assert!(!random.ct_eq_bytes(&[0; 64]).unwrap());
        let made = vault.secret().init_with(4, |room| room.copy_from_slice(b"abcd")).unwrap();
        assert!(made.ct_eq_bytes(b"abcd").unwrap());
        let read = vault.secret().read_from(&mut &b"efgh and more"[..], 4).unwrap();
        assert!(read.ct_eq_bytes(b"efgh").unwrap());
        let early = vault.secret().read_from(&mut &b"ef"[..], 4).unwrap_err();
        assert_eq!(early, Error::EndedEarly { expected: 4, got: 2 });
        let derived = made.derive(8, |input, output| {
            output[..4].copy_from_slice(input);
            output[4..].copy_from_slice(input);
        });
        assert!(derived.unwrap().ct_eq_bytes(b"abcdabcd").unwrap());
        let failed = vault.secret().try_init_with(4, |_| Err("no"));
        assert!(matches!(failed, Err(securememory::TryError::Closure("no"))));
        let vec = vault.secret().from_vec(b"vector".to_vec()).unwrap();
        let string = vault.secret().from_string("vector".to_string()).unwrap();
        assert!(vec.ct_eq(&string).unwrap());
        with2(&vec, &string, |a, b| assert_eq!(a, b)).unwrap();
        with2(&vec, &vec, |a, b| assert_eq!(a, b)).unwrap();
    }
}

#[test]
fn changes_are_valid_after_a_commit_and_only_then() {
    let _guard = TestGuard::new();
    for (store, vault) in vaults() {
        let secret = vault.secret().from_bytes(&mut b"old value".to_vec()).unwrap();
        let mut view = secret.view_mut().unwrap();
        view.copy_from_slice(b"new value");
        drop(view);
        assert!(secret.ct_eq_bytes(b"old value").unwrap(), "{store}");
        for round in 0..10u8 {
            let mut view = secret.view_mut().unwrap();
            view[0] = round;
            view.commit().unwrap();
            assert_eq!(secret.with(|bytes| bytes[0]).unwrap(), round, "{store}");
            assert_eq!(secret.status().version, u64::from(round) + 1, "{store}");
        }
        let wrong = secret.replace(&mut [0; 3]).unwrap_err();
        assert_eq!(wrong, Error::LengthMismatch { expected: 9, got: 3 });
        let mut source = *b"replaced!";
        secret.replace(&mut source).unwrap();
        assert_eq!(source, [0; 9]);
        assert!(secret.ct_eq_bytes(b"replaced!").unwrap());
    }
}

#[test]
fn a_closed_secret_is_gone() {
    let _guard = TestGuard::new();
    for (_, vault) in vaults() {
        let secret = vault.secret().random(32).unwrap();
        assert_eq!(secret.close().unwrap(), Closed::Closed);
        assert_eq!(secret.close().unwrap(), Closed::Closed);
        assert_eq!(secret.view().unwrap_err(), Error::Closed);
        assert_eq!(secret.view_mut().unwrap_err(), Error::Closed);
        assert!(secret.status().closed);
        assert_eq!(secret.status().at_rest, None);
        assert_eq!(vault.status().secrets, 0);
    }
}

#[test]
fn the_status_tells_what_was_got() {
    let _guard = TestGuard::new();
    for (store, vault) in vaults() {
        let secret = vault.secret().label("the label").random(32).unwrap();
        let status = secret.status();
        assert_eq!(secret.label(), Some("the label"));
        assert_eq!(status.len, 32);
        // Windows before 10, and Wine, cannot leave memory out of reports: then it is not claimed.
        let dump = Build::HERE.dont_dump && Host::probe().dont_dump.is_available();
        assert_eq!(status.protections.dump.got, dump, "{store} {status:?}");
        assert!(status.protections.fork.got, "{store} {status:?}");
        match store {
            "sealed-split" => assert_eq!(status.hold == Some(HoldUsed::Split), Build::HERE.split),
            "sealed-guarded" => assert_eq!(status.hold, Some(HoldUsed::Guarded)),
            _ => assert_eq!(status.hold, None),
        }
        assert!(status.at_rest.is_some());
    }
}

#[test]
fn sizes_that_cannot_be_are_errors() {
    let _guard = TestGuard::new();
    for (_, vault) in vaults() {
        assert_eq!(vault.secret().random(0).unwrap_err(), Error::Empty);
        // All addresses of a process on x86-64, or half of those that 32 bits can name.
        let all = if usize::BITS == 64 { 1_u64 << 47 } else { 1 << 31 };
        for len in [
            usize::MAX,
            usize::MAX - securememory::Host::probe().page_size,
            isize::MAX as usize,
            all as usize,
        ] {
            assert!(vault.secret().init_with(len, |_| ()).is_err(), "{len}");
        }
        assert!(matches!(vault.secret().align(3).random(4), Err(Error::BadAlignment { .. })));
    }
}

#[test]
fn the_default_vault_needs_no_set_up() {
    let _guard = TestGuard::new();
    let secret = Secret::from_bytes(&mut b"plain and simple".to_vec()).unwrap();
    assert_eq!(secret.with(<[u8]>::len).unwrap(), 16);
}

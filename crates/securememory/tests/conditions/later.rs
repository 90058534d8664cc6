//! Filters that come while secrets exist and views are open.

use securememory::{Error, Secret, Vault};

use crate::common::{self, Needle};
use crate::look::{self, Reader};
use crate::refuse;
use crate::round::{self, KINDS, LEN, is_fitting};

/// Calls that are refused to the whole process from now on.
pub fn refuse(wanted: &str) {
    let filter = refuse::filter(wanted).expect("a filter");
    if let Err(error) = seccompiler::apply_filter_all_threads(&filter) {
        common::skip(&format!("no filter can be set here: {error}"));
    }
}

/// What was there before goes on; what is new is had, or refused with an error that says so.
pub fn under(wanted: &str) {
    let reader = Reader::new().unwrap();
    let (value, other) = (Needle::new(1, LEN), Needle::new(2, LEN));
    let make = |vault: &Vault| vault.secret().init_with(LEN, |room| value.write(room, 0));
    let vaults: Vec<Vault> =
        KINDS.into_iter().filter_map(|kind| round::builder(kind, "default").build().ok()).collect();
    let secrets: Vec<Secret> = vaults.iter().map(|vault| make(vault).unwrap()).collect();
    let open: Vec<_> = secrets.iter().map(|secret| secret.owned_view().unwrap()).collect();
    let borrowed = secrets[0].view().unwrap();
    let before: Vec<_> = secrets.iter().map(Secret::status).collect();
    refuse(wanted);

    let fits = |what: &str, error: Error| assert!(is_fitting(&error), "{what}: {error:?}");
    assert!(value.is(&borrowed));
    borrowed.finish().unwrap();
    assert!(open.iter().all(|view| view.with(|bytes| value.is(bytes)) == Ok(true)));
    for ((vault, secret), before) in vaults.iter().zip(&secrets).zip(&before) {
        // Nothing that was had is lost, and nothing else is said of it.
        let now = secret.status();
        assert_eq!(now.protections, before.protections, "{now:?}");
        for _ in 0..3 {
            assert_eq!(secret.with(|bytes| value.is(bytes)), Ok(true), "{now:?}");
        }
        let mut source = [0; LEN];
        other.write(&mut source, 0);
        let wanted = match secret.replace(&mut source) {
            Ok(()) => &other,
            Err(error) => {
                fits("replace", error);
                &value
            }
        };
        source.fill(0);
        assert_eq!(secret.with(|bytes| wanted.is(bytes)), Ok(true), "after a change, {now:?}");
        match make(vault) {
            Ok(more) => assert_eq!(more.with(|bytes| value.is(bytes)), Ok(true)),
            Err(error) => fits("another secret", error),
        }
        if let Err(error) = vault.refresh() {
            fits("refresh", error);
        }
        assert_eq!(secret.with(|bytes| wanted.is(bytes)), Ok(true), "after a refresh, {now:?}");
        // More views than there were places for.
        let views: Vec<_> = (0..12).map(|_| secret.owned_view()).collect();
        for view in views {
            match view {
                Ok(view) => assert_eq!(view.with(|bytes| wanted.is(bytes)), Ok(true)),
                Err(error) => fits("another view", error),
            }
        }
        let refused = look::in_child(|| u8::from(matches!(secret.view().map(drop), Err(Error::Forked))));
        assert_eq!(refused, Some(1), "in a child, {now:?}");
    }
    // An owned view is a copy: it keeps the value that it was made of.
    assert!(open.iter().all(|view| view.with(|bytes| value.is(bytes)) == Ok(true)));
    drop(open);
    for secret in &secrets {
        assert_eq!(secret.close(), Ok(securememory::Closed::Closed));
    }
    drop((secrets, vaults));
    // New ones are what they would be had the filter been there at the start.
    for kind in KINDS {
        for policy in round::POLICIES {
            let row = round::of(kind, policy, &reader, &|_, _| {});
            assert!(row.differ.is_empty(), "{}", row.line());
        }
    }
}

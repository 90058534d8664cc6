//! Key pages that could not be closed: told, tried again, closed.
#![allow(clippy::unwrap_used)]

use securememory::testing::TestGuard;
use securememory::testing::inject::{Plan, fail};
use securememory::{Call, CallError, Error, Hold, Level, Secret, Store, Vault};

const NO_MAPPING: i32 = securememory::testing::errno::ENOMEM;

fn guarded() -> (Vault, Secret) {
    let builder = Vault::builder().store(Store::Sealed).hold(Hold::Guarded).hold_level(Level::Require);
    let vault = builder.build().unwrap();
    let secret = vault.secret().from_bytes(&mut b"sixteen bytes ok".to_vec()).unwrap();
    (vault, secret)
}

#[test]
fn a_key_page_that_stays_open_is_told_and_closed_by_the_status() {
    let _guard = TestGuard::new();
    let (vault, secret) = guarded();
    assert!(!vault.status().key_stuck_open);
    // The first change opens the page, the second one closes it.
    let plan = fail(Call::Mprotect, Plan::FromNth { n: 2, errno: NO_MAPPING });
    assert!(secret.ct_eq_bytes(b"sixteen bytes ok").unwrap(), "the read itself is right");
    assert!(vault.status().key_stuck_open);
    assert_eq!(plan.calls(), 3, "the status has tried once more");
    assert!(secret.ct_eq_bytes(b"sixteen bytes ok").unwrap(), "usable, without opening anything");
    assert_eq!(plan.calls(), 4);
    drop(plan);
    assert!(!vault.status().key_stuck_open, "and closed now");
}

#[test]
fn a_key_page_that_stays_open_is_closed_by_the_next_read() {
    let _guard = TestGuard::new();
    let (vault, secret) = guarded();
    let plan = fail(Call::Mprotect, Plan::Nth { n: 2, errno: NO_MAPPING });
    secret.with(|_| ()).unwrap();
    secret.with(|_| ()).unwrap();
    assert_eq!(plan.calls(), 3);
    drop(plan);
    let plan = fail(Call::Mprotect, Plan::Nth { n: u64::MAX, errno: 0 });
    assert!(!vault.status().key_stuck_open);
    assert_eq!(plan.calls(), 0, "there was nothing left to close");
}

#[test]
fn a_key_page_that_cannot_be_opened_is_an_error_and_no_more() {
    let _guard = TestGuard::new();
    let (_vault, secret) = guarded();
    let refused = Error::System(CallError { call: Call::Mprotect, errno: NO_MAPPING });
    let plan = fail(Call::Mprotect, Plan::Nth { n: 1, errno: NO_MAPPING });
    assert_eq!(secret.view().unwrap_err(), refused);
    drop(plan);
    let plan = fail(Call::Mprotect, Plan::Nth { n: 2, errno: NO_MAPPING });
    let mut view = secret.view_mut().unwrap();
    view[0] = b'S';
    view.commit().unwrap();
    drop(plan);
    assert!(secret.ct_eq_bytes(b"Sixteen bytes ok").unwrap());
    assert_eq!(secret.close().unwrap(), securememory::Closed::Closed);
}

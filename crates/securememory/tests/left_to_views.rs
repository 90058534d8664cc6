//! A close that does not wait leaves the end of the secret to its views, or to whoever moves it to another key at the
//! moment: the last one wipes what is at rest.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::FileExt;
use std::time::Duration;

use securememory::testing::TestGuard;
use securememory::testing::inject::{Plan, fail};
use securememory::{Build, Call, Closed, Error, Hold, Level, Store, Vault};

/// Where a build has no split keys, the other hold stands in.
const HOLD: Hold = if Build::HERE.split { Hold::Split } else { Hold::Guarded };

fn vault() -> Vault {
    Vault::builder().store(Store::Sealed).hold(HOLD).hold_level(Level::Require).build().unwrap()
}

#[test]
fn a_reader_that_a_close_met_while_it_decrypted_wipes_at_its_end() {
    let _guard = TestGuard::new();
    let vault = vault();
    let secret = vault.secret().from_bytes(&mut [7; 32]).unwrap();
    let at_rest = secret.status().at_rest.unwrap();
    let look = || {
        let mut bytes = vec![0; at_rest.len];
        std::fs::File::open("/proc/self/mem")
            .unwrap()
            .read_exact_at(&mut bytes, at_rest.address as u64)
            .unwrap();
        bytes
    };
    let before = look();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            // Its fetching of the key takes long.
            let _plan = fail(Call::Pread, Plan::DelayEach { duration: Duration::from_millis(200) });
            secret.with(|bytes| assert_eq!(bytes, [7; 32]))
        });
        while secret.status().open_views == 0 {
            std::thread::yield_now();
        }
        let closed = secret.close_timeout(Duration::ZERO).unwrap();
        assert!(matches!(closed, Closed::Deferred { views } if views.views() == 1), "{closed:?}");
        match reader.join().unwrap() {
            Ok(()) => {}
            // It had signed in, but not looked yet whether the secret is closed.
            Err(error) => assert_eq!(Error::from(error), Error::Closed),
        }
    });
    let left = before.windows(16).filter(|window| look().windows(16).any(|now| now == *window)).count();
    assert_eq!(left, 0, "nobody has wiped what was at rest");
}

#[test]
fn a_mover_that_a_close_met_wipes_when_it_is_done() {
    let _guard = TestGuard::new();
    assert!((0..10).any(|_| a_close_meets_a_mover()), "they never met");
}

fn a_close_meets_a_mover() -> bool {
    let vault = vault();
    let secret = vault.secret().from_bytes(&mut [7; 32]).unwrap();
    vault.refresh().unwrap();
    let closed = std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            // Its fetching of the keys takes long.
            let _plan = fail(Call::Pread, Plan::DelayEach { duration: Duration::from_millis(200) });
            vault.finish_refresh(Duration::from_secs(5))
        });
        std::thread::sleep(Duration::from_millis(100));
        let closed = secret.close_timeout(Duration::ZERO).unwrap();
        mover.join().unwrap().unwrap();
        closed
    });
    assert_eq!(vault.status().secrets, 0, "nobody has wiped what is at rest, wherever that has been moved");
    // Nobody viewed it.
    matches!(closed, Closed::Deferred { views } if views.views() == 0)
}

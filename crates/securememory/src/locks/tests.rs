#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(any(debug_assertions, tracing_mutex))]
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

#[test]
fn a_frozen_lock_is_had_by_nobody_until_it_is_thawed() {
    let lock = Lock::new(Rank::Ledger, 7);
    // What is not frozen does not thaw.
    let guard = lock.lock().unwrap();
    lock.thaw();
    assert!(!lock.freeze(Duration::from_millis(5)), "taken");
    drop(guard);
    assert!(lock.freeze(Duration::ZERO));
    assert!(lock.try_lock().is_none() && !lock.freeze(Duration::ZERO));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| lock.lock().map(|guard| *guard));
        std::thread::sleep(Duration::from_millis(20));
        lock.thaw();
        assert_eq!(waits.join().unwrap(), Ok(7));
    });
    assert!(lock.freeze(Duration::ZERO));
    let started = Instant::now();
    assert_eq!(lock.lock().err(), Some(Error::LockTimeout(LONGEST)));
    assert!(started.elapsed() >= LONGEST);
    lock.thaw_in_child();
    assert_eq!(lock.try_lock().map(|guard| *guard), Some(7));
}

/// What is reported when `act` runs, in debug builds.
#[cfg(debug_assertions)]
fn report_of(act: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(act)).expect_err("a report");
    panic.downcast_ref::<String>().cloned().unwrap()
}

/// Do both places lie in this file, and are they two?
#[cfg(debug_assertions)]
fn names_two_places(report: &str) -> bool {
    let mut places = report.split(file!()).skip(1).map(|rest| rest.split([' ', ',']).next().unwrap());
    let (first, second) = (places.next(), places.next());
    first.is_some() && second.is_some() && first != second
}

#[cfg(debug_assertions)]
#[test]
fn a_wrong_order_is_reported_with_both_places() {
    let (high, low) = (Lock::new(Rank::Ledger, 1), Lock::new(Rank::Keys, 2));
    let report = report_of(|| {
        let _high = high.lock();
        let _low = low.lock();
    });
    assert!(report.contains("lock order: the lock Keys") && report.contains("has Ledger"), "{report}");
    assert!(names_two_places(&report), "{report}");
    // Two of the same rank are out of order, too.
    let other = Lock::new(Rank::Ledger, 3);
    let report = report_of(|| {
        let _one = high.lock();
        let _other = other.lock();
    });
    assert!(report.contains("a second lock Ledger") && names_two_places(&report), "{report}");
    // Nor are two locks of one level held together.
    let same = Lock::new(Rank::Pages, 4);
    let report = report_of(|| {
        let _one = same.lock();
        let _other = high.lock();
    });
    assert!(report.contains("the lock Ledger") && report.contains("has Pages"), "{report}");
    // All is as before, and the right order is as good as ever.
    let _low = low.lock().unwrap();
    assert_eq!(*high.lock().unwrap(), 1);
    // Who only tries waits for nobody.
    let _high = high.lock().unwrap();
    assert_eq!(other.try_lock().map(|guard| *guard), Some(3));
}

#[cfg(debug_assertions)]
#[test]
fn who_wants_a_lock_that_he_has_is_told_where_he_took_it() {
    let lock = Lock::new(Rank::Keys, ());
    let report = report_of(|| {
        let _first = lock.lock();
        let _second = lock.lock();
    });
    assert!(report.contains("self-deadlock: the lock Keys") && names_two_places(&report), "{report}");
    assert!(lock.try_lock().is_some());
}

#[cfg(debug_assertions)]
#[test]
fn a_lock_that_is_held_too_long_is_reported_when_it_is_free_again() {
    let lock = Lock::new(Rank::Scratch, ());
    let nap = Duration::from_millis(50);
    let guard = lock.lock().unwrap();
    std::thread::sleep(nap);
    drop(guard);
    order::BOUND.set(nap);
    let guard = lock.lock().unwrap();
    std::thread::sleep(2 * nap);
    let report = report_of(|| drop(guard));
    assert!(report.contains("held too long: the lock Scratch, taken at"), "{report}");
    assert!(report.contains(file!()), "{report}");
    assert!(lock.try_lock().is_some());
}

#[cfg(debug_assertions)]
#[test]
fn code_of_the_users_is_not_to_run_under_a_lock() {
    user_code();
    let lock = Lock::new(Rank::Scratch, ());
    let report = report_of(|| {
        let _guard = lock.lock();
        user_code();
    });
    assert!(report.contains("code of the user's") && report.contains("the lock Scratch"), "{report}");
    assert!(names_two_places(&report), "{report}");
    assert!(lock.try_lock().is_some());
    user_code();
}

/// Else the process would abort.
#[cfg(debug_assertions)]
#[test]
fn a_report_in_a_drop_while_a_panic_is_under_way_does_not_panic() {
    struct Bad<'a>(&'a Lock<()>);
    impl Drop for Bad<'_> {
        fn drop(&mut self) {
            let _guard = self.0.lock();
            user_code();
        }
    }
    let lock = Lock::new(Rank::Scratch, ());
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let _bad = Bad(&lock);
        std::panic::panic_any(7u8);
    }));
    assert_eq!(panic.unwrap_err().downcast_ref(), Some(&7u8));
    assert!(lock.try_lock().is_some());
}

#[test]
fn threads_that_want_the_same_lock_have_it_one_after_the_other() {
    const TURNS: u32 = 20_000;
    let lock = Lock::new(Rank::Ledger, 0u32);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..TURNS).for_each(|_| *lock.lock().unwrap() += 1));
        }
        scope.spawn(|| (0..TURNS).for_each(|_| drop(lock.try_lock())));
        scope.spawn(|| {
            for _ in 0..TURNS / 100 {
                assert!(lock.freeze(LONGEST));
                lock.thaw();
            }
        });
    });
    assert_eq!(lock.try_lock().map(|value| *value), Some(2 * TURNS));
}

/// Two locks of which each is taken first: no rank tells of it, as nobody waits, but the second opinion does.
#[cfg(tracing_mutex)]
#[test]
fn the_second_opinion_finds_an_inversion() {
    let (one, other) = (Lock::new(Rank::Keys, ()), Lock::new(Rank::Keys, ()));
    drop((one.try_lock(), other.try_lock()));
    let inverted = catch_unwind(AssertUnwindSafe(|| drop((other.try_lock(), one.try_lock()))));
    assert!(inverted.is_err(), "an inversion that was not found");
}

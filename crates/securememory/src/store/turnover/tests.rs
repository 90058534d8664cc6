#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::enclave::epoch::LIVE;
use crate::error::TryError;
use crate::policy::{Policy, Store};
use crate::store::{Object, Settings, Source, Spec};
use crate::testing::TestGuard;

const SECOND: Duration = Duration::from_secs(1);

/// A first value, and what the user's code does while it writes it.
struct Value<F>(F);

impl<F: FnOnce()> Source<Infallible> for Value<F> {
    const FOREIGN: bool = true;

    fn write(self, room: &mut [u8]) -> Result<(), TryError<Infallible>> {
        (self.0)();
        room.fill(7);
        Ok(())
    }
}

fn machinery(settings: Settings) -> Arc<Machinery> {
    Machinery::make(Settings { store: Store::Sealed, ..settings }).unwrap()
}

fn make_with(machinery: &Arc<Machinery>, len: usize, meanwhile: impl FnOnce()) -> Result<Object, Error> {
    let made = Object::make(Arc::clone(machinery), Spec::default(), len, Value(meanwhile));
    made.map_err(TryError::into_error)
}

fn make(machinery: &Arc<Machinery>, len: usize) -> Object {
    make_with(machinery, len, || ()).unwrap()
}

fn is_right(object: &Object) -> bool {
    object.open().unwrap().bytes().iter().all(|&byte| byte == 7)
}

#[test]
fn the_number_of_an_empty_cell_is_nobodys_epoch() {
    let _guard = TestGuard::new();
    let machinery = machinery(Settings::default());
    assert!(!machinery.enclave.epochs().has(0));
    let object = make(&machinery, 32);
    let at = object.status().at_rest.unwrap().address - size_of::<u64>();
    for (epoch, outcome) in [(0, Error::Tampered), (9, Error::Tampered), (u64::MAX, Error::Tampered)] {
        // SAFETY: the epoch that stands before the envelope of a record of ours, which nobody reads
        // meanwhile.
        #[allow(unsafe_code)]
        unsafe {
            std::ptr::with_exposed_provenance_mut::<u64>(at).write(epoch);
        }
        assert_eq!(object.open().err(), Some(outcome), "{epoch}");
    }
}

#[test]
fn two_seals_that_find_the_same_key_due_replace_it_once() {
    let _guard = TestGuard::new();
    let machinery = machinery(Settings { seals_max: 10, ..Settings::default() });
    let _objects: Vec<_> = (0..10).map(|_| make(&machinery, 32)).collect();
    assert_eq!(machinery.status().epoch, 2);
    machinery.after_seal(10);
    assert_eq!(machinery.status().epoch, 2);
}

#[test]
fn where_there_is_no_key_after_a_purge_seals_say_so() {
    let _guard = TestGuard::new();
    let machinery = machinery(Settings::default());
    machinery.ledger.forget_epochs(2).unwrap();
    assert_eq!(make_with(&machinery, 32, || ()).err(), Some(Error::Purged));
    machinery.refresh().unwrap();
    assert!(is_right(&make(&machinery, 32)));
}

#[test]
fn an_account_that_cannot_be_read_is_not_an_empty_one() {
    let _guard = TestGuard::new();
    let machinery = machinery(Settings::default());
    let _object = make(&machinery, 32);
    machinery.refresh().unwrap();
    thread::scope(|scope| {
        let (send, locked) = mpsc::channel();
        let machinery = &machinery;
        scope.spawn(move || {
            machinery.ledger.walk(|_| {
                send.send(()).unwrap();
                thread::sleep(SECOND + SECOND / 2);
                false
            })
        });
        locked.recv().unwrap();
        assert_eq!(machinery.retire_keys(), Err(Error::LockTimeout(SECOND)));
    });
    assert_eq!(machinery.retire_keys(), Ok(false));
}

#[test]
fn a_change_begun_before_a_purge_does_not_bring_the_secret_back() {
    let _guard = TestGuard::new();
    let machinery = machinery(Settings::default());
    let object = make(&machinery, 32);
    let change = object.open_mut(SECOND).unwrap();
    machinery.purge().unwrap();
    assert_eq!(change.commit().err(), Some(Error::Purged));
    assert_eq!(object.open().err(), Some(Error::Purged));
}

#[test]
fn a_commit_that_finds_all_places_in_limbo_kept_ends_at_its_deadline() {
    let _guard = TestGuard::new();
    let policy = Policy::new().wait(Duration::from_millis(20));
    let machinery = machinery(Settings { policy, ..Settings::default() });
    let object = make(&machinery, 32);
    while machinery.ledger.take_record(64).is_ok() {}
    let (send, outcome) = mpsc::channel();
    thread::spawn(move || send.send(object.open_mut(SECOND).unwrap().commit()));
    let outcome = outcome.recv_timeout(10 * SECOND).unwrap();
    assert!(matches!(outcome, Err(Error::Timeout { .. })), "{outcome:?}");
}

#[test]
fn a_batch_is_bounded_in_bytes() {
    let _guard = TestGuard::new();
    let machinery = machinery(Settings::default());
    let objects: Vec<_> = (0..3).map(|_| make(&machinery, 1 << 20)).collect();
    machinery.refresh().unwrap();
    let mut done = Refreshed::default();
    assert_eq!(machinery.move_batch(BATCH, &mut done), Ok(true));
    assert_eq!(done.moved, 1);
    assert_eq!(machinery.finish_refresh(10 * SECOND).unwrap().moved, 2);
    assert!(objects.iter().all(is_right));
}

#[test]
fn a_closed_secret_whose_end_nobody_has_come_to_keeps_no_key() {
    let _guard = TestGuard::new();
    let machinery = machinery(Settings::default());
    let object = make(&machinery, 32);
    // As a close without patience that met a mover's window.
    object.header().gate.close();
    machinery.refresh().unwrap();
    machinery.finish_refresh(SECOND).unwrap();
    assert!(object.header().gate.is_final());
    assert_eq!((machinery.status().keys, machinery.status().secrets), (1, 0));
}

#[test]
fn a_creation_whose_source_takes_long_keeps_no_key() {
    let _guard = TestGuard::new();
    let machinery = machinery(Settings::default());
    let mut moved = Err(Error::Closed);
    let object = make_with(&machinery, 32, || {
        for _ in 0..2 * LIVE {
            machinery.refresh().unwrap();
        }
        moved = machinery.finish_refresh(SECOND / 10);
    })
    .unwrap();
    assert_eq!(moved, Ok(Refreshed::default()));
    assert_eq!(object.status().epoch, 1 + 2 * LIVE as u64);
    let purged = make_with(&machinery, 32, || machinery.purge().unwrap()).unwrap();
    assert!(is_right(&purged));
    assert_eq!(object.open().err(), Some(Error::Purged));
    drop((object, purged));
    machinery.refresh().unwrap();
    assert_eq!((machinery.status().keys, machinery.status().secrets), (1, 0));
}

#[test]
fn a_key_that_has_sealed_as_often_as_is_safe_seals_no_more() {
    let _guard = TestGuard::new();
    let machinery = machinery(Settings::default());
    machinery.ledger.allow_seals(3);
    let object = make(&machinery, 32);
    let _others = [make(&machinery, 32), make(&machinery, 2000)];
    let refused = make_with(&machinery, 32, || ()).err();
    assert_eq!(refused, Some(Error::KeyUsedUp { limit: 3 }));
    // Nor does a change, which leaves the old value.
    let change = object.open_mut(SECOND).unwrap();
    assert_eq!(change.commit().err(), Some(Error::KeyUsedUp { limit: 3 }));
    assert!(is_right(&object));
    machinery.ledger.allow_seals(100);
    machinery.refresh().unwrap();
    assert!(is_right(&make(&machinery, 32)));
    machinery.finish_refresh(SECOND).unwrap();
    assert_eq!(machinery.status().keys, 1);
}

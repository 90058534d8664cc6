//! Secrets in statics, which nobody drops: what becomes of them at the end of the process.
#![cfg(unix)]
#![allow(unsafe_code, clippy::unwrap_used, reason = "tests end by panics; the end of a process is raw calls")]

mod common;

use std::sync::{Mutex, OnceLock};

use common::{Ending, Needle, case, look};
use securememory::fault::{self, FaultPolicy};
use securememory::{Closed, Error, Secret, Store};

const LEN: usize = 64;
/// The exit code of a process in which all was as it should be, at the very end.
const RIGHT: i32 = 7;

fn at_exit(function: extern "C" fn()) {
    // SAFETY: a function that lives as long as the process.
    assert_eq!(unsafe { libc::atexit(function) }, 0);
}

static KEPT: OnceLock<[Secret; 2]> = OnceLock::new();
/// Where the paged one lies.
static AT: Mutex<(usize, usize)> = Mutex::new((0, 0));

fn needle() -> Needle {
    Needle::new(77, LEN)
}

fn keep_in_a_static() {
    let in_store = |store| {
        let made = Secret::builder().store(store).init_with(LEN, |room| needle().write(room, 0));
        made.unwrap()
    };
    let kept = KEPT.get_or_init(|| [in_store(Store::Sealed), in_store(Store::Paged)]);
    let place = kept[1].status().at_rest.unwrap();
    *AT.lock().unwrap() = (place.address, place.len);
}

/// Does the paged secret lie there still, whoever may read it?
fn paged_is_there() -> bool {
    let (address, len) = *AT.lock().unwrap();
    let mut bytes = look(address, len).unwrap();
    let there = needle().is(&bytes);
    bytes.fill(0);
    there
}

/// At the very end, after all that others have registered.
fn exit_if(right: bool) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(if right { RIGHT } else { 1 }) }
}

extern "C" fn both_are_wiped() {
    let gone = |secret: &Secret| secret.view().err() == Some(Error::Dying);
    exit_if(!paged_is_there() && KEPT.get().unwrap().iter().all(gone));
}

extern "C" fn both_are_there() {
    let there = |secret: &Secret| secret.with(|bytes| needle().is(bytes)) == Ok(true);
    exit_if(paged_is_there() && KEPT.get().unwrap().iter().all(there));
}

extern "C" fn both_are_closed() {
    let gone = |secret: &Secret| secret.view().err() == Some(Error::Closed);
    exit_if(!paged_is_there() && KEPT.get().unwrap().iter().all(gone));
}

#[test]
fn a_secret_in_a_static_is_wiped_at_exit_where_faults_are_handled() {
    let this = "a_secret_in_a_static_is_wiped_at_exit_where_faults_are_handled";
    case(this).without_guard("it is never dropped").ending(Ending::Code(RIGHT)).run(|| {
        at_exit(both_are_wiped);
        fault::install(FaultPolicy::Abort).unwrap().keep();
        keep_in_a_static();
    });
}

#[test]
fn a_secret_in_a_static_is_left_at_exit_where_they_are_not() {
    let this = "a_secret_in_a_static_is_left_at_exit_where_they_are_not";
    case(this).without_guard("it is never dropped").ending(Ending::Code(RIGHT)).run(|| {
        at_exit(both_are_there);
        keep_in_a_static();
    });
}

/// What a program can do by itself, without handling faults.
#[test]
fn a_secret_in_a_static_can_be_closed() {
    let this = "a_secret_in_a_static_can_be_closed";
    case(this).without_guard("it is never dropped").ending(Ending::Code(RIGHT)).run(|| {
        at_exit(both_are_closed);
        keep_in_a_static();
        KEPT.get().unwrap().iter().for_each(|secret| assert_eq!(secret.close().unwrap(), Closed::Closed));
    });
}

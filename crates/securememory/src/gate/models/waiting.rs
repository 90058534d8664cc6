//! Models of sleeping and waking: a wake that is lost is a deadlock, since no time passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use loom::thread;

use super::{fails, holds, never};
use crate::gate::Gate;
use crate::sync::Flaw;

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Threads that are let in one after the other, and sleep until it is their turn.
fn turns(threads: usize) {
    let gate = Arc::new((Gate::new(), AtomicUsize::new(0)));
    let turn = |gate: &(Gate, AtomicUsize)| {
        gate.0.begin_write_sealed(never()).unwrap();
        assert_eq!(gate.1.fetch_add(1, Relaxed), 0, "two writers at once");
        gate.1.fetch_sub(1, Relaxed);
        gate.0.end_write_sealed();
    };
    let others: Vec<_> = (1..threads)
        .map(|_| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || turn(&gate))
        })
        .collect();
    turn(&gate);
    join(others);
}

#[test]
fn two_take_turns() {
    holds("waiting, 2 take turns", 4, || turns(2));
}

#[test]
fn three_take_turns() {
    holds("waiting, 3 take turns", 2, || turns(3));
}

#[test]
fn turns_broken() {
    for flaw in [Flaw::NobodyWakes, Flaw::NoSecondLook, Flaw::NoEvent] {
        fails("waiting, turns", Some(flaw), 3, &["deadlock"], || turns(2));
    }
}

/// One sleeps until the writer is done, while another changes something else and wakes in vain.
fn vain_wakes() {
    let gate = Arc::new(Gate::new());
    gate.begin_write_sealed(never()).unwrap();
    let (writer, other) = (Arc::clone(&gate), Arc::clone(&gate));
    let threads = [thread::spawn(move || writer.end_write_sealed()), thread::spawn(move || other.revoke())];
    gate.begin_write_sealed(never()).unwrap();
    join(threads);
}

#[test]
fn wakes_in_vain() {
    holds("waiting, a wake in vain", 4, vain_wakes);
}

#[test]
fn wakes_in_vain_broken() {
    for flaw in [Flaw::NobodyWakes, Flaw::NoSecondLook, Flaw::NoEvent, Flaw::ClearsLate] {
        fails("waiting, a wake in vain", Some(flaw), 4, &["deadlock"], vain_wakes);
    }
}

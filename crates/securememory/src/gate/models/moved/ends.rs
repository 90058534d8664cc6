//! The same with an end of the secret.

use super::{SIGNS, Secret, Steps, spawn};
use crate::gate::models::{fails, holds, join};

fn view(secret: &Secret) {
    secret.read();
    secret.end_left();
}

/// `patient`: waits for readers, else leaves the old record in limbo.
fn mover(secret: &Secret, patient: bool) {
    secret.move_record(patient);
    if secret.steps != Steps::LeavesTheEnd {
        secret.end_left();
    }
}

// ---- a writer, a mover and a closer ----

fn writer_mover_and_closer(steps: Steps) {
    let secret = Secret::new(steps, 3);
    let threads = [spawn(&secret, Secret::write), spawn(&secret, |secret| mover(secret, true))];
    secret.close(true);
    join(threads);
    secret.rest(None);
}

#[test]
fn a_writer_a_mover_and_a_closer() {
    holds("moved, writer, mover, closer", 2, || writer_mover_and_closer(Steps::Right));
}

#[test]
fn a_writer_a_mover_and_a_closer_broken() {
    let steps = || writer_mover_and_closer(Steps::SignsInForAnother);
    fails("moved, a mover with an id, closer", None, 2, SIGNS, steps);
}

// ---- a reader, a mover that does not wait, and a closer ----

fn reader_hasty_mover_and_closer(steps: Steps) {
    let secret = Secret::new(steps, 2);
    let threads = [spawn(&secret, view), spawn(&secret, |secret| mover(secret, false))];
    secret.close(true);
    join(threads);
    secret.rest(None);
}

#[test]
fn a_reader_a_hasty_mover_and_a_closer() {
    holds("moved, reader, hasty mover, closer", 2, || reader_hasty_mover_and_closer(Steps::Right));
}

// ---- all of them ----

#[test]
fn a_reader_a_writer_a_mover_and_a_closer() {
    holds("moved, reader, writer, mover, closer", 1, || {
        let secret = Secret::new(Steps::Right, 3);
        let mover = spawn(&secret, |secret| mover(secret, true));
        let threads = [spawn(&secret, view), spawn(&secret, Secret::write), mover];
        secret.close(true);
        join(threads);
        secret.rest(None);
    });
}

// ---- a mover and a closer that does not wait ----

fn mover_and_hasty_closer(steps: Steps) {
    let secret = Secret::new(steps, 2);
    let threads = [spawn(&secret, |secret| mover(secret, true))];
    secret.close(false);
    join(threads);
    secret.rest(None);
}

#[test]
fn a_mover_and_a_closer_that_does_not_wait() {
    holds("moved, mover, hasty closer", 4, || mover_and_hasty_closer(Steps::Right));
}

#[test]
fn a_mover_and_a_closer_that_does_not_wait_broken() {
    let steps = || mover_and_hasty_closer(Steps::LeavesTheEnd);
    fails("moved, the end left to nobody", None, 3, &["number of ends"], steps);
}

//! A vault is closed under 32 threads of load, some of which never give back what they hold: the close ends in time, tells
//! what is outstanding, leaves nothing readable, and in the end everything is given back.
//!
//! SECUREMEMORY_SHUTDOWN_ROUNDS says how often, in all cases together.
#![cfg(any(target_os = "linux", windows))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "forks, looks at memory, and fails by panics"
)]

#[cfg_attr(windows, path = "common/windows.rs")]
mod common;
mod shutdown {
    use super::common;

    pub mod crowd;
    pub mod holders;
    pub mod round;
}

use std::time::Duration;

use common::case;
use shutdown::round::{Beside, rounds};

fn run(name: &'static str, beside: Beside, part: u64) {
    // In the ordinary run 50 in all.
    let all = std::env::var("SECUREMEMORY_SHUTDOWN_ROUNDS").map_or(50, |text| text.parse().unwrap());
    let count = (all * part / 50).max(1);
    let deadline = Duration::from_secs(60 + 20 * count);
    case(name).deadline(deadline).shown().run(|| rounds(beside, count));
}

#[test]
fn under_load() {
    run("under_load", Beside::Nothing, 18);
}

#[test]
fn while_keys_turn_over_and_are_purged() {
    run("while_keys_turn_over_and_are_purged", Beside::Keys, 10);
}

#[test]
fn with_a_janitor() {
    run("with_a_janitor", Beside::Janitor, 6);
}

#[cfg(target_os = "linux")]
#[test]
fn while_the_process_forks() {
    run("while_the_process_forks", Beside::Forks, 6);
}

#[test]
fn while_another_thread_closes_too() {
    run("while_another_thread_closes_too", Beside::Close, 10);
}

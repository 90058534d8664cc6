//! Random programs against a plain model of what must happen: same results, same bytes, nothing to be seen that the model
//! says is wiped, no hang, and everything given back in the end.
//!
//! A program that fails is made as short as it can be and printed; SECUREMEMORY_MODEL_SEED runs it again.
//! SECUREMEMORY_MODEL_PROGRAMS says how many are run in each of the cases, SECUREMEMORY_MODEL_SECONDS how long at most.
#![cfg(any(target_os = "linux", windows))]
#![cfg_attr(windows, allow(dead_code, reason = "there are no forks"))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::mem_forget,
    reason = "forks, looks at memory, forgets views on purpose"
)]

#[cfg_attr(windows, path = "common/windows.rs")]
mod common;
mod model {
    use super::common;

    pub mod actors;
    #[cfg(target_os = "linux")]
    pub mod child;
    pub mod driver;
    pub mod ending;
    pub mod ends;
    pub mod making;
    pub mod places;
    pub mod program;
    pub mod reference;
    pub mod run;
    pub mod streams;
    pub mod values;
    pub mod views;
}

use common::case;
use model::driver::{self, HOLDS};
use securememory::{Hold, Store};

fn run(name: &'static str, holds: &[Hold], stores: &[Store]) {
    case(name).deadline(driver::deadline()).shown().run(|| driver::run(name, holds, stores));
}

#[test]
fn sealed_secrets_do_what_the_model_says() {
    run("sealed_secrets_do_what_the_model_says", &HOLDS, &[Store::Sealed]);
}

#[test]
fn paged_and_mixed_secrets_do_what_the_model_says() {
    let stores = [Store::Paged, Store::Auto, Store::Paged];
    run("paged_and_mixed_secrets_do_what_the_model_says", &HOLDS, &stores);
}

#[test]
fn threads_see_what_the_model_allows() {
    let name = "threads_see_what_the_model_allows";
    let stores = [Store::Sealed, Store::Paged];
    case(name).deadline(driver::deadline()).shown().run(|| driver::run_actors(name, &stores));
}

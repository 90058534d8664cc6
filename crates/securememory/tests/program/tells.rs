//! A handler that was there before ours, and what it finds when it is called.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use securememory::fault;
use securememory::{Error, Secret};

use super::Line;

/// The secret that is looked at.
pub static SECRET: OnceLock<Secret> = OnceLock::new();

/// Says what is known of the fault, and whether the secrets are there.
pub extern "C" fn tells(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    let report = fault::last_fault();
    let done = report.map_or("none", |report| match report.done {
        fault::Done::Wiped => "wiped",
        fault::Done::PassedOn => "passed on",
        fault::Done::Asked => "asked",
        _ => "?",
    });
    // In a handler, but the thread was in the program's own code, and holds nothing.
    let secret = match SECRET.get().unwrap().ct_eq_bytes(&[7; 64]) {
        Ok(true) => "whole",
        Ok(false) => "WRONG",
        Err(Error::Dying) => "wiped",
        Err(_) => "an error",
    };
    Line::new().text("handler: ").text(done).text(", ").text(secret).say();
    // SAFETY: a valid action.
    unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
}

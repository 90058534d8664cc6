//! Limits of a program that is going to be executed, and its end: for tests in processes of their own. Feature `testing` only.

// Reason: what runs between fork and exec, and the C library's numbers of limits.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

/// The effective user. geteuid(2)
pub(crate) fn user() -> u32 {
    // SAFETY: asks for a number.
    unsafe { libc::geteuid() }
}

/// May this process set this limit (number and value) to that, soft and hard? getrlimit(2)
pub(crate) fn may_set((resource, value): (u32, u64)) -> bool {
    user() == 0 || hard_limit(resource).is_some_and(|hard| value <= hard)
}

/// Has these limits set, soft and hard, when the program is executed. setrlimit(2)
pub(crate) fn set_before_exec(command: &mut Command, limits: Vec<(u32, u64)>) {
    let set = move || {
        limits.iter().try_for_each(|&(resource, value)| match set_limit(resource, value) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    };
    // SAFETY: between fork and exec one system call is made for each, which allocates nothing and takes no lock.
    unsafe { command.pre_exec(set) };
}

/// prlimit(2), by number: in 64 bits on every processor.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn hard_limit(resource: u32) -> Option<u64> {
    let mut now = [0_u64; 2];
    // SAFETY: writes two numbers that live over the call.
    let known = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, 0_usize, &raw mut now) } == 0;
    known.then_some(now[1])
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn set_limit(resource: u32, value: u64) -> std::ffi::c_long {
    let wanted = [value; 2];
    // SAFETY: reads two numbers that live over the call.
    unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const wanted, 0_usize) }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[allow(clippy::unnecessary_cast, reason = "some systems count with a sign")]
fn hard_limit(resource: u32) -> Option<u64> {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one structure that lives over the call.
    let known = unsafe { libc::getrlimit(resource as _, &raw mut now) } == 0;
    known.then_some(now.rlim_max as u64)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn set_limit(resource: u32, value: u64) -> std::ffi::c_int {
    let wanted = libc::rlimit { rlim_cur: value as _, rlim_max: value as _ };
    // SAFETY: reads one structure that lives over the call.
    unsafe { libc::setrlimit(resource as _, &raw const wanted) }
}

/// Ends the process without exit handlers. _exit(2)
pub(crate) fn exit_at_once(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

//! Limits of a program that is going to be executed, and its end: for tests in processes of their own. Feature `testing` only.

// Reason: what runs between fork and exec, and the C library's numbers of limits.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

/// May this process set this limit (number and value) to that, soft and hard? getrlimit(2)
#[allow(clippy::unnecessary_cast, reason = "some systems count with a sign")]
pub(crate) fn may_set((resource, value): (u32, u64)) -> bool {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one structure that lives over the call.
    let known = unsafe { libc::getrlimit(resource as _, &raw mut now) } == 0;
    // SAFETY: asks for a number.
    let is_root = unsafe { libc::geteuid() } == 0;
    is_root || (known && value <= now.rlim_max as u64)
}

/// Has these limits set, soft and hard, when the program is executed. setrlimit(2)
pub(crate) fn set_before_exec(command: &mut Command, limits: Vec<(u32, u64)>) {
    let set = move || {
        limits.iter().try_for_each(|&(resource, value)| {
            let wanted = libc::rlimit { rlim_cur: value as _, rlim_max: value as _ };
            // SAFETY: reads one structure that lives over the call.
            match unsafe { libc::setrlimit(resource as _, &raw const wanted) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        })
    };
    // SAFETY: between fork and exec only setrlimit(2) is called, which allocates nothing and takes no lock.
    unsafe { command.pre_exec(set) };
}

/// Ends the process without exit handlers. _exit(2)
pub(crate) fn exit_at_once(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

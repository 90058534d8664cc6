//! Limits of a program that is going to be executed, and its end: for tests in processes of their own. Feature `testing` only.

// Reason: what runs between fork and exec, and the C library's numbers of limits.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

/// May this process set this limit (number and value) to that, soft and hard? prlimit(2), by number: in 64 bits on every
/// processor.
pub(crate) fn may_set((resource, value): (u32, u64)) -> bool {
    let mut now = [0_u64; 2];
    // SAFETY: writes two numbers that live over the call.
    let known = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, 0_usize, &raw mut now) } == 0;
    rustix::process::geteuid().is_root() || (known && value <= now[1])
}

/// Has these limits set, soft and hard, when the program is executed. prlimit(2)
pub(crate) fn set_before_exec(command: &mut Command, limits: Vec<(u32, u64)>) {
    let set = move || {
        limits.iter().try_for_each(|&(resource, value)| {
            let wanted = [value; 2];
            // SAFETY: reads two numbers that live over the call.
            match unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const wanted, 0_usize) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        })
    };
    // SAFETY: between fork and exec only prlimit(2) is called, which allocates nothing and takes no lock.
    unsafe { command.pre_exec(set) };
}

/// Ends the process without exit handlers. _exit(2)
pub(crate) fn exit_at_once(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

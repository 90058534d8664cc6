//! What is asked of the kernel by number: the C library hides signals that it uses itself. Dying, as all of [`super`].

// Reason: system calls; every block says why it is sound.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long};

use super::super::linux::keeping_errno;
use super::{Info, Mask};

/// A set of the C library is at least the kernel's 64 bits, in its first bytes.
pub(super) fn mask_of(set: &libc::sigset_t) -> Mask {
    // SAFETY: as said.
    unsafe { std::ptr::from_ref(set).cast::<Mask>().read_unaligned() }
}

pub(super) fn put_mask(mask: Mask, set: &mut libc::sigset_t) {
    // SAFETY: as in `mask_of`.
    unsafe { std::ptr::from_mut(set).cast::<Mask>().write_unaligned(mask) };
}

/// The number of a process or thread, as an argument of a system call: one word, of whatever width. What is wider takes two
/// places among the arguments where a word has 32 bits.
fn number(id: u32) -> c_long {
    id as c_long
}

pub(super) fn change_mask(how: c_int, mask: Mask) -> Option<Mask> {
    let mut before: Mask = 0;
    // SAFETY: both sets are of the size given, and live over the call.
    keeping_errno(|| unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            c_long::from(how),
            &raw const mask,
            &raw mut before,
            size_of::<Mask>(),
        )
    })
    .ok()
    .map(|_| before)
}

/// Sends a signal to this thread with the very words that came with it. rt_tgsigqueueinfo(2)
///
/// # Safety
///
/// `info` is what a handler was called with.
pub(crate) unsafe fn send_again(signal: c_int, info: *const Info) -> bool {
    let (process, thread) = (number(crate::os::process_id()), number(crate::os::thread_id() as u32));
    // SAFETY: as the caller vouches. A process may send itself any words.
    keeping_errno(|| unsafe {
        libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, thread, c_long::from(signal), info)
    })
    .is_ok()
}

/// Is there a thread of this number in this process? tgkill(2)
pub(crate) fn is_thread(thread: u32) -> bool {
    let process = number(crate::os::process_id());
    // SAFETY: numbers only; nothing is sent.
    keeping_errno(|| unsafe { libc::syscall(libc::SYS_tgkill, process, number(thread), 0 as c_long) })
        != Err(libc::ESRCH)
}

/// Sends a signal to this thread. tgkill(2)
pub(crate) fn send(signal: c_int) -> bool {
    let (process, thread) = (number(crate::os::process_id()), number(crate::os::thread_id() as u32));
    // SAFETY: numbers only.
    keeping_errno(|| unsafe { libc::syscall(libc::SYS_tgkill, process, thread, c_long::from(signal)) })
        .is_ok()
}

/// Ends the process as an uncaught signal does that no other way has led to. kill(2), exit_group(2)
pub(crate) fn end_now(signal: c_int) -> ! {
    loop {
        // SAFETY: numbers only; it does not return.
        unsafe { libc::syscall(libc::SYS_exit_group, c_long::from(signal.wrapping_add(128))) };
    }
}

//! Linux as a plain Unix system, so that [`super::posix`] can be tested: `--cfg securememory_posix`. Threads nap where they
//! would sleep on a word, signals are sent on without what came with them, nothing is told about pages.

// Reason: functions of the C library; every block says why it is sound.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use super::posix::keeping_errno;
// For the layout of a frame, which is the one of Linux.
use super::signals::{Attempt, Mask, change_mask, mask_of, put_mask};
use super::{Advice, Call, CallError, CallResult};

#[path = "linux/codes.rs"]
pub(super) mod codes;
#[allow(dead_code, reason = "only what POSIX does not say is taken from it")]
#[path = "signals/frame.rs"]
mod frame;
#[allow(dead_code, reason = "as above")]
#[path = "signals/machine.rs"]
mod machine;

pub(super) const NAME: &str = "posix";
pub(super) const WIPES_ON_FORK: bool = !cfg!(securememory_posix_absent);
pub(super) const LEAVES_OUT_OF_DUMPS: bool = !cfg!(securememory_posix_absent);
pub(super) const SLEEPS_ON_WORDS: bool = false;

pub(super) const MAP_FLAGS: c_int = 0;
/// `SA_RESTORER`.
pub(super) const FLAGS_OF_ITS_OWN: c_int = 0x0400_0000;
pub(super) const COARSE: libc::clockid_t = libc::CLOCK_MONOTONIC_COARSE;
pub(super) const BOOT: libc::clockid_t = libc::CLOCK_BOOTTIME;

#[inline]
pub(super) fn errno_place() -> *mut c_int {
    // SAFETY: gives an address that is valid while the thread lives, and used by this thread only.
    unsafe { libc::__errno_location() }
}

pub(super) unsafe fn advise(ptr: NonNull<u8>, len: usize, advice: Advice) -> CallResult<()> {
    let advice = match advice {
        Advice::WipeOnFork | Advice::DontDump if cfg!(securememory_posix_absent) => {
            return Err(CallError::new(Call::Madvise, libc::ENOTSUP));
        }
        Advice::DontDump => libc::MADV_DONTDUMP,
        Advice::WipeOnFork => libc::MADV_WIPEONFORK,
        Advice::DontFork => libc::MADV_DONTFORK,
        Advice::Unmergeable => libc::MADV_UNMERGEABLE,
    };
    // SAFETY: none of these changes contents in this process; the pages are the caller's.
    keeping_errno(|| unsafe { libc::madvise(ptr.as_ptr().cast(), len, advice) }.into())
        .map(drop)
        .map_err(|errno| CallError::new(Call::Madvise, errno))
}

pub(super) unsafe fn locked(_: NonNull<u8>, _: usize) {}

pub(super) unsafe fn try_guard(_: NonNull<u8>, _: usize) -> CallResult<()> {
    Err(CallError::new(Call::Madvise, libc::ENOTSUP))
}

pub(super) fn thread_id() -> u64 {
    // SAFETY: asks for a number.
    unsafe { libc::gettid() }.unsigned_abs().into()
}

pub(super) fn is_thread(thread: u32) -> bool {
    // SAFETY: numbers only; nothing is sent.
    keeping_errno(|| unsafe {
        libc::syscall(libc::SYS_tgkill, c_long::from(libc::getpid()), c_long::from(thread), 0 as c_long)
    }) != Err(libc::ESRCH)
}

pub(super) fn real_time() -> Option<(c_int, c_int)> {
    Some((libc::SIGRTMIN(), libc::SIGRTMAX()))
}

pub(super) fn wait_on(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    super::posix::nap_on(word, expected, timeout);
}

/// Who naps sees by itself that the word has changed.
pub(super) fn wake_all(_: &AtomicU32) {}

pub(super) type SetWord = libc::c_ulong;

pub(super) type Context = libc::ucontext_t;

/// # Safety
///
/// `context` is one, or of zeros.
pub(super) unsafe fn mask_in(context: *mut Context) -> *mut libc::sigset_t {
    // SAFETY: inside of it.
    unsafe { &raw mut (*context).uc_sigmask }
}

/// # Safety
///
/// `context` is what a handler was called with, or was made by us.
pub(super) unsafe fn stack_pointer(context: *const Context) -> Option<usize> {
    // SAFETY: as the caller vouches.
    unsafe { frame::interrupted_stack(context.cast()) }
}

/// # Safety
///
/// `context` is what a handler was called with for an access fault.
pub(super) unsafe fn attempt(context: *const Context) -> Attempt {
    // SAFETY: as the caller vouches.
    unsafe { machine::attempt(context.cast()) }
}

/// # Safety
///
/// `context` is what a handler was called with, and what was interrupted does not need them.
pub(super) unsafe fn wipe_vectors(context: *mut Context) {
    // SAFETY: as the caller vouches.
    unsafe { machine::wipe_vectors(context.cast()) }
}

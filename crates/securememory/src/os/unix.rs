//! What the C library does in the same way on all Unix systems, Linux included.

// Reason: functions of the C library; every block says why it is sound.
#![allow(unsafe_code)]

use super::sys::errno_place;
use super::{Call, CallError, CallResult};
use std::ffi::c_long;
use std::mem::MaybeUninit;

/// sysconf(3), which is async-signal-safe.
pub(super) fn page_size() -> usize {
    // SAFETY: asks for a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // It is always told; if not, whole pages of this size are whole pages of all usual ones.
    usize::try_from(size).unwrap_or(64 << 10)
}

/// Runs `run` with all signals blocked but those that are raised by what a thread itself does: a thread made in it
/// begins like that.
pub(super) fn with_signals_blocked<T>(run: impl FnOnce() -> CallResult<T>) -> CallResult<T> {
    let mut wanted = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigfillset` writes the whole set, which then is changed and read in place; `before` is written by
    // the call that succeeds.
    unsafe {
        libc::sigfillset(wanted.as_mut_ptr());
        for own in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS] {
            libc::sigdelset(wanted.as_mut_ptr(), own);
        }
        match libc::pthread_sigmask(libc::SIG_BLOCK, wanted.as_ptr(), before.as_mut_ptr()) {
            0 => {}
            errno => return Err(CallError::new(Call::Sigprocmask, errno)),
        }
    }
    let result = run();
    // SAFETY: the mask that was found above; restoring a valid mask cannot fail.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    result
}

pub(super) fn on_fork(
    prepare: extern "C" fn(),
    parent: extern "C" fn(),
    child: extern "C" fn(),
) -> CallResult<()> {
    // SAFETY: the functions live as long as the program; that they suit the time around a fork is theirs to
    // see to.
    match unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) } {
        0 => Ok(()),
        errno => Err(CallError::new(Call::Atfork, errno)),
    }
}

/// Makes a call of the C library that reports by -1 and `errno`, and leaves `errno` as it was: these calls
/// are made in signal handlers too.
#[inline]
pub(super) fn keeping_errno(make: impl FnOnce() -> c_long) -> Result<c_long, i32> {
    let errno = errno_place();
    // SAFETY: this thread's own.
    let before = unsafe { errno.read() };
    let result = make();
    if result != -1 {
        return Ok(result);
    }
    // SAFETY: see above.
    let reason = unsafe { errno.replace(before) };
    Err(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_stays_as_it_was() {
        let failing = || {
            // SAFETY: there is no descriptor -1.
            c_long::from(unsafe { libc::close(-1) })
        };
        failing();
        let before = std::io::Error::last_os_error().raw_os_error();
        assert_eq!(before, Some(libc::EBADF));
        // SAFETY: asks for a signal number that does not exist.
        let other = || c_long::from(unsafe { libc::kill(0, -1) });
        assert_eq!(keeping_errno(other), Err(libc::EINVAL));
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), before);
        assert_eq!(keeping_errno(|| 5), Ok(5));
    }
}

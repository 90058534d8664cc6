//! Changing files under a limit on file sizes without dying of it.

// Reason: signal masks by system call; every block says why it is sound.
#![allow(unsafe_code)]

use crate::os::unix::keeping_errno;
use crate::os::{Call, CallError, CallResult};

/// Words in the kernel's set of signals. MIPS counts 128 signals, all others 64; the C library's set is
/// larger.
const SIGNAL_WORDS: usize = (if cfg!(any(target_arch = "mips", target_arch = "mips64")) { 16 } else { 8 })
    / size_of::<libc::c_ulong>();
const WORD_BITS: usize = libc::c_ulong::BITS as usize;
const SIGXFSZ_BIT: usize = libc::SIGXFSZ as usize - 1;

type SignalSet = [libc::c_ulong; SIGNAL_WORDS];

static ONLY_SIGXFSZ: SignalSet = {
    let mut set = [0; SIGNAL_WORDS];
    set[SIGXFSZ_BIT / WORD_BITS] = 1 << (SIGXFSZ_BIT % WORD_BITS);
    set
};

fn has_sigxfsz(set: &SignalSet) -> bool {
    set[SIGXFSZ_BIT / WORD_BITS] & ONLY_SIGXFSZ[SIGXFSZ_BIT / WORD_BITS] != 0
}

/// Runs a call that changes a file, such that a limit on file sizes is an EFBIG and no more. Dying.
///
/// A write at or past RLIMIT_FSIZE, also inside the file, raises SIGXFSZ in this thread, and that kills. So
/// the signal is blocked meanwhile, and taken back if the call raised it, before the mask is restored. One
/// that was pending before is the host's and stays. rt_sigprocmask(2), rt_sigpending(2), rt_sigtimedwait(2),
/// by number: the functions of the C library hide the signals that it uses itself, so with them the mask
/// would not be restored exactly.
pub(super) fn without_sigxfsz<T>(call: impl FnOnce() -> CallResult<T>) -> CallResult<T> {
    crate::os::injected(Call::Sigprocmask)?;
    let refused = |errno| CallError::new(Call::Sigprocmask, errno);
    let mut before: SignalSet = [0; SIGNAL_WORDS];
    // SAFETY: both sets are of the size given, and live over the call.
    keeping_errno(|| unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_BLOCK,
            &raw const ONLY_SIGXFSZ,
            &raw mut before,
            size_of::<SignalSet>(),
        )
    })
    .map_err(refused)?;
    // Only a signal that was blocked before can have been pending before: a filter of system calls need not
    // allow this one for ordinary hosts.
    let was_pending = has_sigxfsz(&before) && sigxfsz_pending();
    let result = call();
    if matches!(result, Err(CallError { errno: libc::EFBIG, .. })) && !was_pending {
        take_sigxfsz();
    }
    // SAFETY: the set is of the size given, and lives over the call; the old mask is not asked for.
    let restored = keeping_errno(|| unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const before,
            std::ptr::null_mut::<SignalSet>(),
            size_of::<SignalSet>(),
        )
    });
    let value = result?;
    restored.map_err(refused)?;
    Ok(value)
}

fn sigxfsz_pending() -> bool {
    let mut pending: SignalSet = [0; SIGNAL_WORDS];
    // SAFETY: the set is of the size given, and lives over the call.
    let asked = keeping_errno(|| unsafe {
        libc::syscall(libc::SYS_rt_sigpending, &raw mut pending, size_of::<SignalSet>())
    });
    asked.is_ok() && has_sigxfsz(&pending)
}

fn take_sigxfsz() {
    // Zero seconds, whichever of its two layouts the kernel's timespec has here: do not wait.
    let now = [0_u64; 2];
    // SAFETY: the set is of the size given; set and time live over the call; nothing about the signal is
    // asked for. None pending is an error that tells nothing new.
    let _ = keeping_errno(|| unsafe {
        libc::syscall(
            libc::SYS_rt_sigtimedwait,
            &raw const ONLY_SIGXFSZ,
            std::ptr::null_mut::<libc::siginfo_t>(),
            &raw const now,
            size_of::<SignalSet>(),
        )
    });
}

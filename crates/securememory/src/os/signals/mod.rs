//! Signals: what is installed for them, what of a delivery is to be read, and the few calls that a handler makes.
//!
//! All functions here are dying ones: async-signal-safe, without allocation, lock or thread-local.

// Reason: system calls, and what the kernel has put on the stack; every block says why it is sound.
#![allow(unsafe_code)]

#[cfg(all(any(target_os = "linux", target_os = "android"), not(securememory_posix)))]
mod frame;
#[cfg(all(any(target_os = "linux", target_os = "android"), not(securememory_posix)))]
mod machine;
#[cfg(all(any(target_os = "linux", target_os = "android"), not(securememory_posix)))]
mod memory;
mod origin;
#[cfg(all(any(target_os = "linux", target_os = "android"), not(securememory_posix)))]
mod raw;

#[cfg(all(any(target_os = "linux", target_os = "android"), not(securememory_posix)))]
pub(crate) use frame::*;
#[cfg(all(any(target_os = "linux", target_os = "android"), not(securememory_posix)))]
pub(crate) use machine::*;
#[cfg(all(any(target_os = "linux", target_os = "android"), not(securememory_posix)))]
pub(crate) use memory::*;
pub(crate) use origin::*;
#[cfg(all(any(target_os = "linux", target_os = "android"), not(securememory_posix)))]
pub(crate) use raw::*;

#[cfg(not(all(any(target_os = "linux", target_os = "android"), not(securememory_posix))))]
pub(crate) use super::posix::signals::*;

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;

use super::sys::{self, keeping_errno};
use super::{Call, CallError, CallResult};

/// What a handler is called with.
pub(crate) type Info = libc::siginfo_t;

/// A function that the kernel calls.
pub(crate) type Function = extern "C" fn(c_int, *mut Info, *mut c_void);

/// Numbers of signals.
pub(crate) mod numbers {
    pub(crate) use libc::{
        SIGALRM, SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGIO, SIGPIPE, SIGPROF, SIGQUIT, SIGTERM, SIGTSTP,
        SIGTTIN, SIGTTOU, SIGURG, SIGUSR1, SIGUSR2, SIGVTALRM, SIGWINCH, SIGXCPU, SIGXFSZ,
    };
}

/// Is it an ordinary signal that a handler can be installed for?
pub(crate) fn can_be_handled(signal: c_int) -> bool {
    (1..32).contains(&signal) && signal != libc::SIGKILL && signal != libc::SIGSTOP
}

/// Signals 1 to 64, as bits 0 to 63.
pub(crate) type Mask = u64;

/// Signals are numbered from 1 to this.
pub(crate) const MAX_SIGNAL: usize = 64;

/// What is done about a signal. sigaction(2)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Action {
    /// `SIG_DFL`, `SIG_IGN`, or the address of a function.
    pub(crate) handler: usize,
    pub(crate) flags: c_int,
    pub(crate) mask: Mask,
}

impl Action {
    pub(crate) const DEFAULT: Self = Self { handler: libc::SIG_DFL, flags: 0, mask: 0 };

    pub(crate) fn is_default(&self) -> bool {
        self.handler == libc::SIG_DFL
    }

    pub(crate) fn is_ignored(&self) -> bool {
        self.handler == libc::SIG_IGN
    }

    pub(crate) fn is_function(&self) -> bool {
        self.handler != libc::SIG_DFL && self.handler != libc::SIG_IGN
    }

    pub(crate) fn has(&self, flag: c_int) -> bool {
        self.flags & flag != 0
    }

    fn from_c(action: &libc::sigaction) -> Self {
        let flags = action.sa_flags & !sys::FLAGS_OF_ITS_OWN;
        Self { handler: action.sa_sigaction, flags, mask: mask_of(&action.sa_mask) }
    }

    fn to_c(self) -> libc::sigaction {
        // SAFETY: numbers and a pointer that the C library sets itself, for which zero is right.
        let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
        action.sa_sigaction = self.handler;
        action.sa_flags = self.flags;
        put_mask(self.mask, &mut action.sa_mask);
        action
    }
}

/// What is done about a signal now. sigaction(2)
pub(crate) fn action(signal: c_int) -> CallResult<Action> {
    super::injected(Call::Sigaction)?;
    look(signal)
}

/// The same, and the fault injector does not see it.
#[cfg(feature = "testing")]
pub(crate) fn look_at_action(signal: c_int) -> Option<Action> {
    look(signal).ok()
}

/// Has something else done about a signal; what was done before. sigaction(2)
pub(crate) fn set_action(signal: c_int, action: Action) -> CallResult<Action> {
    super::injected(Call::Sigaction)?;
    let (new, mut old) = (action.to_c(), MaybeUninit::<libc::sigaction>::zeroed());
    // SAFETY: both live over the call. That a function suits the signal is for its owner to say: it is our own, or was
    // installed before.
    keeping_errno(|| unsafe { libc::sigaction(signal, &raw const new, old.as_mut_ptr()) }.into())
        .map_err(|errno| CallError::new(Call::Sigaction, errno))?;
    // SAFETY: written by the call, and numbers before.
    Ok(Action::from_c(unsafe { old.assume_init_ref() }))
}

/// The same, for handlers: whether it was done. What was done before would take twice as much of the stack.
#[inline(never)]
pub(crate) fn put_action(signal: c_int, action: Action) -> bool {
    let new = action.to_c();
    // SAFETY: as in `set_action`.
    super::injected(Call::Sigaction).is_ok()
        && keeping_errno(|| unsafe { libc::sigaction(signal, &raw const new, std::ptr::null_mut()) }.into())
            .is_ok()
}

#[inline(never)]
fn look(signal: c_int) -> CallResult<Action> {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: lives over the call, which changes nothing.
    keeping_errno(|| unsafe { libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr()) }.into())
        .map_err(|errno| CallError::new(Call::Sigaction, errno))?;
    // SAFETY: written by the call, and numbers before.
    Ok(Action::from_c(unsafe { now.assume_init_ref() }))
}

/// Exchanges this thread's mask; the one before, if the kernel did it. rt_sigprocmask(2), by number: the C library hides
/// two signals from its callers, and with them the mask would not be restored exactly.
pub(crate) fn set_mask(mask: Mask) -> Option<Mask> {
    change_mask(libc::SIG_SETMASK, mask)
}

/// Adds signals to this thread's mask; the one before, if the kernel did it.
pub(crate) fn block(mask: Mask) -> CallResult<Mask> {
    super::injected(Call::Sigprocmask)?;
    change_mask(libc::SIG_BLOCK, mask).ok_or(CallError::new(Call::Sigprocmask, libc::EPERM))
}

/// Takes signals out of this thread's mask; the one before, if the kernel did it. What was pending is delivered before this
/// returns.
pub(crate) fn unblock(mask: Mask) -> Option<Mask> {
    change_mask(libc::SIG_UNBLOCK, mask)
}

/// A signal, in a mask.
pub(crate) fn bit(signal: c_int) -> Mask {
    1_u64.wrapping_shl((signal as u32).wrapping_sub(1))
}

/// Sends a signal to this thread with words that came with it on another. rt_tgsigqueueinfo(2)
pub(crate) fn send_words(signal: c_int, words: &[u64; WORDS]) -> bool {
    // SAFETY: as many bytes as the kernel reads, and any are right.
    unsafe { send_again(signal, words.as_ptr().cast()) }
}

/// The first and the last real-time signal that can be coordinated, where there are any.
pub(crate) fn real_time() -> Option<(c_int, c_int)> {
    sys::real_time()
}

/// Writes to standard error, as much as can be written at once. write(2)
pub(crate) fn tell(bytes: &[u8]) {
    // SAFETY: readable bytes.
    let _ = keeping_errno(|| unsafe { sys::write_raw(libc::STDERR_FILENO, bytes.as_ptr(), bytes.len()) });
}

/// Lets other threads run for a moment. nanosleep(2)
pub(crate) fn pause(nanoseconds: u32) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: nanoseconds.min(999_999_999) as _ };
    // SAFETY: lives over the call; what is left of the time is not asked for.
    let _ = keeping_errno(|| unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) }.into());
}

/// The error number of the C library, to be put back by [`set_errno`].
pub(crate) fn errno() -> c_int {
    // SAFETY: this thread's own.
    unsafe { *sys::errno_place() }
}

pub(crate) fn set_errno(errno: c_int) {
    // SAFETY: this thread's own.
    unsafe { *sys::errno_place() = errno };
}

/// Has a function called when the process ends by `exit`, or by returning from `main`. atexit(3). It cannot be undone.
pub(crate) fn at_exit(run: extern "C" fn()) -> CallResult<()> {
    super::injected(Call::Atexit)?;
    // SAFETY: the function lives as long as the program.
    match unsafe { libc::atexit(run) } {
        0 => Ok(()),
        _ => Err(CallError::new(Call::Atexit, libc::ENOMEM)),
    }
}

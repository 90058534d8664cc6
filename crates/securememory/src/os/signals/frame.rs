//! What the kernel has put on the stack for a handler: what came with the signal, and the state of what was interrupted.
//! Dying, as all of [`super`].

// Reason: reads what the kernel has written; every block says why it is sound.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;

use super::{Info, Mask, change_mask};

/// As many words are in it.
pub(crate) const WORDS: usize = 16;

/// The alternate stack that a handler runs on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AlternateStack {
    /// Bytes from its top to what the kernel has put there of this delivery: so much another one takes at most.
    pub(crate) frame: usize,
    /// Bytes that are left.
    pub(crate) left: usize,
}

/// The alternate stack, if the handler that calls this is running on it. The kernel has noted it with the context, so that
/// it is known also where it does not count as in use (`SS_AUTODISARM`). sigaltstack(2)
///
/// # Safety
///
/// `context` is what a handler was called with.
pub(crate) unsafe fn alternate_stack(context: *const c_void) -> Option<AlternateStack> {
    let here = 0_u8;
    // SAFETY: as the caller vouches.
    let stack = unsafe { (*context.cast::<libc::ucontext_t>()).uc_stack };
    let left = (&raw const here).addr().wrapping_sub(stack.ss_sp.addr());
    let context = context.addr().wrapping_sub(stack.ss_sp.addr());
    (left < stack.ss_size).then(|| AlternateStack { frame: stack.ss_size.saturating_sub(context), left })
}

/// Where the stack of the code ended that was interrupted; `None`: not known on this processor.
///
/// # Safety
///
/// `context` is what a handler was called with.
pub(crate) unsafe fn interrupted_stack(context: *const c_void) -> Option<usize> {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: as the caller vouches.
    #[cfg(target_arch = "x86_64")]
    return Some(unsafe { (*context).uc_mcontext.gregs[libc::REG_RSP as usize] } as usize);
    // SAFETY: as the caller vouches.
    #[cfg(target_arch = "x86")]
    return Some(unsafe { (*context).uc_mcontext.gregs[libc::REG_ESP as usize] } as usize);
    // SAFETY: as the caller vouches.
    #[cfg(target_arch = "aarch64")]
    return Some(unsafe { (*context).uc_mcontext.sp } as usize);
    // SAFETY: as the caller vouches.
    #[cfg(target_arch = "arm")]
    return Some(unsafe { (*context).uc_mcontext.arm_sp } as usize);
    // SAFETY: as the caller vouches. The stack pointer is general register 15.
    #[cfg(all(target_arch = "s390x", target_env = "gnu"))]
    return Some(unsafe { (*context).uc_mcontext.gregs[15] } as usize);
    // SAFETY: as the caller vouches. The stack pointer is general register 1.
    #[cfg(all(target_arch = "powerpc64", target_env = "gnu"))]
    return Some(unsafe { (*context).uc_mcontext.gp_regs[1] } as usize);
    #[cfg(not(any(
        target_arch = "x86_64",
        target_arch = "x86",
        target_arch = "aarch64",
        target_arch = "arm",
        all(target_arch = "s390x", target_env = "gnu"),
        all(target_arch = "powerpc64", target_env = "gnu")
    )))]
    {
        let _ = context;
        None
    }
}

/// What would come with a signal that this process sends to itself.
pub(crate) fn words_of(signal: c_int) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    let info = words.as_mut_ptr().cast::<Info>();
    // SAFETY: as large as it is.
    unsafe {
        (*info).si_signo = signal;
        (*info).si_code = libc::SI_TKILL;
    }
    words
}

/// A context with this thread's mask, and no registers.
pub(crate) fn context_here() -> libc::ucontext_t {
    // SAFETY: numbers and pointers, for which zero is right.
    let mut context = unsafe { MaybeUninit::<libc::ucontext_t>::zeroed().assume_init() };
    let mask = change_mask(libc::SIG_BLOCK, 0).unwrap_or(Mask::MAX);
    // SAFETY: the set is at least 64 bits.
    unsafe { (&raw mut context.uc_sigmask).cast::<Mask>().write_unaligned(mask) };
    context
}

/// One word of what came with a signal.
///
/// # Safety
///
/// `info` is what a handler was called with; `index` is below [`WORDS`].
pub(crate) unsafe fn word(info: *const Info, index: usize) -> u64 {
    // SAFETY: as the caller vouches; the kernel writes all of it.
    unsafe { info.cast::<u64>().add(index).read_unaligned() }
}

/// Who has sent a signal, and what with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) code: c_int,
    pub(crate) process: u32,
    pub(crate) user: u32,
    pub(crate) value: usize,
}

impl Origin {
    /// Of the words that came with a signal.
    pub(crate) fn of(words: &[u64; WORDS]) -> Self {
        let info = words.as_ptr().cast::<Info>();
        // SAFETY: as large, and any bits are right for the numbers that are read here. Which of them mean something
        // depends on the code, and is for the caller to know.
        unsafe {
            Self {
                code: (*info).si_code,
                process: (*info).si_pid().unsigned_abs(),
                user: (*info).si_uid(),
                value: (*info).si_value().sival_ptr.addr(),
            }
        }
    }
}

/// What came with a signal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    pub(crate) code: c_int,
    pub(crate) address: usize,
    /// Who has sent it, if somebody has.
    pub(crate) sender: c_int,
}

/// Reads what came with a signal.
///
/// # Safety
///
/// `info` is what a handler was called with.
pub(crate) unsafe fn words(info: *const Info) -> Words {
    // SAFETY: as the caller vouches. For a sent signal the address is other numbers, and for a fault the sender is; which
    // is for the caller to know.
    unsafe { Words { code: (*info).si_code, address: (*info).si_addr().addr(), sender: (*info).si_pid() } }
}

/// The mask of the code that was interrupted.
///
/// # Safety
///
/// `context` is what a handler was called with.
pub(crate) unsafe fn interrupted_mask(context: *const c_void) -> Mask {
    // SAFETY: as the caller vouches; the set is at least 64 bits.
    unsafe { (&raw const (*context.cast::<libc::ucontext_t>()).uc_sigmask).cast::<Mask>().read_unaligned() }
}

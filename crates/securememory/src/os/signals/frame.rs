//! What the kernel has put on the stack for a handler: the state of what was interrupted.
//! Dying, as all of [`super`].

// Reason: reads what the kernel has written; every block says why it is sound.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::mem::MaybeUninit;

use super::{Mask, change_mask, mask_of, put_mask};

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

/// A context with this thread's mask, and no registers.
pub(crate) fn context_here() -> libc::ucontext_t {
    // SAFETY: numbers and pointers, for which zero is right.
    let mut context = unsafe { MaybeUninit::<libc::ucontext_t>::zeroed().assume_init() };
    let mask = change_mask(libc::SIG_BLOCK, 0).unwrap_or(Mask::MAX);
    put_mask(mask, &mut context.uc_sigmask);
    context
}

/// The mask of the code that was interrupted.
///
/// # Safety
///
/// `context` is what a handler was called with.
pub(crate) unsafe fn interrupted_mask(context: *const c_void) -> Mask {
    // SAFETY: as the caller vouches.
    mask_of(unsafe { &(*context.cast::<libc::ucontext_t>()).uc_sigmask })
}

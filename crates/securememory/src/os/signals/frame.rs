//! What the kernel has put on the stack for a handler: the state of what was interrupted.
//! Dying, as all of [`super`].

// Reason: reads what the kernel has written; every block says why it is sound.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;

use super::{Attempt, Mask, change_mask, mask_of, put_mask};

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
    #[cfg(target_arch = "aarch64")]
    return Some(unsafe { (*context).uc_mcontext.sp } as usize);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
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

/// What the instruction that was interrupted by an access fault has tried to do.
///
/// # Safety
///
/// `context` is what a handler was called with for such a fault.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn attempt(context: *const c_void) -> Attempt {
    const PAGE_FAULT: i64 = 14;
    // Intel SDM volume 3, 4.7: bit 1 of a page fault's error code is set for a write, bit 4 for the fetch of an
    // instruction.
    // SAFETY: as the caller vouches.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let of = |register: c_int| registers.get(register as usize).copied().unwrap_or_default();
    if of(libc::REG_TRAPNO) != PAGE_FAULT {
        return Attempt::Unknown;
    }
    let code = of(libc::REG_ERR);
    match (code & 2 != 0, code & 16 != 0) {
        (true, _) => Attempt::Write,
        (_, true) => Attempt::Execute,
        _ => Attempt::Read,
    }
}

/// What the instruction that was interrupted by an access fault has tried to do.
///
/// # Safety
///
/// `context` is what a handler was called with for such a fault.
#[cfg(target_arch = "aarch64")]
pub(crate) unsafe fn attempt(context: *const c_void) -> Attempt {
    // Linux, arch/arm64/include/uapi/asm/sigcontext.h: records of a tag and a size each, aligned to 16, after the
    // registers; the one with this tag has the syndrome register. Arm ARM, ESR_EL1: class in bits 26 to 31, and for a data
    // abort bit 6 is set for a write.
    const ESR_MAGIC: u32 = 0x4553_5201;
    // SAFETY: as the caller vouches; the kernel ends the records by one of size zero, inside 4,096 bytes.
    unsafe {
        let registers = &raw const (*context.cast::<libc::ucontext_t>()).uc_mcontext;
        let mut at = (&raw const (*registers).pstate).add(1).cast::<u8>();
        at = at.add(at.align_offset(16));
        for _ in 0..64 {
            let (magic, size) = (at.cast::<u32>().read(), at.cast::<u32>().add(1).read());
            if magic == ESR_MAGIC {
                let esr = at.cast::<u64>().add(1).read();
                return match (esr >> 26 & 0x3F, esr >> 6 & 1) {
                    (0x24 | 0x25, 1) => Attempt::Write,
                    (0x24 | 0x25, _) => Attempt::Read,
                    (0x20 | 0x21, _) => Attempt::Execute,
                    _ => Attempt::Unknown,
                };
            }
            if size < 8 {
                break;
            }
            at = at.add(size as usize);
        }
    }
    Attempt::Unknown
}

/// Other processors: not known.
///
/// # Safety
///
/// None; as on other processors.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) unsafe fn attempt(_: *const c_void) -> Attempt {
    Attempt::Unknown
}

/// Wipes the vector registers that the kernel has saved; the interrupted code finds zeros in them.
///
/// # Safety
///
/// `context` is what a handler was called with, and what was interrupted does not need them.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
pub(crate) unsafe fn wipe_vectors(context: *mut c_void) {
    // Linux, arch/x86/include/uapi/asm/sigcontext.h: the area of FXSAVE, in which bytes 464 to 511 are the kernel's: a mark,
    // and after it the size of the whole and the set of parts that follow. Intel SDM volume 1, 13.4: where each part lies is
    // told by CPUID; parts 2, 5, 6 and 7 are of the vector registers. Others (the rights of protection keys) stay.
    const MARK: u32 = 0x4650_5853;
    const PARTS: [u32; 4] = [2, 5, 6, 7];
    // SAFETY: as the caller vouches; what is not there is not written to. CPUID is part of x86-64, and has the leaf where
    // there is the mark.
    unsafe {
        let area = (*context.cast::<libc::ucontext_t>()).uc_mcontext.fpregs.cast::<u8>();
        if area.is_null() {
            return;
        }
        zero(area.add(160), 256);
        if area.add(464).cast::<u32>().read_unaligned() != MARK {
            return;
        }
        let parts = area.add(472).cast::<u64>().read_unaligned();
        let size = area.add(480).cast::<u32>().read_unaligned();
        for part in PARTS {
            let place = std::arch::x86_64::__cpuid_count(13, part);
            let (at, len) = (place.ebx, place.eax);
            if parts & 1_u64.wrapping_shl(part) != 0 && at.saturating_add(len) <= size {
                zero(area.add(at as usize), len as usize);
            }
        }
    }
}

/// Other processors: they stay.
///
/// # Safety
///
/// None; as on x86-64.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) unsafe fn wipe_vectors(_: *mut c_void) {}

/// The mask of the code that was interrupted.
///
/// # Safety
///
/// `context` is what a handler was called with.
pub(crate) unsafe fn interrupted_mask(context: *const c_void) -> Mask {
    // SAFETY: as the caller vouches.
    mask_of(unsafe { &(*context.cast::<libc::ucontext_t>()).uc_sigmask })
}

/// # Safety
///
/// `len` bytes from `at`, a multiple of eight, are writable.
#[cfg(target_arch = "x86_64")]
unsafe fn zero(at: *mut u8, len: usize) {
    let mut done = 0_usize;
    while done < len {
        // SAFETY: as the caller vouches. The frame is aligned to 64. Volatile, so that it is neither left out nor made a
        // call.
        unsafe { at.add(done).cast::<u64>().write_volatile(0) };
        done = done.wrapping_add(8);
    }
}

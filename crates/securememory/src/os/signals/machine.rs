//! What a processor tells of a fault, and the vector registers that the kernel has saved: one module for each that is known.
//! Dying, as all of [`super`].

// Reason: reads and writes what the kernel has written; every block says why it is sound.
#![allow(unsafe_code)]

use std::ffi::c_void;

use super::Attempt;

/// What the instruction that was interrupted by an access fault has tried to do.
///
/// # Safety
///
/// `context` is what a handler was called with for such a fault.
#[inline]
pub(crate) unsafe fn attempt(context: *const c_void) -> Attempt {
    // SAFETY: as the caller vouches.
    unsafe { this::attempt(context) }
}

/// Wipes the vector registers that the kernel has saved, where it is known how; the interrupted code finds zeros in them.
///
/// # Safety
///
/// `context` is what a handler was called with, and what was interrupted does not need them.
#[inline(never)]
pub(crate) unsafe fn wipe_vectors(context: *mut c_void) {
    // SAFETY: as the caller vouches.
    unsafe { this::wipe_vectors(context) }
}

/// # Safety
///
/// `len` bytes from `at`, a multiple of eight, are writable.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
unsafe fn zero(at: *mut u8, len: usize) {
    let mut done = 0_usize;
    while done < len {
        // SAFETY: as the caller vouches. Where the kernel saves registers is aligned to 8 at least. Volatile, so that it is
        // neither left out nor made a call.
        unsafe { at.add(done).cast::<u64>().write_volatile(0) };
        done = done.wrapping_add(8);
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
mod this {
    use super::{Attempt, c_void};
    use std::ffi::c_int;

    pub(super) unsafe fn attempt(context: *const c_void) -> Attempt {
        const PAGE_FAULT: i64 = 14;
        // Intel SDM volume 3, 4.7: bit 1 of a page fault's error code is set for a write, bit 4 for the fetch of an
        // instruction.
        // SAFETY: as the caller vouches.
        let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
        #[allow(clippy::unnecessary_cast, reason = "a register has 32 bits or 64")]
        let of = |register: c_int| registers.get(register as usize).copied().unwrap_or_default() as i64;
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

    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn wipe_vectors(context: *mut c_void) {
        // Linux, arch/x86/include/uapi/asm/sigcontext.h: the area of FXSAVE, in which bytes 464 to 511 are the kernel's: a
        // mark, and after it the size of the whole and the set of parts that follow. Intel SDM volume 1, 13.4: where each
        // part lies is told by CPUID; parts 2, 5, 6 and 7 are of the vector registers. Others (the rights of protection
        // keys) stay.
        const MARK: u32 = 0x4650_5853;
        const PARTS: [u32; 4] = [2, 5, 6, 7];
        // SAFETY: as the caller vouches; what is not there is not written to. CPUID is part of x86-64, and has the leaf
        // where there is the mark.
        unsafe {
            // The pointer behind the general registers, which not every C library gives a name.
            let registers = &raw const (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
            let area = registers.add(1).cast::<*mut u8>().read();
            if area.is_null() {
                return;
            }
            super::zero(area.add(160), 256);
            if area.add(464).cast::<u32>().read_unaligned() != MARK {
                return;
            }
            let parts = area.add(472).cast::<u64>().read_unaligned();
            let size = area.add(480).cast::<u32>().read_unaligned();
            for part in PARTS {
                let place = std::arch::x86_64::__cpuid_count(13, part);
                let (at, len) = (place.ebx, place.eax);
                if parts & 1_u64.wrapping_shl(part) != 0 && at.saturating_add(len) <= size {
                    super::zero(area.add(at as usize), len as usize);
                }
            }
        }
    }

    /// They stay.
    #[cfg(target_arch = "x86")]
    pub(super) unsafe fn wipe_vectors(_: *mut c_void) {}
}

#[cfg(target_arch = "aarch64")]
mod this {
    use super::{Attempt, c_void};

    // Linux, arch/arm64/include/uapi/asm/sigcontext.h: records of a tag and a size each, aligned to 16, after the registers.
    /// The syndrome register.
    const ESR: u32 = 0x4553_5201;
    /// Vector registers: status and control words, then registers.
    const FPSIMD: u32 = 0x4650_8001;
    /// Those of SVE, of SME, and its table: a word that says how long they are, and then they.
    const WIDE: [u32; 3] = [0x5356_4501, 0x5436_6345, 0x5a54_4e01];
    /// Where more records are, if there is no room here.
    const EXTRA: u32 = 0x4558_5401;
    /// Before the contents of all but the syndrome.
    const HEAD: usize = 16;

    /// Calls `look` with tag, place and size of each record, until it says that this is enough.
    ///
    /// # Safety
    ///
    /// `context` is what a handler was called with.
    unsafe fn each(context: *const c_void, mut look: impl FnMut(u32, *mut u8, usize) -> bool) {
        // SAFETY: as the caller vouches; the kernel ends the records by one of size zero, here and at the other place.
        unsafe {
            let registers = &raw const (*context.cast::<libc::ucontext_t>()).uc_mcontext;
            let mut at = (&raw const (*registers).pstate).add(1).cast::<u8>().cast_mut();
            at = at.add(at.align_offset(16));
            let mut extra = std::ptr::null_mut::<u8>();
            for _ in 0..64 {
                let (tag, size) = (at.cast::<u32>().read(), at.cast::<u32>().add(1).read() as usize);
                if size < 8 {
                    if extra.is_null() {
                        return;
                    }
                    at = extra;
                    extra = std::ptr::null_mut();
                    continue;
                }
                if tag == EXTRA {
                    extra = std::ptr::with_exposed_provenance_mut(at.cast::<u64>().add(1).read() as usize);
                }
                if look(tag, at, size) {
                    return;
                }
                at = at.add(size);
            }
        }
    }

    pub(super) unsafe fn attempt(context: *const c_void) -> Attempt {
        let mut found = Attempt::Unknown;
        // Arm ARM, ESR_EL1: class in bits 26 to 31, and for a data abort bit 6 is set for a write.
        // SAFETY: as the caller vouches; the record has 16 bytes.
        unsafe {
            each(context, |tag, at, _| {
                if tag != ESR {
                    return false;
                }
                let esr = at.cast::<u64>().add(1).read();
                found = match (esr >> 26 & 0x3F, esr >> 6 & 1) {
                    (0x24 | 0x25, 1) => Attempt::Write,
                    (0x24 | 0x25, _) => Attempt::Read,
                    (0x20 | 0x21, _) => Attempt::Execute,
                    _ => Attempt::Unknown,
                };
                true
            });
        }
        found
    }

    pub(super) unsafe fn wipe_vectors(context: *mut c_void) {
        // SAFETY: as the caller vouches; a record is as large as it says.
        unsafe {
            each(context, |tag, at, size| {
                if (tag == FPSIMD || WIDE.contains(&tag)) && size > HEAD {
                    super::zero(at.add(HEAD), size.wrapping_sub(HEAD) & !7);
                }
                false
            });
        }
    }
}

#[cfg(target_arch = "arm")]
mod this {
    use super::{Attempt, c_void};

    pub(super) unsafe fn attempt(context: *const c_void) -> Attempt {
        const PAGE_FAULT: libc::c_ulong = 14;
        // Linux, arch/arm/mm/fault.h: bit 11 of the status is set for a write, and by the kernel bit 31 for the fetch of an
        // instruction. A kernel of 64 bits tells the former only, and no trap.
        // SAFETY: as the caller vouches.
        let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext };
        match (registers.error_code >> 11 & 1, registers.trap_no, registers.error_code >> 31) {
            (1, ..) => Attempt::Write,
            (_, PAGE_FAULT, 1) => Attempt::Execute,
            (_, PAGE_FAULT, _) => Attempt::Read,
            _ => Attempt::Unknown,
        }
    }

    /// They stay.
    pub(super) unsafe fn wipe_vectors(_: *mut c_void) {}
}

#[cfg(all(target_arch = "powerpc64", target_env = "gnu"))]
mod this {
    use super::{Attempt, c_void};

    pub(super) unsafe fn attempt(context: *const c_void) -> Attempt {
        // Linux, arch/powerpc/include/uapi/asm/ptrace.h: numbers of the words. Power ISA, book III, 7.5: the vectors of data
        // storage and instruction storage interrupts, and the bit of DSISR that is set for a store.
        const TRAP: usize = 40;
        const DSISR: usize = 42;
        const STORE: u64 = 0x0200_0000;
        // SAFETY: as the caller vouches.
        let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gp_regs };
        let of = |word: usize| registers.get(word).copied().unwrap_or_default();
        // Some kernels keep marks in the lowest bits.
        match (of(TRAP) & !0xF, of(DSISR) & STORE != 0) {
            (0x300, true) => Attempt::Write,
            (0x300, false) => Attempt::Read,
            (0x400, _) => Attempt::Execute,
            _ => Attempt::Unknown,
        }
    }

    /// They stay.
    pub(super) unsafe fn wipe_vectors(_: *mut c_void) {}
}

/// Others: not known, or, as s390x, the kernel does not tell.
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "x86",
    target_arch = "aarch64",
    target_arch = "arm",
    all(target_arch = "powerpc64", target_env = "gnu")
)))]
mod this {
    use super::{Attempt, c_void};

    pub(super) unsafe fn attempt(_: *const c_void) -> Attempt {
        Attempt::Unknown
    }

    /// They stay.
    pub(super) unsafe fn wipe_vectors(_: *mut c_void) {}
}

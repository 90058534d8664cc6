//! Copying and wiping secret bytes.
//!
//! The C library's `memcpy` leaves what it copied in vector registers of its choice, and its `memset` may be
//! optimised away; neither is used for secrets.

use std::sync::atomic::{Ordering, compiler_fence};

/// Copies without leaving the bytes in a register.
///
/// # Safety
///
/// `from` is readable and `to` writable for `len` bytes, and they do not overlap.
#[inline]
#[allow(unsafe_code)]
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // Not through a register that some later function saves on the stack: one that is cleared here, or none.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: both blocks read and write exactly the ranges that the caller vouches for: the first one in steps of
    // 16 bytes from the start, and the last 16 bytes once more. The direction flag is clear by the calling convention.
    unsafe {
        if (16..=512).contains(&len) {
            std::arch::asm!(
                "2:",
                "movdqu xmm0, xmmword ptr [{from} + {at}]",
                "movdqu xmmword ptr [{to} + {at}], xmm0",
                "add {at}, 16",
                "cmp {at}, {last}",
                "jb 2b",
                "movdqu xmm0, xmmword ptr [{from} + {last}]",
                "movdqu xmmword ptr [{to} + {last}], xmm0",
                "pxor xmm0, xmm0",
                from = in(reg) from, to = in(reg) to, last = in(reg) len - 16, at = inout(reg) 0usize => _,
                out("xmm0") _,
                options(nostack)
            );
        } else {
            // Slow to start, but then the fastest.
            std::arch::asm!(
                "rep movsb",
                inout("rcx") len => _, inout("rsi") from => _, inout("rdi") to => _,
                options(nostack, preserves_flags)
            );
        }
    }
    // Volatile, or the compiler would turn the loop into a call of memcpy.
    #[cfg(not(target_arch = "x86_64"))]
    for index in 0..len {
        // SAFETY: inside the ranges that the caller vouches for.
        unsafe { std::ptr::write_volatile(to.add(index), from.add(index).read_volatile()) };
    }
}

/// [`copy`] between slices, as far as both reach.
#[inline]
#[allow(unsafe_code)]
pub(crate) fn copy_slice(to: &mut [u8], from: &[u8]) {
    // SAFETY: bounded by both lengths; a mutable borrow overlaps with nothing.
    unsafe { copy(from.as_ptr(), to.as_mut_ptr(), from.len().min(to.len())) };
}

/// From so many bytes on it is worth to begin with a cache line.
#[allow(dead_code, reason = "where zeros are stored one by one it does not matter")]
const MANY: usize = 4 << 10;

/// Overwrites with zeros; never optimised away.
///
/// # Safety
///
/// `at` is writable for `len` bytes that nobody else uses.
#[inline]
#[allow(unsafe_code)]
pub(crate) unsafe fn wipe(at: *mut u8, len: usize) {
    #[cfg(any(
        target_arch = "x86_64",
        target_arch = "x86",
        target_arch = "aarch64",
        target_arch = "arm",
        target_arch = "riscv64",
        target_arch = "loongarch64",
        target_arch = "s390x"
    ))]
    // SAFETY: the caller vouches for the range. The empty assembly may read all memory as far as the compiler
    // knows, so the zeros must be there.
    unsafe {
        if len >= MANY {
            // Many bytes are stored faster from the start of a cache line on.
            let lead = at.align_offset(64).min(len);
            std::ptr::write_bytes(at, 0, lead);
            std::ptr::write_bytes(at.add(lead), 0, len - lead);
        } else {
            std::ptr::write_bytes(at, 0, len);
        }
        std::arch::asm!("/* {0} */", in(reg) at, options(nostack, preserves_flags));
    }
    // Stable Rust has no assembly for these processors.
    #[cfg(not(any(
        target_arch = "x86_64",
        target_arch = "x86",
        target_arch = "aarch64",
        target_arch = "arm",
        target_arch = "riscv64",
        target_arch = "loongarch64",
        target_arch = "s390x"
    )))]
    // SAFETY: the caller vouches for the range; the words in it are aligned.
    unsafe {
        let lead = at.align_offset(8).min(len);
        let words = (len - lead) / 8;
        for byte in (0..lead).chain(lead + words * 8..len) {
            at.add(byte).write_volatile(0);
        }
        for word in 0..words {
            at.add(lead).cast::<u64>().add(word).write_volatile(0);
        }
    }
    compiler_fence(Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    #![allow(unsafe_code)]

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn copies_and_wipes_exactly_the_range(source in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut target = vec![0xEEu8; source.len() + 2];
            // SAFETY: one byte of margin on both sides of the target.
            unsafe { copy(source.as_ptr(), target.as_mut_ptr().add(1), source.len()) };
            prop_assert_eq!(&target[1..=source.len()], &source[..]);
            prop_assert!(target[0] == 0xEE && target[source.len() + 1] == 0xEE);
            // SAFETY: as above.
            unsafe { wipe(target.as_mut_ptr().add(1), source.len()) };
            prop_assert!(target[1..=source.len()].iter().all(|&byte| byte == 0));
            prop_assert!(target[0] == 0xEE && target[source.len() + 1] == 0xEE);
        }
    }
}

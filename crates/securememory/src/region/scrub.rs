//! Clearing what a computation on keys leaves behind: vector registers, and the stack below the caller.
//!
//! While a thread decrypts, parts of the key are in vector registers and in stack frames. A signal
//! in that moment makes the kernel save all registers below the stack pointer (sigaltstack(2)), at most
//! AT_MINSIGSTKSZ bytes in all (getauxval(3)); so the scrub reaches as far as the path itself was seen to
//! reach, plus that frame, plus the red zone.
//!
//! On x86-64 an AVX instruction that writes the low part of a register clears the rest of it, also in
//! registers 16 to 31 of AVX-512, which the C library's copying uses and `vzeroall` leaves alone; and sixteen of
//! them are faster than one `vzeroall`. Other processors: [`registers`](self::registers()), and the file of that name.

#[cfg(not(target_arch = "x86_64"))]
mod registers;

#[cfg(not(target_arch = "x86_64"))]
use crate::region::bytes;

/// The red zone below the stack pointer, and alignment of the frame.
const MARGIN: usize = 256;

const VIEW_DEPTH: usize = 2048;

/// Enough for the usual cipher on every processor without AMX.
const USUAL_DEPTH: usize = 6144;

/// Enough for the other cipher, or for AMX.
const LARGE_DEPTH: usize = 16 * 1024;

/// The most that is ever wiped. With AMX a signal's frame has about 11 KiB; unoptimised code of a cipher needs far more
/// than that.
const MAX_DEPTH: usize = if cfg!(debug_assertions) { 128 * 1024 } else { 32 * 1024 };

/// How far below its caller [`after_window`] wipes, in bytes, when the path itself uses `path` bytes.
pub(crate) fn depth(path: usize) -> usize {
    (path + MARGIN + crate::os::signal_frame_size()).next_multiple_of(512).min(MAX_DEPTH)
}

/// Clears the vector registers.
#[inline]
fn registers() {
    #[cfg(target_arch = "x86_64")]
    x86_64::clear();
    #[cfg(not(target_arch = "x86_64"))]
    registers::clear();
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::asm;

    /// Clears all vector registers that this processor has.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) fn clear() {
        // The detection macros read a cached word.
        if std::arch::is_x86_feature_detected!("avx") {
            // SAFETY: AVX is there; all registers that are cleared are declared as clobbered.
            unsafe {
                asm!(
                    "vpxor xmm0, xmm0, xmm0", "vpxor xmm1, xmm1, xmm1", "vpxor xmm2, xmm2, xmm2",
                    "vpxor xmm3, xmm3, xmm3", "vpxor xmm4, xmm4, xmm4", "vpxor xmm5, xmm5, xmm5",
                    "vpxor xmm6, xmm6, xmm6", "vpxor xmm7, xmm7, xmm7", "vpxor xmm8, xmm8, xmm8",
                    "vpxor xmm9, xmm9, xmm9", "vpxor xmm10, xmm10, xmm10", "vpxor xmm11, xmm11, xmm11",
                    "vpxor xmm12, xmm12, xmm12", "vpxor xmm13, xmm13, xmm13", "vpxor xmm14, xmm14, xmm14",
                    "vpxor xmm15, xmm15, xmm15",
                    // Tells the processor that the upper parts are clean, or older instructions are slow.
                    "vzeroupper",
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                    out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nomem, nostack, preserves_flags)
                );
            }
            if std::arch::is_x86_feature_detected!("avx512f") {
                // SAFETY: AVX-512F is there, and the compiler never keeps a value in these registers, since
                // the crate is not compiled for it; where it is, they are scratch by the calling convention and
                // this function's callers hold none across it.
                unsafe { clear_upper_sixteen() };
            }
        } else {
            // SAFETY: SSE2 is part of x86-64; all registers that are cleared are declared as clobbered.
            unsafe {
                asm!(
                    "xorps xmm0, xmm0", "xorps xmm1, xmm1", "xorps xmm2, xmm2", "xorps xmm3, xmm3",
                    "xorps xmm4, xmm4", "xorps xmm5, xmm5", "xorps xmm6, xmm6", "xorps xmm7, xmm7",
                    "xorps xmm8, xmm8", "xorps xmm9, xmm9", "xorps xmm10, xmm10", "xorps xmm11, xmm11",
                    "xorps xmm12, xmm12", "xorps xmm13, xmm13", "xorps xmm14, xmm14", "xorps xmm15, xmm15",
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                    out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nomem, nostack, preserves_flags)
                );
            }
        }
    }

    /// Zeroes with wide stores: this runs twice in every read, and a call of the C library's memset for so few bytes
    /// costs as much as the cipher. The stores lie on cache lines but for those at the ends. (The widest of all, of
    /// AVX-512, were measured to be slower.)
    ///
    /// # Safety
    ///
    /// `len` is at least 256, and so many bytes from `start` are the caller's.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) unsafe fn wipe_lines(start: *mut u8, len: usize) {
        // SAFETY: the loops begin at most 63 bytes above `start` and end at most 127 below the end, where unaligned
        // stores take over; nothing outside the range is written. The registers are declared as clobbered.
        unsafe {
            let end = start.add(len);
            let line = start.add(start.align_offset(64));
            if std::arch::is_x86_feature_detected!("avx") {
                asm!(
                    "vpxor xmm0, xmm0, xmm0",
                    "vmovdqu ymmword ptr [{start}], ymm0",
                    "vmovdqu ymmword ptr [{start} + 32], ymm0",
                    "2:",
                    "vmovdqa ymmword ptr [{at}], ymm0",
                    "vmovdqa ymmword ptr [{at} + 32], ymm0",
                    "vmovdqa ymmword ptr [{at} + 64], ymm0",
                    "vmovdqa ymmword ptr [{at} + 96], ymm0",
                    "add {at}, 128",
                    "cmp {at}, {last}",
                    "jbe 2b",
                    "vmovdqu ymmword ptr [{last}], ymm0",
                    "vmovdqu ymmword ptr [{last} + 32], ymm0",
                    "vmovdqu ymmword ptr [{last} + 64], ymm0",
                    "vmovdqu ymmword ptr [{last} + 96], ymm0",
                    "vzeroupper",
                    start = in(reg) start, at = inout(reg) line => _, last = in(reg) end.sub(128), out("xmm0") _,
                    options(nostack)
                );
            } else {
                crate::region::bytes::wipe(start, len);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    #[allow(unsafe_code)]
    fn clear_upper_sixteen() {
        // SAFETY: the feature is enabled; the registers are declared as clobbered.
        unsafe {
            asm!(
                "vpxord zmm16, zmm16, zmm16", "vpxord zmm17, zmm17, zmm17", "vpxord zmm18, zmm18, zmm18",
                "vpxord zmm19, zmm19, zmm19", "vpxord zmm20, zmm20, zmm20", "vpxord zmm21, zmm21, zmm21",
                "vpxord zmm22, zmm22, zmm22", "vpxord zmm23, zmm23, zmm23", "vpxord zmm24, zmm24, zmm24",
                "vpxord zmm25, zmm25, zmm25", "vpxord zmm26, zmm26, zmm26", "vpxord zmm27, zmm27, zmm27",
                "vpxord zmm28, zmm28, zmm28", "vpxord zmm29, zmm29, zmm29", "vpxord zmm30, zmm30, zmm30",
                "vpxord zmm31, zmm31, zmm31",
                out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _, out("zmm20") _, out("zmm21") _,
                out("zmm22") _, out("zmm23") _, out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _,
                out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
                options(nomem, nostack, preserves_flags)
            );
        }
    }
}

/// After a window: wipes the stack below the caller's frame, `depth` bytes of it as [`depth`] says, and the vector
/// registers. What ran there must have returned.
#[inline]
pub(crate) fn after_window(depth: usize) {
    // As large a frame as is needed: the user's thread may not have much stack.
    if depth <= USUAL_DEPTH {
        wipe_below::<USUAL_DEPTH>(depth);
    } else if depth <= LARGE_DEPTH {
        wipe_below::<LARGE_DEPTH>(depth);
    } else {
        wipe_below::<MAX_DEPTH>(depth);
    }
    registers();
}

/// After a view: how deep the user's code went below us nobody knows; this covers what a comparison, a hash or a copy
/// leaves there.
#[inline]
pub(crate) fn after_view() {
    wipe_below::<VIEW_DEPTH>(VIEW_DEPTH);
    registers();
}

/// Its own frame covers the area, so that the wiped bytes belong to it.
#[inline(never)]
#[allow(unsafe_code)]
fn wipe_below<const AREA: usize>(depth: usize) {
    // Not aligned more than the stack is: between a realigned area and the caller's frame bytes would be left out.
    let mut area = std::mem::MaybeUninit::<[u8; AREA]>::uninit();
    let used = depth.min(AREA);
    // SAFETY: the upper `used` bytes of our own local variable; the stack grows downwards, so they
    // lie next to the caller's frame.
    unsafe {
        let start = area.as_mut_ptr().cast::<u8>().add(AREA - used);
        #[cfg(target_arch = "x86_64")]
        x86_64::wipe_lines(start, used);
        #[cfg(not(target_arch = "x86_64"))]
        bytes::wipe(start, used);
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    #![allow(unsafe_code)]

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn exactly_the_range_is_wiped(from in 0usize..200, len in 256usize..2000) {
            let mut area = vec![0xEEu8; 2400];
            // SAFETY: inside the vector.
            unsafe { super::x86_64::wipe_lines(area.as_mut_ptr().add(from), len) };
            prop_assert!(area[from..from + len].iter().all(|&byte| byte == 0));
            prop_assert!(area[..from].iter().chain(&area[from + len..]).all(|&byte| byte == 0xEE));
        }
    }
}

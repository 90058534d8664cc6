//! After a system call on the way of a read: returns that the processor can foresee.
//!
//! A processor foresees where a `ret` goes from the calls that it has seen last. After a system call these are the kernel's,
//! and the first `ret` of ours is taken to go into the kernel. To find out costs 90 ns after `pread64` and 190 ns after
//! `mprotect` on the AMD processor it was measured on, more than all else that a read does besides the call and the cipher
//! (docs/PERFORMANCE.md). So a few calls are made that nobody returns from: each tells the processor of a place to
//! return to, where it waits until it knows better, which takes a few nanoseconds. There are enough of them for the functions
//! of ours that are left, and a few of their callers.

/// To be called next after the system call, in a function that is inlined.
#[inline(always)]
pub(super) fn after_call() {
    #[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
    // SAFETY: eight calls push eight addresses, which are taken off again; nothing else is written. The compiler keeps nothing
    // below the stack pointer, since `nostack` is not said. The loops are never executed but in advance, in vain. Where the
    // thread has a shadow stack (`rdsspq`, which does nothing elsewhere), the addresses are taken off it as well.
    unsafe {
        std::arch::asm!(
            ".rept 8",
            "call 22f",
            "21:",
            "pause",
            "lfence",
            "jmp 21b",
            "22:",
            ".endr",
            "lea rsp, [rsp + 64]",
            "xor {scratch:e}, {scratch:e}",
            "rdsspq {scratch}",
            "test {scratch}, {scratch}",
            "jz 23f",
            "mov {scratch:e}, 8",
            "incsspq {scratch}",
            "23:",
            scratch = out(reg) _,
        );
    }
}

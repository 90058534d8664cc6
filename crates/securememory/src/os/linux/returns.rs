//! After a system call on the way of a read: returns that the processor can foresee.
//!
//! A processor foresees where a `ret` goes from the calls that it has seen last. After a system call these are the kernel's,
//! and the first `ret` of ours is taken to go into the kernel. To find out costs 150 ns after `pread64` and 300 ns after
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

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::after_call;

    /// Deeper than there are places to return to, with something of its own in every frame.
    #[inline(never)]
    fn descend(depth: u64) -> u64 {
        let own = black_box([depth; 4]);
        after_call();
        let below = if depth == 0 { 0 } else { descend(depth - 1) };
        after_call();
        below + own.iter().sum::<u64>()
    }

    #[test]
    fn every_function_returns_to_its_caller_and_keeps_its_frame() {
        for _ in 0..1000 {
            assert_eq!(descend(40), 4 * 40 * 41 / 2);
        }
    }
}

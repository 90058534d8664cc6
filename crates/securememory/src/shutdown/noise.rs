//! Noise to overwrite memory with that somebody may still be reading: nobody is to take zeros for a key.

use std::sync::atomic::{Ordering, compiler_fence};

use crate::os::signals;

/// A generator of bytes without meaning. They are seeded by the kernel, but are no secret: whoever knows some of them
/// knows all.
pub(crate) struct Noise(u64);

impl Noise {
    /// Async-signal-safe.
    pub(crate) fn new() -> Self {
        Self(signals::seed())
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): fast, and without state that could be zero for ever.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ word >> 31
    }

    /// Overwrites memory that others may be reading or writing.
    ///
    /// # Safety
    ///
    /// `len` bytes from `at` are mapped and writable.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn fill(&mut self, at: *mut u8, len: usize) {
        let mut done = 0;
        // SAFETY: inside the range. Volatile: others read it, and it is neither left out nor made a call.
        unsafe {
            while len.wrapping_sub(done) >= 8 {
                at.add(done).cast::<[u8; 8]>().write_volatile(self.next().to_ne_bytes());
                done = done.wrapping_add(8);
            }
            while done < len {
                at.add(done).write_volatile(self.next() as u8);
                done = done.wrapping_add(1);
            }
        }
        compiler_fence(Ordering::SeqCst);
    }
}

//! Memory, as a handler deals with it: overwritten by the kernel. Dying, as all of [`super`].

// Reason: system calls on memory of the callers; every block says why it is sound.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::super::errno;
use windows_sys::Win32::System::Diagnostics::Debug::ReadProcessMemory;
use windows_sys::Win32::System::Memory::{MEM_COMMIT, MEMORY_BASIC_INFORMATION, VirtualQuery};
use windows_sys::Win32::System::Performance::QueryPerformanceCounter;
use windows_sys::Win32::System::Threading::GetCurrentProcess;

/// Bytes that are copied at once.
const PIECE: usize = 256;

/// Noise over the `len` bytes from `at`, copied there by the kernel: where they are not writable, that is an error
/// ([`errno::EFAULT`]) and no further exception. ReadProcessMemory, of this process.
///
/// # Safety
///
/// Nobody minds what is written there. The bytes need not be writable.
pub(crate) unsafe fn random(at: usize, len: usize) -> Result<(), c_int> {
    let mut noise = [0_u8; PIECE];
    let mut state = seed();
    for bytes in noise.chunks_exact_mut(8) {
        // SplitMix64, as in `crate::shutdown::noise`.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = state;
        word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        bytes.copy_from_slice(&(word ^ word >> 31).to_ne_bytes());
    }
    let mut done = 0_usize;
    while done < len {
        let piece = len.wrapping_sub(done).min(PIECE);
        let to = std::ptr::with_exposed_provenance_mut(at.wrapping_add(done));
        let mut copied = 0;
        // SAFETY: the kernel reads bytes of this frame, and writes as the caller vouches.
        let outcome = unsafe {
            ReadProcessMemory(GetCurrentProcess(), noise.as_ptr().cast(), to, piece, &raw mut copied)
        };
        if outcome == 0 || copied != piece {
            return Err(errno::EFAULT);
        }
        done = done.wrapping_add(piece);
    }
    Ok(())
}

/// What noise begins with. Drawn when handlers are installed: where random bytes come from is no place to go to from a
/// handler.
static SEED: AtomicU64 = AtomicU64::new(0);

/// Draws it, outside of handlers.
pub(crate) fn draw_seed() {
    let mut seed = [0_u8; 8];
    if super::super::super::fill_random(&mut seed).is_ok() {
        SEED.fetch_xor(u64::from_ne_bytes(seed), Ordering::Relaxed);
    }
}

/// A number that is another one each time.
pub(crate) fn seed() -> u64 {
    let mut ticks = 0_i64;
    // SAFETY: writes one word that lives over the call.
    unsafe { QueryPerformanceCounter(&raw mut ticks) };
    SEED.fetch_add(0xD1B5_4A32_D192_ED03, Ordering::Relaxed) ^ ticks.cast_unsigned().rotate_left(32)
}

/// Puts a new page in the place of another that was lost. Windows has no way to do so at once, without another thread that
/// could see the page without its contents; so it is not done.
///
/// # Safety
///
/// None.
pub(crate) unsafe fn replace(_: usize, _: usize, _: bool, _: impl FnOnce(*mut u8)) -> bool {
    false
}

/// Is there memory at this address? VirtualQuery
pub(crate) fn is_mapped(address: usize) -> bool {
    // SAFETY: numbers and pointers, for which zero is right.
    let mut info: MEMORY_BASIC_INFORMATION = unsafe { std::mem::zeroed() };
    let len = size_of::<MEMORY_BASIC_INFORMATION>();
    // SAFETY: writes one structure that lives over the call; the address is only looked up.
    let told = unsafe { VirtualQuery(std::ptr::without_provenance(address), &raw mut info, len) };
    told != 0 && info.State == MEM_COMMIT
}

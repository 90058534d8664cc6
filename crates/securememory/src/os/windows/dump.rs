//! Memory that is left out of the reports of Windows Error Reporting. Of those alone: what somebody writes with
//! MiniDumpWriteDump has it nevertheless, and no call of the system keeps it from that.
//!
//! Windows takes 512 such ranges of a process and forgets none by itself, so each is noted here, and withdrawn when its
//! memory is given back.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::{Call, CallError, CallResult, errno};
use super::{Found, find};

/// WER_MAX_REGISTERED_ENTRIES
const MAX: usize = 512;

/// Where the ranges begin; zero: a free place.
static RANGES: [AtomicUsize; MAX] = [const { AtomicUsize::new(0) }; MAX];

const LIBRARY: &[u8] = b"kernel32.dll\0";

/// WerRegisterExcludedMemoryBlock, since Windows 10 of 2017.
pub(super) fn exclude(ptr: NonNull<u8>, len: usize) -> CallResult<()> {
    type Register = unsafe extern "system" fn(*const c_void, u32) -> i32;
    let found = find(Call::Madvise, LIBRARY, b"WerRegisterExcludedMemoryBlock\0")?;
    let bytes = u32::try_from(len).map_err(|_| CallError::new(Call::Madvise, errno::EINVAL))?;
    let at = ptr.as_ptr() as usize;
    // SAFETY: the function of that name has this type.
    let register = unsafe { std::mem::transmute::<Found, Register>(found) };
    // SAFETY: a range of the caller's, which is only noted.
    match unsafe { register(ptr.as_ptr().cast(), bytes) } {
        0 => {}
        result => return Err(CallError::new(Call::Madvise, code(result))),
    }
    if RANGES.iter().all(|range| range.load(Ordering::Acquire) != at) {
        // Where there is no place any more, Windows has none either.
        let take =
            |range: &&AtomicUsize| range.compare_exchange(0, at, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let _ = RANGES.iter().find(take);
    }
    Ok(())
}

/// WerUnregisterExcludedMemoryBlock, for what lies in memory that is given back.
pub(super) fn forget(at: usize, len: usize) {
    type Unregister = unsafe extern "system" fn(*const c_void) -> i32;
    for range in &RANGES {
        let start = range.load(Ordering::Acquire);
        if start != 0
            && start.wrapping_sub(at) < len
            && range.compare_exchange(start, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            && let Ok(found) = find(Call::Madvise, LIBRARY, b"WerUnregisterExcludedMemoryBlock\0")
        {
            // SAFETY: the function of that name has this type.
            let unregister = unsafe { std::mem::transmute::<Found, Unregister>(found) };
            // SAFETY: an address, which is only looked up. What it says changes nothing.
            unsafe { unregister(std::ptr::without_provenance(start)) };
        }
    }
}

/// The Win32 code in an HRESULT, or the HRESULT.
const fn code(result: i32) -> i32 {
    const FACILITY_WIN32: u32 = 0x8007_0000;
    let bits = result.cast_unsigned();
    if bits & 0xFFFF_0000 == FACILITY_WIN32 { (bits & 0xFFFF).cast_signed() } else { result }
}

#[cfg(test)]
mod tests {
    #[test]
    fn codes_come_out_of_results() {
        assert_eq!(super::code(0x8007_007A_u32.cast_signed()), 122);
        assert_eq!(super::code(0x8000_4001_u32.cast_signed()), 0x8000_4001_u32.cast_signed());
    }
}

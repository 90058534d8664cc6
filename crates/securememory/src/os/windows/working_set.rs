//! Locked memory. VirtualLock keeps pages in the working set, up to its minimum less what Windows needs itself. A process may
//! raise that minimum by itself, so it is raised by what is to be locked. SetProcessWorkingSetSize

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::super::{Call, CallResult, injected};
use super::{last_error, succeeded};
use windows_sys::Win32::Foundation::ERROR_WORKING_SET_QUOTA;
use windows_sys::Win32::System::Memory::{VirtualLock, VirtualUnlock};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, GetProcessWorkingSetSize, SetProcessWorkingSetSize,
};

/// What we have locked. Windows does not tell what is locked in a process.
static LOCKED: AtomicU64 = AtomicU64::new(0);

/// The working set grows by so much more, so that it does not for each page.
const STEP: usize = 256 << 10;

/// A range that is locked; zero: a free place. What finds no place counts as locked as long as the process lives.
struct Range {
    start: AtomicUsize,
    bytes: AtomicUsize,
}

static RANGES: [Range; 1024] =
    [const { Range { start: AtomicUsize::new(0), bytes: AtomicUsize::new(0) } }; 1024];

fn note(at: usize, len: usize) {
    if RANGES.iter().any(|range| range.start.load(Ordering::Acquire) == at) {
        return;
    }
    LOCKED.fetch_add(len as u64, Ordering::Relaxed);
    let take =
        |range: &&Range| range.start.compare_exchange(0, at, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    if let Some(range) = RANGES.iter().find(take) {
        range.bytes.store(len, Ordering::Release);
    }
}

/// What lies in this range is locked no more.
pub(super) fn forget(at: usize, len: usize) {
    for range in &RANGES {
        let start = range.start.load(Ordering::Acquire);
        if start != 0 && start.wrapping_sub(at) < len {
            let bytes = range.bytes.swap(0, Ordering::AcqRel);
            LOCKED.fetch_sub(bytes as u64, Ordering::Relaxed);
            range.start.store(0, Ordering::Release);
        }
    }
}

/// VirtualLock; where the working set is too small for it, SetProcessWorkingSetSize and once more.
pub(in crate::os) unsafe fn lock(ptr: NonNull<u8>, len: usize) -> CallResult<()> {
    // SAFETY: locking changes no contents; the pages are the caller's.
    let lock = || succeeded(Call::Mlock, unsafe { VirtualLock(ptr.as_ptr().cast(), len) });
    let outcome = match lock() {
        Err(refused) if refused.errno == ERROR_WORKING_SET_QUOTA.cast_signed() => {
            // Where it cannot be raised, the caller has to hear of what was refused at first.
            grow(len).map_err(|_| refused).and_then(|()| lock())
        }
        outcome => outcome,
    };
    outcome.inspect(|()| note(ptr.as_ptr() as usize, len))
}

fn grow(len: usize) -> CallResult<()> {
    injected(Call::WorkingSet)?;
    let (mut least, mut most) = (0_usize, 0_usize);
    // SAFETY: writes two words that live over the call, and takes two numbers. The handle is always valid.
    unsafe {
        if GetProcessWorkingSetSize(GetCurrentProcess(), &raw mut least, &raw mut most) == 0 {
            return Err(last_error(Call::WorkingSet));
        }
        let more = len.saturating_add(STEP);
        let least = least.saturating_add(more);
        let most = most.max(least.saturating_add(STEP));
        succeeded(Call::WorkingSet, SetProcessWorkingSetSize(GetCurrentProcess(), least, most))
    }
}

pub(in crate::os) unsafe fn unlock(ptr: NonNull<u8>, len: usize) -> CallResult<()> {
    // SAFETY: unlocking changes no contents; the pages are the caller's.
    succeeded(Call::Munlock, unsafe { VirtualUnlock(ptr.as_ptr().cast(), len) })?;
    forget(ptr.as_ptr() as usize, len);
    Ok(())
}

/// The minimum of the working set. It is raised when more is needed, unless that is refused.
pub(in crate::os) fn lock_limit() -> Option<u64> {
    let (mut least, mut most) = (0_usize, 0_usize);
    // SAFETY: writes two words that live over the call.
    let told = unsafe { GetProcessWorkingSetSize(GetCurrentProcess(), &raw mut least, &raw mut most) } != 0;
    told.then_some(least as u64)
}

/// What this library has locked; what others have is not known.
pub(in crate::os) fn locked_now() -> Option<u64> {
    Some(LOCKED.load(Ordering::Relaxed))
}

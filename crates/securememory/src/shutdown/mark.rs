//! Tells a process from its children, without a system call: a number in a page that the kernel wipes in a child.
//!
//! Vaults that a child inherits have no page of their own that is wiped. Each of them remembers the number of the process
//! that it belongs to. In a child the number is gone; the fork hook sets the next one there, and gives it to the vaults that
//! it has made the child's. So whatever it has not, and everything in a child that it knows nothing of, is not alive.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::error::Error;
use crate::os::{self, Access, Advice};

/// No process has it.
pub(crate) const NOBODY: u64 = u64::MAX;

/// The number; null: there is none yet.
static MARK: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
/// The last number that was set. Not wiped: what comes after it was never used before, here or in a process above.
static LAST: AtomicU64 = AtomicU64::new(0);
/// Where the kernel does not wipe the page: the process, which then is asked for each time.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// Sees to it that there is a number, and gives it.
#[allow(unsafe_code)]
pub(crate) fn ensure() -> Result<u64, Error> {
    if MARK.load(Ordering::Acquire).is_null() {
        let page = os::page_size();
        let at = os::map(page)?;
        // SAFETY: for all calls below: a page of ours that nobody else knows yet.
        let made = unsafe {
            os::protect(at, page, Access::ReadWrite).map(|()| os::advise(at, page, Advice::WipeOnFork))
        };
        let free = |error| {
            // SAFETY: as above.
            let _ = unsafe { os::unmap(at, page) };
            error
        };
        let wiped = made.map_err(|cause| free(Error::from(cause)))?;
        if wiped.is_err() {
            PROCESS.store(os::process_id(), Ordering::Release);
        }
        let mark = at.cast::<AtomicU64>();
        // SAFETY: as above; aligned as a page.
        unsafe { mark.as_ref() }.store(LAST.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        let null = std::ptr::null_mut();
        if MARK.compare_exchange(null, mark.as_ptr(), Ordering::AcqRel, Ordering::Acquire).is_err() {
            free(Error::Forked);
        }
    }
    match now() {
        0 => renew(),
        now => Ok(now),
    }
}

/// The number of this process. Zero in a child that nobody was told of, which no vault has.
#[inline]
#[allow(unsafe_code)]
pub(crate) fn now() -> u64 {
    // SAFETY: null, or a page that is never unmapped.
    let mark = unsafe { MARK.load(Ordering::Acquire).as_ref() };
    let mark = mark.map_or(0, |mark| mark.load(Ordering::Relaxed));
    match PROCESS.load(Ordering::Relaxed) {
        0 => mark,
        process if process == os::process_id() => mark,
        _ => 0,
    }
}

/// Sets the next number, if there is one: in a child.
#[allow(unsafe_code)]
pub(crate) fn renew() -> Result<u64, Error> {
    let mark = NonNull::new(MARK.load(Ordering::Acquire)).ok_or(Error::Forked)?;
    if PROCESS.load(Ordering::Relaxed) != 0 {
        PROCESS.store(os::process_id(), Ordering::Relaxed);
    }
    let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    // SAFETY: a page that is never unmapped.
    unsafe { mark.as_ref() }.store(number, Ordering::Relaxed);
    Ok(number)
}

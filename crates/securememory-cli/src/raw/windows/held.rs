//! A process that is held at its end: by a filter of unhandled exceptions that was there before the library's, and is
//! called after it, when the library has done what it does.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use windows_sys::Win32::System::Diagnostics::Debug::{
    EXCEPTION_CONTINUE_SEARCH, EXCEPTION_POINTERS, SetUnhandledExceptionFilter,
};
use windows_sys::Win32::System::Threading::{GetCurrentThreadStackLimits, Sleep};

/// Two words: zero until the process has come to its end; and zero until it may end.
static ENDS: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];

/// Where the two words are, for who looks from outside.
pub struct Ends;

impl Ends {
    /// Where the word is that says that the process has come to its end.
    pub fn held() -> usize {
        ENDS[0].as_ptr().expose_provenance()
    }

    /// Where the word is that lets it go on.
    pub fn go_on(held: usize) -> usize {
        held + size_of::<AtomicU32>()
    }
}

/// From now on an exception that nobody has handled holds the process, until somebody says that it may end.
/// SetUnhandledExceptionFilter
pub fn hold_at_end() {
    // SAFETY: the function lives as long as the program, and may be called for anything.
    unsafe { SetUnhandledExceptionFilter(Some(hold)) };
}

unsafe extern "system" fn hold(_: *const EXCEPTION_POINTERS) -> i32 {
    ENDS[0].store(1, Ordering::SeqCst);
    while ENDS[1].load(Ordering::SeqCst) == 0 {
        // SAFETY: a number only.
        unsafe { Sleep(1) };
    }
    EXCEPTION_CONTINUE_SEARCH
}

/// The stack of this thread, on which the system saves its registers for an exception. GetCurrentThreadStackLimits
pub fn stack() -> Range<usize> {
    let (mut low, mut high) = (0, 0);
    // SAFETY: writes two words that live over the call.
    unsafe { GetCurrentThreadStackLimits(&raw mut low, &raw mut high) };
    low..high
}

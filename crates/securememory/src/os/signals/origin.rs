//! What came with a signal: which it was, who has sent it, what has failed. Dying, as all of [`super`].

// Reason: reads what the kernel has written; every block says why it is sound.
#![allow(unsafe_code)]

use std::ffi::c_int;

use super::super::sys::codes;
use super::Info;

/// As many words are in it.
pub(crate) const WORDS: usize = size_of::<Info>() / size_of::<u64>();
const _: () = assert!(size_of::<Info>() == size_of::<[u64; WORDS]>());

/// What an access fault was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The page is there, and does not allow it.
    Denied,
    /// There is no such page.
    Unmapped,
    /// The page is there, and its memory is not.
    Lost,
}

/// What kind of access has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "not every processor tells all of it")]
pub(crate) enum Attempt {
    Read,
    Write,
    Execute,
    Unknown,
}

/// Did the kernel raise it for what the thread has done? Else somebody has sent it.
pub(crate) fn is_fault(code: c_int) -> bool {
    codes::is_fault(code)
}

/// What has failed, if the signal is about an access to memory. Of one that was sent it says nothing.
pub(crate) fn failure(signal: c_int, code: c_int) -> Option<Failure> {
    match signal {
        libc::SIGSEGV | libc::SIGBUS => Some(codes::failure(signal, code)),
        _ => None,
    }
}

/// Does a fault come again if the thread goes on as before?
pub(crate) fn recurs(signal: c_int, code: c_int) -> bool {
    is_fault(code)
        && match signal {
            libc::SIGBUS => code != codes::NOT_OF_THIS_THREAD,
            libc::SIGSEGV | libc::SIGILL | libc::SIGFPE => true,
            _ => false,
        }
}

/// Is it the code of a signal that a thread has sent to a thread?
pub(crate) fn is_raised(code: c_int) -> bool {
    code == codes::RAISED
}

/// What would come with a signal that this process sends to itself.
pub(crate) fn words_of(signal: c_int) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    let info = words.as_mut_ptr().cast::<Info>();
    // SAFETY: as large as it is.
    unsafe {
        (*info).si_signo = signal;
        (*info).si_code = codes::RAISED;
    }
    words
}

/// One word of what came with a signal.
///
/// # Safety
///
/// `info` is what a handler was called with; `index` is below [`WORDS`].
pub(crate) unsafe fn word(info: *const Info, index: usize) -> u64 {
    // SAFETY: as the caller vouches; the kernel writes all of it.
    unsafe { info.cast::<u64>().add(index).read_unaligned() }
}

/// Who has sent a signal, and what with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) process: u32,
    pub(crate) user: u32,
    pub(crate) value: usize,
    code: c_int,
}

impl Origin {
    /// Of the words that came with a signal.
    pub(crate) fn of(words: &[u64; WORDS]) -> Self {
        let info = words.as_ptr().cast::<Info>();
        // SAFETY: as large, and any bits are right for the numbers that are read here. Which of them mean something
        // depends on the code, and is for the caller to know.
        unsafe {
            Self {
                code: (*info).si_code,
                process: (*info).si_pid().unsigned_abs(),
                user: (*info).si_uid(),
                value: (*info).si_value().sival_ptr.addr(),
            }
        }
    }

    /// Has a process sent it? Then process and user mean something.
    pub(crate) fn is_process(&self) -> bool {
        codes::SENT.contains(&self.code) || self.is_queued()
    }

    /// Has a process sent it with a value?
    pub(crate) fn is_queued(&self) -> bool {
        codes::QUEUED == Some(self.code)
    }
}

/// What came with a signal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    pub(crate) code: c_int,
    pub(crate) address: usize,
    /// Who has sent it, if somebody has.
    pub(crate) sender: c_int,
}

/// Reads what came with a signal.
///
/// # Safety
///
/// `info` is what a handler was called with.
pub(crate) unsafe fn words(info: *const Info) -> Words {
    // SAFETY: as the caller vouches. For a sent signal the address is other numbers, and for a fault the sender is; which
    // is for the caller to know.
    unsafe { Words { code: (*info).si_code, address: (*info).si_addr().addr(), sender: (*info).si_pid() } }
}

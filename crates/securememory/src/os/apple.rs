//! What is particular to macOS and its relatives (Darwin).
//!
//! A child can be kept from pages only by not having them at all (`VM_INHERIT_NONE`): so whoever might be a child asks for
//! the number of the process first, see [`crate::shutdown::mark`] and the anchor of a vault. Pages cannot be left out of
//! core dumps; there are none unless `RLIMIT_CORE` is raised. An access that the protection of a page forbids is SIGBUS, one
//! to no page SIGSEGV.
//!
//! Sources: XNU, bsd/sys/mman.h, bsd/sys/_types/_ucontext.h, osfmk/mach/{i386,arm}/_structs.h, bsd/dev/{i386,arm}/
//! unix_signal.c; mmap(2), minherit(2), madvise(2), os_sync_wait_on_address(3).

// Reason: functions of the C library, and what the kernel has put on the stack; every block says why it is sound.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering, fence};
use std::time::Duration;

use super::posix::{keeping_errno, nap_on};
use super::signals::Attempt;
use super::{Advice, Call, CallError, CallResult};

pub(super) const NAME: &str = "apple";
pub(super) const WIPES_ON_FORK: bool = false;
pub(super) const LEAVES_OUT_OF_DUMPS: bool = false;
/// Since version 14.4; before it threads look every few milliseconds.
pub(super) const SLEEPS_ON_WORDS: bool = true;

pub(super) const MAP_FLAGS: c_int = 0;
pub(super) const FLAGS_OF_ITS_OWN: c_int = 0;
/// Stands still while the machine sleeps, and costs no system call.
pub(super) const COARSE: libc::clockid_t = libc::CLOCK_UPTIME_RAW_APPROX;
/// Goes on while it sleeps.
pub(super) const BOOT: libc::clockid_t = libc::CLOCK_MONOTONIC_RAW;

#[inline]
pub(super) fn errno_place() -> *mut c_int {
    // SAFETY: gives an address that is valid while the thread lives, and used by this thread only.
    unsafe { libc::__error() }
}

pub(super) unsafe fn advise(ptr: NonNull<u8>, len: usize, advice: Advice) -> CallResult<()> {
    match advice {
        Advice::DontFork => {
            // SAFETY: concerns children only; the pages are the caller's.
            keeping_errno(|| {
                unsafe { libc::minherit(ptr.as_ptr().cast(), len, libc::VM_INHERIT_NONE) }.into()
            })
            .map(drop)
            .map_err(|errno| CallError::new(Call::Madvise, errno))
        }
        Advice::DontDump | Advice::WipeOnFork | Advice::Unmergeable => {
            Err(CallError::new(Call::Madvise, libc::ENOTSUP))
        }
    }
}

/// Pages that are locked when they are given back are to be zeroed before anybody else gets them. That is more than was
/// asked for, so a refusal does not matter. madvise(2), `MADV_ZERO_WIRED_PAGES`.
pub(super) unsafe fn locked(ptr: NonNull<u8>, len: usize) {
    // SAFETY: concerns pages that are given back; they are the caller's.
    let _ = keeping_errno(|| unsafe {
        libc::madvise(ptr.as_ptr().cast(), len, libc::MADV_ZERO_WIRED_PAGES).into()
    });
}

pub(super) unsafe fn try_guard(_: NonNull<u8>, _: usize) -> CallResult<()> {
    Err(CallError::new(Call::Madvise, libc::ENOTSUP))
}

/// pthread_threadid_np(3)
#[inline]
pub(super) fn thread_id() -> u64 {
    let mut id = 0;
    // SAFETY: this thread's, written to a place of ours.
    unsafe { libc::pthread_threadid_np(0 as libc::pthread_t, &raw mut id) };
    id
}

/// It cannot be asked in a signal handler.
pub(super) fn is_thread(_: u32) -> bool {
    true
}

pub(super) fn real_time() -> Option<(c_int, c_int)> {
    None
}

type Wait = unsafe extern "C" fn(*mut c_void, u64, usize, u32) -> c_int;
type WaitFor = unsafe extern "C" fn(*mut c_void, u64, usize, u32, u32, u64) -> c_int;
type Wake = unsafe extern "C" fn(*mut c_void, usize, u32) -> c_int;

/// `OS_CLOCK_MACH_ABSOLUTE_TIME`.
const MACH_ABSOLUTE_TIME: u32 = 32;

/// Functions that there are since macOS 14.4, looked up by who first waits: an older system has none, and then everybody
/// naps. Null: not looked up yet, or there is none.
static WAIT: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static WAIT_FOR: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static WAKE: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static LOOKED_UP: AtomicU32 = AtomicU32::new(0);

fn look_up() {
    if LOOKED_UP.load(Ordering::Acquire) == 0 {
        let function = |name: &std::ffi::CStr| {
            // SAFETY: a name that ends; asks only.
            unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
        };
        // First, so that nobody sleeps whom nobody could wake.
        WAKE.store(function(c"os_sync_wake_by_address_all"), Ordering::Release);
        WAIT_FOR.store(function(c"os_sync_wait_on_address_with_timeout"), Ordering::Release);
        WAIT.store(function(c"os_sync_wait_on_address"), Ordering::Release);
        LOOKED_UP.store(1, Ordering::Release);
    }
    // Who wakes has changed the word before it looks for the function; we have stored the function before the kernel looks
    // at the word. One of the two sees the other.
    fence(Ordering::SeqCst);
}

pub(super) fn wait_on(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    look_up();
    let (wait, wait_for) = (WAIT.load(Ordering::Acquire), WAIT_FOR.load(Ordering::Acquire));
    if wait.is_null() || wait_for.is_null() || WAKE.load(Ordering::Acquire).is_null() {
        return nap_on(word, expected, timeout);
    }
    let at = word.as_ptr().cast::<c_void>();
    let (expected, size) = (u64::from(expected), size_of::<u32>());
    // Woken, timed out, interrupted or too late: the caller looks at the word again in any case.
    // SAFETY: the functions have these types; the word lives over the call.
    let _ = keeping_errno(|| unsafe {
        match timeout {
            None => std::mem::transmute::<*mut c_void, Wait>(wait)(at, expected, size, 0).into(),
            // A time of zero is refused, and a long one is as good as the longest.
            Some(time) => {
                let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX >> 1).max(1);
                std::mem::transmute::<*mut c_void, WaitFor>(wait_for)(
                    at,
                    expected,
                    size,
                    0,
                    MACH_ABSOLUTE_TIME,
                    time,
                )
                .into()
            }
        }
    });
}

pub(super) fn wake_all(word: &AtomicU32) {
    // See `look_up`.
    fence(Ordering::SeqCst);
    let wake = WAKE.load(Ordering::Acquire);
    if !wake.is_null() {
        // SAFETY: the function has this type; the word lives over the call. Nobody waiting is an error that tells nothing.
        let _ = keeping_errno(|| unsafe {
            let wake = std::mem::transmute::<*mut c_void, Wake>(wake);
            wake(word.as_ptr().cast(), size_of::<u32>(), 0).into()
        });
    }
}

/// What the codes of signals mean.
pub(super) mod codes {
    use super::super::signals::Failure;
    use std::ffi::c_int;

    const SEGV_MAPERR: c_int = 1;
    /// `SI_USER` and what follows.
    const OTHERS: c_int = 0x1_0000;

    /// The headers have other codes, but a signal that was sent comes with zero.
    pub(in super::super) const RAISED: c_int = 0;
    pub(in super::super) const SENT: [c_int; 2] = [0, 0x1_0001];
    /// There is no sigqueue(3).
    pub(in super::super) const QUEUED: Option<c_int> = None;
    /// There is none.
    pub(in super::super) const NOT_OF_THIS_THREAD: c_int = c_int::MIN;

    pub(in super::super) fn is_fault(code: c_int) -> bool {
        0 < code && code < OTHERS
    }

    /// That memory was lost is not told apart from that its protection forbids an access.
    pub(in super::super) fn failure(signal: c_int, code: c_int) -> Failure {
        match (signal, code) {
            (libc::SIGSEGV, SEGV_MAPERR) => Failure::Unmapped,
            _ => Failure::Denied,
        }
    }
}

/// Sets of signals are one word.
pub(super) type SetWord = u32;

/// `struct __darwin_ucontext`.
#[repr(C)]
pub(crate) struct Context {
    on_stack: c_int,
    mask: libc::sigset_t,
    stack: libc::stack_t,
    link: *mut Context,
    /// Bytes of what follows.
    size: usize,
    /// `struct __darwin_mcontext64`, or a larger one that begins like it.
    machine: *mut u8,
}

/// # Safety
///
/// `context` is one, or of zeros.
pub(super) unsafe fn mask_in(context: *mut Context) -> *mut libc::sigset_t {
    // SAFETY: inside of it.
    unsafe { &raw mut (*context).mask }
}

/// Bytes from the beginning of the machine's part to the stack pointer: after 16 bytes of the exception, on Intel the eighth of
/// the registers `rax rbx rcx rdx rdi rsi rbp rsp`, on Arm the one after `x0` to `x28`, `fp` and `lr`.
const STACK_POINTER: usize = 16 + 8 * if cfg!(target_arch = "x86_64") { 7 } else { 31 };

/// # Safety
///
/// `context` is what a handler was called with, or was made by us.
pub(super) unsafe fn stack_pointer(context: *const Context) -> Option<usize> {
    // SAFETY: as the caller vouches.
    unsafe {
        let machine = (*context).machine;
        (!machine.is_null()).then(|| machine.add(STACK_POINTER).cast::<usize>().read_unaligned())
    }
}

/// # Safety
///
/// `context` is what a handler was called with for an access fault.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn attempt(context: *const Context) -> Attempt {
    const PAGE_FAULT: u16 = 14;
    // `__trapno`, `__cpu`, `__err`; the latter as the processor gives it.
    // SAFETY: as the caller vouches.
    let (trap, error) = unsafe {
        let machine = (*context).machine;
        if machine.is_null() {
            return Attempt::Unknown;
        }
        (machine.cast::<u16>().read_unaligned(), machine.add(4).cast::<u32>().read_unaligned())
    };
    match (trap, error & 2 != 0, error & 16 != 0) {
        (PAGE_FAULT, true, _) => Attempt::Write,
        (PAGE_FAULT, _, true) => Attempt::Execute,
        (PAGE_FAULT, ..) => Attempt::Read,
        _ => Attempt::Unknown,
    }
}

/// # Safety
///
/// `context` is what a handler was called with for an access fault.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn attempt(context: *const Context) -> Attempt {
    // `__far`, `__esr`. Arm ARM, ESR_EL1: class in bits 26 to 31, and for a data abort bit 6 is set for a write.
    // SAFETY: as the caller vouches.
    let syndrome = unsafe {
        let machine = (*context).machine;
        if machine.is_null() {
            return Attempt::Unknown;
        }
        machine.add(8).cast::<u32>().read_unaligned()
    };
    match (syndrome >> 26 & 0x3F, syndrome >> 6 & 1) {
        (0x24 | 0x25, 1) => Attempt::Write,
        (0x24 | 0x25, _) => Attempt::Read,
        (0x20 | 0x21, _) => Attempt::Execute,
        _ => Attempt::Unknown,
    }
}

/// # Safety
///
/// `context` is what a handler was called with, and what was interrupted does not need them.
pub(super) unsafe fn wipe_vectors(context: *mut Context) {
    // From the beginning of the machine's part: on Intel the halves of `ymm` that are the `xmm` (after 16 bytes of the
    // exception, 168 of registers and 168 of the floating-point unit), and where it is as large as that, all that follows
    // what is reserved behind them: upper halves, masks and `zmm`. On Arm `v0` to `v31` (after 16, and 272 of registers).
    // SAFETY: as the caller vouches; inside of what the kernel has written.
    unsafe {
        let (machine, size) = ((*context).machine, (*context).size);
        if machine.is_null() {
            return;
        }
        let zero = |from: usize, to: usize| {
            let mut at = from;
            while at < to.min(size) {
                // Volatile, so that it is neither left out nor made a call.
                machine.add(at).write_volatile(0);
                at = at.wrapping_add(1);
            }
        };
        if cfg!(target_arch = "x86_64") {
            zero(352, 608);
            zero(772, size);
        } else {
            zero(288, 800);
        }
    }
}

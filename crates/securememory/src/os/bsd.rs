//! What is particular to FreeBSD, OpenBSD and NetBSD.
//!
//! Each wipes pages in a child (minherit(2)). FreeBSD leaves pages out of core dumps by madvise(2), OpenBSD those that were
//! mapped for it, NetBSD none.
//!
//! FreeBSD has files in memory (`SHM_ANON` in shm_open(2)), which are not used for shares of keys: whether all that a share
//! relies on holds for them (that nobody can seal them, that a truncation gives the page back at once, that a read beside a
//! truncation is an error) could not be tried. Nor are guards made with `MAP_GUARD`: a slab's are part of one mapping without
//! access, and would each be one of their own.
//!
//! Sources: the manuals of the calls, and sys/sys/signal.h, sys/{amd64,arm64}/include/ucontext.h and the like.

// Reason: functions of the C library, and what the kernel has put on the stack; every block says why it is sound.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use super::posix::keeping_errno;
use super::signals::Attempt;
use super::{Advice, Call, CallError, CallResult};

pub(super) const NAME: &str = "bsd";
pub(super) const WIPES_ON_FORK: bool = true;
pub(super) const LEAVES_OUT_OF_DUMPS: bool = !cfg!(target_os = "netbsd");
pub(super) const SLEEPS_ON_WORDS: bool = !cfg!(target_os = "netbsd");

/// On OpenBSD pages are left out of core dumps from the start, or not at all.
#[cfg(target_os = "openbsd")]
pub(super) const MAP_FLAGS: c_int = libc::MAP_CONCEAL;
#[cfg(not(target_os = "openbsd"))]
pub(super) const MAP_FLAGS: c_int = 0;

pub(super) const FLAGS_OF_ITS_OWN: c_int = 0;

#[cfg(target_os = "freebsd")]
pub(super) const COARSE: libc::clockid_t = libc::CLOCK_MONOTONIC_FAST;
#[cfg(not(target_os = "freebsd"))]
pub(super) const COARSE: libc::clockid_t = libc::CLOCK_MONOTONIC;
#[cfg(target_os = "openbsd")]
pub(super) const BOOT: libc::clockid_t = libc::CLOCK_BOOTTIME;
/// It may stand still while the machine sleeps; there is no other one that only rises.
#[cfg(not(target_os = "openbsd"))]
pub(super) const BOOT: libc::clockid_t = libc::CLOCK_MONOTONIC;

#[cfg(target_os = "freebsd")]
mod inherit {
    pub(super) const ZERO: i32 = libc::INHERIT_ZERO;
    pub(super) const NONE: i32 = libc::INHERIT_NONE;
}
#[cfg(not(target_os = "freebsd"))]
mod inherit {
    pub(super) const ZERO: i32 = libc::MAP_INHERIT_ZERO;
    pub(super) const NONE: i32 = libc::MAP_INHERIT_NONE;
}

#[inline]
pub(super) fn errno_place() -> *mut c_int {
    // SAFETY: gives an address that is valid while the thread lives, and used by this thread only.
    unsafe {
        #[cfg(target_os = "freebsd")]
        let place = libc::__error();
        #[cfg(not(target_os = "freebsd"))]
        let place = libc::__errno();
        place
    }
}

pub(super) unsafe fn advise(ptr: NonNull<u8>, len: usize, advice: Advice) -> CallResult<()> {
    let at = ptr.as_ptr().cast::<c_void>();
    // SAFETY: none of these changes contents in this process; the pages are the caller's.
    let outcome = match advice {
        Advice::WipeOnFork => keeping_errno(|| unsafe { libc::minherit(at, len, inherit::ZERO) }.into()),
        Advice::DontFork => keeping_errno(|| unsafe { libc::minherit(at, len, inherit::NONE) }.into()),
        #[cfg(target_os = "freebsd")]
        Advice::DontDump => keeping_errno(|| unsafe { libc::madvise(at, len, libc::MADV_NOCORE) }.into()),
        // See `MAP_FLAGS`.
        #[cfg(target_os = "openbsd")]
        Advice::DontDump => Ok(0),
        #[cfg(target_os = "netbsd")]
        Advice::DontDump => Err(libc::ENOTSUP),
        // None of them merges pages.
        Advice::Unmergeable => Err(libc::ENOTSUP),
    };
    outcome.map(drop).map_err(|errno| CallError::new(Call::Madvise, errno))
}

pub(super) unsafe fn locked(_: NonNull<u8>, _: usize) {}

/// Makes pages guards, which no protection opens. mmap(2), `MAP_GUARD`.
#[cfg(target_os = "freebsd")]
pub(super) unsafe fn try_guard(ptr: NonNull<u8>, len: usize) -> CallResult<()> {
    // SAFETY: the pages are the caller's; what is in them is lost.
    keeping_errno(|| unsafe {
        let flags = libc::MAP_GUARD | libc::MAP_FIXED;
        libc::mmap(ptr.as_ptr().cast(), len, libc::PROT_NONE, flags, -1, 0).expose_provenance() as _
    })
    .map(drop)
    .map_err(|errno| CallError::new(Call::Mmap, errno))
}

#[cfg(not(target_os = "freebsd"))]
pub(super) unsafe fn try_guard(_: NonNull<u8>, _: usize) -> CallResult<()> {
    Err(CallError::new(Call::Madvise, libc::ENOTSUP))
}

#[inline]
pub(super) fn thread_id() -> u64 {
    #[cfg(target_os = "freebsd")]
    {
        let mut id = 0;
        // SAFETY: this thread's, written to a place of ours.
        unsafe { libc::thr_self(&raw mut id) };
        id.unsigned_abs()
    }
    #[cfg(target_os = "openbsd")]
    // SAFETY: asks for a number.
    return unsafe { libc::getthrid() }.unsigned_abs().into();
    #[cfg(target_os = "netbsd")]
    // SAFETY: asks for a number.
    return unsafe { libc::_lwp_self() }.unsigned_abs().into();
}

#[cfg(target_os = "openbsd")]
unsafe extern "C" {
    /// thrkill(2)
    fn thrkill(thread: libc::pid_t, signal: c_int, tcb: *mut c_void) -> c_int;
}

#[cfg(target_os = "netbsd")]
unsafe extern "C" {
    /// _lwp_kill(2)
    fn _lwp_kill(thread: libc::lwpid_t, signal: c_int) -> c_int;
}

pub(super) fn is_thread(thread: u32) -> bool {
    // SAFETY: numbers only; nothing is sent.
    let asked = keeping_errno(|| unsafe {
        #[cfg(target_os = "freebsd")]
        let asked = libc::thr_kill(thread.into(), 0);
        #[cfg(target_os = "openbsd")]
        let asked = thrkill(thread as libc::pid_t, 0, std::ptr::null_mut());
        #[cfg(target_os = "netbsd")]
        let asked = _lwp_kill(thread as libc::lwpid_t, 0);
        asked.into()
    });
    asked != Err(libc::ESRCH)
}

/// FreeBSD's are above 64, and masks of ours end there. OpenBSD has none.
pub(super) fn real_time() -> Option<(c_int, c_int)> {
    // signal.h, `SIGRTMIN` and `SIGRTMAX`.
    if cfg!(target_os = "netbsd") { Some((33, 63)) } else { None }
}

#[cfg(target_os = "freebsd")]
pub(super) fn wait_on(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    let mut time = timeout.map(|time| libc::_umtx_time {
        _timeout: timespec(time),
        // From now on.
        _flags: 0,
        _clockid: libc::CLOCK_MONOTONIC as u32,
    });
    // Without a time both are null.
    let (size, time) = time.as_mut().map_or((0, std::ptr::null_mut()), |time| {
        (size_of::<libc::_umtx_time>(), std::ptr::from_mut(time).cast::<c_void>())
    });
    // Woken, timed out, interrupted or too late: the caller looks at the word again in any case.
    // SAFETY: word and time live over the call, which reads them. _umtx_op(2)
    let _ = keeping_errno(|| unsafe {
        libc::_umtx_op(
            word.as_ptr().cast(),
            libc::UMTX_OP_WAIT_UINT_PRIVATE,
            expected.into(),
            std::ptr::without_provenance_mut(size),
            time,
        )
        .into()
    });
}

#[cfg(target_os = "freebsd")]
pub(super) fn wake_all(word: &AtomicU32) {
    let null = std::ptr::null_mut();
    // SAFETY: the word's address, and how many. _umtx_op(2)
    let _ = keeping_errno(|| unsafe {
        libc::_umtx_op(word.as_ptr().cast(), libc::UMTX_OP_WAKE_PRIVATE, i32::MAX as _, null, null).into()
    });
}

#[cfg(target_os = "openbsd")]
pub(super) fn wait_on(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    let time = timeout.map(timespec);
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: word and time live over the call, which reads them. futex(2)
    let _ = keeping_errno(|| unsafe {
        let wait = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        libc::futex(word.as_ptr(), wait, expected as c_int, time, std::ptr::null_mut()).into()
    });
}

#[cfg(target_os = "openbsd")]
pub(super) fn wake_all(word: &AtomicU32) {
    // SAFETY: the word's address, and how many. futex(2)
    let _ = keeping_errno(|| unsafe {
        let wake = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
        libc::futex(word.as_ptr(), wake, c_int::MAX, std::ptr::null(), std::ptr::null_mut()).into()
    });
}

/// Its futex(2) has no function in the C library.
#[cfg(target_os = "netbsd")]
pub(super) fn wait_on(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    super::posix::nap_on(word, expected, timeout);
}

/// Who naps sees by itself that the word has changed.
#[cfg(target_os = "netbsd")]
pub(super) fn wake_all(_: &AtomicU32) {}

#[cfg(not(target_os = "netbsd"))]
fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos() as _,
    }
}

/// What the codes of signals mean. siginfo(3), sigaction(2)
pub(super) mod codes {
    use super::super::signals::Failure;
    use std::ffi::c_int;

    const SEGV_MAPERR: c_int = 1;
    const BUS_ADRERR: c_int = 2;
    const BUS_OBJERR: c_int = 3;

    #[cfg(target_os = "freebsd")]
    mod sent {
        use std::ffi::c_int;

        pub(super) const USER: c_int = 0x1_0001;
        pub(super) const QUEUE: c_int = 0x1_0002;
        pub(super) const THREAD: c_int = 0x1_0007;
        /// The codes of those that were sent are the high ones.
        pub(super) const FAULTS_END: c_int = 0x1_0000;
    }
    #[cfg(target_os = "openbsd")]
    mod sent {
        use std::ffi::c_int;

        pub(super) const USER: c_int = 0;
        pub(super) const THREAD: c_int = -1;
        pub(super) const QUEUE: c_int = -2;
        pub(super) const FAULTS_END: c_int = c_int::MAX;
    }
    #[cfg(target_os = "netbsd")]
    mod sent {
        use std::ffi::c_int;

        pub(super) const USER: c_int = 0;
        pub(super) const QUEUE: c_int = -1;
        pub(super) const THREAD: c_int = -5;
        pub(super) const FAULTS_END: c_int = c_int::MAX;
    }

    pub(in super::super) const RAISED: c_int = sent::THREAD;
    pub(in super::super) const SENT: [c_int; 2] = [sent::USER, sent::THREAD];
    pub(in super::super) const QUEUED: Option<c_int> = Some(sent::QUEUE);
    /// There is none.
    pub(in super::super) const NOT_OF_THIS_THREAD: c_int = c_int::MIN;

    pub(in super::super) fn is_fault(code: c_int) -> bool {
        0 < code && code < sent::FAULTS_END
    }

    pub(in super::super) fn failure(signal: c_int, code: c_int) -> Failure {
        // FreeBSD before 7, and programs that are marked to be older, get SIGBUS with another code where a protection
        // forbids an access; NetBSD has two codes for memory that is not there.
        match (signal, code) {
            (libc::SIGBUS, BUS_OBJERR) => Failure::Lost,
            (libc::SIGBUS, BUS_ADRERR) if cfg!(target_os = "netbsd") => Failure::Lost,
            // FreeBSD's `BUS_OOMERR`.
            (libc::SIGBUS, 100) if cfg!(target_os = "freebsd") => Failure::Lost,
            (libc::SIGSEGV, SEGV_MAPERR) => Failure::Unmapped,
            _ => Failure::Denied,
        }
    }
}

/// Sets of signals are arrays of these, or one.
pub(super) type SetWord = u32;

pub(super) type Context = libc::ucontext_t;

/// # Safety
///
/// `context` is one, or of zeros.
pub(super) unsafe fn mask_in(context: *mut Context) -> *mut libc::sigset_t {
    // SAFETY: inside of it.
    unsafe {
        #[cfg(target_os = "openbsd")]
        let mask = (&raw mut (*context).sc_mask).cast();
        #[cfg(not(target_os = "openbsd"))]
        let mask = &raw mut (*context).uc_sigmask;
        mask
    }
}

/// # Safety
///
/// `context` is what a handler was called with, or was made by us.
pub(super) unsafe fn stack_pointer(context: *const Context) -> Option<usize> {
    // SAFETY: as the caller vouches.
    unsafe {
        #[cfg(all(target_os = "freebsd", target_arch = "x86_64"))]
        return Some((*context).uc_mcontext.mc_rsp as usize);
        #[cfg(all(target_os = "freebsd", target_arch = "aarch64"))]
        return Some((*context).uc_mcontext.mc_gpregs.gp_sp as usize);
        #[cfg(all(target_os = "openbsd", target_arch = "x86_64"))]
        return Some((*context).sc_rsp as usize);
        #[cfg(all(target_os = "openbsd", target_arch = "aarch64"))]
        return Some((*context).sc_sp as usize);
        #[cfg(all(target_os = "netbsd", target_arch = "x86_64"))]
        return Some((*context).uc_mcontext.__gregs[libc::_REG_RSP as usize] as usize);
        #[cfg(all(target_os = "netbsd", target_arch = "aarch64"))]
        return Some((*context).uc_mcontext.__gregs[libc::_REG_SP as usize] as usize);
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            let _ = context;
            None
        }
    }
}

/// The number of a page fault, and what the processor has said of it.
///
/// # Safety
///
/// `context` is what a handler was called with for an access fault.
#[cfg(target_arch = "x86_64")]
unsafe fn trap(context: *const Context) -> (bool, u64) {
    /// `T_PAGEFLT` of machine/trap.h.
    const PAGE_FAULT: u64 = if cfg!(target_os = "freebsd") { 12 } else { 6 };
    // SAFETY: as the caller vouches.
    unsafe {
        #[cfg(target_os = "freebsd")]
        let (trap, error) =
            (u64::from((*context).uc_mcontext.mc_trapno), (*context).uc_mcontext.mc_err as u64);
        #[cfg(target_os = "openbsd")]
        let (trap, error) = ((*context).sc_trapno as u64, (*context).sc_err as u64);
        #[cfg(target_os = "netbsd")]
        let (trap, error) = {
            let registers = &(*context).uc_mcontext.__gregs;
            (registers[libc::_REG_TRAPNO as usize], registers[libc::_REG_ERR as usize])
        };
        (trap == PAGE_FAULT, error)
    }
}

/// # Safety
///
/// `context` is what a handler was called with for an access fault.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn attempt(context: *const Context) -> Attempt {
    // SAFETY: as the caller vouches.
    let (is_page_fault, error) = unsafe { trap(context) };
    match (is_page_fault, error & 2 != 0, error & 16 != 0) {
        (true, true, _) => Attempt::Write,
        (true, _, true) => Attempt::Execute,
        (true, ..) => Attempt::Read,
        _ => Attempt::Unknown,
    }
}

/// Other processors: not told.
///
/// # Safety
///
/// None.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn attempt(_: *const Context) -> Attempt {
    Attempt::Unknown
}

/// # Safety
///
/// `context` is what a handler was called with, and what was interrupted does not need them.
#[cfg(target_os = "freebsd")]
pub(super) unsafe fn wipe_vectors(context: *mut Context) {
    // SAFETY: as the caller vouches; inside of what the kernel has written. Volatile, so that it is neither left out nor made
    // a call.
    unsafe {
        let zero = |at: *mut u8, len: usize| {
            let mut done = 0_usize;
            while done < len {
                at.add(done).write_volatile(0);
                done = done.wrapping_add(1);
            }
        };
        #[cfg(target_arch = "x86_64")]
        {
            let machine = &raw mut (*context).uc_mcontext;
            // The area of FXSAVE, in which the registers begin at byte 160.
            zero((&raw mut (*machine).mc_fpstate).cast::<u8>().add(160), 256);
            // What XSAVE has beyond it, after a head of 64 bytes.
            let (rest, len) = ((*machine).mc_xfpustate as usize, (*machine).mc_xfpustate_len as usize);
            if rest != 0 && len > 64 {
                zero(std::ptr::with_exposed_provenance_mut::<u8>(rest).add(64), len.wrapping_sub(64));
            }
        }
        #[cfg(target_arch = "aarch64")]
        zero((&raw mut (*context).uc_mcontext.mc_fpregs.fp_q).cast(), 512);
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = (context, zero);
    }
}

/// They stay.
///
/// # Safety
///
/// None.
#[cfg(not(target_os = "freebsd"))]
pub(super) unsafe fn wipe_vectors(_: *mut Context) {}

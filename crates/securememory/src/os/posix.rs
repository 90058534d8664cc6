//! The backend for Unix systems that are not Linux: what POSIX says, by the C library. What it does not say is in the
//! system's own module: [`system`].
//!
//! There are no memory protection keys, no memory that is hidden from the kernel's map, and no in-memory files that would do
//! for a key's share, so a key is always held in guarded pages; and there is no listing in which the kernel tells what is in
//! force on pages, so what was asked for is "unverified".
//!
//! With `--cfg securememory_posix` this is the backend on Linux, too, so that the tests run over it; and with `--cfg
//! securememory_posix_absent` in addition a child does not find its parent's pages wiped, but finds none, as on macOS.

// Reason: functions of the C library; every block says why it is sound.
#![allow(unsafe_code)]

mod probe;
pub(crate) mod process;
pub(crate) mod room;
pub(crate) mod signals;

#[cfg(target_vendor = "apple")]
use super::apple as system;
#[cfg(any(target_os = "freebsd", target_os = "openbsd", target_os = "netbsd"))]
use super::bsd as system;
#[cfg(any(target_os = "linux", target_os = "android"))]
use super::posix_on_linux as system;

use super::{Access, Build, Call, CallError, CallResult, RangeFlags};
use std::ffi::{c_int, c_long, c_void};
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(crate) use super::absent::{ProtectionKey, SecretFile, ShareFile};
pub(super) use super::unix::{keeping_errno, on_fork, page_size, with_signals_blocked};
pub(super) use system::{
    FLAGS_OF_ITS_OWN, advise, codes, errno_place, real_time, thread_id, try_guard, wait_on, wake_all,
};

pub(super) const BUILD: Build = Build {
    backend: system::NAME,
    split: false,
    pkey: false,
    secretmem: false,
    wipe_on_fork: system::WIPES_ON_FORK,
    dont_fork: true,
    dont_dump: system::LEAVES_OUT_OF_DUMPS,
    verifies: false,
    replaces_lost: false,
    sends_words_on: false,
    sleeps_on_words: system::SLEEPS_ON_WORDS,
    closes_process: cfg!(target_os = "freebsd"),
};

fn made(call: Call, make: impl FnOnce() -> c_int) -> CallResult<()> {
    keeping_errno(|| make().into()).map(drop).map_err(|errno| CallError::new(call, errno))
}

pub(super) fn map(len: usize) -> CallResult<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON | system::MAP_FLAGS;
    // SAFETY: a new private mapping at an address that the kernel chooses touches no existing memory.
    let ptr = keeping_errno(|| unsafe {
        libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0).expose_provenance() as c_long
    })
    .map_err(|errno| CallError::new(Call::Mmap, errno))?;
    // The kernel gives no page at address zero unless asked for it.
    NonNull::new(std::ptr::with_exposed_provenance_mut(ptr as usize))
        .ok_or(CallError::new(Call::Mmap, libc::ENOMEM))
}

pub(super) unsafe fn unmap(ptr: NonNull<u8>, len: usize) -> CallResult<()> {
    // SAFETY: the caller owns these pages and nothing refers to them.
    made(Call::Munmap, || unsafe { libc::munmap(ptr.as_ptr().cast(), len) })
}

#[inline]
pub(super) unsafe fn protect(ptr: NonNull<u8>, len: usize, access: Access) -> CallResult<()> {
    let access = match access {
        Access::None => libc::PROT_NONE,
        Access::Read => libc::PROT_READ,
        Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
    };
    // SAFETY: the caller owns these pages and keeps no reference that needs what is taken away.
    made(Call::Mprotect, || unsafe { libc::mprotect(ptr.as_ptr().cast(), len, access) })
}

pub(super) unsafe fn lock(ptr: NonNull<u8>, len: usize) -> CallResult<()> {
    // SAFETY: locking changes no contents; the pages are the caller's.
    let locked = made(Call::Mlock, || unsafe { libc::mlock(ptr.as_ptr().cast(), len) });
    // SAFETY: as above, for all calls.
    unsafe {
        match locked {
            Ok(()) => system::locked(ptr, len),
            // Some systems have locked a part of it then. The refusal is what the caller must hear of.
            Err(_) => _ = unlock(ptr, len),
        }
    }
    locked
}

/// Where pages are closed the system may refuse: then they are not locked, which is told.
pub(super) unsafe fn lock_again(ptr: NonNull<u8>, len: usize) -> CallResult<()> {
    // SAFETY: as the caller vouches.
    unsafe { lock(ptr, len) }
}

pub(super) unsafe fn unlock(ptr: NonNull<u8>, len: usize) -> CallResult<()> {
    // SAFETY: unlocking changes no contents; the pages are the caller's.
    made(Call::Munlock, || unsafe { libc::munlock(ptr.as_ptr().cast(), len) })
}

/// The most that getentropy(2) gives at once.
const ENTROPY: usize = 256;

/// Up to `len` random bytes; how many.
#[inline]
pub(super) unsafe fn random(ptr: *mut u8, len: usize) -> CallResult<usize> {
    loop {
        // SAFETY: as the caller vouches.
        match unsafe { entropy(ptr.cast(), len.min(ENTROPY)) } {
            Err(libc::EINTR) => {}
            outcome => return outcome.map_err(|errno| CallError::new(Call::Getrandom, errno)),
        }
    }
}

/// Random bytes, written by the kernel: where they cannot be, that is EFAULT. Dying. getentropy(2)
///
/// # Safety
///
/// Nobody minds what is written to the `len` bytes, [`ENTROPY`] at most, from `ptr`, which need not be writable.
unsafe fn entropy(ptr: *mut c_void, len: usize) -> Result<usize, c_int> {
    // SAFETY: as the caller vouches.
    keeping_errno(|| unsafe { libc::getentropy(ptr, len) }.into()).map(|_| len)
}

/// Sleeps in naps while `word` is `expected`: for systems on which threads cannot sleep on a word. Who changes the word is
/// noticed within [`LONGEST`].
#[allow(dead_code, reason = "most systems have something better")]
pub(super) fn nap_on(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    const SHORTEST: Duration = Duration::from_micros(20);
    const LONGEST: Duration = Duration::from_millis(4);
    let started = Instant::now();
    let mut nap = SHORTEST;
    while word.load(Ordering::Acquire) == expected {
        let left = match timeout {
            None => nap,
            Some(wait) => match wait.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) {
                Some(left) => left.min(nap),
                None => return,
            },
        };
        signals::pause_for(left);
        nap = (nap * 2).min(LONGEST);
    }
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut now = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: written by the call; where there is no such clock it stays zero, which is a time too.
    let now = unsafe {
        libc::clock_gettime(id, now.as_mut_ptr());
        now.assume_init()
    };
    // Never negative: time since the start of the machine.
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

#[inline]
pub(super) fn coarse_now() -> u64 {
    clock(system::COARSE)
}

pub(super) fn boot_now() -> u64 {
    clock(system::BOOT)
}

#[inline]
pub(super) fn process_id() -> u32 {
    // SAFETY: asks for a number.
    unsafe { libc::getpid() }.unsigned_abs()
}

/// Nothing tells.
pub(super) fn range_flags(_: usize, _: usize) -> Option<RangeFlags> {
    None
}

pub(super) fn lock_limit() -> Option<u64> {
    limits(libc::RLIMIT_MEMLOCK as _).0
}

pub(super) fn descriptor_limit() -> Option<u64> {
    limits(libc::RLIMIT_NOFILE as _).0
}

/// Soft and hard; `None`: any number. getrlimit(2)
pub(super) fn limits(resource: c_int) -> (Option<u64>, Option<u64>) {
    let mut found = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: writes one structure that lives over the call.
    unsafe { libc::getrlimit(resource as _, &raw mut found) };
    #[allow(clippy::unnecessary_cast, reason = "some systems count with a sign")]
    let bound = |limit: libc::rlim_t| (limit != libc::RLIM_INFINITY).then_some(limit as u64);
    (bound(found.rlim_cur), bound(found.rlim_max))
}

/// Nothing tells.
pub(super) fn locked_now() -> Option<u64> {
    None
}

/// Nothing tells.
pub(super) fn threads() -> Option<u64> {
    None
}

/// There is none, or nothing tells.
pub(super) fn mapping_limit() -> Option<u64> {
    None
}

/// More than any frame that these systems write for a signal.
pub(super) fn signal_frame_size() -> usize {
    4 << 10
}

/// Writes as much as can be written at once; -1 and `errno`. write(2)
///
/// # Safety
///
/// `len` bytes from `bytes` may be read.
pub(super) unsafe fn write_raw(to: c_int, bytes: *const u8, len: usize) -> c_long {
    // SAFETY: as the caller vouches.
    unsafe { libc::write(to, bytes.cast(), len) as c_long }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::os;

    #[test]
    fn a_nap_ends_by_its_time_and_by_a_change_that_nobody_tells_of() {
        let word = AtomicU32::new(7);
        let started = Instant::now();
        nap_on(&word, 8, None);
        nap_on(&word, 7, Some(Duration::ZERO));
        assert!(started.elapsed() < Duration::from_secs(5));
        let started = Instant::now();
        nap_on(&word, 7, Some(Duration::from_millis(20)));
        assert!(started.elapsed() >= Duration::from_millis(20));
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| nap_on(&word, 7, None));
            std::thread::sleep(Duration::from_millis(20));
            assert!(!sleeper.is_finished());
            word.store(8, Ordering::Release);
        });
    }

    #[test]
    fn random_bytes_come_in_pieces_and_not_to_where_nothing_may_be_written() {
        let mut bytes = [0_u8; 4 * ENTROPY + 7];
        // SAFETY: within the array.
        unsafe { os::random(bytes.as_mut_ptr(), bytes.len()).unwrap() };
        assert!(bytes.chunks(ENTROPY).all(|piece| piece.iter().any(|&byte| byte != 0)));
        let page = os::page_size();
        let closed = os::map(page).unwrap();
        // SAFETY: a page of ours; nothing is lost by what is written there.
        unsafe {
            assert_eq!(signals::random(closed.addr().get(), page), Err(libc::EFAULT));
            os::protect(closed, page, Access::ReadWrite).unwrap();
            assert_eq!(signals::random(closed.addr().get(), page), Ok(()));
            os::unmap(closed, page).unwrap();
        }
    }

    #[test]
    fn a_mask_goes_through_a_set_and_leaves_what_is_beyond_it() {
        let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: numbers, for which zero is right.
        let set = unsafe { set.assume_init_mut() };
        for signal in [libc::SIGHUP, libc::SIGTERM, libc::SIGUSR2, libc::SIGSEGV] {
            let mask = os::signals::bit(signal);
            signals::put_mask(mask, set);
            assert_eq!(signals::mask_of(set), mask);
            // SAFETY: a whole set.
            assert_eq!(unsafe { libc::sigismember(set, signal) }, 1);
        }
        // SAFETY: a whole set.
        unsafe { libc::sigfillset(set) };
        let before = *set;
        signals::put_mask(signals::mask_of(set), set);
        let bytes = |set: &libc::sigset_t| {
            // SAFETY: a set is numbers.
            unsafe { *std::ptr::from_ref(set).cast::<[u8; size_of::<libc::sigset_t>()]>() }
        };
        assert_eq!(bytes(set), bytes(&before));
    }
}

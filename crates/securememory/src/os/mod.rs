//! Every system call of the library, and nothing but: the one contract that a port fulfils.
//!
//! The functions here are thin. Each asks the fault injector first (which only exists with the feature
//! `testing`) and then the backend of the system, a module `sys` with functions of the same names. A port is
//! one new backend file.
//!
//! Two marks say where a function may be called:
//!
//! * **hot**: on the way of a read. Inlined, and without allocation.
//! * **dying**: in a signal handler of a process about to end. Async-signal-safe, `errno` kept, without
//!   allocation, lock or thread-local.
//!
//! System calls are made without the C library where that is possible: its `pread` is a cancellation point
//! and slower, its signal functions hide signals from the caller, and it writes `errno`.

// Reason: this is the room for system calls; every block says why it is sound.
#![allow(unsafe_code)]

mod build;
mod call;
mod capability;
pub mod errno;
#[cfg(feature = "testing")]
pub mod inject;
#[cfg(all(feature = "testing", unix))]
pub(crate) mod limits;

// What only Linux has; of protection keys only on x86-64.
#[cfg(not(all(any(target_os = "linux", target_os = "android"), not(securememory_posix))))]
mod absent;
#[cfg(not(all(
    any(target_os = "linux", target_os = "android"),
    target_arch = "x86_64",
    not(securememory_posix)
)))]
mod no_protection_key;

// Linux and Android. There too the other Unix systems' backend can be had, for tests.
#[cfg(all(any(target_os = "linux", target_os = "android"), not(securememory_posix)))]
mod linux;
#[cfg(all(any(target_os = "linux", target_os = "android"), not(securememory_posix)))]
use linux as sys;
#[cfg(all(any(target_os = "linux", target_os = "android"), not(securememory_posix)))]
pub(crate) use linux::{ProtectionKey, SecretFile, ShareFile, process, room};

#[cfg(unix)]
mod veil;
#[cfg(unix)]
pub(crate) use veil::{IS_HERE as ENCRYPTS_CLOSED, Veil, unlocked_at_rest};

#[cfg(windows)]
mod windows;
#[cfg(windows)]
use windows as sys;
#[cfg(all(feature = "testing", windows))]
pub(crate) use windows::limits;
#[cfg(windows)]
pub(crate) use windows::{
    ENCRYPTS_CLOSED, ProtectionKey, SecretFile, ShareFile, Veil, process, room, signals, unlocked_at_rest,
};

#[cfg(unix)]
pub(crate) mod signals;
#[cfg(unix)]
mod unix;

#[cfg(target_vendor = "apple")]
mod apple;
#[cfg(any(target_os = "freebsd", target_os = "openbsd", target_os = "netbsd"))]
mod bsd;
#[cfg(all(unix, not(all(any(target_os = "linux", target_os = "android"), not(securememory_posix)))))]
mod posix;
#[cfg(all(target_os = "linux", securememory_posix))]
mod posix_on_linux;
#[cfg(all(unix, not(all(any(target_os = "linux", target_os = "android"), not(securememory_posix)))))]
use posix as sys;
#[cfg(all(unix, not(all(any(target_os = "linux", target_os = "android"), not(securememory_posix)))))]
pub(crate) use posix::{ProtectionKey, SecretFile, ShareFile, process, room};

#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "openbsd",
    target_os = "netbsd",
    windows
)))]
compile_error!("securememory supports Linux, Android, macOS, FreeBSD, OpenBSD, NetBSD and Windows");

/// What a file of ours is known by: the number of a descriptor.
pub(crate) type FileNumber = i32;

pub use build::Build;
pub use call::{Call, CallError};
pub use capability::{Feature, Host};

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

/// What a system call gives.
pub(crate) type CallResult<T> = Result<T, CallError>;

/// What may be done with pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    None,
    Read,
    ReadWrite,
}

/// What the kernel is to do with pages beyond their access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// Not in core dumps.
    DontDump,
    /// Zeroes in a forked child.
    WipeOnFork,
    /// Not there in a forked child.
    DontFork,
    /// Never merged with equal pages; KSM does so with locked pages too.
    Unmergeable,
}

/// Protections that a range has according to the kernel: of its parts each has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RangeFlags {
    /// Marked as locked, and where pages are resident they count as locked.
    pub(crate) locked: bool,
    pub(crate) dont_dump: bool,
    pub(crate) wipe_on_fork: bool,
    pub(crate) dont_fork: bool,
    /// Some part of the range may be merged by KSM.
    pub(crate) mergeable: bool,
}

/// Asks whether a call is to fail. An error number of zero stands for a call that moves fewer bytes than
/// asked.
#[cfg(feature = "testing")]
fn injected(call: Call) -> CallResult<()> {
    inject::check(call)
}

/// Without the feature there is no injector, and nothing of this in the binary.
#[cfg(not(feature = "testing"))]
#[inline(always)]
const fn injected(_call: Call) -> CallResult<()> {
    Ok(())
}

/// How many of `len` bytes a call may move: all, unless the injector asks for a short one.
#[inline(always)]
fn injected_len(call: Call, len: usize) -> CallResult<usize> {
    match injected(call) {
        Ok(()) => Ok(len),
        Err(CallError { errno: 0, .. }) => Ok(len / 2),
        Err(error) => Err(error),
    }
}

/// Bytes in a page. sysconf(3), `_SC_PAGESIZE`.
#[inline]
pub(crate) fn page_size() -> usize {
    static PAGE_SIZE: AtomicUsize = AtomicUsize::new(0);
    match PAGE_SIZE.load(Ordering::Relaxed) {
        0 => {
            let size = sys::page_size();
            PAGE_SIZE.store(size, Ordering::Relaxed);
            size
        }
        size => size,
    }
}

/// New pages of zeroes, of this process alone and closed. mmap(2).
pub(crate) fn map(len: usize) -> CallResult<NonNull<u8>> {
    injected(Call::Mmap)?;
    sys::map(len)
}

/// Gives pages back. munmap(2).
///
/// # Safety
///
/// `ptr` and `len` are whole pages from [`map`] that nothing refers to any more.
pub(crate) unsafe fn unmap(ptr: NonNull<u8>, len: usize) -> CallResult<()> {
    injected(Call::Munmap)?;
    // SAFETY: the caller's promise.
    unsafe { sys::unmap(ptr, len) }
}

/// Opens or closes pages. mprotect(2). Hot, dying.
///
/// # Safety
///
/// `ptr` and `len` are whole pages from [`map`], and no reference needs an access that is taken away.
#[inline]
pub(crate) unsafe fn protect(ptr: NonNull<u8>, len: usize, access: Access) -> CallResult<()> {
    injected(Call::Mprotect)?;
    // SAFETY: the caller's promise.
    unsafe { sys::protect(ptr, len, access) }
}

/// Keeps pages out of swap. mlock(2).
///
/// The pages must be open for reading and writing: the kernel brings them into memory at once, and refuses
/// closed ones with ENOMEM. When it refuses, nothing is left marked as locked.
///
/// # Safety
///
/// `ptr` and `len` are whole pages from [`map`]. Pages are locked without a count, so a page shared with a
/// neighbour would be unlocked with it.
pub(crate) unsafe fn lock(ptr: NonNull<u8>, len: usize) -> CallResult<()> {
    injected(Call::Mlock)?;
    // SAFETY: the caller's promise.
    unsafe { sys::lock(ptr, len) }
}

/// The same of pages that lie in memory already, and may be closed: in a child, which has its parent's pages, but not its
/// locks. What comes to be there later is locked, too. mlock2(2), `MLOCK_ONFAULT`.
///
/// # Safety
///
/// As for [`lock`].
pub(crate) unsafe fn lock_again(ptr: NonNull<u8>, len: usize) -> CallResult<()> {
    injected(Call::Mlock)?;
    // SAFETY: the caller's promise.
    unsafe { sys::lock_again(ptr, len) }
}

/// Lets pages be swapped again. munlock(2).
///
/// # Safety
///
/// As for [`lock`].
pub(crate) unsafe fn unlock(ptr: NonNull<u8>, len: usize) -> CallResult<()> {
    injected(Call::Munlock)?;
    // SAFETY: the caller's promise.
    unsafe { sys::unlock(ptr, len) }
}

/// Marks pages. madvise(2).
///
/// # Safety
///
/// `ptr` and `len` are whole pages from [`map`].
pub(crate) unsafe fn advise(ptr: NonNull<u8>, len: usize, advice: Advice) -> CallResult<()> {
    injected(Call::Madvise)?;
    // SAFETY: the caller's promise.
    unsafe { sys::advise(ptr, len, advice) }
}

/// Random bytes of the kernel, straight to `ptr`; all of them or an error. getrandom(2). Hot, dying.
///
/// Early after a boot it waits until the kernel has gathered enough.
///
/// # Safety
///
/// `len` bytes from `ptr` may be written, and nobody else uses them meanwhile. On an error some may have been
/// written.
#[inline]
pub(crate) unsafe fn random(ptr: *mut u8, len: usize) -> CallResult<()> {
    let mut done = 0;
    // A short answer is continued, so an injected one only makes the first piece smaller.
    let mut piece = injected_len(Call::Getrandom, len)?;
    while done < len {
        // SAFETY: `done` and `piece` stay within the caller's `len`.
        done += unsafe { sys::random(ptr.add(done), piece)? };
        piece = len - done;
    }
    Ok(())
}

/// Fills a buffer that is nobody's secret: a nonce, a canary. Keys go straight to their place by [`random`].
#[inline]
pub(crate) fn fill_random(buffer: &mut [u8]) -> CallResult<()> {
    // SAFETY: the buffer is borrowed mutably, all of it.
    unsafe { random(buffer.as_mut_ptr(), buffer.len()) }
}

/// Bytes that the kernel may put on a stack to deliver a signal: all registers. getauxval(3), `AT_MINSIGSTKSZ`.
pub(crate) fn signal_frame_size() -> usize {
    sys::signal_frame_size()
}

/// Sleeps while `word` is `expected`, until woken, or until the timeout (`None`: for ever). May return at any
/// time. futex(2), `FUTEX_WAIT_PRIVATE`. No allocation.
#[inline]
pub(crate) fn wait_on(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    if injected(Call::Futex).is_ok() {
        sys::wait_on(word, expected, timeout);
    }
}

/// Wakes all who sleep on `word`. futex(2), `FUTEX_WAKE_PRIVATE`. No allocation.
#[inline]
pub(crate) fn wake_all(word: &AtomicU32) {
    if injected(Call::Futex).is_ok() {
        sys::wake_all(word);
    }
}

/// Nanoseconds on a clock that only rises, in steps of a few milliseconds: cheap enough for every view.
/// clock_gettime(2), `CLOCK_MONOTONIC_COARSE`, without a system call. Hot.
#[inline]
pub(crate) fn coarse_now() -> u64 {
    sys::coarse_now()
}

/// Nanoseconds on a clock that only rises, and goes on while the machine is suspended. clock_gettime(2), `CLOCK_BOOTTIME`.
pub(crate) fn boot_now() -> u64 {
    sys::boot_now()
}

/// The number of this process, asked each time: a stored one would be wrong in a forked child. getpid(2).
/// Dying.
#[inline]
pub(crate) fn process_id() -> u32 {
    sys::process_id()
}

/// The number of this thread. A system call each time; callers keep it. gettid(2). Dying.
#[inline]
pub(crate) fn thread_id() -> u64 {
    sys::thread_id()
}

/// Starts a thread that no signal of the host's is delivered to. pthread_create(3). It must not be waited for.
pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> CallResult<()> {
    injected(Call::ThreadCreate)?;
    sys::with_signals_blocked(|| {
        let made = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        made.map(drop).map_err(|error| CallError::new(Call::ThreadCreate, error.raw_os_error().unwrap_or(0)))
    })
}

/// Has functions run around each fork from now on: before it, and after it in the parent and in the child.
/// pthread_atfork(3). It cannot be undone, so the library calls it once per process.
pub(crate) fn on_fork(
    prepare: extern "C" fn(),
    parent: extern "C" fn(),
    child: extern "C" fn(),
) -> CallResult<()> {
    injected(Call::Atfork)?;
    sys::on_fork(prepare, parent, child)
}

/// What a range really has, as the kernel lists it; `None` where there is no listing, or the range is not in
/// it whole. proc_pid_smaps(5). Allocates nothing, and takes time in proportion to the mappings of the process.
pub(crate) fn range_flags(addr: usize, len: usize) -> Option<RangeFlags> {
    sys::range_flags(addr, len)
}

/// Bytes that this process may lock; `None`: any number. getrlimit(2), `RLIMIT_MEMLOCK`, soft.
pub(crate) fn lock_limit() -> Option<u64> {
    sys::lock_limit()
}

/// Bytes that are locked now, also by others in this process. proc_pid_status(5), `VmLck`.
pub(crate) fn locked_now() -> Option<u64> {
    sys::locked_now()
}

/// Threads of this process. proc_pid_status(5), `Threads`.
pub(crate) fn threads() -> Option<u64> {
    sys::threads()
}

/// Descriptors that this process may have; `None`: any number. getrlimit(2), `RLIMIT_NOFILE`, soft.
pub(crate) fn descriptor_limit() -> Option<u64> {
    sys::descriptor_limit()
}

/// Mappings that this process may have. proc_sys_vm(5), `max_map_count`.
pub(crate) fn mapping_limit() -> Option<u64> {
    sys::mapping_limit()
}

#[cfg(test)]
mod tests {
    #![cfg_attr(windows, allow(dead_code, reason = "there is no listing to be looked at"))]
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use std::time::Instant;

    /// A page that is given back, and the functions on it without their promise.
    struct Page(NonNull<u8>);

    impl Page {
        fn open() -> Self {
            let page = Self(map(page_size()).unwrap());
            // SAFETY: just mapped, whole, without references.
            unsafe { protect(page.0, page_size(), Access::ReadWrite).unwrap() };
            page
        }

        fn flags(&self) -> RangeFlags {
            range_flags(self.0.as_ptr() as usize, page_size()).expect("no /proc")
        }

        fn advise(&self, advice: Advice) {
            // SAFETY: a whole page of ours.
            unsafe { advise(self.0, page_size(), advice).unwrap() };
        }
    }

    impl Drop for Page {
        fn drop(&mut self) {
            // SAFETY: mapped by `open`, and no reference to it is left.
            unsafe { unmap(self.0, page_size()).unwrap() };
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_range_shows_exactly_what_it_was_given() {
        if !Build::HERE.verifies {
            eprintln!("skipped: nothing tells what is in force on a range");
            return;
        }
        let page = Page::open();
        let none = RangeFlags {
            locked: false,
            dont_dump: false,
            wipe_on_fork: false,
            dont_fork: false,
            mergeable: false,
        };
        assert_eq!(page.flags(), none);
        page.advise(Advice::DontDump);
        assert_eq!(page.flags(), RangeFlags { dont_dump: true, ..none });
        page.advise(Advice::WipeOnFork);
        assert_eq!(page.flags(), RangeFlags { dont_dump: true, wipe_on_fork: true, ..none });
        // SAFETY: a whole page of ours, open.
        unsafe { lock(page.0, page_size()).unwrap() };
        page.advise(Advice::DontFork);
        let all = RangeFlags { locked: true, dont_dump: true, wipe_on_fork: true, dont_fork: true, ..none };
        assert_eq!(page.flags(), all);
        // SAFETY: as above.
        unsafe { unlock(page.0, page_size()).unwrap() };
        assert_eq!(page.flags(), RangeFlags { locked: false, ..all });
    }

    #[test]
    fn a_range_that_is_not_mapped_whole_has_no_flags() {
        assert_eq!(range_flags(0, page_size()), None);
        assert_eq!(range_flags(usize::MAX, 2), None);
        let page = Page::open();
        assert_eq!(range_flags(page.0.as_ptr() as usize, 0), None);
        assert_eq!(range_flags(page.0.as_ptr() as usize, usize::MAX / 2), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_refused_lock_leaves_no_mark() {
        let page = Page::open();
        // SAFETY: a whole page of ours without references; closed pages cannot be locked.
        let refused = unsafe {
            protect(page.0, page_size(), Access::None).unwrap();
            lock(page.0, page_size())
        };
        assert_eq!(refused, Err(CallError::new(Call::Mlock, errno::ENOMEM)));
        // The mark itself, since `locked` asks for more than the mark.
        let listing = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let start = format!("{:x}-", page.0.as_ptr() as usize);
        let flags = listing
            .lines()
            .skip_while(|line| !line.starts_with(&start))
            .find(|line| line.contains("VmFlags"));
        assert!(flags.is_none_or(|flags| !flags.contains(" lo")), "{flags:?}");
    }

    #[test]
    fn random_fills_all_and_nothing_more() {
        let mut bytes = [0_u8; 1000];
        // SAFETY: within the array.
        unsafe { random(bytes.as_mut_ptr(), 900).unwrap() };
        assert!(bytes[..900].chunks(50).all(|piece| piece.iter().any(|&byte| byte != 0)));
        assert!(bytes[900..].iter().all(|&byte| byte == 0));
        // SAFETY: nothing is written.
        unsafe { random(bytes.as_mut_ptr(), 0).unwrap() };
    }

    #[test]
    fn a_wait_ends_by_timeout_by_change_and_by_a_wake() {
        let word = AtomicU32::new(7);
        let start = Instant::now();
        wait_on(&word, 8, None);
        assert!(start.elapsed() < Duration::from_secs(5));
        let wait = Duration::from_millis(20);
        let start = Instant::now();
        // It may return early, so it is asked until the time has passed; each time it must return.
        while start.elapsed() < wait {
            wait_on(&word, 7, Some(wait.saturating_sub(start.elapsed())));
        }
        assert!(start.elapsed() < Duration::from_secs(5));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while word.load(Ordering::Acquire) == 7 {
                    wait_on(&word, 7, Some(Duration::MAX));
                }
            });
            std::thread::sleep(wait);
            word.store(8, Ordering::Release);
            wake_all(&word);
        });
    }

    #[test]
    fn numbers_are_those_of_process_and_thread() {
        assert_eq!(process_id(), std::process::id());
        let here = thread_id();
        assert_eq!(here, thread_id());
        assert_ne!(here, std::thread::spawn(thread_id).join().unwrap());
        // Where the kernel tells of a process, it tells all of it.
        let told = Build::HERE.verifies;
        assert_eq!(mapping_limit().is_some(), told);
        // Windows tells nothing; what is locked there the library counts itself.
        assert_eq!(locked_now().is_some(), told || cfg!(windows));
        // This one, and the one that runs the tests.
        assert_eq!(threads() >= Some(2), told, "{:?}", threads());
    }
}

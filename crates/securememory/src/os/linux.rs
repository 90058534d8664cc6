//! The backend for Linux and Android.

// Reason: system calls, by rustix and, for what it lacks, by libc.
#![allow(unsafe_code)]

pub(super) mod codes;
mod probe;
mod proc;
pub(crate) mod process;
mod protection_key;
mod returns;
pub(crate) mod room;
mod secretmem;
mod share_file;
mod sigxfsz;
mod smaps;

use super::{Access, Advice, Build, Call, CallError, CallResult};
use rustix::io::Errno;
use rustix::mm::{self, MapFlags, MprotectFlags, ProtFlags};
use rustix::process::{Resource, getrlimit};
use rustix::rand::GetRandomFlags;
use rustix::thread::futex;
use std::ffi::{c_int, c_long};
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

pub(super) use super::unix::{keeping_errno, on_fork, page_size, with_signals_blocked};
pub(super) use proc::{locked_now, mapping_limit, threads};
pub(super) use smaps::range_flags;
pub(crate) use {protection_key::ProtectionKey, secretmem::SecretFile, share_file::ShareFile};

pub(super) const BUILD: Build = Build {
    backend: "linux",
    split: true,
    pkey: cfg!(target_arch = "x86_64"),
    secretmem: secretmem::HAS_CALL,
    wipe_on_fork: true,
    dont_fork: true,
    dont_dump: true,
    verifies: true,
    replaces_lost: true,
    sends_words_on: true,
    sleeps_on_words: true,
    closes_process: true,
};

/// Gives an error number of rustix the name of its call.
#[inline]
pub(super) fn failed(call: Call) -> impl Fn(Errno) -> CallError {
    move |errno| CallError::new(call, errno.raw_os_error())
}

pub(super) fn map(len: usize) -> CallResult<NonNull<u8>> {
    // SAFETY: a new private mapping at an address that the kernel chooses touches no existing memory.
    let ptr = unsafe { mm::mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::empty(), MapFlags::PRIVATE) }
        .map_err(failed(Call::Mmap))?;
    // The kernel gives no page at address zero unless asked for it.
    NonNull::new(ptr.cast()).ok_or(CallError::new(Call::Mmap, libc::ENOMEM))
}

pub(super) unsafe fn unmap(ptr: NonNull<u8>, len: usize) -> CallResult<()> {
    // SAFETY: the caller owns these pages and nothing refers to them.
    unsafe { mm::munmap(ptr.as_ptr().cast(), len) }.map_err(failed(Call::Munmap))
}

#[inline]
pub(super) unsafe fn protect(ptr: NonNull<u8>, len: usize, access: Access) -> CallResult<()> {
    let flags = match access {
        Access::None => MprotectFlags::empty(),
        Access::Read => MprotectFlags::READ,
        Access::ReadWrite => MprotectFlags::READ.union(MprotectFlags::WRITE),
    };
    // SAFETY: the caller owns these pages and keeps no reference that needs what is taken away.
    let outcome = unsafe { mm::mprotect(ptr.as_ptr().cast(), len, flags) };
    returns::after_call();
    outcome.map_err(failed(Call::Mprotect))
}

pub(super) unsafe fn lock(ptr: NonNull<u8>, len: usize) -> CallResult<()> {
    // SAFETY: locking changes no contents; the pages are the caller's.
    unsafe { mm::mlock(ptr.as_ptr().cast(), len) }.map_err(|errno| {
        // The kernel marks the range before it brings the pages in, and does not take the mark back when that
        // fails. The refusal is what the caller must hear of, so the outcome of the cleaning does not matter.
        // SAFETY: as above.
        let _ = unsafe { mm::munlock(ptr.as_ptr().cast(), len) };
        CallError::new(Call::Mlock, errno.raw_os_error())
    })
}

pub(super) unsafe fn lock_again(ptr: NonNull<u8>, len: usize) -> CallResult<()> {
    // SAFETY: as in `lock`.
    let lock = || unsafe { mm::mlock_with(ptr.as_ptr().cast(), len, mm::MlockFlags::ONFAULT) };
    match lock() {
        // Older kernels (5.10) want to bring in what is locked on fault, too, and say that closed pages cannot be, after they
        // have marked them. These are there already. Where the limit is what refuses, nothing is marked.
        Err(Errno::NOMEM) if was_marked(ptr, len) => {
            let _ = lock();
            Ok(())
        }
        outcome => outcome.map_err(failed(Call::Mlock)),
    }
}

/// Does the kernel count these pages as locked? Afterwards it does not.
fn was_marked(ptr: NonNull<u8>, len: usize) -> bool {
    let before = proc::locked_now();
    // SAFETY: unlocking changes no contents; the pages are the caller's.
    let _ = unsafe { mm::munlock(ptr.as_ptr().cast(), len) };
    before.zip(proc::locked_now()).is_some_and(|(before, after)| before == after + len as u64)
}

pub(super) unsafe fn unlock(ptr: NonNull<u8>, len: usize) -> CallResult<()> {
    // SAFETY: unlocking changes no contents; the pages are the caller's.
    unsafe { mm::munlock(ptr.as_ptr().cast(), len) }.map_err(failed(Call::Munlock))
}

pub(super) unsafe fn advise(ptr: NonNull<u8>, len: usize, advice: Advice) -> CallResult<()> {
    let advice = match advice {
        Advice::DontDump => mm::Advice::LinuxDontDump,
        Advice::WipeOnFork => mm::Advice::LinuxWipeOnFork,
        Advice::DontFork => mm::Advice::LinuxDontFork,
        Advice::Unmergeable => mm::Advice::LinuxUnmergeable,
    };
    // SAFETY: none of these changes contents in this process; the pages are the caller's.
    unsafe { mm::madvise(ptr.as_ptr().cast(), len, advice) }.map_err(failed(Call::Madvise))
}

/// Up to `len` random bytes; how many.
#[inline]
pub(super) unsafe fn random(ptr: *mut u8, len: usize) -> CallResult<usize> {
    // SAFETY: the caller has exclusive use of these bytes, and `MaybeUninit` asks nothing of their contents.
    let place = unsafe { std::slice::from_raw_parts_mut(ptr.cast::<MaybeUninit<u8>>(), len) };
    loop {
        let outcome = rustix::rand::getrandom(&mut *place, GetRandomFlags::empty());
        returns::after_call();
        match outcome {
            Ok((filled, _)) => return Ok(filled.len()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(CallError::new(Call::Getrandom, errno.raw_os_error())),
        }
    }
}

#[inline]
pub(super) fn wait_on(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    // More seconds than the kernel can count are as good as the most that it can.
    let timeout = timeout.map(|wait| rustix::thread::Timespec {
        tv_sec: wait.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: wait.subsec_nanos().into(),
    });
    // Woken, timed out, interrupted or too late: the caller looks at the word again in any case.
    let _ = futex::wait(word, futex::Flags::PRIVATE, expected, timeout.as_ref());
}

#[inline]
pub(super) fn wake_all(word: &AtomicU32) {
    // The kernel takes the count as a signed number. A wake-up of a word in our own memory cannot fail.
    let _ = futex::wake(word, futex::Flags::PRIVATE, i32::MAX as u32);
}

#[inline]
pub(super) fn coarse_now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    // Never negative: time since the start of the machine.
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

pub(super) fn boot_now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

#[inline]
pub(super) fn process_id() -> u32 {
    rustix::process::getpid().as_raw_pid().unsigned_abs()
}

#[inline]
pub(super) fn thread_id() -> u64 {
    rustix::thread::gettid().as_raw_pid().unsigned_abs().into()
}

pub(super) fn lock_limit() -> Option<u64> {
    getrlimit(Resource::Memlock).current
}

pub(super) fn descriptor_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Where this thread's `errno` is.
#[inline]
pub(super) fn errno_place() -> *mut c_int {
    // SAFETY: gives an address that is valid while the thread lives, and used by this thread only.
    unsafe {
        #[cfg(target_os = "android")]
        let place = libc::__errno();
        #[cfg(not(target_os = "android"))]
        let place = libc::__errno_location();
        place
    }
}

/// The kernel's own flag of what is done about a signal (`SA_RESTORER`), that the C library sets or not.
pub(super) const FLAGS_OF_ITS_OWN: c_int = 0x0400_0000;

/// Writes as much as can be written at once; -1 and `errno`. write(2), by number, since the C library's function is a place
/// where a thread can be cancelled.
///
/// # Safety
///
/// `len` bytes from `bytes` may be read.
pub(super) unsafe fn write_raw(to: c_int, bytes: *const u8, len: usize) -> c_long {
    // SAFETY: as the caller vouches.
    unsafe { libc::syscall(libc::SYS_write, c_long::from(to), bytes, len) }
}

/// The first and the last real-time signal.
pub(super) fn real_time() -> Option<(c_int, c_int)> {
    Some((libc::SIGRTMIN(), libc::SIGRTMAX()))
}

/// Makes pages guards. madvise(2), `MADV_GUARD_INSTALL`.
pub(super) unsafe fn try_guard(ptr: NonNull<u8>, len: usize) -> CallResult<()> {
    const MADV_GUARD_INSTALL: c_int = 102;
    // SAFETY: the pages are the caller's; what is in them is lost.
    keeping_errno(|| unsafe { libc::madvise(ptr.as_ptr().cast(), len, MADV_GUARD_INSTALL) }.into())
        .map(drop)
        .map_err(|errno| CallError::new(Call::Madvise, errno))
}

pub(super) fn signal_frame_size() -> usize {
    // Kernels before 5.14 do not tell; this is what AVX-512 needs, and more than any other processor without AMX.
    const USUAL: usize = 4 << 10;
    // SAFETY: getauxval only reads the vector that the kernel gave the program.
    match unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } {
        0 => USUAL,
        size => size as usize,
    }
}

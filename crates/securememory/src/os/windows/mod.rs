//! The backend for Windows.
//!
//! What Windows has no notion of is not there at compile time: forks, so that keeping memory from a child is granted by
//! itself; in-memory files, protection keys and memory that the kernel does not map ([`super::absent`]).

// Reason: system calls; every block says why it is sound.
#![allow(unsafe_code)]

mod dump;
mod host;
#[cfg(feature = "testing")]
pub(crate) mod limits;
pub(crate) mod process;
pub(crate) mod room;
pub(crate) mod signals;
mod veil;
mod working_set;

pub(crate) use super::absent::{ProtectionKey, SecretFile, ShareFile};
pub(crate) use veil::{IS_HERE as ENCRYPTS_CLOSED, Veil, unlocked_at_rest};
pub(super) use working_set::{lock, lock_limit, locked_now, unlock};

use super::{Access, Advice, Build, Call, CallError, CallResult, RangeFlags, errno};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::time::Duration;
use windows_sys::Win32::Foundation::{
    ERROR_COMMITMENT_LIMIT, ERROR_INVALID_PARAMETER, ERROR_PROC_NOT_FOUND, GetLastError,
};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleA, GetProcAddress};
use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEM_RELEASE, MEM_RESERVE, PAGE_NOACCESS, PAGE_READONLY, PAGE_READWRITE, VirtualAlloc,
    VirtualFree, VirtualProtect,
};
use windows_sys::Win32::System::SystemInformation::{GetSystemInfo, GetTickCount64, SYSTEM_INFO};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcessId, GetCurrentThreadId, INFINITE, WaitOnAddress, WakeByAddressAll,
};
use windows_sys::Win32::System::WindowsProgramming::QueryUnbiasedInterruptTime;

pub(super) const BUILD: Build = Build {
    backend: "windows",
    split: false,
    pkey: false,
    secretmem: false,
    // There are no forks.
    wipe_on_fork: false,
    dont_fork: false,
    dont_dump: true,
    verifies: false,
    replaces_lost: false,
    sends_words_on: false,
    sleeps_on_words: true,
    closes_process: false,
};

/// The error that a function has just reported. GetLastError
fn last_error(call: Call) -> CallError {
    // SAFETY: reads a word of this thread.
    CallError::new(call, unsafe { GetLastError() }.cast_signed())
}

/// What a function of type BOOL has said.
fn succeeded(call: Call, outcome: i32) -> CallResult<()> {
    if outcome != 0 { Ok(()) } else { Err(last_error(call)) }
}

/// A function of some type.
type Found = unsafe extern "system" fn() -> isize;

/// A function that not every Windows has, by its name, which ends with a zero. GetProcAddress
fn find(call: Call, library: &[u8], name: &[u8]) -> CallResult<Found> {
    debug_assert!(library.ends_with(&[0]) && name.ends_with(&[0]));
    // SAFETY: both names end with a zero. The libraries that are asked for are part of every process.
    unsafe { GetProcAddress(GetModuleHandleA(library.as_ptr()), name.as_ptr()) }
        .ok_or(CallError::new(call, ERROR_PROC_NOT_FOUND.cast_signed()))
}

/// `dwPageSize`. (`dwAllocationGranularity`, 64 KiB, is where mappings begin, on which nobody here relies.)
pub(super) fn page_size() -> usize {
    // SAFETY: numbers and pointers, for which zero is right.
    let mut info: SYSTEM_INFO = unsafe { std::mem::zeroed() };
    // SAFETY: writes one structure that lives over the call.
    unsafe { GetSystemInfo(&raw mut info) };
    // It is always told.
    info.dwPageSize as usize
}

pub(super) fn map(len: usize) -> CallResult<NonNull<u8>> {
    // SAFETY: new memory at an address that the system chooses touches none that exists. Committed at once: what cannot be
    // had is an error here, and not a fault later.
    let ptr = unsafe { VirtualAlloc(std::ptr::null(), len, MEM_RESERVE | MEM_COMMIT, PAGE_NOACCESS) };
    NonNull::new(ptr.cast()).ok_or_else(|| match last_error(Call::Mmap).errno.cast_unsigned() {
        // What the system has promised to all processes has reached its limit; or it is more than there are addresses, since
        // the length is all that can be wrong with the arguments: both are want of memory, as elsewhere.
        ERROR_COMMITMENT_LIMIT | ERROR_INVALID_PARAMETER => CallError::new(Call::Mmap, errno::ENOMEM),
        other => CallError::new(Call::Mmap, other.cast_signed()),
    })
}

pub(super) unsafe fn unmap(ptr: NonNull<u8>, len: usize) -> CallResult<()> {
    dump::forget(ptr.as_ptr() as usize, len);
    // What is locked is unlocked with it.
    working_set::forget(ptr.as_ptr() as usize, len);
    // SAFETY: the caller owns this mapping, all of it, and nothing refers to it.
    succeeded(Call::Munmap, unsafe { VirtualFree(ptr.as_ptr().cast(), 0, MEM_RELEASE) })
}

#[inline]
pub(super) unsafe fn protect(ptr: NonNull<u8>, len: usize, access: Access) -> CallResult<()> {
    let flags = match access {
        Access::None => PAGE_NOACCESS,
        Access::Read => PAGE_READONLY,
        Access::ReadWrite => PAGE_READWRITE,
    };
    let mut before = 0;
    // SAFETY: the caller owns these pages and keeps no reference that needs what is taken away.
    succeeded(Call::Mprotect, unsafe { VirtualProtect(ptr.as_ptr().cast(), len, flags, &raw mut before) })
}

/// There are no children that have their parent's memory.
pub(super) unsafe fn lock_again(_: NonNull<u8>, _: usize) -> CallResult<()> {
    Ok(())
}

/// There are no children that have their parent's memory; and pages of the same contents are not merged unless an
/// administrator asks for it, nor when they are locked.
pub(super) unsafe fn advise(ptr: NonNull<u8>, len: usize, advice: Advice) -> CallResult<()> {
    match advice {
        Advice::DontDump => dump::exclude(ptr, len),
        Advice::WipeOnFork | Advice::DontFork | Advice::Unmergeable => Ok(()),
    }
}

/// Random bytes; how many. ProcessPrng
#[inline]
pub(super) unsafe fn random(ptr: *mut u8, len: usize) -> CallResult<usize> {
    // SAFETY: the caller has exclusive use of these bytes.
    let made = unsafe { windows_sys::Win32::Security::Cryptography::ProcessPrng(ptr, len) };
    succeeded(Call::Getrandom, made).map(|()| len)
}

/// What the system puts on the stack of a thread to deliver an exception to it: a CONTEXT with the extended registers, at
/// most 4 KiB with AVX-512, and the frames of who looks for a handler.
pub(super) fn signal_frame_size() -> usize {
    8192
}

#[inline]
pub(super) fn wait_on(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    // Rounded up, so that who waits for half a millisecond does not spin through it.
    let wait = timeout
        .map_or(INFINITE, |wait| wait.as_nanos().div_ceil(1_000_000).min(u128::from(INFINITE - 1)) as u32);
    // SAFETY: compares as many bytes as both have. Woken, timed out or too late: the caller looks at the word again.
    unsafe { WaitOnAddress(word.as_ptr().cast(), (&raw const expected).cast(), size_of::<u32>(), wait) };
}

#[inline]
pub(super) fn wake_all(word: &AtomicU32) {
    // SAFETY: an address, which is not looked at.
    unsafe { WakeByAddressAll(word.as_ptr().cast()) };
}

/// QueryUnbiasedInterruptTime: in steps of a tick, without a system call.
#[inline]
pub(super) fn coarse_now() -> u64 {
    let mut now = 0_u64;
    // SAFETY: writes one word that lives over the call, which has no other way to fail.
    unsafe { QueryUnbiasedInterruptTime(&raw mut now) };
    // It counts 100 nanoseconds.
    now.wrapping_mul(100)
}

/// GetTickCount64, which goes on while the machine sleeps.
pub(super) fn boot_now() -> u64 {
    // SAFETY: reads a clock.
    unsafe { GetTickCount64() }.wrapping_mul(1_000_000)
}

#[inline]
pub(super) fn process_id() -> u32 {
    // SAFETY: reads a word of this process.
    unsafe { GetCurrentProcessId() }
}

#[inline]
pub(super) fn thread_id() -> u64 {
    // SAFETY: reads a word of this thread.
    unsafe { GetCurrentThreadId() }.into()
}

/// There are no signals that a thread could be interrupted by.
pub(super) fn with_signals_blocked<T>(run: impl FnOnce() -> CallResult<T>) -> CallResult<T> {
    run()
}

/// There are no forks.
pub(super) fn on_fork(_: extern "C" fn(), _: extern "C" fn(), _: extern "C" fn()) -> CallResult<()> {
    Ok(())
}

/// No listing tells which pages are locked or left out of reports: what calls have granted is unverified.
pub(super) fn range_flags(_: usize, _: usize) -> Option<RangeFlags> {
    None
}

pub(super) fn threads() -> Option<u64> {
    None
}

/// Handles are limited by memory alone.
pub(super) fn descriptor_limit() -> Option<u64> {
    None
}

/// So are mappings.
pub(super) fn mapping_limit() -> Option<u64> {
    None
}

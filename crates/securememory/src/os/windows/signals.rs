//! What stands for signals on Windows: exceptions, which come to the thread that has made them, and console events, which
//! come on a thread of their own. Console events have the numbers of the signals that mean the same.
//!
//! All functions here are dying ones: without allocation, lock of ours or thread-local.

// Reason: system calls; every block says why it is sound.
#![allow(unsafe_code)]

mod memory;

pub(crate) use memory::*;

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::{Call, CallResult, injected};
use super::{last_error, succeeded};
use windows_sys::Win32::Foundation::{EXCEPTION_IN_PAGE_ERROR, STATUS_CONTROL_C_EXIT};
use windows_sys::Win32::Storage::FileSystem::WriteFile;
use windows_sys::Win32::System::Console::{
    CTRL_BREAK_EVENT, CTRL_C_EVENT, CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT, GetStdHandle,
    STD_ERROR_HANDLE, SetConsoleCtrlHandler,
};
use windows_sys::Win32::System::Diagnostics::Debug::{
    AddVectoredExceptionHandler, CONTEXT, EXCEPTION_POINTERS, LPTOP_LEVEL_EXCEPTION_FILTER,
    LocateXStateFeature, RemoveVectoredExceptionHandler, SetUnhandledExceptionFilter,
};
use windows_sys::Win32::System::SystemServices::DLL_PROCESS_DETACH;
use windows_sys::Win32::System::Threading::{GetCurrentProcess, Sleep, TerminateProcess};

/// What an exception comes with.
pub(crate) type Info = EXCEPTION_POINTERS;

/// Signals 1 to 64, as bits 0 to 63.
pub(crate) type Mask = u64;

/// Signals are numbered from 1 to this.
pub(crate) const MAX_SIGNAL: usize = 31;

/// Words that come with a console event: none.
pub(crate) const WORDS: usize = 1;

/// Numbers of signals: those of Linux. Console events have those of the ones that mean the same; of the others there are no
/// deliveries.
pub(crate) mod numbers {
    pub(crate) const SIGHUP: i32 = 1;
    pub(crate) const SIGINT: i32 = 2;
    pub(crate) const SIGQUIT: i32 = 3;
    pub(crate) const SIGUSR1: i32 = 10;
    pub(crate) const SIGUSR2: i32 = 12;
    pub(crate) const SIGPIPE: i32 = 13;
    pub(crate) const SIGALRM: i32 = 14;
    pub(crate) const SIGTERM: i32 = 15;
    pub(crate) const SIGCHLD: i32 = 17;
    pub(crate) const SIGCONT: i32 = 18;
    pub(crate) const SIGTSTP: i32 = 20;
    pub(crate) const SIGTTIN: i32 = 21;
    pub(crate) const SIGTTOU: i32 = 22;
    pub(crate) const SIGURG: i32 = 23;
    pub(crate) const SIGXCPU: i32 = 24;
    pub(crate) const SIGXFSZ: i32 = 25;
    pub(crate) const SIGVTALRM: i32 = 26;
    pub(crate) const SIGPROF: i32 = 27;
    pub(crate) const SIGWINCH: i32 = 28;
    pub(crate) const SIGIO: i32 = 29;
}

/// The signal that a console event stands for.
pub(crate) fn signal_of(event: u32) -> Option<c_int> {
    match event {
        CTRL_C_EVENT => Some(numbers::SIGINT),
        CTRL_BREAK_EVENT => Some(numbers::SIGQUIT),
        CTRL_CLOSE_EVENT => Some(numbers::SIGHUP),
        CTRL_LOGOFF_EVENT | CTRL_SHUTDOWN_EVENT => Some(numbers::SIGTERM),
        _ => None,
    }
}

/// There are no real-time signals.
pub(crate) fn real_time() -> Option<(c_int, c_int)> {
    None
}

/// Is there a console event that it stands for?
pub(crate) fn can_be_handled(signal: c_int) -> bool {
    matches!(signal, numbers::SIGHUP | numbers::SIGINT | numbers::SIGQUIT | numbers::SIGTERM)
}

/// What is done about a signal. Windows does not tell it, so it is always the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Action {
    pub(crate) handler: usize,
}

impl Action {
    pub(crate) const DEFAULT: Self = Self { handler: 0 };

    pub(crate) fn is_default(&self) -> bool {
        self.handler == 0
    }

    pub(crate) fn is_ignored(&self) -> bool {
        false
    }
}

pub(crate) fn action(_: c_int) -> CallResult<Action> {
    Ok(Action::DEFAULT)
}

#[cfg(feature = "testing")]
pub(crate) fn look_at_action(_: c_int) -> Option<Action> {
    None
}

/// A signal, in a mask.
pub(crate) fn bit(signal: c_int) -> Mask {
    1_u64.wrapping_shl((signal as u32).wrapping_sub(1))
}

/// There are no masks: an exception cannot be kept away from its thread, and an event interrupts none.
pub(crate) fn block(_: Mask) -> CallResult<Mask> {
    Ok(0)
}

pub(crate) fn set_mask(_: Mask) -> Option<Mask> {
    None
}

/// Lets other threads run for a moment. Sleep
pub(crate) fn pause(nanoseconds: u32) {
    // SAFETY: a number only.
    unsafe { Sleep(nanoseconds.div_ceil(1_000_000)) };
}

/// Writes to standard error, as much as can be written at once. WriteFile
pub(crate) fn tell(bytes: &[u8]) {
    let (len, mut written) = (u32::try_from(bytes.len()).unwrap_or(0), 0);
    // SAFETY: readable bytes, and a word that lives over the call. Where there is no such handle, nothing is written.
    unsafe {
        let handle = GetStdHandle(STD_ERROR_HANDLE);
        WriteFile(handle, bytes.as_ptr(), len, &raw mut written, std::ptr::null_mut());
    }
}

/// A function that is asked about exceptions.
pub(crate) type Vectored = unsafe extern "system" fn(*mut Info) -> i32;

/// Has a function asked about every exception of the process, before all others. AddVectoredExceptionHandler
pub(crate) fn add_vectored(function: Vectored) -> CallResult<usize> {
    injected(Call::ExceptionHandler)?;
    // SAFETY: the function lives as long as the program, and may be asked about anything.
    let handle = unsafe { AddVectoredExceptionHandler(1, Some(function)) };
    if handle.is_null() { Err(last_error(Call::ExceptionHandler)) } else { Ok(handle.addr()) }
}

/// Takes it out again: this one, by its handle, whoever has added others since. RemoveVectoredExceptionHandler
pub(crate) fn remove_vectored(handle: usize) -> CallResult<()> {
    injected(Call::ExceptionHandler)?;
    // SAFETY: a handle that `add_vectored` gave.
    let removed = unsafe { RemoveVectoredExceptionHandler(std::ptr::without_provenance(handle)) };
    succeeded(Call::ExceptionHandler, removed.cast_signed())
}

/// Exchanges who is asked about exceptions that nobody has handled. SetUnhandledExceptionFilter
pub(crate) fn set_filter(filter: LPTOP_LEVEL_EXCEPTION_FILTER) -> LPTOP_LEVEL_EXCEPTION_FILTER {
    // SAFETY: ours, or what was there before.
    unsafe { SetUnhandledExceptionFilter(filter) }
}

/// A function that is asked about console events.
pub(crate) type Console = unsafe extern "system" fn(u32) -> i32;

/// Has a function asked about console events before those that were there, or no more. SetConsoleCtrlHandler
pub(crate) fn set_console(function: Console, added: bool) -> CallResult<()> {
    injected(Call::ConsoleHandler)?;
    // SAFETY: the function lives as long as the program.
    succeeded(Call::ConsoleHandler, unsafe { SetConsoleCtrlHandler(Some(function), added.into()) })
}

/// Ends the process as a console event does that nobody has handled, but at once. TerminateProcess
pub(crate) fn end_by_event() -> ! {
    end_with(STATUS_CONTROL_C_EXIT.cast_unsigned())
}

/// Ends the process with this code: no code of it runs any more. TerminateProcess
pub(crate) fn end_with(code: u32) -> ! {
    loop {
        // SAFETY: ends this process.
        unsafe { TerminateProcess(GetCurrentProcess(), code) };
    }
}

/// What an exception of an access was about.
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
pub(crate) enum Attempt {
    Read,
    Write,
    Execute,
    Unknown,
}

/// Code, and of an access the kind and the address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    pub(crate) code: c_int,
    pub(crate) attempt: Attempt,
    pub(crate) address: usize,
    /// Of [`EXCEPTION_IN_PAGE_ERROR`], why.
    pub(crate) reason: c_int,
}

/// Reads what came with an exception.
///
/// # Safety
///
/// `info` is what a handler was called with.
pub(crate) unsafe fn words(info: *const Info) -> Words {
    // SAFETY: as the caller vouches.
    let record = unsafe { &*(*info).ExceptionRecord };
    let word = |index: usize| {
        let there = index < record.NumberParameters as usize;
        record.ExceptionInformation.get(index).copied().filter(|_| there)
    };
    let attempt = match word(0) {
        Some(0) => Attempt::Read,
        Some(1) => Attempt::Write,
        Some(8) => Attempt::Execute,
        _ => Attempt::Unknown,
    };
    let is_lost = record.ExceptionCode == EXCEPTION_IN_PAGE_ERROR;
    let reason = word(2).filter(|_| is_lost).unwrap_or(0);
    Words { code: record.ExceptionCode, attempt, address: word(1).unwrap_or(0), reason: reason as c_int }
}

/// What the instruction has tried that an exception of an access was raised for.
///
/// # Safety
///
/// `context` is what a handler was called with.
pub(crate) unsafe fn attempt(context: *const c_void) -> Attempt {
    // SAFETY: as the caller vouches.
    unsafe { words(context.cast()) }.attempt
}

/// Wipes the vector registers that the system has saved.
///
/// # Safety
///
/// `context` is what a handler was called with, and what was interrupted does not need them.
pub(crate) unsafe fn wipe_vectors(context: *mut c_void) {
    // SAFETY: as the caller vouches: the record of the registers is the handler's to change.
    unsafe {
        let context: *mut CONTEXT = (*context.cast::<Info>()).ContextRecord;
        #[cfg(target_arch = "x86_64")]
        {
            zero((&raw mut (*context).Anonymous.FltSave.XmmRegisters).cast(), 256);
            // The upper halves, and what AVX-512 adds; by their numbers in the processor's manual.
            for part in [2, 5, 6, 7] {
                let mut len = 0;
                let at = LocateXStateFeature(context, part, &raw mut len);
                if !at.is_null() {
                    zero(at.cast(), len as usize);
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = context;
    }
}

/// # Safety
///
/// `len` bytes from `at` are writable.
unsafe fn zero(at: *mut u8, len: usize) {
    let mut done = 0_usize;
    while done < len {
        // SAFETY: as the caller vouches. Volatile, so that it is neither left out nor made a call.
        unsafe { at.add(done).write_volatile(0) };
        done = done.wrapping_add(1);
    }
}

/// Who has sent a console event is not told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) process: u32,
    pub(crate) user: u32,
    pub(crate) value: usize,
}

impl Origin {
    pub(crate) fn of(_: &[u64; WORDS]) -> Self {
        Self { process: 0, user: 0, value: 0 }
    }

    pub(crate) fn is_process(&self) -> bool {
        false
    }

    pub(crate) fn is_queued(&self) -> bool {
        false
    }
}

/// What is called when the process ends; zero: nothing.
static AT_EXIT: AtomicUsize = AtomicUsize::new(0);

/// Has a function called when the process ends by ExitProcess, as by `exit`, or by returning from `main`: after all other
/// threads were ended. It cannot be undone.
pub(crate) fn at_exit(run: extern "C" fn()) -> CallResult<()> {
    injected(Call::Atexit)?;
    AT_EXIT.store(run as usize, Ordering::Release);
    // Keeps the entry below in the program.
    // SAFETY: reads a word of this program.
    let _ = unsafe { (&raw const ENTRY).read_volatile() };
    Ok(())
}

/// An entry in the list of functions that the loader calls when threads and the process begin and end.
// SAFETY: the section has addresses of functions of this type, and only those.
#[used]
#[unsafe(link_section = ".CRT$XLY")]
static ENTRY: unsafe extern "system" fn(*mut c_void, u32, *mut c_void) = on_loader_call;

unsafe extern "system" fn on_loader_call(_: *mut c_void, reason: u32, _: *mut c_void) {
    if reason == DLL_PROCESS_DETACH {
        let run = AT_EXIT.load(Ordering::Acquire);
        if run != 0 {
            // SAFETY: put there by `at_exit`, as this type.
            unsafe { std::mem::transmute::<usize, extern "C" fn()>(run)() };
        }
    }
}

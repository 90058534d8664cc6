//! Of Windows: loads and stores that survive a fault, other processes and their memory, and an end that is held.

mod held;
mod process;

pub use held::{Ends, hold_at_end, stack};
pub use process::{Job, Kind, Process, Threads};

use std::io;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use windows_sys::Win32::Foundation::{EXCEPTION_ACCESS_VIOLATION, EXCEPTION_IN_PAGE_ERROR};
use windows_sys::Win32::Security::Cryptography::{
    CRYPTPROTECTMEMORY_SAME_PROCESS, CryptUnprotectMemory, ProcessPrng,
};
use windows_sys::Win32::System::Diagnostics::Debug::{
    AddVectoredExceptionHandler, EXCEPTION_CONTINUE_EXECUTION, EXCEPTION_CONTINUE_SEARCH, EXCEPTION_POINTERS,
    SEM_FAILCRITICALERRORS, SEM_NOGPFAULTERRORBOX, SetErrorMode,
};
use windows_sys::Win32::System::SystemInformation::{GetSystemInfo, SYSTEM_INFO};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, GetCurrentThreadId, GetProcessHandleCount, TerminateProcess,
};

/// `rep movsb`, the only instruction that may fault and be survived.
const COPY: [u8; 2] = [0xF3, 0xA4];

/// The thread whose copy may fault; zero: none.
static COPYING: AtomicU32 = AtomicU32::new(0);
/// One at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Has a copy of [`load`] and [`store`] end where it faults. AddVectoredExceptionHandler
pub fn survive() -> io::Result<()> {
    static ADDED: Mutex<bool> = Mutex::new(false);
    let mut added = ADDED.lock().map_err(|_| io::Error::other("a thread has panicked"))?;
    if !*added {
        // SAFETY: the function lives as long as the program, and may be asked about anything.
        if unsafe { AddVectoredExceptionHandler(1, Some(pass_over)) }.is_null() {
            return Err(io::Error::last_os_error());
        }
        *added = true;
    }
    Ok(())
}

/// Goes on behind a copy that has faulted. It looks at no memory but the instruction and what it was called with.
unsafe extern "system" fn pass_over(info: *mut EXCEPTION_POINTERS) -> i32 {
    // SAFETY: valid for as long as the handler runs, by the contract of vectored handlers; the instruction has just been
    // carried out, so it can be read.
    unsafe {
        let code = (*(*info).ExceptionRecord).ExceptionCode;
        let context = (*info).ContextRecord;
        if !matches!(code, EXCEPTION_ACCESS_VIOLATION | EXCEPTION_IN_PAGE_ERROR)
            || COPYING.load(Ordering::Relaxed) != GetCurrentThreadId()
        {
            return EXCEPTION_CONTINUE_SEARCH;
        }
        let Ok(at) = usize::try_from((*context).Rip) else { return EXCEPTION_CONTINUE_SEARCH };
        if ptr::with_exposed_provenance::<[u8; 2]>(at).read_unaligned() != COPY {
            return EXCEPTION_CONTINUE_SEARCH;
        }
        (*context).Rip += COPY.len() as u64;
        EXCEPTION_CONTINUE_EXECUTION
    }
}

/// Copies byte by byte up to the first that cannot be loaded or stored, and returns how many.
fn copy(from: usize, to: usize, len: usize) -> usize {
    let _turn = TURN.lock();
    COPYING.store(thread().cast_unsigned(), Ordering::Relaxed);
    let left: usize;
    // SAFETY: this is the attack. One of the two is memory of the caller's, the other any address: a fault there ends the
    // copy, by `pass_over`, and with it nothing else. What is stored are plain bytes that the library keeps at rest or
    // around its views; the victim ends after it.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") len => left,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
    COPYING.store(0, Ordering::Relaxed);
    len - left
}

/// Loads bytes from an address, as many as can be loaded; after [`survive`].
pub fn load(address: usize, room: &mut [u8]) -> usize {
    copy(address, room.as_mut_ptr().expose_provenance(), room.len())
}

/// Stores a byte at an address, as a stray store does; `false`: it has faulted. After [`survive`].
pub fn store(address: usize, byte: u8) -> bool {
    copy((&raw const byte).expose_provenance(), address, 1) == 1
}

/// Decrypts a copy of what the library has encrypted where it lies, as only this process can. CryptUnprotectMemory
pub fn unveil(copy: &mut [u8]) -> io::Result<()> {
    let len = u32::try_from(copy.len()).map_err(io::Error::other)?;
    // SAFETY: so many writable bytes.
    let done =
        unsafe { CryptUnprotectMemory(copy.as_mut_ptr().cast(), len, CRYPTPROTECTMEMORY_SAME_PROCESS) };
    if done == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Bytes in a page.
pub fn page_size() -> usize {
    // SAFETY: numbers and pointers, for which zero is right.
    let mut info: SYSTEM_INFO = unsafe { std::mem::zeroed() };
    // SAFETY: writes one structure that lives over the call.
    unsafe { GetSystemInfo(&raw mut info) };
    info.dwPageSize as usize
}

/// Fills the room with the system's random bytes.
pub fn random(room: &mut [u8]) -> io::Result<()> {
    // SAFETY: so many writable bytes.
    let done = unsafe { ProcessPrng(room.as_mut_ptr(), room.len()) };
    if done == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The thread that asks.
pub fn thread() -> i32 {
    // SAFETY: reads a word of this thread.
    unsafe { GetCurrentThreadId() }.cast_signed()
}

/// No window that waits for somebody when this process crashes, or one that it starts. SetErrorMode
pub fn no_dialogs() {
    // SAFETY: a number only.
    unsafe { SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX) };
}

/// Ends this process at once: nothing of it is called any more. TerminateProcess
pub fn leave(code: u8) -> ! {
    // SAFETY: the pseudo handle of this process, which needs not be closed.
    unsafe { TerminateProcess(GetCurrentProcess(), u32::from(code)) };
    // It does not come back for this process.
    std::process::abort()
}

/// Handles of this process. GetProcessHandleCount
pub fn handles() -> io::Result<u64> {
    let mut count = 0;
    // SAFETY: writes one word that lives over the call; the pseudo handle of this process needs not be closed.
    match unsafe { GetProcessHandleCount(GetCurrentProcess(), &raw mut count) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(count.into()),
    }
}

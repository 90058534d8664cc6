//! Another process: its memory, its threads and their registers, and a job that ends it.

use std::io;
use std::ops::Range;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::process::Child;
use std::ptr;

use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::System::Diagnostics::Debug::{
    CONTEXT, CONTEXT_ALL_AMD64, GetThreadContext, ReadProcessMemory, WriteProcessMemory,
};
use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, TH32CS_SNAPTHREAD, THREADENTRY32, Thread32First, Thread32Next,
};
use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, TerminateJobObject,
};
use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEM_FREE, MEM_IMAGE, MEM_PRIVATE, MEMORY_BASIC_INFORMATION, PAGE_EXECUTE_READWRITE,
    PAGE_EXECUTE_WRITECOPY, PAGE_GUARD, PAGE_NOACCESS, PAGE_READONLY, PAGE_READWRITE, PAGE_WRITECOPY,
    VirtualProtectEx, VirtualQueryEx,
};
use windows_sys::Win32::System::Threading::{
    OpenProcess, OpenThread, PROCESS_QUERY_INFORMATION, PROCESS_VM_OPERATION, PROCESS_VM_READ,
    PROCESS_VM_WRITE, ResumeThread, SuspendThread, THREAD_GET_CONTEXT, THREAD_SUSPEND_RESUME,
};

/// A handle, or the error of the call that should have given it.
fn owned(handle: HANDLE) -> io::Result<OwnedHandle> {
    if handle.is_null() || handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just made, for us.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// A process and all that it starts.
pub struct Job(OwnedHandle);

impl Job {
    /// Of a child that has not started anybody yet. CreateJobObject
    pub fn of(child: &Child) -> io::Result<Self> {
        // SAFETY: no attributes and no name.
        let job = owned(unsafe { CreateJobObjectW(ptr::null(), ptr::null()) })?;
        // SAFETY: both handles live.
        match unsafe { AssignProcessToJobObject(job.as_raw_handle(), child.as_raw_handle()) } {
            0 => Err(io::Error::last_os_error()),
            _ => Ok(Self(job)),
        }
    }

    /// Ends whoever is left. TerminateJobObject
    pub fn end(&self) {
        // SAFETY: the handle lives.
        unsafe { TerminateJobObject(self.0.as_raw_handle(), 1) };
    }
}

/// What pages are of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The process alone.
    Private,
    /// A file, or memory that is shared.
    Mapped,
    /// A program or a library.
    Image,
}

/// Pages in a row that are alike.
pub struct Pages {
    /// First address and the one after the last.
    pub range: Range<usize>,
    /// There is memory behind them.
    pub committed: bool,
    /// May be written by a store.
    pub write: bool,
    /// A touch is told to the system.
    pub warns: bool,
    /// May not be touched.
    pub closed: bool,
    /// What they are of.
    pub kind: Kind,
}

/// A process that may be looked into.
pub struct Process(OwnedHandle);

impl Process {
    /// By its id. OpenProcess
    pub fn open(pid: u32) -> io::Result<Self> {
        let rights = PROCESS_QUERY_INFORMATION | PROCESS_VM_READ | PROCESS_VM_OPERATION | PROCESS_VM_WRITE;
        // SAFETY: numbers only.
        owned(unsafe { OpenProcess(rights, 0, pid) }).map(Self)
    }

    /// The pages at an address, with those behind them that are alike; `None`: there is no such address. VirtualQueryEx
    pub fn pages(&self, at: usize) -> Option<Pages> {
        // SAFETY: numbers and pointers, for which zero is right.
        let mut info: MEMORY_BASIC_INFORMATION = unsafe { std::mem::zeroed() };
        let len = size_of::<MEMORY_BASIC_INFORMATION>();
        // SAFETY: writes one structure that lives over the call; the address is a number.
        let got = unsafe {
            VirtualQueryEx(self.0.as_raw_handle(), ptr::without_provenance(at), &raw mut info, len)
        };
        let start = info.BaseAddress.addr();
        let end = start.checked_add(info.RegionSize).filter(|end| got != 0 && *end > at)?;
        let writable = PAGE_READWRITE | PAGE_WRITECOPY | PAGE_EXECUTE_READWRITE | PAGE_EXECUTE_WRITECOPY;
        Some(Pages {
            range: at..end,
            committed: info.State == MEM_COMMIT && info.State != MEM_FREE,
            write: info.Protect & writable != 0,
            warns: info.Protect & PAGE_GUARD != 0,
            closed: info.Protect & PAGE_NOACCESS != 0,
            kind: match info.Type {
                MEM_PRIVATE => Kind::Private,
                MEM_IMAGE => Kind::Image,
                _ => Kind::Mapped,
            },
        })
    }

    /// Reads some bytes, of pages without access too: those are opened for that long, as a debugger does.
    /// ReadProcessMemory, VirtualProtectEx
    pub fn read(&self, address: usize, room: &mut [u8]) -> io::Result<usize> {
        let first = self.get(address, room);
        if matches!(first, Ok(got) if got > 0) {
            return first;
        }
        let pages = self.pages(address).filter(|pages| pages.committed && pages.closed);
        let Some(pages) = pages else { return first };
        let most = room.len().min(pages.range.end - address);
        let (process, start, mut before) = (self.0.as_raw_handle(), ptr::without_provenance(address), 0);
        // SAFETY: this is the attack: pages of another process, or of a victim that is not using them now. They are closed
        // again at once.
        unsafe {
            if VirtualProtectEx(process, start, most, PAGE_READONLY, &raw mut before) == 0 {
                return Err(io::Error::last_os_error());
            }
            let got = self.get(address, &mut room[..most]);
            VirtualProtectEx(process, start, most, before, &raw mut before);
            got
        }
    }

    fn get(&self, address: usize, room: &mut [u8]) -> io::Result<usize> {
        let (place, mut got) = (ptr::without_provenance(address), 0);
        // SAFETY: the system writes at most so many bytes of the room, and reads wherever it can.
        let done = unsafe {
            let process = self.0.as_raw_handle();
            ReadProcessMemory(process, place, room.as_mut_ptr().cast(), room.len(), &raw mut got)
        };
        // What cannot be read whole is read in part by some, and by others not at all.
        if done == 0 && got == 0 { Err(io::Error::last_os_error()) } else { Ok(got) }
    }

    /// Writes a word. WriteProcessMemory
    pub fn put(&self, address: usize, word: u32) -> io::Result<()> {
        let (place, mut put) = (ptr::without_provenance(address), 0);
        // SAFETY: the system checks the place, and reads a word that lives over the call.
        let done = unsafe {
            let process = self.0.as_raw_handle();
            WriteProcessMemory(process, place, (&raw const word).cast(), size_of::<u32>(), &raw mut put)
        };
        if done == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// All threads of a process, stopped until this ends.
pub struct Threads(Vec<(i32, OwnedHandle)>);

impl Threads {
    /// Stops them. CreateToolhelp32Snapshot, SuspendThread
    pub fn stop(pid: u32) -> io::Result<Self> {
        // SAFETY: numbers only.
        let listing = owned(unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPTHREAD, 0) })?;
        // SAFETY: numbers, for which zero is right.
        let mut entry: THREADENTRY32 = unsafe { std::mem::zeroed() };
        entry.dwSize = size_of::<THREADENTRY32>() as u32;
        let mut stopped = Vec::new();
        // SAFETY: for both: the listing lives, and one structure is written that says how large it is.
        let mut more = unsafe { Thread32First(listing.as_raw_handle(), &raw mut entry) };
        while more != 0 {
            if entry.th32OwnerProcessID == pid {
                let rights = THREAD_SUSPEND_RESUME | THREAD_GET_CONTEXT;
                // SAFETY: numbers only.
                let thread = owned(unsafe { OpenThread(rights, 0, entry.th32ThreadID) })?;
                // SAFETY: the handle lives.
                if unsafe { SuspendThread(thread.as_raw_handle()) } == u32::MAX {
                    return Err(io::Error::last_os_error());
                }
                stopped.push((entry.th32ThreadID.cast_signed(), thread));
            }
            // SAFETY: as above.
            more = unsafe { Thread32Next(listing.as_raw_handle(), &raw mut entry) };
        }
        Ok(Self(stopped))
    }

    /// General registers and the 16 vector registers, of each. GetThreadContext
    pub fn registers(&self) -> io::Result<Vec<(i32, Vec<u8>)>> {
        #[repr(C, align(16))]
        struct Aligned(CONTEXT);
        let of = |(id, thread): &(i32, OwnedHandle)| {
            // SAFETY: numbers, for which zero is right.
            let mut context: Aligned = unsafe { std::mem::zeroed() };
            context.0.ContextFlags = CONTEXT_ALL_AMD64;
            // SAFETY: the handle lives, and one structure is written, aligned as it must be.
            if unsafe { GetThreadContext(thread.as_raw_handle(), &raw mut context.0) } == 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: all of a structure that is plain numbers and was zeroed, so that no byte of it is undefined.
            let bytes = unsafe {
                std::slice::from_raw_parts((&raw const context).cast::<u8>(), size_of::<Aligned>())
            };
            Ok((*id, bytes.to_vec()))
        };
        self.0.iter().map(of).collect()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for (_, thread) in &self.0 {
            // SAFETY: the handle lives.
            unsafe { ResumeThread(thread.as_raw_handle()) };
        }
    }
}

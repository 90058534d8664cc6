//! Limits of a program that is going to be executed, and its end: for tests in processes of their own. Feature `testing` only.

use std::process::Command;

use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, TH32CS_SNAPTHREAD, THREADENTRY32, Thread32First, Thread32Next,
};
use windows_sys::Win32::System::Memory::{
    MEM_FREE, MEM_PRIVATE, MEMORY_BASIC_INFORMATION, PAGE_NOACCESS, VirtualQuery,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetProcessHandleCount};

/// Always the same: a process does not change it here.
pub(crate) fn user() -> u32 {
    0
}

/// There are no such limits: what needs one is skipped.
pub(crate) fn may_set(_: (u32, u64)) -> bool {
    false
}

pub(crate) fn set_before_exec(_: &mut Command, _: Vec<(u32, u64)>) {}

/// Ends the process without anything of it being called any more.
pub(crate) fn exit_at_once(code: i32) -> ! {
    super::signals::end_with(code.cast_unsigned())
}

/// Handles of this process. GetProcessHandleCount
pub(crate) fn handles() -> u32 {
    let mut count = 0;
    // SAFETY: writes one word that lives over the call.
    unsafe { GetProcessHandleCount(GetCurrentProcess(), &raw mut count) };
    count
}

/// Private memory that begins with a page without access, as ours does: where, and how many bytes. VirtualQuery
pub(crate) fn mappings() -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = 0_usize;
    loop {
        // SAFETY: numbers and pointers, for which zero is right.
        let mut info: MEMORY_BASIC_INFORMATION = unsafe { std::mem::zeroed() };
        let len = size_of::<MEMORY_BASIC_INFORMATION>();
        // SAFETY: writes one structure that lives over the call; the address is only looked up.
        if unsafe { VirtualQuery(std::ptr::without_provenance(at), &raw mut info, len) } == 0 {
            return found;
        }
        let (base, start) = (info.BaseAddress.addr(), info.AllocationBase.addr());
        let is_first = base == start && info.State != MEM_FREE;
        if is_first && info.Type == MEM_PRIVATE && info.Protect == PAGE_NOACCESS {
            found.push((base, info.RegionSize));
        }
        at = base.saturating_add(info.RegionSize.max(1));
    }
}

/// Threads of this process. CreateToolhelp32Snapshot
pub(crate) fn threads() -> usize {
    let process = super::process_id();
    // SAFETY: takes numbers; the structure lives over the calls and says its own length; the handle is closed.
    unsafe {
        let snapshot = CreateToolhelp32Snapshot(TH32CS_SNAPTHREAD, 0);
        let mut entry: THREADENTRY32 = std::mem::zeroed();
        entry.dwSize = size_of::<THREADENTRY32>() as u32;
        let mut count = 0;
        let mut there = Thread32First(snapshot, &raw mut entry) != 0;
        while there {
            count += usize::from(entry.th32OwnerProcessID == process);
            there = Thread32Next(snapshot, &raw mut entry) != 0;
        }
        windows_sys::Win32::Foundation::CloseHandle(snapshot);
        count
    }
}

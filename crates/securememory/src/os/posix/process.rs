//! What concerns the process as a whole: who may look at its memory, and what becomes of that when it crashes.

// Reason: functions of the C library; every block says why it is sound.
#![allow(unsafe_code)]

use super::super::{Call, CallError, CallResult, injected};

const fn none<T>(call: Call) -> CallResult<T> {
    Err(CallError::new(call, libc::ENOTSUP))
}

/// May others of the same user look at it, and may it leave a core? procctl(2), `PROC_TRACE_STATUS`.
#[cfg(target_os = "freebsd")]
pub(crate) fn is_dumpable() -> CallResult<bool> {
    injected(Call::Prctl)?;
    let mut status: std::ffi::c_int = 0;
    trace(libc::PROC_TRACE_STATUS, &mut status)?;
    // -1: nobody may; 0: somebody may; else who does.
    Ok(status != -1)
}

/// Forbids that. procctl(2), `PROC_TRACE_CTL`.
#[cfg(target_os = "freebsd")]
pub(crate) fn forbid_dumping() -> CallResult<()> {
    injected(Call::Prctl)?;
    let mut wanted: std::ffi::c_int = libc::PROC_TRACE_CTL_DISABLE;
    trace(libc::PROC_TRACE_CTL, &mut wanted)
}

#[cfg(target_os = "freebsd")]
fn trace(command: std::ffi::c_int, number: &mut std::ffi::c_int) -> CallResult<()> {
    // SAFETY: the commands read or write one number, which lives over the call.
    super::made(Call::Prctl, || unsafe {
        libc::procctl(libc::P_PID, libc::getpid() as _, command, std::ptr::from_mut(number).cast())
    })
}

/// There is no such property of a process.
#[cfg(not(target_os = "freebsd"))]
pub(crate) fn is_dumpable() -> CallResult<bool> {
    injected(Call::Prctl)?;
    none(Call::Prctl)
}

/// There is no such property of a process.
#[cfg(not(target_os = "freebsd"))]
pub(crate) fn forbid_dumping() -> CallResult<()> {
    injected(Call::Prctl)?;
    none(Call::Prctl)
}

/// The largest core, in bytes: soft and hard; `None`: any size. getrlimit(2), `RLIMIT_CORE`.
pub(crate) fn core_limits() -> (Option<u64>, Option<u64>) {
    super::limits(libc::RLIMIT_CORE as _)
}

/// Sets both to zero. setrlimit(2).
pub(crate) fn forbid_cores() -> CallResult<()> {
    injected(Call::Setrlimit)?;
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads one structure that lives over the call.
    super::made(Call::Setrlimit, || unsafe { libc::setrlimit(libc::RLIMIT_CORE as _, &raw const none) })
}

/// Cores are whole or not at all.
pub(crate) fn core_filter() -> CallResult<u32> {
    injected(Call::Open)?;
    none(Call::Open)
}

/// Cores are whole or not at all.
pub(crate) fn forbid_core_contents() -> CallResult<()> {
    injected(Call::Open)?;
    none(Call::Open)
}

/// Where cores go. core(5), `kern.corefile`.
#[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
pub(crate) fn core_pattern() -> CallResult<String> {
    injected(Call::Open)?;
    let mut text = [0_u8; 1024];
    let mut len = text.len();
    // SAFETY: a name that ends; as many bytes as the array has are written at most.
    super::made(Call::Open, || unsafe {
        let (name, at) = (c"kern.corefile".as_ptr(), text.as_mut_ptr().cast());
        libc::sysctlbyname(name, at, &raw mut len, std::ptr::null_mut(), 0)
    })?;
    let text = text.get(..len).unwrap_or(&text);
    Ok(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
}

/// Nothing tells.
#[cfg(not(any(target_vendor = "apple", target_os = "freebsd")))]
pub(crate) fn core_pattern() -> CallResult<String> {
    injected(Call::Open)?;
    none(Call::Open)
}

/// Nothing tells.
pub(crate) fn swaps() -> CallResult<String> {
    injected(Call::Open)?;
    none(Call::Open)
}

/// Nothing tells.
pub(crate) fn ptrace_scope() -> CallResult<Option<u8>> {
    injected(Call::Open)?;
    none(Call::Open)
}

/// A mapping that cores contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dumped<'a> {
    pub(crate) name: &'a str,
    pub(crate) bytes: u64,
    pub(crate) resident: u64,
}

/// Nothing tells.
pub(crate) fn each_dumped(_: impl FnMut(Dumped<'_>)) -> CallResult<()> {
    injected(Call::Open)?;
    none(Call::Open)
}

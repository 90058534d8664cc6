//! What concerns the process as a whole. Windows has other measures for it than those of [`crate::harden`]: rights to a
//! process are in its security descriptor, and dumps are written by Windows Error Reporting, or by whoever has the rights.
//! So nothing of it is done here, and each question says that it is not supported.

use super::super::{Call, CallError, CallResult, errno, injected};

fn unsupported<T>(call: Call) -> CallResult<T> {
    injected(call)?;
    Err(CallError::new(call, errno::ENOTSUP))
}

pub(crate) fn is_dumpable() -> CallResult<bool> {
    unsupported(Call::Prctl)
}

pub(crate) fn forbid_dumping() -> CallResult<()> {
    unsupported(Call::Prctl)
}

/// There is no such limit.
pub(crate) fn core_limits() -> (Option<u64>, Option<u64>) {
    (None, None)
}

pub(crate) fn forbid_cores() -> CallResult<()> {
    unsupported(Call::Setrlimit)
}

pub(crate) fn core_filter() -> CallResult<u32> {
    unsupported(Call::Open)
}

pub(crate) fn forbid_core_contents() -> CallResult<()> {
    unsupported(Call::Write)
}

pub(crate) fn core_pattern() -> CallResult<String> {
    unsupported(Call::Open)
}

pub(crate) fn swaps() -> CallResult<String> {
    unsupported(Call::Open)
}

pub(crate) fn ptrace_scope() -> CallResult<Option<u8>> {
    unsupported(Call::Open)
}

/// A mapping that dumps contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dumped<'a> {
    pub(crate) name: &'a str,
    pub(crate) bytes: u64,
    pub(crate) resident: u64,
}

pub(crate) fn each_dumped(_: impl FnMut(Dumped<'_>)) -> CallResult<()> {
    unsupported(Call::Open)
}

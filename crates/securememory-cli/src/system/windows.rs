//! What doctor, bench and stress ask of the system, on Windows.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::windows::io::AsHandle;
use std::os::windows::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_CALL_NOT_IMPLEMENTED, EXCEPTION_ACCESS_VIOLATION,
    EXCEPTION_ILLEGAL_INSTRUCTION, EXCEPTION_IN_PAGE_ERROR, EXCEPTION_STACK_OVERFLOW,
    STATUS_STACK_BUFFER_OVERRUN,
};

use crate::raw::{self, Job};

pub use raw::{page_size, random, thread};

/// Is it the host's rules that forbid it?
pub fn is_refusal(code: i32) -> bool {
    matches!(code.cast_unsigned(), ERROR_ACCESS_DENIED | ERROR_CALL_NOT_IMPLEMENTED)
}

/// There is no user of this name.
pub fn is_root() -> bool {
    false
}

/// This program once more, with another command. The environment is left as it is: without `SystemRoot` libraries of the
/// system's do not load.
pub fn myself(command: &str) -> io::Result<Command> {
    let mut child = Command::new(std::env::current_exe()?);
    child.arg(command);
    Ok(child)
}

/// No attack here needs one.
pub fn as_ordinary_user(_: &mut Command) {}

/// The job in which they are ends them ([`Family`]).
pub fn die_with_parent() {}

/// No window that waits for somebody when a process crashes, in this one and all that it starts.
#[allow(clippy::unnecessary_wraps, reason = "as elsewhere, where it may be refused")]
pub fn no_cores() -> io::Result<()> {
    raw::no_dialogs();
    Ok(())
}

/// Standard input, one read for each read.
pub fn standard_input() -> io::Result<File> {
    Ok(io::stdin().as_handle().try_clone_to_owned()?.into())
}

/// Makes a directory; an error where it exists. Who may enter it says the one above, which is the user's own.
pub fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().create(path)
}

/// A process and all that it starts, in a job.
pub struct Family(Job);

impl Family {
    /// Nothing has to be done before.
    pub fn led_by(_: &mut Command) {}

    /// Of a child that has not started anybody yet.
    pub fn of(child: &Child) -> io::Result<Self> {
        Job::of(child).map(Self)
    }

    /// Whoever is left goes now.
    pub fn end(&self) {
        self.0.end();
    }
}

/// Did it end by an access that was not allowed?
pub fn ended_by_fault(status: ExitStatus) -> bool {
    status == ExitStatus::from_raw(EXCEPTION_ACCESS_VIOLATION.cast_unsigned())
}

/// No end by abort is looked at here.
pub fn ended_by_abort(_: ExitStatus) -> bool {
    false
}

/// There are no signals.
pub fn ended_by(_: ExitStatus, _: i32) -> bool {
    false
}

/// The exception that has ended a process: an exit code of the kind that the system calls an error.
pub fn killer(status: ExitStatus) -> Option<String> {
    let code = status.code()?.cast_unsigned();
    let name = match code.cast_signed() {
        EXCEPTION_ACCESS_VIOLATION => "access violation",
        EXCEPTION_IN_PAGE_ERROR => "in-page error",
        EXCEPTION_ILLEGAL_INSTRUCTION => "illegal instruction",
        EXCEPTION_STACK_OVERFLOW => "stack overflow",
        STATUS_STACK_BUFFER_OVERRUN => "abort",
        _ => "exception",
    };
    (code >> 30 == 3).then(|| format!("{name} ({code:#X})"))
}

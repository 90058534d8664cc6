//! Faults: an access to memory of ours that fails, and everything else that ends a process by a signal.
//!
//! Nothing here happens unless the program asks for it, by [`install`]. From then on:
//!
//! - A fault **in our memory** (a guard page, a closed page, a page that has lost its memory) is told in one line on
//!   standard error, and [`last_fault`] has it to be looked at; then the [`FaultPolicy`] decides.
//! - **Every other fault** reaches whoever it would have reached without us, as it would have.
//! - **What ends the process** by SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS or SIGABRT (a panic with `panic = "abort"`
//!   is one), or by `exit`, wipes all secrets first: views are overwritten by noise, keys and paged secrets too. Other signals
//!   that end a process are the [coordinator](crate::signal)'s. SIGKILL cannot be helped.
//!
//! ```
//! use securememory::fault::{self, FaultPolicy};
//! let guard = fault::install(FaultPolicy::Abort)?;
//! // The program; at its end, or never:
//! let uninstalled = guard.uninstall()?;
//! assert_eq!(uninstalled, fault::Uninstalled::Restored);
//! # Ok::<(), securememory::Error>(())
//! ```
//!
//! # What a signal finds on its way
//!
//! Our handler runs on the thread's alternate stack if it has one (every thread of Rust's has), never makes one, takes no
//! locks and allocates nothing. A handler that was there before is called as the kernel would have: with its mask, once if
//! it wants to be called once, on the thread's own stack if it does not want another (then we step aside, the kernel calls it,
//! and we come back afterwards: see [`FaultGuard::check`]). A default action is left to the kernel, so that exit status and
//! core are true. signal(7), sigaction(2), sigaltstack(2)
//!
//! abort(3) ends the process whatever a handler does, and does not come back to us. So if the process sends a SIGABRT to
//! itself by abort(3) or raise(3), which cannot be told apart, secrets are wiped as soon as the handler that was there
//! before has returned; before it is called, if it is one for which we step aside.
//!
//! # Windows
//!
//! There our handler is a vectored one, asked first about every exception, and taken out by its handle. A fault in our memory
//! (`EXCEPTION_ACCESS_VIOLATION`, `EXCEPTION_IN_PAGE_ERROR`, `EXCEPTION_GUARD_PAGE`) is answered there, and then goes on to
//! whoever else is asked, so that the process ends with the true code. All other exceptions are looked at when nobody has
//! handled them, by the filter of SetUnhandledExceptionFilter; then secrets are wiped before the process ends. **A Rust abort
//! goes past all of that** (`int 29h`, `__fastfail`), as does whatever calls `TerminateProcess`: nothing is wiped. The filter is
//! not called where a debugger is attached. Who catches, in a frame of structured exception handling, a fault for which all
//! secrets were wiped, goes on in a process without secrets. [`FaultPolicy::Recover`] replaces nothing: lost memory ends the
//! process.
//!
//! # Limits
//!
//! A handler that runs on the thread's own stack, for which we step aside, and then ends the process, does so without us:
//! nothing is wiped, unless [`FaultGuard::assume_fatal`] was called. So it is with a handler that ends the process by
//! itself, or calls abort(3) on an alternate stack that has no room for one more delivery: with AVX-512 the usual one of
//! 8 KiB has none. The handler of Rust's standard library, which aborts when a stack has overflowed, is known: secrets are
//! wiped before it is called.
//!
//! A fault that is ignored (`SIG_IGN`) ends the process; so does, with us, a signal that a process sends itself with a
//! positive `si_code`, as only the kernel does, and ignores. A signal that is ignored is not ignored any more in a
//! program that is executed while fault handling is installed (execve(2)).
//!
//! A thread that has blocked SIGSEGV or SIGBUS dies of a fault without any handler. A handler of somebody else's that
//! replaced ours and does not call it keeps everything from us. What the kernel has saved of the registers of other threads,
//! on their stacks, is not ours to wipe. A child that shares our memory (vfork(2)) and has, in a process-id namespace of its
//! own, the same number as its parent is taken for it.

#[cfg(unix)]
pub(crate) mod chain;
#[cfg(windows)]
#[path = "windows/chain.rs"]
pub(crate) mod chain;
pub(crate) mod guard;
pub(crate) mod inside;
#[cfg(unix)]
pub(crate) mod outside;
#[cfg(windows)]
#[path = "windows/outside.rs"]
pub(crate) mod outside;
mod report;
pub(crate) mod roles;
#[cfg(unix)]
pub(crate) mod thread;
#[cfg(windows)]
#[path = "windows/thread.rs"]
pub(crate) mod thread;
mod words;
mod work;

pub use guard::{FaultGuard, Uninstalled, faults_seen, install, last_fault};
pub use inside::AfterFault;
pub use report::{Access, Done, FaultLabel, FaultReport, Memory, Place};

/// What is done about a fault in our memory.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default)]
pub enum FaultPolicy {
    /// All secrets are wiped; then the handlers that were there before are called, and the signal ends the process, with
    /// its true status.
    #[default]
    Abort,
    /// It is told, and passed on to whoever was there before.
    Report,
    /// Memory that was lost (SIGBUS: failing hardware, a file that was cut) is replaced by noise, and the thread goes on.
    /// What lay there is [`Error::Poisoned`](crate::Error::Poisoned), also for a closure that was reading it at that moment
    /// ([`WithError::Ran`](crate::WithError::Ran)); a key that lay there is
    /// [`Error::KeyLost`](crate::Error::KeyLost), until a [purge](crate::Vault::purge) makes another. Every other fault is as
    /// for [`FaultPolicy::Abort`].
    ///
    /// A change of a paged secret that was lost under its writer is undone. A key whose ciphertext was lost counts as used
    /// until the vault is purged or dropped, so a refresh cannot be finished meanwhile. Ciphertext of more than about a KiB
    /// lies in the allocator's memory, and is known only while it is read or sealed: an error that is found when nobody
    /// does is passed on, as a fault that is not ours.
    ///
    /// For a vault ([`VaultBuilder::on_fault`](crate::VaultBuilder::on_fault)); for all, [`install`] refuses it.
    Recover,
    /// A function of the program's is asked: see [`FaultPolicy::call`].
    Call(AskFault),
}

/// A function that may be called in a signal handler.
#[derive(Clone, Copy)]
pub struct AskFault(inside::Ask);

impl std::fmt::Debug for AskFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AskFault")
    }
}

impl FaultPolicy {
    /// Has a function asked about every fault.
    ///
    /// # Safety
    ///
    /// The function is async-signal-safe (signal-safety(7)): it is called in a signal handler, on a small stack, in the middle
    /// of anything. It neither allocates, locks, prints nor panics.
    #[must_use]
    #[allow(unsafe_code)]
    pub const unsafe fn call(ask: fn(&FaultReport) -> AfterFault) -> Self {
        Self::Call(AskFault(ask))
    }

    /// As a handler finds it: a code, and the address of the function.
    pub(crate) fn encode(self) -> (u32, usize) {
        match self {
            Self::Abort => (inside::ABORT, 0),
            Self::Report => (inside::REPORT, 0),
            Self::Recover => (inside::RECOVER, 0),
            Self::Call(AskFault(ask)) => (inside::CALL, ask as usize),
        }
    }
}

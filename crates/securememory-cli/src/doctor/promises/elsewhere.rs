//! Attacks that this system does not know, and why.

use super::Attack;

impl Attack {
    /// Why it cannot be made on this system, whatever the host allows; `None`: it can.
    #[cfg(not(windows))]
    #[allow(clippy::unused_self, reason = "on Linux all attacks can be made")]
    pub fn is_not_of_this_system(self) -> Option<&'static str> {
        None
    }

    /// Why it cannot be made on this system, whatever the host allows; `None`: it can.
    #[cfg(windows)]
    pub fn is_not_of_this_system(self) -> Option<&'static str> {
        match self {
            Self::ReadInstant => Some(
                "not on Windows: the thief would find again what he has found, in heaps that the system does not tell from \
                 other memory",
            ),
            Self::ProcFd | Self::ProcFdRoot => {
                Some("not on Windows: no name of a file leads to the memory of a process")
            }
            Self::BothShares => {
                Some("not on Windows: no share of a key lies in a file, so this is what `proc-mem` does")
            }
            Self::CoreDump => Some(
                "not on Windows: only Windows Error Reporting leaves out what it was asked to, and it cannot be made to write \
                 a report here; who calls MiniDumpWriteDump gets what `proc-mem` gets",
            ),
            Self::Swap => Some(
                "not on Windows: no list tells whether pages are locked; `status()` says what was asked for and granted",
            ),
            Self::ForkChild | Self::ForkInRead => Some("not on Windows: a process does not fork"),
            Self::KillTerm | Self::KillInt | Self::KillHup | Self::KillQuit => Some(
                "not on Windows: another process ends one by TerminateProcess, after which no code of it runs, as after \
                 SIGKILL; console events need a console",
            ),
            Self::KillSegv | Self::KillBus | Self::KillAbrt => {
                Some("not on Windows: one process cannot raise an exception in another")
            }
            _ => None,
        }
    }
}

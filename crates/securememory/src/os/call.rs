//! Names of system calls, and the error of one that failed.

use std::fmt;

use super::errno::WORD;

/// A system call, by name. [`CallError`] uses it to say which one failed; so does the fault injector of the
/// `testing` feature.
///
/// Each is described in section 2 of the Linux manual under the name that [`Call::name`] gives, unless noted
/// here. On Windows that is the name of the function which does the same there.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// mmap(2): reserve address space.
    Mmap,
    /// munmap(2): give it back.
    Munmap,
    /// mprotect(2): open or close pages.
    Mprotect,
    /// mlock(2): keep pages out of swap.
    Mlock,
    /// munlock(2): let them be swapped again.
    Munlock,
    /// madvise(2): keep pages out of core dumps and child processes, and the like.
    Madvise,
    /// memfd_create(2): make a file that lies only in memory.
    MemfdCreate,
    /// memfd_secret(2): memory that even the kernel does not keep mapped.
    MemfdSecret,
    /// fcntl(2): seals, status flags and the number of a descriptor.
    Fcntl,
    /// fchmod(2): the mode of an open file.
    Fchmod,
    /// fstat(2): which file a descriptor stands for.
    Fstat,
    /// pread64(2), called pread in the C library.
    Pread,
    /// pwrite64(2), called pwrite in the C library.
    Pwrite,
    /// ftruncate(2): the length of an open file.
    Ftruncate,
    /// close(2): give a descriptor back.
    Close,
    /// getrandom(2): random bytes of the kernel.
    Getrandom,
    /// futex(2): wait for a word in memory to change.
    Futex,
    /// rt_sigprocmask(2), and with it rt_sigpending(2) and rt_sigtimedwait(2): block a signal and take it
    /// back.
    Sigprocmask,
    /// pkey_alloc(2): a memory protection key.
    PkeyAlloc,
    /// pkey_free(2), in pkey_alloc(2): give it back.
    PkeyFree,
    /// pkey_mprotect(2), in mprotect(2): put pages under it.
    PkeyMprotect,
    /// getrlimit(2): what a process may use.
    Getrlimit,
    /// sysconf(3): facts about the system.
    Sysconf,
    /// pthread_create(3): a thread of the library's own.
    ThreadCreate,
    /// pthread_atfork(3): what is run around a fork.
    Atfork,
    /// sigaction(2): what is done about a signal.
    Sigaction,
    /// atexit(3): what is run when the process ends in order.
    Atexit,
    /// prctl(2): properties of the process.
    Prctl,
    /// setrlimit(2), in getrlimit(2): what a process may use.
    Setrlimit,
    /// open(2), and with it read(2): a file of /proc.
    Open,
    /// write(2): to a file of /proc.
    Write,
    /// Windows, SetProcessWorkingSetSize: how much of the process stays in memory, and so how much can be locked.
    WorkingSet,
    /// Windows, CryptProtectMemory: bytes that only this process can make readable again.
    ProtectMemory,
    /// Windows, CryptUnprotectMemory: makes them readable again.
    UnprotectMemory,
    /// Windows, AddVectoredExceptionHandler, and RemoveVectoredExceptionHandler: who is asked about exceptions.
    ExceptionHandler,
    /// Windows, SetConsoleCtrlHandler: who is asked when the process is told to end.
    ConsoleHandler,
}

impl Call {
    const ALL: [Self; 36] = [
        Self::Mmap,
        Self::Munmap,
        Self::Mprotect,
        Self::Mlock,
        Self::Munlock,
        Self::Madvise,
        Self::MemfdCreate,
        Self::MemfdSecret,
        Self::Fcntl,
        Self::Fchmod,
        Self::Fstat,
        Self::Pread,
        Self::Pwrite,
        Self::Ftruncate,
        Self::Close,
        Self::Getrandom,
        Self::Futex,
        Self::Sigprocmask,
        Self::PkeyAlloc,
        Self::PkeyFree,
        Self::PkeyMprotect,
        Self::Getrlimit,
        Self::Sysconf,
        Self::ThreadCreate,
        Self::Atfork,
        Self::Sigaction,
        Self::Atexit,
        Self::Prctl,
        Self::Setrlimit,
        Self::Open,
        Self::Write,
        Self::WorkingSet,
        Self::ProtectMemory,
        Self::UnprotectMemory,
        Self::ExceptionHandler,
        Self::ConsoleHandler,
    ];

    /// The name in the manual, such as `"mmap"`, or on Windows `"VirtualAlloc"`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mmap if cfg!(windows) => "VirtualAlloc",
            Self::Mmap => "mmap",
            Self::Munmap if cfg!(windows) => "VirtualFree",
            Self::Munmap => "munmap",
            Self::Mprotect if cfg!(windows) => "VirtualProtect",
            Self::Mprotect => "mprotect",
            Self::Mlock if cfg!(windows) => "VirtualLock",
            Self::Mlock => "mlock",
            Self::Munlock if cfg!(windows) => "VirtualUnlock",
            Self::Munlock => "munlock",
            Self::Madvise if cfg!(windows) => "WerRegisterExcludedMemoryBlock",
            Self::Madvise => "madvise",
            Self::MemfdCreate => "memfd_create",
            Self::MemfdSecret => "memfd_secret",
            Self::Fcntl => "fcntl",
            Self::Fchmod => "fchmod",
            Self::Fstat => "fstat",
            Self::Pread => "pread",
            Self::Pwrite => "pwrite",
            Self::Ftruncate => "ftruncate",
            Self::Close => "close",
            Self::Getrandom if cfg!(windows) => "ProcessPrng",
            Self::Getrandom => "getrandom",
            Self::Futex if cfg!(windows) => "WaitOnAddress",
            Self::Futex => "futex",
            Self::Sigprocmask => "sigprocmask",
            Self::PkeyAlloc => "pkey_alloc",
            Self::PkeyFree => "pkey_free",
            Self::PkeyMprotect => "pkey_mprotect",
            Self::Getrlimit if cfg!(windows) => "GetProcessWorkingSetSize",
            Self::Getrlimit => "getrlimit",
            Self::Sysconf if cfg!(windows) => "GetSystemInfo",
            Self::Sysconf => "sysconf",
            Self::ThreadCreate if cfg!(windows) => "CreateThread",
            Self::ThreadCreate => "pthread_create",
            Self::Atfork => "pthread_atfork",
            Self::Sigaction => "sigaction",
            Self::Atexit => "atexit",
            Self::Prctl => "prctl",
            Self::Setrlimit => "setrlimit",
            Self::Open => "open",
            Self::Write => "write",
            Self::WorkingSet => "SetProcessWorkingSetSize",
            Self::ProtectMemory => "CryptProtectMemory",
            Self::UnprotectMemory => "CryptUnprotectMemory",
            Self::ExceptionHandler => "AddVectoredExceptionHandler",
            Self::ConsoleHandler => "SetConsoleCtrlHandler",
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}

/// A system call that failed, and why: `mlock: Cannot allocate memory (ENOMEM, errno 12)`, or on Windows
/// `VirtualLock: Insufficient quota to complete the requested service. (ERROR_WORKING_SET_QUOTA, error 1453)`.
///
/// Making and copying one allocates nothing; only its display asks the C library for the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallError {
    /// Which call.
    pub call: Call,
    /// The error number, as in errno(3); on Windows the code of GetLastError. Zero: the call succeeded but moved fewer bytes than it had to.
    pub errno: i32,
}

impl CallError {
    pub(crate) const fn new(call: Call, errno: i32) -> Self {
        Self { call, errno }
    }

    /// As one word, for an atomic; never zero.
    pub(crate) const fn to_word(self) -> u64 {
        (self.call as u64 + 1) << 32 | self.errno as u32 as u64
    }

    /// What [`Self::to_word`] gave.
    pub(crate) fn from_word(word: u64) -> Option<Self> {
        let number = (word >> 32).checked_sub(1)?;
        let call = Call::ALL.iter().copied().find(|call| *call as u64 == number)?;
        Some(Self { call, errno: word as u32 as i32 })
    }

    /// The call moved fewer bytes than it had to.
    #[allow(dead_code, reason = "on systems without files for shares, only tests move bytes")]
    pub(crate) const fn short(call: Call) -> Self {
        Self { call, errno: 0 }
    }

    /// The symbolic name of the error number, such as `"ENOMEM"` or `"ERROR_WORKING_SET_QUOTA"`; `None` for the rare ones and for zero.
    #[must_use]
    pub const fn symbol(&self) -> Option<&'static str> {
        super::errno::symbol(self.errno)
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.call.name();
        if self.errno == 0 {
            return write!(out, "{name}: fewer bytes than asked for");
        }
        let text = std::io::Error::from_raw_os_error(self.errno).to_string();
        // The standard library appends the number in its own words; ours follow.
        let text = text.split_once(" (os error").map_or(text.as_str(), |(text, _)| text);
        match self.symbol() {
            Some(symbol) => write!(out, "{name}: {text} ({symbol}, {WORD} {})", self.errno),
            None => write!(out, "{name}: {text} ({WORD} {})", self.errno),
        }
    }
}

impl std::error::Error for CallError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::errno;

    #[test]
    fn the_text_names_call_reason_symbol_and_number() {
        let error = CallError::new(Call::Mlock, errno::ENOMEM);
        let (call, symbol) =
            if cfg!(windows) { ("VirtualLock", "ERROR_NOT_ENOUGH_MEMORY") } else { ("mlock", "ENOMEM") };
        assert_eq!(error.to_string(), format!("{call}: {} ({symbol}, {WORD} {})", reason(), errno::ENOMEM));
        assert_eq!(error.symbol(), Some(symbol));
        assert_eq!(CallError::short(Call::Pread).to_string(), "pread: fewer bytes than asked for");
        let rare = CallError::new(Call::Close, 9_999);
        assert_eq!(rare.symbol(), None);
        assert!(rare.to_string().ends_with(&format!("({WORD} 9999)")), "{rare}");
    }

    #[test]
    fn an_error_comes_back_from_its_word() {
        for call in Call::ALL {
            for errno in [0, errno::ENOMEM, i32::MAX, -1] {
                let error = CallError::new(call, errno);
                assert_eq!(CallError::from_word(error.to_word()), Some(error));
            }
        }
        assert_eq!(CallError::from_word(0), None);
        let names: std::collections::BTreeSet<_> = Call::ALL.iter().map(|call| call.name()).collect();
        assert_eq!(names.len(), Call::ALL.len());
    }

    /// The C libraries differ in their words.
    fn reason() -> String {
        let text = std::io::Error::from_raw_os_error(errno::ENOMEM).to_string();
        text.split(" (os").next().map(str::to_owned).unwrap_or_default()
    }
}

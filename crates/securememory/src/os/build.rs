//! What was decided when the library was compiled.

use super::sys;

/// What this build of the library can do at all. What of it the machine grants is [`Host`](super::Host)'s.
///
/// ```
/// let build = securememory::Build::HERE;
/// // Where a child cannot find zeros in its parent's pages, it finds no pages there.
/// assert!(build.wipe_on_fork || build.dont_fork || build.backend == "windows");
/// ```
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build {
    /// Which part of the library makes its system calls: `"linux"`, `"apple"`, `"bsd"`, `"windows"`.
    pub backend: &'static str,
    /// In-memory files for shares of keys: the hold `Split`.
    pub split: bool,
    /// Memory protection keys: the hold `Pkey`.
    pub pkey: bool,
    /// Memory that the kernel does not keep mapped: the hold `Secretmem`.
    pub secretmem: bool,
    /// A forked child finds zeros in the library's pages.
    pub wipe_on_fork: bool,
    /// A forked child does not find the library's pages at all.
    pub dont_fork: bool,
    /// Pages can be left out of core dumps.
    pub dont_dump: bool,
    /// The kernel is asked what is in force on pages; else all is "unverified".
    pub verifies: bool,
    /// Lost memory can be replaced, [`FaultPolicy::Recover`](crate::fault::FaultPolicy) does something.
    pub replaces_lost: bool,
    /// A signal is sent on with what came with it; else who gets it after us sees this process as its sender.
    pub sends_words_on: bool,
    /// Threads sleep on a word until they are woken; else they look at it every few milliseconds.
    pub sleeps_on_words: bool,
    /// The process can be closed to others of the same user, see [`harden`](crate::harden).
    pub closes_process: bool,
}

impl Build {
    /// This build.
    pub const HERE: Self = sys::BUILD;

    /// All of them by name, but for the backend.
    #[must_use]
    pub const fn all(&self) -> [(&'static str, bool); 11] {
        [
            ("split", self.split),
            ("pkey", self.pkey),
            ("secretmem", self.secretmem),
            ("wipe_on_fork", self.wipe_on_fork),
            ("dont_fork", self.dont_fork),
            ("dont_dump", self.dont_dump),
            ("verifies", self.verifies),
            ("replaces_lost", self.replaces_lost),
            ("sends_words_on", self.sends_words_on),
            ("sleeps_on_words", self.sleeps_on_words),
            ("closes_process", self.closes_process),
        ]
    }
}

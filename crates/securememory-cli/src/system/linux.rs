//! What doctor, bench and stress ask of the system, on Linux: other processes, ordinary users, random numbers.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process_group, setrlimit};

/// The user and group without rights, on every Linux.
const NOBODY: u32 = 65534;

/// Bytes in a page.
pub fn page_size() -> usize {
    rustix::param::page_size()
}

/// Fills the room with kernel random bytes.
pub fn random(room: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < room.len() {
        let got = rustix::rand::getrandom(&mut room[filled..], rustix::rand::GetRandomFlags::empty());
        filled += got.map_err(io::Error::from).map_err(|error| {
            io::Error::new(error.kind(), format!("getrandom: {error}; a seccomp filter may forbid it"))
        })?;
    }
    Ok(())
}

/// Is it the host's rules that forbid it?
pub fn is_refusal(code: i32) -> bool {
    matches!(code, libc::EACCES | libc::EPERM | libc::ENOSYS)
}

/// Does this process have the rights of root?
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// This program once more, with another command.
pub fn myself(command: &str) -> io::Result<Command> {
    // By this name it works also where the user may not walk the path to the binary, or it was replaced.
    let mut child = Command::new("/proc/self/exe");
    child.arg0("securememory").arg(command).env_clear().current_dir("/");
    Ok(child)
}

/// Has it run as a user without rights, which only root can choose.
pub fn as_ordinary_user(command: &mut Command) {
    // This drops the supplementary groups too.
    command.uid(NOBODY).gid(NOBODY);
}

/// Not to outlive who has started it.
pub fn die_with_parent() {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
}

/// No core of this process or of anything that it starts, unless that one asks for it.
pub fn no_cores() -> io::Result<()> {
    let hard = getrlimit(Resource::Core).maximum;
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: hard })?)
}

/// The thread that asks.
pub fn thread() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Standard input, one read for each read.
pub fn standard_input() -> io::Result<File> {
    Ok(io::stdin().as_fd().try_clone_to_owned()?.into())
}

/// Makes a directory that nobody else may enter; an error where it exists.
pub fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// A process and all that it starts.
pub struct Family(Option<Pid>);

impl Family {
    /// Has a process lead one.
    pub fn led_by(command: &mut Command) {
        command.process_group(0);
    }

    /// That of a child that leads it.
    pub fn of(child: &Child) -> io::Result<Self> {
        Ok(Self(i32::try_from(child.id()).ok().and_then(Pid::from_raw)))
    }

    /// Whoever is left goes now.
    pub fn end(&self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Did it end by an access that was not allowed?
pub fn ended_by_fault(status: ExitStatus) -> bool {
    status.signal() == Some(libc::SIGSEGV)
}

/// Did it end by abort?
pub fn ended_by_abort(status: ExitStatus) -> bool {
    status.signal() == Some(libc::SIGABRT)
}

/// Did it end by this signal?
pub fn ended_by(status: ExitStatus, signal: i32) -> bool {
    status.signal() == Some(signal)
}

/// The signal that has ended a process.
pub fn killer(status: ExitStatus) -> Option<String> {
    status.signal().map(signal_name)
}

/// The name of a signal that can end a process.
pub fn signal_name(signal: i32) -> String {
    let known = [
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGTRAP, "SIGTRAP"),
        (libc::SIGSYS, "SIGSYS"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGXFSZ, "SIGXFSZ"),
        (libc::SIGPIPE, "SIGPIPE"),
    ];
    let name = known.iter().find(|(number, _)| *number == signal);
    name.map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned())
}

//! Carries a child through its code instruction by instruction, ptrace(2). For x86-64.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::ptr;

/// Where a child stands.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// The address of the instruction that comes next.
    pub at: u64,
    /// What a system call would be told from: its number, if the next instruction is one.
    pub number: u64,
    /// The number of the system call that it is in, at a stop for one.
    pub inside: u64,
}

/// Why a child is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It has done the step that it was told to.
    Step,
    /// It begins or ends a system call.
    Call,
    /// This signal is about to be delivered to it.
    Signal(i32),
}

/// Starts a program that is held before its first instruction. The calling thread is the only one that may carry it on.
pub fn start(command: &mut Command) -> io::Result<Child> {
    // SAFETY: between fork and exec one system call is made, which neither allocates nor locks.
    unsafe { command.pre_exec(|| order(libc::PTRACE_TRACEME, 0, 0, 0)) };
    let child = command.spawn()?;
    let process = pid(&child);
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
    match held(process)? {
        Some(_) => {
            order(libc::PTRACE_SETOPTIONS, process, 0, options.unsigned_abs() as usize).map(|()| child)
        }
        None => Err(io::Error::other("the child ended before it began")),
    }
}

fn pid(child: &Child) -> i32 {
    child.id().cast_signed()
}

/// Lets it take one step. `None`: it has ended.
pub fn step(child: &Child, signal: i32) -> io::Result<Option<Held>> {
    advance(child, libc::PTRACE_SINGLESTEP, signal)
}

/// Lets it run to the beginning or the end of its next system call. `None`: it has ended.
pub fn to_call(child: &Child, signal: i32) -> io::Result<Option<Held>> {
    advance(child, libc::PTRACE_SYSCALL, signal)
}

/// Lets it go for good.
pub fn release(child: &Child) -> io::Result<()> {
    order(libc::PTRACE_DETACH, pid(child), 0, 0)
}

/// Where it stands.
pub fn standing(child: &Child) -> io::Result<Standing> {
    // SAFETY: zeros are a `user_regs_struct`.
    let mut registers = unsafe { std::mem::zeroed::<libc::user_regs_struct>() };
    let place = (&raw mut registers).expose_provenance();
    order(libc::PTRACE_GETREGS, pid(child), 0, place)?;
    Ok(Standing { at: registers.rip, number: registers.rax, inside: registers.orig_rax })
}

/// The eight bytes at an address in it, of an instruction that it is about to execute.
pub fn code(child: &Child, at: u64) -> io::Result<[u8; 8]> {
    let mut word = [0; 8];
    let mut here = libc::iovec { iov_base: word.as_mut_ptr().cast(), iov_len: word.len() };
    // Near the end of a mapping there may be fewer.
    let (from, page) = (usize::try_from(at).map_err(io::Error::other)?, rustix::param::page_size());
    let mut there = libc::iovec {
        iov_base: ptr::without_provenance_mut(from),
        iov_len: word.len().min(page - from % page),
    };
    // SAFETY: the kernel writes at most as many bytes as `here` has, which live long enough.
    let got = unsafe { libc::process_vm_readv(pid(child), &raw mut here, 1, &raw mut there, 1, 0) };
    if got > 0 { Ok(word) } else { Err(io::Error::last_os_error()) }
}

/// How the C library writes it down.
#[cfg(target_env = "musl")]
type Request = libc::c_int;
#[cfg(not(target_env = "musl"))]
type Request = libc::c_uint;

fn advance(child: &Child, how: Request, signal: i32) -> io::Result<Option<Held>> {
    order(how, pid(child), 0, signal.unsigned_abs() as usize)?;
    held(pid(child))
}

/// Waits until it is held.
fn held(process: i32) -> io::Result<Option<Held>> {
    let mut status = 0;
    loop {
        // SAFETY: `status` lives over the call.
        match unsafe { libc::waitpid(process, &raw mut status, libc::__WALL) } {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return Err(io::Error::last_os_error()),
            _ => break,
        }
    }
    if !libc::WIFSTOPPED(status) {
        return Ok(None);
    }
    Ok(Some(match libc::WSTOPSIG(status) {
        libc::SIGTRAP => Held::Step,
        signal if signal == libc::SIGTRAP | 0x80 => Held::Call,
        signal => Held::Signal(signal),
    }))
}

/// An order to a child, or with `PTRACE_TRACEME` of one.
fn order(what: Request, process: i32, at: usize, with: usize) -> io::Result<()> {
    let (at, with) = (ptr::without_provenance_mut::<u8>(at), ptr::with_exposed_provenance_mut::<u8>(with));
    // SAFETY: of the orders that are given here one has the kernel write to memory of ours, and its caller passes the address
    // of a value that is large enough and that nobody else uses.
    let outcome = unsafe { libc::ptrace(what, process, at, with) };
    if outcome == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

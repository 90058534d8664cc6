//! Traces a process to its end, ptrace(2): every thread is held where it exits, with its registers and all memory.

use std::io;
use std::ptr;

/// Options of PTRACE_SEIZE: hold each thread at its exit, trace those that are made later too, and none without us.
const OPTIONS: libc::c_int = libc::PTRACE_O_TRACEEXIT | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;

/// What a thread has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is about to exit; its memory is still there.
    Exit,
    /// This signal is about to be delivered to it.
    Signal(i32),
    /// The process is stopped, as by SIGSTOP.
    Halt,
    /// Something else that it only has to be woken from.
    Other,
    /// It is gone.
    Gone,
}

/// Begins to trace a thread, which goes on.
pub fn seize(thread: i32) -> io::Result<()> {
    seize_with(thread, OPTIONS)
}

fn seize_with(thread: i32, options: libc::c_int) -> io::Result<()> {
    let options = ptr::without_provenance_mut::<u8>(options.unsigned_abs() as usize);
    // SAFETY: numbers only; PTRACE_SEIZE neither reads nor writes memory of ours.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, thread, ptr::null_mut::<u8>(), options) })
}

/// Does something while this thread traces a process, as a debugger does, which is stopped for a moment afterwards. Refused for
/// one that is traced already, as by this thread.
pub fn as_debugger<T>(process: i32, work: impl FnOnce() -> T) -> io::Result<T> {
    seize_with(process, 0)?;
    let done = work();
    // SAFETY: numbers only.
    check(unsafe {
        libc::ptrace(libc::PTRACE_INTERRUPT, process, ptr::null_mut::<u8>(), ptr::null_mut::<u8>())
    })?;
    // SAFETY: zeros are a `siginfo_t`.
    let mut info = unsafe { std::mem::zeroed::<libc::siginfo_t>() };
    let how = libc::WEXITED | libc::WSTOPPED | libc::__WALL | libc::WNOWAIT;
    // SAFETY: `info` lives over the call.
    check(unsafe { libc::waitid(libc::P_PID, process.unsigned_abs(), &raw mut info, how) }.into())?;
    if matches!(info.si_code, libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED) {
        // Left to whoever waits for it.
        return Ok(done);
    }
    let mut status = 0;
    // SAFETY: `status` lives over the call.
    check(unsafe { libc::waitpid(process, &raw mut status, libc::__WALL) }.into())?;
    let signal = match event(status) {
        Event::Signal(signal) => signal,
        _ => 0,
    };
    let signal = ptr::without_provenance_mut::<u8>(signal.unsigned_abs() as usize);
    // SAFETY: numbers only.
    check(unsafe { libc::ptrace(libc::PTRACE_DETACH, process, ptr::null_mut::<u8>(), signal) })?;
    Ok(done)
}

/// Lets a thread that is held go on, with a signal or, with zero, without.
pub fn go_on(thread: i32, signal: i32) -> io::Result<()> {
    let signal = ptr::without_provenance_mut::<u8>(signal.unsigned_abs() as usize);
    // SAFETY: numbers only.
    check(unsafe { libc::ptrace(libc::PTRACE_CONT, thread, ptr::null_mut::<u8>(), signal) })
}

/// Leaves a thread stopped that is stopped with its process.
pub fn leave_stopped(thread: i32) -> io::Result<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::ptrace(libc::PTRACE_LISTEN, thread, ptr::null_mut::<u8>(), ptr::null_mut::<u8>()) })
}

fn check(outcome: libc::c_long) -> io::Result<()> {
    if outcome == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// All registers of a thread that is held: general ones, those of floating point, and the widest there are.
pub fn registers(thread: i32) -> io::Result<Vec<u8>> {
    // NT_PRSTATUS, NT_FPREGSET, NT_X86_XSTATE, NT_ARM_SVE. What a processor does not have is refused.
    const SETS: [usize; 4] = [1, 2, 0x202, 0x405];
    const ROOM: usize = 64 * 1024;
    let mut all = Vec::new();
    let mut first = Ok(());
    for set in SETS {
        let mut room = vec![0_u8; ROOM];
        let mut place = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: ROOM };
        let which = ptr::without_provenance_mut::<u8>(set);
        // SAFETY: the kernel writes at most `iov_len` bytes to the room, and how many to `place`; both live long.
        let got = check(unsafe { libc::ptrace(libc::PTRACE_GETREGSET, thread, which, &raw mut place) });
        match got {
            Ok(()) => {
                room.truncate(place.iov_len);
                all.extend(room);
            }
            Err(error) if set == SETS[0] => first = Err(error),
            Err(_) => {}
        }
    }
    first.map(|()| all)
}

/// What a child, or a thread of one that is traced, has come to, if anything.
pub fn next() -> io::Result<Option<(i32, Event)>> {
    let mut status = 0;
    // SAFETY: `status` lives over the call.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::WNOHANG) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        thread => Ok(Some((thread, event(status)))),
    }
}

fn event(status: i32) -> Event {
    if !libc::WIFSTOPPED(status) {
        return Event::Gone;
    }
    let signal = libc::WSTOPSIG(status);
    match status >> 16 {
        0 => Event::Signal(signal),
        libc::PTRACE_EVENT_EXIT => Event::Exit,
        libc::PTRACE_EVENT_STOP
            if [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(&signal) =>
        {
            Event::Halt
        }
        _ => Event::Other,
    }
}

/// Lets a thread that is ending end, past every stop on its way. What is left of a process's first thread is left to
/// whoever waits for the process.
pub fn see_off(thread: i32, first: bool) {
    loop {
        // SAFETY: zeros are a `siginfo_t`.
        let mut info = unsafe { std::mem::zeroed::<libc::siginfo_t>() };
        let which = thread.unsigned_abs();
        let how = libc::WEXITED | libc::WSTOPPED | libc::__WALL | libc::WNOWAIT;
        // SAFETY: `info` lives over the call.
        if unsafe { libc::waitid(libc::P_PID, which, &raw mut info, how) } == -1 {
            return;
        }
        let ended = matches!(info.si_code, libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED);
        if ended && first {
            return;
        }
        let how = libc::WEXITED | libc::WSTOPPED | libc::__WALL;
        // SAFETY: as above.
        if unsafe { libc::waitid(libc::P_PID, which, &raw mut info, how) } == -1 || ended {
            return;
        }
        let _ = go_on(thread, 0);
    }
}

/// Sends a signal to a process.
pub fn send(process: i32, signal: i32) -> io::Result<()> {
    // SAFETY: numbers only.
    check(libc::c_long::from(unsafe { libc::kill(process, signal) }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    /// Not its read of a closed page is tried here, which needs a kernel that refuses it otherwise: lab/ has one.
    #[test]
    fn who_was_traced_goes_on_as_before() {
        let mut child = Command::new("sleep").arg("0.3").spawn().unwrap();
        let process = i32::try_from(child.id()).unwrap();
        for _ in 0..3 {
            assert_eq!(super::as_debugger(process, || 7).unwrap(), 7);
        }
        assert!(super::as_debugger(i32::try_from(std::process::id()).unwrap(), || ()).is_err(), "oneself");
        assert!(child.wait().unwrap().success());
        assert!(super::as_debugger(process, || ()).is_err(), "one that is gone");
    }
}

//! Programs in processes of their own, watched to their end: what they say, the signal that kills them, and what came
//! with it.
//!
//! A program is a test function too: it does nothing but where [`spec`] says what to do, in the second run.
#![allow(
    dead_code,
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers for tests, which end by panics; each test binary uses some; tracing is done by raw calls"
)]

pub mod tells;

use std::ffi::{c_int, c_void};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const VARIABLE: &str = "SECUREMEMORY_TEST_PROGRAM";

/// What other threads of a program do not get, when they are sent to the process.
const BLOCKED: [c_int; 4] = [libc::SIGSEGV, libc::SIGABRT, libc::SIGSYS, libc::SIGBUS];

/// Bytes in a page here.
pub fn page_size() -> usize {
    rustix::param::page_size()
}

/// The page that an address lies in.
pub fn page_of(address: usize) -> usize {
    address - address % page_size()
}

/// What the program of this process is to do; `None`: this is no such process.
pub fn spec() -> Option<String> {
    let spec = std::env::var(VARIABLE).ok()?;
    // SAFETY: an empty set.
    unsafe {
        let none: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
    Some(spec)
}

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Not in time: it was killed.
    Late,
}

/// What came with a signal, as the kernel was about to deliver it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    pub signal: i32,
    pub code: i32,
    /// The address of a fault, or of a sent signal the word that came with it.
    pub word: usize,
    /// Who has sent it.
    pub by: By,
}

/// Who has sent a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Kernel,
    Itself,
    Other,
}

/// What became of a program.
#[derive(Debug)]
pub struct Ended {
    pub end: End,
    /// Did the kernel write a core?
    pub core: bool,
    pub out: String,
    pub err: String,
    /// The last signal, if it was traced.
    pub last: Option<Stop>,
    /// Was what was searched for in memory, when that signal was about to be delivered?
    pub found: bool,
}

impl PartialEq for Ended {
    fn eq(&self, other: &Self) -> bool {
        let of = |it: &Self| (it.end, it.core, it.last);
        of(self) == of(other)
            && self.out == other.out
            && without_numbers(&self.err) == without_numbers(&other.err)
    }
}

/// Rust's own handler tells the thread's id.
fn without_numbers(text: &str) -> String {
    text.chars().filter(|each| !each.is_ascii_digit()).collect()
}

/// The program has come to its end, and found all as it should be.
pub const DONE: End = End::Code(7);
/// As most of them end.
pub const SEGV: End = End::Signal(libc::SIGSEGV);

/// Runs the program of a test binary, `a_program`, which must end like this and find nothing wrong.
pub fn ends(spec: &str, end: End, deadline: Duration) -> Ended {
    let ended = run("a_program", spec, false, deadline);
    assert_eq!(ended.end, end, "{spec}: {ended:#?}");
    assert!(!ended.out.contains("WRONG"), "{spec}: {ended:#?}");
    ended
}

/// Runs a program, a test function's name, and waits for its end. `traced`: by a tracer, which sees what came with each
/// signal; a core is written where the kernel would write one, and addresses are the same in each run.
pub fn run(program: &str, spec: &str, traced: bool, deadline: Duration) -> Ended {
    run_looked_at(program, spec, traced, deadline, &|_| false)
}

/// The same, with a search for any of these pieces in what the process can write, at every signal.
pub fn run_searched(program: &str, spec: &str, deadline: Duration, pieces: &[[u8; 16]]) -> Ended {
    run_looked_at(program, spec, true, deadline, &|pid| search(pid, pieces))
}

/// The same by a tracer that takes so long over every signal.
pub fn run_slowly(program: &str, spec: &str, deadline: Duration, over_each: Duration) -> Ended {
    let wait = |_| {
        std::thread::sleep(over_each);
        false
    };
    run_looked_at(program, spec, true, deadline, &wait)
}

/// The tracer's look at the process that has the number, at every signal: what it says last is `found`.
#[allow(clippy::zombie_processes, reason = "it is waited for by number, as its tracer has to")]
fn run_looked_at(
    program: &str,
    spec: &str,
    traced: bool,
    deadline: Duration,
    look: &dyn Fn(i32) -> bool,
) -> Ended {
    let room = Room::new();
    let mut command = Command::new(std::env::current_exe().expect("the test binary"));
    command
        .args(["--exact", program, "--nocapture", "--test-threads=1"])
        .env(VARIABLE, spec)
        .env("RUST_BACKTRACE", "0")
        .current_dir(&room.0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: between fork and exec there are system calls only, which allocate nothing and take no lock.
    unsafe {
        command.pre_exec(move || {
            let (soft, hard): (libc::rlim_t, libc::rlim_t) =
                if traced { (libc::RLIM_INFINITY, libc::RLIM_INFINITY) } else { (0, 0) };
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit);
            limit.rlim_cur = soft.min(limit.rlim_max);
            limit.rlim_max = hard.min(limit.rlim_max);
            libc::setrlimit(libc::RLIMIT_CORE, &raw const limit);
            // The program's thread unblocks them for itself: so no other thread is chosen for a signal.
            let mut blocked: libc::sigset_t = std::mem::zeroed();
            BLOCKED.iter().for_each(|&signal| {
                libc::sigaddset(&raw mut blocked, signal);
            });
            libc::sigprocmask(libc::SIG_BLOCK, &raw const blocked, std::ptr::null_mut());
            libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
            // It does not outlive its test.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if traced && libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let mut child = command.spawn().expect("the test binary starts");
    let drain = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = from.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = drain(Box::new(child.stdout.take().expect("a pipe")));
    let err = drain(Box::new(child.stderr.take().expect("a pipe")));
    let pid = child.id() as i32;
    let until = Instant::now() + deadline * securememory::testing::patience();
    let (status, last, found) = watch(pid, traced, until, look);
    let end = match status {
        None => End::Late,
        Some(status) if libc::WIFSIGNALED(status) => End::Signal(libc::WTERMSIG(status)),
        Some(status) => End::Code(libc::WEXITSTATUS(status)),
    };
    let core = status.is_some_and(|status| libc::WIFSIGNALED(status) && libc::WCOREDUMP(status));
    let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
    Ended { end, core, out, err, last, found }
}

/// Waits for the end; carries every signal on to where it goes, if it traces. The status, the last signal, and what was
/// found then.
fn watch(
    pid: i32,
    traced: bool,
    until: Instant,
    look: &dyn Fn(i32) -> bool,
) -> (Option<c_int>, Option<Stop>, bool) {
    let (mut last, mut found_it) = (None, false);
    let mut begun = !traced;
    let mut late = false;
    loop {
        let mut status = 0;
        // Only children of this thread: other tests have theirs.
        let options = libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG;
        // SAFETY: writes the status.
        let found = unsafe { libc::waitpid(if traced { -1 } else { pid }, &raw mut status, options) };
        if found == 0 {
            if !late && Instant::now() > until {
                late = true;
                // SAFETY: our own child, which was not waited for.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            std::thread::sleep(Duration::from_micros(500));
            continue;
        }
        assert!(found > 0, "waitpid: {}", std::io::Error::last_os_error());
        if !libc::WIFSTOPPED(status) {
            if found == pid {
                return ((!late).then_some(status), last, found_it);
            }
            continue;
        }
        let signal = libc::WSTOPSIG(status);
        let event = status >> 16;
        let mut pass_on = 0;
        if !begun && found == pid {
            // It has executed the program.
            begun = true;
            let options = libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
            trace(libc::PTRACE_SETOPTIONS, found, options as usize as *mut c_void);
        } else if event == 0
            && let Some(stop) = info_of(found, pid, signal)
        {
            // Another process's end tells nothing of this one's.
            if signal != libc::SIGCHLD {
                last = Some(stop);
                found_it = look(pid);
            }
            pass_on = signal;
        }
        trace(libc::PTRACE_CONT, found, pass_on as usize as *mut c_void);
    }
}

/// Bytes that are read at a time.
const PART: usize = 4 << 10;

/// Is one of the pieces in what the process can write?
fn search(pid: i32, pieces: &[[u8; 16]]) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its mappings");
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("its memory");
    // A part, and what of the next one belongs to a piece that begins in it.
    let mut buffer = [0_u8; PART + 15];
    maps.lines().any(|line| {
        let (range, rest) = line.split_once(' ').expect("a range");
        let (start, end) = range.split_once('-').expect("a range");
        let hexadecimal = |text| u64::from_str_radix(text, 16).expect("an address");
        let (mut at, end) = (hexadecimal(start), hexadecimal(end));
        // Also what is closed: a tracer can read it.
        if rest.starts_with("r-") {
            return false;
        }
        while at < end {
            let want = buffer.len().min((end - at) as usize);
            let Ok(got) = memory.read_at(&mut buffer[..want], at) else { return false };
            let hit = |window: &[u8]| pieces.iter().any(|piece| piece[0] == window[0] && window == piece);
            // Most pages are empty, and that is soon seen.
            if buffer[..got] != [0; PART + 15][..got] && buffer[..got].windows(16).any(hit) {
                return true;
            }
            at += PART as u64;
        }
        false
    })
}

/// What ptrace(2) is asked for: musl takes it with a sign.
#[cfg(target_env = "musl")]
type Request = libc::c_int;
#[cfg(not(target_env = "musl"))]
type Request = libc::c_uint;

fn trace(request: Request, thread: i32, data: *mut c_void) -> bool {
    // SAFETY: a thread that we trace and that has stopped; or it is gone, which is an error.
    unsafe { libc::ptrace(request, thread, std::ptr::null_mut::<c_void>(), data) == 0 }
}

/// `None`: not a signal, but the stop of a new thread.
fn info_of(thread: i32, pid: i32, signal: i32) -> Option<Stop> {
    // SAFETY: numbers, for which zero is right.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    if !trace(libc::PTRACE_GETSIGINFO, thread, (&raw mut info).cast()) || signal == libc::SIGSTOP {
        return None;
    }
    // SAFETY: read as what the code says they are.
    let (address, sender, value) =
        unsafe { (info.si_addr().addr(), info.si_pid(), info.si_value().sival_ptr.addr()) };
    let (word, by) = match info.si_code {
        1.. => (address, By::Kernel),
        code => {
            let by = if sender == pid { By::Itself } else { By::Other };
            (if code == libc::SI_QUEUE { value } else { 0 }, by)
        }
    };
    Some(Stop { signal, code: info.si_code, word, by })
}

/// A directory for cores, gone with the value.
struct Room(PathBuf);

impl Room {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let room = std::env::temp_dir().join(format!("securememory-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&room).expect("a directory");
        Self(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One short line, put together and written without allocation or lock, on a small stack.
pub struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Line {
    /// Empty.
    pub fn new() -> Self {
        Self { bytes: [0; 256], len: 0 }
    }

    /// Adds text.
    pub fn text(mut self, text: &str) -> Self {
        for &byte in text.as_bytes() {
            if self.len < self.bytes.len() {
                self.bytes[self.len] = byte;
                self.len += 1;
            }
        }
        self
    }

    /// Adds a space and a number.
    pub fn number(self, number: u64) -> Self {
        let mut digits = [b'0'; 20];
        let (mut at, mut rest) = (20, number);
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.text(" ").text(std::str::from_utf8(&digits[at..]).unwrap_or("?"))
    }

    /// Writes it to standard output.
    pub fn say(self) {
        let line = self.text("\n");
        // SAFETY: as many bytes as there are.
        unsafe { libc::write(1, line.bytes.as_ptr().cast(), line.len) };
    }
}

/// Installs a handler of the program, or a default.
pub fn set_action(signal: c_int, handler: usize, flags: c_int) {
    // SAFETY: a handler of the program, or a default.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        (action.sa_sigaction, action.sa_flags) = (handler, flags);
        assert_eq!(libc::sigaction(signal, &raw const action, std::ptr::null_mut()), 0);
    }
}

/// A stack on which a handler can read a secret.
pub fn large_stack() {
    let room: &'static mut [u8] = Vec::leak(vec![0; 1 << 18]);
    let stack = libc::stack_t { ss_sp: room.as_mut_ptr().cast(), ss_flags: 0, ss_size: room.len() };
    // SAFETY: memory that is never freed.
    assert_eq!(unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) }, 0);
}

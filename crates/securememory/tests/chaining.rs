//! What is not ours reaches whoever it would have reached without us, as it would have: the same program, with and
//! without us, for every kind of handler and every kind of signal.
//!
//! Compared are the calls of the program's handlers, in their order, with arguments, mask and kind of stack; what the
//! program finds afterwards; its end, with a core or without; and what came with the signal that killed it, as a tracer
//! sees it.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "signals are raised and handled by raw calls, and faults by instructions"
)]

mod program;

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use program::{By, End, Line, Stop, page_size};
use securememory::fault::{self, FaultPolicy};
use securememory::testing::TestGuard;
use securememory::{Build, Error, Hold, Vault};

// Instructions that fail, each with the place after it; and a long jump: `sm_attempt` calls a function and gives 0, or 1
// if `sm_escape` was called inside of it.
std::arch::global_asm!(
    ".globl sm_touch, sm_touched, sm_divide, sm_divided, sm_illegal, sm_was_illegal, sm_trap, sm_trapped",
    ".globl sm_attempt, sm_escape",
    "sm_touch: mov al, byte ptr [rdi]",
    "sm_touched: ret",
    "sm_divide: xor edx, edx",
    "mov eax, 1",
    "xor ecx, ecx",
    "div ecx",
    "sm_divided: ret",
    "sm_illegal: ud2",
    "sm_was_illegal: ret",
    "sm_trap: int3",
    "sm_trapped: ret",
    "sm_attempt: push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov qword ptr [rip + sm_frame], rsp",
    "sub rsp, 8",
    "call rdi",
    "add rsp, 8",
    "xor eax, eax",
    "2: pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    "sm_escape: mov rsp, qword ptr [rip + sm_frame]",
    "mov eax, 1",
    "jmp 2b",
    ".local sm_frame",
    ".comm sm_frame, 8, 8",
);

unsafe extern "C" {
    fn sm_touch(address: usize);
    fn sm_touched();
    fn sm_divide(_: usize);
    fn sm_divided();
    fn sm_illegal(_: usize);
    fn sm_was_illegal();
    fn sm_trap(_: usize);
    fn sm_trapped();
    fn sm_attempt(run: extern "C" fn()) -> c_int;
    fn sm_escape() -> !;
}

/// Handlers that a program may have had before us: a function and flags.
const KINDS: [&str; 19] = [
    "none",
    "default",
    "ignore",
    "plain",
    "plain+stack",
    "info",
    "info+stack",
    "info+mask",
    "info+mask+stack",
    "info+once",
    "info+once+stack",
    "info+nested",
    "info+nested+stack",
    "jump",
    "jump+stack",
    "repair",
    "repair+stack",
    "reset+stack",
    "again+stack",
];

/// What happens to the program.
const FAULTS: [&str; 8] = ["null", "closed", "cut", "divide", "illegal", "trap", "wild", "abort"];
const SENT: [&str; 5] = ["kill", "tgkill", "queue", "other", "forged"];

/// What is deliberately not the same. A fault that is ignored ends the process, and whether a signal with a code of the
/// kernel's is one cannot be seen: one that is sent like that to oneself and ignored ends the process with us.
const DEVIATIONS: [(&str, &str); 3] =
    [("ignore", "forged-segv"), ("ignore", "forged-abort"), ("ignore", "forged-sys")];

fn signal_of(event: &str) -> c_int {
    match event {
        "cut" => libc::SIGBUS,
        "divide" => libc::SIGFPE,
        "illegal" => libc::SIGILL,
        "trap" => libc::SIGTRAP,
        "abort" => libc::SIGABRT,
        _ if event.ends_with("-abort") => libc::SIGABRT,
        _ if event.ends_with("-sys") => libc::SIGSYS,
        _ => libc::SIGSEGV,
    }
}

fn compare(events: &[String], kinds: &[&str]) {
    let mut wrong = Vec::new();
    let mut count = 0;
    for event in events {
        for kind in kinds {
            if DEVIATIONS.contains(&(kind, event)) {
                continue;
            }
            let run = |us| {
                program::run("a_program", &format!("{kind} {event} {us}"), true, Duration::from_secs(20))
            };
            let (mut without, mut with) = (run("without"), run("with"));
            // abort(3) and raise(3) look the same, and the first one does not come back to us. So whoever survives the
            // second has no secrets any more; unless a handler that we have called has jumped away.
            let raised = matches!(event.as_str(), "abort" | "tgkill-abort");
            if raised && without.end == End::Code(7) && *kind != "jump+stack" {
                if !with.out.contains("wiped") {
                    wrong.push(format!("{kind} {event}: not wiped"));
                }
                with.out = with.out.replace("wiped", "whole");
            }
            if !Build::HERE.sends_words_on {
                // Only that the signal came is the same.
                for ended in [&mut without, &mut with] {
                    ended.last = ended.last.map(|stop| Stop { code: 0, word: 0, by: By::Other, ..stop });
                }
            }
            count += 1;
            if without.end == End::Late || !without.out.contains("begin") {
                wrong.push(format!("{kind} {event}: the program itself: {without:#?}"));
            } else if without != with {
                wrong.push(format!("{kind} {event}:\nwithout us {without:#?}\nwith us {with:#?}"));
            }
        }
    }
    eprintln!("{count} compared");
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n\n"));
}

fn owned(events: &[&str]) -> Vec<String> {
    events.iter().map(|&event| event.to_owned()).collect()
}

#[test]
fn real_faults_reach_whom_they_would_have_reached() {
    let _guard = TestGuard::new();
    compare(&owned(&FAULTS[..4]), &KINDS);
}

#[test]
fn more_real_faults_reach_whom_they_would_have_reached() {
    let _guard = TestGuard::new();
    compare(&owned(&FAULTS[4..]), &KINDS);
}

#[test]
fn sent_signals_reach_whom_they_would_have_reached() {
    let _guard = TestGuard::new();
    let events: Vec<_> = SENT.iter().map(|how| format!("{how}-segv")).collect();
    compare(&events, &KINDS);
}

#[test]
fn other_sent_signals_reach_whom_they_would_have_reached() {
    let _guard = TestGuard::new();
    let events: Vec<_> = SENT.iter().flat_map(|how| [format!("{how}-abort"), format!("{how}-sys")]).collect();
    compare(&events, &KINDS);
}

#[test]
fn a_stack_overflow_is_told_by_the_one_who_knows_it() {
    let _guard = TestGuard::new();
    compare(&owned(&["overflow", "overflow-in-thread"]), &["none", "default", "info", "info+stack"]);
}

static CALLS: AtomicU32 = AtomicU32::new(0);
static EVENT: AtomicI32 = AtomicI32::new(0);
static DOES: AtomicU32 = AtomicU32::new(RETURNS);
/// Where the code goes on after the instruction that fails.
static AFTER: AtomicUsize = AtomicUsize::new(0);
static PAGE: AtomicUsize = AtomicUsize::new(0);
static FILE: AtomicI32 = AtomicI32::new(-1);
static MASK: AtomicUsize = AtomicUsize::new(0);

const RETURNS: u32 = 0;
const JUMPS: u32 = 1;
const REPAIRS: u32 = 2;
/// As Rust's own handler does with a fault that it does not know.
const RESETS: u32 = 3;
/// As old-fashioned handlers do.
const INSTALLS_ITSELF: u32 = 4;

const CLOSED: c_int = 1;
const CUT: c_int = 2;

/// This thread's mask, as the kernel has it.
fn mask() -> u64 {
    let mut mask = 0_u64;
    // SAFETY: only asks; the set is of the size given.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, 0, std::ptr::null::<u64>(), &raw mut mask, 8_usize) };
    mask
}

fn set_mask(mask: u64) {
    // SAFETY: the set is of the size given.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            std::ptr::null_mut::<u64>(),
            8_usize,
        )
    };
}

fn on_alternate_stack() -> bool {
    // SAFETY: only asks.
    unsafe {
        let mut stack: libc::stack_t = std::mem::zeroed();
        libc::sigaltstack(std::ptr::null(), &raw mut stack);
        stack.ss_flags & libc::SS_ONSTACK != 0
    }
}

fn errno() -> c_int {
    // SAFETY: this thread's own.
    unsafe { *libc::__errno_location() }
}

extern "C" fn plain(signal: c_int) {
    // The context is the third argument of the kernel's call; a plain handler does not know of it.
    seen("plain", signal, None, std::ptr::null_mut());
}

extern "C" fn with_info(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    seen("info", signal, Some(info), context);
}

fn seen(name: &str, signal: c_int, info: Option<*mut libc::siginfo_t>, context: *mut c_void) {
    let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    let line = Line::new().text(name).number(signal as u64).text(if on_alternate_stack() {
        " on the alternate stack"
    } else {
        " on its stack"
    });
    let mut line = line.text(" mask").number(mask()).text(" errno").number(errno() as u64);
    if let Some(info) = info {
        // SAFETY: what the handler was called with; read as what the code says they are.
        let (own, code, address, sender, value) = unsafe {
            let info = &*info;
            let value = info.si_value().sival_ptr.addr();
            (info.si_signo, info.si_code, info.si_addr().addr(), info.si_pid(), value)
        };
        line = line.text(" signo").number(own as u64).text(" code").number(u64::from(code as u32));
        line = match code {
            1.. => line.text(" address").number(address as u64),
            // SAFETY: asks for a number.
            _ if sender == unsafe { libc::getpid() } => line.text(" by itself"),
            _ => line.text(" by another"),
        };
        if code == libc::SI_QUEUE {
            line = line.text(" value").number(value as u64);
        }
        // SAFETY: the context of the handler.
        let ip = unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] };
        if code > 0 {
            line = line.text(" at").number(ip as u64);
        }
    }
    line.say();
    if calls > 5 {
        // SAFETY: ends the process.
        unsafe { libc::_exit(9) };
    }
    match DOES.load(Ordering::Relaxed) {
        JUMPS => {
            set_mask(MASK.load(Ordering::Relaxed) as u64);
            // SAFETY: only called inside of `sm_attempt`, over frames without destructors.
            unsafe { sm_escape() }
        }
        REPAIRS => repair(context),
        RESETS => {
            // SAFETY: a valid action.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        INSTALLS_ITSELF => {
            install(signal, with_info as *const () as usize, libc::SA_SIGINFO | libc::SA_ONSTACK, &[])
        }
        _ => {}
    }
}

fn repair(context: *mut c_void) {
    // SAFETY: the program's own page and file, and the context of the handler.
    unsafe {
        match EVENT.load(Ordering::Relaxed) {
            CLOSED => {
                libc::mprotect(PAGE.load(Ordering::Relaxed) as *mut c_void, page_size(), libc::PROT_READ);
            }
            CUT => {
                libc::ftruncate(FILE.load(Ordering::Relaxed), page_size() as libc::off_t);
            }
            _ => {
                let after = AFTER.load(Ordering::Relaxed);
                if after != 0 && !context.is_null() {
                    let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
                    registers[libc::REG_RIP as usize] = after as i64;
                }
            }
        }
    }
}

fn install(signal: c_int, handler: usize, flags: c_int, masked: &[c_int]) {
    // SAFETY: a handler of ours, or a default.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        libc::sigemptyset(&raw mut action.sa_mask);
        masked.iter().for_each(|&signal| {
            libc::sigaddset(&raw mut action.sa_mask, signal);
        });
        assert_eq!(libc::sigaction(signal, &raw const action, std::ptr::null_mut()), 0);
    }
}

fn install_kind(kind: &str, signal: c_int) {
    let mut words = kind.split('+');
    let (handler, base, does) = match words.next().unwrap() {
        "none" => return,
        "default" => (libc::SIG_DFL, 0, RETURNS),
        "ignore" => (libc::SIG_IGN, 0, RETURNS),
        "plain" => (plain as *const () as usize, 0, RETURNS),
        "info" => (with_info as *const () as usize, libc::SA_SIGINFO, RETURNS),
        "jump" => (with_info as *const () as usize, libc::SA_SIGINFO, JUMPS),
        "repair" => (with_info as *const () as usize, libc::SA_SIGINFO, REPAIRS),
        "reset" => (with_info as *const () as usize, libc::SA_SIGINFO, RESETS),
        "again" => {
            let flags = libc::SA_SIGINFO | libc::SA_RESETHAND;
            (with_info as *const () as usize, flags, INSTALLS_ITSELF)
        }
        other => panic!("{other}?"),
    };
    let (mut flags, mut masked) = (base, vec![]);
    for word in words {
        match word {
            "stack" => flags |= libc::SA_ONSTACK,
            "once" => flags |= libc::SA_RESETHAND,
            "nested" => flags |= libc::SA_NODEFER,
            "mask" => masked = vec![libc::SIGUSR1, libc::SIGRTMIN() + 3],
            other => panic!("{other}?"),
        }
    }
    DOES.store(does, Ordering::Relaxed);
    install(signal, handler, flags, &masked);
}

/// Not a test of its own, but the program that the others run.
#[test]
fn a_program() {
    let _guard = TestGuard::new();
    let Some(spec) = program::spec() else { return };
    let words: Vec<&str> = spec.split(' ').collect();
    let [kind, event, us] = words[..] else { panic!("{spec}?") };
    let signal = signal_of(event);
    // SAFETY: pages and a file of the program's own, at addresses where nothing is.
    unsafe {
        let map = |at: usize, access, flags, file| {
            let flags = flags | libc::MAP_FIXED_NOREPLACE;
            let got = libc::mmap(at as *mut c_void, page_size(), access, flags, file, 0);
            assert_eq!(got.addr(), at);
            at
        };
        let file = libc::memfd_create(c"cut".as_ptr(), libc::MFD_CLOEXEC);
        FILE.store(file, Ordering::Relaxed);
        let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = match event {
            "cut" => map(0x2000_0000_0000, libc::PROT_READ, libc::MAP_SHARED, file),
            _ => map(0x2000_0000_0000, libc::PROT_NONE, private, -1),
        };
        PAGE.store(page, Ordering::Relaxed);
    }
    install_kind(kind, signal);
    if us == "with" {
        fault::install(FaultPolicy::Abort).unwrap().keep();
    }
    let vault = Vault::builder().hold(Hold::Split).build().unwrap();
    let secret = vault.secret().from_bytes(&mut b"a secret's bytes".to_vec()).unwrap();
    MASK.store(mask() as usize, Ordering::Relaxed);
    Line::new().text("begin").say();
    for _ in 0..2 {
        EVENT.store(0, Ordering::Relaxed);
        let jumped = attempt(event);
        let line = Line::new().text("after: errno").number(errno() as u64).text(" mask").number(mask());
        let line = line.text(" jumped").number(u64::from(jumped));
        line.text(if on_alternate_stack() { " on the alternate stack" } else { "" }).say();
    }
    // Whoever survives has its secrets.
    match secret.ct_eq_bytes(b"a secret's bytes") {
        Ok(true) => Line::new().text("whole").say(),
        Err(Error::Dying) => Line::new().text("wiped").say(),
        other => Line::new().text(&format!("{other:?}")).say(),
    }
    // SAFETY: ends the process, without what the harness would say.
    unsafe { libc::_exit(7) };
}

/// Has it happen; true: a handler has jumped away.
fn attempt(event: &str) -> bool {
    static WHAT: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());
    extern "C" fn run() {
        // Leaked, since a jump runs no destructors.
        let event: &'static str = String::leak(WHAT.lock().unwrap().clone());
        happen(event);
    }
    event.clone_into(&mut WHAT.lock().unwrap());
    // SAFETY: the function has nothing to be dropped while it can be jumped out of.
    unsafe { sm_attempt(run) == 1 }
}

fn happen(event: &str) {
    let after = match event {
        "divide" => sm_divided as *const () as usize,
        "illegal" => sm_was_illegal as *const () as usize,
        "trap" => sm_trapped as *const () as usize,
        "null" | "wild" => sm_touched as *const () as usize,
        _ => 0,
    };
    AFTER.store(after, Ordering::Relaxed);
    let page = PAGE.load(Ordering::Relaxed);
    // SAFETY: they fail, as is wanted.
    unsafe {
        *libc::__errno_location() = 77;
        match event {
            "null" => sm_touch(8),
            "wild" => sm_touch(0x8000_0000_0000_0000),
            "closed" => {
                EVENT.store(CLOSED, Ordering::Relaxed);
                libc::mprotect(page as *mut c_void, page_size(), libc::PROT_NONE);
                sm_touch(page + 5);
            }
            "cut" => {
                EVENT.store(CUT, Ordering::Relaxed);
                libc::ftruncate(FILE.load(Ordering::Relaxed), 0);
                sm_touch(page + 5);
            }
            "divide" => sm_divide(0),
            "illegal" => sm_illegal(0),
            "trap" => sm_trap(0),
            "abort" => libc::abort(),
            "overflow" => {
                deeper(0);
            }
            "overflow-in-thread" => {
                let _ = std::thread::spawn(|| deeper(0)).join();
            }
            _ => send(event.split('-').next().unwrap(), signal_of(event)),
        }
    }
}

#[allow(unconditional_recursion, reason = "that is what is wanted")]
fn deeper(depth: u64) -> u64 {
    let room = std::hint::black_box([depth; 64]);
    deeper(depth + 1) + room[(depth % 64) as usize]
}

fn send(how: &str, signal: c_int) {
    // SAFETY: signals for this process.
    unsafe {
        let (own, thread) = (libc::getpid(), libc::gettid());
        match how {
            "kill" => {
                libc::kill(own, signal);
            }
            "tgkill" => {
                libc::syscall(libc::SYS_tgkill, own, thread, signal);
            }
            "queue" => {
                let value = libc::sigval { sival_ptr: 0x1234_5678_9abc as *mut c_void };
                libc::sigqueue(own, signal, value);
            }
            // With a code that only the kernel uses; a process may say so to itself, and reporters of crashes do.
            "forged" => {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                (info.si_signo, info.si_code) = (signal, 1);
                libc::syscall(libc::SYS_rt_tgsigqueueinfo, own, thread, signal, &raw const info);
            }
            _ => {
                // When it comes, nobody is in the middle of fork(3), which is not to be jumped out of.
                set_mask(1 << (signal - 1));
                let pid = libc::fork();
                if pid == 0 {
                    libc::kill(own, signal);
                    libc::_exit(0);
                }
                while libc::waitpid(pid, std::ptr::null_mut(), 0) != pid {}
                *libc::__errno_location() = 77;
                set_mask(0);
            }
        }
        // Had another thread been chosen for it, it has it by now.
        libc::usleep(1000);
        *libc::__errno_location() = 77;
    }
}

//! What a read of a sealed secret costs: one system call, `pread64`, and no allocation; with a protection key, no
//! system call at all.
#![cfg(target_os = "linux")]
// A filter, a tracer and a counting allocator cannot be had without.
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use securememory::testing::TestGuard;
use securememory::{Build, Error, Hold, Level, Secret, Store, Vault};

struct Counting;

thread_local! {
    // Of this thread: the one that waits for the test allocates at times of its own.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

// SAFETY: only counts, and passes everything on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Where a build has no split keys, the other hold stands in.
const HOLD: Hold = if Build::HERE.split { Hold::Split } else { Hold::Guarded };

const CASE: &str = "SECUREMEMORY_READ_PATH_CASE";
const READS: u64 = 200;

fn warm_secret() -> Secret {
    warm_secret_in(HOLD).unwrap()
}

fn warm_secret_in(hold: Hold) -> Result<Secret, Error> {
    let vault = Vault::builder().store(Store::Sealed).hold(hold).hold_level(Level::Require).build()?;
    let secret = vault.secret().from_bytes(&mut [7; 32])?;
    // The thread's first read may map scratch.
    read(&secret);
    Ok(secret)
}

fn read(secret: &Secret) {
    assert!(secret.with(|bytes| bytes.iter().all(|&byte| byte == 7)).unwrap());
}

/// Kills the process at any system call but these.
fn allow_only(calls: &[libc::c_long]) {
    let statement = |code: u32, jump_true: u8, jump_false: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt: jump_true,
        jf: jump_false,
        k,
    };
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for (index, call) in calls.iter().enumerate() {
        let to_allow = (calls.len() - index) as u8;
        program.push(statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, to_allow, 0, *call as u32));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_KILL_PROCESS));
    program.push(statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program is valid as long as the call, which copies it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter), 0);
    }
}

fn in_child(case: &str) -> Option<std::process::Child> {
    if std::env::var(CASE).is_ok() {
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let child = command.args(["--exact", case, "--nocapture", "--test-threads=1"]).env(CASE, case).spawn();
    Some(child.unwrap())
}

#[test]
fn a_read_makes_no_system_call_but_pread64() {
    let _guard = TestGuard::new();
    if let Some(mut child) = in_child("a_read_makes_no_system_call_but_pread64") {
        assert_eq!(child.wait().unwrap().code(), Some(0));
        return;
    }
    let secret = warm_secret();
    allow_only(&[libc::SYS_pread64, libc::SYS_exit_group]);
    (0..READS).for_each(|_| read(&secret));
    // SAFETY: ends the process; nothing else is allowed.
    unsafe { libc::_exit(0) };
}

#[test]
fn a_read_with_a_protection_key_makes_no_system_call() {
    let _guard = TestGuard::new();
    if let Err(Error::HoldRefused(cause)) = warm_secret_in(Hold::Pkey) {
        eprintln!("SKIPPED a_read_with_a_protection_key_makes_no_system_call: {cause}");
        return;
    }
    if let Some(mut child) = in_child("a_read_with_a_protection_key_makes_no_system_call") {
        assert_eq!(child.wait().unwrap().code(), Some(0));
        return;
    }
    let secret = warm_secret_in(Hold::Pkey).unwrap();
    allow_only(&[libc::SYS_exit_group]);
    (0..READS).for_each(|_| read(&secret));
    // SAFETY: ends the process; nothing else is allowed.
    unsafe { libc::_exit(0) };
}

/// The filter is not blind: any other call is death.
#[test]
fn the_filter_kills() {
    let _guard = TestGuard::new();
    if let Some(mut child) = in_child("the_filter_kills") {
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGSYS));
        return;
    }
    let _secret = warm_secret();
    allow_only(&[libc::SYS_pread64, libc::SYS_exit_group]);
    // SAFETY: no arguments.
    unsafe { libc::getppid() };
}

#[cfg(target_env = "musl")]
const GET_SYSCALL_INFO: libc::c_int = 0x420e;
#[cfg(not(target_env = "musl"))]
const GET_SYSCALL_INFO: libc::c_uint = 0x420e;
const ENTRY: u8 = 1;

#[test]
fn a_read_makes_exactly_one_system_call() {
    let _guard = TestGuard::new();
    const NAME: &str = "a_read_makes_exactly_one_system_call";
    if std::env::var(CASE).is_ok() {
        let secret = warm_secret();
        // SAFETY: from here to the exit this thread is traced; the calls have no preconditions.
        unsafe {
            assert_eq!(libc::ptrace(libc::PTRACE_TRACEME), 0);
            libc::raise(libc::SIGSTOP);
            libc::syscall(libc::SYS_getppid);
            (0..READS).for_each(|_| read(&secret));
            libc::syscall(libc::SYS_getppid);
            libc::_exit(0);
        }
    }
    // The tracer must be the thread that is the child's parent: it makes the child itself, and waits for it below.
    #[allow(clippy::zombie_processes)]
    let child = in_child(NAME).unwrap();
    let pid = child.id() as libc::pid_t;
    let (mut markers, mut calls, mut others) = (0, 0, 0);
    loop {
        let mut status = 0;
        // SAFETY: waits for and steers our own child; the buffers are large enough.
        unsafe {
            // The traced thread need not be the child's first. Children of the other tests' threads are not ours.
            let who = libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD);
            assert!(who > 0, "nothing left to wait for");
            if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
                assert_eq!(status, 0, "the child failed");
                if who == pid {
                    break;
                }
                continue;
            }
            if libc::WSTOPSIG(status) == libc::SIGSTOP {
                libc::ptrace(libc::PTRACE_SETOPTIONS, who, 0, libc::PTRACE_O_TRACESYSGOOD);
            } else if libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80 {
                // `struct ptrace_syscall_info`, ptrace(2), which not every C library declares: its first byte says
                // whether a call begins, its fourth word which one.
                let mut info = [0_u64; 11];
                let size = size_of_val(&info);
                assert!(libc::ptrace(GET_SYSCALL_INFO, who, size, info.as_mut_ptr()) > 0);
                if info[0].to_ne_bytes()[0] == ENTRY {
                    match info[3] as libc::c_long {
                        libc::SYS_getppid => markers += 1,
                        libc::SYS_pread64 if markers == 1 => calls += 1,
                        _ if markers == 1 => others += 1,
                        _ => {}
                    }
                }
            }
            libc::ptrace(libc::PTRACE_SYSCALL, who, 0, 0);
        }
    }
    assert_eq!((markers, calls, others), (2, READS, 0));
}

#[test]
fn a_read_allocates_nothing() {
    let _guard = TestGuard::new();
    if let Some(mut child) = in_child("a_read_allocates_nothing") {
        assert_eq!(child.wait().unwrap().code(), Some(0));
        return;
    }
    for hold in [Hold::Split, Hold::Pkey, Hold::Secretmem, Hold::Guarded] {
        let secret = match warm_secret_in(hold) {
            Err(Error::HoldRefused(cause)) if hold != HOLD => {
                eprintln!("SKIPPED {hold:?}: {cause}");
                continue;
            }
            made => made.unwrap(),
        };
        let before = allocations();
        (0..READS).for_each(|_| read(&secret));
        assert_eq!(allocations(), before, "{hold:?}");
    }
    let before = allocations();
    drop(vec![0u8; 100]);
    assert_ne!(allocations(), before, "the counter counts");
}

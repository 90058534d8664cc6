//! A process that goes down wipes what is its own and nothing else: not its parent's secrets, and not the host's files.
#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "processes are split and ended by raw calls, and addresses touched that are nobody's"
)]

mod common;
mod program;

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use common::{page_of, page_size, raw_clone, share_files};
use program::{DONE, End, Ended, Line, SEGV, set_action};
use securememory::fault::{self, FaultPolicy};
use securememory::testing::TestGuard;
use securememory::{Hold, Host, Secret, Store, Vault};

fn ends(spec: &str, end: End) -> Ended {
    program::ends(spec, end, Duration::from_secs(30))
}

const CHILDREN: [&str; 6] = ["fork", "vfork", "clone", "clone-files", "share", "share-files"];

/// Does a child that shares memory take its parent with it? Says so.
fn is_shared_death() -> bool {
    let shared = Host::probe().kernel_version().is_some_and(|version| version < (5, 16));
    if shared {
        eprintln!("skipped: before Linux 5.16 a death with a core ends all processes that share its memory");
    }
    shared
}

#[test]
fn a_child_leaves_its_parents_secrets_alone() {
    let _guard = TestGuard::new();
    for child in CHILDREN {
        if matches!(child, "vfork" | "share" | "share-files") && is_shared_death() {
            continue;
        }
        for death in ["fault", "abort", "ours", "sent"] {
            if cfg!(target_env = "musl") && child != "fork" && death == "abort" {
                eprintln!(
                    "skipped: with musl, abort(3) in a child that is not of its fork(3) signals the parent's thread"
                );
                continue;
            }
            ends(&format!("child {child} {death}"), DONE);
        }
    }
    for death in ["exit", "own"] {
        ends(&format!("child fork {death}"), DONE);
    }
    ends("once", DONE);
}

#[test]
fn a_file_of_the_hosts_under_our_number_is_left_as_it_is() {
    let _guard = TestGuard::new();
    if common::limits_of(libc::RLIMIT_FSIZE).soft < 200 {
        eprintln!(
            "SKIPPED a_file_of_the_hosts_under_our_number_is_left_as_it_is: no file may be written here"
        );
        return;
    }
    for death in ["fault", "exit"] {
        let path = std::env::temp_dir().join(format!("securememory-host-{}-{death}", std::process::id()));
        std::fs::write(&path, [5; 200]).unwrap();
        let end = if death == "exit" { End::Code(7) } else { SEGV };
        let ended = ends(&format!("host {death} {}", path.display()), end);
        assert!(ended.out.contains("begin"), "{ended:#?}");
        let after = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(after, [5; 200], "{death}");
    }
}

const STORES: [&str; 3] = ["sealed", "guarded", "paged"];

/// Not a test of its own, but the program that the others run.
#[test]
fn a_program() {
    let _guard = TestGuard::new();
    let Some(spec) = program::spec() else { return };
    let words: Vec<&str> = spec.split(' ').collect();
    match words[..] {
        ["child", child, death] => child_dies(child, death),
        ["once"] => once(),
        ["host", death, path] => host(death, path),
        _ => panic!("{spec}?"),
    }
    // SAFETY: ends the process, without what the harness would say.
    unsafe { libc::_exit(7) };
}

fn vault(store: &str) -> Vault {
    let builder = match store {
        "sealed" => Vault::builder().store(Store::Sealed).hold(Hold::Split),
        "guarded" => Vault::builder().store(Store::Sealed).hold(Hold::Guarded),
        _ => Vault::builder().store(Store::Paged),
    };
    builder.build().unwrap()
}

fn touch(address: usize) {
    // SAFETY: fails, as is wanted.
    std::hint::black_box(unsafe { (address as *const u8).read_volatile() });
}

fn read_all(secrets: &[Secret]) {
    for secret in secrets {
        assert!(secret.ct_eq_bytes(&[9; 100]).unwrap());
    }
}

static GUARD: AtomicUsize = AtomicUsize::new(0);
static DEATH: AtomicU32 = AtomicU32::new(0);

/// In the child: nothing but what is async-signal-safe.
extern "C" fn die(_: *mut c_void) -> c_int {
    // SAFETY: ends the process, or is a signal to it.
    unsafe {
        match DEATH.load(Ordering::Relaxed) {
            0 => touch(16),
            1 => libc::abort(),
            2 => touch(GUARD.load(Ordering::Relaxed)),
            _ => {
                // Rust's own handler lets a process survive a SIGSEGV that was sent.
                libc::syscall(libc::SYS_kill, libc::syscall(libc::SYS_getpid), libc::SIGSYS);
            }
        }
        libc::_exit(3)
    }
}

fn child_dies(child: &str, death: &str) {
    fault::install(FaultPolicy::Abort).unwrap().keep();
    let secrets: Vec<_> =
        STORES.iter().map(|store| vault(store).secret().from_bytes(&mut [9; 100]).unwrap()).collect();
    read_all(&secrets);
    let view = secrets[0].view().unwrap();
    let page = page_of(view.as_ptr().addr() + 100) + page_size();
    GUARD.store(page, Ordering::Relaxed);
    let number = match death {
        "fault" => 0,
        "abort" => 1,
        "ours" => 2,
        _ => 3,
    };
    DEATH.store(number, Ordering::Relaxed);
    let signal = match death {
        "abort" => libc::SIGABRT,
        "sent" | "own" => libc::SIGSYS,
        _ => libc::SIGSEGV,
    };
    for _ in 0..3 {
        let mut stack = vec![0_u64; 1 << 14];
        // SAFETY: the child ends by itself; where it shares our memory, it has a stack of its own, or we wait for it.
        let status = unsafe {
            let top = stack.as_mut_ptr().add(stack.len()).cast::<c_void>();
            let pid = match child {
                "fork" => libc::fork(),
                "vfork" => {
                    #[allow(deprecated, reason = "its dangers are what is tested")]
                    let pid = libc::vfork();
                    pid
                }
                // As fork(3), but nobody is told.
                "clone" => raw_clone(libc::SIGCHLD),
                "clone-files" => raw_clone(libc::SIGCHLD | libc::CLONE_FILES),
                "share" => libc::clone(die, top, libc::SIGCHLD | libc::CLONE_VM, std::ptr::null_mut()),
                _ => {
                    let flags = libc::SIGCHLD | libc::CLONE_VM | libc::CLONE_FILES;
                    libc::clone(die, top, flags, std::ptr::null_mut())
                }
            };
            if pid == 0 {
                if death == "exit" {
                    libc::exit(4);
                }
                if death == "own" {
                    own_vault();
                }
                die(std::ptr::null_mut());
            }
            assert!(pid > 0);
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &raw mut status, libc::__WALL), pid);
            status
        };
        if death == "exit" {
            assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 4), "{status:#x}");
        } else {
            assert_eq!((libc::WIFSIGNALED(status), libc::WTERMSIG(status)), (true, signal), "{status:#x}");
        }
        read_all(&secrets);
        assert!(view.iter().all(|&byte| byte == 9));
        let new = secrets[0].vault().secret().from_bytes(&mut [9; 100]).unwrap();
        read_all(&[new]);
        read_all(&[vault("sealed").secret().from_bytes(&mut [9; 100]).unwrap()]);
    }
    // The parent's own death is one as before.
    let before = std::fs::read_to_string("/proc/self/status").unwrap();
    assert!(before.contains("Threads:"));
    view.finish().unwrap();
}

/// A child with secrets of its own wipes those.
fn own_vault() {
    let secret = vault("paged").secret().from_bytes(&mut [8; 100]).unwrap();
    assert!(secret.ct_eq_bytes(&[8; 100]).unwrap());
    let _kept = std::mem::ManuallyDrop::new(secret);
}

static CALLS: AtomicU32 = AtomicU32::new(0);

extern "C" fn counts(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    CALLS.fetch_add(1, Ordering::Relaxed);
}

/// A handler that is to be called once is used up by each process for itself, also by one that shares our memory.
fn once() {
    let flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
    set_action(libc::SIGSYS, counts as *const () as usize, flags);
    fault::install(FaultPolicy::Abort).unwrap().keep();
    extern "C" fn twice(_: *mut c_void) -> c_int {
        // SAFETY: a signal to this process, by number: the C library thinks that it is its parent.
        unsafe {
            for _ in 0..2 {
                libc::syscall(libc::SYS_kill, libc::syscall(libc::SYS_getpid), libc::SIGSYS);
            }
            libc::_exit(3)
        }
    }
    for flags in [libc::CLONE_VM, 0] {
        if flags != 0 && is_shared_death() {
            continue;
        }
        let before = CALLS.load(Ordering::Relaxed);
        let mut stack = vec![0_u64; 1 << 14];
        // SAFETY: a stack of its own, and it is waited for.
        unsafe {
            let top = stack.as_mut_ptr().add(stack.len()).cast::<c_void>();
            let pid = libc::clone(twice, top, libc::SIGCHLD | flags, std::ptr::null_mut());
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &raw mut status, libc::__WALL), pid);
            assert_eq!((libc::WIFSIGNALED(status), libc::WTERMSIG(status)), (true, libc::SIGSYS));
        }
        let calls = CALLS.load(Ordering::Relaxed) - before;
        assert_eq!(calls, u32::from(flags != 0), "what it counted is seen where memory is shared");
    }
    let before = CALLS.load(Ordering::Relaxed);
    // SAFETY: a signal to this thread.
    unsafe { libc::raise(libc::SIGSYS) };
    assert_eq!(CALLS.load(Ordering::Relaxed), before + 1, "ours is still to be called");
}

fn host(death: &str, path: &str) {
    fault::install(FaultPolicy::Abort).unwrap().keep();
    let vault = vault("sealed");
    let secret = vault.secret().from_bytes(&mut [9; 100]).unwrap();
    let shares = share_files();
    if shares.is_empty() {
        common::skip("this vault has no share in a file");
    }
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    for share in shares {
        // SAFETY: numbers only; that they are ours is what is tested.
        assert_eq!(unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&file), share) }, share);
    }
    let _kept = std::mem::ManuallyDrop::new((vault, secret));
    Line::new().text("begin").say();
    if death == "fault" {
        touch(16);
    }
    std::process::exit(7);
}

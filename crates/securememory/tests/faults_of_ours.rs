//! Faults in memory of the library: what is told of them, what the policies do, and how the process ends.
//!
//! The program says what it expects to be told, and its standard error must have exactly that.
#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "signals are handled by raw calls, and addresses touched that are nobody's"
)]

mod program;

use std::ffi::c_void;
use std::sync::Barrier;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use program::tells::{SECRET, tells};
use program::{DONE, End, Ended, Line, SEGV, large_stack, page_of, page_size, set_action};
use securememory::fault::{self, AfterFault, FaultPolicy, FaultReport};
use securememory::testing::TestGuard;
use securememory::testing::inject::{Plan, fail};
use securememory::{Call, Hold, Secret, Store, Vault, VaultBuilder};

/// Runs a case and judges its end. What it expected to be told is all that was told.
fn ends(spec: &str, end: End) -> Ended {
    let ended = program::ends(spec, end, Duration::from_secs(20));
    let expected: Vec<&str> = ended.out.lines().filter_map(|line| line.split("expect ").nth(1)).collect();
    let told: Vec<&str> = ended.err.lines().filter_map(|line| line.split("securememory: ").nth(1)).collect();
    assert_eq!(told, expected, "{spec}: {ended:#?}");
    ended
}

#[test]
fn overflow_and_underflow_are_told_to_the_byte() {
    let _guard = TestGuard::new();
    for store in ["sealed", "guarded", "paged"] {
        for way in ["read", "write"] {
            for bytes in [1, 5, 2000] {
                ends(&format!("over {store} {way} {bytes} 64"), SEGV);
                ends(&format!("under {store} {way} {bytes} 64"), SEGV);
            }
            // Slack up to the guard counts as beyond.
            ends(&format!("over {store} {way} 13 20"), SEGV);
            ends(&format!("over {store} {way} 1 70000"), SEGV);
        }
    }
}

#[test]
fn what_lies_at_rest_is_not_to_be_touched() {
    let _guard = TestGuard::new();
    ends("rest read", SEGV);
    ends("rest write", SEGV);
    ends("written", SEGV);
}

#[test]
fn a_guard_is_one_also_after_the_view() {
    let _guard = TestGuard::new();
    ends("ended", SEGV);
}

#[test]
fn a_label_cannot_break_the_line() {
    let _guard = TestGuard::new();
    ends("label", SEGV);
    ends("long-label", SEGV);
}

#[test]
fn policies_decide_and_a_vaults_own_goes_first() {
    let _guard = TestGuard::new();
    for place in ["all", "vault"] {
        ends(&format!("policy {place} abort"), SEGV);
        let passed = ends(&format!("policy {place} report"), SEGV);
        assert!(passed.out.contains("handler: passed on, whole"), "{passed:#?}");
        let aborted = ends(&format!("policy {place} call-abort"), SEGV);
        assert!(aborted.out.contains("handler: wiped, wiped"), "{aborted:#?}");
        let asked = ends(&format!("policy {place} call-pass"), SEGV);
        assert!(asked.out.contains("handler: asked, whole"), "{asked:#?}");
        ends(&format!("policy {place} call-resume"), DONE);
    }
}

#[test]
fn two_threads_at_once() {
    let _guard = TestGuard::new();
    ends("two-abort", SEGV);
    ends("two-resume", DONE);
}

#[test]
fn inside_of_a_closure_and_beside_a_lock() {
    let _guard = TestGuard::new();
    ends("with", SEGV);
    ends("locked", SEGV);
}

#[test]
fn a_second_fault_in_the_handler_ends_the_process_at_once() {
    let _guard = TestGuard::new();
    ends("second segv", SEGV);
    if HAS_ILLEGAL {
        ends("second ill", End::Signal(libc::SIGILL));
    } else {
        eprintln!("SKIPPED second ill: stable Rust has no assembly for this processor");
    }
    ends("second abort", End::Signal(libc::SIGABRT));
}

/// Not a test of its own, but the program that the others run.
#[test]
fn a_program() {
    let _guard = TestGuard::new();
    let Some(spec) = program::spec() else { return };
    let words: Vec<&str> = spec.split(' ').collect();
    match words[..] {
        ["over" | "under", store, way, bytes, len] => {
            beside(words[0], store, way, bytes.parse().unwrap(), len.parse().unwrap());
        }
        ["rest", way] => at_rest(way, false),
        ["written"] => at_rest("read", true),
        ["ended"] => ended(),
        ["label"] => label("two\nlines\u{7}\u{1b}[31m \"ü\"", "two?lines??[31m \"ü\""),
        ["long-label"] => label(&"äb".repeat(85), &"äb".repeat(85)),
        ["policy", place, policy] => policies(place, policy),
        ["two-abort"] => two_abort(),
        ["two-resume"] => two_resume(),
        ["with"] => with(),
        ["locked"] => locked(),
        ["second", how] => second(how),
        _ => panic!("{spec}?"),
    }
    // SAFETY: ends the process, without what the harness would say.
    unsafe { libc::_exit(7) };
}

fn vault_of(store: &str) -> VaultBuilder {
    match store {
        "sealed" => Vault::builder().store(Store::Sealed).hold(Hold::Split),
        "guarded" => Vault::builder().store(Store::Sealed).hold(Hold::Guarded),
        _ => Vault::builder().store(Store::Paged),
    }
}

fn install(policy: FaultPolicy) {
    fault::install(policy).unwrap().keep();
}

fn secret(vault: &Vault, len: usize) -> Secret {
    vault.secret().label("the key").from_bytes(&mut vec![7; len]).unwrap()
}

fn thread() -> i32 {
    // SAFETY: asks for a number.
    unsafe { libc::gettid() }
}

fn expect(text: &str) {
    let line = format!("expect {text}\n");
    // SAFETY: as many bytes as there are.
    unsafe { libc::write(1, line.as_ptr().cast(), line.len()) };
}

/// The line about a fault of this thread.
fn line(verb: &str, address: usize, place: &str, of: &str, secret: &Secret, rest: &str) -> String {
    let (thread, id, vault) = (thread(), secret.id(), secret.vault().id());
    format!(
        "SIGSEGV: thread {thread} {verb} memory at {address:#x}, {place}{of}secret {id} \"the key\" in vault {vault}; {rest}"
    )
}

const WIPED: &str = "all secrets are wiped and the process ends";
const BEYOND: &str = "look for an index or a length that reaches beyond the view";
const BELOW: &str = "look for an index or a pointer that reaches below the view";
const KEPT: &str = "look for a pointer that is kept beyond its view, or a stray one";

fn touch(address: usize, way: &str) {
    let at = address as *mut u8;
    // SAFETY: fails, as is wanted, or touches a canary or a byte of a secret.
    unsafe {
        if way == "read" {
            std::hint::black_box(at.read_volatile());
        } else {
            at.write_volatile(1);
        }
    }
}

/// Does the kernel tell of such an access what it was? On s390x of none; a kernel of 64 bits tells a program of 32-bit arm
/// that it was a write, and nothing of others.
fn is_told(way: &str) -> bool {
    let is_compatible = || cfg!(target_arch = "arm") && rustix::system::uname().machine() == c"aarch64";
    !cfg!(target_arch = "s390x") && (way != "read" || !is_compatible())
}

fn verb(way: &str) -> &'static str {
    match way {
        _ if !is_told(way) => "touched",
        "read" => "read",
        _ => "wrote to",
    }
}

/// What is told of an address: on s390x the kernel does not know where in its page it lies.
fn told(address: usize) -> usize {
    if cfg!(target_arch = "s390x") { page_of(address) } else { address }
}

fn beside(side: &str, store: &str, way: &str, bytes: usize, len: usize) {
    install(FaultPolicy::Abort);
    let vault = vault_of(store).build().unwrap();
    let secret = secret(&vault, len);
    let (of, view) = (if store == "paged" { "" } else { "a view of " }, secret.view().unwrap());
    let at = view.as_ptr().addr();
    let (address, place, look) = if side == "over" {
        let address = at + len + bytes - 1;
        (address, format!("{} bytes beyond the last of ", told(address) + 1 - at - len), BEYOND)
    } else {
        // The guard is below the page; what is between is ours, and no fault.
        let address = page_of(at) - bytes;
        (address, format!("{} bytes before the first of ", at - told(address)), BELOW)
    };
    expect(&line(verb(way), told(address), &place, of, &secret, &format!("{WIPED}; {look}")));
    touch(address, way);
}

fn at_rest(way: &str, in_view: bool) {
    install(FaultPolicy::Abort);
    let vault = vault_of("paged").build().unwrap();
    let secret = secret(&vault, 64);
    let at = secret.view().unwrap().as_ptr().addr();
    if in_view {
        // A view is to be read.
        let _view = secret.view().unwrap();
        expect(&line(
            verb("write"),
            told(at + 3),
            "where there is, at rest, ",
            "",
            &secret,
            &format!("{WIPED}; {KEPT}"),
        ));
        touch(at + 3, "write");
    }
    expect(&line(
        verb(way),
        told(at + 3),
        "where there is, at rest, ",
        "",
        &secret,
        &format!("{WIPED}; {KEPT}"),
    ));
    touch(at + 3, way);
}

fn ended() {
    install(FaultPolicy::Abort);
    let vault = vault_of("sealed").build().unwrap();
    let secret = secret(&vault, 64);
    let at = secret.view().unwrap().as_ptr().addr();
    let (id, number) = (secret.id(), vault.id());
    let (address, thread, verb) = (at + 64, thread(), verb("read"));
    // The label is gone with the view.
    expect(&format!(
        "SIGSEGV: thread {thread} {verb} memory at {address:#x}, beside what was a view of secret {id} in vault {number}; \
         {WIPED}; look for a pointer that is used after its view has ended"
    ));
    touch(address, "read");
}

fn label(given: &str, told: &str) {
    install(FaultPolicy::Abort);
    let vault = vault_of("sealed").build().unwrap();
    let secret = vault.secret().label(given).from_bytes(&mut [7; 64]).unwrap();
    let view = secret.view().unwrap();
    let address = view.as_ptr().addr() + 64;
    let (id, number, thread, verb) = (secret.id(), vault.id(), thread(), verb("read"));
    expect(&format!(
        "SIGSEGV: thread {thread} {verb} memory at {address:#x}, 1 bytes beyond the last of a view of secret {id} \
         \"{told}\" in vault {number}; {WIPED}; {BEYOND}"
    ));
    touch(address, "read");
}

fn says_abort(report: &FaultReport) -> AfterFault {
    check(report);
    AfterFault::Abort
}

fn says_pass(report: &FaultReport) -> AfterFault {
    check(report);
    AfterFault::PassOn
}

/// Opens the page, so that the access succeeds.
fn says_resume(report: &FaultReport) -> AfterFault {
    check(report);
    // SAFETY: a guard page of the library's, which is to be read now.
    let opened = unsafe {
        libc::mprotect(
            page_of(report.address) as *mut c_void,
            page_size(),
            libc::PROT_READ | libc::PROT_WRITE,
        )
    };
    if opened == 0 { AfterFault::Resume } else { AfterFault::Abort }
}

/// The report is of this thread's own fault.
fn check(report: &FaultReport) {
    if report.thread != thread().cast_unsigned()
        || report.done != fault::Done::Asked
        || report.signal != libc::SIGSEGV
        || report.label.as_str() != "the key"
    {
        Line::new().text("WRONG report").say();
    }
}

fn policy(name: &str) -> FaultPolicy {
    // SAFETY: these functions make system calls only.
    unsafe {
        match name {
            "abort" => FaultPolicy::Abort,
            "report" => FaultPolicy::Report,
            "call-abort" => FaultPolicy::call(says_abort),
            "call-pass" => FaultPolicy::call(says_pass),
            _ => FaultPolicy::call(says_resume),
        }
    }
}

fn policies(place: &str, name: &str) {
    large_stack();
    assert_eq!(fault::last_fault(), None);
    set_action(libc::SIGSEGV, tells as *const () as usize, libc::SA_SIGINFO | libc::SA_ONSTACK);
    // The other place says the opposite.
    let other = if name == "abort" { "call-resume" } else { "abort" };
    let mut builder = vault_of("sealed");
    if place == "vault" {
        install(policy(other));
        builder = builder.on_fault(policy(name));
    } else {
        install(policy(name));
    }
    let vault = builder.build().unwrap();
    let secret = SECRET.get_or_init(|| secret(&vault, 64));
    let view = secret.view().unwrap();
    let address = view.as_ptr().addr() + 64;
    let told = |done: &str| {
        let rest = format!("{done}; {BEYOND}");
        expect(&line(verb("read"), address, "1 bytes beyond the last of ", "a view of ", secret, &rest));
    };
    if name.starts_with("call") {
        told("the program is asked what to do");
    }
    match name {
        "abort" | "call-abort" => told(WIPED),
        "report" => told("passed on"),
        _ => {}
    }
    touch(address, "read");
    let report = fault::last_fault().unwrap();
    assert_eq!((report.secret_id, report.vault_id), (Some(secret.id()), vault.id()));
    assert_eq!((report.address, report.code), (address, 2));
    assert_eq!(report.place, fault::Place::Overflow { bytes: 1 });
    let access = if is_told("read") { fault::Access::Read } else { fault::Access::Unknown };
    assert_eq!((report.access, report.memory), (access, fault::Memory::View));
    assert_eq!(fault::faults_seen(), 1);
    let shown = format!("{report}");
    expect(&shown);
    eprintln!("securememory: {shown}");
    drop(view);
    assert!(secret.ct_eq_bytes(&[7; 64]).unwrap());
}

fn two_abort() {
    install(FaultPolicy::Abort);
    let vault = vault_of("sealed").build().unwrap();
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let secret = secret(&vault, 64);
                let view = secret.view().unwrap();
                barrier.wait();
                // One of them tells, or both; what they tell is looked at by the other case.
                // SAFETY: the number of standard error, that nobody needs any more.
                unsafe { libc::close(2) };
                touch(view.as_ptr().addr() + 64, "read");
            });
        }
    });
}

fn two_resume() {
    const THREADS: usize = 4;
    install(policy("call-resume"));
    let vault = vault_of("sealed").build().unwrap();
    let barrier = Barrier::new(THREADS);
    // Their lines come in any order.
    // SAFETY: the number of standard error, that nobody needs any more.
    unsafe { libc::close(2) };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let secrets: Vec<_> = (0..20).map(|_| secret(&vault, 5000)).collect();
                for secret in &secrets {
                    let view = secret.view().unwrap();
                    barrier.wait();
                    touch(view.as_ptr().addr() + 5008, "read");
                    assert!(view.iter().all(|&byte| byte == 7));
                    let page = page_of(view.as_ptr().addr() + 5008);
                    // SAFETY: the guard that was opened.
                    let shut = unsafe { libc::mprotect(page as *mut c_void, page_size(), libc::PROT_NONE) };
                    assert_eq!(shut, 0);
                }
            });
        }
    });
    assert_eq!(fault::faults_seen(), THREADS * 20);
}

fn with() {
    install(FaultPolicy::Abort);
    let vault = vault_of("sealed").build().unwrap();
    let secret = secret(&vault, 64);
    let _ = secret.with(|bytes| {
        let address = bytes.as_ptr().addr() + 64;
        let rest = format!("{WIPED}; {BEYOND}");
        expect(&line(verb("read"), address, "1 bytes beyond the last of ", "a view of ", &secret, &rest));
        touch(address, "read");
    });
}

/// One thread holds the lock of the vault's pages, for long.
fn locked() {
    install(FaultPolicy::Abort);
    let vault = vault_of("paged").build().unwrap();
    let secret = secret(&vault, 64);
    let view = secret.view().unwrap();
    let address = view.as_ptr().addr() + 64;
    let rest = format!("{WIPED}; {BEYOND}");
    expect(&line(verb("read"), address, "1 bytes beyond the last of ", "", &secret, &rest));
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _plan = fail(Call::Mmap, Plan::DelayEach { duration: Duration::from_secs(60) });
            sender.send(()).unwrap();
            let _ = vault.secret().random(100_000);
        });
        receiver.recv().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        touch(address, "read");
    });
}

/// No instruction of the processor, where there is assembly in stable Rust for it.
fn illegal() {
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    // SAFETY: ends the process, as is wanted.
    unsafe {
        std::arch::asm!("ud2")
    };
    #[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("udf #0")
    };
    #[cfg(target_arch = "s390x")]
    // SAFETY: as above. All zeros are never an instruction.
    unsafe {
        std::arch::asm!(".short 0")
    };
}

const HAS_ILLEGAL: bool = cfg!(any(
    target_arch = "x86_64",
    target_arch = "x86",
    target_arch = "aarch64",
    target_arch = "arm",
    target_arch = "s390x"
));

fn second(how: &str) {
    static HOW: AtomicI32 = AtomicI32::new(0);
    fn fails(_: &FaultReport) -> AfterFault {
        match HOW.load(Ordering::Relaxed) {
            libc::SIGSEGV => touch(16, "read"),
            libc::SIGILL => illegal(),
            // SAFETY: ends the process, as is wanted.
            _ => unsafe { libc::abort() },
        }
        AfterFault::Resume
    }
    let signal = match how {
        "segv" => libc::SIGSEGV,
        "ill" => libc::SIGILL,
        _ => libc::SIGABRT,
    };
    HOW.store(signal, Ordering::Relaxed);
    // SAFETY: it fails, which is what it is for.
    install(unsafe { FaultPolicy::call(fails) });
    let vault = vault_of("sealed").build().unwrap();
    let secret = secret(&vault, 64);
    let view = secret.view().unwrap();
    let address = view.as_ptr().addr() + 64;
    let rest = format!("the program is asked what to do; {BEYOND}");
    expect(&line(verb("read"), address, "1 bytes beyond the last of ", "a view of ", &secret, &rest));
    touch(address, "read");
}

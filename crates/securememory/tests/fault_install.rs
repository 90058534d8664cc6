//! Fault handling is installed once, beside whatever was there, and taken out again without a trace.
#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "signals are handled by raw calls, and addresses touched that are nobody's"
)]

mod program;

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use program::tells::{SECRET, tells};
use program::{DONE, End, Ended, SEGV, large_stack, set_action};
use securememory::fault::{self, FaultPolicy, Uninstalled};
use securememory::testing::TestGuard;
use securememory::testing::inject::{Plan, fail};
use securememory::{Call, Error, Hold, Secret, Store, Vault};

const SIGNALS: [c_int; 7] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS, libc::SIGABRT];

/// Runs a case and judges its end.
fn ends(spec: &str, end: End) -> Ended {
    program::ends(spec, end, Duration::from_secs(20))
}

#[test]
fn installed_once_and_taken_out_without_a_trace() {
    let _guard = TestGuard::new();
    ends("installed", DONE);
    ends("refused", DONE);
    ends("dormant", DONE);
    ends("levels", DONE);
    ends("defaults", DONE);
    ends("aside", DONE);
    ends("aside-refused", DONE);
}

#[test]
fn a_fault_after_uninstall_is_nobodys() {
    let _guard = TestGuard::new();
    ends("uninstalled", SEGV);
}

#[test]
fn what_the_system_does_not_let_us_take_out_says_nothing_more() {
    let _guard = TestGuard::new();
    let ended = ends("half", SEGV);
    assert!(!ended.err.contains("securememory:"), "{ended:#?}");
}

#[test]
fn fatal_by_assumption() {
    let _guard = TestGuard::new();
    let ended = ends("assumed", SEGV);
    assert!(ended.out.contains("handler: none, wiped"), "{ended:#?}");
    let ended = ends("assumed-trap", End::Signal(libc::SIGTRAP));
    assert!(ended.out.contains("handler: none, wiped"), "{ended:#?}");
    let ended = ends("assumed-own-stack", SEGV);
    assert!(ended.out.contains("handler: none, wiped"), "{ended:#?}");
    ends("assumed-ignored", DONE);
}

/// Not a test of its own, but the program that the others run.
#[test]
fn a_program() {
    let _guard = TestGuard::new();
    let Some(spec) = program::spec() else { return };
    match spec.as_str() {
        "installed" => installed(),
        "refused" => refused(),
        "dormant" => dormant(),
        "levels" => levels(),
        "defaults" => defaults(),
        "aside" => aside(),
        "aside-refused" => aside_refused(),
        "uninstalled" => uninstalled(),
        "half" => half(),
        _ => assumed(&spec),
    }
    // SAFETY: ends the process, without what the harness would say.
    unsafe { libc::_exit(7) };
}

fn vault() -> Vault {
    Vault::builder().store(Store::Sealed).hold(Hold::Split).build().unwrap()
}

fn secret(vault: &Vault) -> Secret {
    vault.secret().from_bytes(&mut [7; 64]).unwrap()
}

fn touch(address: usize) {
    // SAFETY: fails, as is wanted.
    std::hint::black_box(unsafe { (address as *const u8).read_volatile() });
}

/// Handler, flags and mask.
fn actions() -> Vec<(usize, c_int, u64)> {
    let read = |&signal: &c_int| {
        // SAFETY: only asks; a set has at least 64 bits.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            assert_eq!(libc::sigaction(signal, std::ptr::null(), &raw mut action), 0);
            let mask = (&raw const action.sa_mask).cast::<u64>().read_unaligned();
            // The C library sets one flag of its own, but not where it has never been asked.
            (action.sa_sigaction, action.sa_flags & !0x0400_0000, mask)
        }
    };
    SIGNALS.iter().map(read).collect()
}

fn installed() {
    set_action(libc::SIGFPE, tells as *const () as usize, libc::SA_SIGINFO | libc::SA_NODEFER);
    set_action(libc::SIGILL, libc::SIG_IGN, 0);
    let before = actions();
    for _ in 0..20 {
        let guard = fault::install(FaultPolicy::Abort).unwrap();
        assert_ne!(actions(), before);
        assert!(matches!(fault::install(FaultPolicy::Report), Err(Error::AlreadyInstalled)));
        assert!(guard.check().unwrap().is_empty());
        assert_eq!(guard.uninstall(), Ok(Uninstalled::Restored));
        assert_eq!(actions(), before);
        drop(fault::install(FaultPolicy::Abort).unwrap());
        assert_eq!(actions(), before);
    }
    assert!(matches!(fault::install(FaultPolicy::Recover), Err(Error::Unsupported(_))));
}

fn refused() {
    set_action(libc::SIGFPE, tells as *const () as usize, libc::SA_SIGINFO | libc::SA_NODEFER);
    let before = actions();
    let mut refusals = 0;
    for call in [Call::Atexit, Call::Sigaction] {
        for n in 1.. {
            let plan = fail(call, Plan::Nth { n, errno: libc::EINVAL });
            let outcome = fault::install(FaultPolicy::Abort);
            drop(plan);
            match outcome {
                Err(error) => {
                    assert!(matches!(error, Error::System(cause) if cause.call == call), "{error}");
                    assert_eq!(actions(), before, "{call:?} {n}");
                    refusals += 1;
                }
                Ok(guard) => {
                    assert_eq!(guard.uninstall(), Ok(Uninstalled::Restored));
                    break;
                }
            }
        }
    }
    assert_eq!(refusals, 15, "one for exit, and two for each signal");
    // When the system refuses to take it out, it is passed on what comes, and it can be installed again.
    for n in 1..=14 {
        let guard = fault::install(FaultPolicy::Abort).unwrap();
        let plan = fail(Call::Sigaction, Plan::Nth { n, errno: libc::EINVAL });
        assert!(guard.uninstall().is_err(), "{n}");
        drop(plan);
        assert!(actions().iter().zip(&before).filter(|(now, before)| now != before).count() <= 1, "{n}");
        let guard = fault::install(FaultPolicy::Abort).unwrap();
        assert_eq!(guard.uninstall(), Ok(Uninstalled::Restored), "{n}");
        assert_eq!(actions(), before, "{n}");
    }
}

static CALLS: AtomicUsize = AtomicUsize::new(0);
static OTHERS: AtomicUsize = AtomicUsize::new(0);
static BELOW_US: AtomicUsize = AtomicUsize::new(0);

extern "C" fn counts(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    CALLS.fetch_add(1, Ordering::Relaxed);
}

/// A handler of somebody else's above ours, that calls what it has found.
extern "C" fn calls_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    OTHERS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: found as a handler with this signature.
    let below = unsafe {
        std::mem::transmute::<usize, extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void)>(
            BELOW_US.load(Ordering::Relaxed),
        )
    };
    below(signal, info, context);
}

const STACK: c_int = libc::SA_SIGINFO | libc::SA_ONSTACK;

fn raise() -> (usize, usize) {
    let before = (CALLS.load(Ordering::Relaxed), OTHERS.load(Ordering::Relaxed));
    // SAFETY: a signal to this thread.
    unsafe { libc::raise(libc::SIGSYS) };
    (CALLS.load(Ordering::Relaxed) - before.0, OTHERS.load(Ordering::Relaxed) - before.1)
}

fn take_place() {
    BELOW_US.store(actions()[5].0, Ordering::Relaxed);
    set_action(libc::SIGSYS, calls_on as *const () as usize, STACK);
}

fn dormant() {
    set_action(libc::SIGSYS, counts as *const () as usize, STACK);
    let guard = fault::install(FaultPolicy::Abort).unwrap();
    assert_eq!(raise(), (1, 0));
    take_place();
    assert_eq!(guard.check(), Ok(vec![libc::SIGSYS]));
    assert_eq!(raise(), (1, 1));
    assert_eq!(guard.uninstall(), Ok(Uninstalled::Dormant));
    assert_eq!(raise(), (1, 1), "through us, without a word");
    let guard = fault::install(FaultPolicy::Abort).unwrap();
    assert_eq!(raise(), (1, 1), "a circle is none");
    assert_eq!(guard.uninstall(), Ok(Uninstalled::Dormant));
    assert_eq!(raise(), (1, 1));
}

/// Others take our place again and again, and we take it back.
fn levels() {
    set_action(libc::SIGSYS, counts as *const () as usize, STACK);
    let mut refused = 0;
    for round in 0..20 {
        match fault::install(FaultPolicy::Abort) {
            Ok(guard) => {
                let (calls, others) = raise();
                assert_eq!(calls, 1, "{round}: the first one is called once");
                assert_eq!(others, round, "{round}: and each of the others");
                take_place();
                assert_eq!(guard.uninstall(), Ok(Uninstalled::Dormant));
            }
            Err(Error::Unsupported(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
        // Threads that never come back leave no trace.
    }
    assert_eq!(refused, 12);
}

/// Who resets a signal to its default calls nobody, so that there is no level to be kept.
fn defaults() {
    for _ in 0..30 {
        let guard = fault::install(FaultPolicy::Abort).unwrap();
        set_action(libc::SIGSYS, libc::SIG_DFL, 0);
        assert_eq!(guard.uninstall(), Ok(Uninstalled::Dormant));
    }
}

/// A handler that must not run on the alternate stack: we make place for it, and come back.
fn aside() {
    set_action(libc::SIGSYS, counts as *const () as usize, libc::SA_SIGINFO);
    let before = actions();
    // Or the thread that brings us back might be there before we have looked.
    let _slowly =
        fail(Call::Sigaction, Plan::DelayEach { duration: Duration::from_millis(15) }).all_threads();
    let guard = fault::install(FaultPolicy::Abort).unwrap();
    let ours = actions();
    for _ in 0..3 {
        assert_eq!(raise(), (1, 0));
        assert_eq!(actions()[5], before[5], "aside");
        assert_eq!(raise(), (1, 0));
        assert!(guard.check().unwrap().is_empty());
        assert_eq!(actions(), ours);
    }
    // Uninstalled while it is aside.
    assert_eq!(raise(), (1, 0));
    assert_eq!(guard.uninstall(), Ok(Uninstalled::Restored));
    assert_eq!(actions(), before);
    // One that is to be called once.
    set_action(libc::SIGSYS, counts as *const () as usize, libc::SA_SIGINFO | libc::SA_RESETHAND);
    let guard = fault::install(FaultPolicy::Abort).unwrap();
    assert_eq!(raise(), (1, 0));
    assert_eq!(actions()[5].0, libc::SIG_DFL);
    assert!(guard.check().unwrap().is_empty());
    assert_eq!(actions()[5].0, ours[5].0);
    assert_eq!(guard.uninstall(), Ok(Uninstalled::Restored));
    assert_eq!(actions()[5].0, libc::SIG_DFL);
    // Somebody else comes while it is aside.
    set_action(libc::SIGSYS, counts as *const () as usize, libc::SA_SIGINFO);
    let guard = fault::install(FaultPolicy::Abort).unwrap();
    assert_eq!(raise(), (1, 0));
    take_place();
    assert_eq!(guard.check(), Ok(vec![libc::SIGSYS]));
    assert_eq!(raise(), (1, 1));
    assert_eq!(guard.uninstall(), Ok(Uninstalled::Restored));
    assert_eq!(raise(), (1, 1));
}

/// What the system does not let us come back to is tried again.
fn aside_refused() {
    set_action(libc::SIGSYS, counts as *const () as usize, libc::SA_SIGINFO);
    let guard = fault::install(FaultPolicy::Abort).unwrap();
    let ours = actions();
    // The first call makes place, the second looks what is there, and the third would come back.
    let plan = fail(Call::Sigaction, Plan::Nth { n: 3, errno: libc::EPERM }).all_threads();
    assert_eq!(raise(), (1, 0));
    let started = Instant::now();
    while actions() != ours && started.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!((actions(), plan.calls()), (ours, 5));
    drop(plan);
    assert_eq!(guard.uninstall(), Ok(Uninstalled::Restored));
}

fn uninstalled() {
    let guard = fault::install(FaultPolicy::Abort).unwrap();
    let vault = vault();
    let secret = secret(&vault);
    assert_eq!(guard.uninstall(), Ok(Uninstalled::Restored));
    let view = secret.view().unwrap();
    touch(view.as_ptr().addr() + 64);
}

fn half() {
    let guard = fault::install(FaultPolicy::Abort).unwrap();
    let vault = vault();
    let secret = secret(&vault);
    let plan = fail(Call::Sigaction, Plan::Always { errno: libc::EINVAL });
    assert!(guard.uninstall().is_err());
    drop(plan);
    let view = secret.view().unwrap();
    touch(view.as_ptr().addr() + 64);
}

fn assumed(how: &str) {
    large_stack();
    let signal = if how == "assumed" || how == "assumed-own-stack" { libc::SIGSEGV } else { libc::SIGTRAP };
    let vault = vault();
    SECRET.get_or_init(|| secret(&vault));
    let flags = if how == "assumed-own-stack" { libc::SA_SIGINFO } else { STACK };
    let handler = if how == "assumed-ignored" { libc::SIG_IGN } else { tells as *const () as usize };
    set_action(signal, handler, flags);
    let guard = fault::install(FaultPolicy::Abort).unwrap();
    guard.assume_fatal();
    if signal == libc::SIGSEGV {
        touch(16);
    } else {
        // SAFETY: a signal to this thread.
        unsafe { libc::raise(libc::SIGTRAP) };
    }
    assert!(SECRET.get().unwrap().ct_eq_bytes(&[7; 64]).unwrap());
    guard.keep();
}

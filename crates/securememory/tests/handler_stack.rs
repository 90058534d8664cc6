//! How much stack our signal handler takes: measured on an alternate stack that was painted before, and that the parent
//! looks at when the child has gone. What the kernel's frame and an empty handler take is measured in the same way and
//! subtracted.
#![cfg(all(target_os = "linux", target_pointer_width = "64"))]
#![allow(
    unsafe_code,
    clippy::expect_used,
    clippy::panic,
    reason = "a test, of signal handlers, stacks and bad accesses"
)]

mod common;

use std::ffi::{c_int, c_void};

use common::lost::{Loss, page_of, page_size, touch};
use common::{case, in_child};
use securememory::fault::{self, AfterFault, FaultPolicy, FaultReport};
use securememory::signal::{self, Coordinator, Options, Outcome, Priority, Signal};
use securememory::{Error, Hold, Level, Secret, Store, Vault};

/// Bytes of our frames at most.
const MOST: usize = if cfg!(debug_assertions) { 2048 } else { 1024 };

const PAINT: u8 = 0xA5;
const STACK: usize = 256 * 1024;

/// An alternate stack that parent and child share.
struct Stack(*mut u8);

impl Stack {
    fn painted() -> Self {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, filled over its length.
        unsafe {
            let at = libc::mmap(std::ptr::null_mut(), STACK, access, flags, -1, 0).cast::<u8>();
            assert_ne!(at.cast(), libc::MAP_FAILED);
            at.write_bytes(PAINT, STACK);
            Self(at)
        }
    }

    fn use_it(&self) {
        let stack = libc::stack_t { ss_sp: self.0.cast(), ss_flags: 0, ss_size: STACK };
        // SAFETY: mapped for as long as the process lives.
        assert_eq!(unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) }, 0);
    }

    /// Bytes from the top to the last one that was written.
    fn used(&self) -> usize {
        // SAFETY: mapped, and nobody writes it any more.
        let bytes = unsafe { std::slice::from_raw_parts(self.0, STACK) };
        STACK - bytes.iter().position(|&byte| byte != PAINT).unwrap_or(STACK)
    }
}

/// A handler: makes the page accessible, so that the thread can go on.
extern "C" fn mend(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: what a handler for a fault is called with.
    open_page(unsafe { (*info).si_addr() }.addr());
}

fn open_page(address: usize) {
    // SAFETY: a page of the test's, or a guard page that is of no more use.
    unsafe {
        libc::mprotect(page_of(address) as *mut c_void, 1, libc::PROT_READ | libc::PROT_WRITE);
    }
}

fn install(signal: c_int) {
    // SAFETY: zero is right for what is not set; the handler is async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = mend as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        assert_eq!(libc::sigaction(signal, &raw const action, std::ptr::null_mut()), 0);
    }
}

fn by_default(signal: c_int) {
    // SAFETY: no handler.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

fn closed_page() -> usize {
    // SAFETY: a new mapping.
    let page = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        libc::mmap(std::ptr::null_mut(), page_size(), libc::PROT_NONE, flags, -1, 0)
    };
    assert_ne!(page, libc::MAP_FAILED);
    page.addr()
}

/// Vaults of all that a dying process has to wipe.
fn vaults(policy: FaultPolicy) -> Vec<(Vault, Secret, Secret)> {
    let made = [Hold::Pkey, Hold::Split, Hold::Secretmem, Hold::Guarded].map(|hold| {
        let vault = Vault::builder().hold(hold).hold_level(Level::Require).on_fault(policy).build().ok()?;
        let paged = vault.secret().store(Store::Paged).label("paged").random(5000).expect("a paged secret");
        let sealed = vault.secret().store(Store::Sealed).label("sealed").random(32).expect("a sealed secret");
        Some((vault, sealed, paged))
    });
    made.into_iter().flatten().collect()
}

/// What the body takes of the alternate stack, in a process of its own that ends as it must.
fn measure(ends: c_int, body: impl FnOnce()) -> usize {
    let stack = Stack::painted();
    let status = in_child(|| {
        stack.use_it();
        body();
        true
    });
    let signal = if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { 0 };
    assert_eq!((signal, if signal == 0 { libc::WEXITSTATUS(status) } else { 0 }), (ends, 0), "{status:#x}");
    stack.used()
}

/// With our handler and without, in bytes. What the test's own functions take on top of ours is counted as ours.
fn judge(name: &str, with: usize, without: usize) {
    assert!(without > 500 && with > without, "nothing was measured: {with} and {without}");
    let ours = with - without;
    eprintln!("{name}: {ours} bytes besides {without} of the kernel's");
    assert!(ours <= MOST, "{name}: {ours} bytes are more than {MOST}");
}

/// The kernel's frame, and what is called by nobody but the kernel.
fn empty() -> usize {
    extern "C" fn nothing(_: c_int) {}
    measure(0, || {
        // SAFETY: as in `install`.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            action.sa_flags = libc::SA_ONSTACK;
            assert_eq!(libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut()), 0);
            libc::raise(libc::SIGSEGV);
        }
    })
}

/// Opens a view and touches what lies beyond it.
fn overflow(policy: FaultPolicy) {
    let vaults = vaults(policy);
    let view = vaults[0].1.view().expect("a view");
    let end = view.as_ptr().addr() + view.len();
    touch(end.next_multiple_of(page_size()));
}

#[test]
fn a_fault_that_is_not_ours_is_passed_on() {
    case("a_fault_that_is_not_ours_is_passed_on").shown().run(|| {
        let with = measure(0, || {
            install(libc::SIGSEGV);
            let vaults = vaults(FaultPolicy::Abort);
            fault::install(FaultPolicy::Abort).expect("installed").keep();
            touch(closed_page());
            drop(vaults);
        });
        judge("passed on", with, empty());
    });
}

#[test]
fn a_fault_that_is_not_ours_ends_the_process() {
    case("a_fault_that_is_not_ours_ends_the_process").shown().run(|| {
        let with = measure(libc::SIGSEGV, || {
            by_default(libc::SIGSEGV);
            let vaults = vaults(FaultPolicy::Abort);
            fault::install(FaultPolicy::Abort).expect("installed").keep();
            touch(closed_page());
            drop(vaults);
        });
        judge("not ours, wiped, the default action", with, empty());
    });
}

#[test]
fn a_report_and_a_handler_after_it() {
    case("a_report_and_a_handler_after_it").shown().run(|| {
        let with = measure(0, || {
            install(libc::SIGSEGV);
            fault::install(FaultPolicy::Report).expect("installed").keep();
            overflow(FaultPolicy::Report);
            assert_eq!(fault::faults_seen(), 1);
        });
        judge("report", with, empty());
    });
}

#[test]
fn an_end_with_all_wiped() {
    case("an_end_with_all_wiped").shown().run(|| {
        let with = measure(libc::SIGSEGV, || {
            by_default(libc::SIGSEGV);
            fault::install(FaultPolicy::Abort).expect("installed").keep();
            overflow(FaultPolicy::Abort);
        });
        judge("abort", with, empty());
    });
}

#[test]
fn lost_memory_that_is_replaced() {
    case("lost_memory_that_is_replaced").shown().run(|| {
        common::need("replaces_lost");
        let with = measure(0, || {
            install(libc::SIGBUS);
            fault::install(FaultPolicy::Abort).expect("installed").keep();
            let vaults = vaults(FaultPolicy::Recover);
            let view = vaults[0].1.view().expect("a view");
            Loss::Cut.strike(view.as_ptr().addr()).expect("lost");
            touch(view.as_ptr().addr());
            assert_eq!(view.finish(), Err(Error::Poisoned));
            assert_eq!(fault::faults_seen(), 1);
        });
        judge("recover", with, empty());
    });
}

#[test]
fn a_function_of_the_programs() {
    fn resume(report: &FaultReport) -> AfterFault {
        open_page(report.address);
        AfterFault::Resume
    }
    fn give_up(_: &FaultReport) -> AfterFault {
        AfterFault::Abort
    }
    case("a_function_of_the_programs").shown().run(|| {
        let asked = |ends, ask| {
            measure(ends, || {
                by_default(libc::SIGSEGV);
                fault::install(FaultPolicy::Abort).expect("installed").keep();
                // SAFETY: both do nothing but a system call.
                overflow(unsafe { FaultPolicy::call(ask) });
            })
        };
        judge("call, and resume", asked(0, resume), empty());
        judge("call, and abort", asked(libc::SIGSEGV, give_up), empty());
    });
}

#[test]
fn a_signal_of_the_coordinators() {
    unsafe fn pass(_: i32, _: *mut c_void, _: *mut c_void, _: usize) -> Outcome {
        Outcome::Pass
    }
    case("a_signal_of_the_coordinators").shown().run(|| {
        let ended = measure(libc::SIGTERM, || {
            let vaults = vaults(FaultPolicy::Abort);
            Coordinator::install(&[Signal::TERM], Options::new().ends(true)).expect("installed").keep();
            // SAFETY: it does nothing.
            let direct = unsafe { signal::register_direct(Signal::TERM, Priority::Normal, pass, 0) };
            direct.expect("registered").keep();
            // SAFETY: a signal that has a handler.
            unsafe { libc::raise(libc::SIGTERM) };
            drop(vaults);
        });
        judge("coordinated, wiped, the default action", ended, empty());
        let deferred = measure(0, || {
            Coordinator::install(&[Signal::TERM], Options::new()).expect("installed").keep();
            let (done, wait) = std::sync::mpsc::channel();
            let handler =
                move |_: &signal::Delivered| done.send(()).map_or(Outcome::Pass, |()| Outcome::Handled);
            signal::register(Signal::TERM, Priority::Normal, handler).expect("registered").keep();
            // SAFETY: as above.
            unsafe { libc::raise(libc::SIGTERM) };
            wait.recv_timeout(std::time::Duration::from_secs(60)).expect("a call");
        });
        judge("coordinated, left to the thread", deferred, empty());
    });
}

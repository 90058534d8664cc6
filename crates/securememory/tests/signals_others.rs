//! The coordinator of signals beside others: handlers that replace ours, forks, and handlers that need a stack of their
//! own. Each case is a process of its own, judged by its end.
#![cfg(unix)]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests end by panics, and send and handle signals by raw calls"
)]

mod common;

use std::cell::Cell;
use std::ffi::c_void;
use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::signals::{PLAIN, count_plain, install, installed, queue, raise, send, until, until_counted};
use common::{Ending, case, in_child, page_of, page_size};
use securememory::fault::{self, FaultPolicy};
use securememory::signal::{
    Change, Coordinator, IfReplaced, Options, Outcome, Priority, Registration, Signal, Uninstalled, register,
    register_direct,
};
use securememory::testing::{Left, expect_leak};

/// Calls of our closures, of our functions, and of the handler that somebody else has installed above ours.
static DEFERRED: AtomicU32 = AtomicU32::new(0);
static DIRECT: AtomicU32 = AtomicU32::new(0);
static THEIRS: AtomicU32 = AtomicU32::new(0);

fn load(counter: &AtomicU32) -> u32 {
    counter.load(Ordering::SeqCst)
}

fn deferred(signal: Signal, outcome: Outcome) -> Registration {
    let handler = move |_: &_| {
        DEFERRED.fetch_add(1, Ordering::SeqCst);
        outcome
    };
    register(signal, Priority::Normal, handler).unwrap()
}

unsafe fn count_and_pass(_: i32, _: *mut c_void, _: *mut c_void, _: usize) -> Outcome {
    DIRECT.fetch_add(1, Ordering::SeqCst);
    Outcome::Pass
}

unsafe fn count_and_handle(_: i32, _: *mut c_void, _: *mut c_void, _: usize) -> Outcome {
    DIRECT.fetch_add(1, Ordering::SeqCst);
    Outcome::Handled
}

fn direct(signal: Signal, function: securememory::signal::DirectHandler) -> Registration {
    // SAFETY: async-signal-safe.
    unsafe { register_direct(signal, Priority::Normal, function, 0).unwrap() }
}

/// A handler that calls the one that was there before it, as good ones do.
static BEFORE_THEIRS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn theirs(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    THEIRS.fetch_add(1, Ordering::SeqCst);
    let before = BEFORE_THEIRS.load(Ordering::SeqCst);
    if before > 1 {
        // SAFETY: what was installed: ours, which has SA_SIGINFO.
        let before: extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void) =
            unsafe { std::mem::transmute(before) };
        before(signal, info, context);
    }
}

fn install_theirs(signal: Signal) {
    let function: extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void) = theirs;
    let before = install(signal, function as usize, libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART);
    if before.sa_sigaction != function as usize {
        BEFORE_THEIRS.store(before.sa_sigaction, Ordering::SeqCst);
    }
}

fn is_theirs(signal: Signal) -> bool {
    let function: extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void) = theirs;
    installed(signal).sa_sigaction == function as usize
}

fn plain_first(signal: Signal) {
    let function: extern "C" fn(i32) = count_plain;
    install(signal, function as usize, libc::SA_ONSTACK | libc::SA_RESTART);
}

type Changes = Arc<Mutex<Vec<Change>>>;

fn noted(options: Options) -> (Options, Changes) {
    let changes = Changes::default();
    let noted = Arc::clone(&changes);
    (options.on_change(move |change| noted.lock().unwrap().push(*change)), changes)
}

fn told(changes: &Changes, what: Change) -> usize {
    changes.lock().unwrap().iter().filter(|change| **change == what).count()
}

const SIGNAL: Signal = Signal::USR1;

#[test]
fn a_handler_in_our_place_is_reported_once() {
    case("a_handler_in_our_place_is_reported_once").run(|| {
        expect_leak("the handlers of the test's own stay", Left::Disposition, 1);
        let (options, changes) = noted(Options::new());
        let coordinator = Coordinator::install(&[SIGNAL, Signal::USR2], options).unwrap();
        let _kept = direct(SIGNAL, count_and_handle);
        assert_eq!(coordinator.check(), Ok(Vec::new()));
        install_theirs(SIGNAL);
        for _ in 0..3 {
            assert_eq!(coordinator.check(), Ok(vec![SIGNAL]));
        }
        assert_eq!(told(&changes, Change::Replaced { signal: SIGNAL }), 1);
        assert!(is_theirs(SIGNAL), "it is left as it is");
        raise(SIGNAL);
        assert_eq!((load(&THEIRS), load(&DIRECT)), (1, 1));
        // One who does not call us keeps the signal.
        plain_first(SIGNAL);
        assert_eq!(coordinator.check(), Ok(vec![SIGNAL]));
        assert_eq!(told(&changes, Change::Replaced { signal: SIGNAL }), 2, "it is another one");
        raise(SIGNAL);
        assert_eq!((load(&THEIRS), load(&DIRECT), load(&PLAIN)), (1, 1, 1));
    });
}

/// Ours, theirs above it, ours above that; and below all, one that was there first. Each is called once.
fn a_circle_is_none(deferring: bool) {
    expect_leak("the handlers of the test's own stay", Left::Disposition, 1);
    plain_first(SIGNAL);
    let (options, changes) = noted(Options::new().if_replaced(IfReplaced::Reclaim));
    let coordinator = Coordinator::install(&[SIGNAL], options).unwrap();
    let _kept = if deferring { deferred(SIGNAL, Outcome::Pass) } else { direct(SIGNAL, count_and_pass) };
    let ours = if deferring { &DEFERRED } else { &DIRECT };
    install_theirs(SIGNAL);
    assert_eq!(coordinator.check(), Ok(Vec::new()));
    assert_eq!(told(&changes, Change::Reclaimed { signal: SIGNAL }), 1);
    for n in 1..=100 {
        raise(SIGNAL);
        until_counted(&PLAIN, n);
        assert_eq!((load(ours), load(&THEIRS)), (n, n));
    }
    // Ours is on top: theirs comes back.
    assert_eq!(coordinator.uninstall(), Ok(Uninstalled::Dormant));
    assert!(is_theirs(SIGNAL));
    raise(SIGNAL);
    assert_eq!((load(ours), load(&THEIRS), load(&PLAIN)), (100, 101, 101));
}

#[test]
fn taken_back_it_calls_theirs_and_is_not_called_twice() {
    case("taken_back_it_calls_theirs_and_is_not_called_twice").run(|| a_circle_is_none(false));
}

#[test]
fn nor_are_closures() {
    case("nor_are_closures").run(|| a_circle_is_none(true));
}

#[test]
fn taken_back_it_ends_the_process_when_theirs_has_been_called() {
    case("taken_back_it_ends_the_process_when_theirs_has_been_called")
        .ending(Ending::Signal(libc::SIGTERM))
        .run(|| {
            let options = Options::new().ends(true).if_replaced(IfReplaced::Reclaim);
            let coordinator = Coordinator::install(&[Signal::TERM], options).unwrap();
            install_theirs(Signal::TERM);
            assert_eq!(coordinator.check(), Ok(Vec::new()));
            raise(Signal::TERM);
        });
}

#[test]
fn two_that_take_it_back_do_not_fight_for_ever() {
    case("two_that_take_it_back_do_not_fight_for_ever").run(|| {
        expect_leak("the handlers of the test's own stay", Left::Disposition, 1);
        let options = Options::new().if_replaced(IfReplaced::Reclaim).watch(Duration::from_millis(10));
        let (options, changes) = noted(options);
        let coordinator = Coordinator::install(&[SIGNAL], options).unwrap();
        let _kept = direct(SIGNAL, count_and_handle);
        until("given up", || {
            if !is_theirs(SIGNAL) {
                install_theirs(SIGNAL);
            }
            told(&changes, Change::GivenUp { signal: SIGNAL }) == 1
        });
        std::thread::sleep(Duration::from_millis(100));
        assert!(is_theirs(SIGNAL));
        let counted = |what: fn(Signal) -> Change| told(&changes, what(SIGNAL));
        assert_eq!(counted(|signal| Change::Reclaimed { signal }), 3);
        assert_eq!(counted(|signal| Change::Replaced { signal }), 3);
        assert_eq!(counted(|signal| Change::GivenUp { signal }), 1);
        assert_eq!(coordinator.check(), Ok(vec![SIGNAL]));
        raise(SIGNAL);
        assert_eq!((load(&THEIRS), load(&DIRECT)), (1, 1));
    });
}

#[test]
fn a_watch_notices_by_itself() {
    case("a_watch_notices_by_itself").run(|| {
        expect_leak("the handlers of the test's own stay", Left::Disposition, 1);
        let (options, changes) = noted(Options::new().watch(Duration::from_millis(1)));
        let coordinator = Coordinator::install(&[SIGNAL], options).unwrap();
        std::thread::sleep(Duration::from_millis(30));
        install_theirs(SIGNAL);
        until("noticed", || told(&changes, Change::Replaced { signal: SIGNAL }) == 1);
        assert_eq!(coordinator.uninstall(), Ok(Uninstalled::Dormant));
        assert_eq!(told(&changes, Change::Dormant { signal: SIGNAL }), 1);
    });
}

#[test]
fn dormant_it_passes_everything_on_and_wakes_again() {
    case("dormant_it_passes_everything_on_and_wakes_again").run(|| {
        expect_leak("the handlers of the test's own stay", Left::Disposition, 1);
        plain_first(SIGNAL);
        let coordinator = Coordinator::install(&[SIGNAL], Options::new()).unwrap();
        let _kept = (direct(SIGNAL, count_and_pass), deferred(SIGNAL, Outcome::Pass));
        install_theirs(SIGNAL);
        raise(SIGNAL);
        until_counted(&PLAIN, 1);
        let all = || [&THEIRS, &DIRECT, &DEFERRED, &PLAIN].map(load);
        assert_eq!(all(), [1, 1, 1, 1]);
        assert_eq!(coordinator.uninstall(), Ok(Uninstalled::Dormant));
        raise(SIGNAL);
        assert_eq!(all(), [2, 1, 1, 2]);
        // Above theirs, which calls ours, which is the same one: it is asked once.
        let coordinator = Coordinator::install(&[SIGNAL], Options::new()).unwrap();
        raise(SIGNAL);
        until_counted(&PLAIN, 3);
        assert_eq!(all(), [3, 2, 2, 3]);
        assert_eq!(coordinator.uninstall(), Ok(Uninstalled::Dormant));
        raise(SIGNAL);
        assert_eq!(all(), [4, 2, 2, 4]);
    });
}

/// What is uninstalled between a closure's call and its answer goes to whoever is there then.
#[test]
fn an_answer_that_comes_after_the_end_of_the_coordinator_counts() {
    case("an_answer_that_comes_after_the_end_of_the_coordinator_counts").run(|| {
        plain_first(SIGNAL);
        let coordinator = Coordinator::install(&[SIGNAL], Options::new()).unwrap();
        let (begun, go) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (says, may) = (Arc::clone(&begun), Arc::clone(&go));
        let _kept = register(SIGNAL, Priority::Normal, move |_| {
            says.store(true, Ordering::SeqCst);
            until("it may go on", || may.load(Ordering::SeqCst));
            Outcome::Pass
        });
        raise(SIGNAL);
        until("it has begun", || begun.load(Ordering::SeqCst));
        assert_eq!(coordinator.uninstall(), Ok(Uninstalled::Restored));
        assert_eq!(load(&PLAIN), 0);
        go.store(true, Ordering::SeqCst);
        until_counted(&PLAIN, 1);
    });
}

#[test]
fn a_child_passes_closures_over_until_it_has_its_own() {
    case("a_child_passes_closures_over_until_it_has_its_own").run(|| {
        let _coordinator = Coordinator::install(&[SIGNAL, Signal::USR2], Options::new()).unwrap();
        let _kept = deferred(SIGNAL, Outcome::Handled);
        raise(SIGNAL);
        until_counted(&DEFERRED, 1);
        // Without a thread nobody handles it.
        let status = in_child(|| {
            raise(SIGNAL);
            true
        });
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGUSR1, "{status:#x}");
        // Functions need none.
        let status = in_child(|| {
            let _direct = direct(SIGNAL, count_and_handle);
            raise(SIGNAL);
            load(&DIRECT) == 1
        });
        assert_eq!(status, 0);
        // With one of its own, all closures are asked, also those that it has inherited.
        let status = in_child(|| {
            let own = deferred(Signal::USR2, Outcome::Handled);
            raise(SIGNAL);
            raise(Signal::USR2);
            until_counted(&DEFERRED, 3);
            drop(own);
            load(&DEFERRED) == 3
        });
        assert_eq!(status, 0);
        raise(SIGNAL);
        until_counted(&DEFERRED, 2);
    });
}

/// The parent's thread is in the middle of a closure, and more wait for it.
#[test]
fn what_waits_for_the_parents_thread_is_not_the_childs() {
    case("what_waits_for_the_parents_thread_is_not_the_childs").run(|| {
        let signal = Signal::real_time(1).unwrap();
        let _coordinator = Coordinator::install(&[signal], Options::new()).unwrap();
        let go = Arc::new(AtomicBool::new(false));
        let may = Arc::clone(&go);
        let slow = register(signal, Priority::First, move |_| {
            DEFERRED.fetch_add(1, Ordering::SeqCst);
            until("it may go on", || may.load(Ordering::SeqCst));
            Outcome::Handled
        })
        .unwrap();
        let slow = Cell::new(Some(slow));
        (0..5).for_each(|word| assert!(queue(signal, word)));
        until_counted(&DEFERRED, 1);
        let status = in_child(|| {
            // Nobody is running it here.
            drop(slow.take());
            let before = load(&DEFERRED);
            let _own = deferred(signal, Outcome::Handled);
            std::thread::sleep(Duration::from_millis(50));
            let inherited = load(&DEFERRED) - before;
            raise(signal);
            until_counted(&DEFERRED, before + 1);
            inherited == 0
        });
        assert_eq!(status, 0);
        go.store(true, Ordering::SeqCst);
        until_counted(&DEFERRED, 5);
    });
}

#[test]
fn handlers_may_fork() {
    case("handlers_may_fork").run(|| {
        static STATUS: AtomicU32 = AtomicU32::new(0);
        static FORKS: AtomicU32 = AtomicU32::new(0);
        /// Forks, waits for the child and counts.
        fn fork(child: impl FnOnce()) {
            // SAFETY: the child ends below, or by returning from the closure.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                return child();
            }
            let mut status = 0;
            // SAFETY: writes one number.
            while unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid {}
            STATUS.store(status as u32, Ordering::SeqCst);
            FORKS.fetch_add(1, Ordering::SeqCst);
        }
        fn clear_mask() -> std::io::Result<()> {
            // SAFETY: a set of this function's own.
            unsafe {
                let mut none: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&raw mut none);
                libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            }
            Ok(())
        }
        unsafe fn forks(_: i32, _: *mut c_void, _: *mut c_void, _: usize) -> Outcome {
            // SAFETY: ends the child.
            fork(|| unsafe { libc::_exit(7) });
            Outcome::Handled
        }
        let _coordinator = Coordinator::install(&[SIGNAL], Options::new()).unwrap();
        let within = direct(SIGNAL, forks);
        raise(SIGNAL);
        until_counted(&FORKS, 1);
        assert_eq!(STATUS.load(Ordering::SeqCst), 7 << 8);
        drop(within);
        // In a closure: the child is that thread, and when the closure has returned there is nothing left to do.
        let within = register(SIGNAL, Priority::Normal, |_| {
            fork(|| ());
            Outcome::Handled
        });
        raise(SIGNAL);
        until_counted(&FORKS, 2);
        assert_eq!(STATUS.load(Ordering::SeqCst), 0);
        drop(within);
        // Or it executes a program, which inherits the thread's mask.
        let _within = register(SIGNAL, Priority::Normal, |_| {
            let mut shell = std::process::Command::new("sh");
            // SAFETY: async-signal-safe.
            let shell = unsafe { shell.pre_exec(clear_mask) };
            let killed = shell.args(["-c", "kill -TERM $$; exec sleep 9"]).status().unwrap();
            let status = std::os::unix::process::ExitStatusExt::into_raw(killed);
            STATUS.store(status as u32, Ordering::SeqCst);
            FORKS.fetch_add(1, Ordering::SeqCst);
            Outcome::Handled
        });
        raise(SIGNAL);
        until_counted(&FORKS, 3);
        assert_eq!(STATUS.load(Ordering::SeqCst), libc::SIGTERM as u32);
    });
}

/// Forks while other threads register, unregister and receive signals: each child can do so, too.
#[test]
fn forks_in_the_middle_of_everything_leave_a_child_that_works() {
    case("forks_in_the_middle_of_everything_leave_a_child_that_works").run(|| {
        static DONE: AtomicBool = AtomicBool::new(false);
        // To the end: what waits for the thread when its handler goes is passed on, here to the default action.
        let why = "what waits for the thread would be passed on";
        expect_leak(why, Left::Coordinator, 1);
        expect_leak(why, Left::Registration, 1);
        expect_leak(why, Left::Disposition, 2);
        Coordinator::install(&[SIGNAL, Signal::USR2], Options::new()).unwrap().keep();
        deferred(SIGNAL, Outcome::Handled).keep();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !DONE.load(Ordering::SeqCst) {
                        drop((
                            deferred(Signal::USR2, Outcome::Handled),
                            direct(Signal::USR2, count_and_pass),
                        ));
                        send(SIGNAL);
                    }
                });
            }
            for _ in 0..100 {
                let status = in_child(|| {
                    let _own = deferred(Signal::USR2, Outcome::Handled);
                    let before = load(&DEFERRED);
                    raise(Signal::USR2);
                    until("the child's was called", || load(&DEFERRED) > before);
                    true
                });
                assert_eq!(status, 0);
            }
            DONE.store(true, Ordering::SeqCst);
        });
    });
}

static PAGES: AtomicUsize = AtomicUsize::new(0);

/// Opens the page that was touched: what virtual machines do.
extern "C" fn opens_the_page(_: i32, info: *mut libc::siginfo_t, _: *mut c_void) {
    THEIRS.fetch_add(1, Ordering::SeqCst);
    // SAFETY: the test's own pages.
    unsafe {
        let address = page_of((*info).si_addr().addr());
        let pages = PAGES.load(Ordering::SeqCst);
        if !(pages..pages + 8 * page_size()).contains(&address) {
            libc::_exit(3);
        }
        let page = std::ptr::with_exposed_provenance_mut(address);
        libc::mprotect(page, page_size(), libc::PROT_READ | libc::PROT_WRITE);
    }
}

/// For faults we make place for a handler without SA_ONSTACK, and the thread puts ours back.
#[test]
fn making_place_for_a_handler_is_for_a_moment() {
    case("making_place_for_a_handler_is_for_a_moment").run(|| {
        let segv = || {
            // SAFETY: only asks.
            unsafe {
                let mut found: libc::sigaction = std::mem::zeroed();
                libc::sigaction(libc::SIGSEGV, std::ptr::null(), &raw mut found);
                found.sa_sigaction
            }
        };
        let function: extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void) = opens_the_page;
        // SAFETY: as in `common::signals::install`; pages of our own.
        let pages = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = function as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut());
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(std::ptr::null_mut(), 8 * page_size(), libc::PROT_NONE, flags, -1, 0).cast::<u8>()
        };
        PAGES.store(pages.expose_provenance(), Ordering::SeqCst);
        let guard = fault::install(FaultPolicy::Abort).unwrap();
        let ours = segv();
        assert_ne!(ours, function as usize);
        for n in 0..8 {
            // SAFETY: inside the mapping; the handler opens it.
            unsafe { pages.add(n * page_size()).write_volatile(1) };
            assert_eq!(load(&THEIRS), n as u32 + 1);
            until("ours is back", || segv() == ours);
        }
        assert_eq!(guard.uninstall(), Ok(fault::Uninstalled::Restored));
        assert_eq!(segv(), function as usize);
    });
}

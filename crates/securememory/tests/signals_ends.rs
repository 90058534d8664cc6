//! The coordinator of signals: what becomes of a signal that nobody wants, or that ends the process. Each case is a process
//! of its own, judged by its end.
#![cfg(unix)]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests end by panics, and send and handle signals by raw calls"
)]

mod common;

use std::ffi::c_void;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use common::signals::{
    PLAIN, count_plain, counter, counting, direct, ending, install, installed, load, noted, of, queue, raise,
    until, until_counted,
};
use common::{Ending, Needle, case};
use securememory::signal::{Before, Change, Coordinator, Options, Outcome, Signal, Uninstalled};
use securememory::testing::inject;
use securememory::testing::inject::Plan;
use securememory::testing::{Left, expect_leak};
use securememory::{Call, Error, Vault};

unsafe fn terminate(_: i32, _: *mut c_void, _: *mut c_void, _: usize) -> Outcome {
    Outcome::Terminate
}

#[test]
fn what_nobody_wants_takes_its_default_course() {
    case("what_nobody_wants_takes_its_default_course").ending(Ending::Signal(libc::SIGUSR1)).run(|| {
        let _coordinator = of(Signal::USR1);
        let passing = counter();
        let _kept = [
            counting(Signal::USR1, &passing, Outcome::Pass),
            counting(Signal::USR1, &passing, Outcome::Pass),
        ];
        raise(Signal::USR1);
        std::thread::sleep(Duration::from_secs(20));
        panic!("asked {} times", load(&passing));
    });
}

#[test]
fn without_handlers_it_takes_its_default_course_at_once() {
    case("without_handlers_it_takes_its_default_course_at_once").ending(Ending::Signal(libc::SIGALRM)).run(
        || {
            let _coordinator = of(Signal::ALRM);
            raise(Signal::ALRM);
        },
    );
}

static INFO: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];

extern "C" fn with_info(signal: i32, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: what a handler is called with.
    let (code, value, process) = unsafe { ((*info).si_code, (*info).si_value().sival_ptr, (*info).si_pid()) };
    INFO[1].store(value.addr(), Ordering::SeqCst);
    INFO[2].store(process as usize, Ordering::SeqCst);
    INFO[0].store((signal * 1000 + code) as usize, Ordering::SeqCst);
}

#[test]
fn the_handler_before_gets_what_was_passed_with_all_that_came_with_it() {
    case("the_handler_before_gets_what_was_passed_with_all_that_came_with_it").run(|| {
        common::need("sends_words_on");
        let function: extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void) = with_info;
        install(Signal::USR2, function as usize, libc::SA_SIGINFO | libc::SA_ONSTACK);
        let _coordinator = of(Signal::USR2);
        let expected = (libc::SIGUSR2 * 1000 + libc::SI_QUEUE) as usize;
        let seen = counter();
        for (word, deferred) in [(77, false), (78, true)] {
            let _kept = deferred.then(|| counting(Signal::USR2, &seen, Outcome::Pass));
            INFO[0].store(0, Ordering::SeqCst);
            assert!(queue(Signal::USR2, word));
            until("it came", || INFO[0].load(Ordering::SeqCst) == expected);
            let [_, value, process] = &INFO;
            assert_eq!(value.load(Ordering::SeqCst), word);
            assert_eq!(process.load(Ordering::SeqCst), std::process::id() as usize);
            assert_eq!(load(&seen), u32::from(deferred));
        }
    });
}

/// That secrets have been wiped can be seen by a handler that was there before.
static VAULT: Mutex<Option<Vault>> = Mutex::new(None);

extern "C" fn sees_the_wipe(_: i32) {
    let dying = VAULT.try_lock().is_ok_and(|vault| {
        let vault = vault.as_ref().unwrap();
        vault.secret().from_bytes(&mut [7_u8; 32]).err() == Some(Error::Dying)
    });
    // SAFETY: ends the process.
    unsafe { libc::_exit(if dying { 55 } else { 56 }) };
}

fn with_vault() {
    *VAULT.lock().unwrap() = Some(Vault::builder().build().unwrap());
}

fn ends_after_the_handler_before(deferred: bool) {
    with_vault();
    let function: extern "C" fn(i32) = sees_the_wipe;
    install(Signal::TERM, function as usize, libc::SA_ONSTACK);
    let _coordinator = ending(&[Signal::TERM]);
    let passed = counter();
    let _kept = deferred.then(|| counting(Signal::TERM, &passed, Outcome::Pass));
    raise(Signal::TERM);
    std::thread::sleep(Duration::from_secs(20));
}

#[test]
fn a_signal_that_ends_the_process_wipes_before_the_handler_that_was_there() {
    case("a_signal_that_ends_the_process_wipes_before_the_handler_that_was_there")
        .ending(Ending::Code(55))
        .run(|| ends_after_the_handler_before(false));
}

#[test]
fn so_it_does_when_a_closure_has_passed_it_on() {
    case("so_it_does_when_a_closure_has_passed_it_on")
        .ending(Ending::Code(55))
        .run(|| ends_after_the_handler_before(true));
}

#[test]
fn termination_signals_end_with_their_true_status() {
    case("termination_signals_end_with_their_true_status").run(|| {
        for deferred in [false, true] {
            for signal in Signal::TERMINATION {
                let status = common::in_child(|| {
                    let _coordinator = ending(&Signal::TERMINATION);
                    let passed = counter();
                    let _kept = deferred.then(|| counting(signal, &passed, Outcome::Pass));
                    raise(signal);
                    std::thread::sleep(Duration::from_secs(20));
                    false
                });
                assert!(libc::WIFSIGNALED(status), "{signal}: {status:#x}");
                assert_eq!(libc::WTERMSIG(status), signal.as_raw());
            }
        }
    });
}

#[test]
fn terminate_wipes_and_ends_with_the_true_status() {
    case("terminate_wipes_and_ends_with_the_true_status").ending(Ending::Signal(libc::SIGUSR2)).run(|| {
        with_vault();
        let _coordinator = of(Signal::USR2);
        let ended = counter();
        let _kept = counting(Signal::USR2, &ended, Outcome::Terminate);
        raise(Signal::USR2);
        std::thread::sleep(Duration::from_secs(20));
    });
}

#[test]
fn terminate_in_the_signal_handler_does_so_too() {
    case("terminate_in_the_signal_handler_does_so_too").ending(Ending::Signal(libc::SIGUSR2)).run(|| {
        static UNUSED: AtomicU32 = AtomicU32::new(0);
        let _coordinator = of(Signal::USR2);
        let _kept = direct(Signal::USR2, terminate, &UNUSED);
        raise(Signal::USR2);
    });
}

#[test]
fn terminate_by_a_signal_that_ends_nothing_is_an_exit_code() {
    case("terminate_by_a_signal_that_ends_nothing_is_an_exit_code")
        .ending(Ending::Code(128 + libc::SIGWINCH))
        .run(|| {
            let _coordinator = of(Signal::WINCH);
            let ended = counter();
            let _kept = counting(Signal::WINCH, &ended, Outcome::Terminate);
            raise(Signal::WINCH);
            std::thread::sleep(Duration::from_secs(20));
        });
}

#[test]
fn a_handler_that_handles_it_keeps_an_ending_signal_from_ending() {
    case("a_handler_that_handles_it_keeps_an_ending_signal_from_ending").run(|| {
        with_vault();
        let _coordinator = ending(&[Signal::INT, Signal::WINCH]);
        let handled = counter();
        let _kept = counting(Signal::INT, &handled, Outcome::Handled);
        raise(Signal::INT);
        until_counted(&handled, 1);
        // One that ends nothing by default does not do so here.
        raise(Signal::WINCH);
        let vault = VAULT.lock().unwrap().take().unwrap();
        assert!(vault.secret().from_bytes(&mut [7_u8; 32]).is_ok());
    });
}

#[test]
fn ignored_signals_stay_ignored() {
    case("ignored_signals_stay_ignored").run(|| {
        install(Signal::HUP, libc::SIG_IGN, 0);
        let (options, changes) = noted(Options::new().ends(true));
        let coordinator = Coordinator::install(&[Signal::HUP, Signal::TERM], options).unwrap();
        let (hup, term) = (Signal::HUP, Signal::TERM);
        let told = [
            Change::LeftIgnored { signal: hup },
            Change::Installed { signal: term, replaced: Before::Default },
        ];
        assert_eq!(*changes.lock().unwrap(), told);
        assert_eq!(installed(hup).sa_sigaction, libc::SIG_IGN);
        // Who registers need not know that.
        let never = counter();
        let _kept = counting(hup, &never, Outcome::Terminate);
        raise(hup);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(load(&never), 0);
        assert_eq!(coordinator.uninstall(), Ok(Uninstalled::Restored));
        assert_eq!(changes.lock().unwrap().last(), Some(&Change::Restored { signal: term }));
        assert_eq!(installed(hup).sa_sigaction, libc::SIG_IGN);
        // Without that wish handlers are asked, and what they pass on is ignored as before.
        let _coordinator = of(hup);
        let seen = counter();
        let _passing = counting(hup, &seen, Outcome::Pass);
        drop(_kept);
        raise(hup);
        until_counted(&seen, 1);
        raise(hup);
        until_counted(&seen, 2);
    });
}

#[test]
fn masks_are_as_before_after_everything_that_shields_itself() {
    case("masks_are_as_before_after_everything_that_shields_itself").run(|| {
        let mask = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            status.lines().find(|line| line.starts_with("SigBlk")).unwrap().to_owned()
        };
        let _coordinator = ending(&Signal::TERMINATION);
        let before = mask();
        let needle = Needle::new(5, 64);
        let vault = Vault::builder().build().unwrap();
        let mut bytes = [0; 64];
        needle.write(&mut bytes, 0);
        let secret = vault.secret().from_bytes(&mut bytes).unwrap();
        let reads = inject::fail(Call::Sigprocmask, Plan::Nth { n: 0, errno: 1 });
        for _ in 0..10 {
            assert!(needle.is(&secret.view().unwrap()));
        }
        assert_eq!(reads.calls(), 0, "a read changes no mask");
        drop(reads);
        let shields = inject::fail(Call::Sigprocmask, Plan::Nth { n: 0, errno: 1 });
        vault.refresh().unwrap();
        vault.finish_refresh(Duration::from_secs(1)).unwrap();
        assert!(shields.calls() > 0);
        drop(shields);
        // Where a mask cannot be changed, all goes on: the first is the shield's.
        let refused = inject::fail(Call::Sigprocmask, Plan::Nth { n: 1, errno: libc::EPERM });
        assert_eq!(vault.refresh(), Ok(()));
        drop(refused);
        vault.purge().unwrap();
        drop((secret, vault));
        assert_eq!(mask(), before);
    });
}

/// A plain handler that was there first is called on the thread's own stack, and ours stays in place.
#[test]
fn a_handler_before_without_a_stack_of_its_own_runs_on_the_threads() {
    case("a_handler_before_without_a_stack_of_its_own_runs_on_the_threads").run(|| {
        static ON_ALTERNATE: AtomicU32 = AtomicU32::new(0);
        extern "C" fn where_am_i(_: i32) {
            // SAFETY: only asks.
            unsafe {
                let mut stack: libc::stack_t = std::mem::zeroed();
                libc::sigaltstack(std::ptr::null(), &raw mut stack);
                ON_ALTERNATE.fetch_add((stack.ss_flags & libc::SS_ONSTACK) as u32, Ordering::SeqCst);
            }
            PLAIN.fetch_add(1, Ordering::SeqCst);
        }
        let function: extern "C" fn(i32) = where_am_i;
        install(Signal::USR1, function as usize, 0);
        let coordinator = of(Signal::USR1);
        assert_eq!(installed(Signal::USR1).sa_flags & libc::SA_ONSTACK, 0);
        for n in 1..=10 {
            raise(Signal::USR1);
            assert_eq!(load(&PLAIN), n);
        }
        let seen = counter();
        let kept = counting(Signal::USR1, &seen, Outcome::Pass);
        for n in 11..=20 {
            raise(Signal::USR1);
            until_counted(&PLAIN, n);
        }
        assert_eq!((load(&seen), load(&ON_ALTERNATE)), (10, 0));
        assert_eq!(coordinator.check(), Ok(Vec::new()));
        drop(kept);
        drop(coordinator);
        assert_eq!(installed(Signal::USR1).sa_sigaction, function as usize);
    });
}

/// How a call that is interrupted goes on is as before.
#[test]
fn what_is_installed_interrupts_as_what_was_before() {
    case("what_is_installed_interrupts_as_what_was_before").run(|| {
        expect_leak("the handlers of the test's own stay", Left::Disposition, 2);
        let function: extern "C" fn(i32) = count_plain;
        for (handler, flags, restarts) in [
            (libc::SIG_DFL, 0, true),
            (function as usize, libc::SA_RESTART, true),
            (function as usize, 0, false),
        ] {
            install(Signal::USR1, handler, flags);
            let coordinator = of(Signal::USR1);
            assert_eq!(installed(Signal::USR1).sa_flags & libc::SA_RESTART != 0, restarts);
            drop(coordinator);
        }
        install(Signal::CHLD, libc::SIG_IGN, 0);
        let _coordinator = of(Signal::CHLD);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        assert_eq!(
            child.wait().unwrap_err().raw_os_error(),
            Some(libc::ECHILD),
            "it leaves no zombie, as before"
        );
    });
}

#[test]
fn a_stop_that_nobody_wants_stops_the_process() {
    case("a_stop_that_nobody_wants_stops_the_process").run(|| {
        // SAFETY: the child ends below; the parent asks for its states.
        unsafe {
            let pid = libc::fork();
            if pid == 0 {
                let _coordinator = of(Signal::TSTP);
                let passed = counter();
                let _kept = counting(Signal::TSTP, &passed, Outcome::Pass);
                raise(Signal::TSTP);
                until_counted(&passed, 1);
                std::thread::sleep(Duration::from_millis(50));
                libc::_exit(9);
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &raw mut status, libc::WUNTRACED), pid);
            assert!(libc::WIFSTOPPED(status), "{status:#x}");
            assert_eq!(libc::kill(pid, libc::SIGCONT), 0);
            assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
            assert_eq!(libc::WEXITSTATUS(status), 9);
        }
    });
}

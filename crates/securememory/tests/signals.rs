//! The coordinator of signals: who is asked, in which order, and how handlers come and go. Each case is a process of its
//! own, judged by its end.
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
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use common::case;
use common::signals::{
    count, counter, counting, direct, installed, load, of, queue, raise, send, until, until_counted,
};
use securememory::signal::{
    Coordinator, Options, Outcome, Priority, Registration, Signal, Uninstalled, register, register_direct,
};
use securememory::testing::inject;
use securememory::testing::inject::Plan;
use securememory::testing::{Left, expect_leak};
use securememory::{Call, CallError, Error, Vault};

unsafe fn count_and_pass(signal: i32, info: *mut c_void, context: *mut c_void, word: usize) -> Outcome {
    // SAFETY: as above.
    unsafe { count(signal, info, context, word) };
    Outcome::Pass
}

/// Appends the last digit of its word to a number.
static TRACE: AtomicUsize = AtomicUsize::new(0);

fn trace(digit: usize) {
    TRACE.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |trace| Some(trace * 10 + digit)).unwrap();
}

unsafe fn trace_direct(_: i32, _: *mut c_void, _: *mut c_void, word: usize) -> Outcome {
    trace(word);
    Outcome::Pass
}

#[test]
fn handlers_are_asked_in_the_order_of_their_priority() {
    case("handlers_are_asked_in_the_order_of_their_priority").run(|| {
        let _coordinator = of(Signal::WINCH);
        let deferred = |priority, digit| {
            register(Signal::WINCH, priority, move |_| {
                trace(digit);
                Outcome::Pass
            })
            .unwrap()
        };
        let direct = |priority, digit| {
            // SAFETY: async-signal-safe: an atomic.
            unsafe { register_direct(Signal::WINCH, priority, trace_direct, digit).unwrap() }
        };
        // Closures come after all functions, whatever their priority, and equals in the order in which they came.
        let _kept = [
            deferred(Priority::Last, 9),
            direct(Priority::Low, 3),
            deferred(Priority::First, 5),
            deferred(Priority::Normal, 7),
            direct(Priority::First, 1),
            deferred(Priority::High, 6),
            deferred(Priority::Normal, 8),
            direct(Priority::Normal, 2),
        ];
        raise(Signal::WINCH);
        until("all were asked", || TRACE.load(Ordering::SeqCst) >= 12_356_789);
        assert_eq!(TRACE.load(Ordering::SeqCst), 12_356_789);
    });
}

#[test]
fn the_first_that_handles_it_has_it() {
    case("the_first_that_handles_it_has_it").run(|| {
        static DIRECT: AtomicU32 = AtomicU32::new(0);
        let coordinator = of(Signal::TERM);
        let (first, second) = (counter(), counter());
        let kept = [
            counting(Signal::TERM, &first, Outcome::Handled),
            counting(Signal::TERM, &second, Outcome::Handled),
        ];
        for n in 1..=20 {
            raise(Signal::TERM);
            until_counted(&first, n);
        }
        let one = direct(Signal::TERM, count, &DIRECT);
        raise(Signal::TERM);
        assert_eq!((load(&DIRECT), load(&first), load(&second)), (1, 20, 0));
        drop((one, kept));
        assert_eq!(coordinator.uninstall(), Ok(Uninstalled::Restored));
        assert_eq!(installed(Signal::TERM).sa_sigaction, libc::SIG_DFL);
    });
}

#[test]
fn a_closure_learns_who_has_sent_it_and_what() {
    case("a_closure_learns_who_has_sent_it_and_what").run(|| {
        let _coordinator = of(Signal::USR1);
        let (sender, receiver) = mpsc::channel();
        let _kept = register(Signal::USR1, Priority::Normal, move |delivered| {
            let from = delivered.sender().map(|sender| sender.process);
            sender.send((delivered.signal(), from, delivered.value())).unwrap();
            Outcome::Handled
        });
        let (own, wait) = (Some(std::process::id()), Duration::from_secs(20));
        assert!(queue(Signal::USR1, 4711));
        assert_eq!(receiver.recv_timeout(wait), Ok((Signal::USR1, own, Some(4711))));
        send(Signal::USR1);
        assert_eq!(receiver.recv_timeout(wait), Ok((Signal::USR1, own, None)));
    });
}

#[test]
fn a_drop_unregisters_and_waits_for_the_handler() {
    case("a_drop_unregisters_and_waits_for_the_handler").run(|| {
        let _coordinator = of(Signal::WINCH);
        let (begun, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (says, does) = (Arc::clone(&begun), Arc::clone(&ended));
        let registration = register(Signal::WINCH, Priority::Normal, move |_| {
            says.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(200));
            does.store(true, Ordering::SeqCst);
            Outcome::Handled
        });
        raise(Signal::WINCH);
        until("it has begun", || begun.load(Ordering::SeqCst));
        drop(registration);
        assert!(ended.load(Ordering::SeqCst));
        // What it had captured is gone, too.
        assert_eq!((Arc::strong_count(&begun), Arc::strong_count(&ended)), (1, 1));
        ended.store(false, Ordering::SeqCst);
        raise(Signal::WINCH);
        std::thread::sleep(Duration::from_millis(50));
        assert!(!ended.load(Ordering::SeqCst));
    });
}

#[test]
fn a_wait_for_a_handler_is_bounded() {
    case("a_wait_for_a_handler_is_bounded").run(|| {
        let _coordinator = of(Signal::WINCH);
        let (begun, lock) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(0)));
        let (says, wants) = (Arc::clone(&begun), Arc::clone(&lock));
        let registration = register(Signal::WINCH, Priority::Normal, move |_| {
            says.store(true, Ordering::SeqCst);
            *wants.lock().unwrap() += 1;
            Outcome::Handled
        });
        let held = lock.lock().unwrap();
        raise(Signal::WINCH);
        until("it has begun", || begun.load(Ordering::SeqCst));
        let started = Instant::now();
        assert!(!registration.unwrap().unregister(Duration::from_millis(50)), "it is running still");
        assert!(started.elapsed() < Duration::from_secs(1));
        drop(held);
        // The one who comes back from it clears up.
        until("what it had captured is dropped", || Arc::strong_count(&lock) == 1);
        assert_eq!(*lock.lock().unwrap(), 1);
    });
}

#[test]
fn closures_may_do_what_other_code_may() {
    case("closures_may_do_what_other_code_may").run(|| {
        let _coordinator = of(Signal::WINCH);
        let (lines, seen) = (Arc::new(Mutex::new(Vec::new())), counter());
        let (kept, counts) = (Arc::clone(&lines), Arc::clone(&seen));
        let _first = register(Signal::WINCH, Priority::First, |_| panic!("a panic is taken for passing on"));
        let _second = register(Signal::WINCH, Priority::Normal, move |delivered| {
            let secret = Vault::global().unwrap().secret().from_bytes(&mut [1_u8; 64]).unwrap();
            kept.lock().unwrap().push(format!("{} {}", delivered.signal(), secret.len()));
            counts.fetch_add(1, Ordering::SeqCst);
            Outcome::Handled
        });
        for n in 1..=3 {
            // With the lock in the hand of the thread that is interrupted.
            let guard = lines.lock().unwrap();
            raise(Signal::WINCH);
            drop(guard);
            until_counted(&seen, n);
        }
        assert_eq!(*lines.lock().unwrap(), ["SIGWINCH 64"; 3]);
    });
}

#[test]
fn a_closure_may_register_and_unregister_also_itself() {
    case("a_closure_may_register_and_unregister_also_itself").run(|| {
        let _coordinator = of(Signal::WINCH);
        let (own, other, calls) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None)), counter());
        let (mine, theirs, counts) = (Arc::clone(&own), Arc::clone(&other), Arc::clone(&calls));
        let registration = register(Signal::WINCH, Priority::Normal, move |_| {
            counts.fetch_add(1, Ordering::SeqCst);
            let counts = Arc::clone(&counts);
            let next = register(Signal::WINCH, Priority::Normal, move |_| {
                counts.fetch_add(100, Ordering::SeqCst);
                Outcome::Handled
            });
            *theirs.lock().unwrap() = Some(next.unwrap());
            let itself: Option<Registration> = mine.lock().unwrap().take();
            drop(itself);
            Outcome::Handled
        });
        *own.lock().unwrap() = Some(registration.unwrap());
        raise(Signal::WINCH);
        until("what it had captured is dropped", || Arc::strong_count(&own) == 1);
        assert_eq!(load(&calls), 1);
        raise(Signal::WINCH);
        until_counted(&calls, 101);
        other.lock().unwrap().take();
        raise(Signal::WINCH);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(load(&calls), 101);
    });
}

#[test]
fn what_is_wrong_is_an_error_and_changes_nothing() {
    case("what_is_wrong_is_an_error_and_changes_nothing").run(|| {
        expect_leak("one cannot be given back", Left::Disposition, 1);
        let bad = |signal| Error::BadSignal { signal };
        let nobody = |signal| register(signal, Priority::Normal, |_| Outcome::Pass).err();
        assert_eq!(nobody(Signal::USR1), Some(bad(libc::SIGUSR1)));
        let coordinator = of(Signal::USR1);
        assert_eq!(
            Coordinator::install(&[Signal::USR2], Options::new()).err(),
            Some(Error::AlreadyInstalled)
        );
        assert_eq!(nobody(Signal::USR2), Some(bad(libc::SIGUSR2)));
        let all: Vec<_> =
            (0..256).map(|_| register(Signal::USR1, Priority::Normal, |_| Outcome::Pass).unwrap()).collect();
        assert_eq!(nobody(Signal::USR1), Some(Error::TooManyHandlers { limit: 256 }));
        drop(all);
        assert_eq!(nobody(Signal::USR1), None);
        drop(coordinator);
        assert_eq!(installed(Signal::USR1).sa_sigaction, libc::SIG_DFL);
        // The system refuses one of them: each call in turn, until there is none left to be refused.
        let (one, two) = (Signal::USR1, Signal::USR2);
        for n in 1.. {
            let plan = inject::fail(Call::Sigaction, Plan::Nth { n, errno: libc::EPERM });
            let outcome = Coordinator::install(&[one, two], Options::new());
            let calls = plan.calls();
            drop(plan);
            if calls < n {
                assert!(outcome.is_ok() && n == 5, "after {n} refusals");
                break;
            }
            let cause = CallError { call: Call::Sigaction, errno: libc::EPERM };
            assert_eq!(outcome.err(), Some(Error::System(cause)));
            assert_eq!([one, two].map(|signal| installed(signal).sa_sigaction), [libc::SIG_DFL; 2]);
        }
        // A thread that is refused, and had later.
        let coordinator = of(one);
        let refused = common::in_child(|| {
            let plan = inject::fail(Call::ThreadCreate, Plan::Always { errno: libc::EAGAIN });
            let cause = CallError { call: Call::ThreadCreate, errno: libc::EAGAIN };
            let first = nobody(one) == Some(Error::System(cause));
            drop(plan);
            first && nobody(one).is_none()
        });
        assert_eq!(refused, 0);
        // What cannot be given back is told, and the others are.
        drop(coordinator);
        let coordinator = Coordinator::install(&[one, two], Options::new()).unwrap();
        let plan = inject::fail(Call::Sigaction, Plan::Nth { n: 1, errno: libc::EPERM });
        let cause = CallError { call: Call::Sigaction, errno: libc::EPERM };
        assert_eq!(coordinator.uninstall(), Err(Error::System(cause)));
        drop(plan);
        assert_eq!(installed(two).sa_sigaction, libc::SIG_DFL);
    });
}

#[test]
fn real_time_signals_are_all_delivered_with_their_words() {
    case("real_time_signals_are_all_delivered_with_their_words").run(|| {
        let signals = [0, 3].map(|n| Signal::real_time(n).unwrap());
        let _coordinator = Coordinator::install(&signals, Options::new()).unwrap();
        let (sum, seen) = (Arc::new(AtomicUsize::new(0)), counter());
        let kept = signals.map(|signal| {
            let (sum, seen) = (Arc::clone(&sum), Arc::clone(&seen));
            register(signal, Priority::Normal, move |delivered| {
                sum.fetch_add(delivered.value().unwrap_or(0), Ordering::SeqCst);
                seen.fetch_add(1, Ordering::SeqCst);
                Outcome::Handled
            })
        });
        let mut expected = 0;
        for round in 0..40_u32 {
            for word in 1..=50 {
                assert!(queue(signals[word % 2], word));
                expected += word;
            }
            until_counted(&seen, (round + 1) * 50);
        }
        assert_eq!((load(&seen), sum.load(Ordering::SeqCst)), (2000, expected));
        drop(kept);
    });
}

#[test]
fn direct_functions_pass_to_closures() {
    case("direct_functions_pass_to_closures").run(|| {
        static DIRECT: AtomicU32 = AtomicU32::new(0);
        let _coordinator = of(Signal::WINCH);
        let seen = counter();
        let _kept = (
            counting(Signal::WINCH, &seen, Outcome::Handled),
            direct(Signal::WINCH, count_and_pass, &DIRECT),
        );
        raise(Signal::WINCH);
        until_counted(&seen, 1);
        assert_eq!(load(&DIRECT), 1);
    });
}

/// Each signal's function sends the next signal: were they to interrupt each other, an alternate stack would overflow.
#[test]
fn signals_do_not_pile_up_on_a_stack() {
    case("signals_do_not_pile_up_on_a_stack").run(|| {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        unsafe fn send_next(signal: i32, _: *mut c_void, _: *mut c_void, _: usize) -> Outcome {
            if CALLS.fetch_add(1, Ordering::SeqCst) < 19 {
                // SAFETY: numbers only.
                unsafe { libc::raise(signal + 1) };
            }
            Outcome::Handled
        }
        let signals: Vec<_> = (0..20).map(|n| Signal::real_time(n).unwrap()).collect();
        let _coordinator = Coordinator::install(&signals, Options::new()).unwrap();
        let _kept: Vec<_> = signals.iter().map(|&signal| direct(signal, send_next, &CALLS)).collect();
        raise(signals[0]);
        assert_eq!(load(&CALLS), 20);
    });
}

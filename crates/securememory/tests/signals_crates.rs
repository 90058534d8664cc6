//! The coordinator of signals in one process with signal-hook, tokio and ctrlc, whoever comes first. Each case is a process
//! of its own, judged by its end.
#![cfg(unix)]
#![cfg(not(loom))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests end by panics, and send and handle signals by raw calls"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use common::signals::{send, until};
use common::{Ending, case};
use securememory::signal::{
    Coordinator, IfReplaced, Options, Outcome, Priority, Registration, Signal, Uninstalled, register,
};
use securememory::testing::{Left, expect_leak};
use tokio::signal::unix::SignalKind;

static OURS: AtomicU32 = AtomicU32::new(0);
static HOOK: AtomicU32 = AtomicU32::new(0);
static TOKIO: AtomicU32 = AtomicU32::new(0);
static CTRLC: AtomicU32 = AtomicU32::new(0);

fn all() -> [u32; 4] {
    [&OURS, &HOOK, &TOKIO, &CTRLC].map(|counter| counter.load(Ordering::SeqCst))
}

/// Sends it, and waits until everybody has seen it.
fn expect(signal: Signal, seen: [u32; 4]) {
    let before = all();
    let expected = std::array::from_fn(|n| before[n] + seen[n]);
    send(signal);
    until(&format!("{signal}: {expected:?}"), || all() == expected);
    std::thread::sleep(std::time::Duration::from_millis(2));
    assert_eq!(all(), expected, "{signal}");
}

const SIGNALS: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::USR1, Signal::USR2];

fn ours(options: Options) -> (Coordinator, Vec<Registration>) {
    let coordinator = Coordinator::install(&SIGNALS, options).unwrap();
    let registered = SIGNALS.map(|signal| {
        register(signal, Priority::Normal, |_| {
            OURS.fetch_add(1, Ordering::SeqCst);
            Outcome::Pass
        })
    });
    (coordinator, registered.into_iter().map(Result::unwrap).collect())
}

/// signal-hook has USR1 and USR2, tokio HUP and USR2, ctrlc INT.
fn theirs() -> tokio::runtime::Runtime {
    for signal in [libc::SIGUSR1, libc::SIGUSR2] {
        let count = || _ = HOOK.fetch_add(1, Ordering::SeqCst);
        // SAFETY: async-signal-safe: an atomic.
        unsafe { signal_hook::low_level::register(signal, count) }.unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listening = Arc::new(AtomicUsize::new(0));
    for kind in [SignalKind::hangup(), SignalKind::user_defined2()] {
        let listens = Arc::clone(&listening);
        runtime.spawn(async move {
            let mut signals = tokio::signal::unix::signal(kind).unwrap();
            listens.fetch_add(1, Ordering::SeqCst);
            while signals.recv().await.is_some() {
                TOKIO.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    until("tokio listens", || listening.load(Ordering::SeqCst) == 2);
    ctrlc::set_handler(|| _ = CTRLC.fetch_add(1, Ordering::SeqCst)).unwrap();
    runtime
}

#[test]
fn they_were_there_first() {
    case("they_were_there_first").run(|| {
        let runtime = theirs();
        let (coordinator, kept) = ours(Options::new());
        for _ in 0..50 {
            expect(Signal::USR1, [1, 1, 0, 0]);
            expect(Signal::HUP, [1, 0, 1, 0]);
            expect(Signal::USR2, [1, 1, 1, 0]);
            expect(Signal::INT, [1, 0, 0, 1]);
        }
        // What is handled does not reach them.
        let handled = register(Signal::USR2, Priority::High, |_| {
            OURS.fetch_add(1, Ordering::SeqCst);
            Outcome::Handled
        });
        (0..20).for_each(|_| expect(Signal::USR2, [1, 0, 0, 0]));
        drop((kept, handled));
        assert_eq!(coordinator.check(), Ok(Vec::new()));
        assert_eq!(coordinator.uninstall(), Ok(Uninstalled::Restored));
        expect(Signal::USR1, [0, 1, 0, 0]);
        expect(Signal::HUP, [0, 0, 1, 0]);
        expect(Signal::INT, [0, 0, 0, 1]);
        drop(runtime);
    });
}

#[test]
fn they_come_later_and_call_ours() {
    case("they_come_later_and_call_ours").ending(Ending::Signal(libc::SIGUSR1)).run(|| {
        let (coordinator, _kept) = ours(Options::new());
        // What we pass on would end the process: nobody else was there.
        let handles = SIGNALS.map(|signal| register(signal, Priority::Last, |_| Outcome::Handled).unwrap());
        let _runtime = theirs();
        for _ in 0..50 {
            expect(Signal::USR1, [1, 1, 0, 0]);
            expect(Signal::HUP, [1, 0, 1, 0]);
            expect(Signal::USR2, [1, 1, 1, 0]);
            // ctrlc calls nobody else.
            expect(Signal::INT, [0, 0, 0, 1]);
        }
        assert_eq!(coordinator.check(), Ok(SIGNALS.to_vec()), "all have been replaced");
        // Theirs have had it when we pass it on; below us there is the default.
        drop(handles);
        send(Signal::USR1);
        std::thread::sleep(std::time::Duration::from_secs(20));
    });
}

#[test]
fn they_come_later_and_are_taken_back_from() {
    case("they_come_later_and_are_taken_back_from").run(|| {
        expect_leak("the handlers of the test's own stay", Left::Disposition, 4);
        let (coordinator, _kept) = ours(Options::new().if_replaced(IfReplaced::Reclaim));
        let runtime = theirs();
        assert_eq!(coordinator.check(), Ok(Vec::new()));
        let _handles = SIGNALS.map(|signal| register(signal, Priority::Last, |_| Outcome::Handled).unwrap());
        for _ in 0..50 {
            expect(Signal::USR1, [1, 0, 0, 0]);
            expect(Signal::HUP, [1, 0, 0, 0]);
            expect(Signal::USR2, [1, 0, 0, 0]);
            expect(Signal::INT, [1, 0, 0, 0]);
        }
        drop(_handles);
        // ctrlc's does not call ours, so nothing lies below it.
        (0..50).for_each(|_| expect(Signal::INT, [1, 0, 0, 1]));
        assert_eq!(coordinator.uninstall(), Ok(Uninstalled::Dormant));
        expect(Signal::INT, [0, 0, 0, 1]);
        drop(runtime);
    });
}

//! Ten thousand signals of mixed kinds against threads that use secrets and register and unregister handlers: none is
//! lost, nothing waits for ever, and no secret reads as another.
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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use common::signals::{install, queue, send, until};
use common::{Needle, case};
use securememory::signal::{
    Coordinator, Options, Outcome, Priority, Registration, Signal, Uninstalled, register, register_direct,
};
use securememory::{Store, Vault};

/// Deliveries of each signal: to a function that passes, to a closure, and to the handler that was there before.
struct Count {
    direct: AtomicU32,
    deferred: AtomicU32,
    before: AtomicU32,
}

static COUNTS: [Count; 65] =
    [const { Count { direct: AtomicU32::new(0), deferred: AtomicU32::new(0), before: AtomicU32::new(0) } };
        65];

fn of(signal: Signal) -> &'static Count {
    &COUNTS[signal.as_raw() as usize]
}

fn load(counter: &AtomicU32) -> u32 {
    counter.load(Ordering::SeqCst)
}

unsafe fn count(signal: i32, _: *mut c_void, _: *mut c_void, _: usize) -> Outcome {
    COUNTS[signal as usize].direct.fetch_add(1, Ordering::SeqCst);
    Outcome::Pass
}

unsafe fn pass(_: i32, _: *mut c_void, _: *mut c_void, _: usize) -> Outcome {
    Outcome::Pass
}

extern "C" fn before(signal: i32) {
    COUNTS[signal as usize].before.fetch_add(1, Ordering::SeqCst);
}

/// Ordinary ones: what is handled by a closure, what is passed on by one, and what has functions alone.
const HANDLED: Signal = Signal::USR1;
const PASSED: Signal = Signal::USR2;
const DIRECT: Signal = Signal::WINCH;

fn direct(signal: Signal, function: securememory::signal::DirectHandler) -> Registration {
    // SAFETY: async-signal-safe.
    unsafe { register_direct(signal, Priority::First, function, 0).unwrap() }
}

fn deferred(signal: Signal, outcome: Outcome) -> Registration {
    let handler = move |delivered: &securememory::signal::Delivered| {
        of(delivered.signal()).deferred.fetch_add(1, Ordering::SeqCst);
        outcome
    };
    register(signal, Priority::Low, handler).unwrap()
}

/// Reads, writes and makes secrets, and registers and unregisters handlers that pass everything on.
fn use_secrets(seed: u64, all: &[Signal], stop: &AtomicBool) -> u64 {
    let vault = Vault::builder().build().unwrap();
    let stores = [Store::Sealed, Store::Paged];
    let needles = [seed * 2 + 1, seed * 2 + 2].map(|seed| Needle::new(seed, 256));
    let secrets = stores.map(|store| {
        let mut bytes = [0; 256];
        needles[0].write(&mut bytes, 0);
        vault.secret().store(store).from_bytes(&mut bytes).unwrap()
    });
    let mut turn = 0;
    while !stop.load(Ordering::SeqCst) {
        let (now, next) = (&needles[turn as usize % 2], &needles[(turn as usize + 1) % 2]);
        for secret in &secrets {
            let view = secret.view().unwrap();
            assert!(now.is(&view), "wrong bytes");
            view.finish().unwrap();
            let mut view = secret.view_mut().unwrap();
            next.write(&mut view, 0);
            view.commit().unwrap();
        }
        let signal = all[turn as usize % all.len()];
        let mine = direct(signal, pass);
        let kept = register(signal, Priority::High, |_| Outcome::Pass).unwrap();
        if turn % 2 == 0 {
            drop((mine, kept))
        } else {
            drop((kept, mine))
        }
        if turn % 64 == 0 {
            vault.refresh().unwrap();
        }
        turn += 1;
    }
    turn
}

#[test]
fn ten_thousand_signals_are_all_handled() {
    case("ten_thousand_signals_are_all_handled").deadline(Duration::from_secs(90)).run(|| {
        let real_time = [0, 1, 2, 3].map(|n| Signal::real_time(n).unwrap());
        let all: Vec<_> = [HANDLED, PASSED, DIRECT].into_iter().chain(real_time).collect();
        // On threads' own stacks: they nest, for which alternate stacks are too small, with or without us.
        let function: extern "C" fn(i32) = before;
        for signal in [PASSED, DIRECT, real_time[3]] {
            install(signal, function as usize, libc::SA_RESTART);
        }
        let options = Options::new().watch(Duration::from_millis(10));
        let coordinator = Coordinator::install(&all, options).unwrap();
        let kept: Vec<_> = all
            .iter()
            .flat_map(|&signal| {
                // The last of the real-time ones is passed on by all.
                let outcome =
                    if signal == PASSED || signal == real_time[3] { Outcome::Pass } else { Outcome::Handled };
                let closure = (signal != DIRECT).then(|| deferred(signal, outcome));
                [Some(direct(signal, count)), closure]
            })
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let users: Vec<_> = (0..4)
            .map(|seed| {
                let (all, stop) = (all.clone(), Arc::clone(&stop));
                std::thread::spawn(move || use_secrets(seed, &all, &stop))
            })
            .collect();
        // Ordinary ones coalesce: the next when the last was seen. Real-time ones are sent without waiting, three for
        // each ordinary one.
        let mut sent = [0_u32; 65];
        for round in 0..2_500 {
            for n in 0..3 {
                let signal = real_time[(round + n) % 4];
                until("there is room in the queue", || queue(signal, round));
                sent[signal.as_raw() as usize] += 1;
            }
            let signal = all[round % 3];
            send(signal);
            let total = &mut sent[signal.as_raw() as usize];
            *total += 1;
            let seen = match signal {
                HANDLED => &of(signal).deferred,
                _ => &of(signal).before,
            };
            until("it was seen", || load(seen) >= *total);
        }
        assert_eq!(sent.iter().sum::<u32>(), 10_000);
        for &signal in &all {
            let (count, total) = (of(signal), sent[signal.as_raw() as usize]);
            until("all were seen", || load(&count.direct) >= total);
            if signal != DIRECT {
                until("all were handled", || load(&count.deferred) >= total);
            }
            if signal == real_time[3] {
                until("all were passed on", || load(&count.before) >= total);
            }
        }
        // Nothing comes twice.
        std::thread::sleep(Duration::from_millis(100));
        for &signal in &all {
            let (count, total) = (of(signal), sent[signal.as_raw() as usize]);
            let passed = signal == PASSED || signal == DIRECT || signal == real_time[3];
            let expected = (total, if signal == DIRECT { 0 } else { total }, if passed { total } else { 0 });
            assert_eq!(
                (load(&count.direct), load(&count.deferred), load(&count.before)),
                expected,
                "{signal}"
            );
        }
        stop.store(true, Ordering::SeqCst);
        let turns: Vec<_> = users.into_iter().map(|user| user.join().expect("a user of secrets")).collect();
        assert!(turns.iter().all(|&turns| turns > 0), "{turns:?}");
        eprintln!("turns of the threads meanwhile: {turns:?}");
        drop(kept);
        assert_eq!(coordinator.uninstall(), Ok(Uninstalled::Restored));
    });
}

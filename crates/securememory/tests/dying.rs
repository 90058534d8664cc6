//! A process that goes down wipes its secrets, and never hangs over it.
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
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Needle, page_of, page_size};
use program::{DONE, End, Ended, Line, SEGV, large_stack, set_action};
use securememory::fault::{self, FaultPolicy};
use securememory::testing::TestGuard;
use securememory::testing::inject::{Plan, fail};
use securememory::{Call, Error, Hold, OwnedView, Secret, Store, Vault, View, ViewMut};

fn ends(spec: &str, end: End) -> Ended {
    program::ends(spec, end, Duration::from_secs(30))
}

#[test]
fn nothing_is_left_whatever_ends_the_process() {
    let _guard = TestGuard::new();
    for (spec, end) in [
        ("wipes fault", SEGV),
        ("wipes ours", SEGV),
        ("wipes divide", End::Signal(libc::SIGFPE)),
        ("wipes raise", End::Signal(libc::SIGABRT)),
        ("wipes abort", End::Signal(libc::SIGABRT)),
        ("wipes panic", End::Signal(libc::SIGABRT)),
        ("wipes exit", End::Code(7)),
        ("wipes main", End::Code(0)),
    ] {
        if cfg!(not(target_arch = "x86_64")) && spec == "wipes divide" {
            eprintln!("SKIPPED {spec}: a division by zero is a fault on x86-64 only");
            continue;
        }
        let ended = ends(spec, end);
        assert!(ended.out.contains("before: found"), "{spec}: the search finds nothing: {ended:#?}");
        if cfg!(target_arch = "powerpc64") && ended.out.contains("after: found") {
            eprintln!(
                "skipped: {spec}: vector registers are not cleared on this processor, and the kernel saves them"
            );
            continue;
        }
        assert!(ended.out.contains("after: nothing"), "{spec}: {ended:#?}");
    }
}

#[test]
fn without_handling_nothing_is_wiped() {
    let _guard = TestGuard::new();
    let ended = ends("wipes none", SEGV);
    assert!(ended.out.contains("after: found"), "the search does not find what is there: {ended:#?}");
}

/// As a tracer finds it, when the last signal is about to be delivered, whatever handlers there were before.
#[test]
fn nothing_is_left_when_the_last_signal_comes() {
    let _guard = TestGuard::new();
    let needle = Needle::new(77, 256);
    let mut bytes = [0; 256];
    needle.write(&mut bytes, 0);
    let pieces: Vec<[u8; 16]> = bytes.chunks_exact(16).map(|piece| piece.try_into().unwrap()).collect();
    let found = |spec: &str, signal| {
        let ended = program::run_searched("a_program", spec, Duration::from_secs(60), &pieces);
        assert_eq!(ended.end, End::Signal(signal), "{spec}: {ended:#?}");
        ended.found
    };
    for (death, signal) in [
        ("fault", libc::SIGSEGV),
        ("sent", libc::SIGSYS),
        ("raise", libc::SIGABRT),
        ("abort", libc::SIGABRT),
        ("overflow", libc::SIGABRT),
        ("ours", libc::SIGSEGV),
    ] {
        assert!(
            found(&format!("leaves {death} none without"), signal),
            "{death}: nothing is there to be found"
        );
        assert!(!found(&format!("leaves {death} none with"), signal), "{death}");
    }
    for handler in ["returns", "returns-own-stack", "ignored"] {
        assert!(!found(&format!("leaves abort {handler} with"), libc::SIGABRT), "{handler}");
    }
    for handler in ["resets", "raises"] {
        assert!(!found(&format!("leaves fault {handler} with"), libc::SIGSEGV), "{handler}");
        assert!(!found(&format!("leaves ours {handler} with"), libc::SIGSEGV), "{handler}");
        assert!(!found(&format!("leaves abort {handler} with"), libc::SIGABRT), "{handler}");
        assert!(!found(&format!("leaves sent {handler} with"), libc::SIGSYS), "{handler}");
    }
}

/// Above a handler that must have a stack of its own we make place, and are soon back; not so soon that a debugger would see
/// the same signal for ever.
#[test]
fn a_slow_tracer_does_not_keep_the_process_from_its_end() {
    let _guard = TestGuard::new();
    let over_each = Duration::from_millis(700);
    let ended = program::run_slowly(
        "a_program",
        "leaves abort returns-own-stack with",
        Duration::from_secs(60),
        over_each,
    );
    assert_eq!(ended.end, End::Signal(libc::SIGABRT), "{ended:#?}");
}

#[test]
fn whoever_survives_gets_errors_and_no_wrong_bytes() {
    let _guard = TestGuard::new();
    // And one that forked children do not have at all, since the kernel does not wipe it for them.
    for store in STORES.iter().chain(&["absent"]) {
        for way in ["calm", "busy"] {
            ends(&format!("survives {store} {way}"), DONE);
        }
    }
}

#[test]
fn whatever_the_others_do_the_process_ends_by_its_signal() {
    let _guard = TestGuard::new();
    let next = AtomicU32::new(0);
    let count = common::tries(320) as u32;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let store = STORES[number as usize % STORES.len()];
                    let (death, signal) = [
                        ("fault", libc::SIGSEGV),
                        ("abort", libc::SIGABRT),
                        ("sent", libc::SIGSYS),
                        ("ours", libc::SIGSEGV),
                        ("two", libc::SIGSEGV),
                    ][number as usize / STORES.len() % 5];
                    let after = number * 7919 % 3000;
                    ends(&format!("random {store} {death} {after}"), End::Signal(signal));
                }
            });
        }
    });
}

/// Threads that leave a view close its pages, at any moment.
#[test]
fn pages_that_are_closed_meanwhile_do_not_end_the_wiping() {
    let _guard = TestGuard::new();
    for _ in 0..30 {
        ends("closing", End::Signal(libc::SIGABRT));
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
        ["wipes", how] => wipes(how),
        ["leaves", death, handler, us] => leaves(death, handler, us == "with"),
        ["survives", store, way] => survives(store, way == "busy"),
        ["closing"] => closing(),
        ["random", store, death, after] => random(store, death, after.parse().unwrap()),
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

static NEEDLE: OnceLock<Needle> = OnceLock::new();
static KEPT: OnceLock<Vec<Secret>> = OnceLock::new();

/// Looks for the needle in everything that can be read.
fn look(when: &str) {
    let found = NEEDLE.get().unwrap().find();
    let line = Line::new().text(when).text(if found.is_empty() { ": nothing" } else { ": found " });
    found.iter().take(2).fold(line, |line, place| line.text(place).text(" ")).say();
}

extern "C" fn look_in_handler(signal: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    look("after");
    // SAFETY: a valid action.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

extern "C" fn look_at_exit() {
    look("after");
}

fn wipes(how: &str) {
    large_stack();
    let needle = NEEDLE.get_or_init(|| Needle::new(77, 256));
    for signal in [libc::SIGSEGV, libc::SIGFPE, libc::SIGABRT] {
        let flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        set_action(signal, look_in_handler as *const () as usize, flags);
    }
    // Called in the opposite order: when ours has been.
    // SAFETY: the function lives as long as the program.
    assert_eq!(unsafe { libc::atexit(look_at_exit) }, 0);
    if how != "none" {
        let guard = fault::install(FaultPolicy::Abort).unwrap();
        if how != "ours" {
            // The handlers are called when all is wiped.
            guard.assume_fatal();
        }
        guard.keep();
    }
    let make = |store| vault(store).secret().init_with(256, |room| needle.write(room, 0)).unwrap();
    let secrets = KEPT.get_or_init(|| STORES.map(make).into());
    // Never dropped, as in statics.
    let views: Vec<View<'static>> = secrets.iter().map(|secret| secret.view().unwrap()).collect();
    let owned = secrets[0].owned_view().unwrap();
    let changing: ViewMut<'static> = secrets[1].view_mut().unwrap();
    let first = views[0].as_ptr().addr();
    let _all = std::mem::ManuallyDrop::new((views, owned, changing));
    look("before");
    match how {
        "fault" | "none" => touch(16),
        "ours" => touch(first + 256),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: fails, as is wanted.
        "divide" => unsafe {
            std::arch::asm!("xor edx, edx", "xor ecx, ecx", "div ecx", out("eax") _, out("ecx") _, out("edx") _);
        },
        // SAFETY: a signal to this thread.
        "raise" => unsafe {
            libc::raise(libc::SIGABRT);
        },
        "abort" => std::process::abort(),
        // A panic that cannot unwind aborts, as all of them do with `panic = "abort"`.
        "panic" => panics(),
        // SAFETY: ends the process.
        "exit" => unsafe { libc::exit(7) },
        // As when `main` returns.
        _ => std::process::exit(0),
    }
}

extern "C" fn returns(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {}

extern "C" fn resets(signal: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: a valid action.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

extern "C" fn raises(signal: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: a valid action, and a signal to this thread, which comes when the handler has returned.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

fn leaves(death: &str, handler: &str, us: bool) {
    let needle = Needle::new(77, 256);
    let stack = libc::SA_SIGINFO | libc::SA_ONSTACK;
    let (function, flags) = match handler {
        "returns" => (returns as *const () as usize, stack),
        "returns-own-stack" => (returns as *const () as usize, libc::SA_SIGINFO),
        "resets" => (resets as *const () as usize, stack),
        "raises" => (raises as *const () as usize, stack),
        _ => (libc::SIG_IGN, 0),
    };
    if handler != "none" {
        for signal in [libc::SIGSEGV, libc::SIGABRT, libc::SIGSYS] {
            set_action(signal, function, flags);
        }
    }
    if us {
        fault::install(FaultPolicy::Abort).unwrap().keep();
    }
    let make = |store| vault(store).secret().init_with(256, |room| needle.write(room, 0)).unwrap();
    let secrets = KEPT.get_or_init(|| STORES.map(make).into());
    let views: Vec<View<'static>> = secrets.iter().map(|secret| secret.view().unwrap()).collect();
    let owned = secrets[0].owned_view().unwrap();
    let guard = views[0].as_ptr().addr() + 256;
    let _all = std::mem::ManuallyDrop::new((views, owned));
    for _ in 0..2 {
        // SAFETY: ends the process, or is a signal to it.
        unsafe {
            match death {
                "fault" => touch(16),
                "ours" => touch(guard),
                "sent" => {
                    libc::raise(libc::SIGSYS);
                }
                "raise" => {
                    libc::raise(libc::SIGABRT);
                }
                "abort" => libc::abort(),
                _ => {
                    deeper(0);
                }
            }
        }
    }
}

#[allow(unconditional_recursion, reason = "that is what is wanted")]
fn deeper(depth: u64) -> u64 {
    let room = std::hint::black_box([depth; 64]);
    deeper(depth + 1) + room[(depth % 64) as usize]
}

extern "C" fn panics() {
    panic!("this one cannot unwind");
}

static GUARD: AtomicUsize = AtomicUsize::new(0);

static DEAD: AtomicU32 = AtomicU32::new(0);

/// The thread that has died goes no further; the others do.
extern "C" fn stays(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    DEAD.store(1, Ordering::SeqCst);
    loop {
        // SAFETY: waits for signals.
        unsafe { libc::pause() };
    }
}

fn is_dead() -> bool {
    DEAD.load(Ordering::SeqCst) != 0
}

fn survives(store: &str, busy: bool) {
    set_action(libc::SIGSEGV, stays as *const () as usize, libc::SA_SIGINFO | libc::SA_ONSTACK);
    fault::install(FaultPolicy::Abort).unwrap().keep();
    // The first advice is about dumps, the second about forks.
    let plan = (store == "absent").then(|| fail(Call::Madvise, Plan::Nth { n: 2, errno: libc::EINVAL }));
    let vault = vault(if store == "absent" { "sealed" } else { store });
    assert!(plan.is_none_or(|plan| plan.calls() >= 2));
    let secrets: Vec<_> = (0..4).map(|_| vault.secret().from_bytes(&mut [9; 100]).unwrap()).collect();
    let view = secrets[0].view().unwrap();
    let guard = page_of(view.as_ptr().addr() + 100) + page_size();
    let owned = secrets[1].owned_view().unwrap();
    let mut changing = secrets[2].view_mut().unwrap();
    changing[0] = 1;
    let readers = if busy { 3 } else { 0 };
    let (vault, secrets) = (&vault, &secrets);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..readers).map(|_| scope.spawn(move || reads(vault, &secrets[3]))).collect();
        // Never joined: it stays in its handler.
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            touch(guard);
        });
        let started = Instant::now();
        while !is_dead() {
            assert!(started.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
        let refused = refusals(vault, &secrets[3]);
        for reader in readers {
            reader.join().unwrap();
        }
        for (what, error) in refused {
            assert_eq!(error, Some(Error::Dying), "{what}");
        }
    });
    ends_of_views(view, &owned, changing);
    let started = Instant::now();
    drop(owned);
    assert!(!vault.is_alive());
    // Also the global one.
    assert_eq!(Secret::random(8).err(), Some(Error::Dying));
    assert_eq!(Vault::builder().build().err(), Some(Error::Dying));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

fn ends_of_views(view: View<'_>, owned: &OwnedView, changing: ViewMut<'_>) {
    assert!(view.iter().any(|&byte| byte != 9), "it is not wiped");
    assert_eq!(view.finish(), Err(Error::Dying));
    assert!(changing.iter().any(|&byte| byte != 9 && byte != 1), "it is not wiped");
    assert_eq!(changing.commit(), Err(Error::Dying));
    match owned.with(|bytes| bytes.iter().all(|&byte| byte == 9)) {
        Ok(_) => panic!("an owned view says that it is well"),
        Err(error) => {
            assert!(format!("{error:?}").contains("Dying"), "{error:?}");
        }
    }
}

fn refusals(vault: &Vault, secret: &Secret) -> Vec<(&'static str, Option<Error>)> {
    vec![
        ("view", secret.view().err()),
        ("view_mut", secret.view_mut().err()),
        ("owned_view", secret.owned_view().err()),
        ("with", secret.ct_eq_bytes(&[9; 100]).err()),
        ("replace", secret.replace(&mut [1; 100]).err()),
        ("random", vault.secret().random(100).err()),
        ("refresh", vault.refresh().err()),
        ("purge", vault.purge().err()),
        ("preflight", vault.preflight(1, 100).err()),
        ("warm", vault.warm_thread(2).err()),
    ]
}

/// Reads, until a while after the process has begun to die. No result that is said to be right is wrong.
fn reads(vault: &Vault, secret: &Secret) {
    let mut after = 0;
    while after < 1000 {
        after += u32::from(is_dead());
        let read = secret.with(|bytes| bytes.iter().all(|&byte| byte == 9));
        if read.is_ok_and(|right| !right) {
            Line::new().text("WRONG bytes").say();
        }
        if let Ok(new) = vault.secret().from_bytes(&mut [4; 300])
            && new.ct_eq_bytes(&[4; 300]).is_ok_and(|same| !same)
        {
            Line::new().text("WRONG bytes of a new one").say();
        }
    }
}

fn closing() {
    fault::install(FaultPolicy::Abort).unwrap().keep();
    let secret = vault("paged").secret().random(40_000).unwrap();
    let page = page_of(secret.view().unwrap().as_ptr().addr());
    std::thread::spawn(move || {
        loop {
            // SAFETY: pages of the library's, closed as it does itself.
            unsafe { libc::mprotect(page as *mut c_void, 40_960, libc::PROT_NONE) };
        }
    });
    std::thread::sleep(Duration::from_millis(2));
    std::process::abort();
}

fn random(store: &str, death: &str, after: u32) {
    fault::install(FaultPolicy::Abort).unwrap().keep();
    let shared = vault(store);
    let secret = shared.secret().from_bytes(&mut [9; 100]).unwrap();
    let view = secret.view().unwrap();
    GUARD.store(page_of(view.as_ptr().addr() + 100) + page_size(), Ordering::Relaxed);
    let _kept = std::mem::ManuallyDrop::new(view);
    let store: &'static str = String::leak(store.to_owned());
    let (shared, secret): (&'static Vault, &'static Secret) =
        (Box::leak(Box::new(shared)), Box::leak(Box::new(secret)));
    for index in 0..3_usize {
        std::thread::spawn(move || {
            for round in index.. {
                let _ = churn(store, shared, secret, round);
            }
        });
    }
    if death == "two" {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(after.into()));
            touch(16);
        });
    }
    std::thread::sleep(Duration::from_micros(after.into()));
    // SAFETY: ends the process, or is a signal to it.
    unsafe {
        match death {
            "fault" | "two" => touch(16),
            "abort" => libc::abort(),
            "ours" => touch(GUARD.load(Ordering::Relaxed)),
            _ => {
                libc::raise(libc::SIGSYS);
            }
        }
    }
}

fn churn(store: &str, shared: &Vault, secret: &Secret, round: usize) -> Result<(), Error> {
    match round % 6 {
        0 => {
            let vault = match store {
                "sealed" => Vault::builder().store(Store::Sealed).hold(Hold::Split),
                "guarded" => Vault::builder().store(Store::Sealed).hold(Hold::Guarded),
                _ => Vault::builder().store(Store::Paged),
            };
            let vault = vault.build()?;
            drop(vault.secret().random(40 + round % 9000)?);
            vault.purge()?;
        }
        1 => shared.refresh()?,
        2 => {
            for len in [10, 5000, 70_000] {
                let new = shared.secret().random(len)?;
                new.owned_view()?.with(|_| ()).map_err(|_| Error::Dying)?;
                new.close()?;
            }
        }
        3 => {
            secret.view_mut()?.commit()?;
        }
        4 => {
            let _ = secret.with(|bytes| bytes.len());
        }
        _ => {
            secret.replace(&mut [9; 100])?;
        }
    }
    Ok(())
}

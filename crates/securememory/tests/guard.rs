//! Test guards: tests do not see each other's vaults, and what one leaves is named.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::mem_forget,
    clippy::panic,
    reason = "tests end by panics; leaks are what they are about"
)]

#[cfg_attr(windows, path = "common/windows.rs")]
mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

use common::{Ending, case};
use securememory::fault::{self, FaultPolicy};
use securememory::signal::{self, Coordinator, Options, Outcome, Priority, Signal};
use securememory::testing::inject::{self, Plan};
use securememory::testing::{Left, TestGuard, errno, expect_leak, in_own_process};
use securememory::{Call, Error, Hold, Level, Policy, Secret, Store, Vault};

/// What the guard's end says of a test with this body; empty: nothing.
fn said(body: impl FnOnce(&TestGuard)) -> String {
    let guard = TestGuard::new().patience(Duration::from_millis(100));
    body(&guard);
    let judged = catch_unwind(AssertUnwindSafe(|| drop(guard)));
    judged.err().map_or_else(String::new, |panic| panic.downcast_ref::<String>().expect("a text").clone())
}

/// A signal that the coordinator takes here, and that ends nobody while this runs.
const USUAL: Signal = if cfg!(windows) { Signal::HUP } else { Signal::USR1 };

fn assert_names(said: &str, parts: &[&str]) {
    assert!(said.replace('\\', "/").contains("tests/guard.rs"), "not where: {said}");
    parts.iter().for_each(|part| assert!(said.contains(part), "no {part:?} in: {said}"));
}

#[test]
fn vaults_of_two_tests_do_not_meet() {
    let _guard = TestGuard::new();
    let mine = Vault::global().unwrap().id();
    let secret = Secret::random(8).unwrap();
    assert_eq!((secret.vault().id(), Vault::global().unwrap().id()), (mine, mine));
    let other = std::thread::spawn(|| {
        let _guard = TestGuard::new();
        let _secret = Secret::random(8).unwrap();
        let vault = Vault::global().unwrap();
        (vault.id(), vault.status().secrets)
    });
    let (other, secrets) = other.join().unwrap();
    assert!(other != mine && secrets == 1);
    assert_eq!(Vault::global().unwrap().status().secrets, 1);
    // The innermost counts.
    let inner = TestGuard::new();
    assert_ne!(Vault::global().unwrap().id(), mine);
    drop(inner);
    assert_eq!(Vault::global().unwrap().id(), mine);
}

#[test]
fn threads_are_put_under_a_guard() {
    let guard = TestGuard::new();
    let mine = Vault::global().unwrap().id();
    assert_eq!(guard.spawn(|| Vault::global().unwrap().id()).join().unwrap(), mine);
    let handle = guard.handle();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let under = handle.enter();
            assert_eq!(Vault::global().unwrap().id(), mine);
            drop(under);
            let _own = TestGuard::new();
            assert_ne!(Vault::global().unwrap().id(), mine);
        });
    });
    drop(guard);
    assert!(catch_unwind(AssertUnwindSafe(|| handle.enter())).is_err(), "the guard is over");
}

#[test]
fn a_test_that_leaves_nothing_is_not_blamed() {
    let _guard = TestGuard::new();
    let said = said(|_| {
        let vault = Vault::builder().store(Store::Paged).build().unwrap();
        let secret = vault.secret().random(100).unwrap();
        let owned = secret.owned_view().unwrap();
        drop((vault, secret));
        owned.with(|_| ()).unwrap();
    });
    assert_eq!(said, "");
}

#[test]
fn what_lives_on_is_named() {
    let _guard = TestGuard::new();
    let mut kept = Vec::new();
    let text = said(|_| {
        let vault = Vault::builder().build().unwrap();
        kept.push(vault.secret().label("the token").random(8).unwrap());
        drop(vault);
    });
    assert_names(&text, &["secret: secret 1 \"the token\" of vault "]);
    assert!(!text.contains("handles"), "{text}");
    let mut vaults = Vec::new();
    assert_names(
        &said(|_| vaults.push(Vault::builder().build().unwrap())),
        &["vault: vault ", ": 1 handles"],
    );
    let mut views = Vec::new();
    let text = said(|_| views.push(Secret::random(8).unwrap().owned_view().unwrap()));
    assert_names(&text, &["view: owned view of secret 1, opened by thread ", "secret: secret 1 of vault "]);
}

#[test]
fn what_is_forgotten_is_named_though_its_vault_has_ended() {
    let _guard = TestGuard::new();
    for (store, words) in [(Store::Sealed, "view of secret 1"), (Store::Paged, "view of secret 1")] {
        let text = said(|_| {
            let vault = Vault::builder().store(store).build().unwrap();
            let secret = vault.secret().random(8).unwrap();
            std::mem::forget(secret.view().unwrap());
        });
        assert_names(&text, &[words]);
        assert!(!text.contains("handles") && !text.contains("secret: "), "{text}");
    }
    let text = said(|_| std::mem::forget(Secret::random(8).unwrap().view_mut().unwrap()));
    assert_names(&text, &["writing view of secret 1"]);
    // The old value, which lies in pages of its own meanwhile, goes with the secret.
    let text = said(|_| {
        let secret = Secret::builder().store(Store::Paged).random(8).unwrap();
        std::mem::forget(secret.view_mut().unwrap());
    });
    assert_names(&text, &["writing view of secret 1"]);
    assert!(!text.contains("pages: "), "{text}");
    let text = said(|_| {
        let policy = Policy::new().linger(Duration::from_secs(3600));
        let vault = Vault::builder().store(Store::Paged).policy(policy).build().unwrap();
        let secret = vault.secret().random(8).unwrap();
        secret.with(|_| ()).unwrap();
        std::mem::forget(secret);
    });
    assert_names(&text, &["lingering secret: ", "secret: secret 1"]);
}

#[test]
fn a_leak_on_purpose_has_to_be_exactly_as_expected() {
    let _guard = TestGuard::new();
    let leak = || {
        let secret = Secret::random(8).unwrap();
        std::mem::forget(secret.view().unwrap());
    };
    let expected = |count| {
        said(|guard| {
            guard.expect_leak("it is forgotten", Left::View, count);
            leak();
        })
    };
    assert_eq!(expected(1), "");
    assert_names(&expected(2), &["expected: 2 of the kind View, since it is forgotten", "view: "]);
    assert_names(
        &said(|_| expect_leak("of nothing", Left::Secret, 1)),
        &[" nothing", "1 of the kind Secret"],
    );
    let both = said(|_| {
        expect_leak("once", Left::View, 1);
        expect_leak("and again", Left::View, 1);
        leak();
        leak();
    });
    assert_eq!(both, "");
}

#[test]
fn plans_and_threads_that_are_left_are_named() {
    let _guard = TestGuard::new();
    let mut plans = Vec::new();
    let earlier = inject::fail(Call::Mlock, Plan::Nth { n: 1_000_000, errno: errno::EPERM });
    let text = said(|_| {
        plans.push(inject::fail(Call::Munmap, Plan::Nth { n: 1_000_000, errno: errno::EPERM }));
        plans.push(
            inject::fail(Call::Mprotect, Plan::Nth { n: 1_000_000, errno: errno::EPERM }).all_threads(),
        );
    });
    let of = |call: Call| format!("of {}", call.name());
    assert_names(&text, &[&of(Call::Munmap), &of(Call::Mprotect)]);
    assert!(!text.contains(Call::Mlock.name()), "{text}");
    drop((plans, earlier));
    let (end, ended) = mpsc::channel::<()>();
    let mut thread = None;
    let text = said(|guard| {
        let (sender, entered) = mpsc::channel();
        thread = Some(guard.spawn(move || {
            sender.send(()).unwrap();
            ended.recv().unwrap_err();
        }));
        entered.recv().unwrap();
    });
    assert_names(&text, &["thread: under the guard"]);
    drop(end);
    thread.unwrap().join().unwrap();
}

#[test]
fn it_waits_for_what_other_threads_are_about_to_end() {
    let guard = TestGuard::new();
    let secret = Secret::random(8).unwrap();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop(secret);
    });
    drop(guard);
    thread.join().unwrap();
}

#[test]
fn a_panic_is_not_hidden_by_what_it_leaves() {
    let outcome = catch_unwind(|| {
        let _guard = TestGuard::new();
        std::mem::forget(Secret::random(8).unwrap());
        std::panic::panic_any("the test's own");
    });
    assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&"the test's own"));
}

#[test]
fn a_vault_that_cannot_be_made_leaves_nothing_and_is_watched() {
    let _guard = TestGuard::new();
    for (hold, call) in
        [(Hold::Split, Call::MemfdCreate), (Hold::Guarded, Call::Mprotect), (Hold::Auto, Call::Mmap)]
    {
        for n in 1..20 {
            let _plan = inject::fail(call, Plan::Nth { n, errno: errno::ENOMEM });
            let policy = Policy::new().lock(Level::Prefer);
            drop(Vault::builder().policy(policy).hold(hold).hold_level(Level::Require).build());
        }
    }
}

#[test]
fn what_is_installed_in_the_process_is_one_test_after_the_other() {
    const TIMES: usize = 20;
    let together = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        for which in 0..2 {
            let together = &together;
            scope.spawn(move || {
                together.wait();
                for _ in 0..TIMES {
                    let _guard = TestGuard::new();
                    if which == 0 {
                        let faults = fault::install(FaultPolicy::Abort).unwrap();
                        assert_eq!(fault::install(FaultPolicy::Abort).unwrap_err(), Error::AlreadyInstalled);
                        faults.uninstall().unwrap();
                    } else {
                        let coordinator = Coordinator::install(&[USUAL], Options::new()).unwrap();
                        let faults = fault::install(FaultPolicy::Report).unwrap();
                        drop((faults, coordinator));
                    }
                }
            });
        }
    });
}

#[test]
fn what_stays_installed_is_named() {
    case("what_stays_installed_is_named").ending(Ending::Done).run(|| {
        let text = said(|_| fault::install(FaultPolicy::Abort).unwrap().keep());
        // Windows does not tell who has been added.
        let handled = if cfg!(windows) { "" } else { "signal: 11 is handled otherwise than before" };
        assert_names(&text, &["fault handling: is installed", handled]);
        const OTHER: Signal = if cfg!(windows) { Signal::QUIT } else { Signal::USR2 };
        let text = said(|_| {
            Coordinator::install(&[OTHER], Options::new()).unwrap().keep();
            signal::register(OTHER, Priority::Normal, |_| Outcome::Handled).unwrap().keep();
        });
        let number = OTHER.as_raw();
        let registered = format!("registered handler: for signal {number}");
        let handled = if cfg!(windows) { String::new() } else { format!("signal: {number} is") };
        let name = if cfg!(windows) { "QUIT" } else { "USR2" };
        assert_names(&text, &["coordinator: of [", name, &registered, &handled]);
        // Each concerns the test that has done it, and no other.
        assert_eq!(said(|_| drop(Secret::random(8).unwrap())), "");
    });
}

#[cfg(unix)] // There are no forks on Windows.
#[test]
fn a_child_is_under_no_guard() {
    case("a_child_is_under_no_guard").run(|| {
        let mut mine = 0;
        let text = said(|_| {
            let secret = Secret::random(8).unwrap();
            mine = secret.vault().id();
            let status = common::in_child(|| {
                let own = Secret::random(8).unwrap();
                secret.view().unwrap_err() == Error::Forked && own.vault().id() != mine && own.view().is_ok()
            });
            assert_eq!(status, 0);
        });
        assert_eq!(text, "");
        // One of the child's own watches there.
        let leaks = || said(|_| std::mem::forget(Secret::random(8).unwrap()));
        assert_eq!(common::in_child(|| leaks().contains("secret: secret 1")), 0);
    });
}

// ---- tests in a process of their own ----

#[test]
fn a_test_that_gives_everything_back_may_run_in_its_own_process() {
    in_own_process("a_test_that_gives_everything_back_may_run_in_its_own_process", || {
        let secret = Secret::random(8).unwrap();
        let owned = secret.owned_view().unwrap();
        let thread = std::thread::spawn(move || owned.with(<[u8]>::len).unwrap());
        assert_eq!(thread.join().unwrap(), 8);
        drop(fault::install(FaultPolicy::Abort).unwrap());
    });
}

/// What is said of a test that runs in its own process with this body; it has to be wrong.
fn said_of(name: &'static str, body: impl FnMut()) -> String {
    let judged = catch_unwind(AssertUnwindSafe(|| in_own_process(name, body)));
    judged.expect_err("something is left").downcast_ref::<String>().expect("a text").clone()
}

#[cfg(unix)] // Windows makes handles of its own, which are not judged.
#[test]
fn a_descriptor_that_is_left_is_named() {
    let _guard = TestGuard::new();
    let keep = || std::mem::forget(std::fs::File::open("/dev/null").unwrap());
    let text = said_of("a_descriptor_that_is_left_is_named", keep);
    assert!(text.contains("descriptors after the test") && text.contains("/dev/null"), "{text}");
}

#[test]
fn a_thread_that_is_left_is_noticed() {
    let _guard = TestGuard::new();
    let text = said_of("a_thread_that_is_left_is_noticed", || {
        std::thread::spawn(|| std::thread::sleep(Duration::from_secs(100)));
    });
    // Its stack is a mapping.
    assert!(text.contains("after the test"), "{text}");
}

#[cfg(unix)] // Windows does not tell who has been added.
#[test]
fn a_handler_that_is_left_is_noticed() {
    let _guard = TestGuard::new();
    let mut times = 0;
    let text = said_of("a_handler_that_is_left_is_noticed", || {
        times += 1;
        common::signals::install(Signal::USR1, if times == 1 { libc::SIG_DFL } else { libc::SIG_IGN }, 0);
    });
    assert!(text.contains("signals after the test"), "{text}");
}

#[test]
fn what_a_test_leaves_in_its_own_process_is_named() {
    let _guard = TestGuard::new();
    let leak = || std::mem::forget(Secret::builder().label("left there").random(8).unwrap());
    let text = said_of("what_a_test_leaves_in_its_own_process_is_named", leak);
    assert!(
        text.contains("secret: secret 1 \"left there\"")
            && text.replace('\\', "/").contains("tests/guard.rs"),
        "{text}"
    );
}

#[test]
fn a_process_that_ends_otherwise_than_it_should_is_a_failure() {
    let _guard = TestGuard::new();
    let name = "a_process_that_ends_otherwise_than_it_should_is_a_failure";
    let abort = || case(name).run(|| std::process::abort());
    assert!(catch_unwind(AssertUnwindSafe(abort)).is_err());
    // __fastfail: STATUS_STACK_BUFFER_OVERRUN.
    #[cfg(windows)]
    let ending = Ending::Code(0xC000_0409_u32.cast_signed());
    #[cfg(unix)]
    let ending = Ending::Signal(libc::SIGABRT);
    case(name).ending(ending).run(|| std::process::abort());
}

//! Whatever the threads of a process are in the middle of when one of them forks: the child finds every call on what it
//! has inherited refused at once, its own vaults work, and its parent goes on.
#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests end by panics; forks are made by raw calls"
)]

mod common;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use common::inherited::{BYTES, Family, own_vaults_work};
use common::{Ending, case, in_child};
use securememory::fault::{self, FaultPolicy};
use securememory::signal::{self, Coordinator, Options, Outcome, Priority, Signal};
use securememory::testing::inject::{self, Plan};
use securememory::{Call, Closed, Error, Hold, Level, Policy, Store, Vault, VaultBuilder};

/// What another thread does with a vault, and the call that takes its time there.
type Act<'a> = (&'static str, &'a (dyn Fn(&Vault) + Sync), Call);

fn builders() -> [VaultBuilder; 3] {
    let of = |hold| Vault::builder().hold(hold).hold_level(Level::Require);
    [of(Hold::Split), of(Hold::Guarded), Vault::builder()]
}

/// In a child: nothing of the family is to be had, and what is its own works.
fn all_refused(family: &mut Family) -> bool {
    let wrong = family.not_refused();
    if !wrong.is_empty() {
        eprintln!("{wrong:#?}");
    }
    wrong.is_empty() && own_vaults_work()
}

/// Lets another thread do `act`, and forks in the middle of it.
fn forks_beside(act: impl FnOnce() + Send, child: impl FnOnce() -> bool) {
    let begun = Barrier::new(2);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            begun.wait();
            act();
        });
        begun.wait();
        std::thread::sleep(Duration::from_millis(30));
        assert!(!other.is_finished(), "it was to be in the middle of it");
        assert_eq!(in_child(child), 0);
        other.join().unwrap();
    });
}

/// More than are kept ready of one size.
fn few_pages() -> usize {
    common::page_size() * 5 / 2
}

/// More than there is a place for, when it is to be sealed.
fn no_place() -> usize {
    (2 * common::page_size()).max(30_000)
}

/// Every call of this kind takes its time, on this thread.
fn slow(call: Call, millis: u64) -> inject::Injection {
    inject::fail(call, Plan::DelayEach { duration: Duration::from_millis(millis) })
}

#[test]
fn locks_of_a_vault_that_others_hold() {
    case("locks_of_a_vault_that_others_hold").run(|| {
        for builder in builders() {
            let mut family = Family::new(builder);
            let vault = family.vault.clone();
            // The keys; the pages; the scratch; the account.
            let acts: [Act<'_>; 4] = [
                ("keys", &|vault| vault.refresh().unwrap(), Call::Getrandom),
                (
                    "pages",
                    &|vault| drop(vault.secret().store(Store::Paged).random(few_pages()).unwrap()),
                    Call::Mmap,
                ),
                ("scratch", &|vault| vault.warm_thread(20).unwrap(), Call::Mmap),
                (
                    "account",
                    &|vault| drop(vault.secret().store(Store::Sealed).random(no_place()).unwrap()),
                    Call::Mmap,
                ),
            ];
            for (name, act, call) in acts {
                let act = || {
                    let _slow = slow(call, 300);
                    act(&vault);
                };
                eprintln!("{name}");
                forks_beside(act, || all_refused(&mut family));
            }
            assert!(family.is_whole());
        }
    });
}

#[test]
fn views_writers_and_streams_of_all_threads() {
    case("views_writers_and_streams_of_all_threads").run(|| {
        for builder in builders() {
            let mut family = Family::new(builder);
            let vault = family.vault.clone();
            let [one, other, sealed, paged] = [Store::Sealed, Store::Paged, Store::Sealed, Store::Paged]
                .map(|store| vault.secret().store(store).from_bytes(&mut BYTES.to_vec()).unwrap());
            let (open, done) = (Barrier::new(2), Barrier::new(2));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let views = (one.view().unwrap(), one.owned_view().unwrap(), other.owned_view().unwrap());
                    let writers = (one.view_mut().unwrap(), other.view_mut().unwrap());
                    open.wait();
                    done.wait();
                    assert_eq!((&*views.0, &*writers.0, &*writers.1), (&BYTES[..], &BYTES[..], &BYTES[..]));
                    views.1.with(|bytes| assert_eq!(bytes, BYTES)).unwrap();
                    views.2.with(|bytes| assert_eq!(bytes, BYTES)).unwrap();
                    drop(views);
                    writers.0.commit().unwrap();
                    writers.1.commit().unwrap();
                });
                open.wait();
                let ours = (sealed.view().unwrap(), paged.view().unwrap());
                let owned = sealed.owned_view().unwrap();
                let mut here = Some((ours, owned));
                let status = in_child(|| {
                    let ((sealed, paged), owned) = here.take().unwrap();
                    let wiped = [&*sealed, &*paged].iter().all(|bytes| bytes.iter().all(|&byte| byte == 0));
                    let refused = owned.with(|_| ()).err().map(Error::from) == Some(Error::Forked)
                        && owned.part(1..2).err() == Some(Error::Forked)
                        && sealed.finish() == Err(Error::Forked)
                        && paged.finish() == Err(Error::Forked);
                    drop(owned);
                    wiped && refused && one.view().err() == Some(Error::Forked) && own_vaults_work()
                });
                assert_eq!(status, 0);
                let ((sealed, paged), owned) = here.take().unwrap();
                assert_eq!((&*sealed, &*paged), (&BYTES[..], &BYTES[..]));
                owned.with(|bytes| assert_eq!(bytes, BYTES)).unwrap();
                assert_eq!((sealed.finish(), paged.finish()), (Ok(()), Ok(())));
                assert_eq!(in_child(|| all_refused(&mut family)), 0);
                done.wait();
            });
            assert!(family.is_whole());
        }
    });
}

#[test]
fn forks_within_with() {
    case("forks_within_with").run(|| {
        for builder in builders() {
            let family = Family::new(builder);
            for secret in [&family.sealed, &family.paged] {
                let mut ended = -1;
                let lent = secret.with(|bytes| {
                    // The child ends in here; another goes on, see below.
                    ended = in_child(|| bytes.iter().all(|&byte| byte == 0) && own_vaults_work());
                    bytes == BYTES
                });
                assert_eq!((lent, ended), (Ok(true), 0));
                // The child comes back from `with`, whose bytes it had no more.
                let mut pid = -1;
                let lent = secret.with(|_| {
                    // SAFETY: the child ends below, by `_exit`.
                    pid = unsafe { libc::fork() };
                });
                if pid == 0 {
                    let right = lent.err().map(Error::from) == Some(Error::Forked) && own_vaults_work();
                    // SAFETY: ends the child.
                    unsafe { libc::_exit(i32::from(!right)) };
                }
                assert_eq!(lent, Ok(()));
                let mut status = -1;
                // SAFETY: one word is written.
                assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
                assert_eq!(status, 0);
                assert_eq!(secret.ct_eq_bytes(BYTES), Ok(true));
            }
        }
    });
}

#[test]
fn everything_is_dropped_in_the_child() {
    case("everything_is_dropped_in_the_child").run(|| {
        for builder in builders() {
            let mut family = Some(Family::new(builder.clone().janitor()));
            let owned = family.as_ref().map(|family| family.sealed.owned_view().unwrap());
            let clone = family.as_ref().map(|family| family.vault.clone());
            let mut all = Some((owned, clone));
            assert_eq!(
                in_child(|| {
                    drop((family.take(), all.take()));
                    own_vaults_work()
                }),
                0
            );
            assert!(family.as_mut().unwrap().is_whole());
            let (owned, clone) = all.unwrap();
            owned.unwrap().with(|bytes| assert_eq!(bytes, BYTES)).unwrap();
            assert!(clone.unwrap().is_alive());
        }
    });
}

#[test]
fn installing_and_uninstalling_that_others_are_at() {
    case("installing_and_uninstalling_that_others_are_at").run(|| {
        let mut family = Family::new(Vault::builder());
        let install = || {
            let coordinator = Coordinator::install(&[Signal::USR1, Signal::USR2], Options::new())?;
            let handled = signal::register(Signal::USR1, Priority::Normal, |_| Outcome::Handled)?;
            drop(handled);
            let guard = fault::install(FaultPolicy::Abort)?;
            guard.uninstall()?;
            coordinator.uninstall()
        };
        // None of them is slow enough for a lock to be refused; with the child's own, a lock that it had inherited would be.
        let slowly = || {
            let _slow = slow(Call::Sigaction, 50 * u64::from(securememory::testing::patience()));
            install().unwrap();
        };
        // In the parent, before anything is installed the first time; and then again.
        for _ in 0..3 {
            let begun = Barrier::new(2);
            std::thread::scope(|scope| {
                let other = scope.spawn(|| {
                    begun.wait();
                    slowly();
                });
                begun.wait();
                let mut forks = 0;
                while !other.is_finished() {
                    std::thread::sleep(Duration::from_millis(5));
                    let child = || {
                        // What the parent had installed at that moment stays so in the child, under guards that are
                        // not here; nothing else is in the way.
                        let free = |error| error == Error::AlreadyInstalled;
                        install().map_or_else(free, |_| true) && all_refused(&mut family)
                    };
                    assert_eq!(in_child(child), 0);
                    forks += 1;
                }
                assert!(forks > 1, "beside it");
            });
        }
        assert!(family.is_whole());
    });
}

#[test]
fn guards_of_faults_and_signals_are_dropped_in_the_child() {
    case("guards_of_faults_and_signals_are_dropped_in_the_child").run(|| {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let mut family = Family::new(Vault::builder());
        let guard = fault::install(FaultPolicy::Abort).unwrap();
        let coordinator = Coordinator::install(&[Signal::USR1], Options::new()).unwrap();
        let count = |_: &_| {
            CALLS.fetch_add(1, Ordering::SeqCst);
            Outcome::Handled
        };
        let registration = signal::register(Signal::USR1, Priority::Normal, count).unwrap();
        let mut all = Some((guard, coordinator, registration));
        assert_eq!(
            in_child(|| {
                drop(all.take());
                let again = fault::install(FaultPolicy::Abort).and_then(|guard| guard.uninstall());
                let others =
                    Coordinator::install(&[Signal::USR1], Options::new()).and_then(|c| c.uninstall());
                again.is_ok() && others.is_ok() && all_refused(&mut family)
            }),
            0
        );
        // SAFETY: a signal to this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGUSR1) };
        let started = std::time::Instant::now();
        while CALLS.load(Ordering::SeqCst) == 0 && started.elapsed() < Duration::from_secs(9) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(CALLS.load(Ordering::SeqCst), 1, "the parent's own is as it was");
        assert!(family.is_whole());
    });
}

#[test]
fn a_child_that_exits_in_order_wipes_nothing_of_its_parents() {
    extern "C" fn last() {
        // A handler of the program's, which runs after or before ours.
        std::hint::black_box(0);
    }
    case("a_child_that_exits_in_order_wipes_nothing_of_its_parents").run(|| {
        // SAFETY: a function that does nothing.
        assert_eq!(unsafe { libc::atexit(last) }, 0);
        let mut families: Vec<_> = builders().into_iter().map(Family::new).collect();
        let _faults = fault::install(FaultPolicy::Abort).unwrap();
        // SAFETY: the same.
        assert_eq!(unsafe { libc::atexit(last) }, 0);
        for own in [false, true] {
            // SAFETY: the child ends by `exit`, which is what is tested.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                let right = !own || own_vaults_work();
                std::process::exit(if right { 5 } else { 6 });
            }
            let mut status = -1;
            // SAFETY: one word is written.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 5));
            for family in &mut families {
                assert!(family.is_whole());
                family.vault.refresh().unwrap();
                assert!(family.is_whole());
            }
        }
    });
}

/// Everything at once, again and again.
#[test]
fn a_storm() {
    case("a_storm").deadline(Duration::from_secs(200)).run(|| {
        for builder in builders() {
            // On a busy machine a fork takes its time, and others wait for it.
            let patient = Policy::new().wait(Duration::from_secs(60));
            let mut family = Family::new(builder.policy(patient.clone()));
            let (vault, stop) = (family.vault.clone(), AtomicBool::new(false));
            let policy = patient.linger(Duration::from_millis(1));
            let lingering = vault.secret().store(Store::Paged).policy(policy).random(40).unwrap();
            let acts: [&(dyn Fn() + Sync); 6] = [
                &|| {
                    for store in [Store::Sealed, Store::Paged] {
                        let made = vault.secret().store(store).random(24).unwrap();
                        made.view_mut().unwrap().commit().unwrap();
                        let view = made.owned_view().unwrap();
                        assert_ne!(made.close_timeout(Duration::ZERO), Ok(Closed::Closed));
                        drop(view);
                    }
                },
                &|| {
                    vault.refresh().unwrap();
                    vault.finish_refresh(Duration::from_secs(60)).unwrap();
                },
                &|| drop(lingering.view().unwrap()),
                &|| drop(Vault::builder().build().unwrap()),
                &|| {
                    let mut stream = vault.stream().chunk_size(16).build().unwrap();
                    std::io::Write::write_all(&mut stream, &[BYTES[0]; 100]).unwrap();
                    stream.finish().unwrap();
                },
                &|| {
                    drop(Coordinator::install(&[Signal::USR1], Options::new()).unwrap());
                    drop(fault::install(FaultPolicy::Abort).unwrap());
                },
            ];
            std::thread::scope(|scope| {
                for act in acts {
                    let stop = &stop;
                    scope.spawn(move || {
                        while !stop.load(Ordering::Relaxed) {
                            act();
                        }
                    });
                }
                for _ in 0..common::tries(60) {
                    assert_eq!(in_child(|| all_refused(&mut family)), 0);
                }
                stop.store(true, Ordering::Relaxed);
            });
            assert!(family.is_whole());
        }
    });
}

/// The purge of a child is refused, and the parent's own purges all.
#[test]
fn a_purge_of_the_parents_beside_a_fork() {
    case("a_purge_of_the_parents_beside_a_fork").ending(Ending::Done).run(|| {
        let mut family = Family::new(Vault::builder().hold(Hold::Split));
        let vault = family.vault.clone();
        let act = || {
            let _slow = slow(Call::MemfdCreate, 300);
            vault.purge().unwrap();
        };
        forks_beside(act, || all_refused(&mut family));
        assert_eq!(family.sealed.view().err(), Some(Error::Purged));
        assert_eq!(family.paged.view().err(), Some(Error::Closed));
    });
}

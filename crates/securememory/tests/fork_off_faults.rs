//! Vaults that a child inherits, where something goes wrong on the way: the child has its vault whole, or clearly not at all,
//! and the parent's is what it was.
#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests end by panics; forks are made by raw calls"
)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use common::inherited::{BYTES, Family, builder, builders, off, own_vaults_work};
use common::{Footprint, become_ordinary_user, case, in_child, limit, locked, share_files};
use securememory::testing::inject::{self, Plan};
use securememory::{Call, Error, Evidence, Hold, Level, Policy, Store, Vault};

/// What another thread does with a vault, and the call that takes its time there.
type Act<'a> = (&'static str, &'a (dyn Fn(&Vault) + Sync), Call);

/// In a child: it has all, or nothing. What it has works.
fn all_or_nothing(family: &mut Family) -> Result<bool, Vec<String>> {
    if family.vault.is_alive() {
        assert!(family.is_whole());
        family.sealed.replace(&mut [3; 16]).unwrap();
        family.paged.replace(&mut [4; 16]).unwrap();
        family.vault.refresh().unwrap();
        family.vault.finish_refresh(Duration::from_secs(9)).unwrap();
        assert_eq!(family.sealed.ct_eq_bytes(&[3; 16]), Ok(true));
        assert_eq!(family.paged.ct_eq_bytes(&[4; 16]), Ok(true));
        return Ok(true);
    }
    let wrong = family.not_refused();
    if wrong.is_empty() { Ok(false) } else { Err(wrong) }
}

/// Calls that are made for the child, and how it has fared where they failed.
#[test]
fn each_call_for_the_child_fails_once() {
    const CALLS: [Call; 11] = [
        Call::MemfdCreate,
        Call::Fcntl,
        Call::Fchmod,
        Call::Ftruncate,
        Call::Fstat,
        Call::Pwrite,
        Call::Pread,
        Call::Getrandom,
        Call::Close,
        Call::Mlock,
        Call::Sigprocmask,
    ];
    case("each_call_for_the_child_fails_once").deadline(Duration::from_secs(200)).run(|| {
        for builder in builders() {
            let mut family = Family::new(builder.policy(off().lock(Level::Require)));
            family.vault.refresh().unwrap();
            let (mut inherited, mut gone) = (0, 0);
            for call in CALLS {
                for plan in (1..=12)
                    .flat_map(|n| [Plan::Nth { n, errno: libc::ENOMEM }, Plan::ShortNth { n }])
                    .chain([Plan::Always { errno: libc::EPERM }])
                {
                    let (shares, before) = (share_files(), Footprint::now());
                    let mut injection = Some(inject::fail(call, plan).all_threads());
                    let (from, to) = std::io::pipe().unwrap();
                    let status = in_child(|| {
                        drop(injection.take());
                        let fared = all_or_nothing(&mut family);
                        let fared = fared.unwrap_or_else(|wrong| panic!("{call} {plan:?}: {wrong:#?}"));
                        std::io::Write::write_all(&mut &to, &[u8::from(fared)]).unwrap();
                        own_vaults_work()
                    });
                    drop(injection);
                    assert_eq!(status, 0, "{call} {plan:?}");
                    let mut fared = [9];
                    std::io::Read::read_exact(&mut &from, &mut fared).unwrap();
                    drop((from, to));
                    if fared == [1] {
                        inherited += 1
                    } else {
                        gone += 1
                    }
                    // Nothing of it is left in the parent, unless what failed was giving it back.
                    if call != Call::Close && call != Call::Fstat {
                        before.assert_same(format!("{call} {plan:?}"));
                        assert_eq!(share_files(), shares, "{call} {plan:?}");
                    }
                    assert!(family.is_whole(), "{call} {plan:?}");
                }
            }
            eprintln!("{:?}: {inherited} inherited, {gone} gone", family.vault.status().hold);
            // Of every kind, so that both were tried.
            assert!(inherited > 80 && gone > 10, "{inherited} {gone}");
            assert_eq!(in_child(|| all_or_nothing(&mut family) == Ok(true)), 0);
        }
    });
}

#[test]
fn memory_is_locked_again_in_the_child() {
    case("memory_is_locked_again_in_the_child").run(|| {
        for builder in builders() {
            for level in [Level::Prefer, Level::Require] {
                let mut family = Family::new(builder.clone().policy(off().lock(level)));
                let large = family.vault.secret().store(Store::Paged).random(70_000).unwrap();
                // With views open, and pages that were used and are free.
                let views = (family.sealed.view().unwrap(), large.view().unwrap());
                drop(family.vault.secret().store(Store::Paged).random(20_000).unwrap());
                let (before, status) = (locked(), family.vault.status());
                assert!(before > 100_000);
                let check = || {
                    let now = family.vault.status();
                    let kernels = [
                        now.protections.lock,
                        family.sealed.status().protections.lock,
                        family.paged.status().protections.lock,
                        large.status().protections.lock,
                    ];
                    assert!(kernels.iter().all(|lock| lock.got && lock.evidence == Evidence::Kernel));
                    (locked(), now.locked_bytes) == (before, status.locked_bytes)
                };
                assert!(check());
                assert_eq!(in_child(check), 0);
                drop(views);
                assert_eq!(in_child(|| family.is_whole()), 0);
            }
        }
    });
}

#[test]
fn where_memory_cannot_be_locked_again_the_child_says_so_or_has_nothing() {
    case("where_memory_cannot_be_locked_again_the_child_says_so_or_has_nothing").run(|| {
        become_ordinary_user();
        for builder in builders() {
            for level in [Level::Prefer, Level::Require] {
                let mut family = Family::new(builder.clone().policy(off().lock(level)));
                let own = builder.clone().policy(off()).build().unwrap();
                let required = own.secret().store(Store::Paged).policy(off().lock(Level::Require));
                let required = required.from_bytes(&mut BYTES.to_vec()).unwrap();
                // What is locked stays so; but nothing more.
                let old = common::limits_of(libc::RLIMIT_MEMLOCK).soft;
                common::soft_limit(libc::RLIMIT_MEMLOCK, 0).unwrap();
                let status = in_child(|| {
                    assert_eq!(locked(), 0);
                    // Its only secret has to be locked.
                    assert_eq!(required.view().err(), Some(Error::Forked));
                    if level == Level::Require {
                        return family.not_refused().is_empty();
                    }
                    assert_eq!(all_or_nothing(&mut family), Ok(true));
                    let status = family.vault.status();
                    let locks = [
                        status.protections.lock,
                        family.sealed.status().protections.lock,
                        family.paged.status().protections.lock,
                    ];
                    assert!(locks.iter().all(|lock| !lock.got), "{locks:?}");
                    assert_eq!((status.locked_bytes, status.scratch_unlocked), (0, status.scratch_slots));
                    let strict = off().lock(Level::Require);
                    for store in [Store::Sealed, Store::Paged] {
                        let refused = family.vault.secret().store(store).policy(strict.clone()).random(8);
                        assert!(refused.is_err());
                    }
                    true
                });
                common::soft_limit(libc::RLIMIT_MEMLOCK, old).unwrap();
                assert_eq!(status, 0, "{level:?}");
                assert!(family.is_whole());
                assert_eq!(required.ct_eq_bytes(BYTES), Ok(true));
            }
        }
    });
}

/// More each time, so that there is never enough from before.
fn more() -> usize {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    CALLS.fetch_add(1, Ordering::Relaxed) + 1
}

/// A lock of the vault's that another thread has: for a while, it is waited for; for longer, there is no heir.
#[test]
fn locks_that_others_hold() {
    case("locks_that_others_hold").run(|| {
        for builder in builders() {
            let mut family = Family::new(builder);
            let vault = family.vault.clone();
            // Kept, so that the next time there is no room from before.
            let kept = Mutex::new(Vec::new());
            let many = |vault: &Vault| {
                let made = (0..5000).map(|_| vault.secret().random(1000).unwrap());
                kept.lock().unwrap().extend(made);
            };
            let acts: [Act<'_>; 4] = [
                ("keys", &|vault| vault.refresh().unwrap(), Call::Getrandom),
                (
                    "pages",
                    &|vault| {
                        drop(
                            vault
                                .secret()
                                .store(Store::Paged)
                                .random(more() * common::page_size() * 5 / 2)
                                .unwrap(),
                        )
                    },
                    Call::Mmap,
                ),
                ("scratch", &|vault| vault.warm_thread(more() * 20).unwrap(), Call::Mmap),
                ("account", &many, Call::Mmap),
            ];
            for (millis, expected) in [(600, false), (60, true)] {
                let mut as_expected = 0;
                for (name, act, call) in acts {
                    let begun = Barrier::new(2);
                    std::thread::scope(|scope| {
                        let other = scope.spawn(|| {
                            let duration = Duration::from_millis(millis);
                            let _slow = inject::fail(call, Plan::DelayEach { duration });
                            begun.wait();
                            act(&vault);
                        });
                        begun.wait();
                        std::thread::sleep(Duration::from_millis(20));
                        // The account grows now and then only.
                        assert!(name == "account" || !other.is_finished(), "{name}: in the middle of it");
                        let (from, to) = std::io::pipe().unwrap();
                        let status = in_child(|| {
                            let fared = all_or_nothing(&mut family).unwrap();
                            std::io::Write::write_all(&mut &to, &[u8::from(fared)]).is_ok()
                        });
                        assert_eq!(status, 0, "{name} {millis}");
                        let mut fared = [9];
                        std::io::Read::read_exact(&mut &from, &mut fared).unwrap();
                        // A machine that is busy with other things may be late for either.
                        as_expected += u32::from((fared == [1]) == expected);
                        other.join().unwrap();
                    });
                }
                assert!(as_expected >= 2, "{as_expected} of 4 have fared as they should: {expected}");
                assert!(family.is_whole());
            }
        }
    });
}

/// Everything at once, again and again; what other threads do not touch is whole and works in every child.
#[test]
fn a_storm() {
    case("a_storm").deadline(Duration::from_secs(300)).run(|| {
        static LIVED: AtomicU32 = AtomicU32::new(0);
        for builder in builders() {
            // On a busy machine a fork takes its time, and others wait for it.
            let patient = off().wait(Duration::from_secs(60));
            let mut family = Family::new(builder.policy(patient.clone()));
            let (vault, stop, children) =
                (family.vault.clone(), AtomicBool::new(false), common::tries(50) as u32);
            let policy = patient.linger(Duration::from_millis(1));
            let lingering = vault.secret().store(Store::Paged).policy(policy).random(40).unwrap();
            let [sealed, paged] =
                [Store::Sealed, Store::Paged].map(|store| vault.secret().store(store).random(90).unwrap());
            let acts: [&(dyn Fn() + Sync); 6] = [
                &|| {
                    for store in [Store::Sealed, Store::Paged] {
                        let made = vault.secret().store(store).random(24).unwrap();
                        made.view_mut().unwrap().commit().unwrap();
                        let view = made.owned_view().unwrap();
                        assert!(made.close_timeout(Duration::ZERO).is_ok());
                        drop(view);
                    }
                },
                &|| {
                    vault.refresh().unwrap();
                    vault.finish_refresh(Duration::from_secs(60)).unwrap();
                },
                &|| drop((lingering.view().unwrap(), sealed.view().unwrap(), paged.view().unwrap())),
                &|| drop((sealed.view().unwrap(), paged.view().unwrap())),
                &|| {
                    let mut stream = vault.stream().chunk_size(16).build().unwrap();
                    std::io::Write::write_all(&mut stream, &[BYTES[0]; 100]).unwrap();
                    stream.finish().unwrap();
                },
                &|| drop(builder_of(Hold::Split).unwrap()),
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
                for _ in 0..children {
                    let (from, to) = std::io::pipe().unwrap();
                    let status = in_child(|| {
                        let alive = vault.is_alive();
                        std::io::Write::write_all(&mut &to, &[u8::from(alive)]).unwrap();
                        if !alive {
                            return family.not_refused().is_empty();
                        }
                        assert!(family.is_whole());
                        family.sealed.replace(&mut [3; 16]).unwrap();
                        family.paged.replace(&mut [4; 16]).unwrap();
                        // Read by others at that moment.
                        for secret in [&sealed, &paged, &lingering] {
                            assert!(secret.view().is_ok());
                        }
                        for _ in 0..5 {
                            vault.refresh().unwrap();
                        }
                        vault.finish_refresh(Duration::from_secs(9)).unwrap();
                        assert_eq!(vault.status().keys, 1);
                        assert_eq!(family.sealed.ct_eq_bytes(&[3; 16]), Ok(true));
                        assert_eq!(family.paged.ct_eq_bytes(&[4; 16]), Ok(true));
                        assert!(family.sealed.close().is_ok() && family.paged.close().is_ok());
                        let made = vault.secret().store(Store::Paged).random(24).unwrap();
                        assert!(made.view_mut().unwrap().commit().is_ok());
                        vault.purge().unwrap();
                        vault.secret().random(24).unwrap().view().is_ok() && own_vaults_work()
                    });
                    assert_eq!(status, 0);
                    let mut alive = [9];
                    std::io::Read::read_exact(&mut &from, &mut alive).unwrap();
                    LIVED.fetch_add(u32::from(alive[0]), Ordering::Relaxed);
                }
                stop.store(true, Ordering::Relaxed);
            });
            let lived = LIVED.swap(0, Ordering::Relaxed);
            assert!(lived >= children * 4 / 5, "{lived} of {children} have inherited it");
            assert!(family.is_whole());
        }
    });
}

fn builder_of(hold: Hold) -> Result<Vault, Error> {
    builder(hold).policy(Policy::new().fork(Level::Off)).build()
}

/// Not more than the process may have.
#[test]
fn a_child_without_descriptors_has_nothing_and_its_parent_all() {
    case("a_child_without_descriptors_has_nothing_and_its_parent_all").run(|| {
        let mut family = Family::new(builder(Hold::Split));
        let highest = common::share_files().into_iter().max().unwrap() as u64;
        limit(libc::RLIMIT_NOFILE, highest + 1).unwrap();
        let mut others = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            others.push(file);
        }
        assert_eq!(in_child(|| family.not_refused().is_empty()), 0);
        assert!(family.is_whole());
        // One is enough for a child; more come when its parent's have gone.
        others.pop();
        let lives = |family: &mut Family| {
            assert!(family.is_whole());
            family.vault.status().replicas >= 1
        };
        assert_eq!(in_child(|| lives(&mut family)), 0);
        assert!(family.is_whole());
    });
}

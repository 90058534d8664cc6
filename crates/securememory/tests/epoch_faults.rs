//! Every system call of a refresh, of its finish and of a purge is refused once, at every place. Each time: a
//! typed error that names the call or none at all, what was readable stays so (or what was purged stays
//! purged), the old key seals where there is no new one, nothing is leaked, and the next try succeeds.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests end by panics")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Footprint, case};
use securememory::testing::inject::{self, Plan};
use securememory::{Call, CallError, Error, Hold, Level, Secret, Store, Vault, VaultBuilder};

const LONG: Duration = Duration::from_secs(20);

/// What these operations may call, with an error that each may meet.
const CALLS: [(Call, i32); 17] = [
    (Call::Mmap, libc::ENOMEM),
    (Call::Munmap, libc::ENOMEM),
    (Call::Mprotect, libc::ENOMEM),
    (Call::Mlock, libc::EAGAIN),
    (Call::Madvise, libc::EAGAIN),
    (Call::MemfdCreate, libc::EMFILE),
    (Call::MemfdSecret, libc::ENOMEM),
    (Call::Fcntl, libc::EPERM),
    (Call::Fchmod, libc::EPERM),
    (Call::Fstat, libc::EIO),
    (Call::Pread, libc::EIO),
    (Call::Pwrite, libc::ENOSPC),
    (Call::Ftruncate, libc::EPERM),
    (Call::Close, libc::EINTR),
    (Call::Getrandom, libc::EAGAIN),
    (Call::Sigprocmask, libc::EINVAL),
    (Call::PkeyMprotect, libc::EACCES),
];

fn holds() -> Vec<Hold> {
    let to_be_had = |hold: &Hold| match builder(*hold).build() {
        Ok(_) => true,
        Err(error) => {
            let may_lack = matches!(hold, Hold::Secretmem | Hold::Pkey)
                || (*hold == Hold::Split && !common::has_split());
            assert!(may_lack, "{hold:?}: {error}");
            eprintln!("skipped: {hold:?}: {error}");
            false
        }
    };
    [Hold::Split, Hold::Guarded, Hold::Secretmem, Hold::Pkey].into_iter().filter(to_be_had).collect()
}

fn builder(hold: Hold) -> VaultBuilder {
    Vault::builder().store(Store::Sealed).hold(hold).hold_level(Level::Require)
}

const VALUE: [u8; 40] = *b"forty bytes that have to stay as they ar";

fn secrets(vault: &Vault, count: usize) -> Vec<Secret> {
    (0..count).map(|_| vault.secret().from_bytes(&mut VALUE.clone()).unwrap()).collect()
}

fn are_right(secrets: &[Secret]) -> bool {
    secrets.iter().all(|secret| secret.ct_eq_bytes(&VALUE) == Ok(true))
}

/// Is this what an error because of a call that was refused looks like?
fn explains(refused: CallError, error: &Error) -> bool {
    match error {
        Error::System(cause) | Error::HoldRefused(cause) => *cause == refused,
        Error::Refused { cause, .. } => *cause == refused,
        // All replicas were tried, and this one was the last.
        Error::KeyLost => refused.call == Call::Pread,
        _ => false,
    }
}

/// How often each call was refused, and how often that was an error.
type Seen = BTreeMap<&'static str, (u64, u64)>;

/// Does `operate` with a call refused, for all calls and all places, to vaults that `prepare` has made ready;
/// `judge` looks at what came of it.
fn sweep(
    hold: Hold,
    prepare: impl Fn(&Vault),
    operate: impl Fn(&Vault) -> Result<(), Error>,
    judge: impl Fn(&Vault, Vec<Secret>, Result<(), Error>),
) -> Seen {
    let mut seen = Seen::new();
    for on in [false, true] {
        for (call, errno) in CALLS {
            for n in 1.. {
                assert!(n < 300, "{hold:?}, {call}: no end");
                let before = Footprint::now();
                let vault = builder(hold).build().unwrap();
                let old = secrets(&vault, 5);
                vault.warm_thread(3).unwrap();
                prepare(&vault);
                let plan = if on { Plan::FromNth { n, errno } } else { Plan::Nth { n, errno } };
                let plan = inject::fail(call, plan);
                let outcome = operate(&vault);
                let hit = plan.calls() >= n;
                drop(plan);
                let refused = CallError { call, errno };
                let late = matches!(outcome, Err(Error::Timeout { .. })) && on;
                if let Err(error) = &outcome {
                    assert!(hit && (late || explains(refused, error)), "{hold:?} {call} {n} {on}: {error:?}");
                }
                if hit {
                    let (all, errors) = seen.entry(call.name()).or_default();
                    *all += 1;
                    *errors += u64::from(outcome.is_err());
                }
                judge(&vault, old, outcome);
                drop(vault);
                // What the system does not take back stays; without its number nobody knows whose a
                // descriptor is.
                if !matches!(call, Call::Munmap | Call::Fstat) {
                    before.assert_same(format_args!("with {hold:?} when call {n} of {call} was refused"));
                }
                if !hit {
                    break;
                }
            }
        }
    }
    println!("{hold:?}: {seen:?}");
    seen
}

fn assert_errors(seen: &Seen, calls: &[Call]) {
    for call in calls {
        assert!(seen.get(call.name()).is_some_and(|&(_, errors)| errors > 0), "{call} in {seen:?}");
    }
}

#[test]
fn a_refused_refresh_leaves_the_old_key_at_work() {
    case("a_refused_refresh_leaves_the_old_key_at_work").run(|| {
        for hold in holds() {
            let judge = |vault: &Vault, old: Vec<Secret>, outcome: Result<(), Error>| {
                let status = vault.status();
                let epoch = if outcome.is_ok() { 2 } else { 1 };
                assert_eq!((status.epoch, status.keys), (epoch, epoch as usize));
                let new = secrets(vault, 1);
                assert_eq!(new[0].status().epoch, epoch);
                assert!(are_right(&old) && are_right(&new));
                vault.refresh().unwrap();
                vault.finish_refresh(LONG).unwrap();
                assert_eq!((vault.status().epoch, vault.status().keys), (epoch + 1, 1));
                assert!(are_right(&old) && are_right(&new));
            };
            let seen = sweep(hold, |_| (), Vault::refresh, judge);
            match hold {
                Hold::Split => assert_errors(&seen, &[Call::MemfdCreate, Call::Getrandom, Call::Pwrite]),
                Hold::Guarded => assert_errors(&seen, &[Call::Mmap, Call::Getrandom, Call::Mprotect]),
                _ => assert_errors(&seen, &[Call::Mmap, Call::Getrandom]),
            }
        }
    });
}

#[test]
fn a_refused_finish_loses_nothing_and_can_be_tried_again() {
    case("a_refused_finish_loses_nothing_and_can_be_tried_again").run(|| {
        for hold in holds() {
            let judge = |vault: &Vault, old: Vec<Secret>, outcome: Result<(), Error>| {
                let status = vault.status();
                assert_eq!(status.epoch, 2);
                assert!(outcome.is_err() || status.keys == 1);
                let new = secrets(vault, 1);
                assert!(are_right(&old) && are_right(&new));
                vault.finish_refresh(LONG).unwrap();
                assert_eq!(vault.status().keys, 1);
                assert!(are_right(&old) && are_right(&new));
            };
            let finish = |vault: &Vault| vault.finish_refresh(Duration::from_millis(20)).map(drop);
            let seen = sweep(hold, |vault| vault.refresh().unwrap(), finish, judge);
            assert_errors(&seen, &[Call::Getrandom]);
            if hold == Hold::Split {
                assert_errors(&seen, &[Call::Pread]);
            }
        }
    });
}

#[test]
fn a_refused_purge_has_purged_all_the_same() {
    case("a_refused_purge_has_purged_all_the_same").run(|| {
        for hold in holds() {
            let judge = |vault: &Vault, old: Vec<Secret>, outcome: Result<(), Error>| {
                for secret in &old {
                    assert_eq!(secret.view().err(), Some(Error::Purged));
                }
                if outcome.is_err() {
                    assert_eq!((vault.status().epoch, vault.status().keys), (0, 0));
                    assert_eq!(vault.secret().random(8).err(), Some(Error::Purged));
                    assert_eq!(vault.finish_refresh(LONG).unwrap().moved, 0);
                    vault.refresh().unwrap();
                }
                assert_eq!((vault.status().epoch, vault.status().keys), (3, 1));
                let new = secrets(vault, 3);
                assert!(are_right(&new));
                vault.purge().unwrap();
                assert_eq!(new[0].view().err(), Some(Error::Purged));
                assert_eq!(old[0].view().err(), Some(Error::Purged));
            };
            let seen = sweep(hold, |vault| vault.refresh().unwrap(), |vault| vault.purge().map(drop), judge);
            assert_errors(&seen, &[Call::Getrandom]);
        }
    });
}

//! Keys that turn over: what a refresh moves and destroys, what a purge ends, and that neither disturbs who
//! is at work.
//!
//! Each test runs in a process of its own, on each key hold that is to be had.
#![cfg(any(target_os = "linux", windows))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests end by panics, fork, and change what is at rest"
)]

#[cfg_attr(windows, path = "common/windows.rs")]
mod common;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Footprint, HOLD, case, share_files};
#[cfg(target_os = "linux")]
use common::{in_child, shares};
use securememory::testing::errno;
use securememory::testing::inject::{self, Plan};
use securememory::{
    AtRest, Build, Call, Error, Hold, Level, OwnedView, Policy, Secret, SecretStream, Store, Vault,
    VaultBuilder,
};

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(30);

fn builder(hold: Hold) -> VaultBuilder {
    Vault::builder().store(Store::Sealed).hold(hold).hold_level(Level::Require)
}

/// Calls `test` with each hold that is to be had here. Its first vault has been made and dropped then.
fn on_each_hold(test: impl Fn(Hold)) {
    for hold in [Hold::Split, Hold::Guarded, Hold::Secretmem, Hold::Pkey] {
        match builder(hold).build() {
            Err(error)
                if matches!(hold, Hold::Secretmem | Hold::Pkey) || (hold != HOLD && !Build::HERE.split) =>
            {
                eprintln!("skipped: {hold:?}: {error}");
            }
            made => {
                drop(made.unwrap());
                println!("{hold:?}");
                test(hold);
            }
        }
    }
}

/// A value that tells its number and its length apart from others.
fn value(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number * 31 + at * 7 + at / 251) as u8).collect()
}

fn make(vault: &Vault, number: usize, len: usize) -> Secret {
    vault.secret().from_bytes(&mut value(number, len)).unwrap()
}

/// So many, of lengths from 1 to 5,000, some with labels and policies.
fn make_many(vault: &Vault, count: usize) -> Vec<Secret> {
    let one = |number: usize| {
        let builder = match number % 3 {
            0 => vault.secret(),
            1 => vault.secret().label("with a label"),
            _ => vault.secret().policy(Policy::new().wait(2 * SECOND)),
        };
        builder.from_bytes(&mut value(number, 1 + number * 613 % 5000)).unwrap()
    };
    (0..count).map(one).collect()
}

fn assert_right(secrets: &[Secret]) {
    for (number, secret) in secrets.iter().enumerate() {
        assert_eq!(*secret.view().unwrap(), *value(number, secret.len()), "secret {number}");
    }
}

fn assert_purged(secrets: &[Secret]) {
    for secret in secrets {
        let errors = [
            secret.view().err(),
            secret.owned_view().err(),
            secret.view_mut().err(),
            secret.replace(&mut value(0, secret.len())).err(),
        ];
        assert_eq!(errors, [Some(Error::Purged); 4]);
    }
}

// ---- refresh ----

#[test]
fn a_refresh_makes_a_new_key_and_its_finish_moves_everything() {
    case("a_refresh_makes_a_new_key_and_its_finish_moves_everything").run(|| {
        on_each_hold(|hold| {
            let before = Footprint::now();
            let vault = builder(hold).build().unwrap();
            let secrets = make_many(&vault, 100);
            assert_right(&secrets);
            // Room for the mover's views.
            vault.warm_thread(3).unwrap();
            let (one_key, files, status) = (Footprint::now(), share_files().len(), vault.status());
            assert_eq!((status.epoch, status.keys), (1, 1));

            vault.refresh().unwrap();
            let two = vault.status();
            assert_eq!((two.epoch, two.keys, two.seals), (2, 2, 0));
            assert!(two.locked_bytes >= status.locked_bytes);
            assert!(secrets.iter().all(|secret| secret.status().epoch == 1));
            assert_right(&secrets);
            assert_eq!(share_files().len(), 2 * files);

            let refreshed = vault.finish_refresh(LONG).unwrap();
            assert_eq!((refreshed.moved, refreshed.damaged), (100, 0));
            assert!(secrets.iter().all(|secret| secret.status().epoch == 2));
            assert_right(&secrets);
            let now = vault.status();
            assert_eq!((now.epoch, now.keys, now.seals), (2, 1, 100));
            assert_eq!((now.locked_bytes, now.secrets), (status.locked_bytes, 100));
            assert_eq!(share_files().len(), files);
            let after = Footprint::now();
            assert_eq!(after.descriptors(), one_key.descriptors());
            assert_eq!(after.locked(), one_key.locked());
            // There is nothing left to be done.
            assert_eq!(vault.finish_refresh(Duration::ZERO).unwrap().moved, 0);
            let new = make(&vault, 7, 100);
            assert_eq!((new.status().epoch, new.status().version), (2, 0));
            drop((secrets, new, vault));
            before.assert_same(format_args!("with {hold:?}"));
        });
    });
}

#[test]
fn creations_and_commits_move_a_few_each_and_destroy_the_old_key_at_last() {
    case("creations_and_commits_move_a_few_each_and_destroy_the_old_key_at_last").run(|| {
        on_each_hold(|hold| {
            let vault = builder(hold).build().unwrap();
            let secrets = make_many(&vault, 100);
            vault.refresh().unwrap();
            let mut seals = 0;
            while vault.status().keys > 1 {
                if seals % 2 == 0 {
                    drop(make(&vault, 1, 10));
                } else {
                    secrets[0].replace(&mut value(0, secrets[0].len())).unwrap();
                }
                seals += 1;
                assert!(seals < 60, "at least two are moved by each");
            }
            assert!(seals > 5, "a few only");
            assert_right(&secrets);
            assert!(secrets.iter().all(|secret| secret.status().epoch == 2));
        });
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_refresh_leaves_nothing_of_the_old_shares() {
    case("a_refresh_leaves_nothing_of_the_old_shares").run(|| {
        let halves = |share: [u8; 64]| {
            let [mut key, mut check] = [[0; 32]; 2];
            key.copy_from_slice(&share[..32]);
            check.copy_from_slice(&share[32..]);
            [key, check]
        };
        let (vault, files) = shares::split();
        let anchor = shares::Anchor::find();
        let secrets = make_many(&vault, 50);
        let in_files = |files: &[i32]| -> Vec<[u8; 32]> {
            files.iter().flat_map(|&file| halves(shares::share_in(file))).collect()
        };
        let all = |files: &[i32]| {
            let mut all = in_files(files);
            let in_memory = anchor.shares_of_all_keys().into_iter().flat_map(halves);
            all.extend(in_memory.filter(|half| *half != [0; 32]));
            all
        };
        let mut seen = all(&files);
        assert_eq!(seen.len(), 4 * files.len(), "two halves of A and of B each");
        for round in 0..9 {
            vault.refresh().unwrap();
            let both = share_files();
            assert_eq!(both.len(), 2 * files.len());
            vault.finish_refresh(LONG).unwrap();
            let now = all(&share_files());
            assert_eq!(now.len(), seen.len() / (round + 1), "shares of one key");
            assert!(now.iter().all(|half| !seen.contains(half)), "round {round}");
            seen.extend(now);
        }
        assert_right(&secrets);
    });
}

#[test]
fn at_most_four_keys_live() {
    case("at_most_four_keys_live").run(|| {
        on_each_hold(|hold| {
            let vault = builder(hold).build().unwrap();
            // Without secrets the old keys go at once.
            for epoch in 2..8 {
                vault.refresh().unwrap();
                assert_eq!((vault.status().epoch, vault.status().keys), (epoch, 1));
            }
            let mut secrets = Vec::new();
            let mut views: Vec<OwnedView> = Vec::new();
            let mut keys = Vec::new();
            for round in 0..7 {
                for _ in 0..60 {
                    secrets.push(make(&vault, secrets.len(), 64));
                }
                views.push(secrets[60 * round].owned_view().unwrap());
                // Open when it is moved.
                let view = secrets[0].view().unwrap();
                vault.refresh().unwrap();
                keys.push(vault.status().keys);
                assert_right(&secrets);
                assert_eq!(*view, *value(0, 64));
            }
            assert_eq!(vault.status().epoch, 14);
            assert!(keys.iter().all(|keys| (2..=4).contains(keys)), "{keys:?}");
            for (round, view) in views.iter().enumerate() {
                view.with(|bytes| assert_eq!(*bytes, *value(60 * round, 64))).unwrap();
            }
            vault.finish_refresh(LONG).unwrap();
            assert_eq!(vault.status().keys, 1);
            assert_right(&secrets);
        });
    });
}

#[test]
fn a_fifth_key_is_made_when_the_others_have_been_moved() {
    case("a_fifth_key_is_made_when_the_others_have_been_moved").run(|| {
        on_each_hold(|hold| {
            let vault = builder(hold).build().unwrap();
            let mut secrets: Vec<_> = (0..200).map(|number| make(&vault, number, 40)).collect();
            for epoch in 2..=4 {
                vault.refresh().unwrap();
                // Moves a few to the new key, not all.
                secrets.push(make(&vault, secrets.len(), 40));
                assert_eq!((vault.status().epoch, vault.status().keys), (epoch, epoch as usize));
            }
            vault.refresh().unwrap();
            assert_eq!((vault.status().epoch, vault.status().keys), (5, 2));
            assert!(secrets.iter().all(|secret| secret.status().epoch == 4));
            assert_right(&secrets);
        });
    });
}

#[test]
fn a_writers_copy_that_stays_open_neither_holds_a_refresh_up_nor_is_lost() {
    case("a_writers_copy_that_stays_open_neither_holds_a_refresh_up_nor_is_lost").run(|| {
        on_each_hold(|hold| {
            let vault = builder(hold).build().unwrap();
            let (kept, dropped) = (make(&vault, 0, 300), make(&vault, 1, 300));
            let mut change = kept.view_mut().unwrap();
            let mut other = dropped.view_mut().unwrap();
            for round in 0..6 {
                vault.refresh().unwrap();
                assert_eq!(vault.finish_refresh(LONG).unwrap().moved, 2);
                assert_eq!(vault.status().keys, 1);
                assert_eq!((kept.status().epoch, kept.status().version), (round + 2, 0));
            }
            change.copy_from_slice(&value(2, 300));
            other.copy_from_slice(&value(2, 300));
            assert_eq!(*kept.view().unwrap(), *value(0, 300));
            change.commit().unwrap();
            drop(other);
            assert_eq!(*kept.view().unwrap(), *value(2, 300));
            assert_eq!(*dropped.view().unwrap(), *value(1, 300));
            assert_eq!((kept.status().epoch, kept.status().version), (7, 1));
        });
    });
}

fn record(secret: &Secret) -> &'static mut [u8] {
    let AtRest { address, len, .. } = secret.status().at_rest.unwrap();
    // SAFETY: a record of a secret that nobody uses meanwhile.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut(address), len) }
}

#[test]
fn what_was_damaged_stays_so_and_keeps_no_old_key() {
    case("what_was_damaged_stays_so_and_keeps_no_old_key").run(|| {
        on_each_hold(|hold| {
            let before = Footprint::now();
            let vault = builder(hold).build().unwrap();
            let secrets = make_many(&vault, 60);
            // In the nonce, in the tag, at the end.
            let hurt = [make(&vault, 1, 100), make(&vault, 2, 100), make(&vault, 3, 100)];
            for (secret, at) in hurt.iter().zip([0, 40, 147]) {
                record(secret)[at] ^= 0x10;
                assert_eq!(secret.view().err(), Some(Error::Tampered));
            }
            for epoch in 2..4 {
                vault.refresh().unwrap();
                let refreshed = vault.finish_refresh(LONG).unwrap();
                assert_eq!((refreshed.moved, refreshed.damaged), (63, 3));
                assert_eq!((vault.status().epoch, vault.status().keys), (epoch, 1));
                for secret in &hurt {
                    assert_eq!(secret.view().err(), Some(Error::Tampered));
                    assert_eq!(secret.view_mut().err(), Some(Error::Tampered));
                }
            }
            assert_right(&secrets);
            hurt[0].close().unwrap();
            drop((hurt, secrets, vault));
            before.assert_same(format_args!("with {hold:?}"));
        });
    });
}

#[test]
fn large_secrets_and_streams_move_too() {
    case("large_secrets_and_streams_move_too").run(|| {
        on_each_hold(|hold| {
            let vault = builder(hold).build().unwrap();
            let lens = [100 * 1024, 1 << 20, 1, 5000, 3 << 20];
            let large: Vec<_> = lens.iter().enumerate().map(|(n, &len)| make(&vault, n, len)).collect();
            let data = value(9, 1_000_000);
            let mut whole = vault.stream().chunk_size(10_000).build().unwrap();
            whole.write_all(&data).unwrap();
            let mut read = vec![0; 433_333];
            whole.read_exact(&mut read).unwrap();
            let mut half = vault.stream().chunk_size(10_000).build().unwrap();
            half.write_all(&data[..555_555]).unwrap();
            let chunks = (whole.chunks() + half.chunks()) as u64;

            vault.refresh().unwrap();
            let refreshed = vault.finish_refresh(LONG).unwrap();
            assert_eq!((refreshed.moved, refreshed.damaged), (5 + chunks, 0));
            assert_eq!(vault.status().keys, 1);
            assert_right(&large);
            whole.read_to_end(&mut read).unwrap();
            assert!(read == data);
            half.write_all(&data[555_555..]).unwrap();
            vault.refresh().unwrap();
            let mut read = Vec::new();
            half.read_to_end(&mut read).unwrap();
            assert!(read == data);
            vault.finish_refresh(LONG).unwrap();
            for stream in [&mut whole, &mut half] {
                stream.rewind().unwrap();
                read.clear();
                stream.read_to_end(&mut read).unwrap();
                assert!(read == data);
            }
            assert_right(&large);
        });
    });
}

// ---- beside others ----

const COUNTERS: usize = 6;

/// A counter's value: the number, its complement, and many copies, so that a mixture shows.
fn count_to_bytes(count: u64) -> [u8; 160] {
    let mut bytes = [0; 160];
    for (at, chunk) in bytes.chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&if at % 2 == 0 { count } else { !count }.to_le_bytes());
    }
    bytes
}

fn bytes_to_count(bytes: &[u8]) -> u64 {
    let count = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(*bytes == count_to_bytes(count), "a mixture");
    count
}

#[test]
fn no_update_is_lost_and_no_reader_fails_beside_refreshes() {
    case("no_update_is_lost_and_no_reader_fails_beside_refreshes").run(|| {
        on_each_hold(|hold| {
            let vault = builder(hold).build().unwrap();
            let make = |_| vault.secret().from_bytes(&mut count_to_bytes(0)).unwrap();
            // The first half is counted up by everybody, each of the second by one thread, with `replace`.
            let secrets: Vec<Secret> = (0..COUNTERS).map(make).collect();
            let others = make_many(&vault, 100);
            let (stop, refreshes) = (AtomicBool::new(false), AtomicU64::new(0));
            let counts: Vec<AtomicU64> = (0..COUNTERS).map(|_| AtomicU64::new(0)).collect();
            let on = || !stop.load(Ordering::Relaxed);
            std::thread::scope(|scope| {
                for thread in 0..COUNTERS / 2 {
                    let (secrets, counts, on) = (&secrets, &counts, &on);
                    scope.spawn(move || {
                        let (mut round, mut own) = (thread, 0);
                        while on() {
                            round += 1;
                            let shared = round % (COUNTERS / 2);
                            let mut change = secrets[shared].view_mut().unwrap();
                            let count = bytes_to_count(&change) + 1;
                            change.copy_from_slice(&count_to_bytes(count));
                            change.commit().unwrap();
                            counts[shared].fetch_add(1, Ordering::Relaxed);
                            own += 1;
                            secrets[COUNTERS / 2 + thread].replace(&mut count_to_bytes(own)).unwrap();
                            counts[COUNTERS / 2 + thread].store(own, Ordering::Relaxed);
                        }
                    });
                }
                for _ in 0..2 {
                    let (secrets, others, on) = (&secrets, &others, &on);
                    scope.spawn(move || {
                        let mut least = [0; COUNTERS];
                        while on() {
                            for (secret, least) in secrets.iter().zip(&mut least) {
                                let count = bytes_to_count(&secret.view().unwrap());
                                assert!(count >= *least, "an older value");
                                *least = count;
                            }
                            let other = least.iter().sum::<u64>() as usize % others.len();
                            assert_eq!(*others[other].view().unwrap(), *value(other, others[other].len()));
                        }
                    });
                }
                scope.spawn(|| {
                    while on() {
                        vault.refresh().unwrap();
                        vault.finish_refresh(LONG).unwrap();
                        refreshes.fetch_add(1, Ordering::Relaxed);
                    }
                });
                // Not before both are seen beside each other, also where a processor is slow.
                let (begin, few) = (Instant::now(), || {
                    counts.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>() <= 100
                        || refreshes.load(Ordering::Relaxed) <= 5
                });
                while begin.elapsed() < 2 * SECOND || (few() && begin.elapsed() < LONG) {
                    std::thread::sleep(SECOND / 10);
                }
                stop.store(true, Ordering::Relaxed);
            });
            for (secret, count) in secrets.iter().zip(&counts) {
                assert_eq!(bytes_to_count(&secret.view().unwrap()), count.load(Ordering::Relaxed));
            }
            assert_right(&others);
            let all: u64 = counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
            println!("{hold:?}: {all} changes, {refreshes:?} refreshes");
            assert!(all > 100 && refreshes.load(Ordering::Relaxed) > 5);
        });
    });
}

// ---- keys that are due by themselves ----

#[test]
fn a_key_is_replaced_after_so_many_seals() {
    case("a_key_is_replaced_after_so_many_seals").run(|| {
        on_each_hold(|hold| {
            for seals in [1, 2, 10] {
                let vault = builder(hold).refresh_after_seals(seals).build().unwrap();
                for made in 1..=40_u64 {
                    drop(make(&vault, 1, 20));
                    // The one whose creation has replaced the key is moved at once, which is a seal as well.
                    let epoch = if seals == 1 { 1 + made } else { 1 + (made - 1) / (seals - 1) };
                    let status = vault.status();
                    assert_eq!((status.epoch, status.keys), (epoch, 1), "{made} of {seals}");
                }
                let secrets = make_many(&vault, 100);
                let epoch = vault.status().epoch;
                for number in 0..300 {
                    let number = number % secrets.len();
                    secrets[number].replace(&mut value(number, secrets[number].len())).unwrap();
                    assert!(vault.status().keys <= 4);
                }
                assert_right(&secrets);
                assert!(vault.status().epoch > epoch);
                vault.finish_refresh(LONG).unwrap();
                assert_eq!(vault.status().keys, 1);
                assert_right(&secrets);
            }
        });
    });
}

#[test]
fn where_a_new_key_is_refused_work_goes_on_under_the_old_one() {
    case("where_a_new_key_is_refused_work_goes_on_under_the_old_one").run(|| {
        common::need("split");
        let vault = builder(Hold::Split).refresh_after_seals(5).build().unwrap();
        let secret = make(&vault, 0, 50);
        let refuse = || inject::fail(Call::MemfdCreate, Plan::Always { errno: errno::EMFILE });
        let refused = |vault: &Vault| match vault.status().refresh_refused {
            Some(Error::System(cause) | Error::HoldRefused(cause)) => {
                (cause.call, cause.errno) == (Call::MemfdCreate, errno::EMFILE)
            }
            None => false,
            Some(other) => panic!("{other:?}"),
        };
        let plan = refuse();
        for _ in 0..20 {
            secret.replace(&mut value(0, 50)).unwrap();
        }
        assert_eq!((vault.status().epoch, vault.status().keys), (1, 1));
        assert!(refused(&vault) && plan.calls() == 1, "it is not tried at every seal");
        drop(plan);
        for _ in 0..1000 {
            secret.replace(&mut value(0, 50)).unwrap();
        }
        assert!(vault.status().epoch > 1 && !refused(&vault));

        common::need("split");
        let vault = builder(HOLD).refresh_after_seals(5).build().unwrap();
        let secret = make(&vault, 0, 50);
        let plan = refuse();
        (0..9).for_each(|_| secret.replace(&mut value(0, 50)).unwrap());
        assert!(refused(&vault));
        drop(plan);
        // One that succeeds ends the pause.
        vault.refresh().unwrap();
        assert!(!refused(&vault));
        (0..6).for_each(|_| secret.replace(&mut value(0, 50)).unwrap());
        assert_eq!(vault.status().epoch, 3);
        assert_eq!(*secret.view().unwrap(), *value(0, 50));
    });
}

#[test]
fn a_key_is_replaced_when_it_is_old() {
    case("a_key_is_replaced_when_it_is_old").run(|| {
        let age = Duration::from_millis(100);
        on_each_hold(|hold| {
            let vault = builder(hold).refresh_after(age).build().unwrap();
            let secret = make(&vault, 0, 50);
            for _ in 0..3 {
                let epoch = vault.status().epoch;
                std::thread::sleep(2 * age);
                assert_eq!(*secret.view().unwrap(), *value(0, 50));
                assert_eq!(vault.status().epoch, epoch, "a read changes nothing");
                drop(make(&vault, 1, 50));
                assert_eq!((vault.status().epoch, vault.status().keys), (epoch + 1, 1));
                assert_eq!(*secret.view().unwrap(), *value(0, 50));
            }
        });
    });
}

// ---- purge ----

/// Secrets of all kinds, before and after a purge.
struct Scene {
    vault: Vault,
    secrets: Vec<Secret>,
    paged: Vec<Secret>,
    written: SecretStream,
    read: SecretStream,
}

impl Scene {
    fn new(hold: Hold, count: usize) -> Self {
        let vault = builder(hold).build().unwrap();
        let secrets = make_many(&vault, count);
        let paged = (0..4)
            .map(|number| vault.secret().store(Store::Paged).from_bytes(&mut value(number, 6000)).unwrap());
        let paged = paged.collect();
        let mut written = vault.stream().chunk_size(1000).build().unwrap();
        written.write_all(&value(1, 4500)).unwrap();
        let mut read = vault.stream().chunk_size(1000).build().unwrap();
        read.write_all(&value(1, 4500)).unwrap();
        read.read_exact(&mut [0; 2500]).unwrap();
        Self { vault, secrets, paged, written, read }
    }

    fn assert_purged(&mut self) {
        assert_purged(&self.secrets);
        for secret in &self.paged {
            assert_eq!(secret.view().err(), Some(Error::Closed));
            assert_eq!(secret.view_mut().err(), Some(Error::Closed));
            assert_eq!(secret.status().at_rest, None);
        }
        let inside = |error: std::io::Error| Error::try_from_io(&error);
        for _ in 0..2 {
            assert_eq!(self.written.write(&[1]).map_err(inside), Err(Some(Error::Purged)));
            assert_eq!(self.written.finish(), Err(Error::Purged));
            // What is left of the chunk that was open, and no more.
            let rest = self.read.read(&mut [0; 500]).map_err(inside);
            assert!(matches!(rest, Ok(500) | Err(Some(Error::Purged))), "{rest:?}");
        }
        assert_eq!(self.read.rewind(), Ok(()));
        assert_eq!(self.read.read(&mut [0; 10]).map_err(inside), Err(Some(Error::Purged)));
    }
}

/// What is inside an error of a stream.
trait TryFromIo {
    fn try_from_io(error: &std::io::Error) -> Option<Error>;
}

impl TryFromIo for Error {
    fn try_from_io(error: &std::io::Error) -> Option<Error> {
        error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).copied()
    }
}

#[test]
fn a_purge_ends_everything_and_the_vault_goes_on() {
    case("a_purge_ends_everything_and_the_vault_goes_on").run(|| {
        on_each_hold(|hold| {
            drop(Scene::new(hold, 10));
            let before = Footprint::now();
            let mut scene = Scene::new(hold, 1000);
            // In more than one epoch.
            scene.vault.refresh().unwrap();
            let last = make(&scene.vault, 2, 64);
            let (files, count) = (share_files().len(), scene.vault.status().secrets);
            {
                let (view, owned) =
                    (scene.secrets[5].view().unwrap(), scene.secrets[6].owned_view().unwrap());
                let mut change = scene.secrets[8].view_mut().unwrap();
                let paged = scene.paged[0].view().unwrap();
                change.fill(1);
                scene.vault.purge().unwrap();
                assert_eq!(*view, *value(5, view.len()));
                owned.with(|bytes| assert_eq!(*bytes, *value(6, bytes.len()))).unwrap();
                assert_eq!(*paged, *value(0, 6000));
                assert_eq!(scene.secrets[5].view().err(), Some(Error::Purged));
                view.finish().unwrap();
                assert_eq!(change.commit().err(), Some(Error::Purged));
                paged.finish().unwrap();
            }
            let status = scene.vault.status();
            assert_eq!((status.epoch, status.keys), (3, 1));
            assert_eq!(status.secrets, count - 4, "all but the paged ones have their handles still");
            assert!(share_files().len() < files || files == 0);
            scene.assert_purged();
            assert_eq!(last.view().err(), Some(Error::Purged));

            let mut new = make_many(&scene.vault, 50);
            scene.vault.refresh().unwrap();
            assert_eq!(scene.vault.finish_refresh(LONG).unwrap().moved, 50, "only what is left");
            assert_right(&new);
            let mut stream = scene.vault.stream().build().unwrap();
            stream.write_all(b"goes on").unwrap();
            assert_eq!(std::io::read_to_string(&mut stream).unwrap(), "goes on");
            // Old handles close and drop as usual, and may be used up by the next ones.
            scene.secrets[0].close().unwrap();
            drop(scene.secrets.split_off(500));
            new.extend((50..100).map(|number| make(&scene.vault, number, 1 + number * 613 % 5000)));
            assert_right(&new);
            scene.assert_purged_again(&new);
            drop((scene, new, stream, last));
            before.assert_same(format_args!("with {hold:?}"));
        });
    });
}

impl Scene {
    /// A second purge, and a third.
    fn assert_purged_again(&mut self, new: &[Secret]) {
        self.vault.purge().unwrap();
        assert_purged(new);
        assert_purged(&self.secrets[1..]);
        self.vault.purge().unwrap();
        let newer = make(&self.vault, 1, 100);
        assert_right(&[make(&self.vault, 0, 100)]);
        assert_eq!(self.vault.status().keys, 1);
        drop(newer);
    }
}

#[test]
fn a_purge_beside_all_others_gives_no_wrong_byte_and_no_other_error() {
    case("a_purge_beside_all_others_gives_no_wrong_byte_and_no_other_error").run(|| {
        on_each_hold(|hold| {
            let vault = builder(hold).policy(Policy::new().wait(20 * SECOND)).build().unwrap();
            let secrets: Vec<_> =
                (0..16).map(|number| Mutex::new(Arc::new(make(&vault, number, 90)))).collect();
            let (stop, done, purged) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
            let judge = |outcome: Result<(), Error>| match outcome {
                Ok(()) => done.fetch_add(1, Ordering::Relaxed),
                Err(Error::Purged) => purged.fetch_add(1, Ordering::Relaxed),
                Err(other) => panic!("{other:?}"),
            };
            let pick = |number: usize| Arc::clone(&secrets[number].lock().unwrap());
            let works: [&(dyn Fn(usize) + Sync); 6] = [
                &|number| {
                    let secret = pick(number);
                    judge(secret.view().map(|view| assert_eq!(*view, *value(number, 90))));
                },
                &|number| {
                    let change = |secret: &Secret| {
                        let mut change = secret.view_mut()?;
                        assert_eq!(*change, *value(number, 90));
                        change.copy_from_slice(&value(number, 90));
                        change.commit()
                    };
                    // One writer for each, or they would wait for each other.
                    judge(change(&pick(number)));
                },
                &|number| {
                    judge(vault.secret().from_bytes(&mut value(number, 90)).map(|made| {
                        drop(std::mem::replace(&mut *secrets[number].lock().unwrap(), Arc::new(made)));
                    }));
                },
                &|number| {
                    judge(vault.secret().init_with(90, |room| room.copy_from_slice(&value(number, 90))).map(
                        |made| {
                            *secrets[number].lock().unwrap() = Arc::new(made);
                        },
                    ));
                },
                &|_| {
                    judge(vault.refresh());
                    judge(vault.finish_refresh(LONG).map(drop));
                },
                &|_| {
                    vault.purge().unwrap();
                    std::thread::sleep(Duration::from_micros(300));
                },
            ];
            std::thread::scope(|scope| {
                for work in works {
                    let stop = &stop;
                    scope.spawn(move || {
                        for number in (0..16).cycle() {
                            if stop.load(Ordering::Relaxed) {
                                break;
                            }
                            work(number);
                        }
                    });
                }
                std::thread::sleep(2 * SECOND);
                stop.store(true, Ordering::Relaxed);
            });
            println!("{hold:?}: {done:?} done, {purged:?} purged, epoch {}", vault.status().epoch);
            assert!(done.into_inner() > 100 && purged.into_inner() > 10);
            vault.purge().unwrap();
            for number in 0..16 {
                assert_eq!(pick(number).view().err(), Some(Error::Purged));
            }
            drop(secrets);
            vault.refresh().unwrap();
            assert_eq!((vault.status().keys, vault.status().secrets), (1, 0));
        });
    });
}

// ---- forks ----

#[cfg(target_os = "linux")]
#[test]
fn a_child_has_no_part_in_its_parents_epochs() {
    case("a_child_has_no_part_in_its_parents_epochs").run(|| {
        on_each_hold(|hold| {
            let vault = builder(hold).build().unwrap();
            let secrets = make_many(&vault, 100);
            vault.refresh().unwrap();
            let _few = make(&vault, 0, 10);
            vault.refresh().unwrap();
            assert_eq!(vault.status().keys, 3);
            let status = in_child(|| {
                let forked = Some(Error::Forked);
                let calls = [
                    vault.refresh().err(),
                    vault.finish_refresh(SECOND).err(),
                    vault.purge().err(),
                    vault.secret().random(8).err(),
                    secrets[0].view().err(),
                    secrets[0].replace(&mut [0]).err(),
                ];
                let own = builder(hold).build().unwrap();
                let kept = make_many(&own, 20);
                own.refresh().unwrap();
                own.finish_refresh(LONG).unwrap();
                assert_right(&kept);
                own.purge().unwrap();
                assert_purged(&kept);
                calls == [forked; 6]
            });
            assert_eq!(status, 0);
            assert_right(&secrets);
            assert!(vault.finish_refresh(LONG).unwrap().moved > 50);
            assert_right(&secrets);
            assert_eq!(vault.status().keys, 1);
            // In the middle of refreshes.
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        vault.refresh().unwrap();
                        vault.finish_refresh(LONG).unwrap();
                    }
                });
                let until = Instant::now() + SECOND;
                while Instant::now() < until {
                    // No lock is taken there: it is alone, and another thread may have had it.
                    let child = || {
                        secrets.iter().all(|secret| secret.view().err() == Some(Error::Forked))
                            && vault.refresh().err() == Some(Error::Forked)
                            && vault.purge().err() == Some(Error::Forked)
                    };
                    assert_eq!(in_child(child), 0);
                    assert_right(&secrets[..10]);
                }
                stop.store(true, Ordering::Relaxed);
            });
            assert_right(&secrets);
        });
    });
}

// ---- windows that are long ----

/// While it lives, what this thread does with a key in hand takes so long.
fn be_slow(duration: Duration) -> [inject::Injection; 3] {
    [Call::Pread, Call::Mprotect, Call::Getrandom]
        .map(|call| inject::fail(call, Plan::DelayEach { duration }))
}

#[test]
fn readers_writers_and_movers_that_are_held_up_lose_nothing() {
    case("readers_writers_and_movers_that_are_held_up_lose_nothing").run(|| {
        for hold in [HOLD, Hold::Guarded] {
            for slow in ["reader", "writer", "mover"] {
                let vault = builder(hold).policy(Policy::new().wait(20 * SECOND)).build().unwrap();
                let counter = vault.secret().from_bytes(&mut count_to_bytes(0)).unwrap();
                let others = make_many(&vault, 40);
                let stop = AtomicBool::new(false);
                let on = || !stop.load(Ordering::Relaxed);
                let slowly = |role| (role == slow).then(|| be_slow(Duration::from_millis(3)));
                let counted = std::thread::scope(|scope| {
                    scope.spawn(|| {
                        let _slow = slowly("reader");
                        let mut least = 0;
                        while on() {
                            let count = bytes_to_count(&counter.view().unwrap());
                            assert!(count >= least);
                            least = count;
                        }
                    });
                    let writer = scope.spawn(|| {
                        let _slow = slowly("writer");
                        let mut counted = 0;
                        while on() {
                            let mut change = counter.view_mut().unwrap();
                            let count = bytes_to_count(&change) + 1;
                            change.copy_from_slice(&count_to_bytes(count));
                            change.commit().unwrap();
                            counted += 1;
                        }
                        counted
                    });
                    let mover = scope.spawn(|| {
                        let _slow = slowly("mover");
                        let mut refreshes = 0;
                        while on() {
                            vault.refresh().unwrap();
                            vault.finish_refresh(LONG).unwrap();
                            refreshes += 1;
                        }
                        refreshes
                    });
                    std::thread::sleep(SECOND);
                    stop.store(true, Ordering::Relaxed);
                    println!("{hold:?}, slow {slow}: {} refreshes", mover.join().unwrap());
                    writer.join().unwrap()
                });
                assert_eq!(bytes_to_count(&counter.view().unwrap()), counted);
                assert!(counted > 1);
                assert_right(&others);
                vault.finish_refresh(LONG).unwrap();
                assert_eq!(vault.status().keys, 1);
            }
        }
    });
}

#[test]
fn a_purge_that_cannot_wait_for_a_reader_says_so_and_has_purged() {
    case("a_purge_that_cannot_wait_for_a_reader_says_so_and_has_purged").run(|| {
        for hold in [HOLD, Hold::Guarded] {
            let wait = Duration::from_millis(20);
            let vault = builder(hold).policy(Policy::new().wait(wait)).build().unwrap();
            let secrets = make_many(&vault, 10);
            // With all the scratch that there will be.
            vault.refresh().unwrap();
            vault.finish_refresh(LONG).unwrap();
            assert_right(&secrets);
            let one_key = (share_files().len(), vault.status().locked_bytes);
            let reading = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    let _slow = be_slow(SECOND);
                    reading.store(true, Ordering::Release);
                    secrets[3].view().map(|view| assert_eq!(*view, *value(3, view.len())))
                });
                while !reading.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                std::thread::sleep(Duration::from_millis(100));
                let began = Instant::now();
                assert!(matches!(vault.purge(), Err(Error::Timeout { .. })));
                assert!(began.elapsed() < SECOND / 2);
                assert_purged(&secrets[..3]);
                let new = make_many(&vault, 10);
                assert_right(&new);
                let outcome = reader.join().unwrap();
                assert!(matches!(outcome, Ok(()) | Err(Error::Purged)), "{outcome:?}");
                vault.refresh().unwrap();
                vault.finish_refresh(LONG).unwrap();
                assert_right(&new);
                // The old key is destroyed as well by now.
                assert_eq!(vault.status().keys, 1);
                assert_eq!((share_files().len(), vault.status().locked_bytes), one_key);
            });
            assert_purged(&secrets);
        }
    });
}

#[test]
fn a_purge_says_which_pages_it_could_not_wipe() {
    case("a_purge_says_which_pages_it_could_not_wipe").run(|| {
        // A key in closed pages could not be wiped either.
        common::need("split");
        let vault = builder(HOLD).build().unwrap();
        let sealed = vault.secret().from_bytes(&mut [7; 32]).unwrap();
        let paged = vault.secret().store(Store::Paged).from_bytes(&mut [8; 32]).unwrap();
        let refused = inject::fail(Call::Mprotect, Plan::Always { errno: errno::ENOMEM });
        let outcome = vault.purge();
        drop(refused);
        assert!(matches!(outcome, Err(Error::StuckOpen(_))), "{outcome:?}");
        assert_eq!(sealed.view().err(), Some(Error::Purged));
        assert_eq!(vault.status().secrets, 2, "the pages are still there");
        // Whoever comes next finds it closed, and wipes it.
        assert_eq!(paged.view().err(), Some(Error::Closed));
        assert_eq!(vault.status().secrets, 1);
        assert!(paged.close().is_ok());
        assert!(vault.secret().from_bytes(&mut [9; 32]).unwrap().ct_eq_bytes(&[9; 32]).unwrap());
    });
}

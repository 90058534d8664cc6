//! Replicas of a split key's first share that are closed, cut, exchanged or replaced under the library's hands: the right
//! bytes or `KeyLost`, others' files untouched, and what was lost is made anew.
#![cfg(unix)]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests end by panics, and damage descriptors by raw calls"
)]

mod common;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::shares::{self, Host, close, set_share, share_in, truncate};
use common::{Footprint, case, share_files};
use securememory::testing::inject::{self, Plan};
use securememory::testing::skip_confirmation;
use securememory::{Call, Closed, Error, ErrorKind, Secret, Vault, WithError};

const OLD: [u8; 24] = *b"the value that was there";
const NEW: [u8; 24] = *b"a value that replaces it";

/// Places for shares B that a vault has in its life.
const PLACES: usize = common::shares::Anchor::PLACES;
/// Above it are the numbers of share files.
const LOW: i32 = usize::BITS as i32 / 2;
/// Fetches that do without a renewal after one was refused.
const PAUSE: usize = 1000;

fn split() -> (Vault, Secret, Vec<i32>) {
    let (vault, files) = shares::split();
    let secret = vault.secret().from_bytes(&mut OLD.clone()).unwrap();
    (vault, secret, files)
}

fn assert_value(secret: &Secret, value: &[u8]) {
    assert_eq!(secret.ct_eq_bytes(value), Ok(true));
}

/// All works, as if nothing had been.
fn assert_usable(secret: &Secret, value: &[u8]) {
    assert_value(secret, value);
    secret.replace(&mut NEW.clone()).unwrap();
    secret.owned_view().unwrap().with(|bytes| assert_eq!(bytes, NEW)).unwrap();
    assert_eq!(secret.close(), Ok(Closed::Closed));
}

/// Nothing goes, nothing changes, and the source stays.
fn assert_key_lost(vault: &Vault, secret: &Secret) {
    assert_eq!(secret.view().unwrap_err(), Error::KeyLost);
    assert_eq!(Error::KeyLost.kind(), ErrorKind::Damage);
    assert_eq!(secret.owned_view().unwrap_err(), Error::KeyLost);
    assert_eq!(secret.view_mut().unwrap_err(), Error::KeyLost);
    let mut source = NEW;
    assert_eq!(secret.replace(&mut source), Err(Error::KeyLost));
    assert_eq!(vault.secret().from_bytes(&mut source).unwrap_err(), Error::KeyLost);
    assert_eq!(source, NEW);
    assert_eq!(secret.derive(3, |_, _| panic!("called")).unwrap_err(), Error::KeyLost);
    assert_eq!(vault.status().secrets, 1);
    assert_eq!(secret.status().open_views, 0);
}

fn warm_up() {
    common::keep_stacks();
    let (_vault, secret, _) = split();
    read_from_all(&secret);
    assert_usable(&secret, &OLD);
}

/// Reads from so many threads at once that each replica is somebody's first.
fn read_from_all(secret: &Secret) {
    let barrier = Barrier::new(8);
    common::in_threads(&[(); 8], |()| {
        assert_value(secret, &OLD);
        barrier.wait();
    });
}

/// As many replicas as before, and so many renewals.
fn assert_renewed(vault: &Vault, replicas: usize, renewed: usize) {
    let status = vault.status();
    assert_eq!((status.replicas, status.replicas_renewed), (replicas, renewed));
}

#[test]
fn replicas_that_cannot_be_read() {
    case("replicas_that_cannot_be_read").run(|| {
        warm_up();
        let before = Footprint::now();
        let (vault, secret, files) = split();
        for plan in [Plan::Nth { n: 1, errno: libc::EIO }, Plan::ShortNth { n: 1 }] {
            let plan = inject::fail(Call::Pread, plan);
            assert_value(&secret, &OLD);
            assert_eq!(plan.calls(), 2 + files.len() as u64, "one fails, another serves; each is tried");
        }
        assert_renewed(&vault, files.len(), 0);
        {
            let plan = inject::fail(Call::Pread, Plan::Always { errno: libc::EIO });
            assert_eq!(secret.view().unwrap_err(), Error::KeyLost);
            assert_eq!(plan.calls(), files.len() as u64, "all are tried");
            assert_key_lost(&vault, &secret);
        }
        // A commit that finds the key lost: the old value is valid.
        let mut change = secret.view_mut().unwrap();
        change.copy_from_slice(&NEW);
        let plan = inject::fail(Call::Pread, Plan::Always { errno: libc::EBADF });
        assert_eq!(change.commit(), Err(Error::KeyLost));
        assert_renewed(&vault, 0, 0);
        drop(plan);
        assert_usable(&secret, &OLD);
        drop((secret, vault));
        before.assert_same("in the end");
    });
}

#[test]
fn files_that_are_cut() {
    case("files_that_are_cut").run(|| {
        warm_up();
        let before = Footprint::now();
        for len in [0, 1, 32, 63] {
            for lost in 0..2 {
                let (vault, secret, files) = split();
                truncate(files[lost], len);
                read_from_all(&secret);
                assert_renewed(&vault, files.len(), 1);
                // The file that was cut is ours to close.
                assert_eq!(share_files().len(), files.len());
                assert!(!share_files().contains(&files[lost]), "another number");
                assert_usable(&secret, &OLD);
                drop((secret, vault));
                before.assert_same(len);
            }
            let (vault, secret, files) = split();
            let shares: Vec<_> = files.iter().map(|&file| share_in(file)).collect();
            files.iter().for_each(|&file| truncate(file, len));
            assert_key_lost(&vault, &secret);
            // Of the right length again, but empty.
            // (By way of zero, since one byte that is lost may have been zero before.)
            files.iter().for_each(|&file| truncate(file, 0));
            files.iter().for_each(|&file| truncate(file, 64));
            assert_key_lost(&vault, &secret);
            assert_renewed(&vault, 0, 0);
            // Back as they were: lost is only what cannot be read now.
            files.iter().zip(&shares).for_each(|(&file, share)| set_share(file, share));
            assert_renewed(&vault, files.len(), 0);
            assert_usable(&secret, &OLD);
            drop((secret, vault));
            before.assert_same(len);
        }
        // Closed and dropped without a key.
        let (vault, secret, files) = split();
        files.iter().for_each(|&file| truncate(file, 0));
        let second = vault.secret().random(3);
        assert_eq!(second.unwrap_err(), Error::KeyLost);
        assert_eq!(secret.close(), Ok(Closed::Closed));
        drop((secret, vault));
        before.assert_same("without a key");
    });
}

#[test]
fn descriptors_that_the_host_closes_or_takes() {
    case("descriptors_that_the_host_closes_or_takes").run(|| {
        warm_up();
        let host = Host::new(&[0x5A; 100]);
        for lost in 0..2 {
            // One closed.
            let (vault, secret, files) = split();
            close(files[lost]);
            assert_eq!(vault.status().replicas, files.len() - 1);
            read_from_all(&secret);
            assert_renewed(&vault, files.len(), 1);
            // The number, now free, is taken by the host; it is not ours any more.
            host.take_over(files[lost]);
            read_from_all(&secret);
            assert_usable(&secret, &OLD);
            drop((secret, vault));
            host.assert_untouched(files[lost]);
            close(files[lost]);
            assert_eq!(share_files(), Vec::<i32>::new());
            // All but one.
            let (vault, secret, files) = split();
            let others = files.iter().enumerate().filter(|&(index, _)| index != lost);
            others.for_each(|(_, &file)| close(file));
            read_from_all(&secret);
            assert_renewed(&vault, files.len(), files.len() - 1);
            assert_usable(&secret, &OLD);
            drop((secret, vault));
            assert_eq!(share_files(), Vec::<i32>::new());
            // Closed, and the number taken by another file at once.
            let (vault, secret, files) = split();
            host.take_over(files[lost]);
            read_from_all(&secret);
            assert_renewed(&vault, files.len(), 1);
            host.assert_untouched(files[lost]);
            assert_usable(&secret, &OLD);
            drop((secret, vault));
            host.assert_untouched(files[lost]);
            close(files[lost]);
            assert_eq!(share_files(), Vec::<i32>::new());
        }
        // All of them.
        let (vault, secret, files) = split();
        files.iter().for_each(|&file| host.take_over(file));
        assert_key_lost(&vault, &secret);
        assert_renewed(&vault, 0, 0);
        assert_eq!(secret.close(), Ok(Closed::Closed));
        drop((secret, vault));
        for &file in &files {
            host.assert_untouched(file);
            close(file);
        }
        // All closed.
        let (vault, secret, files) = split();
        files.iter().for_each(|&file| close(file));
        assert_key_lost(&vault, &secret);
        drop((secret, vault));
        host.assert_untouched(host.file);
        // A child that inherited host's numbers and ours ends without a trace in ours.
        let (vault, secret, files) = split();
        close(files[0]);
        // SAFETY: the child only drops and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let gone = secret.view().map(drop) == Err(Error::Forked) && vault.status().replicas == 0;
            drop((secret, vault));
            std::process::exit(if gone { 9 } else { 1 });
        }
        let mut status = 0;
        // SAFETY: the number lives over the call.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(libc::WEXITSTATUS(status), 9);
        read_from_all(&secret);
        assert_renewed(&vault, files.len(), 1);
        assert_usable(&secret, &OLD);
    });
}

#[test]
fn shares_that_are_exchanged() {
    case("shares_that_are_exchanged").run(|| {
        let (stranger, strange_secret, strange_files) = split();
        let (vault, secret, files) = split();
        let shares: Vec<_> = files.iter().map(|&file| share_in(file)).collect();
        assert_ne!(shares[0], shares[1], "each replica has a share of its own");
        let restore = || files.iter().zip(&shares).for_each(|(&file, share)| set_share(file, share));
        // The share of another vault, in all replicas.
        files.iter().for_each(|&file| set_share(file, &share_in(strange_files[0])));
        assert_key_lost(&vault, &secret);
        restore();
        assert_value(&secret, &OLD);
        // Each byte by itself, in all: an error, and never other bytes.
        for at in 0..64 {
            let (vault, secret, files) = split();
            for &file in &files {
                change(file, at);
            }
            let read = secret.with(|bytes| assert_eq!(bytes, OLD));
            assert!(matches!(read, Err(WithError::NotRun(Error::KeyLost))), "{at}: {read:?}");
            // What has made a wrong key is not tried again; the check half alone is looked at each time.
            assert_renewed(&vault, if at < 32 { 0 } else { vault.status().replicas }, 0);
            files.iter().for_each(|&file| change(file, at));
            if at < 32 {
                assert_key_lost(&vault, &secret);
            } else {
                assert_usable(&secret, &OLD);
            }
            drop((secret, vault));
            files.iter().for_each(|file| assert!(!share_files().contains(file), "closed"));
        }
        assert_renewed(&vault, files.len(), 0);
        // The share of another vault, and that of another replica, in one: it is made anew elsewhere, and has a new share.
        for (renewed, share) in [share_in(strange_files[0]), shares[1]].into_iter().enumerate() {
            let now: Vec<i32> =
                share_files().into_iter().filter(|file| !strange_files.contains(file)).collect();
            assert_eq!(now.len(), files.len());
            set_share(now[0], &share);
            read_from_all(&secret);
            assert_renewed(&vault, files.len(), renewed + 1);
            let new: Vec<i32> = share_files().into_iter().filter(|file| !now.contains(file)).collect();
            for file in new.into_iter().filter(|file| !strange_files.contains(file)) {
                assert!(!shares.contains(&share_in(file)) && share_in(file) != share);
            }
        }
        assert_usable(&secret, &OLD);
        assert_usable(&strange_secret, &OLD);
        drop((vault, stranger));
    });
}

/// Loses replicas, one or all but one at a time, beside readers and a writer, who must not notice.
fn lose_beside_readers(what: &str, all_but_one: bool, lose: impl Fn(i32) + Sync) {
    let (vault, secret, files) = split();
    let replicas = files.len();
    secret.replace(&mut [1; 24]).unwrap();
    let stop = AtomicBool::new(false);
    let (reads, writes) = (AtomicU32::new(0), AtomicU32::new(0));
    let going = || !stop.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        for _ in 0..replicas {
            scope.spawn(|| {
                while going() {
                    let read = secret.with(|bytes| bytes.iter().all(|&byte| byte == bytes[0] && byte != 0));
                    assert_eq!(read.map_err(Error::from), Ok(true));
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            for byte in (1..=255).cycle() {
                secret.replace(&mut [byte; 24]).unwrap();
                let made = vault.secret().from_bytes(&mut [byte; 16]).unwrap();
                assert_value(&made, &[byte; 16]);
                writes.fetch_add(1, Ordering::Relaxed);
                if !going() {
                    break;
                }
            }
        });
        let guard = Stop(&stop);
        let mut renewed = 0;
        let each = if all_but_one { replicas - 1 } else { 1 };
        while renewed + each <= PLACES - replicas {
            let now: Vec<i32> = share_files();
            assert_eq!(now.len(), replicas, "{what}");
            (0..each).for_each(|index| lose(now[(renewed + index) % replicas]));
            renewed += each;
            let started = Instant::now();
            // Each replica is some reader's first, so all are found out.
            while vault.status().replicas_renewed < renewed {
                assert!(started.elapsed() < Duration::from_secs(20), "{what}: {:?}", vault.status());
                std::thread::yield_now();
            }
            assert_renewed(&vault, replicas, renewed);
            // Until the last file is closed that was lost.
            while share_files().len() > replicas {
                std::thread::yield_now();
            }
        }
        drop(guard);
    });
    eprintln!("{what}: {reads:?} reads, {writes:?} writes, {} renewals", vault.status().replicas_renewed);
    assert!(reads.load(Ordering::Relaxed) > 0 && writes.load(Ordering::Relaxed) > 0);
    secret.replace(&mut OLD.clone()).unwrap();
    assert_usable(&secret, &OLD);
}

/// Ends the threads also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn replicas_lost_beside_readers_and_writers_recover() {
    case("replicas_lost_beside_readers_and_writers_recover").run(|| {
        warm_up();
        let before = (share_files(), common::locked());
        lose_beside_readers("one closed", false, close);
        lose_beside_readers("all but one closed", true, close);
        lose_beside_readers("one cut", false, |file| truncate(file, 0));
        let host = Host::new(&[0x5A; 64]);
        let taken = std::sync::Mutex::new(Vec::new());
        for all_but_one in [false, true] {
            lose_beside_readers("replaced", all_but_one, |file| {
                host.take_over(file);
                taken.lock().unwrap().push(file);
            });
            // Also after the vault has ended.
            let mut taken = taken.lock().unwrap();
            taken.sort_unstable();
            taken.dedup();
            for file in taken.drain(..) {
                host.assert_untouched(file);
                close(file);
            }
        }
        assert_eq!((share_files(), common::locked()), before);
    });
}

/// All are lost at once beside readers and writers: the right bytes before, `KeyLost` after.
#[test]
fn all_lost_beside_readers_and_writers() {
    case("all_lost_beside_readers_and_writers").run(|| {
        warm_up();
        let host = Host::new(&[0x5A; 64]);
        for round in 0..60 {
            let (vault, secret, files) = split();
            let (begun, running) = (AtomicU32::new(0), AtomicU32::new(3));
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let error = loop {
                            match secret.ct_eq_bytes(&OLD) {
                                Ok(right) => assert!(right),
                                Err(error) => break error,
                            }
                            begun.fetch_add(1, Ordering::Relaxed);
                        };
                        running.fetch_sub(1, Ordering::Relaxed);
                        assert_eq!(error, Error::KeyLost);
                    });
                }
                scope.spawn(|| {
                    loop {
                        let mut source = OLD;
                        match secret.replace(&mut source) {
                            Ok(()) => continue,
                            Err(Error::KeyLost) => break assert_eq!(source, OLD),
                            // Readers that never pause can hold a writer up.
                            Err(Error::Timeout { .. }) => assert_eq!(source, OLD),
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                    running.fetch_sub(1, Ordering::Relaxed);
                });
                while begun.load(Ordering::Relaxed) < 20 {
                    std::thread::yield_now();
                }
                // Until all have noticed: what was just being made anew comes after all the others are gone.
                while running.load(Ordering::Relaxed) > 0 || vault.status().replicas > 0 {
                    // Not those in the making, which have low numbers for a moment.
                    for file in share_files().into_iter().filter(|&file| file > LOW) {
                        if round % 2 == 0 {
                            host.take_over(file);
                        } else {
                            // SAFETY: changes a file by its number, which the library may have closed by now.
                            unsafe { libc::ftruncate(file, 0) };
                        }
                    }
                }
            });
            assert_key_lost(&vault, &secret);
            drop((secret, vault));
            if round % 2 == 0 {
                // Those that were taken over, by all numbers they had.
                for number in files {
                    host.assert_untouched(number);
                }
                for number in numbers_of("the host's").into_iter().filter(|&number| number != host.file) {
                    host.assert_untouched(number);
                    close(number);
                }
            }
            assert_eq!(share_files(), Vec::<i32>::new());
        }
    });
}

fn numbers_of(name: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let named = entries.filter(|entry| {
        std::fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().contains(name))
    });
    named.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[test]
fn ten_thousand_closes_end_bounded() {
    case("ten_thousand_closes_end_bounded").run(|| {
        warm_up();
        let before = Footprint::now();
        let (vault, secret, files) = split();
        // One after the other, but never the last one. Once all places are used, what is closed stays closed; from then
        // on the stray hand finds nothing under its number.
        let mut number = -1;
        for round in 0..10_000 {
            let now = share_files();
            if now.len() > 1 {
                number = now[round % now.len()];
            }
            // SAFETY: changes no memory.
            let closed = unsafe { libc::close(number) } == 0;
            assert_eq!(closed, now.len() > 1);
            if closed {
                read_from_all(&secret);
            } else {
                assert_value(&secret, &OLD);
            }
            assert!(share_files().len() <= files.len());
        }
        let status = vault.status();
        assert_eq!(status.replicas_renewed, PLACES - files.len());
        assert_eq!(status.replicas, 1);
        assert_usable(&secret, &OLD);
        drop((secret, vault));
        before.assert_same("in the end");
    });
}

/// Each call of a renewal fails once: the old state, nothing open that was not open before, and later all are there again.
#[test]
fn renewals_that_are_refused() {
    case("renewals_that_are_refused").run(|| {
        warm_up();
        let first = first_of_this_thread();
        let before = Footprint::now();
        let mut hits = std::collections::BTreeMap::<&str, u32>::new();
        for call in [
            Call::MemfdCreate,
            Call::Fcntl,
            Call::Fchmod,
            Call::Ftruncate,
            Call::Fstat,
            Call::Getrandom,
            Call::Pwrite,
            Call::Sigprocmask,
            Call::Close,
        ] {
            for errno in [libc::EPERM, 0] {
                for (cut, n) in (1..20).flat_map(|n| [(false, n), (true, n)]) {
                    let (vault, secret, files) = split();
                    // One is lost that this thread meets, for it begins with one of the first two.
                    let lost = files[first];
                    if cut {
                        truncate(lost, 0)
                    } else {
                        close(lost)
                    }
                    let open = share_files().len();
                    let plan = if errno == 0 { Plan::ShortNth { n } } else { Plan::Nth { n, errno } };
                    let plan = inject::fail(call, plan);
                    assert_value(&secret, &OLD);
                    let hit = plan.calls() >= n;
                    drop(plan);
                    let status = vault.status();
                    let renewed = status.replicas_renewed == 1;
                    assert_eq!(status.replicas, files.len() - usize::from(!renewed));
                    // An fstat that fails leaves it unknown whose the descriptor is: hands off.
                    let unknown = hit && matches!(call, Call::Fstat);
                    let stays = usize::from(unknown);
                    let expected = if cut { files.len() } else { open + usize::from(renewed) };
                    assert!(
                        (expected..=expected + stays).contains(&share_files().len()),
                        "{call} {errno} {n} {cut} {renewed}: {} open, {expected} expected",
                        share_files().len(),
                    );
                    if !hit {
                        assert!(renewed, "{call} {errno} {n}");
                    }
                    if n == 1 && !renewed {
                        // Not at every read, but again.
                        (0..PAUSE).for_each(|_| assert_value(&secret, &OLD));
                        assert_renewed(&vault, files.len() - 1, 0);
                        assert_value(&secret, &OLD);
                        assert_renewed(&vault, files.len(), 1);
                    }
                    assert_usable(&secret, &OLD);
                    drop((secret, vault));
                    if unknown {
                        share_files().into_iter().for_each(close);
                    }
                    before.assert_same(format_args!("after {call} {errno} {n} {cut}"));
                    if !hit {
                        break;
                    }
                    if !renewed {
                        *hits.entry(call.name()).or_default() += 1;
                    }
                }
            }
        }
        eprintln!("refused: {hits:?}");
        for name in
            ["memfd_create", "fcntl", "fchmod", "ftruncate", "fstat", "getrandom", "pwrite", "sigprocmask"]
        {
            assert!(hits.contains_key(name), "{name} was never refused: {hits:?}");
        }
    });
}

/// Which of a vault's files this thread reads first; in all vaults the same one.
fn first_of_this_thread() -> usize {
    let replicas = split().2.len();
    let is_first = |index: &usize| {
        let (vault, secret, files) = split();
        change(files[*index], 40);
        assert_value(&secret, &OLD);
        vault.status().replicas_renewed == 1
    };
    (0..replicas).find(is_first).expect("one file is read")
}

// ---- the key half alone is overwritten: the check half knows nothing of it ----

/// Flips a bit of a share, or back.
fn change(file: i32, at: usize) {
    let mut share = share_in(file);
    share[at] ^= 0x10;
    set_share(file, &share);
}

/// What a host's `write` to a number that is not its own any more does to the file.
fn write_to(file: i32) {
    let before = share_in(file);
    // SAFETY: writes from a literal.
    assert_eq!(unsafe { libc::write(file, b"OK\n".as_ptr().cast(), 3) }, 3);
    let after = share_in(file);
    assert!(after.starts_with(b"OK\n") && after[3..] == before[3..], "at its beginning");
}

const STRAY: [fn(i32); 4] =
    [write_to, |file| change(file, 0), |file| change(file, 17), |file| change(file, 31)];

/// Makes a secret in each of so many threads at once that each replica is somebody's first.
fn seal_in_all(vault: &Vault) -> Vec<Result<Secret, Error>> {
    let barrier = Barrier::new(8);
    std::thread::scope(|scope| {
        let seal = || {
            let made = vault.secret().from_bytes(&mut NEW.clone());
            barrier.wait();
            made
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(seal)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn a_key_half_that_is_overwritten() {
    case("a_key_half_that_is_overwritten").run(|| {
        warm_up();
        let before = Footprint::now();
        for stray in STRAY {
            for lost in 0..2 {
                // First met by readers.
                let (vault, secret, files) = split();
                stray(files[lost]);
                read_from_all(&secret);
                assert_renewed(&vault, files.len(), 1);
                assert!(!share_files().contains(&files[lost]), "another number");
                assert_usable(&secret, &OLD);
                drop((secret, vault));
                before.assert_same("after reads");
                // By creations.
                let (vault, secret, files) = split();
                stray(files[lost]);
                for made in seal_in_all(&vault) {
                    assert_value(&made.unwrap(), &NEW);
                }
                assert_renewed(&vault, files.len(), 1);
                read_from_all(&secret);
                assert_usable(&secret, &OLD);
                drop((secret, vault));
                before.assert_same("after creations");
                // By a commit, of a change that began before.
                let (vault, secret, files) = split();
                let mut view = secret.view_mut().unwrap();
                view.copy_from_slice(&NEW);
                stray(files[lost]);
                view.commit().unwrap();
                common::in_threads(&[(); 8], |()| assert_value(&secret, &NEW));
                assert!(vault.status().replicas_renewed <= 1);
                assert_usable(&secret, &NEW);
                drop((secret, vault));
                before.assert_same("after a commit");
            }
            // All but one: a wrong key is not used to make another anew.
            let (vault, secret, files) = split();
            files[1..].iter().for_each(|&file| stray(file));
            read_from_all(&secret);
            for made in seal_in_all(&vault) {
                assert_value(&made.unwrap(), &NEW);
            }
            assert_renewed(&vault, files.len(), files.len() - 1);
            assert_usable(&secret, &OLD);
            drop((secret, vault));
            before.assert_same("after all but one");
        }
    });
}

/// What is at rest now, byte for byte.
fn record(secret: &Secret) -> Vec<u8> {
    let at = secret.status().at_rest.unwrap();
    // SAFETY: the secret lives, and nobody writes to it meanwhile.
    unsafe {
        std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(at.address), at.len).to_vec()
    }
}

#[test]
fn all_key_halves_that_are_overwritten() {
    case("all_key_halves_that_are_overwritten").run(|| {
        warm_up();
        let before = Footprint::now();
        for stray in STRAY {
            for commit_first in [true, false] {
                let (vault, secret, files) = split();
                let at_rest = record(&secret);
                let mut view = secret.view_mut().unwrap();
                view.copy_from_slice(&NEW);
                files.iter().for_each(|&file| stray(file));
                if commit_first {
                    assert_eq!(view.commit(), Err(Error::KeyLost));
                } else {
                    drop(view);
                }
                for made in seal_in_all(&vault) {
                    assert_eq!(made.unwrap_err(), Error::KeyLost);
                }
                assert_key_lost(&vault, &secret);
                assert_renewed(&vault, 0, 0);
                assert!(record(&secret) == at_rest, "nothing was published");
                drop((secret, vault));
                before.assert_same("in the end");
            }
            // One of them also closed: nothing is made anew from a wrong key.
            let (vault, secret, files) = split();
            close(files[0]);
            files[1..].iter().for_each(|&file| stray(file));
            assert_key_lost(&vault, &secret);
            assert_renewed(&vault, 0, 0);
            drop((secret, vault));
            before.assert_same("with a closed one");
        }
    });
}

/// How many of the secrets that were made beside an overwritten replica do not open under the vault's key.
fn wrong_beside_a_stray_write(stray: fn(i32)) -> usize {
    let (vault, secret, files) = split();
    let share = share_in(files[0]);
    stray(files[0]);
    let made = seal_in_all(&vault);
    skip_confirmation(false);
    if vault.status().replicas_renewed == 0 {
        set_share(files[0], &share);
    }
    read_from_all(&secret);
    let read = |made: Result<Secret, Error>| made.unwrap().ct_eq_bytes(&NEW);
    let outcomes: Vec<_> = made.into_iter().map(read).collect();
    assert!(outcomes.iter().all(|read| matches!(read, Ok(true) | Err(Error::Tampered))), "{outcomes:?}");
    outcomes.into_iter().filter(Result::is_err).count()
}

#[test]
fn without_the_confirmation_an_overwritten_key_half_seals_under_a_wrong_key() {
    case("without_the_confirmation_an_overwritten_key_half_seals_under_a_wrong_key").run(|| {
        warm_up();
        for stray in STRAY {
            assert_eq!(wrong_beside_a_stray_write(stray), 0);
            skip_confirmation(true);
            let wrong = wrong_beside_a_stray_write(stray);
            eprintln!("without the confirmation: {wrong} of 8 under a wrong key");
            assert!(wrong > 0, "the proof proves nothing");
        }
    });
}

//! Nothing is published that was sealed under a wrong key: beside a wipe of the key, beside a file that is swapped under
//! its number, beside a fork. Each proof is run a second time with the check switched off that it is a proof of,
//! and must fail then.
//!
//! A try is one creation or one commit. What was published is opened again under the vault's own key once the disturbance
//! is over; a sample is also opened from outside, by its documented format, with the true key and with keys that an
//! attacker could compute.
#![cfg(unix)]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests end by panics, and disturb the library by raw calls"
)]

mod common;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aegis::aegis256::Aegis256;
use common::shares::{self, Anchor, Host, share_in};
use common::{case, raw_clone, share_files};
use securememory::testing::{call_in_window, look_at_rest, skip_key_checks, wipe_key};
use securememory::{Cipher, Error, Secret, Vault};

const TRIES: usize = 120_000;
/// With the check switched off fewer will do.
const BROKEN_TRIES: u32 = 12_000;
/// Children in the proof beside forks: each costs as much as a hundred seals. `.ci/long wrong-key` makes 120,000.
const CHILDREN: u32 = 2_000;
const VALUE: [u8; 24] = *b"sealed beside a disturb.";

/// Each proof takes seconds on an idle machine.
const DEADLINE: Duration = Duration::from_secs(1200);

type Key = [u8; 32];

/// Opens what is at rest, as somebody would who has found it and guesses the key.
fn opens_under(key: &Key, secret: &Secret) -> Option<Vec<u8>> {
    let status = secret.status();
    assert_eq!(status.cipher, Some(Cipher::Aegis256), "the test knows this cipher");
    // SAFETY: the secret lives, and nobody writes to it meanwhile.
    let (version, epoch, record) = unsafe {
        let (version, epoch, (address, len)) = look_at_rest(secret).unwrap();
        let record = std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(address), len);
        (version, epoch, record.to_vec())
    };
    let mut bound = [0; 48];
    bound[..8].copy_from_slice(b"smv1\x01\0\0\0");
    bound[8..16].copy_from_slice(&status.vault_id.to_le_bytes());
    bound[16..24].copy_from_slice(&status.id.to_le_bytes());
    bound[24..32].copy_from_slice(&version.to_le_bytes());
    bound[32..40].copy_from_slice(&epoch.to_le_bytes());
    bound[40..48].copy_from_slice(&(status.len as u64).to_le_bytes());
    let nonce = record[..32].try_into().unwrap();
    let mut data = record[48..].to_vec();
    Aegis256::<16>::new(key, nonce)
        .decrypt_in_place(&mut data, record[32..48].try_into().unwrap(), &bound)
        .is_ok()
        .then_some(data)
}

fn half(share: &[u8; 64]) -> Key {
    share[..32].try_into().unwrap()
}

fn xor(a: Key, b: Key) -> Key {
    std::array::from_fn(|at| a[at] ^ b[at])
}

/// A vault, its true key, and keys that are easy to come by.
struct Target {
    vault: Vault,
    /// For commits; holds a number.
    changing: Secret,
    value: u64,
    files: Vec<i32>,
    anchor: Anchor,
    key: Key,
    easy: Vec<Key>,
}

impl Target {
    fn new() -> Self {
        let (vault, files) = shares::split();
        let changing = vault.secret().from_bytes(&mut 0_u64.to_le_bytes()).unwrap();
        if changing.status().cipher != Some(Cipher::Aegis256) {
            common::skip("this processor has no instructions for AES, and the test knows no other cipher");
        }
        let anchor = Anchor::find();
        let b = anchor.shares();
        let a: Vec<_> = files.iter().map(|&file| share_in(file)).collect();
        let pairs = || a.iter().flat_map(|a| b.iter().map(|b| xor(half(a), half(b))));
        let key = pairs().find(|key| opens_under(key, &changing).is_some()).expect("two shares make the key");
        let mut easy = vec![[0; 32]];
        easy.extend(a.iter().chain(&b).map(half));
        easy.extend(pairs().filter(|other| *other != key));
        Self { vault, changing, value: 0, files, anchor, key, easy }
    }

    /// One try. A creation that succeeds gives its secret.
    fn seal(&mut self, commit: bool) -> Result<Option<Secret>, Error> {
        if commit {
            self.changing.replace(&mut (self.value + 1).to_le_bytes())?;
            self.value += 1;
            return Ok(None);
        }
        self.vault.secret().from_bytes(&mut VALUE.clone()).map(Some)
    }

    /// Was it sealed under the vault's key? To be asked while nothing is disturbed.
    fn is_right(&self, made: Option<&Secret>) -> bool {
        let read = match made {
            Some(secret) => secret.ct_eq_bytes(&VALUE),
            None => self.changing.ct_eq_bytes(&self.value.to_le_bytes()),
        };
        match read {
            Ok(right) => right,
            Err(Error::Tampered) => false,
            Err(other) => panic!("{other:?}, though nothing is disturbed"),
        }
    }

    /// From outside: the true key opens it and no other does.
    fn assert_only_ours(&self, made: Option<&Secret>) {
        let value = self.value.to_le_bytes();
        let (secret, value) = made.map_or((&self.changing, &value[..]), |secret| (secret, &VALUE));
        assert_eq!(opens_under(&self.key, secret).as_deref(), Some(value));
        assert!(self.easy.iter().all(|key| opens_under(key, secret).is_none()));
    }

    /// Does one of the keys that are easy to come by open it?
    fn is_easy(&self, made: Option<&Secret>) -> bool {
        let secret = made.unwrap_or(&self.changing);
        self.easy.iter().any(|key| opens_under(key, secret).is_some())
    }
}

/// What came of the tries.
#[derive(Debug, Default)]
struct Tally {
    tries: u32,
    published: u32,
    refused: u32,
    /// Published, and the vault's key does not open it.
    wrong: u32,
    /// Of the first few of those: opened by a key that is easy to come by.
    easy: u32,
    /// Opened from outside.
    sampled: u32,
    /// Files that were made anew.
    renewed: usize,
    /// Vaults whose key was lost to the disturbance itself.
    given_up: u32,
}

impl Tally {
    fn note(&mut self, target: &mut Target, outcome: &Result<Option<Secret>, Error>) {
        self.tries += 1;
        match outcome {
            Ok(made) => {
                self.published += 1;
                if !target.is_right(made.as_ref()) {
                    self.wrong += 1;
                    if self.wrong <= 20 {
                        self.easy += u32::from(target.is_easy(made.as_ref()));
                    }
                    if made.is_none() {
                        // It cannot be changed again, since a commit begins by reading it.
                        target.value = 0;
                        target.changing = target.vault.secret().from_bytes(&mut 0_u64.to_le_bytes()).unwrap();
                    }
                } else if self.published.is_multiple_of(2000) {
                    target.assert_only_ours(made.as_ref());
                    self.sampled += 1;
                }
            }
            // Without the check of the fetched key: a commit that could not read what was there.
            Err(Error::KeyLost | Error::Forked | Error::Tampered) => {
                self.refused += 1;
                // Nothing has changed.
                assert!(target.is_right(None));
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    fn report(&self, what: &str, started: Instant) {
        eprintln!("{what}: {self:?} in {:.1} s", started.elapsed().as_secs_f64());
    }

    fn assert_proven(&self) {
        assert_eq!(self.wrong, 0, "sealed under a wrong key");
        assert!(self.given_up < 10, "{self:?}");
        assert!(self.published > self.tries / 100 && self.refused > self.tries / 1000, "{self:?}");
        assert!(self.sampled > 0);
    }

    fn assert_broken(&self) {
        assert!(self.wrong > 0 && self.easy > 0, "the proof proves nothing: {self:?}");
    }
}

/// A pseudorandom pause, up to about the length of a seal.
fn pause(random: &mut u32, most: u32) {
    *random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    for _ in 0..(*random >> 8) % most {
        std::hint::spin_loop();
    }
}

/// Waits for a word, without taking the processor from the one that changes it.
fn wait_for(word: &AtomicU32, mut wanted: impl FnMut(u32) -> bool) -> u32 {
    for look in 0_u32.. {
        let value = word.load(Ordering::Acquire);
        if wanted(value) {
            return value;
        }
        if look > 2000 { std::thread::yield_now() } else { std::hint::spin_loop() }
    }
    0
}

// ---- a wipe ----

const IDLE: u32 = 0;
const WIPE: u32 = 1;
/// As the kernel does it in a child: with the mark.
const FORK: u32 = 2;
const STOP: u32 = 3;
/// The one who disturbs is running, and begins now.
const READY: u32 = 4;

fn beside_a_wipe(tries: u32) -> Tally {
    let mut tally = Tally::default();
    while tally.tries < tries {
        let mut target = Target::new();
        let most = spins_of_a_seal(&mut target);
        let command = AtomicU32::new(IDLE);
        let saved = Mutex::new(target.anchor.shares());
        let (vault, anchor) = (target.vault.clone(), Anchor::find());
        *VAULT.lock().unwrap() = Some(vault.clone());
        let mut random = tally.tries;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                loop {
                    let what = wait_for(&command, |word| word != IDLE);
                    if what == STOP {
                        break;
                    }
                    command.store(READY, Ordering::Release);
                    pause(&mut random, most);
                    // Where the two take turns on one processor, each of these seals would come after its wipe.
                    if random >> 30 == 0 {
                        std::thread::yield_now();
                    }
                    *saved.lock().unwrap() = anchor.shares();
                    if what == FORK {
                        anchor.set_alive(false);
                    }
                    assert!(wipe_key(&vault));
                    command.store(IDLE, Ordering::Release);
                }
            });
            let stop = Set(&command, STOP);
            for round in 0..5000 {
                // A process whose mark is gone is a child, in which a writer ends without a trace: no commits there.
                let fork = round % 3 == 2;
                let commit = !fork && round % 2 == 0;
                let inside = round % INSIDE == INSIDE - 1;
                if inside {
                    *saved.lock().unwrap() = target.anchor.shares();
                    ACT.store(WIPE, Ordering::Relaxed);
                } else {
                    command.store(if fork { FORK } else { WIPE }, Ordering::Release);
                    // Or the wiper would mostly come too late.
                    wait_for(&command, |word| word == READY || word == IDLE);
                }
                let outcome = target.seal(commit);
                wait_for(&command, |word| word == IDLE);
                assert_eq!(ACT.load(Ordering::Relaxed), IDLE, "the seal had a window");
                target.anchor.restore(&saved.lock().unwrap());
                // Where a replica was made anew in the middle of the wipe, its share B is in a place that was not saved; and
                // with the last of them the key is gone.
                if target.changing.view().err() == Some(Error::KeyLost) {
                    assert!(target.vault.status().replicas_renewed > 0);
                    tally.given_up += 1;
                    break;
                }
                tally.note(&mut target, &outcome);
            }
            drop(stop);
        });
        *VAULT.lock().unwrap() = None;
    }
    tally
}

/// Sets a word at the end, also when the test fails.
struct Set<'a>(&'a AtomicU32, u32);

impl Drop for Set<'_> {
    fn drop(&mut self) {
        self.0.store(self.1, Ordering::Release);
    }
}

/// How long each seal waits with the key in hand, in turns of an idle loop: that widens the window.
static LINGER: AtomicU32 = AtomicU32::new(0);
/// What happens in the next seal's window itself, once: nothing, or one of the commands. Where two threads seldom run at
/// the same time, they would seldom meet there.
static ACT: AtomicU32 = AtomicU32::new(IDLE);
/// The vault that it happens to.
static VAULT: Mutex<Option<Vault>> = Mutex::new(None);
/// One of so many tries has its disturbance there.
const INSIDE: u32 = 8;

/// Called in every seal, between the check of its key and the use of it.
fn in_window() {
    (0..LINGER.load(Ordering::Relaxed)).for_each(|_| std::hint::spin_loop());
    match ACT.swap(IDLE, Ordering::Relaxed) {
        WIPE => assert!(VAULT.lock().unwrap().as_ref().is_some_and(wipe_key)),
        FORK => split_process(0),
        _ => {}
    }
}

/// About how many turns of an idle loop last as long as one and a half seals, which from here on wait in their window for
/// a part of that time.
fn spins_of_a_seal(target: &mut Target) -> u32 {
    call_in_window(in_window);
    LINGER.store(0, Ordering::Relaxed);
    let time = |mut work: Box<dyn FnMut() + '_>| {
        let begun = Instant::now();
        (0..50).for_each(|_| work());
        begun.elapsed().as_nanos() / 50
    };
    let seal = time(Box::new(|| drop(target.seal(false))));
    let turns = time(Box::new(|| (0..1000).for_each(|_| std::hint::spin_loop())));
    let longest = u32::try_from(seal * 1500 / turns.max(1)).unwrap_or(u32::MAX).clamp(100, 20_000);
    LINGER.store(longest / 4, Ordering::Relaxed);
    longest
}

#[test]
fn seals_beside_a_wipe() {
    case("seals_beside_a_wipe").deadline(DEADLINE).run(|| {
        let started = Instant::now();
        let tally = beside_a_wipe(common::tries(TRIES) as u32);
        tally.report("beside a wipe", started);
        tally.assert_proven();
    });
}

#[test]
fn without_the_second_look_seals_beside_a_wipe_go_wrong() {
    case("without_the_second_look_seals_beside_a_wipe_go_wrong").deadline(DEADLINE).run(|| {
        let started = Instant::now();
        skip_key_checks(false, true);
        let tally = beside_a_wipe(BROKEN_TRIES);
        tally.report("beside a wipe, without the second look", started);
        tally.assert_broken();
    });
}

// ---- a swapped file ----

/// Swaps files of a vault for one whose bytes everybody knows, and puts them back.
struct Swapper<'a> {
    host: &'a Host,
    anchor: &'a Anchor,
    key: Key,
    /// Under these numbers lie the vault's files now.
    live: Vec<i32>,
    /// So many may yet be made anew under other numbers.
    places: usize,
    random: u32,
    longest: u32,
}

impl Swapper<'_> {
    /// One file, or all of them, for a moment.
    fn swap(&mut self, numbers: &[i32], longest: u32) {
        // SAFETY: other numbers for the same files.
        let kept: Vec<i32> = numbers.iter().map(|&number| unsafe { libc::dup(number) }).collect();
        // None where the library has closed it: made anew since we looked.
        let pairs = || numbers.iter().zip(&kept).filter(|&(_, &kept)| kept >= 0);
        pairs().for_each(|(&number, _)| self.host.take_over(number));
        pause(&mut self.random, longest);
        for (&number, &kept) in pairs() {
            // SAFETY: what the number stands for now is the host's other number.
            assert_eq!(unsafe { libc::dup3(kept, number, libc::O_CLOEXEC) }, number);
            shares::close(kept);
        }
    }

    /// One file.
    fn swap_one(&mut self, round: usize) {
        let mut longest = self.longest;
        if self.places > 0 {
            self.look();
            // What is back when the library looks again is not made anew.
            longest *= 50;
        }
        if let Some(&number) = self.live.get(round % self.live.len().max(1)) {
            self.swap(&[number], longest);
        }
    }

    /// Looks which files the library reads now: those whose shares make the key. Of a file that was made anew elsewhere
    /// the second share is gone.
    fn look(&mut self) {
        let b = self.anchor.shares();
        self.places = b.iter().filter(|share| share[32..] == [0; 32]).count();
        self.live = share_files();
        self.live.retain(|&number| {
            let mut a = [0; 64];
            // SAFETY: within the array. The file may have been cut or closed meanwhile.
            let read = unsafe { libc::pread(number, a.as_mut_ptr().cast(), 64, 0) };
            number > LOW && read == 64 && b.iter().any(|b| xor(half(&a), half(b)) == self.key)
        });
    }
}

/// Above it are the numbers of share files.
const LOW: i32 = usize::BITS as i32 / 2;
/// Seals between two looks at what came of them.
const BATCH: usize = 50;

/// `without`: the checks that are off while seals are made.
fn beside_a_swap(tries: u32, without: (bool, bool)) -> Tally {
    let known = [0xA7; 64];
    let mut tally = Tally::default();
    while tally.tries < tries {
        let host = Host::new(&known);
        let mut target = Target::new();
        target.easy.extend(target.anchor.shares().iter().map(|b| xor(half(&known), half(b))));
        let longest = spins_of_a_seal(&mut target);
        let places = if without.0 { 0 } else { Anchor::PLACES - target.files.len() };
        let (anchor, key, live) = (&Anchor::find(), target.key, target.files.clone());
        let swapper = Swapper { host: &host, anchor, key, live, places, random: tally.tries, longest };
        let (turn, asked, swaps) = (Mutex::new(swapper), AtomicU32::new(WAIT), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0.. {
                    if wait_for(&asked, |word| word != WAIT) == STOP {
                        break;
                    }
                    let mut swapper = turn.lock().unwrap();
                    swaps.fetch_add(1, Ordering::Release);
                    // Never all while one is being made anew: then there would be no key for ever.
                    if round % 8 == 7 && swapper.places == 0 {
                        let all = swapper.live.clone();
                        let longest = swapper.longest;
                        swapper.swap(&all, longest);
                    } else {
                        swapper.swap_one(round);
                    }
                    let (mut random, longest) = (swapper.random, swapper.longest);
                    drop(swapper);
                    pause(&mut random, longest);
                }
            });
            let stop = Set(&asked, STOP);
            let mut outcomes = Vec::with_capacity(BATCH);
            for _ in 0..200 {
                let before = swaps.load(Ordering::Acquire);
                asked.store(IDLE, Ordering::Release);
                wait_for(&swaps, |swaps| swaps != before);
                skip_key_checks(without.0, without.1);
                // The commit is the last one, for it is judged by the value that is there afterwards.
                outcomes.extend((1..=BATCH).map(|n| target.seal(n == BATCH)));
                skip_key_checks(false, false);
                asked.store(WAIT, Ordering::Release);
                let quiet = turn.lock().unwrap();
                outcomes.drain(..).for_each(|outcome| tally.note(&mut target, &outcome));
                drop(quiet);
            }
            drop(stop);
        });
        tally.renewed += places - turn.into_inner().unwrap().places;
        drop(target);
        host.assert_untouched(host.file);
        shares::close(host.file);
        // Old files that we put back under their numbers.
        share_files().into_iter().for_each(shares::close);
    }
    tally
}

/// The swapper is to wait.
const WAIT: u32 = 9;

#[test]
fn seals_beside_a_swapped_file() {
    case("seals_beside_a_swapped_file").deadline(DEADLINE).run(|| {
        let started = Instant::now();
        let tally = beside_a_swap(common::tries(TRIES) as u32, (false, false));
        tally.report("beside a swapped file", started);
        tally.assert_proven();
        assert!(tally.renewed > 20);
    });
}

#[test]
fn without_checks_seals_beside_a_swapped_file_go_wrong() {
    case("without_checks_seals_beside_a_swapped_file_go_wrong").deadline(DEADLINE).run(|| {
        let started = Instant::now();
        let tally = beside_a_swap(BROKEN_TRIES, (true, true));
        tally.report("beside a swapped file, without checks", started);
        tally.assert_broken();
        // Either check alone is enough.
        let tally = beside_a_swap(BROKEN_TRIES, (true, false));
        tally.report("beside a swapped file, without the first look", started);
        tally.assert_proven();
    });
}

// ---- a fork ----

/// Are we the child?
static CHILD: AtomicBool = AtomicBool::new(false);
static CHILDREN_SEEN: AtomicU32 = AtomicU32::new(0);
/// How the children ended, by what they found; see [`judge`].
static FOUND: [AtomicU32; 6] = [const { AtomicU32::new(0) }; 6];

/// How the last strange child ended, as waitpid(2) tells.
static LAST_STRANGE: AtomicI32 = AtomicI32::new(0);

const FORKED: usize = 0;
/// Under the vault's key: the child began after the second look.
const RIGHT: usize = 1;
/// Under a key of zeros.
const EASY: usize = 2;
/// Under no key that we know.
const OTHER_KEY: usize = 3;
/// Nothing but zeros: the child began after the second look, and before the ciphertext left scratch.
const EMPTY: usize = 4;
/// Anything else.
const STRANGE: usize = 5;

/// Makes a child in the middle of whatever the thread does, without the C library and its hooks; and waits for it.
extern "C" fn split_process(_: libc::c_int) {
    // SAFETY: system calls, as a signal handler may make them; the child goes on where its parent was interrupted.
    unsafe {
        let errno = *libc::__errno_location();
        let child = raw_clone(libc::SIGCHLD);
        if child == 0 {
            libc::alarm(20);
            CHILD.store(true, Ordering::SeqCst);
        } else if child > 0 {
            let mut status = 0;
            while libc::waitpid(child, &raw mut status, 0) < 0 {}
            let found = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) as usize } else { STRANGE };
            if found >= STRANGE {
                LAST_STRANGE.store(status, Ordering::Relaxed);
            }
            FOUND[found.min(STRANGE)].fetch_add(1, Ordering::Relaxed);
            CHILDREN_SEEN.fetch_add(1, Ordering::Release);
        }
        *libc::__errno_location() = errno;
    }
}

/// In the child: what came of the seal that it was made in the middle of.
fn judge(target: &mut Target, outcome: Result<Option<Secret>, Error>) -> usize {
    match outcome {
        Err(Error::Forked) if target.seal(false).err() == Some(Error::Forked) => FORKED,
        Err(error) => {
            eprintln!("a child: {error:?}");
            STRANGE
        }
        Ok(made) => {
            let value = target.value.to_le_bytes();
            let (secret, value) =
                made.as_ref().map_or((&target.changing, &value[..]), |made| (made, &VALUE[..]));
            // SAFETY: the secret lives, and nobody else uses it.
            let ciphertext = unsafe {
                let Some((_, _, (address, len))) = look_at_rest(secret) else { return STRANGE };
                std::slice::from_raw_parts(std::ptr::with_exposed_provenance::<u8>(address + 48), len - 48)
            };
            if opens_under(&target.key, secret).is_some_and(|found| found == value) {
                RIGHT
            } else if opens_under(&[0; 32], secret).is_some() {
                EASY
            } else if ciphertext.ends_with(&[0; 8]) {
                EMPTY
            } else {
                OTHER_KEY
            }
        }
    }
}

/// A seal is interrupted by a fork in one of so many tries.
fn beside_a_fork(tries: u32, children: u32) -> Tally {
    let mut target = Target::new();
    let longest = spins_of_a_seal(&mut target);
    let mut tally = Tally::default();
    // SAFETY: a handler that makes system calls only; a signal that nobody else uses.
    let (thread, set) = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = split_process as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()), 0);
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGUSR1);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        (common::ThisThread::new(), set)
    };
    // SAFETY: as above.
    let mask = |how| unsafe { libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) };
    let sealing = AtomicU32::new(IDLE);
    std::thread::scope(|scope| {
        // Nothing here may allocate: a child might inherit the heap's lock.
        scope.spawn(|| {
            let mut random = 1;
            while wait_for(&sealing, |word| word != IDLE) != STOP {
                sealing.store(READY, Ordering::Release);
                pause(&mut random, longest);
                // SAFETY: the thread waits for this one at the end.
                unsafe { libc::pthread_kill(thread.name(), libc::SIGUSR1) };
                sealing.store(IDLE, Ordering::Release);
            }
        });
        let stop = Set(&sealing, STOP);
        let mut children_made = 0;
        for n in 0..tries {
            let fork = u64::from(n) * u64::from(children) / u64::from(tries)
                != u64::from(n + 1) * u64::from(children) / u64::from(tries);
            if fork && children_made % INSIDE == 0 {
                ACT.store(FORK, Ordering::Relaxed);
            } else if fork {
                sealing.store(FORK, Ordering::Release);
                wait_for(&sealing, |word| word != FORK);
            }
            children_made += u32::from(fork);
            mask(libc::SIG_UNBLOCK);
            let outcome = target.seal(n % 4 == 3);
            if fork && !CHILD.load(Ordering::SeqCst) {
                // The next one is for the next seal. The signal may come here: then the child waits for nobody.
                wait_for(&sealing, |word| word == IDLE || CHILD.load(Ordering::SeqCst));
            }
            mask(libc::SIG_BLOCK);
            if CHILD.load(Ordering::SeqCst) {
                let found = judge(&mut target, outcome);
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(found as i32) };
            }
            tally.note(&mut target, &outcome);
        }
        drop(stop);
    });
    tally
}

fn found() -> [u32; 6] {
    FOUND.each_ref().map(|count| count.load(Ordering::Relaxed))
}

#[test]
fn seals_beside_a_fork() {
    let children = std::env::var("SECUREMEMORY_WRONG_KEY_CHILDREN").ok().and_then(|text| text.parse().ok());
    case("seals_beside_a_fork").deadline(DEADLINE).run(|| {
        let started = Instant::now();
        let children = children.unwrap_or(CHILDREN);
        let tally = beside_a_fork(common::tries(TRIES) as u32, children);
        tally.report("beside a fork", started);
        let found = found();
        eprintln!(
            "children that were refused, right, under zeros, under another key, empty, strange: {found:?}"
        );
        assert_eq!(tally.published, tally.tries, "the parent notices nothing");
        let strange = LAST_STRANGE.load(Ordering::Relaxed);
        let wrong = (tally.wrong, found[EASY], found[OTHER_KEY], found[STRANGE]);
        assert_eq!(wrong, (0, 0, 0, 0), "the last strange child's status: {strange:#x}");
        assert!(found[FORKED] > children / 10 && found.iter().sum::<u32>() > children * 9 / 10);
    });
}

#[test]
fn without_the_second_look_seals_beside_a_fork_go_wrong() {
    case("without_the_second_look_seals_beside_a_fork_go_wrong").deadline(DEADLINE).run(|| {
        let started = Instant::now();
        skip_key_checks(false, true);
        let tally = beside_a_fork(BROKEN_TRIES, CHILDREN);
        tally.report("beside a fork, without the second look", started);
        let found = found();
        eprintln!(
            "children that were refused, right, under zeros, under another key, empty, strange: {found:?}"
        );
        assert!(found[EASY] > 0, "the proof proves nothing: {found:?}");
    });
}

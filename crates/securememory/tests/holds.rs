//! The key holds in which the key is used where it lies: `Pkey` and `Secretmem`. Who can touch the page, when; what a
//! child finds; what is left; every call that makes them refused.
//!
//! Each test runs in a process of its own, since most end by a fault, and since a process has one protection key for
//! all its vaults. Where the host has no protection keys or no secret memory, the case is skipped with the reason.
#![cfg(unix)]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests end by panics, and touch memory and signals by raw calls"
)]

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{Ending, Footprint, case, in_threads, skip};
use securememory::testing::TestGuard;
use securememory::testing::inject::{self, Plan};
use securememory::{
    Call, CallError, Error, Evidence, Hint, Hold, HoldUsed, Level, Policy, Protection, Secret, Store, Vault,
};

/// Where the holds of this file are to be had, a page of theirs has so many bytes.
const VALUE: &[u8; 32] = b"what is kept by a key in place..";

/// A vault with this hold and no other; skipped where it cannot be had.
fn vault(hold: Hold) -> Vault {
    match Vault::builder().store(Store::Sealed).hold(hold).hold_level(Level::Require).build() {
        Err(Error::HoldRefused(cause)) if may_lack(cause) => {
            skip(&format!("skipped: {hold:?} is not to be had here: {cause}"))
        }
        built => built.unwrap(),
    }
}

/// Is this how a host says that it has no protection keys, or no secret memory?
fn may_lack(cause: CallError) -> bool {
    match cause.call {
        Call::PkeyAlloc => matches!(cause.errno, libc::EINVAL | libc::ENOSPC | libc::ENOSYS | libc::EPERM),
        Call::MemfdSecret => matches!(cause.errno, libc::ENOSYS | libc::EPERM),
        _ => false,
    }
}

fn secret_of(vault: &Vault) -> Secret {
    let secret = vault.secret().from_bytes(&mut VALUE.to_vec()).unwrap();
    assert!(secret.ct_eq_bytes(VALUE).unwrap());
    secret
}

/// The mappings whose description in /proc/self/smaps is as asked: their first addresses.
fn mappings(is: impl Fn(&str, &[&str]) -> bool) -> Vec<usize> {
    let text = std::fs::read_to_string("/proc/self/smaps").expect("/proc/self/smaps");
    let mut found = Vec::new();
    let mut header = "";
    let mut lines = Vec::new();
    for line in text.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if first.ends_with(':') {
            lines.push(line);
        } else {
            (header, lines) = (line, Vec::new());
        }
        if first == "VmFlags:" && is(header, &lines) {
            let start = header.split('-').next().expect("an address");
            found.push(usize::from_str_radix(start, 16).expect("an address"));
        }
    }
    found
}

fn has_flags(lines: &[&str], flags: &[&str]) -> bool {
    let line = lines.iter().find(|line| line.starts_with("VmFlags:")).expect("flags");
    flags.iter().all(|flag| line.split_whitespace().any(|other| other == *flag))
}

/// Pages under a protection key, and the key.
fn keyed_pages() -> Vec<(usize, u32)> {
    let number = |lines: &[&str]| {
        let line = lines.iter().find_map(|line| line.strip_prefix("ProtectionKey:"))?;
        line.trim().parse::<u32>().ok().filter(|&key| key != 0)
    };
    let all: Vec<u32> = (1..16).collect();
    let under =
        |key: u32| mappings(|_, lines| number(lines) == Some(key)).into_iter().map(move |at| (at, key));
    all.into_iter().flat_map(under).collect()
}

fn keyed_page() -> (usize, u32) {
    let pages = keyed_pages();
    assert_eq!(pages.len(), 1, "{pages:x?}");
    pages[0]
}

fn secret_pages() -> Vec<usize> {
    mappings(|header, _| header.contains("secretmem"))
}

fn secret_page() -> usize {
    let pages = secret_pages();
    assert_eq!(pages.len(), 1, "{pages:x?}");
    pages[0]
}

/// What lies at an address, past all page protection.
fn peek(at: usize, len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    File::open("/proc/self/mem")?.read_exact_at(&mut bytes, at as u64).map(|()| bytes)
}

// ---- faults ----

static PAGE_AT: AtomicUsize = AtomicUsize::new(0);
static CODES: AtomicU32 = AtomicU32::new(0);

/// A fault of a protection key. sigaction(2)
const SEGV_PKUERR: i32 = 4;
const SEGV_ACCERR: i32 = 2;

extern "C" fn on_fault(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a description of the fault.
    let (code, at) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
    let page = PAGE_AT.load(Ordering::SeqCst);
    let expected = CODES.load(Ordering::SeqCst) & 1 << code != 0 && (page..page + 64).contains(&at);
    // SAFETY: both are async-signal-safe. With the default action the fault recurs and ends the process.
    unsafe {
        if expected {
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
        } else {
            libc::_exit(3);
        }
    }
}

fn handle(signal: i32, handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void), flags: i32) {
    // SAFETY: a plain structure, and a handler of the right form.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | flags;
        assert_eq!(libc::sigaction(signal, &raw const action, std::ptr::null_mut()), 0);
    }
}

/// From here on a fault there, for one of these reasons, ends the process by SIGSEGV; any other with code 3.
fn expect_fault(page: usize, codes: &[i32]) {
    PAGE_AT.store(page, Ordering::SeqCst);
    CODES.store(codes.iter().fold(0, |all, code| all | 1 << code), Ordering::SeqCst);
    handle(libc::SIGSEGV, on_fault, 0);
}

fn touch(page: usize) -> u8 {
    // SAFETY: not sound at all: that it faults is what is tested.
    unsafe { std::ptr::with_exposed_provenance::<u8>(page).read_volatile() }
}

fn case_of_fault(name: &'static str) -> common::Case {
    case(name).ending(Ending::Signal(libc::SIGSEGV))
}

// ---- Pkey: who is denied ----

#[test]
fn pkey_denies_its_maker_at_rest() {
    let _guard = TestGuard::new();
    case_of_fault("pkey_denies_its_maker_at_rest").run(|| {
        let vault = vault(Hold::Pkey);
        let _secret = secret_of(&vault);
        assert_eq!(vault.status().hold, HoldUsed::Pkey);
        let (page, _) = keyed_page();
        expect_fault(page, &[SEGV_PKUERR]);
        touch(page);
    });
}

#[test]
fn pkey_denies_writing_at_rest() {
    let _guard = TestGuard::new();
    case_of_fault("pkey_denies_writing_at_rest").run(|| {
        let vault = vault(Hold::Pkey);
        let _secret = secret_of(&vault);
        let (page, _) = keyed_page();
        expect_fault(page, &[SEGV_PKUERR]);
        // SAFETY: not sound at all: that it faults is what is tested.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(page).write_volatile(0) };
    });
}

#[test]
fn pkey_denies_a_thread_that_was_there_before() {
    let _guard = TestGuard::new();
    case_of_fault("pkey_denies_a_thread_that_was_there_before").run(|| {
        let (send, receive) = mpsc::channel();
        let old = std::thread::spawn(move || touch(receive.recv().unwrap()));
        let vault = vault(Hold::Pkey);
        let _secret = secret_of(&vault);
        let (page, _) = keyed_page();
        expect_fault(page, &[SEGV_PKUERR]);
        send.send(page).unwrap();
        old.join().unwrap();
    });
}

#[test]
fn pkey_denies_an_old_thread_that_has_read_itself() {
    let _guard = TestGuard::new();
    case_of_fault("pkey_denies_an_old_thread_that_has_read_itself").run(|| {
        let (send, receive) = mpsc::channel::<(Secret, usize)>();
        let old = std::thread::spawn(move || {
            let (secret, page) = receive.recv().unwrap();
            assert!(secret.ct_eq_bytes(VALUE).unwrap());
            touch(page)
        });
        let vault = vault(Hold::Pkey);
        let secret = secret_of(&vault);
        let (page, _) = keyed_page();
        expect_fault(page, &[SEGV_PKUERR]);
        send.send((secret, page)).unwrap();
        old.join().unwrap();
    });
}

#[test]
fn pkey_denies_a_thread_made_later() {
    let _guard = TestGuard::new();
    case_of_fault("pkey_denies_a_thread_made_later").run(|| {
        let vault = vault(Hold::Pkey);
        let _secret = secret_of(&vault);
        let (page, _) = keyed_page();
        expect_fault(page, &[SEGV_PKUERR]);
        std::thread::spawn(move || touch(page)).join().unwrap();
    });
}

#[cfg(target_arch = "x86_64")]
mod register {
    use std::arch::asm;

    /// The rights of this thread: two bits for each key. Only where there are keys.
    pub fn rights() -> u32 {
        let rights: u32;
        // SAFETY: changes nothing; a key has been allocated, so there is the register.
        unsafe {
            asm!("rdpkru", out("eax") rights, inout("ecx") 0 => _, out("edx") _, options(nomem, nostack));
        }
        rights
    }

    /// Sets them, as a host may.
    pub fn set_rights(rights: u32) {
        // SAFETY: as above; the caller has no reference into pages that it denies itself.
        unsafe {
            asm!("wrpkru", in("eax") rights, in("ecx") 0, in("edx") 0, options(nostack));
        }
    }

    /// The rights of the code that a signal interrupted, from the registers that the kernel saved for it.
    ///
    /// # Safety
    ///
    /// `context` is what a handler got.
    pub unsafe fn rights_of_interrupted(context: *mut libc::c_void) -> u32 {
        // Where the register is in the saved state: leaf 13, part 9. Intel SDM, CPUID.
        let at = std::arch::x86_64::__cpuid_count(13, 9).ebx as usize;
        // SAFETY: as the caller vouches; the state was saved by a processor that has the part. Which parts are not in
        // their first state is in a word at 512: a first state is not saved.
        unsafe {
            // The pointer behind the general registers, which not every C library gives a name.
            let registers = &raw const (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
            let saved = registers.add(1).cast::<*mut u8>().read();
            let parts = saved.add(512).cast::<u64>().read_unaligned();
            if parts & 1 << 9 == 0 { 0 } else { saved.add(at).cast::<u32>().read_unaligned() }
        }
    }
}

#[cfg(target_arch = "x86_64")]
static KEY: AtomicU32 = AtomicU32::new(0);
#[cfg(target_arch = "x86_64")]
static IN_WINDOW: AtomicU32 = AtomicU32::new(0);
#[cfg(target_arch = "x86_64")]
static ELSEWHERE: AtomicU32 = AtomicU32::new(0);
/// Interrupted windows before the handler touches the page.
#[cfg(target_arch = "x86_64")]
const WINDOWS: u32 = 5;

#[cfg(target_arch = "x86_64")]
extern "C" fn on_interruption(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let denied = 1 << (2 * KEY.load(Ordering::SeqCst));
    // SAFETY: what this handler got.
    let interrupted = unsafe { register::rights_of_interrupted(context) };
    if register::rights() & denied == 0 {
        // SAFETY: async-signal-safe.
        unsafe { libc::_exit(4) };
    }
    if interrupted & denied != 0 {
        ELSEWHERE.fetch_add(1, Ordering::SeqCst);
    } else if IN_WINDOW.fetch_add(1, Ordering::SeqCst) + 1 == WINDOWS {
        touch(PAGE_AT.load(Ordering::SeqCst));
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn pkey_denies_a_handler_that_interrupts_a_read() {
    let _guard = TestGuard::new();
    case_of_fault("pkey_denies_a_handler_that_interrupts_a_read").run(|| {
        let vault = vault(Hold::Pkey);
        let (page, key) = keyed_page();
        KEY.store(key, Ordering::SeqCst);
        // A large one keeps the window open for long.
        let secret = vault.secret().from_bytes(&mut vec![7; 32 * 1024]).unwrap();
        expect_fault(page, &[SEGV_PKUERR]);
        handle(libc::SIGUSR1, on_interruption, libc::SA_RESTART);
        let reader = common::ThisThread::new();
        std::thread::spawn(move || {
            loop {
                // SAFETY: the thread lives as long as the process.
                unsafe { libc::pthread_kill(reader.name(), libc::SIGUSR1) };
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(60) {
            assert_eq!(secret.view().unwrap()[9], 7);
        }
        panic!(
            "{} windows and {} other moments were interrupted",
            IN_WINDOW.load(Ordering::SeqCst),
            ELSEWHERE.load(Ordering::SeqCst)
        );
    });
}

// ---- Pkey: with others ----

#[cfg(target_arch = "x86_64")]
fn host_key() -> u32 {
    // SAFETY: takes two numbers.
    let key = unsafe { libc::syscall(libc::SYS_pkey_alloc, 0, 0) };
    u32::try_from(key).unwrap_or_else(|_| {
        skip(&format!("skipped: no protection keys here: {}", std::io::Error::last_os_error()))
    })
}

#[cfg(target_arch = "x86_64")]
#[test]
fn pkey_leaves_other_keys_as_they_are() {
    case("pkey_leaves_other_keys_as_they_are").run(|| {
        const NO_WRITING: u32 = 2;
        let before = host_key();
        // SAFETY: a new page, put under the host's key; checked below.
        let page = unsafe {
            let page = libc::mmap(
                std::ptr::null_mut(),
                common::page_size(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            let access = libc::PROT_READ | libc::PROT_WRITE;
            assert_eq!(libc::syscall(libc::SYS_pkey_mprotect, page, common::page_size(), access, before), 0);
            page.cast::<u8>()
        };
        let vault = vault(Hold::Pkey);
        let secret = secret_of(&vault);
        let after = host_key();
        let ours: Vec<u32> =
            keyed_pages().into_iter().map(|(_, key)| key).filter(|&key| key != before).collect();
        assert_eq!(ours.len(), 1, "{ours:?}");
        assert!(ours[0] != after && ours[0] > before, "{ours:?} {before} {after}");
        let mine = 3 << (2 * ours[0]);
        // SAFETY: the host's own page, which its key opens and closes.
        unsafe { page.write_volatile(1) };
        for rights in [0, NO_WRITING, NO_WRITING << 1 | 1, 0] {
            for host in [before, after] {
                let set = register::rights() & !(3 << (2 * host)) | (rights & 3) << (2 * host);
                register::set_rights(set);
            }
            let rights = register::rights();
            for _ in 0..50 {
                assert!(secret.ct_eq_bytes(VALUE).unwrap());
                secret_of(&vault).close().unwrap();
                let now = register::rights();
                assert_eq!(now & !mine, rights & !mine);
                assert_eq!(now & mine, mine);
            }
        }
        // SAFETY: as above; open again.
        assert_eq!(unsafe { page.read_volatile() }, 1);
        // Of the 15 keys three are taken: ours, and two by the host.
        let more: Vec<u32> = (0..12).map(|_| host_key()).collect();
        assert!(!more.contains(&ours[0]));
        // SAFETY: takes two numbers.
        assert_eq!(unsafe { libc::syscall(libc::SYS_pkey_alloc, 0, 0) }, -1);
    });
}

#[cfg(target_arch = "x86_64")]
#[test]
fn pkey_steps_down_where_the_host_has_taken_all_keys() {
    case("pkey_steps_down_where_the_host_has_taken_all_keys").run(|| {
        let _first = host_key();
        // SAFETY: takes two numbers.
        while unsafe { libc::syscall(libc::SYS_pkey_alloc, 0, 0) } > 0 {}
        let none = CallError { call: Call::PkeyAlloc, errno: libc::ENOSPC };
        let strict = Vault::builder().hold(Hold::Pkey).hold_level(Level::Require);
        assert_eq!(strict.build().unwrap_err(), Error::HoldRefused(none));
        for hold in [Hold::Auto, Hold::Pkey] {
            let vault = Vault::builder().store(Store::Sealed).hold(hold).build().unwrap();
            assert_eq!(vault.status().hold, HoldUsed::Split);
            assert_eq!(vault.status().hold_stepped_down, Some(Error::System(none)));
            secret_of(&vault).close().unwrap();
        }
    });
}

#[test]
fn vaults_share_one_protection_key() {
    case("vaults_share_one_protection_key").run(|| {
        let first = vault(Hold::Pkey);
        // Made at the same time, by threads that all need the key.
        let others: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| vault(Hold::Pkey))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let pages = keyed_pages();
        assert_eq!(pages.len(), 5);
        assert!(pages.iter().all(|&(_, key)| key == pages[0].1), "{pages:x?}");
        for vault in others.iter().chain([&first]) {
            secret_of(vault).close().unwrap();
        }
        drop((first, others));
        assert_eq!(keyed_pages(), []);
        secret_of(&vault(Hold::Pkey)).close().unwrap();
    });
}

#[test]
fn the_first_vaults_race_for_the_protection_key() {
    case("the_first_vaults_race_for_the_protection_key").run(|| {
        let barrier = std::sync::Barrier::new(4);
        let vaults: Vec<_> = std::thread::scope(|scope| {
            let make = || {
                barrier.wait();
                vault(Hold::Pkey)
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let pages = keyed_pages();
        assert_eq!(pages.len(), vaults.len());
        assert!(pages.iter().all(|&(_, key)| key == pages[0].1), "{pages:x?}");
    });
}

// ---- both ----

fn values_in_threads(hold: Hold) {
    let vault = vault(hold);
    let secrets: Vec<(Secret, Vec<u8>)> = (1..=8_u8)
        .map(|n| {
            let value = vec![n; 100 * usize::from(n)];
            (vault.secret().from_bytes(&mut value.clone()).unwrap(), value)
        })
        .collect();
    let rounds = 300;
    in_threads(&[0, 1, 2, 3], |&thread: &usize| {
        for round in 0..rounds {
            let (secret, value) = &secrets[(thread + round) % secrets.len()];
            assert!(secret.view().unwrap()[..] == value[..]);
            if round % 16 == 0 {
                let mut changing = secret.view_mut().unwrap();
                changing.copy_from_slice(value);
                changing.commit().unwrap();
            }
        }
    });
    assert!(secrets.iter().all(|(secret, value)| secret.ct_eq_bytes(value).unwrap()));
}

#[test]
fn pkey_gives_the_right_values_to_all_threads() {
    case("pkey_gives_the_right_values_to_all_threads").run(|| values_in_threads(Hold::Pkey));
}

#[test]
fn secretmem_gives_the_right_values_to_all_threads() {
    case("secretmem_gives_the_right_values_to_all_threads").run(|| values_in_threads(Hold::Secretmem));
}

/// A child finds its parent's secrets gone, does not fault, and can have vaults of its own.
fn forked(hold: Hold) {
    let parent = vault(hold);
    let secret = secret_of(&parent);
    // SAFETY: the child only reads, makes a vault, and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let gone = secret.view().is_err_and(|error| error == Error::Forked)
            && parent.secret().from_bytes(&mut VALUE.to_vec()).is_err_and(|error| error == Error::Forked)
            && !parent.is_alive();
        drop((secret, parent));
        secret_of(&vault(hold)).close().unwrap();
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(if gone { 0 } else { 5 }) };
    }
    let mut status = 0;
    // SAFETY: waits for our own child.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child's status");
    assert!(secret.ct_eq_bytes(VALUE).unwrap());
}

#[test]
fn pkey_is_gone_in_a_child() {
    case("pkey_is_gone_in_a_child").run(|| forked(Hold::Pkey));
}

#[test]
fn secretmem_is_gone_in_a_child() {
    case("secretmem_is_gone_in_a_child").run(|| forked(Hold::Secretmem));
}

/// What is in force is looked up, and what is locked is counted.
fn status_is_true(hold: Hold, used: HoldUsed) {
    drop(vault(hold));
    let before = common::locked();
    let vault = vault(hold);
    let secret = secret_of(&vault);
    let status = vault.status();
    assert_eq!((status.hold, status.hold_stepped_down, status.replicas), (used, None, 0));
    for protection in [status.protections.lock, status.protections.dump, status.protections.fork] {
        assert!(protection.got && protection.evidence == Evidence::Kernel, "{status:?}");
    }
    // Newer kernels do not count secretmem among what the process has locked.
    let unlisted =
        mappings(|header, lines| header.contains("/secretmem") && !has_flags(lines, &["lo"])).len() as u64;
    assert!(unlisted == 0 || hold == Hold::Secretmem);
    assert_eq!(status.locked_bytes as u64, common::locked() - before + unlisted * common::page_size() as u64);
    assert_eq!(secret.status().hold, Some(used));
}

#[test]
fn the_status_of_pkey_is_true() {
    case("the_status_of_pkey_is_true").run(|| status_is_true(Hold::Pkey, HoldUsed::Pkey));
}

#[test]
fn the_status_of_secretmem_is_true() {
    case("the_status_of_secretmem_is_true").run(|| status_is_true(Hold::Secretmem, HoldUsed::Secretmem));
}

/// Does a scratch slot ever have the first half of the key, while another thread reads in a loop?
fn key_seen_in_scratch(hold: Hold, key_page: usize, vault: &Vault) -> bool {
    let key = common::look(key_page, 32).unwrap();
    assert!(key.iter().any(|&byte| byte != 0));
    let secret = vault.secret().from_bytes(&mut vec![7; 32 * 1024]).unwrap();
    drop(secret.view().unwrap());
    let scratch = mappings(|header, lines| has_flags(lines, &["wf", "rd"]) && !header.contains("---p"));
    // On large pages the first view lies beside the shares.
    let least = if common::page_size() < common::LARGE_PAGE { 2 } else { 1 };
    assert!(scratch.len() >= least && (hold != Hold::Pkey || scratch.contains(&key_page)), "{scratch:x?}");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                drop(secret.view().unwrap());
            }
        });
        let started = Instant::now();
        let mut seen = false;
        while !seen && started.elapsed() < Duration::from_secs(5) {
            // Slots are single pages here but for those of the large secret; the head is in front in all of them.
            seen = scratch
                .iter()
                .filter(|&&at| at != key_page)
                .filter_map(|&at| peek(at, common::page_size()).ok())
                .any(|page| page.windows(8).any(|window| window == &key[..8]));
        }
        stop.store(true, Ordering::Relaxed);
        seen
    })
}

#[test]
fn the_key_in_place_never_comes_into_scratch() {
    case("the_key_in_place_never_comes_into_scratch").run(|| {
        // The search sees what is there: with this hold the key does come into scratch.
        let guarded = Vault::builder().store(Store::Sealed).hold(Hold::Guarded).build().unwrap();
        let closed =
            |header: &str, lines: &[&str]| header.contains("---p") && has_flags(lines, &["lo", "wf"]);
        let pages = mappings(closed);
        assert_eq!(pages.len(), 1, "{pages:x?}");
        assert!(key_seen_in_scratch(Hold::Guarded, pages[0], &guarded), "the search is blind");
        drop(guarded);
        let vault = vault(Hold::Pkey);
        let (page, _) = keyed_page();
        assert!(!key_seen_in_scratch(Hold::Pkey, page, &vault));
    });
}

#[test]
fn pkey_is_wiped_before_its_page_is_given_back() {
    case("pkey_is_wiped_before_its_page_is_given_back").run(|| {
        let vault = vault(Hold::Pkey);
        drop(secret_of(&vault));
        let (page, _) = keyed_page();
        assert!(peek(page, 64).unwrap().iter().any(|&byte| byte != 0));
        let kept = inject::fail(Call::Munmap, Plan::Always { errno: libc::ENOMEM });
        drop(vault);
        assert!(kept.calls() > 0);
        assert!(peek(page, 64).unwrap().iter().all(|&byte| byte == 0));
    });
}

/// Overwrites what lies at an address, past all page protection.
fn poke(at: usize, bytes: &[u8]) {
    let memory = File::options().write(true).open("/proc/self/mem").unwrap();
    memory.write_all_at(bytes, at as u64).unwrap();
}

/// The key is wiped beside threads that seal, as a dying process wipes it: whatever was sealed opens under the key.
#[test]
fn nothing_is_sealed_under_a_wiped_key() {
    const SEALERS: usize = 2;
    const ROUNDS: usize = 300;
    case("nothing_is_sealed_under_a_wiped_key").run(|| {
        let vault = vault(Hold::Pkey);
        let (page, _) = keyed_page();
        let kept = peek(page, 64).unwrap();
        let (key, check) = kept.split_at(32);
        let stop = AtomicBool::new(false);
        // Refusals that each sealer has met.
        let refused = [const { AtomicUsize::new(0) }; SEALERS];
        let value = vec![0x5a; 4000];
        let seal = |refused: &AtomicUsize| {
            let mut sealed = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                match vault.secret().from_bytes(&mut value.clone()) {
                    Ok(secret) => sealed.push(secret),
                    Err(error) => {
                        assert_eq!(error, Error::KeyLost);
                        refused.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
            sealed
        };
        let sealed: Vec<Secret> = std::thread::scope(|scope| {
            let sealers: Vec<_> = refused.iter().map(|refused| scope.spawn(|| seal(refused))).collect();
            for round in 0..ROUNDS {
                std::thread::sleep(Duration::from_micros(300 + 7 * round as u64 % 500));
                let before = refused.each_ref().map(|count| count.load(Ordering::SeqCst));
                poke(page + 32, &[0; 32]);
                poke(page, &[0; 32]);
                // Put back when all seals that had begun before have ended: else one could see neither.
                while refused
                    .iter()
                    .zip(before)
                    .any(|(count, before)| count.load(Ordering::SeqCst) < before + 2)
                {
                    std::thread::yield_now();
                }
                poke(page, key);
                poke(page + 32, check);
            }
            stop.store(true, Ordering::SeqCst);
            sealers.into_iter().flat_map(|sealer| sealer.join().unwrap()).collect()
        });
        assert!(sealed.len() > ROUNDS, "{}", sealed.len());
        assert!(sealed.iter().all(|secret| secret.ct_eq_bytes(&value).unwrap()));
    });
}

// ---- Secretmem ----

#[test]
fn secretmem_is_closed_at_rest() {
    let _guard = TestGuard::new();
    case_of_fault("secretmem_is_closed_at_rest").run(|| {
        let vault = vault(Hold::Secretmem);
        let secret = secret_of(&vault);
        drop(secret.view().unwrap());
        let page = secret_page();
        expect_fault(page, &[SEGV_ACCERR, SEGV_PKUERR]);
        touch(page);
    });
}

#[test]
fn secretmem_cannot_be_read_through_the_kernel() {
    case("secretmem_cannot_be_read_through_the_kernel").run(|| {
        let vault = vault(Hold::Secretmem);
        let secret = secret_of(&vault);
        let page = secret_page();
        // While it is closed, and while it is open for a read in another thread.
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    drop(secret.view().unwrap());
                }
            });
            for _ in 0..500 {
                let refused = peek(page, 64).unwrap_err();
                let number = refused.raw_os_error();
                assert!(matches!(number, Some(libc::EIO | libc::EFAULT)), "{refused}");
            }
            stop.store(true, Ordering::Relaxed);
        });
        // The descriptor is not needed any more, and so is not there.
        let names = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let open: Vec<_> = names.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect();
        assert!(!open.iter().any(|target| target.to_string_lossy().contains("secretmem")), "{open:?}");
    });
}

#[test]
fn secretmem_is_wiped_before_its_page_is_given_back() {
    case("secretmem_is_wiped_before_its_page_is_given_back").run(|| {
        let vault = vault(Hold::Secretmem);
        if !keyed_pages().is_empty() {
            skip("skipped: behind a protection key the page stays closed to us after the end");
        }
        drop(secret_of(&vault));
        let page = secret_page();
        let kept = inject::fail(Call::Munmap, Plan::Always { errno: libc::ENOMEM });
        drop(vault);
        assert!(kept.calls() > 0);
        // Page protection was opened for the wiping.
        assert!((0..64).all(|at| touch(page + at) == 0));
    });
}

#[test]
fn secretmem_without_lockable_memory_is_refused() {
    case("secretmem_without_lockable_memory_is_refused").limit(libc::RLIMIT_MEMLOCK, 0).run(|| {
        let builder = || Vault::builder().store(Store::Sealed).hold(Hold::Secretmem);
        if let Err(Error::HoldRefused(cause)) = builder().hold_level(Level::Require).build()
            && may_lack(cause)
        {
            skip(&format!("skipped: Secretmem is not to be had here: {cause}"));
        }
        common::become_ordinary_user();
        let before = Footprint::now();
        let refused = Vault::builder().hold(Hold::Secretmem).hold_level(Level::Require).build().unwrap_err();
        let at_once = Error::HoldRefused(CallError { call: Call::Mmap, errno: libc::EAGAIN });
        // Newer kernels count the page when it is populated.
        let late = Error::HoldRefused(CallError { call: Call::Getrandom, errno: libc::EFAULT });
        assert!([at_once, late].contains(&refused), "{refused:?}");
        assert!(matches!(refused.hint(), Some(Hint::LockedMemory { limit: Some(0), .. })), "{refused:?}");
        let vault = builder().build().unwrap();
        assert_eq!(vault.status().hold, HoldUsed::Split);
        secret_of(&vault).close().unwrap();
        drop(vault);
        before.assert_same("after a refusal");
    });
}

#[test]
fn secretmem_that_cannot_be_shut_is_shut_by_the_next_read() {
    let _guard = TestGuard::new();
    case_of_fault("secretmem_that_cannot_be_shut_is_shut_by_the_next_read").run(|| {
        let vault = vault(Hold::Secretmem);
        if !keyed_pages().is_empty() {
            expect_fault(secret_page(), &[SEGV_PKUERR]);
            touch(secret_page());
        }
        let secret = secret_of(&vault);
        let page = secret_page();
        // The first change opens.
        let refused = inject::fail(Call::Mprotect, Plan::Nth { n: 1, errno: libc::ENOMEM });
        let error = secret.view().unwrap_err();
        assert_eq!(error, Error::System(CallError { call: Call::Mprotect, errno: libc::ENOMEM }));
        drop(refused);
        // The second one shuts.
        let refused = inject::fail(Call::Mprotect, Plan::Nth { n: 2, errno: libc::ENOMEM });
        assert!(secret.ct_eq_bytes(VALUE).unwrap());
        assert_eq!(refused.calls(), 2);
        drop(refused);
        touch(page);
        assert!(secret.ct_eq_bytes(VALUE).unwrap());
        expect_fault(page, &[SEGV_ACCERR]);
        touch(page);
    });
}

// ---- refused calls ----

/// What making such a vault may call.
const CALLS: [(Call, &[i32]); 12] = [
    (Call::MemfdSecret, &[libc::ENOSYS, libc::EMFILE, libc::EPERM]),
    (Call::Ftruncate, &[libc::EFBIG, libc::EINVAL]),
    (Call::Mmap, &[libc::EAGAIN, libc::ENOMEM]),
    (Call::Mprotect, &[libc::ENOMEM, libc::EACCES]),
    (Call::Mlock, &[libc::ENOMEM, libc::EPERM]),
    (Call::Madvise, &[libc::EINVAL, libc::ENOMEM]),
    (Call::Getrandom, &[libc::EFAULT, libc::ENOSYS, 0]),
    (Call::Sigprocmask, &[libc::EPERM]),
    (Call::Close, &[libc::EINTR]),
    (Call::PkeyAlloc, &[libc::EINVAL, libc::ENOSPC, libc::ENOSYS, libc::EPERM]),
    (Call::PkeyMprotect, &[libc::EINVAL, libc::ENOMEM]),
    (Call::PkeyFree, &[libc::EINVAL]),
];

/// Fails each call at each place once; each time a typed error, or a vault that works and says what it is.
fn every_refusal(hold: Hold, used: HoldUsed) -> Vec<(Call, u32)> {
    drop(vault(hold));
    // Threads' and the allocator's first use of memory; then what is there.
    secret_of(&vault(hold)).close().unwrap();
    let before = Footprint::now();
    let mut met = Vec::new();
    for (call, errnos) in CALLS {
        let mut hits = 0;
        for &errno in errnos {
            for (level, on) in [(Level::Require, false), (Level::Prefer, false), (Level::Prefer, true)] {
                for n in 1.. {
                    let plan = match (errno, on) {
                        (0, _) => Plan::ShortNth { n },
                        (errno, false) => Plan::Nth { n, errno },
                        (errno, true) => Plan::FromNth { n, errno },
                    };
                    let plan = inject::fail(call, plan);
                    let built = Vault::builder().store(Store::Sealed).hold(hold).hold_level(level).build();
                    let hit = plan.calls() >= n;
                    drop(plan);
                    let what = format!("{hold:?} {level:?} {call} {errno} {n} {on}");
                    check(&built, CallError { call, errno }, (level, used), hit, &what);
                    drop(built);
                    before.assert_same(&what);
                    if !hit {
                        break;
                    }
                    hits += 1;
                }
            }
        }
        met.push((call, hits));
    }
    met
}

fn check(
    built: &Result<Vault, Error>,
    cause: CallError,
    (level, used): (Level, HoldUsed),
    hit: bool,
    what: &str,
) {
    match built {
        Ok(vault) => {
            secret_of(vault).close().unwrap();
            let status = vault.status();
            if status.hold == used {
                assert_eq!(status.hold_stepped_down, None, "{what}");
            } else {
                assert!(hit && level == Level::Prefer, "{what}: {status:?}");
                assert_eq!(status.hold_stepped_down.map(cause_of), Some(cause), "{what}");
            }
            assert!(status.protections.fork.got, "{what}");
        }
        Err(error) => {
            assert!(hit, "{what}: {error:?}");
            assert_eq!(cause_of(*error), cause, "{what}");
        }
    }
}

fn cause_of(error: Error) -> CallError {
    match error {
        Error::System(cause) | Error::HoldRefused(cause) | Error::Refused { cause, .. } => cause,
        other => panic!("no call is the cause: {other:?}"),
    }
}

fn assert_met(met: &[(Call, u32)], expected: &[Call]) {
    eprintln!("{met:?}");
    for call in expected {
        assert!(met.iter().any(|(other, hits)| other == call && *hits > 0), "{call} was never refused");
    }
}

#[test]
fn every_call_of_secretmem_is_refused_once() {
    case("every_call_of_secretmem_is_refused_once").run(|| {
        let met = every_refusal(Hold::Secretmem, HoldUsed::Secretmem);
        let calls = [Call::MemfdSecret, Call::Ftruncate, Call::Mmap, Call::Mprotect, Call::Madvise];
        assert_met(&met, &calls);
        assert_met(&met, &[Call::Getrandom, Call::Sigprocmask, Call::Close]);
    });
}

#[test]
fn every_call_of_pkey_is_refused_once() {
    case("every_call_of_pkey_is_refused_once").run(|| {
        let met = every_refusal(Hold::Pkey, HoldUsed::Pkey);
        assert_met(&met, &[Call::Mmap, Call::Mprotect, Call::Mlock, Call::Madvise, Call::PkeyMprotect]);
    });
}

/// The process's protection key is allocated once, so each refusal of it needs a process that has none yet.
#[test]
fn a_refused_allocation_of_the_protection_key_is_not_the_last_word() {
    case("a_refused_allocation_of_the_protection_key_is_not_the_last_word").run(|| {
        // A host without keys answers for itself; this does not depend on it.
        for errno in [libc::EINVAL, libc::ENOSPC, libc::ENOSYS, libc::EPERM] {
            let cause = CallError { call: Call::PkeyAlloc, errno };
            let refused = inject::fail(Call::PkeyAlloc, Plan::Always { errno });
            let strict = Vault::builder().hold(Hold::Pkey).hold_level(Level::Require).build();
            assert_eq!(strict.unwrap_err(), Error::HoldRefused(cause));
            for hold in [Hold::Auto, Hold::Pkey] {
                let vault = Vault::builder().store(Store::Sealed).hold(hold).build().unwrap();
                assert_eq!(vault.status().hold, HoldUsed::Split);
                assert_eq!(vault.status().hold_stepped_down, Some(Error::System(cause)));
                secret_of(&vault).close().unwrap();
            }
            // Auto may step down to shares when that is required, but no further.
            let strict = || Vault::builder().store(Store::Sealed).hold_level(Level::Require);
            assert_eq!(strict().build().unwrap().status().hold, HoldUsed::Split);
            let _files = inject::fail(Call::MemfdCreate, Plan::Always { errno: libc::EPERM });
            let no_files = CallError { call: Call::MemfdCreate, errno: libc::EPERM };
            assert_eq!(strict().build().unwrap_err(), Error::HoldRefused(no_files));
            drop(refused);
        }
        // From the third one on: the second is the highest, and no more are looked for.
        let few = inject::fail(Call::PkeyAlloc, Plan::FromNth { n: 3, errno: libc::ENOSPC });
        let stuck = inject::fail(Call::PkeyFree, Plan::Always { errno: libc::EINVAL });
        let vault = vault(Hold::Pkey);
        assert_eq!((few.calls(), stuck.calls()), (3, 1));
        secret_of(&vault).close().unwrap();
    });
}

// ---- the profile ----

#[test]
fn hardened_means_secretmem() {
    case("hardened_means_secretmem").run(|| {
        drop(vault(Hold::Secretmem));
        let before = Footprint::now();
        let missing = Error::NotInForce(Protection::Secretmem);
        for hold in [Hold::Auto, Hold::Secretmem] {
            let vault = Vault::builder().policy(Policy::hardened()).hold(hold).build().unwrap();
            assert_eq!((vault.status().hold, vault.status().hold_stepped_down), (HoldUsed::Secretmem, None));
            secret_of(&vault).close().unwrap();
            // What would be kept without a key is not covered.
            let paged = vault.secret().store(Store::Paged).random(16).unwrap_err();
            assert_eq!(paged, missing);
            assert_eq!(vault.secret().random(1 << 20).unwrap_err(), missing);
            let paged = vault.secret().policy(Policy::strict()).store(Store::Paged).random(16).unwrap();
            paged.close().unwrap();
        }
        for hold in [Hold::Pkey, Hold::Split, Hold::Guarded] {
            let refused = Vault::builder().policy(Policy::hardened()).hold(hold).build().unwrap_err();
            assert_eq!(refused, missing, "{hold:?}");
        }
        let split = Vault::builder().hold(Hold::Split).build().unwrap();
        assert_eq!(split.secret().policy(Policy::hardened()).random(16).unwrap_err(), missing);
        secret_of(&split).close().unwrap();
        drop(split);
        before.assert_same("after the profile");
    });
}

#[test]
fn hardened_without_secretmem_is_an_error_and_preferred_a_step_down() {
    case("hardened_without_secretmem_is_an_error_and_preferred_a_step_down").run(|| {
        for errno in [libc::ENOSYS, libc::EPERM] {
            let cause = CallError { call: Call::MemfdSecret, errno };
            let _refused = inject::fail(Call::MemfdSecret, Plan::Always { errno });
            let _none = inject::fail(Call::PkeyAlloc, Plan::Always { errno: libc::EINVAL });
            let built = Vault::builder().policy(Policy::hardened()).build();
            assert_eq!(built.unwrap_err(), Error::HoldRefused(cause));
            let named = Vault::builder().store(Store::Sealed).hold(Hold::Secretmem).build().unwrap();
            assert_eq!(named.status().hold_stepped_down, Some(Error::System(cause)));
            let preferred = Policy::strict().secretmem(Level::Prefer);
            let vault = Vault::builder().store(Store::Sealed).policy(preferred).build().unwrap();
            assert_eq!(vault.status().hold, HoldUsed::Split);
            secret_of(&vault).close().unwrap();
        }
        let vault = Vault::builder().policy(Policy::new().secretmem(Level::Prefer)).build().unwrap();
        let status = vault.status();
        match status.hold_stepped_down {
            None => assert_eq!(status.hold, HoldUsed::Secretmem),
            Some(_) => assert_ne!(status.hold, HoldUsed::Secretmem),
        }
    });
}

#[test]
fn auto_takes_the_first_that_works_and_says_so() {
    case("auto_takes_the_first_that_works_and_says_so").run(|| {
        let vault = Vault::builder().store(Store::Sealed).build().unwrap();
        let status = vault.status();
        match (status.hold, status.hold_stepped_down) {
            (HoldUsed::Pkey, None) => assert_eq!(keyed_pages().len(), 1),
            (HoldUsed::Split, Some(Error::System(cause))) => {
                assert!(cause.call == Call::PkeyAlloc && may_lack(cause), "{cause}");
                assert_eq!(keyed_pages(), []);
            }
            other => panic!("{other:?}"),
        }
        secret_of(&vault).close().unwrap();
    });
}

//! What tests share: limits, threads, searches of memory, children. Cases in a process of their own are the library's
//! ([`securememory::testing::own_process`]).
#![allow(
    dead_code,
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers for tests, which end by panics; each test binary uses some; limits are set by raw calls"
)]

pub mod inherited;
pub mod lost;
pub mod shares;
pub mod signals;

use std::collections::BTreeSet;
use std::io::BufRead;
use std::os::unix::fs::FileExt;

use securememory::testing::inject::{self, Injection, Plan};
use securememory::{Build, Call, Error, Hold, Level, Store, Vault, VaultBuilder};

#[allow(unused_imports, reason = "each test binary uses some")]
pub use securememory::testing::{Ending, Footprint, OwnProcess as Case, own_process as case, skip};

/// What a limit of getrlimit(2) is named by.
#[cfg(not(target_env = "musl"))]
pub type Resource = libc::__rlimit_resource_t;
/// What a limit of getrlimit(2) is named by.
#[cfg(target_env = "musl")]
pub type Resource = libc::c_int;

/// No limit at all.
pub const UNLIMITED: u64 = u64::MAX;

/// Bytes in a page here.
pub fn page_size() -> usize {
    rustix::param::page_size()
}

/// What a vault locks at most by default: 64 KiB, or 16 pages where that is more.
pub fn usual_locked_max() -> usize {
    (16 * page_size()).max(64 << 10)
}

/// The page that an address lies in.
pub fn page_of(address: usize) -> usize {
    address - address % page_size()
}

/// Starts and ends two threads: the C library keeps their stacks for the next ones.
pub fn keep_stacks() {
    let barrier = std::sync::Barrier::new(2);
    in_threads(&[(); 2], |()| {
        barrier.wait();
    });
}

/// Runs `work` on each of `items` in a thread of its own. When it returns, the threads are gone, and not only their work
/// done, as at the end of a scope.
pub fn in_threads<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(|| work(item))).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("the thread"));
    });
}

/// Sets a limit of this process, soft and hard.
pub fn limit(resource: Resource, value: u64) -> std::io::Result<()> {
    set_limit(resource, value, value)
}

/// Sets the soft limit alone, so that it can be raised again.
pub fn soft_limit(resource: Resource, value: u64) -> std::io::Result<()> {
    set_limit(resource, value, limits_of(resource).hard)
}

/// Soft and hard limit, in 64 bits on every processor.
#[repr(C)]
#[derive(Default)]
pub struct Limits {
    pub soft: u64,
    pub hard: u64,
}

/// The limits in force.
pub fn limits_of(resource: Resource) -> Limits {
    let mut found = Limits::default();
    // SAFETY: writes one structure that lives over the call.
    unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, 0_usize, &raw mut found) };
    found
}

fn set_limit(resource: Resource, soft: u64, hard: u64) -> std::io::Result<()> {
    let wanted = Limits { soft, hard };
    // SAFETY: reads one structure that lives over the call.
    if unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const wanted, 0_usize) } == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// A child by the system call alone, of which the C library tells nobody; its number, and 0 in the child.
///
/// # Safety
///
/// As for fork(2); with threads in this process the child may do only what is async-signal-safe.
pub unsafe fn raw_clone(flags: i32) -> libc::pid_t {
    let (flags, stack) = (libc::c_long::from(flags), 0 as libc::c_long);
    // clone(2): one processor has the first two in the other order.
    let (first, second) = if cfg!(target_arch = "s390x") { (stack, flags) } else { (flags, stack) };
    // SAFETY: as the caller vouches; without a stack of its own the child has a copy of ours.
    let made = unsafe { libc::syscall(libc::SYS_clone, first, second, 0_usize, 0_usize, 0_usize) };
    made as libc::pid_t
}

/// The processor's time that this process has used: on a busy machine far less than has passed.
pub fn cpu_time() -> std::time::Duration {
    let mut used = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one structure that lives over the call.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut used) }, 0);
    std::time::Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
}

/// In a process of one's own without /proc: ends it as one that cannot run here.
pub fn need_proc() {
    let own = std::env::var_os("SECUREMEMORY_TEST_CASE").is_some();
    if own && std::fs::exists("/proc/self/status").is_ok_and(|there| !there) {
        skip("needs /proc");
    }
}

/// A line of this process's status in /proc.
pub fn status_line(name: &str) -> String {
    need_proc();
    let text = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in /proc/self/status")).trim().to_owned()
}

/// Bytes locked by this process (`VmLck`).
pub fn locked() -> u64 {
    kilobytes("VmLck")
}

/// Bytes of address space of this process (`VmSize`).
pub fn address_space() -> u64 {
    kilobytes("VmSize")
}

fn kilobytes(name: &str) -> u64 {
    status_line(name).trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * 1024
}

/// From here on an ordinary user without any capability; a case that cannot become one is skipped.
pub fn become_ordinary_user() {
    const NOBODY: libc::uid_t = 65534;
    // SAFETY: these change the ids of this process; the C library carries them over to all its threads.
    let became = unsafe {
        if libc::geteuid() == 0 {
            libc::setgroups(0, std::ptr::null()) == 0
                && libc::setresgid(NOBODY, NOBODY, NOBODY) == 0
                && libc::setresuid(NOBODY, NOBODY, NOBODY) == 0
                // A change of user makes a process undumpable, and takes its own /proc files from it.
                && libc::prctl(libc::PR_SET_DUMPABLE, 1) == 0
        } else {
            true
        }
    };
    if !became || !status_line("CapEff").trim_start_matches('0').is_empty() {
        skip("needs root, to become a user without capabilities, or such a user");
    }
}

/// While it lives, this thread's vaults are made as on a host without protection keys.
pub struct NoKeys {
    // The process may have its key already; then it is of no use.
    _plans: [Injection; 2],
}

impl NoKeys {
    /// Until it is dropped.
    pub fn from_now() -> Self {
        let plan = Plan::Always { errno: libc::ENOSPC };
        Self { _plans: [Call::PkeyAlloc, Call::PkeyMprotect].map(|call| inject::fail(call, plan)) }
    }
}

fn maps_of(process: &str) -> BTreeSet<String> {
    need_proc();
    let file = std::fs::File::open(format!("/proc/{process}/maps")).expect("its maps");
    std::io::BufReader::new(file).lines().map(|line| line.expect("a line")).collect()
}

/// Descriptors of the library's in-memory files.
pub fn share_files() -> Vec<i32> {
    need_proc();
    let names = std::fs::read_dir("/proc/self/fd").expect("/proc/self/fd").flatten();
    let mut found: Vec<i32> = names
        .filter(|entry| {
            std::fs::read_link(entry.path())
                .is_ok_and(|target| target.to_string_lossy().contains("memfd:securememory"))
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    found.sort_unstable();
    found
}

/// Added to the bytes of needles, byte by byte, so that the search does not find what it searches with. (An addition,
/// since masking a masked needle, which the search meets too, must not unmask it.)
const MASK: [u8; 8] = 0x5aa5_c33c_9669_f00f_u64.to_le_bytes();

fn mask(byte: u8, at: usize) -> u8 {
    byte.wrapping_add(MASK[at % 8])
}

/// Zeros that are passed over at once.
const ZEROS: usize = 4 << 10;

/// Bytes to be searched for, kept masked.
pub struct Needle {
    masked: Vec<u64>,
    len: usize,
}

impl Needle {
    /// `len` bytes (a multiple of 8) that look random and occur nowhere else.
    pub fn new(seed: u64, len: usize) -> Self {
        let mut state = seed | 1;
        let masked = (0..len / 8)
            .map(|_| {
                // Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014 (the mixing).
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed ^ (mixed >> 27)
            })
            .collect();
        Self { masked, len }
    }

    /// One byte of it.
    #[inline]
    pub fn byte(&self, index: usize) -> u8 {
        // Byte by byte: no word of it is to be found on the stack either.
        ((self.masked[index / 8] >> (index % 8 * 8)) as u8).wrapping_sub(MASK[index % 8])
    }

    /// Its length.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Writes the bytes from `from` on.
    pub fn write(&self, room: &mut [u8], from: usize) {
        for (index, place) in room.iter_mut().enumerate() {
            *place = self.byte(from + index);
        }
    }

    /// Is this what `write` wrote?
    pub fn is(&self, bytes: &[u8]) -> bool {
        bytes.iter().enumerate().all(|(index, &byte)| byte == self.byte(index))
    }

    /// Where in the readable memory of the process windows of 8 of its bytes lie: at most a few places.
    pub fn find(&self) -> Vec<String> {
        self.search("self")
    }

    /// The same in another process, that is stopped; also in memory that is closed to itself.
    pub fn find_in(&self, process: libc::pid_t) -> Vec<String> {
        self.search(&process.to_string())
    }

    fn search(&self, process: &str) -> Vec<String> {
        let masked_byte = |at: usize, n: usize| u64::from(mask(self.byte(at + n), n)) << (n * 8);
        let window = |at| (0..8).fold(0, |word, n| word | masked_byte(at, n));
        let masked: BTreeSet<u64> = (0..=self.len - 8).map(window).collect();
        // The first two bytes decide for nearly all places.
        let mut likely = vec![false; 1 << 16];
        for at in 0..=self.len - 8 {
            likely[usize::from(u16::from_le_bytes([self.byte(at), self.byte(at + 1)]))] = true;
        }
        need_proc();
        let memory = std::fs::File::open(format!("/proc/{process}/mem")).expect("its memory");
        let mut buffer = vec![0u8; 1 << 16];
        let own = buffer.as_ptr().addr()..buffer.as_ptr().addr() + buffer.len();
        let mut found = Vec::new();
        // What is readable, but for files that cannot be written.
        let others = process != "self";
        let searched =
            |line: &&String| line.contains(" rw") || ((others || line.contains(" r")) && !line.contains('/'));
        for line in maps_of(process).iter().filter(searched) {
            let (start, end) =
                line.split_once(' ').and_then(|(range, _)| range.split_once('-')).expect("a range");
            let mut at = usize::from_str_radix(start, 16).expect("an address");
            let end = usize::from_str_radix(end, 16).expect("an address");
            while at < end {
                let want = buffer.len().min(end - at);
                let got = match memory.read_at(&mut buffer[..want], at as u64) {
                    Ok(got) if got > 0 => got,
                    _ if others && line.contains(" ---p ") && end - at > 1 << 20 => break,
                    // A page that is lost.
                    _ if others => {
                        at = page_of(at) + page_size();
                        continue;
                    }
                    _ => break,
                };
                // Long runs of zeros are many, and their comparison is fast.
                let empty = |offset: usize| buffer[offset..got].starts_with(&[0; ZEROS]);
                let mut next = 0;
                while next + 8 <= got {
                    let offset = next;
                    if offset % 512 == 0 && empty(offset) {
                        next += ZEROS - 7;
                        continue;
                    }
                    next += 1;
                    let first = u16::from_le_bytes([buffer[offset], buffer[offset + 1]]);
                    if likely[usize::from(first)] && (others || !own.contains(&(at + offset))) {
                        // Never unmasked as a whole.
                        let masked_byte = |n: usize| u64::from(mask(buffer[offset + n], n)) << (n * 8);
                        let word = (0..8).fold(0, |word, n| word | masked_byte(n));
                        if masked.contains(&word) && found.len() < 8 {
                            found.push(format!("{:#x} in {line}", at + offset));
                        }
                    }
                }
                // Windows across the border are seen in the next piece.
                at += if got > 8 && at + got < end { got - 7 } else { got.max(1) };
            }
        }
        buffer.fill(0);
        found
    }
}

/// Forks; the child runs `f` and ends with 0 if it returns true. Returns the child's wait status.
pub fn in_child(f: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child ends with `_exit`; the caller sees to it that it takes no lock which another thread may have had.
    unsafe {
        let pid = libc::fork();
        assert!(pid >= 0);
        if pid == 0 {
            let right = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or(false);
            libc::_exit(if right { 0 } else { 1 });
        }
        let mut status = -1;
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        status
    }
}

/// How often to try what is tried so often: where instructions are emulated, `SECUREMEMORY_FEWER` divides it.
pub fn tries(often: usize) -> usize {
    often.div_ceil(setting("SECUREMEMORY_FEWER"))
}

/// How many times as long as usual everything may take, where instructions are emulated.
pub fn patience() -> u64 {
    setting("SECUREMEMORY_PATIENCE") as u64
}

fn setting(name: &str) -> usize {
    std::env::var(name).map_or(1, |text| text.parse().expect("a whole number"))
}

/// Is a key in two shares to be had? Every build for Linux has it; who has refused the files for the test says so.
pub fn has_split() -> bool {
    Build::HERE.split && std::env::var_os("SECUREMEMORY_WITHOUT_SPLIT").is_none()
}

/// Builders of vaults of every kind that this host has: both stores, and of the sealed one every hold of the key.
pub fn every_kind() -> Vec<(&'static str, VaultBuilder)> {
    let sealed = |hold| Vault::builder().store(Store::Sealed).hold(hold).hold_level(Level::Require);
    let all = [
        ("sealed, pkey", sealed(Hold::Pkey)),
        ("sealed, split", sealed(Hold::Split)),
        ("sealed, secretmem", sealed(Hold::Secretmem)),
        ("sealed, guarded", sealed(Hold::Guarded)),
        ("paged", Vault::builder().store(Store::Paged)),
    ];
    let here = all.into_iter().filter(|(name, builder)| match builder.clone().build() {
        Ok(_) => true,
        Err(Error::HoldRefused(cause))
            if ["sealed, pkey", "sealed, secretmem"].contains(name)
                || (*name == "sealed, split" && !has_split()) =>
        {
            eprintln!("skipped: {name} is not to be had here: {cause}");
            false
        }
        Err(error) => panic!("{name}: {error}"),
    });
    here.collect()
}

/// The hold of a key that every build has which needs no key of protection: two shares, or else a closed page.
pub const HOLD: Hold = if Build::HERE.split { Hold::Split } else { Hold::Guarded };

/// Ends a case of a test whose build cannot do what it is about.
pub fn need(what: &str) {
    if !can(what) {
        skip(&format!("this build does not have {what}"));
    }
}

/// Can this build do something that a test is about? Else it says that the test is skipped, and why.
pub fn can(what: &str) -> bool {
    let all = Build::HERE.all();
    let (_, can) = all.iter().find(|(name, _)| *name == what).expect("a capability");
    if !can {
        eprintln!("skipped: a build for {} does not have {what}", Build::HERE.backend);
    }
    *can
}

/// Runs `body` in a thread that a panic of the body's ends, without a word of it on standard error.
pub fn killed_by_a_panic(body: impl FnOnce() + Send + 'static) {
    const NAME: &str = "to be killed";
    static QUIET: std::sync::Once = std::sync::Once::new();
    QUIET.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |told| {
            if std::thread::current().name() != Some(NAME) {
                loud(told);
            }
        }));
    });
    let thread = std::thread::Builder::new().name(NAME.to_owned()).spawn(body).expect("a thread");
    let panic = thread.join().expect_err("it was to panic");
    assert_eq!(panic.downcast_ref::<&str>(), Some(&KILLED), "another panic than it was to be");
}

/// What a thread that is to be killed says last.
pub const KILLED: &str = "killed in the middle";

/// Waits for a child, however it was made; gives its wait status.
pub fn wait_for(pid: libc::pid_t) -> i32 {
    let mut status = -1;
    // SAFETY: one word is written.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) }, pid);
    status
}

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

mod anywhere;
pub mod inherited;
pub mod lost;
pub mod shares;
pub mod signals;
pub mod stores;

use std::collections::BTreeSet;
use std::io::BufRead;
use std::os::unix::fs::FileExt;

use securememory::Call;
use securememory::testing::inject::{self, Injection, Plan};

#[allow(unused_imports, reason = "each test binary uses some")]
pub use anywhere::*;
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

/// What may be done with the page of an address, by the kernel's own listing.
pub fn access(address: usize) -> Access {
    access_if_mapped(address).expect("a mapping")
}

fn access_if_mapped(address: usize) -> Option<Access> {
    let maps = maps_of("self");
    let line = maps.iter().find(|line| {
        let (range, _) = line.split_once(' ').expect("a range");
        let (start, end) = range.split_once('-').expect("a range");
        let hex = |text| usize::from_str_radix(text, 16).expect("an address");
        (hex(start)..hex(end)).contains(&address)
    });
    Some(match line?.split(' ').nth(1) {
        Some("---p") => Access::None,
        Some("r--p") => Access::Read,
        Some("rw-p") => Access::ReadWrite,
        other => panic!("{other:?}"),
    })
}

/// Gives pages another access for as long as `work` takes. A kernel may let /proc/self/mem do only what pages allow
/// (`proc_mem.force_override`, since Linux 6.12).
fn with_access<T>(address: usize, len: usize, to: Access, work: impl Fn() -> Option<T>) -> Option<T> {
    let first = page_of(address);
    let pages = (first..address + len).step_by(page_size());
    let before = access_if_mapped(first)?;
    let set = |access| {
        pages.clone().for_each(|page| protect(std::ptr::with_exposed_provenance_mut(page), access));
    };
    set(to);
    let found = work();
    set(before);
    found
}

/// What lies there, whatever its pages allow; `None`: nothing is mapped.
pub fn look(address: usize, len: usize) -> Option<Vec<u8>> {
    let read = || {
        let mut bytes = vec![0; len];
        let memory = std::fs::File::open("/proc/self/mem").expect("/proc/self/mem");
        memory.read_exact_at(&mut bytes, address as u64).ok().map(|()| bytes)
    };
    read().or_else(|| with_access(address, len, Access::Read, read))
}

/// How a process ends that reads a closed page. (On some systems it is another signal.)
pub const FAULT: Ending = Ending::Signal(libc::SIGSEGV);

/// A page of the test's own, open. mmap(2)
pub fn new_page() -> *mut u8 {
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, of which nobody knows.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), page_size(), access, flags, -1, 0) };
    assert_ne!(page, libc::MAP_FAILED);
    page.cast()
}

/// Opens or closes a page, as one that [`new_page`] gave. mprotect(2)
pub fn protect(page: *mut u8, access: Access) {
    let access = match access {
        Access::None => libc::PROT_NONE,
        Access::Read => libc::PROT_READ,
        Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
    };
    // SAFETY: a page of the test's own, or one of the library's that nobody uses meanwhile.
    assert_eq!(unsafe { libc::mprotect(page.cast(), page_size(), access) }, 0);
}

/// Changes a byte, whatever its page allows.
pub fn poke(address: usize, byte: u8) {
    let write = || {
        let memory = std::fs::OpenOptions::new().write(true).open("/proc/self/mem").expect("/proc/self/mem");
        memory.write_all_at(&[byte], address as u64).ok()
    };
    write().or_else(|| with_access(address, 1, Access::ReadWrite, write)).expect("a byte");
}

/// Copies memory of this process into `room`, as far as a load could read it; says how much that is. process_vm_readv(2)
#[cfg(target_os = "linux")]
pub fn look_open(address: usize, room: &mut [u8]) -> usize {
    let to = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    let from = libc::iovec { iov_base: std::ptr::with_exposed_provenance_mut(address), iov_len: room.len() };
    // SAFETY: the kernel writes into the room only, and refuses what cannot be read.
    let got = unsafe { libc::process_vm_readv(libc::getpid(), &raw const to, 1, &raw const from, 1, 0) };
    usize::try_from(got).unwrap_or(0)
}

/// Threads of this process.
pub fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("/proc/self/task").count()
}

/// Bytes that are resident, if that is told.
pub fn resident() -> Option<i64> {
    Some(kilobytes("VmRSS") as i64)
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

/// Does what a needle has found lie on this thread's signal stack? There the kernel has saved registers, of which what a cipher
/// left in them is wiped on some processors only (SECURITY.md, "Processors").
pub fn is_in_saved_registers(place: &str) -> bool {
    // SAFETY: zeros are a `stack_t`; only asks.
    let stack = unsafe {
        let mut stack: libc::stack_t = std::mem::zeroed();
        assert_eq!(libc::sigaltstack(std::ptr::null(), &raw mut stack), 0);
        stack
    };
    let address = place.strip_prefix("0x").and_then(|rest| rest.split(' ').next());
    let address = address.and_then(|digits| usize::from_str_radix(digits, 16).ok()).expect("an address");
    let is_wiped = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
    !is_wiped && (stack.ss_sp.addr()..stack.ss_sp.addr() + stack.ss_size).contains(&address)
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

/// The thread that made it, for others to send signals to. Some C libraries name a thread by a pointer.
pub struct ThisThread(libc::pthread_t);

// SAFETY: it is only a name.
unsafe impl Send for ThisThread {}
// SAFETY: as above.
unsafe impl Sync for ThisThread {}

impl ThisThread {
    pub fn new() -> Self {
        // SAFETY: asks for the name.
        Self(unsafe { libc::pthread_self() })
    }

    pub fn name(&self) -> libc::pthread_t {
        self.0
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

/// Waits for a child, however it was made; gives its wait status.
pub fn wait_for(pid: libc::pid_t) -> i32 {
    let mut status = -1;
    // SAFETY: one word is written.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) }, pid);
    status
}

//! What tests share, on Windows: of the helpers in `mod.rs` those that have a meaning there.
#![allow(
    dead_code,
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers for tests, which end by panics; each test binary uses some; memory is looked at by raw calls"
)]

mod anywhere;
pub mod stores;

#[allow(unused_imports, reason = "each test binary uses some")]
pub use anywhere::*;
use securememory::Call;
use securememory::testing::errno;
use securememory::testing::inject::{self, Injection, Plan};
use windows_sys::Win32::Foundation::{EXCEPTION_ACCESS_VIOLATION, FILETIME};
use windows_sys::Win32::System::Diagnostics::Debug::ReadProcessMemory;
use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEM_PRIVATE, MEM_RESERVE, MEMORY_BASIC_INFORMATION, PAGE_GUARD, PAGE_NOACCESS, PAGE_READONLY,
    PAGE_READWRITE, VirtualAlloc, VirtualProtect, VirtualQuery,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetProcessTimes};

#[allow(unused_imports, reason = "each test binary uses some")]
pub use securememory::testing::{Ending, Footprint, own_process as case, skip};

/// Bytes in a page.
pub fn page_size() -> usize {
    securememory::Host::probe().page_size
}

/// What may be done with the page of an address. VirtualQuery
pub fn access(address: usize) -> Access {
    match pages(address).map(|info| info.Protect) {
        Some(PAGE_NOACCESS) => Access::None,
        Some(PAGE_READONLY) => Access::Read,
        Some(PAGE_READWRITE) => Access::ReadWrite,
        other => panic!("{other:?}"),
    }
}

fn pages(address: usize) -> Option<MEMORY_BASIC_INFORMATION> {
    // SAFETY: numbers and pointers, for which zero is right; one structure is written.
    unsafe {
        let mut info: MEMORY_BASIC_INFORMATION = std::mem::zeroed();
        let len = size_of::<MEMORY_BASIC_INFORMATION>();
        (VirtualQuery(std::ptr::without_provenance(address), &raw mut info, len) != 0).then_some(info)
    }
}

/// What the kernel gives of this process's memory, if it is all that was asked for. ReadProcessMemory
pub fn read(address: usize, len: usize) -> Option<Vec<u8>> {
    let (mut bytes, mut got) = (vec![0_u8; len], 0);
    // SAFETY: the kernel writes so many bytes of the vector, and reads wherever it can.
    let done = unsafe {
        let from = std::ptr::with_exposed_provenance(address);
        ReadProcessMemory(GetCurrentProcess(), from, bytes.as_mut_ptr().cast(), len, &raw mut got)
    };
    (done != 0 && got == len).then_some(bytes)
}

/// What lies there; `None`: nothing is mapped. Of closed pages too under Wine, whose ReadProcessMemory does not ask; Windows
/// opens them for that long.
pub fn look(address: usize, len: usize) -> Option<Vec<u8>> {
    read(address, len).or_else(|| {
        pages(address).filter(|info| info.Protect == PAGE_NOACCESS)?;
        let (place, mut before) = (std::ptr::with_exposed_provenance_mut(address), 0);
        // SAFETY: a test looks at pages of which nobody else has any use at this moment.
        unsafe { VirtualProtect(place, len, PAGE_READONLY, &raw mut before) };
        let bytes = read(address, len);
        // SAFETY: as above.
        unsafe { VirtualProtect(place, len, before, &raw mut before) };
        bytes
    })
}

/// Copies what lies there into `room`, as far as a load could read it; says how much that is. Wine does not ask whether it could.
pub fn look_open(address: usize, room: &mut [u8]) -> usize {
    let mut done = 0;
    while done < room.len() {
        let at = address + done;
        let open = pages(at)
            .filter(|info| info.State == MEM_COMMIT && info.Protect & (PAGE_NOACCESS | PAGE_GUARD) == 0);
        let Some(info) = open else { break };
        let here = (info.BaseAddress.addr() + info.RegionSize - at).min(room.len() - done);
        let Some(bytes) = read(at, here) else { break };
        room[done..done + here].copy_from_slice(&bytes);
        done += here;
    }
    done
}

/// Opens the page of an address for reading. VirtualProtect
pub fn open(address: usize) {
    let mut before = 0;
    // SAFETY: a guard page, of which a test has made sure that nobody relies on it.
    unsafe {
        VirtualProtect(std::ptr::with_exposed_provenance(address), 1, PAGE_READONLY, &raw mut before);
    }
}

/// How a process ends that reads a closed page.
pub const FAULT: Ending = Ending::Code(EXCEPTION_ACCESS_VIOLATION);

/// A page of the test's own, open. VirtualAlloc
pub fn new_page() -> *mut u8 {
    // SAFETY: new pages, of which nobody knows.
    let page =
        unsafe { VirtualAlloc(std::ptr::null(), page_size(), MEM_COMMIT | MEM_RESERVE, PAGE_READWRITE) };
    assert!(!page.is_null());
    page.cast()
}

/// Opens or closes a page that [`new_page`] gave. VirtualProtect
pub fn protect(page: *mut u8, access: Access) {
    let (access, mut before) = match access {
        Access::None => (PAGE_NOACCESS, 0),
        Access::Read => (PAGE_READONLY, 0),
        Access::ReadWrite => (PAGE_READWRITE, 0),
    };
    // SAFETY: a page of the test's own.
    assert_ne!(unsafe { VirtualProtect(page.cast(), page_size(), access, &raw mut before) }, 0);
}

/// Changes a byte of memory that can be written.
pub fn poke(address: usize, byte: u8) {
    // SAFETY: a test damages what the library keeps at rest: plain bytes, of which nobody has a reference now.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(address).write_volatile(byte) };
}

/// Descriptors of shares of keys: there are no files that could hold any.
pub fn share_files() -> Vec<i32> {
    Vec::new()
}

/// Processors' time that this process has used. GetProcessTimes
pub fn cpu_time() -> std::time::Duration {
    let [mut begun, mut ended, mut kernel, mut user] = [FILETIME { dwLowDateTime: 0, dwHighDateTime: 0 }; 4];
    // SAFETY: writes four structures that live over the call.
    let done = unsafe {
        let process = GetCurrentProcess();
        GetProcessTimes(process, &raw mut begun, &raw mut ended, &raw mut kernel, &raw mut user)
    };
    assert_ne!(done, 0);
    // In units of 100 ns.
    let of = |time: FILETIME| (u64::from(time.dwHighDateTime) << 32) + u64::from(time.dwLowDateTime);
    std::time::Duration::from_nanos(100 * (of(kernel) + of(user)))
}

/// Threads of this process.
pub fn threads() -> usize {
    Footprint::now().threads()
}

/// Bytes locked by the library.
pub fn locked() -> u64 {
    Footprint::now().locked()
}

/// Bytes that are resident: not asked for.
pub fn resident() -> Option<i64> {
    None
}

/// While it lives, this thread's vaults are made as on a host without protection keys: as ever.
pub struct NoKeys {
    _plan: Injection,
}

impl NoKeys {
    /// Until it is dropped.
    pub fn from_now() -> Self {
        Self { _plan: inject::fail(Call::PkeyAlloc, Plan::Always { errno: errno::ENOSPC }) }
    }
}

/// Bytes to be searched for, kept masked.
pub struct Needle {
    masked: Vec<u8>,
}

/// Added to the bytes, so that the search does not find what it searches with.
const MASK: u8 = 0x6D;

/// Zeros that are passed over at once.
const ZEROS: usize = 4 << 10;

impl Needle {
    /// `len` bytes that look random and occur nowhere else.
    pub fn new(seed: u64, len: usize) -> Self {
        let mut state = seed | 1;
        let masked = (0..len)
            .map(|_| {
                // Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014 (the mixing).
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                (mixed ^ (mixed >> 27)) as u8
            })
            .collect();
        Self { masked }
    }

    /// One byte of it.
    #[inline]
    pub fn byte(&self, index: usize) -> u8 {
        self.masked[index].wrapping_sub(MASK)
    }

    /// Its length.
    pub fn len(&self) -> usize {
        self.masked.len()
    }

    /// Writes the bytes from `from` on.
    pub fn write(&self, room: &mut [u8], from: usize) {
        room.iter_mut().enumerate().for_each(|(index, place)| *place = self.byte(from + index));
    }

    /// Is this what `write` wrote?
    pub fn is(&self, bytes: &[u8]) -> bool {
        bytes.iter().enumerate().all(|(index, &byte)| byte == self.byte(index))
    }

    /// Where in the memory of this process that can be written, or could, windows of 8 of its bytes lie: at most a few places.
    pub fn find(&self) -> Vec<String> {
        // Only whole windows are compared, masked again byte by byte.
        let windows: std::collections::HashSet<&[u8]> = self.masked.windows(8).collect();
        // The first two bytes decide for nearly all places.
        let pair = |bytes: &[u8]| usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        let mut likely = vec![false; 1 << 16];
        for window in &windows {
            likely[pair(&[window[0].wrapping_sub(MASK), window[1].wrapping_sub(MASK)])] = true;
        }
        let (mut found, mut at) = (Vec::new(), 0_usize);
        let mut buffer = vec![0_u8; 1 << 16];
        let own = buffer.as_ptr().addr()..buffer.as_ptr().addr() + buffer.len();
        loop {
            let Some(info) = pages(at) else { return found };
            let end = info.BaseAddress.addr() + info.RegionSize;
            let mut place = info.BaseAddress.addr();
            // What cannot be written is of interest where it was written before: in memory of the process's own.
            let is_own = info.Protect == PAGE_READONLY && info.Type == MEM_PRIVATE;
            while (info.Protect == PAGE_READWRITE || is_own) && place < end {
                let want = buffer.len().min(end - place);
                let mut got = 0;
                // SAFETY: the kernel writes so many bytes of the buffer, and reads wherever it can.
                unsafe {
                    let from = std::ptr::with_exposed_provenance(place);
                    let to = buffer.as_mut_ptr().cast();
                    ReadProcessMemory(GetCurrentProcess(), from, to, want, &raw mut got);
                }
                let mut next = 0;
                while next + 8 <= got {
                    let offset = next;
                    // Long runs of zeros are many, and their comparison is fast.
                    if offset % 512 == 0 && buffer[offset..got].starts_with(&[0; ZEROS]) {
                        next += ZEROS - 7;
                        continue;
                    }
                    next += 1;
                    if !likely[pair(&buffer[offset..])] || own.contains(&(place + offset)) {
                        continue;
                    }
                    let mut window = [0_u8; 8];
                    for (to, from) in window.iter_mut().zip(&buffer[offset..]) {
                        *to = from.wrapping_add(MASK);
                    }
                    if windows.contains(&window[..]) && found.len() < 8 {
                        found.push(format!("{:#x}", place + offset));
                    }
                }
                // Windows across the border are seen in the next piece.
                place += if want > 8 && place + want < end { want - 7 } else { want };
            }
            at = end;
        }
    }
}

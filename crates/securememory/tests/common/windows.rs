//! What tests share, on Windows: of the helpers in `mod.rs` those that have a meaning there.
#![allow(
    dead_code,
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers for tests, which end by panics; each test binary uses some; memory is looked at by raw calls"
)]

use securememory::Call;
use securememory::testing::errno;
use securememory::testing::inject::{self, Injection, Plan};
use windows_sys::Win32::System::Diagnostics::Debug::ReadProcessMemory;
use windows_sys::Win32::System::Memory::{MEMORY_BASIC_INFORMATION, PAGE_READWRITE, VirtualQuery};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

#[allow(unused_imports, reason = "each test binary uses some")]
pub use securememory::testing::{Ending, Footprint, own_process as case, skip};

/// Bytes in a page.
pub fn page_size() -> usize {
    securememory::Host::probe().page_size
}

/// Runs `work` on each of `items` in a thread of its own. When it returns, the threads are gone.
pub fn in_threads<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(|| work(item))).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("the thread"));
    });
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

    /// Where in the memory of this process that can be written windows of 8 of its bytes lie: at most a few places.
    pub fn find(&self) -> Vec<String> {
        // Only whole windows are compared, masked again byte by byte.
        let windows: std::collections::HashSet<&[u8]> = self.masked.windows(8).collect();
        let firsts: Vec<bool> = (0..=255).map(|byte| self.masked.iter().any(|&one| one == byte)).collect();
        let (mut found, mut at) = (Vec::new(), 0_usize);
        let mut buffer = vec![0_u8; 1 << 16];
        let own = buffer.as_ptr().addr()..buffer.as_ptr().addr() + buffer.len();
        loop {
            // SAFETY: numbers and pointers, for which zero is right; one structure is written.
            let info = unsafe {
                let mut info: MEMORY_BASIC_INFORMATION = std::mem::zeroed();
                let len = size_of::<MEMORY_BASIC_INFORMATION>();
                if VirtualQuery(std::ptr::without_provenance(at), &raw mut info, len) == 0 {
                    return found;
                }
                info
            };
            let end = info.BaseAddress.addr() + info.RegionSize;
            let mut place = info.BaseAddress.addr();
            while info.Protect == PAGE_READWRITE && place < end {
                let want = buffer.len().min(end - place);
                let mut got = 0;
                // SAFETY: the kernel writes so many bytes of the buffer, and reads wherever it can.
                unsafe {
                    let from = std::ptr::with_exposed_provenance(place);
                    let to = buffer.as_mut_ptr().cast();
                    ReadProcessMemory(GetCurrentProcess(), from, to, want, &raw mut got);
                }
                for offset in 0..got.saturating_sub(7) {
                    if firsts[usize::from(buffer[offset].wrapping_add(MASK))]
                        && !own.contains(&(place + offset))
                    {
                        let mut window = [0_u8; 8];
                        for (to, from) in window.iter_mut().zip(&buffer[offset..]) {
                            *to = from.wrapping_add(MASK);
                        }
                        if windows.contains(&window[..]) && found.len() < 8 {
                            found.push(format!("{:#x}", place + offset));
                        }
                    }
                }
                // Windows across the border are seen in the next piece.
                place += if want > 8 && place + want < end { want - 7 } else { want };
            }
            at = end;
        }
    }
}

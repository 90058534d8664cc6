//! Memory that is lost, for real: a file that is cut under a mapping, a page that the kernel takes for failing hardware, a
//! page that is unmapped.

use std::ffi::c_void;

pub use super::{page_of, page_size};

fn pointer(address: usize) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(address)
}

/// A way to lose memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The page is mapped from a file which ends before it: SIGBUS, BUS_ADRERR.
    Cut,
    /// The kernel has been told of an error in the hardware: SIGBUS, BUS_MCEERR_AR. madvise(2)
    Hardware,
}

impl Loss {
    /// What the signal says.
    pub fn code(self) -> i32 {
        match self {
            Self::Cut => libc::BUS_ADRERR,
            Self::Hardware => libc::BUS_MCEERR_AR,
        }
    }

    /// Can it be had here? It needs root and a kernel with CONFIG_MEMORY_FAILURE.
    pub fn is_possible(self) -> bool {
        self == Self::Cut || {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let access = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a new mapping, which is not touched any more after it was poisoned.
            unsafe {
                let page = libc::mmap(std::ptr::null_mut(), page_size(), access, flags, -1, 0);
                assert_ne!(page, libc::MAP_FAILED);
                page.cast::<u8>().write_volatile(1);
                let done = poison(page);
                libc::munmap(page, page_size());
                done.is_ok()
            }
        }
    }

    /// Loses the page that an address lies in; who touches it gets the signal. An error number where it is refused.
    pub fn strike(self, address: usize) -> Result<(), i32> {
        let page = pointer(page_of(address));
        // SAFETY: what lies in the page is lost, which is the purpose.
        unsafe {
            match self {
                Self::Cut => {
                    let file = libc::memfd_create(c"cut".as_ptr(), libc::MFD_CLOEXEC);
                    assert!(file >= 0);
                    let access = libc::PROT_READ | libc::PROT_WRITE;
                    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
                    let made = libc::mmap(page, page_size(), access, flags, file, 0);
                    libc::close(file);
                    assert_eq!(made, page);
                    Ok(())
                }
                Self::Hardware => poison(page),
            }
        }
    }
}

extern "C" fn nothing(_: libc::c_int) {}

/// Tells the kernel of a page whose memory has failed. The signal that the kernel sends to who tells it so is not what is
/// wanted here; the next one who touches the page gets it, too.
///
/// # Safety
///
/// What lies in the page may be lost.
unsafe fn poison(page: *mut c_void) -> Result<(), i32> {
    let (access, key) = mapping(page.addr());
    // SAFETY: an empty handler meanwhile; the page is open meanwhile, since the kernel looks at it with our rights.
    unsafe {
        let mut empty: libc::sigaction = std::mem::zeroed();
        let mut before: libc::sigaction = std::mem::zeroed();
        empty.sa_sigaction = nothing as *const () as usize;
        assert_eq!(libc::sigaction(libc::SIGBUS, &raw const empty, &raw mut before), 0);
        assert_eq!(change(page, libc::PROT_READ | libc::PROT_WRITE, key.map(|_| 0)), 0);
        let done = libc::madvise(page, page_size(), libc::MADV_HWPOISON);
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        assert_eq!(change(page, access, key), 0);
        assert_eq!(libc::sigaction(libc::SIGBUS, &raw const before, std::ptr::null_mut()), 0);
        if done == 0 { Ok(()) } else { Err(errno) }
    }
}

/// # Safety
///
/// Nobody uses the page at this moment.
unsafe fn change(page: *mut c_void, access: i32, key: Option<i32>) -> libc::c_long {
    // SAFETY: as the caller vouches.
    unsafe {
        match key {
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            Some(key) => libc::syscall(
                libc::SYS_pkey_mprotect,
                page,
                page_size(),
                access as libc::c_long,
                key as libc::c_long,
            ),
            _ => libc::mprotect(page, page_size(), access).into(),
        }
    }
}

/// Who may touch a page, and the protection key that it is under, where there are such.
fn mapping(page: usize) -> (i32, Option<i32>) {
    let text = std::fs::read_to_string("/proc/self/smaps").expect("/proc/self/smaps");
    let (mut access, mut key, mut inside) = (None, None, false);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let range = first.split_once('-').and_then(|(start, end)| {
            Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
        });
        if let Some((start, end)) = range {
            inside = (start..end).contains(&page);
            if inside {
                let letters = words.next().unwrap_or_default();
                let bit = |letter, bit| if letters.contains(letter) { bit } else { 0 };
                access = Some(bit('r', libc::PROT_READ) | bit('w', libc::PROT_WRITE));
            }
        } else if inside && first == "ProtectionKey:" {
            key = words.next().and_then(|number| number.parse().ok());
        }
    }
    (access.expect("a mapping"), key)
}

/// Pages that a mapping begins with that says this of itself: in /proc/self/smaps, its first line and its flags.
pub fn mappings(is_wanted: impl Fn(&str, &str) -> bool) -> Vec<usize> {
    let text = std::fs::read_to_string("/proc/self/smaps").expect("/proc/self/smaps");
    let (mut found, mut head) = (Vec::new(), "");
    for line in text.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            if is_wanted(head, &format!("{flags} ")) {
                found.push(
                    usize::from_str_radix(head.split('-').next().unwrap_or_default(), 16)
                        .expect("an address"),
                );
            }
        } else if !line.split(' ').next().unwrap_or_default().ends_with(':') {
            head = line;
        }
    }
    found
}

/// Unmaps the page that an address lies in, as a stray munmap does.
pub fn unmap(address: usize) {
    // SAFETY: what lay there is lost, which is the purpose.
    assert_eq!(unsafe { libc::munmap(pointer(page_of(address)), page_size()) }, 0);
}

/// Reads a byte; that it can be read is not sure.
pub fn touch(address: usize) -> u8 {
    // SAFETY: that it may not be readable is what the tests are about.
    unsafe { pointer(address).cast::<u8>().read_volatile() }
}

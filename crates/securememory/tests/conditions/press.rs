//! Conditions that a process brings upon itself, since they would not outlive an exec.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// What keeps a resource used up.
pub enum Pressed {
    Descriptors(#[allow(dead_code, reason = "they are to be open, no more")] Vec<OwnedFd>),
    Mappings(*mut libc::c_void, usize),
    Setting(String, String),
    Lasting,
}

impl Drop for Pressed {
    fn drop(&mut self) {
        match self {
            // SAFETY: mapped by `mappings`, and nobody refers to it.
            Self::Mappings(at, len) => unsafe { _ = libc::munmap(*at, *len) },
            Self::Setting(path, before) => {
                // Some can only be raised.
                let _ = std::fs::write(path, before);
            }
            Self::Descriptors(_) | Self::Lasting => {}
        }
    }
}

/// Brings it about. An error says why that cannot be here.
pub fn press(what: &str) -> Result<Pressed, String> {
    match what {
        "descriptors" => Ok(descriptors()),
        "mappings" => mappings(),
        "address-space" => address_space(),
        "not-dumpable" => not_dumpable(),
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
        other if other.starts_with("refuse:") => {
            crate::later::refuse(&other["refuse:".len()..]);
            Ok(Pressed::Lasting)
        }
        other => match other.strip_prefix("sysctl:").and_then(|setting| setting.split_once('=')) {
            Some((name, value)) => setting(name, value),
            None => Err(format!("no condition {other}")),
        },
    }
}

/// No descriptor is left.
fn descriptors() -> Pressed {
    let limit = crate::common::limits_of(libc::RLIMIT_NOFILE);
    let low = limit.soft.min(256);
    crate::common::limit(libc::RLIMIT_NOFILE, low).expect("a lower limit");
    let mut all = Vec::with_capacity(256);
    loop {
        // SAFETY: duplicates a descriptor that is open.
        let number = unsafe { libc::fcntl(std::io::stderr().as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) };
        if number < 0 {
            return Pressed::Descriptors(all);
        }
        // SAFETY: just made, and nobody else's.
        all.push(unsafe { OwnedFd::from_raw_fd(number) });
    }
}

/// No mapping is left, as far as that can be told: the kernel counts some that it does not list.
fn mappings() -> Result<Pressed, String> {
    const SIZE: usize = 1 << 16;
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    let limit: usize = limit.and_then(|text| text.trim().parse().ok()).unwrap_or(65_530);
    if limit > 300_000 {
        return Err(format!("vm.max_map_count is {limit}: too large to be used up in a test"));
    }
    let len = (limit + 16) * SIZE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, whose parts change their access; nobody refers to it.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0);
        if at == libc::MAP_FAILED {
            return Err("no address space for so many mappings".to_owned());
        }
        // Every other part is readable, so that no two neighbours merge.
        for part in (1..limit + 16).step_by(2) {
            if libc::mprotect(at.byte_add(part * SIZE), SIZE, libc::PROT_READ) != 0 {
                break;
            }
        }
        Ok(Pressed::Mappings(at, len))
    }
}

/// The limit on address space is 64 KiB away.
fn address_space() -> Result<Pressed, String> {
    let text =
        std::fs::read_to_string("/proc/self/statm").map_err(|_| "no /proc to tell the size".to_owned())?;
    let pages: u64 = text.split(' ').next().and_then(|pages| pages.parse().ok()).ok_or("no size")?;
    // SAFETY: asks for a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
    crate::common::limit(libc::RLIMIT_AS, pages * page + (64 << 10)).map_err(|error| error.to_string())?;
    Ok(Pressed::Lasting)
}

/// `PR_SET_DUMPABLE` 0: the files of /proc about this process are root's.
fn not_dumpable() -> Result<Pressed, String> {
    // SAFETY: sets a number of this process.
    match unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) } {
        0 => Ok(Pressed::Lasting),
        _ => Err(std::io::Error::last_os_error().to_string()),
    }
}

/// A setting of the whole machine, such as `vm/overcommit_memory`: for machines that nobody else uses.
fn setting(name: &str, value: &str) -> Result<Pressed, String> {
    let path = format!("/proc/sys/{name}");
    let before = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    std::fs::write(&path, value).map_err(|error| format!("{path}: {error}"))?;
    Ok(Pressed::Setting(path, before))
}

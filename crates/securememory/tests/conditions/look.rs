//! Looks at this process that ask nobody but the kernel: not the library, and where it can be, not /proc either.

use std::os::fd::{AsRawFd, OwnedFd};

/// What the kernel lists of the mapping around an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags {
    pub locked: bool,
    pub no_dump: bool,
    /// Wiped in a child, or not there.
    pub no_fork: bool,
}

/// The flags of the page at `address`; `None` where there is no listing.
pub fn flags(address: usize) -> Option<Flags> {
    let listing = own("smaps")?;
    let mut covers = false;
    for line in listing.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        let number = |text| usize::from_str_radix(text, 16).ok();
        let range = first.split_once('-').and_then(|(from, to)| Some(number(from)?..number(to)?));
        if let Some(range) = range {
            covers = range.contains(&address);
        } else if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| covers) {
            let has = |flag| flags.split_whitespace().any(|other| other == flag);
            return Some(Flags { locked: has("lo"), no_dump: has("dd"), no_fork: has("wf") || has("dc") });
        }
    }
    None
}

/// Bytes of secretmem that some kernels keep in memory like all of it, and neither mark nor count as locked.
pub fn uncounted() -> u64 {
    let Some(listing) = own("smaps") else { return 0 };
    let (mut size, mut sum) = (0, 0);
    for line in listing.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        let number = |text| u64::from_str_radix(text, 16).ok();
        let range = first.split_once('-').and_then(|(from, to)| Some((number(from)?, number(to)?)));
        if let Some((from, to)) = range {
            size = if line.contains("/secretmem") { to - from } else { 0 };
        } else if let Some(flags) = line.strip_prefix("VmFlags:")
            && !flags.split_whitespace().any(|flag| flag == "lo")
        {
            sum += size;
        }
    }
    sum
}

/// Bytes that this process has locked.
pub fn locked() -> Option<u64> {
    let status = own("status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Of the thread: that of the process is the first thread's.
fn own(name: &str) -> Option<String> {
    ["thread-self", "self"]
        .iter()
        .find_map(|whose| std::fs::read_to_string(format!("/proc/{whose}/{name}")).ok())
}

/// Descriptors of in-memory files whose seals cannot be changed, as those of a split key. Without /proc.
pub fn share_files() -> usize {
    let sealed = |number: &libc::c_int| {
        // SAFETY: asks about a number; where it is no such file, that is the answer.
        let seals = unsafe { libc::fcntl(*number, libc::F_GET_SEALS) };
        seals >= 0 && seals & libc::F_SEAL_SEAL != 0
    };
    (3..2048).filter(sealed).count()
}

/// Tries to read memory without touching it: the kernel does, into a pipe.
pub struct Reader {
    from: OwnedFd,
    to: OwnedFd,
}

impl Reader {
    pub fn new() -> std::io::Result<Self> {
        let mut ends = [0; 2];
        // SAFETY: writes two numbers.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        use std::os::fd::FromRawFd;
        // SAFETY: just made, and nobody else's.
        unsafe { Ok(Self { from: OwnedFd::from_raw_fd(ends[0]), to: OwnedFd::from_raw_fd(ends[1]) }) }
    }

    /// The bytes at `address`, as many as fit; `None` where they are out of reach.
    pub fn read<'a>(&self, address: usize, room: &'a mut [u8]) -> Option<&'a [u8]> {
        // Bytes read at a time, not a page size.
        let want = room.len().min(4096);
        // SAFETY: the kernel looks whether the memory may be read, and says EFAULT where not. A pipe holds a page.
        let wrote = unsafe { libc::write(self.to.as_raw_fd(), address as *const libc::c_void, want) };
        let len = usize::try_from(wrote).ok().filter(|&len| len > 0)?;
        // SAFETY: as many bytes as were written to the pipe, into a slice of at least that length.
        let got = unsafe { libc::read(self.from.as_raw_fd(), room.as_mut_ptr().cast(), len) };
        usize::try_from(got).ok().map(|got| &room[..got])
    }

    /// May this process read the byte?
    pub fn reaches(&self, address: usize) -> bool {
        self.read(address, &mut [0]).is_some()
    }
}

/// What `look` gives in a forked child, a number below 100; `None` where there is no child, or it died.
pub fn in_child(look: impl FnOnce() -> u8) -> Option<u8> {
    // SAFETY: the child looks, and ends without anything else.
    unsafe {
        match libc::fork() {
            0 => libc::_exit(look().into()),
            child if child > 0 => {
                let mut status = 0;
                while libc::waitpid(child, &raw mut status, 0) < 0 {
                    if *libc::__errno_location() != libc::EINTR {
                        return None;
                    }
                }
                libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status) as u8)
            }
            _ => None,
        }
    }
}

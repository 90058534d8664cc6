//! What /proc tells about this process.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

/// Open descriptors.
pub fn descriptors() -> io::Result<u64> {
    // One of those listed is the listing itself.
    Ok((fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1))
}

/// Mappings. proc_pid_maps(5).
pub fn mappings() -> io::Result<u64> {
    Ok(fs::read_to_string("/proc/self/maps")?.lines().count() as u64)
}

/// Bytes that the kernel counts as locked, those of memfd_secret included.
pub fn locked() -> io::Result<u64> {
    Status::open()?.locked()
}

/// `/proc/self/status`, to be read again later.
pub struct Status(File);

impl Status {
    pub fn open() -> io::Result<Self> {
        Ok(Self(File::open("/proc/self/status")?))
    }

    /// As the function of that name.
    pub fn locked(&self) -> io::Result<u64> {
        let mut text = [0; 8192];
        let len = self.0.read_at(&mut text, 0)?;
        parse(&String::from_utf8_lossy(&text[..len]), "VmLck")
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no VmLck in /proc/self/status"))
    }
}

/// Bytes that are resident, to the page: `Rss` of all mappings.
pub fn resident() -> io::Result<u64> {
    size_in("/proc/self/smaps_rollup", "Rss").or_else(|_| size_in("/proc/self/status", "VmRSS"))
}

fn size_in(path: &str, name: &str) -> io::Result<u64> {
    parse(&fs::read_to_string(path)?, name)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no {name} in {path}")))
}

fn parse(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(1024 * line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_found_by_its_whole_name() {
        let text = "VmLckX:\t 1 kB\nVmLck:\t    12 kB\n";
        assert_eq!(parse(text, "VmLck"), Some(12 << 10));
        assert_eq!(parse(text, "Vm"), None);
    }
}

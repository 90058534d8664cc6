//! What /proc tells about this process: memory, mappings, descriptors. Read in small pieces, since it is also
//! read where there may be no more memory.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;

/// Open descriptors.
pub fn descriptors() -> io::Result<u64> {
    // One of those listed is the listing itself.
    Ok((fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1))
}

/// Mappings. proc_pid_maps(5).
pub fn mappings() -> io::Result<u64> {
    lines(File::open("/proc/self/maps")?)
}

/// Bytes that the kernel counts as locked. `VmLck` in proc_pid_status(5).
pub fn locked() -> io::Result<u64> {
    size_in("/proc/self/status", "VmLck")?.ok_or_else(|| strange("no VmLck in /proc/self/status"))
}

/// Bytes of ordinary memory that are resident. To the page where the kernel sums up the mappings (`Rss` in
/// proc_pid_smaps(5)); else from a counter that may lag behind by some hundred KiB (`VmRSS` in
/// proc_pid_status(5)).
pub fn resident() -> io::Result<u64> {
    let exact = size_in("/proc/self/smaps_rollup", "Rss").ok().flatten();
    let found = exact.map_or_else(|| size_in("/proc/self/status", "VmRSS"), |bytes| Ok(Some(bytes)))?;
    found.ok_or_else(|| strange("no VmRSS in /proc/self/status"))
}

/// Bytes of the in-memory files to which this process has descriptors. Nothing that is resident includes them
/// while they are not mapped.
pub fn memory_files() -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        // What was closed meanwhile is nobody's; the listing itself is one of those.
        let Ok(target) = fs::read_link(&path) else { continue };
        if target.to_string_lossy().starts_with("/memfd:") {
            // Of a link there, this is what it leads to. stat(2) counts in this unit, whatever the file
            // system's is.
            bytes += fs::metadata(&path)?.blocks() * 512;
        }
    }
    Ok(bytes)
}

/// A listing is not as it should be.
pub fn strange(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The KiB of a size such as `12 kB`.
pub fn kib(size: &str) -> Option<u64> {
    size.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn size_in(path: &str, name: &str) -> io::Result<Option<u64>> {
    size(BufReader::new(File::open(path)?), name)
}

/// The bytes that a line `NAME: N kB` tells.
fn size(mut text: impl BufRead, name: &str) -> io::Result<Option<u64>> {
    let mut line = String::new();
    while text.read_line(&mut line)? > 0 {
        if let Some(rest) = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')) {
            return Ok(kib(rest).and_then(|kib| kib.checked_mul(1024)));
        }
        line.clear();
    }
    Ok(None)
}

fn lines(mut text: impl Read) -> io::Result<u64> {
    // Bytes read at a time, not a page size.
    let (mut count, mut piece) = (0, [0; 4096]);
    loop {
        match text.read(&mut piece) {
            Ok(0) => return Ok(count),
            Ok(read) => count += piece[..read].iter().filter(|&&byte| byte == b'\n').count() as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn sizes_are_found_by_their_whole_name() {
        let text = "VmLckX:\t 1 kB\nVmLck:\t     12 kB\nVmRSS:\t many\nVmBig: 18446744073709551615 kB\n";
        assert_eq!(size(text.as_bytes(), "VmLck").unwrap(), Some(12 * 1024));
        for nothing in ["Vm", "VmRSS", "VmBig", ""] {
            assert_eq!(size(text.as_bytes(), nothing).unwrap(), None, "{nothing}");
        }
    }

    #[test]
    fn lines_are_counted_over_all_pieces() {
        assert_eq!(lines(&b""[..]).unwrap(), 0);
        let text = "7f00-8f00 rw-p 00000000 00:00 0\n".repeat(1000);
        assert_eq!(lines(text.as_bytes()).unwrap(), 1000);
    }

    #[test]
    fn what_is_taken_shows() {
        // Other tests of this process have files and memory too: what is compared is much against little.
        let before = (descriptors().unwrap(), memory_files().unwrap(), resident().unwrap());
        let name = "securememory-test-file";
        let files: Vec<_> = (0..40)
            .map(|_| rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).unwrap())
            .collect();
        for file in &files {
            assert_eq!(rustix::io::write(file, &[1; 8192]).unwrap(), 8192);
        }
        let room = vec![1u8; 64 << 20];
        assert!(descriptors().unwrap() >= before.0 + 20);
        assert!(memory_files().unwrap() >= before.1 + 20 * 8192);
        assert!(resident().unwrap() >= before.2 + (40 << 20));
        assert!(mappings().unwrap() > 5 && locked().is_ok());
        drop((files, room));
    }
}

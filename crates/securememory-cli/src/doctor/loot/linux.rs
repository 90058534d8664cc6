//! Of Linux: /proc/PID/fd and pidfd_getfd(2).

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use rustix::fs::{FileType, fstat};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::{Loot, Through};
use crate::doctor::crack::{KEY, looks_random};
use crate::doctor::verdict::Trouble;
use crate::raw;

/// Reads every file that the process has open.
pub fn loot(pid: u32, through: Through) -> Result<Loot, Trouble> {
    let mut loot = Loot::default();
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).map_err(Trouble::forbidden("/proc/PID/fd"))?;
    for entry in entries {
        let entry = entry?;
        loot.descriptors += 1;
        // Only plain files, in-memory ones among them: reading a pipe would take what is not ours.
        if !entry.path().metadata().is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        let number = entry
            .file_name()
            .to_string_lossy()
            .parse()
            .map_err(|_| Trouble::failed("a strange descriptor"))?;
        let file = match through {
            Through::Name => File::options().read(true).custom_flags(libc::O_NONBLOCK).open(entry.path()),
            Through::Duplicate => duplicate(pid, number),
        };
        let Ok(file) = file else {
            loot.refused += 1;
            continue;
        };
        let Ok(bytes) = content(&file) else {
            loot.refused += 1;
            continue;
        };
        loot.read += 1;
        loot.shares.extend(bytes.as_chunks::<KEY>().0.iter().filter(|bytes| looks_random(bytes)));
        loot.bytes.extend(bytes);
    }
    Ok(loot)
}

/// What a file begins with. Some can be mapped and not read.
fn content(file: &File) -> io::Result<Vec<u8>> {
    const MOST: usize = 64 * 1024;
    let mut bytes = vec![0; MOST];
    match file.read_at(&mut bytes, 0) {
        Ok(read) => {
            bytes.truncate(read);
            Ok(bytes)
        }
        Err(_) => {
            let len = usize::try_from(file.metadata()?.len()).unwrap_or(MOST).min(MOST);
            raw::mapped(file.as_fd(), len)
        }
    }
}

fn duplicate(pid: u32, number: i32) -> io::Result<File> {
    let no_process = || io::Error::from(io::ErrorKind::NotFound);
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(no_process)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let descriptor = pidfd_getfd(process, number, PidfdGetfdFlags::empty())?;
    let stat = fstat(descriptor.as_fd())?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(descriptor.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_file_that_can_be_mapped_and_not_read_is_taken_too() {
        // SAFETY: memfd_secret(2) takes one number and makes a descriptor, which is nobody else's.
        #[allow(unsafe_code)]
        let file = unsafe {
            let made = libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC);
            let Ok(made @ 0..) = i32::try_from(made) else {
                eprintln!("skipped: no memfd_secret here ({})", io::Error::last_os_error());
                return;
            };
            <File as std::os::fd::FromRawFd>::from_raw_fd(made)
        };
        // not a page size: of a file.
        file.set_len(4096).unwrap();
        assert!(file.read_at(&mut [0; 8], 0).is_err());
        assert_eq!(content(&file).unwrap(), vec![0; 4096]);
    }
}

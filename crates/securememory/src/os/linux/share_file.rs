//! In-memory files that hold one half of a key each, never mapped.
//!
//! The descriptor is a number that any code of the process can close or point elsewhere, and a forked child
//! has the same file. So nothing is changed or closed here unless the number still stands for the file that
//! was made, in the process that made it. Callers check the alive mark in addition.

// Reason: descriptors are lent to rustix by number, and bytes move through raw pointers.
#![allow(unsafe_code)]

use super::sigxfsz::without_sigxfsz;
use super::{failed, returns};
use crate::os::{Call, CallError, CallResult, injected, injected_len};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

/// How many numbers are tried for a descriptor. Every replica of every vault takes one from the same end.
const NUMBERS_TRIED: usize = 64;

/// Where in a share its check half begins.
const CHECK_AT: usize = 32;

/// A file in memory that holds a key share. Not closed by `Drop`: who drops it may be a forked child.
#[derive(Debug)]
pub(crate) struct ShareFile {
    fd: RawFd,
    dev: u64,
    ino: u64,
    owner: u32,
}

impl ShareFile {
    /// Bytes in a share file: 32 of key and 32 of check value.
    pub(crate) const LEN: usize = 64;

    /// A new file of 64 zeroes. Half-made ones are closed. memfd_create(2), fcntl(2), fchmod(2),
    /// ftruncate(2), fstat(2).
    pub(crate) fn create() -> CallResult<Self> {
        Self::create_but(None)
    }

    /// The same, but not under this number, if another can be had: a host that closed it by mistake may do so
    /// again.
    pub(crate) fn create_but(avoided: Option<RawFd>) -> CallResult<Self> {
        let fd = memfd()?;
        // First of all: until then any holder of the descriptor could seal the file against writing, and so
        // against wiping.
        injected(Call::Fcntl)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SEAL).map_err(failed(Call::Fcntl))?;
        injected(Call::Fchmod)?;
        rustix::fs::fchmod(&fd, Mode::empty()).map_err(failed(Call::Fchmod))?;
        set_noatime(&fd);
        let fd = renumber(fd, avoided)?;
        resize(fd.as_fd(), Self::LEN as u64)?;
        injected(Call::Fstat)?;
        let (dev, ino) = identity(fd.as_fd()).map_err(failed(Call::Fstat))?;
        Ok(Self { fd: fd.into_raw_fd(), dev, ino, owner: crate::os::process_id() })
    }

    /// The file that was made in process `owner` and got this number, device and inode.
    pub(crate) fn known(number: RawFd, (dev, ino): (u64, u64), owner: u32) -> Self {
        Self { fd: number, dev, ino, owner }
    }

    /// Device and inode.
    pub(crate) fn identity(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }

    /// The 64 bytes of the file with this number, to `dst`. A file that is too short is an error with number
    /// zero. pread64(2). Hot.
    ///
    /// The number is not checked to be ours: the check value in the bytes does that.
    ///
    /// # Safety
    ///
    /// 64 bytes from `dst` may be written, and nobody else uses them meanwhile. On an error some may have
    /// been.
    #[inline]
    pub(crate) unsafe fn read(number: RawFd, dst: *mut u8) -> CallResult<()> {
        // SAFETY: the caller's promise.
        unsafe { pread(number, dst, Self::LEN, 0) }
    }

    /// The check half of what [`Self::read`] reads, which is no part of a key. pread64(2).
    pub(crate) fn read_check(number: RawFd) -> CallResult<[u64; (Self::LEN - CHECK_AT) / 8]> {
        let mut check = [0_u64; (Self::LEN - CHECK_AT) / 8];
        // SAFETY: a local array of that many bytes.
        unsafe { pread(number, check.as_mut_ptr().cast(), size_of_val(&check), CHECK_AT as u64) }
            .map(|()| check)
    }

    /// Does the number still stand for our file, in the process that made it? fstat(2), getpid(2). Dying.
    #[cfg(test)]
    pub(crate) fn is_ours(&self) -> bool {
        self.check().is_ok()
    }

    /// 64 bytes from `src`. Refused with EBADF if the file is not ours. A short write is an error with number
    /// zero. pwrite64(2). Dying.
    ///
    /// # Safety
    ///
    /// 64 bytes from `src` may be read, and nobody writes them meanwhile.
    pub(crate) unsafe fn write(&self, src: *const u8) -> CallResult<()> {
        self.check()?;
        let len = injected_len(Call::Pwrite, Self::LEN)?;
        // SAFETY: the caller's promise; `len` is at most 64.
        let bytes = unsafe { std::slice::from_raw_parts(src, len) };
        without_sigxfsz(|| {
            loop {
                match rustix::io::pwrite(self.lend(), bytes, 0) {
                    Ok(Self::LEN) => return Ok(()),
                    Ok(_) => return Err(CallError::short(Call::Pwrite)),
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(CallError::new(Call::Pwrite, errno.raw_os_error())),
                }
            }
        })
    }

    /// Makes the file empty, and so gives its page back. Refused with EBADF if the file is not ours.
    /// ftruncate(2). Dying.
    ///
    /// It waits for a writer of the same file.
    pub(crate) fn truncate(&self) -> CallResult<()> {
        self.check()?;
        resize(self.lend(), 0)
    }

    /// Closes the descriptor. Refused with EBADF if the file is not ours; then the number is left to whoever
    /// has it. close(2).
    pub(crate) fn close(self) -> CallResult<()> {
        self.check()?;
        // As in the kernel, the number is free even when close reports an error.
        let outcome = injected(Call::Close);
        // SAFETY: the number stands for the file that we made, and the value that held it ends here.
        unsafe { rustix::io::close(self.fd) };
        outcome
    }

    /// The number of the descriptor.
    pub(crate) fn raw_fd(&self) -> RawFd {
        self.fd
    }

    fn check(&self) -> CallResult<()> {
        injected(Call::Fstat)?;
        let ours = crate::os::process_id() == self.owner
            && identity(self.lend()).is_ok_and(|found| found == (self.dev, self.ino));
        if ours { Ok(()) } else { Err(CallError::new(Call::Fstat, libc::EBADF)) }
    }

    fn lend(&self) -> BorrowedFd<'_> {
        lend(self.fd)
    }
}

#[inline]
fn lend<'a>(number: RawFd) -> BorrowedFd<'a> {
    // SAFETY: never -1, and used for one system call. Should others have closed the number or pointed it
    // elsewhere, then reads are caught by the check value in the bytes, and the rest by `check`.
    unsafe {
        // Or the compiler would leave a panic in what a handler calls.
        std::hint::assert_unchecked(number != -1);
        BorrowedFd::borrow_raw(number)
    }
}

/// # Safety
///
/// `len` bytes from `dst` may be written, and nobody else uses them meanwhile.
#[inline]
unsafe fn pread(number: RawFd, dst: *mut u8, len: usize, offset: u64) -> CallResult<()> {
    let asked = injected_len(Call::Pread, len)?;
    // SAFETY: the caller has exclusive use of these bytes, and `MaybeUninit` asks nothing of their contents.
    let place = unsafe { std::slice::from_raw_parts_mut(dst.cast::<MaybeUninit<u8>>(), asked) };
    loop {
        let outcome = rustix::io::pread(lend(number), &mut *place, offset);
        returns::after_call();
        match outcome {
            Ok((read, _)) if read.len() == len => return Ok(()),
            Ok(_) => return Err(CallError::short(Call::Pread)),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(CallError::new(Call::Pread, errno.raw_os_error())),
        }
    }
}

/// Closed on exec; never to be made executable, where the kernel knows of that.
fn memfd() -> CallResult<OwnedFd> {
    injected(Call::MemfdCreate)?;
    let make = |flags| rustix::fs::memfd_create(c"securememory", flags);
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match make(flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => make(flags),
        other => other,
    }
    .map_err(failed(Call::MemfdCreate))
}

/// Spares a read the note of its time. Without it all works, a little slower, so a refusal does not matter.
fn set_noatime(fd: &OwnedFd) {
    if injected(Call::Fcntl).is_ok()
        && let Ok(flags) = rustix::fs::fcntl_getfl(fd)
    {
        let _ = rustix::fs::fcntl_setfl(fd, flags | OFlags::NOATIME);
    }
}

/// Moves the descriptor to a high number, where stray closes are rare; 0, 1 and 2 are taken for the standard
/// streams by everybody.
///
/// It must not grow the table of descriptors, which blocks for milliseconds in a process with threads. How
/// large the table is, is not known without /proc; that it holds the number just given is.
fn renumber(fd: OwnedFd, avoided: Option<RawFd>) -> CallResult<OwnedFd> {
    let now = fd.as_raw_fd();
    let limit = crate::os::descriptor_limit().unwrap_or(u64::MAX).try_into().unwrap_or(usize::MAX);
    let top = table_size(now).min(limit);
    let high = (0..top).rev().take(NUMBERS_TRIED).filter_map(|number| RawFd::try_from(number).ok());
    for number in high.take_while(|&number| number > now.max(2)) {
        if avoided != Some(number) && is_free(number) {
            // Another thread may take the number first; then the next free one above it will do as well.
            match duplicate(&fd, number) {
                Ok(moved) => return Ok(moved),
                Err(_) => break,
            }
        }
    }
    if now > 2 { Ok(fd) } else { duplicate(&fd, 3) }
}

/// The least size of a table that holds `fd`: the kernel begins with one word of bits, and then counts in
/// powers of two of at least a KiB of pointers.
fn table_size(fd: RawFd) -> usize {
    let numbers = usize::try_from(fd).unwrap_or(0) + 1;
    if numbers <= usize::BITS as usize {
        usize::BITS as usize
    } else {
        numbers.next_power_of_two().max(1024 / size_of::<usize>())
    }
}

fn is_free(number: RawFd) -> bool {
    // SAFETY: not -1; only asked whether there is such a descriptor, which changes nothing.
    let asked = unsafe { BorrowedFd::borrow_raw(number) };
    matches!(rustix::io::fcntl_getfd(asked), Err(Errno::BADF))
}

fn duplicate(fd: &OwnedFd, at_least: RawFd) -> CallResult<OwnedFd> {
    injected(Call::Fcntl)?;
    rustix::io::fcntl_dupfd_cloexec(fd, at_least).map_err(failed(Call::Fcntl))
}

fn resize(fd: BorrowedFd<'_>, len: u64) -> CallResult<()> {
    injected(Call::Ftruncate)?;
    without_sigxfsz(|| {
        loop {
            match rustix::fs::ftruncate(fd, len) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(CallError::new(Call::Ftruncate, errno.raw_os_error())),
            }
        }
    })
}

/// Device and inode.
#[allow(clippy::unnecessary_cast, reason = "the types of the fields differ between processors")]
fn identity(fd: BorrowedFd<'_>) -> Result<(u64, u64), Errno> {
    rustix::fs::fstat(fd).map(|stat| (stat.st_dev as u64, stat.st_ino as u64))
}

#[cfg(test)]
mod tests;

//! Memory that the kernel does not keep in its own map: neither it nor other processes, root's included, can read it
//! through kernel maps. memfd_secret(2)
//!
//! The kernel locks it and leaves it out of core dumps by itself, counts it against RLIMIT_MEMLOCK, refuses to wipe
//! it in a child (MADV_WIPEONFORK), and does not hibernate while there is any.

// Reason: system calls; every block says why it is sound.
#![allow(unsafe_code)]

use super::sigxfsz::without_sigxfsz;
use super::{failed, keeping_errno};
use crate::os::{Call, CallError, CallResult};
use rustix::io::Errno;
use rustix::mm::{self, MapFlags, ProtFlags};
use std::ffi::c_long;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

/// Is there such a call for this processor?
pub(super) const HAS_CALL: bool = cfg!(all(
    target_pointer_width = "64",
    any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv64",
        target_arch = "loongarch64"
    )
));

/// A file of such memory that has not been mapped yet.
pub(crate) struct SecretFile {
    fd: OwnedFd,
    len: usize,
}

/// Why [`SecretFile::map_over`] did not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Misplaced {
    pub(crate) cause: CallError,
    /// Do the pages that were to be replaced lie there as before? If not, nobody knows who has their place now.
    pub(crate) untouched: bool,
}

/// Makes such memory, and gives it back.
pub(super) fn probe() -> CallResult<()> {
    let file = SecretFile::create(crate::os::page_size())?;
    file.try_map().map(|()| file.close())
}

impl SecretFile {
    /// `len` bytes, whole pages. memfd_secret(2), ftruncate(2).
    pub(crate) fn create(len: usize) -> CallResult<Self> {
        crate::os::injected(Call::MemfdSecret)?;
        let refused = |errno| CallError::new(Call::MemfdSecret, errno);
        // The number is the same wherever the kernel has the call; the libc crate does not know it everywhere.
        let number: c_long = if HAS_CALL { 447 } else { return Err(refused(libc::ENOSYS)) };
        // SAFETY: the call takes one number, and makes a descriptor.
        let made = keeping_errno(|| unsafe { libc::syscall(number, libc::O_CLOEXEC) }).map_err(refused)?;
        let made = RawFd::try_from(made).map_err(|_| refused(libc::EBADF))?;
        // SAFETY: just made, and nobody else's.
        let file = Self { fd: unsafe { OwnedFd::from_raw_fd(made) }, len };
        let resized = crate::os::injected(Call::Ftruncate).and_then(|()| {
            without_sigxfsz(|| {
                loop {
                    match rustix::fs::ftruncate(&file.fd, len as u64) {
                        Err(Errno::INTR) => {}
                        outcome => return outcome.map_err(failed(Call::Ftruncate)),
                    }
                }
            })
        });
        match resized {
            Ok(()) => Ok(file),
            Err(cause) => {
                file.close();
                Err(cause)
            }
        }
    }

    /// Maps the file somewhere, and unmaps it: a limit on locked memory shows here. mmap(2), munmap(2).
    fn try_map(&self) -> CallResult<()> {
        crate::os::injected(Call::Mmap)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses touches no existing memory; given back at once.
        unsafe {
            let null = std::ptr::null_mut();
            mm::mmap(null, self.len, access, MapFlags::SHARED, &self.fd, 0)
                .and_then(|page| mm::munmap(page, self.len))
        }
        .map_err(failed(Call::Mmap))
    }

    /// Replaces pages by those of the file, accessible, and closes the descriptor. They have no memory until they are
    /// written: that is best done by the kernel, which gives an error where a store would end the process. mmap(2),
    /// close(2).
    ///
    /// # Safety
    ///
    /// Whole pages from [`crate::os::map`], as many as the file has, that nothing refers to.
    pub(crate) unsafe fn map_over(self, ptr: NonNull<u8>) -> Result<(), Misplaced> {
        // Where a mapping in place of another fails, the other may be gone, and the place taken by another thread's
        // mapping. So what can fail is found out first where nothing can be lost.
        let tried = self.try_map().map_err(|cause| Misplaced { cause, untouched: true });
        let outcome = tried.and_then(|()| {
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            let access = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: the pages that are replaced are the caller's, and nothing refers to them.
            unsafe { mm::mmap(ptr.as_ptr().cast(), self.len, access, flags, &self.fd, 0) }
                .map(drop)
                .map_err(|errno| Misplaced { cause: failed(Call::Mmap)(errno), untouched: false })
        });
        self.close();
        outcome
    }

    /// The number is free even when close reports an error, so there is none to be told.
    fn close(self) {
        let _ = crate::os::injected(Call::Close);
    }
}

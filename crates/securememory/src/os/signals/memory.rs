//! Memory, as a handler deals with it: overwritten by the kernel, and replaced. Dying, as all of [`super`].

// Reason: system calls on memory of the callers; every block says why it is sound.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long};

use super::super::linux::keeping_errno;

/// Random bytes, written by the kernel; an error number where it did not write all of them. getrandom(2), by number: the
/// functions for others have a panic in them, in case of a number of bytes that never comes.
///
/// # Safety
///
/// Nobody minds what is written to the `len` bytes from `at`. They need not be writable: then it is EFAULT.
pub(crate) unsafe fn random(at: usize, len: usize) -> Result<(), c_int> {
    let mut done = 0_usize;
    while done < len {
        // SAFETY: as the caller vouches. It never waits: a kernel that has no random bytes yet says so.
        let made = keeping_errno(|| unsafe {
            let (at, left) = (at.wrapping_add(done), len.wrapping_sub(done));
            libc::syscall(libc::SYS_getrandom, at, left, libc::GRND_NONBLOCK as c_long)
        });
        match made {
            Ok(bytes) => done = done.wrapping_add(bytes.cast_unsigned() as usize),
            Err(libc::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// A new page, readable and writable, of this process alone. mmap(2), mmap2(2)
fn new_page(page: usize) -> Result<c_long, c_int> {
    let access = c_long::from(libc::PROT_READ | libc::PROT_WRITE);
    let flags = c_long::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address that the kernel chooses touches no existing memory.
    keeping_errno(|| unsafe {
        // Where this call is older than calls of six arguments, it takes the address of them. Of processors with 32 bits
        // all have its successor, and some only that.
        #[cfg(target_arch = "s390x")]
        return libc::syscall(libc::SYS_mmap, [0, page as c_long, access, flags, -1, 0].as_ptr());
        #[cfg(target_pointer_width = "32")]
        return libc::syscall(libc::SYS_mmap2, 0 as c_long, page, access, flags, -1 as c_long, 0 as c_long);
        #[cfg(all(target_pointer_width = "64", not(target_arch = "s390x")))]
        return libc::syscall(libc::SYS_mmap, 0 as c_long, page, access, flags, -1 as c_long, 0 as c_long);
    })
}

/// Random bytes, of which some or all are missing where the kernel has none yet.
pub(crate) fn seed() -> u64 {
    let mut seed = 0_u64;
    // SAFETY: as many bytes of this frame.
    let _ = unsafe { random((&raw mut seed).addr(), size_of::<u64>()) };
    seed
}

/// Puts a new page, readable and writable, of this process alone, in the place of another, at once: nobody ever sees it
/// without what `fill` has written. `secured`: protected as can be; else it is ordinary memory. mmap(2), madvise(2),
/// mlock(2), mremap(2)
///
/// # Safety
///
/// A whole page of ours, whose contents are lost.
pub(crate) unsafe fn replace(at: usize, page: usize, secured: bool, fill: impl FnOnce(*mut u8)) -> bool {
    // SAFETY: a new page, and then the caller's; by number, since the C library's functions are not all
    // async-signal-safe.
    unsafe {
        let Ok(made) = new_page(page) else { return false };
        if secured {
            let advise =
                |advice| keeping_errno(|| libc::syscall(libc::SYS_madvise, made, page, c_long::from(advice)));
            let _ = advise(libc::MADV_DONTDUMP);
            // As memory is secured from the beginning: what cannot be wiped in a child is not there.
            if advise(libc::MADV_WIPEONFORK).is_err() {
                let _ = advise(libc::MADV_DONTFORK);
            }
            let _ = advise(libc::MADV_UNMERGEABLE);
        }
        fill(std::ptr::with_exposed_provenance_mut(made as usize));
        let how = c_long::from(libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED);
        let moved = keeping_errno(|| libc::syscall(libc::SYS_mremap, made, page, page, how, at));
        if moved.is_err() {
            let _ = keeping_errno(|| libc::syscall(libc::SYS_munmap, made, page));
            return false;
        }
        if secured {
            // Only now, when the page that was there does not count any more.
            let _ = keeping_errno(|| libc::syscall(libc::SYS_mlock, at, page));
        }
    }
    true
}

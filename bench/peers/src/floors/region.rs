//! Three pages: one without access, one that can be used, one without access.

use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};

use rustix::io::{Errno, Result};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

pub struct Region {
    base: NonNull<c_void>,
    page: usize,
}

// SAFETY: nothing else has this address, and no thread of its own belongs to it.
unsafe impl Send for Region {}

impl Region {
    /// Reserves the three pages, all without access: `mmap`.
    pub fn reserve() -> Result<Self> {
        let page = rustix::param::page_size();
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            rustix::mm::mmap_anonymous(null_mut(), 3 * page, ProtFlags::empty(), MapFlags::PRIVATE)?
        };
        Ok(Self { base: NonNull::new(base).ok_or(Errno::NOMEM)?, page })
    }

    /// The middle page, open and locked.
    pub fn locked() -> Result<Self> {
        let region = Self::reserve()?;
        region.protect(MprotectFlags::READ | MprotectFlags::WRITE)?;
        region.lock()?;
        Ok(region)
    }

    fn middle(&self) -> *mut c_void {
        // SAFETY: the mapping has three pages, so one page from its base is inside it.
        unsafe { self.base.as_ptr().byte_add(self.page) }
    }

    /// The last `len` bytes of the middle page.
    pub fn last(&self, len: usize) -> *mut u8 {
        debug_assert!(len <= self.page);
        // SAFETY: at most a page back from the end of the middle page is inside the middle page.
        unsafe { self.middle().byte_add(self.page - len).cast() }
    }

    pub fn protect(&self, access: MprotectFlags) -> Result<()> {
        // SAFETY: the middle page is ours alone, and no reference into it lives at this time: those that `cipher.rs`
        // makes end before its calls do, and it never closes its page.
        unsafe { rustix::mm::mprotect(self.middle(), self.page, access) }
    }

    pub fn lock(&self) -> Result<()> {
        // SAFETY: locking does not change contents or access, and the page is ours.
        unsafe { rustix::mm::mlock(self.middle(), self.page) }
    }

    pub fn unlock(&self) -> Result<()> {
        // SAFETY: as for `lock`; nothing else lies on the page.
        unsafe { rustix::mm::munlock(self.middle(), self.page) }
    }

    /// Gives the middle page to a protection key: `pkey_mprotect`, by the raw call.
    #[cfg(target_arch = "x86_64")]
    pub fn give_to(&self, key: i32) -> Result<()> {
        const PKEY_MPROTECT: usize = 329;
        let access = (MprotectFlags::READ | MprotectFlags::WRITE).bits() as usize;
        let result: isize;
        // SAFETY: the page is ours, and stays mapped with the access that it has.
        unsafe {
            std::arch::asm!("syscall", inlateout("rax") PKEY_MPROTECT as isize => result, in("rdi") self.middle(),
                in("rsi") self.page, in("rdx") access, in("r10") key as usize, out("rcx") _, out("r11") _)
        };
        if result == 0 { Ok(()) } else { Err(Errno::INVAL) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `reserve`, and nobody uses it any more.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr(), 3 * self.page) };
    }
}

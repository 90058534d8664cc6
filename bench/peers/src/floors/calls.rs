//! Bare system calls.

use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::mm::MprotectFlags;

use super::Result;
use super::region::Region;
use crate::peer::look_at;

/// Bytes of a key share with its check value: what a read fetches from an in-memory file.
pub const SHARE: usize = 64;

/// The least that a call of the kernel costs.
pub fn bare_call(_: &mut ()) -> Result<u64> {
    Ok(rustix::process::getppid().map_or(0, |id| id.as_raw_nonzero().get().unsigned_abs().into()))
}

/// A locked page between two guard pages, without access between reads.
pub struct Page(Region);

impl Page {
    pub fn new() -> Result<Self> {
        let region = Region::locked()?;
        // SAFETY: 32 bytes of a page that is open for writing.
        unsafe { region.last(32).write_bytes(0x5a, 32) };
        region.protect(MprotectFlags::empty())?;
        Ok(Self(region))
    }
}

/// What a read of such a page cannot do without: the two calls, and a look in between. Only a page that was looked at
/// has to be taken from the processors' tables again, here and wherever else the process runs.
pub fn pair_and_look(page: &mut Page) -> Result<u64> {
    page.0.protect(MprotectFlags::READ)?;
    // SAFETY: 32 bytes of a page that is readable until the next line.
    let seen = look_at(unsafe { std::slice::from_raw_parts(page.0.last(32), 32) });
    page.0.protect(MprotectFlags::empty())?;
    Ok(seen)
}

/// The two calls alone, with nothing in between.
pub fn pair(page: &mut Page) -> Result<u64> {
    page.0.protect(MprotectFlags::READ)?;
    page.0.protect(MprotectFlags::empty())?;
    Ok(0)
}

/// The six calls that it takes to make such a page from nothing, lock it, write 32 bytes to it, close it, and take it
/// down again: mmap, mprotect, mlock, mprotect, munlock, munmap.
pub fn six(_: &mut ()) -> Result<u64> {
    let region = Region::locked()?;
    // SAFETY: as in `Page::new`.
    unsafe { region.last(32).write_bytes(0x5a, 32) };
    region.protect(MprotectFlags::empty())?;
    region.unlock()?;
    Ok(0)
}

/// A key share in an in-memory file, and a place for it.
#[repr(align(128))]
pub struct Share {
    place: [u8; SHARE],
    file: OwnedFd,
}

impl Share {
    pub fn new() -> Result<Self> {
        Ok(Self { place: [0; SHARE], file: share_file()? })
    }

    /// Another place for the same file.
    pub fn again(&self) -> Result<Self> {
        Ok(Self { place: [0; SHARE], file: self.file.try_clone()? })
    }
}

/// One `pread` of 64 bytes.
pub fn fetch(share: &mut Share) -> Result<u64> {
    let got = rustix::io::pread(&share.file, share.place.as_mut_slice(), 0)?;
    if got == SHARE { Ok(share.place[0].into()) } else { Err("a short read".into()) }
}

/// An in-memory file as the key hold `Split` has it: no access by mode, no access times kept.
pub fn share_file() -> Result<OwnedFd> {
    let mut share = [0; SHARE];
    super::cipher::random(&mut share)?;
    let file = rustix::fs::memfd_create("peers", MemfdFlags::CLOEXEC)?;
    rustix::fs::fchmod(&file, Mode::empty())?;
    rustix::fs::fcntl_setfl(&file, OFlags::RDWR | OFlags::NOATIME)?;
    if rustix::io::pwrite(&file, &share, 0)? == SHARE { Ok(file) } else { Err("a short write".into()) }
}

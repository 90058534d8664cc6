//! The floors: what an operation cannot do without, called with nothing around it.
//!
//! A floor is what the kernel and the cipher alone cost for the same bytes in the same memory layout:
//! raw system calls without the C library, and the cipher straight on that memory. No gate, no check value,
//! no canary, no associated data, no scrubbing. The distance from an operation to its floor is what this
//! library adds.

// Mapping, protecting and locking memory by hand, and calling the bare cipher, is the whole purpose of these files; no
// other file of the bench does.
#![allow(unsafe_code)]

mod large;

use std::ffi::c_void;
use std::os::fd::OwnedFd;
use std::ptr::{NonNull, null_mut};

use aegis::aegis256::Aegis256;
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use rustix::rand::GetRandomFlags;

pub(super) use large::Large;

/// Bytes of a key share with its check value: what a read fetches from an in-memory file.
const SHARE: usize = 64;
/// Bytes of an AEGIS-256 key and of its nonce.
const KEY: usize = 32;
/// Bytes of the authentication tag.
const TAG: usize = 16;
/// Bytes of the secret in every row of this file; those of [`Large`] have more.
pub(super) const SECRET: usize = 32;

/// Three pages: one without access, one that can be used, one without access.
struct Region {
    base: NonNull<c_void>,
    page: usize,
}

impl Region {
    /// Reserves the three pages, all without access: `mmap`.
    fn reserve() -> Result<Self> {
        let page = rustix::param::page_size();
        let flags = MapFlags::PRIVATE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { rustix::mm::mmap_anonymous(null_mut(), 3 * page, ProtFlags::empty(), flags)? };
        Ok(Self { base: NonNull::new(base).ok_or(Errno::NOMEM)?, page })
    }

    /// The middle page.
    fn middle(&self) -> *mut c_void {
        // SAFETY: the mapping has three pages, so one page from its base is inside it.
        unsafe { self.base.as_ptr().byte_add(self.page) }
    }

    /// The last `len` bytes of the middle page.
    fn last(&self, len: usize) -> *mut u8 {
        debug_assert!(len <= self.page);
        // SAFETY: at most a page back from the end of the middle page is inside the middle page.
        unsafe { self.middle().byte_add(self.page - len).cast() }
    }

    fn protect(&self, access: MprotectFlags) -> Result<()> {
        // SAFETY: the middle page is ours alone, and no reference into it lives at this time: those that `Cipher`
        // makes borrow it whole, and it never closes its page; `ClosedKey` makes none into its closed page.
        unsafe { rustix::mm::mprotect(self.middle(), self.page, access) }
    }

    fn lock(&self) -> Result<()> {
        // SAFETY: locking does not change contents or access, and the page is ours.
        unsafe { rustix::mm::mlock(self.middle(), self.page) }
    }

    fn unlock(&self) -> Result<()> {
        // SAFETY: as for `lock`; nothing else lies on the page.
        unsafe { rustix::mm::munlock(self.middle(), self.page) }
    }

    /// Gives the three pages back: `munmap`.
    fn unmap(self) -> Result<()> {
        let whole = std::mem::ManuallyDrop::new(self);
        // SAFETY: the mapping was made by `reserve`, is not used after this, and the destructor that would
        // unmap it again does not run.
        unsafe { rustix::mm::munmap(whole.base.as_ptr(), 3 * whole.page) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: as in `unmap`, which does not let this run.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr(), 3 * self.page) };
    }
}

/// A key in an in-memory file, guarded and locked memory to read it into, and a text under that key.
pub(super) struct Cipher {
    file: OwnedFd,
    region: Region,
    nonce: [u8; KEY],
    tag: [u8; TAG],
    text: [u8; SECRET],
}

impl Cipher {
    pub(super) fn new() -> Result<Self> {
        let region = Region::reserve()?;
        region.protect(MprotectFlags::READ | MprotectFlags::WRITE)?;
        region.lock()?;
        let mut share = [0; SHARE];
        random(&mut share)?;
        let file = share_file(&share)?;
        let mut floor = Self { file, region, nonce: [0; KEY], tag: [0; TAG], text: [0; SECRET] };
        floor.fetch_and_seal()?;
        Ok(floor)
    }

    /// The plaintext, and the key above it: the first half of the share at the page's end.
    fn page(&mut self) -> (&mut [u8; SECRET], &[u8; KEY]) {
        let place = self.region.last(SECRET + SHARE);
        // SAFETY: the last bytes of a page that is open from `new` on and belongs to this value alone, which is
        // borrowed for as long as the references live; the two do not overlap.
        unsafe { (&mut *place.cast(), &*place.add(SECRET).cast()) }
    }

    /// One `pread` of 64 bytes that end where the page ends; the key is the first 32 of them.
    fn fetch(&mut self) -> Result<()> {
        let place = self.region.last(SHARE);
        // SAFETY: as in `page`; nothing else lies there.
        let share: &mut [u8; SHARE] = unsafe { &mut *place.cast() };
        if rustix::io::pread(&self.file, share.as_mut_slice(), 0)? == SHARE { Ok(()) } else { Err(Errno::IO) }
    }

    /// The floor of a sealed read: fetch the key, open 32 bytes, look at them.
    pub(super) fn fetch_and_open(&mut self) -> Result<u64> {
        self.fetch()?;
        self.open()
    }

    /// The floor of a sealed read whose key costs nothing to fetch: open 32 bytes, look at them.
    pub(super) fn open(&mut self) -> Result<u64> {
        let (nonce, tag, text) = (self.nonce, self.tag, self.text);
        let (plain, key) = self.page();
        *plain = text;
        let cipher = Aegis256::<TAG>::new(key, &nonce);
        cipher.decrypt_in_place(plain, &tag, &[]).map_err(|_| Errno::BADMSG)?;
        Ok(super::look_at(plain))
    }

    /// The floor of a sealed creation: fetch the key, draw a nonce, seal 32 bytes.
    pub(super) fn fetch_and_seal(&mut self) -> Result<()> {
        self.fetch()?;
        let mut nonce = [0; KEY];
        random(&mut nonce)?;
        let (plain, key) = self.page();
        let mut text = *plain;
        let tag = Aegis256::<TAG>::new(key, &nonce).encrypt_in_place(&mut text, &[]);
        (self.nonce, self.tag, self.text) = (nonce, tag, text);
        Ok(())
    }

    /// The floor of a sealed write: open what is there, change it, seal it under a fresh nonce; the key is
    /// fetched for each of the two.
    pub(super) fn rewrite(&mut self) -> Result<()> {
        self.fetch_and_open()?;
        let (plain, _) = self.page();
        plain[0] = plain[0].wrapping_add(1);
        self.fetch_and_seal()
    }
}

/// The key in a page without access, the rest as in [`Cipher`].
pub(super) struct ClosedKey {
    cipher: Cipher,
    page: Page,
}

impl ClosedKey {
    pub(super) fn new() -> Result<Self> {
        let mut cipher = Cipher::new()?;
        let page = Page::holding(cipher.page().1)?;
        Ok(Self { cipher, page })
    }

    /// The floor of a sealed read whose key lies in such a page: the pair of calls with a copy of the key
    /// between them, open 32 bytes, look at them.
    pub(super) fn fetch_and_open(&mut self) -> Result<u64> {
        self.page.region.protect(MprotectFlags::READ)?;
        let place = self.cipher.region.last(SHARE);
        // SAFETY: 32 readable bytes of the page that was just opened, and 32 writable ones of another; no
        // reference into either lives.
        unsafe { std::ptr::copy_nonoverlapping(self.page.region.last(KEY), place, KEY) };
        self.page.region.protect(MprotectFlags::empty())?;
        self.cipher.open()
    }
}

/// One bare `pread` of a key share, for a thread with a file of its own.
#[repr(align(128))]
pub(super) struct Share {
    place: [u8; SHARE],
    file: OwnedFd,
}

impl Share {
    pub(super) fn new() -> Result<Self> {
        let mut place = [0; SHARE];
        random(&mut place)?;
        Ok(Self { file: share_file(&place)?, place })
    }

    pub(super) fn fetch(&mut self) -> Result<u8> {
        let got = rustix::io::pread(&self.file, self.place.as_mut_slice(), 0)?;
        if got == SHARE { Ok(self.place[0]) } else { Err(Errno::IO) }
    }
}

/// A locked page between two guard pages, without access between reads.
pub(super) struct Page {
    region: Region,
}

impl Page {
    pub(super) fn new() -> Result<Self> {
        Self::holding(&[0x5a; SECRET])
    }

    fn holding(bytes: &[u8; SECRET]) -> Result<Self> {
        let region = Region::reserve()?;
        region.protect(MprotectFlags::READ | MprotectFlags::WRITE)?;
        region.lock()?;
        // SAFETY: the middle page was just opened for writing; 32 bytes of it, apart from the source.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), region.last(SECRET), SECRET) };
        region.protect(MprotectFlags::empty())?;
        Ok(Self { region })
    }

    /// The floor of a paged read: the two calls that open the page for reading and close it.
    pub(super) fn open_and_close(&self) -> Result<()> {
        self.region.protect(MprotectFlags::READ)?;
        self.region.protect(MprotectFlags::empty())
    }
}

/// The floor of a paged creation and drop: the six calls that it takes to make such a page from nothing,
/// lock it, write 32 bytes to it, close it, and take it down again.
///
/// `mlock` comes after the first `mprotect`: it brings the page in, and it cannot do that with a page
/// that nobody may touch. The write is part of it, since a page that is never written costs less.
pub(super) fn six_calls(source: &[u8; SECRET]) -> Result<()> {
    let region = Region::reserve()?;
    region.protect(MprotectFlags::READ | MprotectFlags::WRITE)?;
    region.lock()?;
    // SAFETY: 32 bytes of a page that was just opened for writing; the source is apart from it.
    unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), region.last(SECRET), SECRET) };
    region.protect(MprotectFlags::empty())?;
    region.unlock()?;
    region.unmap()
}

/// Random bytes from the kernel, by the raw call.
fn random(place: &mut [u8]) -> Result<()> {
    let got = rustix::rand::getrandom(&mut *place, GetRandomFlags::empty())?;
    if got == place.len() { Ok(()) } else { Err(Errno::IO) }
}

/// An in-memory file as the key hold `Split` has it: no access by mode, no access times kept.
fn share_file(share: &[u8]) -> Result<OwnedFd> {
    let file = rustix::fs::memfd_create("bench", MemfdFlags::CLOEXEC)?;
    rustix::fs::fchmod(&file, Mode::empty())?;
    rustix::fs::fcntl_setfl(&file, OFlags::RDWR | OFlags::NOATIME)?;
    if rustix::io::pwrite(&file, share, 0)? == share.len() { Ok(file) } else { Err(Errno::IO) }
}

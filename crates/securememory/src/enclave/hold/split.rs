//! The hold `Split`: the key is the exclusive or of two shares, either of which alone is noise.
//!
//! Share A lies in in-memory files that are never mapped: a stray or malicious read of memory cannot
//! reach it. Share B lies in the vault's locked page. There are several replicas, each a separate file with
//! a random A of its own, because the kernel counts references on a file and on its page: threads that read one
//! file slow each other down, threads that read different ones do not.
//!
//! A share is 64 bytes: half of the key, then half of a check value. Whoever destroys shares destroys the check
//! half first; whoever fetches reads the key half first. So a key whose check is right was read before the
//! destruction began, and a file that came under our descriptor's number by a host's mistake is noticed.

use std::sync::atomic::{Ordering, fence};

use super::{CHECK, CHECK_AT, REPLICA_AT};
use crate::enclave::cipher::KEY;
use crate::enclave::hold::anchor::{Anchor, MAX_SHARES, SHARE};
use crate::error::Error;
use crate::os::{self, ShareFile};
use crate::region::bytes;

/// Threads beyond these share files.
const REPLICAS: usize = 8;

const _: () = assert!(REPLICAS <= MAX_SHARES, "every replica has a place for its share B");

/// What is read and written at once. The cipher loads the key in parts of 16 bytes, which is slow when they
/// were stored in smaller ones.
#[cfg(target_arch = "x86_64")]
type Part = std::arch::x86_64::__m128i;
#[cfg(not(target_arch = "x86_64"))]
type Part = u64;

#[cfg(target_arch = "x86_64")]
#[inline]
#[allow(unsafe_code)]
fn xor(a: Part, b: Part) -> Part {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { std::arch::x86_64::_mm_xor_si128(a, b) }
}

#[cfg(not(target_arch = "x86_64"))]
fn xor(a: Part, b: Part) -> Part {
    a ^ b
}

pub(crate) struct Split {
    files: Vec<ShareFile>,
    /// A.check ^ B.check of every replica.
    check: [u64; CHECK / 8],
}

impl Split {
    /// Makes a fresh key and its shares.
    #[allow(unsafe_code)]
    pub(crate) fn make(anchor: &Anchor) -> Result<Self, Error> {
        let wanted = std::thread::available_parallelism().map_or(1, usize::from).clamp(2, REPLICAS);
        let mut split = Self { files: Vec::new(), check: [0; CHECK / 8] };
        split.files.try_reserve_exact(wanted).map_err(|_| Error::OutOfMemory { bytes: wanted })?;
        let staging = anchor.staging();
        // SAFETY: the staging area is ours while the vault is built, and larger than two shares. The check
        // value is not secret.
        let outcome = unsafe {
            os::random(staging, KEY + CHECK).map_err(Error::from).and_then(|()| {
                split.check = staging.add(CHECK_AT).cast::<[u64; CHECK / 8]>().read_unaligned();
                (0..wanted).try_for_each(|index| split.add_replica(anchor, index, staging))
            })
        };
        anchor.wipe_staging();
        match outcome {
            Ok(()) => Ok(split),
            // One file is enough to work with; more are for speed.
            Err(_) if !split.files.is_empty() => Ok(split),
            Err(error) => {
                split.destroy(anchor);
                Err(error)
            }
        }
    }

    /// Splits what lies at `whole` (key and check value) into fresh shares.
    ///
    /// # Safety
    ///
    /// `whole` points to the staging area, whose first [`SHARE`] bytes are filled.
    #[allow(unsafe_code)]
    unsafe fn add_replica(&mut self, anchor: &Anchor, index: usize, whole: *mut u8) -> Result<(), Error> {
        let file = ShareFile::create()?;
        let b = anchor.share(index);
        // SAFETY: staging and share areas are inside the anchor's page and do not overlap.
        let written = unsafe {
            let a = whole.add(SHARE);
            os::random(a, SHARE).and_then(|()| {
                for word in 0..SHARE / 8 {
                    let share = a.cast::<u64>().add(word).read() ^ whole.cast::<u64>().add(word).read();
                    b.cast::<u64>().add(word).write_volatile(share);
                }
                file.write(a)
            })
        };
        match written {
            Ok(()) => {
                self.files.push(file);
                Ok(())
            }
            Err(cause) => {
                // SAFETY: this share is not in use yet.
                unsafe { bytes::wipe(b, SHARE) };
                let _ = file.close();
                Err(cause.into())
            }
        }
    }

    /// See [`super::KeyHold::fetch`].
    ///
    /// # Safety
    ///
    /// As there.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) unsafe fn fetch(&self, anchor: &Anchor, thread: usize, head: *mut u8) -> Result<(), Error> {
        let first = thread % self.files.len().max(1);
        // SAFETY: as the caller vouches.
        if unsafe { self.fetch_replica(anchor, first, head) } {
            return Ok(());
        }
        // SAFETY: as the caller vouches.
        unsafe { self.fetch_another(anchor, first, head) }
    }

    #[inline]
    #[allow(unsafe_code)]
    unsafe fn fetch_replica(&self, anchor: &Anchor, index: usize, head: *mut u8) -> bool {
        let Some(file) = self.files.get(index) else { return false };
        let b = anchor.share(index);
        // SAFETY: head has room for a share and more; all addresses are aligned to 8.
        unsafe {
            if file.read(head).is_err() {
                return false;
            }
            for part in 0..KEY / size_of::<Part>() {
                let at = head.cast::<Part>().add(part);
                at.write(xor(at.read(), b.cast::<Part>().add(part).read_volatile()));
            }
            // The key half was read before the check half, see above.
            fence(Ordering::Acquire);
            head.add(REPLICA_AT).cast::<u64>().write(index as u64);
            self.check_of(anchor, head, index)
        }
    }

    #[inline]
    #[allow(unsafe_code)]
    unsafe fn check_of(&self, anchor: &Anchor, head: *const u8, index: usize) -> bool {
        // SAFETY: both are 32 readable bytes, aligned to 8.
        unsafe {
            let a = head.add(CHECK_AT).cast::<u64>();
            let b = anchor.share(index).add(CHECK_AT).cast::<u64>();
            let mut difference = 0;
            for (word, value) in self.check.iter().enumerate() {
                difference |= a.add(word).read_volatile() ^ b.add(word).read_volatile() ^ value;
            }
            difference == 0
        }
    }

    #[cold]
    #[allow(unsafe_code)]
    unsafe fn fetch_another(&self, anchor: &Anchor, failed: usize, head: *mut u8) -> Result<(), Error> {
        for step in 1..self.files.len() {
            // SAFETY: as the caller vouches.
            if unsafe { self.fetch_replica(anchor, (failed + step) % self.files.len(), head) } {
                return Ok(());
            }
        }
        Err(if anchor.is_alive() { Error::KeyLost } else { Error::Forked })
    }

    /// See [`super::KeyHold::is_intact`].
    ///
    /// # Safety
    ///
    /// As there.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn is_intact(&self, anchor: &Anchor, head: *const u8) -> bool {
        // SAFETY: as the caller vouches; a replica number that was overwritten is out of bounds or fails the check.
        unsafe {
            let index = head.add(REPLICA_AT).cast::<u64>().read_volatile() as usize;
            index < self.files.len() && self.check_of(anchor, head, index)
        }
    }

    pub(crate) fn replicas(&self) -> usize {
        self.files.len()
    }

    /// Destroys share B first, which needs no system call, then the files.
    #[allow(unsafe_code)]
    pub(crate) fn destroy(&mut self, anchor: &Anchor) {
        if !anchor.is_alive() {
            return;
        }
        for index in 0..self.files.len() {
            let b = anchor.share(index);
            // SAFETY: our own page. Check halves before key halves, see above.
            unsafe {
                bytes::wipe(b.add(CHECK_AT), CHECK);
                fence(Ordering::Release);
                bytes::wipe(b, KEY);
            }
        }
        for file in self.files.drain(..) {
            // The pages of a closed file are freed, but not at once overwritten.
            let _ = file.truncate();
            let _ = file.close();
        }
    }
}

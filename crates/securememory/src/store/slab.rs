//! Ordinary memory for ciphertext and headers, in slabs of equal pieces; overwritten when freed.
//!
//! An old ciphertext must not be found in freed memory, or it would open with a key that leaks later.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

use crate::error::Error;
use crate::locks::{Lock, Rank};
use crate::region::bytes;

/// All pieces are aligned to this.
pub(crate) const ALIGN: usize = 16;
/// Pieces up to this size come from slabs, in steps of [`ALIGN`]; larger ones from the allocator.
const LARGEST: usize = 1024;
const CLASSES: usize = LARGEST / ALIGN;
/// Bytes of one slab.
const SLAB: usize = 32 * 1024;

/// A vault's slabs.
pub(crate) struct Slabs {
    inner: Lock<Inner>,
}

struct Inner {
    /// Free pieces of each class, each holding the address of the next.
    free: [Option<NonNull<u8>>; CLASSES],
    /// The part of the newest slab that no piece was cut from yet.
    fresh: Option<(NonNull<u8>, usize)>,
    slabs: Vec<NonNull<u8>>,
    /// Secrets made and not ended.
    live: u64,
    /// The newest secret's id.
    last_id: u64,
}

// SAFETY: addresses of memory that the slabs own; access is behind the lock.
#[allow(unsafe_code)]
unsafe impl Send for Inner {}

fn class_of(size: usize) -> Option<usize> {
    (1..=LARGEST).contains(&size).then(|| (size - 1) / ALIGN)
}

fn slab_layout() -> Result<Layout, Error> {
    Layout::from_size_align(SLAB, 4096).map_err(|_| Error::OutOfMemory { bytes: SLAB })
}

fn large_layout(size: usize) -> Result<Layout, Error> {
    Layout::from_size_align(size, ALIGN)
        .map_err(|_| Error::TooLarge { len: size, limit: isize::MAX as usize })
}

/// Bytes of memory that a number of secrets with these pieces take, if none is free already; `None`: more
/// than can be.
pub(super) fn bytes_for(count: u64, header: usize, body: usize) -> Option<u64> {
    // What the allocator adds to a block of its own.
    const OVERHEAD: usize = 16;
    let mut each = 0;
    let mut large = 0;
    for size in [header, body] {
        match class_of(size) {
            Some(class) => each += (class + 1) * ALIGN,
            None => large = size.checked_next_multiple_of(ALIGN)?.checked_add(OVERHEAD)?,
        }
    }
    let layout = slab_layout().ok()?;
    let slabs = count.div_ceil((SLAB / each.max(1)) as u64);
    // To align a slab, the allocator leaves out as much as that in between.
    let small = slabs.checked_mul((layout.size() + layout.align()) as u64)?;
    count.checked_mul(large as u64)?.checked_add(small)
}

impl Slabs {
    pub(crate) fn new() -> Self {
        let inner = Inner { free: [None; CLASSES], fresh: None, slabs: Vec::new(), live: 0, last_id: 0 };
        Self { inner: Lock::new(Rank::Slab, inner) }
    }

    /// The pieces of a new secret, with any content, and its id.
    pub(crate) fn take_secret(&self, header: usize, body: usize) -> Result<Taken, Error> {
        let large = if class_of(body).is_none() { Some(self.take(body)?) } else { None };
        let mut inner = self.inner.lock()?;
        let header_piece = inner.take(header);
        let body_piece = large.map_or_else(|| inner.take(body), Ok);
        match (header_piece, body_piece) {
            (Ok(header), Ok(body)) => {
                inner.live += 1;
                inner.last_id += 1;
                Ok(Taken { id: inner.last_id, header, body })
            }
            // No memory for a slab: a piece that was had stays unused until the vault ends.
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }

    /// Takes back the body of a secret that has ended, and with it the header if there is one.
    ///
    /// # Safety
    ///
    /// As for [`Self::give`], for both.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn give_secret(
        &self,
        header: Option<(NonNull<u8>, usize)>,
        body: NonNull<u8>,
        size: usize,
    ) {
        // SAFETY: as the caller vouches, for both.
        unsafe {
            bytes::wipe(body.as_ptr(), size);
            if class_of(size).is_none() {
                self.give(body, size);
            }
            let Ok(mut inner) = self.inner.lock() else { return };
            inner.live -= 1;
            if let Some(class) = class_of(size) {
                inner.give(body, class);
            }
            if let Some((header, size)) = header
                && let Some(class) = class_of(size)
            {
                inner.give(header, class);
            }
        }
    }

    /// Secrets whose bodies are there.
    pub(crate) fn live(&self) -> u64 {
        self.inner.lock().map_or(0, |inner| inner.live)
    }

    /// A piece of at least `size` bytes, with any content.
    #[allow(unsafe_code)]
    pub(crate) fn take(&self, size: usize) -> Result<NonNull<u8>, Error> {
        if class_of(size).is_none() {
            let layout = large_layout(size)?;
            // SAFETY: the layout has a size: zero-sized pieces are never asked for, and belong to no class.
            let piece = if size == 0 { None } else { NonNull::new(unsafe { alloc(layout) }) };
            return piece.ok_or(Error::OutOfMemory { bytes: size });
        }
        self.inner.lock()?.take(size)
    }

    /// Takes a piece back, overwriting it.
    ///
    /// # Safety
    ///
    /// `piece` came from [`Self::take`] of these slabs with the same `size`, and nobody uses it any more.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn give(&self, piece: NonNull<u8>, size: usize) {
        // SAFETY: the caller gives up the piece, all of it.
        unsafe { bytes::wipe(piece.as_ptr(), size) };
        match class_of(size) {
            Some(class) => {
                // Without the lock the piece is lost until the vault ends; it is wiped, which is what matters.
                let Ok(mut inner) = self.inner.lock() else { return };
                // SAFETY: as the caller vouches.
                unsafe { inner.give(piece, class) };
            }
            None => {
                if let Ok(layout) = large_layout(size) {
                    // SAFETY: allocated by `take` with this layout.
                    unsafe { dealloc(piece.as_ptr(), layout) };
                }
            }
        }
    }

    /// Frees all slabs. Large pieces must have been given back before.
    ///
    /// # Safety
    ///
    /// No piece is in use.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn end(&mut self) {
        let Ok(mut inner) = self.inner.lock() else { return };
        inner.free = [None; CLASSES];
        inner.fresh = None;
        for slab in std::mem::take(&mut inner.slabs) {
            if let Ok(layout) = slab_layout() {
                // SAFETY: allocated by `cut` with this layout; the caller vouches that no piece of it is in use.
                unsafe { dealloc(slab.as_ptr(), layout) };
            }
        }
    }
}

/// The pieces of a new secret.
pub(crate) struct Taken {
    pub(crate) id: u64,
    pub(crate) header: NonNull<u8>,
    pub(crate) body: NonNull<u8>,
}

impl Inner {
    #[inline]
    #[allow(unsafe_code)]
    fn take(&mut self, size: usize) -> Result<NonNull<u8>, Error> {
        let class = class_of(size).ok_or(Error::OutOfMemory { bytes: size })?;
        if let Some(piece) = self.free[class] {
            // SAFETY: a free piece holds the address of the next one, written by `give`.
            self.free[class] = unsafe { piece.cast::<Option<NonNull<u8>>>().read() };
            return Ok(piece);
        }
        self.cut((class + 1) * ALIGN)
    }

    /// # Safety
    ///
    /// The piece is of this class, and nobody uses it any more.
    #[inline]
    #[allow(unsafe_code)]
    unsafe fn give(&mut self, piece: NonNull<u8>, class: usize) {
        // SAFETY: a piece has at least 16 bytes and is aligned to 16.
        unsafe { piece.cast::<Option<NonNull<u8>>>().write(self.free[class]) };
        self.free[class] = Some(piece);
    }

    /// Cuts a piece from the newest slab, or from a new one; what is left of the old one stays unused.
    #[allow(unsafe_code)]
    fn cut(&mut self, size: usize) -> Result<NonNull<u8>, Error> {
        let (at, left) = match self.fresh {
            Some((at, left)) if left >= size => (at, left),
            _ => {
                let no_memory = Error::OutOfMemory { bytes: SLAB };
                self.slabs.try_reserve(1).map_err(|_| no_memory)?;
                // SAFETY: the layout has a size.
                let slab = NonNull::new(unsafe { alloc(slab_layout()?) }).ok_or(no_memory)?;
                self.slabs.push(slab);
                (slab, SLAB)
            }
        };
        // SAFETY: `size` bytes from `at` lie inside the slab.
        self.fresh = Some((unsafe { at.add(size) }, left - size));
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    #![allow(unsafe_code, clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_are_aligned_disjoint_and_wiped_when_freed(
            sizes in proptest::collection::vec(1usize..3000, 1..80), seed: u64,
        ) {
            let mut slabs = Slabs::new();
            let mut live: Vec<(NonNull<u8>, usize)> = Vec::new();
            for (n, size) in sizes.into_iter().enumerate() {
                let piece = slabs.take(size).unwrap();
                prop_assert_eq!(piece.addr().get() % ALIGN, 0);
                for (other, len) in &live {
                    let (a, b) = (piece.addr().get(), other.addr().get());
                    prop_assert!(a + size <= b || b + len <= a);
                }
                // SAFETY: the piece is ours.
                unsafe { piece.as_ptr().write_bytes(0xA5, size) };
                live.push((piece, size));
                if (seed >> (n % 64)) & 1 == 1 {
                    let (piece, size) = live.swap_remove(n % live.len());
                    // SAFETY: ours, and dropped from the list; a small one stays mapped in its slab.
                    unsafe {
                        slabs.give(piece, size);
                        if size <= LARGEST {
                            let rest = std::slice::from_raw_parts(piece.as_ptr().add(8), size.saturating_sub(8));
                            prop_assert!(rest.iter().all(|&byte| byte == 0));
                        }
                    }
                }
            }
            for (piece, size) in live {
                // SAFETY: the last use of each.
                unsafe { slabs.give(piece, size) };
            }
            // SAFETY: all pieces were given back.
            unsafe { slabs.end() };
        }
    }
}

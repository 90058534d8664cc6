//! Ordinary memory for ciphertext, in slabs of equal pieces; overwritten when freed.
//!
//! An old ciphertext must not be found in freed memory, or it would open with a key that leaks later.
//!
//! Nothing here is shared between threads: see [`super::ledger`].

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use crate::error::Error;
use crate::os;
use crate::region::bytes;
use crate::registry::arenas::{self, Entered, Extent, Purpose};
use crate::registry::lost;
use crate::registry::vaults::Seat;

/// All pieces are aligned to this.
pub(crate) const ALIGN: usize = 16;
/// Pieces up to this size come from slabs, in steps of [`ALIGN`]; larger ones from the allocator.
const LARGEST: usize = 1024;
const CLASSES: usize = LARGEST / ALIGN;
/// Bytes of the first slab. Each is twice as large as the one before, up to [`MAX_SLAB`].
const MIN_SLAB: usize = 32 * 1024;
const MAX_SLAB: usize = 2 << 20;

/// Memory for the slab that comes after `made` others, for slabs whose first has `first` bytes; as small as that one
/// where there is no memory for a larger one. With its size.
#[allow(unsafe_code)]
pub(super) fn take_slab(first: usize, made: usize) -> Result<(NonNull<u8>, usize), Error> {
    let no_memory = Error::OutOfMemory { bytes: first };
    for size in [slab_size(first, made), first] {
        // SAFETY: the layout has a size.
        if let Some(slab) = NonNull::new(unsafe { alloc_zeroed(slab_layout(size)?) }) {
            return Ok((slab, size));
        }
    }
    Err(no_memory)
}

/// Gives it back.
///
/// # Safety
///
/// It came from [`take_slab`], which said that it has this size, and nothing of it is in use.
#[allow(unsafe_code)]
pub(super) unsafe fn give_slab((slab, size): (NonNull<u8>, usize)) {
    if let Ok(layout) = slab_layout(size) {
        // SAFETY: allocated with this layout; the rest as the caller vouches.
        unsafe { dealloc(slab.as_ptr(), layout) };
    }
}

fn slab_size(first: usize, made: usize) -> usize {
    // So often doubled, every size is large enough.
    (first << made.min(16)).clamp(first, MAX_SLAB)
}

fn slab_layout(size: usize) -> Result<Layout, Error> {
    // A cache line, so that what lies next to each other in a piece is read together.
    Layout::from_size_align(size, 64).map_err(|_| Error::OutOfMemory { bytes: size })
}

#[inline]
fn class_of(size: usize) -> Option<usize> {
    (1..=LARGEST).contains(&size).then(|| (size - 1) / ALIGN)
}

/// Does a piece of this size come from the allocator, and not from a slab?
#[inline]
pub(super) fn is_large(size: usize) -> bool {
    class_of(size).is_none()
}

/// Bytes of memory that a number of secrets with such a header and body take, if none is free already; `None`: more
/// than can be.
pub(super) fn bytes_for(count: u64, header: usize, body: usize) -> Option<u64> {
    // What the allocator adds to a block of its own, and leaves out so that it begins on a cache line.
    const OVERHEAD: usize = 16;
    const LINE: usize = 64;
    let body = match class_of(body) {
        Some(class) => (class + 1) * ALIGN,
        None => {
            let body = body.checked_add(OVERHEAD)?.checked_next_multiple_of(LINE)?.checked_add(OVERHEAD)?;
            // Sizes of musl's allocator are up to a quarter apart.
            if cfg!(target_env = "musl") { body.checked_add(body / 4)? } else { body }
        }
    };
    let pieces = count.checked_mul(header.checked_add(body)? as u64)?;
    // The last slab of bodies, and the last table of headers, are made whole.
    pieces.checked_add(2 * pieces.min(MAX_SLAB as u64))
}

fn large_layout(size: usize) -> Result<Layout, Error> {
    // A cache line: the ciphertext, which follows a head of one line, is read and written a line at a time.
    Layout::from_size_align(size, 64).map_err(|_| Error::TooLarge { len: size, limit: isize::MAX as usize })
}

/// A large piece, with any content.
#[allow(unsafe_code)]
pub(super) fn take_large(size: usize) -> Result<NonNull<u8>, Error> {
    let layout = large_layout(size)?;
    // SAFETY: the layout has a size: zero-sized pieces are never asked for, and belong to no class.
    let piece = if size == 0 { None } else { NonNull::new(unsafe { alloc(layout) }) };
    piece.ok_or(Error::OutOfMemory { bytes: size })
}

/// Frees a large piece that has been overwritten.
///
/// # Safety
///
/// It came from [`take_large`] with the same `size`, and nobody uses it any more.
#[allow(unsafe_code)]
pub(super) unsafe fn give_large(piece: NonNull<u8>, size: usize) {
    if let Ok(layout) = large_layout(size) {
        forget_lost(piece, size);
        // SAFETY: as the caller vouches.
        unsafe { dealloc(piece.as_ptr(), layout) };
    }
}

/// Was memory of a piece lost, in part or whole?
#[inline]
pub(super) fn is_lost(piece: NonNull<u8>, size: usize) -> bool {
    lost::any() && lost::in_range(piece.addr().get(), size, os::page_size())
}

/// The addresses are going to be others'.
fn forget_lost(at: NonNull<u8>, size: usize) {
    if lost::any() {
        lost::forget(at.addr().get(), size, os::page_size());
    }
}

/// Slabs, and the pieces of them that are free.
pub(super) struct Pieces {
    /// Free pieces of each class, each holding the address of the next.
    free: [Option<NonNull<u8>>; CLASSES],
    /// The part of the newest slab that no piece was cut from yet.
    fresh: Option<(NonNull<u8>, usize)>,
    slabs: Vec<Cut>,
    /// How many pages of the process were lost when the free pieces were last found sound.
    lost: usize,
    /// Whose they are, if they may be replaced.
    vault: Option<Seat>,
}

/// A slab, with its size, and its entry among the ranges that are ours.
struct Cut {
    slab: (NonNull<u8>, usize),
    entered: Option<Entered>,
}

// SAFETY: addresses of memory that the slabs own.
#[allow(unsafe_code)]
unsafe impl Send for Pieces {}

impl Pieces {
    pub(super) const fn new(vault: Option<Seat>) -> Self {
        Self { free: [None; CLASSES], fresh: None, slabs: Vec::new(), lost: 0, vault }
    }

    /// A piece of at least `size` bytes, with any content; not a large one.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) fn take(&mut self, size: usize) -> Result<NonNull<u8>, Error> {
        let class = class_of(size).ok_or(Error::OutOfMemory { bytes: size })?;
        if let Some(piece) = self.free[class] {
            // SAFETY: a free piece holds the address of the next one, written by `give`. Where a page was lost it may be
            // noise, which is found out before it is used.
            let next = unsafe { piece.cast::<MaybeUninit<Option<NonNull<u8>>>>().read_volatile() };
            if lost::ever() == self.lost {
                // SAFETY: as above: nothing was lost.
                self.free[class] = unsafe { next.assume_init() };
                return Ok(piece);
            }
            // Which of the links are sound is not known: none of them is followed any more.
            self.free = [None; CLASSES];
            self.lost = lost::ever();
        }
        loop {
            let piece = self.cut((class + 1) * ALIGN)?;
            // A page that was lost is not used any more: what lies in it is known to be lost by that.
            if !is_lost(piece, size) {
                return Ok(piece);
            }
        }
    }

    /// Takes back a piece that has been overwritten; not a large one.
    ///
    /// # Safety
    ///
    /// It came from [`Self::take`] of these slabs with the same `size`, and nobody uses it any more.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) unsafe fn give(&mut self, piece: NonNull<u8>, size: usize) {
        let Some(class) = class_of(size).filter(|_| !is_lost(piece, size)) else { return };
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
                self.slabs.try_reserve(1).map_err(|_| Error::OutOfMemory { bytes: MIN_SLAB })?;
                let slab = take_slab(MIN_SLAB, self.slabs.len())?;
                self.slabs.push(Cut { slab, entered: self.enter(slab) });
                slab
            }
        };
        // SAFETY: `size` bytes from `at` lie inside the slab.
        self.fresh = Some((unsafe { at.add(size) }, left - size));
        Ok(at)
    }

    /// Enters the whole pages of a slab: what lies there is ours alone. Without an entry a fault in it is nobody's.
    fn enter(&self, (slab, size): (NonNull<u8>, usize)) -> Option<Entered> {
        let (vault, page) = (self.vault?, os::page_size());
        let start = slab.addr().get().checked_next_multiple_of(page)?;
        let size = (slab.addr().get() + size).checked_sub(start)? / page * page;
        let extent = Extent { base: start, size, capacity: size };
        let enter = || arenas::enter(extent, Purpose::Records, vault.number(), std::ptr::null_mut());
        (size > 0).then(enter)?.ok()
    }

    /// Frees all slabs.
    ///
    /// # Safety
    ///
    /// No piece is in use.
    #[allow(unsafe_code)]
    pub(super) unsafe fn end(&mut self) {
        self.free = [None; CLASSES];
        self.fresh = None;
        for Cut { slab, entered } in std::mem::take(&mut self.slabs) {
            if entered.is_none_or(Entered::withdraw) {
                forget_lost(slab.0, slab.1);
                // SAFETY: taken by `cut`; the caller vouches that no piece of it is in use.
                unsafe { give_slab(slab) };
            }
        }
    }
}

/// Overwrites a piece.
///
/// # Safety
///
/// It has `size` bytes, which nobody else uses.
#[inline]
#[allow(unsafe_code)]
pub(super) unsafe fn overwrite(piece: NonNull<u8>, size: usize) {
    // SAFETY: as the caller vouches.
    unsafe { bytes::wipe(piece.as_ptr(), size) };
}

#[cfg(test)]
mod tests {
    #![allow(unsafe_code, clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_are_aligned_and_disjoint(sizes in proptest::collection::vec(1usize..1200, 1..80), seed: u64) {
            let mut pieces = Pieces::new(Some(Seat::take().unwrap()));
            let mut live: Vec<(NonNull<u8>, usize)> = Vec::new();
            let give = |pieces: &mut Pieces, (piece, size): (NonNull<u8>, usize)| {
                // SAFETY: ours, and dropped from the list.
                unsafe {
                    overwrite(piece, size);
                    if is_large(size) { give_large(piece, size) } else { pieces.give(piece, size) }
                }
            };
            for (n, size) in sizes.into_iter().enumerate() {
                let piece = if is_large(size) { take_large(size) } else { pieces.take(size) }.unwrap();
                prop_assert_eq!(piece.addr().get() % ALIGN, 0);
                for (other, len) in &live {
                    let (a, b) = (piece.addr().get(), other.addr().get());
                    prop_assert!(a + size <= b || b + len <= a);
                }
                // SAFETY: the piece is ours.
                unsafe { piece.as_ptr().write_bytes(0xA5, size) };
                live.push((piece, size));
                if (seed >> (n % 64)) & 1 == 1 {
                    give(&mut pieces, live.swap_remove(n % live.len()));
                }
            }
            live.into_iter().for_each(|piece| give(&mut pieces, piece));
            // SAFETY: all pieces were given back.
            unsafe { pieces.end() };
        }
    }

    #[test]
    fn a_page_that_was_lost_is_used_no_more_and_is_forgotten_with_its_slab() {
        let mut pieces = Pieces::new(Some(Seat::take().unwrap()));
        let taken: Vec<_> = (0..300).map(|_| pieces.take(112).unwrap()).collect();
        let page_of = |piece: NonNull<u8>| piece.addr().get() / os::page_size() * os::page_size();
        // One with pieces in use, and one of which none was cut yet.
        let lost_pages = [page_of(taken[150]), page_of(taken[299]) + os::page_size()];
        assert!(lost_pages.iter().all(|&page| lost::note(page)));
        // What is free at this moment is not believed.
        // SAFETY: nobody uses it.
        unsafe { pieces.give(taken[0], 112) };
        let one = pieces.take(112).unwrap();
        assert_ne!(one, taken[0]);
        // SAFETY: as above.
        taken[1..].iter().chain([&one]).for_each(|&piece| unsafe { pieces.give(piece, 112) });
        for _ in 0..2 {
            let again: Vec<_> = (0..1000).map(|_| pieces.take(112).unwrap()).collect();
            assert!(again.iter().all(|&piece| !is_lost(piece, 112)));
            // SAFETY: as above.
            again.iter().for_each(|&piece| unsafe { pieces.give(piece, 112) });
        }
        // SAFETY: as above.
        unsafe { pieces.end() };
        assert!(lost_pages.iter().all(|&page| !lost::in_range(page, 1, os::page_size())));
    }

    #[test]
    fn slabs_grow_up_to_a_bound() {
        // not a page size: the least piece of ciphertext.
        let sizes: Vec<usize> = (0..80).map(|made| slab_size(4096, made)).collect();
        assert_eq!(sizes[..4], [4096, 8192, 16384, 32768]);
        assert!(sizes[9..].iter().all(|&size| size == MAX_SLAB));
    }
}

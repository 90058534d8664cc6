//! Pages that were given back by those who may not wait for the pool's lock: a stack without a lock, as in the ledger.
//!
//! What is kept of them lies in memory that is out of use, mostly in the pages themselves. That may become noise or zeros
//! meanwhile: where it is lost, where the process is dying, in a child. Then the mark is wrong, and what it leads to is not
//! followed: those pages stay mapped, wiped and unused.

use std::mem::{MaybeUninit, size_of};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::Pages;
use crate::region::bytes;

/// Bytes that are used of the memory.
pub(super) const SIZE: usize = size_of::<Waiting>();

struct Waiting {
    /// The address, with [`MARK`].
    mark: usize,
    next: *mut Self,
    pages: Pages,
}

const MARK: usize = 0x6C65_6674_2070_6167_u64 as usize;

pub(super) struct Left(AtomicPtr<Waiting>);

impl Left {
    pub(super) const fn new() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }

    /// # Safety
    ///
    /// `room` is [`SIZE`] accessible bytes, aligned to 16, that nobody uses before the pages are taken again.
    #[allow(unsafe_code)]
    pub(super) unsafe fn leave(&self, room: NonNull<u8>, pages: Pages) {
        let at = room.cast::<Waiting>().as_ptr();
        let mut next = self.0.load(Ordering::Relaxed);
        // SAFETY: as the caller vouches.
        unsafe {
            at.write(Waiting { mark: at.addr() ^ MARK, next, pages });
            while let Err(seen) = self.0.compare_exchange_weak(next, at, Ordering::Release, Ordering::Relaxed)
            {
                next = seen;
                (&raw mut (*at).next).write(next);
            }
        }
    }

    /// Takes all away. Under the pool's lock.
    #[inline]
    pub(super) fn take_all(&self, each: impl FnMut(Pages)) {
        if !self.0.load(Ordering::Relaxed).is_null() {
            self.take_some(each);
        }
    }

    #[cold]
    #[allow(unsafe_code)]
    fn take_some(&self, mut each: impl FnMut(Pages)) {
        let mut at = self.0.swap(std::ptr::null_mut(), Ordering::Acquire);
        while !at.is_null() {
            // SAFETY: left there, and taken by nobody else; any bytes will do as long as they are not looked at. The mark
            // is read last: what is replaced meanwhile is replaced as a page.
            let (waiting, mark) = unsafe {
                let waiting = at.cast::<MaybeUninit<Waiting>>().read_volatile();
                (waiting, (&raw const (*at).mark).cast::<usize>().read_volatile())
            };
            if mark != at.addr() ^ MARK {
                return;
            }
            // SAFETY: written by `leave`; the memory is nobody's yet. A free page is zero.
            let Waiting { next, pages, .. } = unsafe {
                bytes::wipe(at.cast(), SIZE);
                waiting.assume_init()
            };
            at = next;
            each(pages);
        }
    }
}

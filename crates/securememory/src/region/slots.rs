//! Tables of view slots, and who is in them.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::atomic::Ordering;

use crate::error::{Error, Outstanding};
use crate::registry::{ANY, HELD, Slot, Thread, WINDOW};

fn layout(max: usize) -> Result<Layout, Error> {
    if max == 0 {
        return Err(Error::ScratchExhausted { limit: 0 });
    }
    let limit = isize::MAX as usize / std::mem::size_of::<Slot>();
    Layout::array::<Slot>(max).map_err(|_| Error::TooLarge { len: max, limit })
}

/// A table of `max` free slots without memory.
#[allow(unsafe_code)]
pub(crate) fn make(max: usize) -> Result<&'static [Slot], Error> {
    let layout = layout(max)?;
    // SAFETY: the layout has a size. A slot is numbers and a pointer, for which all-zero bytes are right: a free
    // slot without memory. (Zeroed memory of this size is not resident before it is touched.)
    unsafe {
        let memory = alloc_zeroed(layout).cast::<Slot>();
        if memory.is_null() {
            return Err(Error::OutOfMemory { bytes: layout.size() });
        }
        Ok(std::slice::from_raw_parts(memory, max))
    }
}

/// Frees a table.
///
/// # Safety
///
/// It came from [`make`], and nobody has a reference to any of its slots.
#[allow(unsafe_code)]
pub(crate) unsafe fn free(slots: &'static [Slot]) {
    if let Ok(layout) = layout(slots.len()) {
        // SAFETY: allocated with this layout; the caller vouches that it is out of use.
        unsafe { dealloc(slots.as_ptr().cast_mut().cast(), layout) };
    }
}

/// Adds the views of a secret that are in these slots, and names the threads of the first.
pub(crate) fn add_holders(slots: &[Slot], secret: u64, outstanding: &mut Outstanding) {
    slots
        .iter()
        .filter(|slot| slot.secret.load(Ordering::Relaxed) == secret)
        .for_each(|slot| name(slot, outstanding));
}

/// Adds those whose threads have a key in hand.
pub(crate) fn add_windows(slots: &[Slot], outstanding: &mut Outstanding) {
    slots.iter().filter(|slot| slot.may_read(ANY)).for_each(|slot| name(slot, outstanding));
}

fn name(slot: &Slot, outstanding: &mut Outstanding) {
    let thread = Thread::from_word(slot.thread.load(Ordering::Relaxed)).system_id();
    if let Some(name) = outstanding.threads.get_mut(outstanding.views as usize) {
        *name = thread;
    }
    outstanding.views += 1;
}

/// Is there a view that this thread has borrowed?
pub(crate) fn is_borrowed_by(slot: &Slot, thread: Thread) -> bool {
    // An owned view that is just ending, elsewhere perhaps, is BUSY, and nobody's.
    matches!(slot.state.load(Ordering::Acquire), WINDOW | HELD)
        && Thread::from_word(slot.thread.load(Ordering::Relaxed)) == thread
}

fn borrowed(slots: &[Slot], secret: u64, thread: Thread) -> impl Iterator<Item = &Slot> {
    slots
        .iter()
        .filter(move |slot| is_borrowed_by(slot, thread) && slot.secret.load(Ordering::Relaxed) == secret)
}

/// Has the thread a borrowed view of the secret, in one of these roles?
pub(crate) fn holds(slots: &[Slot], secret: u64, thread: Thread, roles: &[u32]) -> bool {
    borrowed(slots, secret, thread).any(|slot| roles.contains(&slot.role.load(Ordering::Relaxed)))
}

/// How many borrowed views of the secret the thread has.
pub(crate) fn count(slots: &[Slot], secret: u64, thread: Thread) -> usize {
    borrowed(slots, secret, thread).count()
}

//! Room on the heap for one value, taken without ending the process where there is no memory: `Box::new` and `Arc::new` would.

use std::alloc::{Layout, alloc, dealloc};
use std::mem::MaybeUninit;
use std::sync::Arc;

use crate::error::Error;

/// Room of this layout, which must not be empty.
#[allow(unsafe_code)]
unsafe fn take(layout: Layout) -> Result<*mut u8, Error> {
    // SAFETY: not empty, by the caller's promise.
    let room = unsafe { alloc(layout) };
    if room.is_null() { Err(Error::OutOfMemory { bytes: layout.size() }) } else { Ok(room) }
}

/// For one owner; `Box::write` fills it.
#[allow(unsafe_code)]
pub(crate) fn owned<T>() -> Result<Box<MaybeUninit<T>>, Error> {
    if size_of::<T>() == 0 {
        // Needs no room.
        return Ok(Box::new_uninit());
    }
    // SAFETY: not empty.
    let room = unsafe { take(Layout::new::<T>()) }?;
    // SAFETY: allocated just now by the global allocator with the layout of `T`, which is that of `MaybeUninit<T>`; nobody else has
    // it; it need not be initialised.
    Ok(unsafe { Box::from_raw(room.cast()) })
}

/// For several; [`fill`] fills it.
///
/// The room is asked for, given back, and taken: stable Rust can do no more. A thread that takes the last memory between these
/// two still ends the process.
#[allow(unsafe_code)]
pub(crate) fn shared<T>() -> Result<Arc<MaybeUninit<T>>, Error> {
    // With the two counts that the standard library puts before the value.
    let refused = Error::OutOfMemory { bytes: size_of::<T>() };
    let (layout, _) = Layout::new::<[usize; 2]>().extend(Layout::new::<T>()).map_err(|_| refused)?;
    // An aligned piece is cut out of a larger one, whose beginning may stay apart when the piece is given back: then the piece
    // itself is too small for the next of its kind. So more is asked for than that takes.
    let more = layout.size().saturating_add(4 * layout.align().max(16));
    let layout = Layout::from_size_align(more, layout.align()).map_err(|_| refused)?;
    // What is not used need not be allocated at all, were it not for the black box.
    // SAFETY: not empty, for the counts; given back with the layout that it was taken with, and not used.
    unsafe { dealloc(std::hint::black_box(take(layout)?), layout) };
    Ok(Arc::new_uninit())
}

/// Moves a value there.
#[allow(unsafe_code)]
pub(crate) fn fill<T>(mut room: Arc<MaybeUninit<T>>, value: T) -> Arc<T> {
    match Arc::get_mut(&mut room) {
        Some(place) => place.write(value),
        // Somebody else has it, too, though nobody has reason to.
        None => return Arc::new(value),
    };
    // SAFETY: written just now.
    unsafe { room.assume_init() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::{fill, owned, shared};

    #[repr(align(256))]
    struct Aligned(u8);

    #[test]
    fn room_is_as_its_value_needs_it() {
        let one = Box::write(owned().unwrap(), Aligned(7));
        let more = fill(shared().unwrap(), Aligned(8));
        assert_eq!((one.0, more.0), (7, 8));
        assert_eq!((&raw const *one).addr() % 256, 0);
        assert_eq!((&raw const *more).addr() % 256, 0);
        // As a closure that captures nothing.
        Box::write(owned().unwrap(), ());
        fill(shared().unwrap(), ());
    }
}

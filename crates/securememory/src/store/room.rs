//! Room on the heap for one value, taken without ending the process where there is no memory: `Box::new` and `Arc::new` would.
//!
//! It is asked for, given back, and taken: stable Rust can do no more. A thread that takes the last memory between these two
//! still ends the process.

use std::mem::MaybeUninit;
use std::sync::Arc;

use crate::error::Error;

/// Asks whether there is room for so many bytes.
fn ask(bytes: usize) -> Result<(), Error> {
    let mut room: Vec<u8> = Vec::new();
    room.try_reserve_exact(bytes).map_err(|_| Error::OutOfMemory { bytes })?;
    // Seen from here it is of no use, and need not be allocated at all.
    drop(std::hint::black_box(room));
    Ok(())
}

/// The bytes of a value with the two counts that the standard library may put before it, and more: an aligned piece is cut out of
/// a larger one.
const fn with_more<T>() -> usize {
    size_of::<T>() + 2 * size_of::<usize>() + 4 * align_of::<T>() + 64
}

/// For one owner; `Box::write` fills it.
pub(crate) fn owned<T>() -> Result<Box<MaybeUninit<T>>, Error> {
    ask(with_more::<T>())?;
    Ok(Box::new_uninit())
}

/// For several; [`fill`] fills it.
pub(crate) fn shared<T>() -> Result<Arc<MaybeUninit<T>>, Error> {
    ask(with_more::<T>())?;
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

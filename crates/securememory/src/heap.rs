//! Values on the heap, made without ending the process where there is no memory: as `Box::new` and `Arc::new` would.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::error::Error;

/// Room for one value. It is given back at the moment at which the value takes it: stable Rust can do no more, and a thread
/// that takes the last memory in between ends the process.
pub(crate) struct Room<T> {
    bytes: Vec<u8>,
    of: PhantomData<T>,
}

impl<T> Room<T> {
    pub(crate) fn take() -> Result<Self, Error> {
        // With the counts of an `Arc`.
        let len = size_of::<T>() + 2 * size_of::<usize>();
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Error::OutOfMemory { bytes: len })?;
        Ok(Self { bytes, of: PhantomData })
    }

    /// Moves a value there.
    pub(crate) fn share(self, value: T) -> Arc<T> {
        self.give();
        Arc::new(value)
    }

    /// The same, for one owner.
    pub(crate) fn own(self, value: T) -> Box<T> {
        self.give();
        Box::new(value)
    }

    fn give(self) {
        // Seen from here it is of no use, and need not be allocated at all.
        drop(std::hint::black_box(self.bytes));
    }
}

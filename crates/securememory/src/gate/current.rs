//! What a sealed secret's readers find: the pointer to its ciphertext, and the order in which it is used.

use std::sync::atomic::Ordering;

use super::Gate;
use crate::sync::{self, AtomicPtr};

/// What is valid now.
pub(crate) struct Current<T>(AtomicPtr<T>);

impl<T> Current<T> {
    pub(crate) fn new(first: *mut T) -> Self {
        Self(AtomicPtr::new(first))
    }

    /// For a reader whose slot is signed in with the secret's id: what is valid, which is not freed before the
    /// slot's window is closed; `None` if the secret is closed.
    #[inline]
    pub(crate) fn find(&self, gate: &Gate) -> Option<*mut T> {
        sync::total_order();
        if gate.is_closed() {
            return None;
        }
        Some(self.0.load(Ordering::SeqCst))
    }

    /// For the writer, and for whoever has begun the end.
    pub(crate) fn current(&self) -> *mut T {
        self.0.load(Ordering::Acquire)
    }

    /// Puts something else in its place. What was there may be freed once the slots have been seen
    /// to be quiet ([`crate::registry::quiet`]), and not before.
    pub(crate) fn replace(&self, by: *mut T) {
        self.0.store(by, Ordering::SeqCst);
    }
}

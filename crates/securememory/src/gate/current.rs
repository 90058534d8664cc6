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

    /// Where it never changes, or nobody changes it.
    pub(crate) fn current(&self) -> *mut T {
        self.0.load(Ordering::Acquire)
    }

    /// Puts something else in its place, and gives what was there. That may be freed once the slots have been seen
    /// to be quiet ([`crate::registry::quiet`]), and not before.
    pub(crate) fn replace(&self, by: *mut T) -> *mut T {
        self.0.swap(by, Ordering::SeqCst)
    }

    /// The same, if what is there is still `from`, which the caller has found in a window that is still open: so it was not
    /// freed meanwhile, and nothing else can have come to lie at its address.
    pub(crate) fn exchange(&self, from: *mut T, by: *mut T) -> bool {
        self.0.compare_exchange(from, by, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }
}

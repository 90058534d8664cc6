//! A machinery that everybody can find, without a lock that a fork could leave taken in the child.

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::store::Machinery;

/// The place of one machinery, which is never freed once it is here.
pub(crate) struct Published(AtomicPtr<Arc<Machinery>>);

impl Published {
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }

    #[allow(unsafe_code)]
    pub(crate) fn get(&self) -> Option<&'static Arc<Machinery>> {
        // SAFETY: null, or leaked by `publish`.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Puts `made` here, unless a living one came first; returns the one that is here now. One of the parent that a
    /// forked child finds here is replaced. `room` is for the handle that stays.
    #[allow(unsafe_code)]
    pub(crate) fn publish(
        &self,
        made: Arc<Machinery>,
        room: Box<MaybeUninit<Arc<Machinery>>>,
    ) -> &'static Arc<Machinery> {
        let mine = Box::into_raw(Box::write(room, made));
        let mut seen = self.0.load(Ordering::Acquire);
        loop {
            // SAFETY: null, or leaked here before.
            if let Some(other) = unsafe { seen.as_ref() }.filter(|other| other.enclave.is_alive()) {
                // SAFETY: never published, so it is still ours alone.
                drop(unsafe { Box::from_raw(mine) });
                return other;
            }
            match self.0.compare_exchange(seen, mine, Ordering::AcqRel, Ordering::Acquire) {
                // SAFETY: leaked from now on.
                Ok(_) => return unsafe { &*mine },
                Err(now) => seen = now,
            }
        }
    }
}

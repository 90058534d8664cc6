//! Keeps signals that end the process away from a thread while it is in the middle of something.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::os::signals::{self, Mask};

/// Signals that end the process by the coordinator's doing.
static ENDING: AtomicU64 = AtomicU64::new(0);

pub(super) fn set_ending(mask: Mask) {
    ENDING.store(mask, Ordering::Release);
}

/// While it lives, no signal that ends the process by the coordinator's doing is delivered to this thread. They come
/// afterwards, or on another thread.
#[derive(Debug)]
#[must_use = "signals are kept away until this is dropped"]
pub(crate) struct Shield {
    /// The mask before; `None`: nothing was changed.
    before: Option<Mask>,
    /// A mask is a thread's.
    here: PhantomData<*const ()>,
}

/// Keeps them away. Without a coordinator that has such signals this is one load. Guards nest, and end in the opposite
/// order. Where the system refuses, nothing is kept away: what is at stake is how much there is to wipe, not whether.
#[inline]
pub(crate) fn shield() -> Shield {
    let before = match ENDING.load(Ordering::Relaxed) {
        0 => None,
        ending => signals::block(ending).ok(),
    };
    Shield { before, here: PhantomData }
}

impl Drop for Shield {
    #[inline]
    fn drop(&mut self) {
        if let Some(before) = self.before {
            signals::set_mask(before);
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn mask() -> Mask {
        signals::block(0).unwrap()
    }

    // One test, since the signals are the process's.
    #[test]
    fn it_nests_restores_exactly_and_costs_nothing_without_signals() {
        let (term, hup, usr1) = (1 << (libc::SIGTERM - 1), 1 << (libc::SIGHUP - 1), 1 << (libc::SIGUSR1 - 1));
        let first = mask();
        drop(shield());
        assert_eq!((mask(), shield().before), (first, None));
        set_ending(term | hup);
        signals::block(usr1 | hup).unwrap();
        let own = mask();
        {
            let _outer = shield();
            assert_eq!(mask(), own | term | hup);
            {
                let _inner = shield();
                assert_eq!(mask(), own | term | hup);
            }
            assert_eq!(mask(), own | term | hup);
            // The coordinator goes meanwhile.
            set_ending(0);
        }
        assert_eq!(mask(), own, "with what was blocked before, by others");
        signals::set_mask(first);
    }
}

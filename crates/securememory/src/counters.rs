//! What has happened in the process, counted for the `metrics` facade; without that feature nothing is.
//!
//! A count is an addition to a plain atomic, so it may be made anywhere. Those on the way of every read lie apart for a
//! number of threads, which add them up only when they are asked for.

use crate::error::Error;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "metrics"), allow(dead_code, reason = "nothing is counted"))]
pub(crate) enum Count {
    SealedMade,
    PagedMade,
    ChunksMade,
    SealedViews,
    PagedViews,
    Commits,
    Closed,
    Deferred,
    Revoked,
    Refreshes,
    Purges,
    Vaults,
    Expired,
    Degraded,
    LockTimeouts,
    RefusedUsage,
    RefusedLimit,
    RefusedProtection,
    RefusedBusy,
    RefusedGone,
    RefusedDamage,
    RefusedSystem,
}

/// Counts one.
#[cfg(not(feature = "metrics"))]
#[inline(always)]
pub(crate) const fn add(_count: Count) {}

/// Counts what became an error.
#[cfg(not(feature = "metrics"))]
#[inline(always)]
pub(crate) const fn refused(_error: &Error) {}

#[cfg(feature = "metrics")]
pub(crate) use counted::{add, refused, sum};

#[cfg(feature = "metrics")]
mod counted {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use super::{Count, Error};
    use crate::error::ErrorKind;

    const COUNTS: usize = Count::RefusedSystem as usize + 1;
    const STRIPES: usize = 16;

    /// The counts of some threads.
    #[repr(align(128))]
    struct Stripe([AtomicU64; COUNTS]);

    static COUNTED: [Stripe; STRIPES] = [const { Stripe([const { AtomicU64::new(0) }; COUNTS]) }; STRIPES];
    static NEXT: AtomicUsize = AtomicUsize::new(0);

    thread_local! {
        static OWN: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    fn own() -> usize {
        let found = OWN.try_with(Cell::get).unwrap_or(0);
        if found != usize::MAX {
            return found % STRIPES;
        }
        let next = NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES;
        let _ = OWN.try_with(|own| own.set(next));
        next
    }

    #[inline]
    pub(crate) fn add(count: Count) {
        COUNTED[own()].0[count as usize].fetch_add(1, Ordering::Relaxed);
    }

    #[cold]
    pub(crate) fn refused(error: &Error) {
        add(match error.kind() {
            ErrorKind::Usage => Count::RefusedUsage,
            ErrorKind::Limit => Count::RefusedLimit,
            ErrorKind::Protection => Count::RefusedProtection,
            ErrorKind::Busy => Count::RefusedBusy,
            ErrorKind::Gone => Count::RefusedGone,
            ErrorKind::Damage => Count::RefusedDamage,
            ErrorKind::System => Count::RefusedSystem,
        });
    }

    pub(crate) fn sum(count: Count) -> u64 {
        COUNTED.iter().map(|stripe| stripe.0[count as usize].load(Ordering::Relaxed)).sum()
    }
}

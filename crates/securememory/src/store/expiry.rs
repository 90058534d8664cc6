//! Secrets and views whose time comes: expiry, and revocation after a close that did not wait.
//!
//! The time is looked at by whoever uses a secret or a view, so nothing depends on a thread that runs at the right moment.
//! What is over and not used is found by a sweep: of `Vault::tidy`, or of a janitor. The vault knows the earliest time
//! at which there may be something to be found.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::counters::{self, Count};
use crate::error::Error;
use crate::events::{self, Note};
use crate::gate::Deadline;
use crate::os;
use crate::policy::Policy;
use crate::region::revocation::revoke_if_due;
use crate::store::header::Header;
use crate::store::machinery::Machinery;

/// Where the account is not to be had.
const RETRY: Duration = Duration::from_millis(20);

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// When a secret expires. Times are those of [`os::boot_now`].
pub(super) struct Expiry {
    /// At the latest; the maximum: never.
    until: u64,
    /// After so long without a use; the maximum: never.
    idle: u64,
    last_use: AtomicU64,
    /// It has expired.
    over: AtomicBool,
}

impl Expiry {
    /// Of a secret that begins now.
    pub(super) fn of(policy: &Policy) -> Option<Self> {
        if !policy.expires() {
            return None;
        }
        let now = os::boot_now();
        Some(Self {
            until: policy.time_to_live.map_or(u64::MAX, |time| now.saturating_add(nanos(time))),
            idle: policy.idle_time.map_or(u64::MAX, nanos),
            last_use: AtomicU64::new(now),
            over: AtomicBool::new(false),
        })
    }

    fn due(&self) -> u64 {
        self.until.min(self.last_use.load(Ordering::Relaxed).saturating_add(self.idle))
    }
}

impl Header {
    fn expiry(&self) -> Option<&Expiry> {
        self.extra().and_then(|extra| extra.expiry.as_ref())
    }

    /// Is there still time? To be asked by whoever is about to open it: that is a use.
    #[inline]
    pub(super) fn check_time(&self) -> Result<(), Error> {
        if self.expires() { self.use_or_expire() } else { Ok(()) }
    }

    #[cold]
    fn use_or_expire(&self) -> Result<(), Error> {
        let Some(expiry) = self.expiry() else { return Ok(()) };
        let now = os::boot_now();
        if self.expire(expiry, now) {
            return Err(Error::Expired);
        }
        expiry.last_use.fetch_max(now, Ordering::Relaxed);
        Ok(())
    }

    /// Closes it if its time is over, and wipes what is at rest; says whether its time is over. One that was closed before
    /// has not expired.
    fn expire(&self, expiry: &Expiry, now: u64) -> bool {
        if expiry.over.load(Ordering::Acquire) {
            return true;
        }
        if now < expiry.due() || self.gate.is_closed() {
            return false;
        }
        expiry.over.store(true, Ordering::Release);
        counters::add(Count::Expired);
        events::note(Note::Expired, self.id, 0);
        self.gate.close();
        // Where somebody is inside, the last one out wipes it.
        let _ = self.try_end(Some(Deadline::after(Duration::ZERO)));
        true
    }

    /// Why a closed secret is closed.
    #[cold]
    pub(super) fn why_closed(&self) -> Error {
        let expired = self.expiry().is_some_and(|expiry| expiry.over.load(Ordering::Acquire));
        if expired { Error::Expired } else { Error::Closed }
    }
}

/// The earliest times at which there is something to be found in a vault; the maximum: nothing.
pub(crate) struct Due {
    /// A secret expires: [`os::boot_now`].
    expiry: AtomicU64,
    /// A view is revoked: [`os::coarse_now`].
    revocation: AtomicU64,
}

impl Due {
    pub(super) const fn new() -> Self {
        Self { expiry: AtomicU64::new(u64::MAX), revocation: AtomicU64::new(u64::MAX) }
    }
}

impl Machinery {
    /// A secret has been made that may expire.
    pub(super) fn expect_expiry(&self, header: &Header) {
        if let Some(expiry) = header.expiry() {
            self.expect(&self.due.expiry, expiry.due());
        }
    }

    fn expect(&self, next: &AtomicU64, due: u64) {
        if next.fetch_min(due, Ordering::AcqRel) > due && self.settings.janitor {
            self.lingering.wake_janitor();
        }
    }

    /// A close has left views, which are those that `concerned` says by the id of their secret: they are revoked when their
    /// time comes.
    pub(super) fn revoke_later(&self, after: Duration, concerned: impl Fn(u64) -> bool) {
        let at = os::coarse_now().saturating_add(nanos(after));
        let marked = self.slots().filter(|slot| slot.revoke_at(at, &concerned)).count();
        if marked > 0 {
            self.expect(&self.due.revocation, at);
        }
    }

    /// Does what is due by time; says how long nothing will be, `None` where nothing is expected.
    pub(crate) fn tend_time(&self) -> Option<Duration> {
        [self.tend_views(), self.tend_secrets()].into_iter().flatten().min()
    }

    fn tend_views(&self) -> Option<Duration> {
        let (next, now) = (&self.due.revocation, os::coarse_now());
        if next.load(Ordering::Acquire) <= now {
            // Before the look at the views: whoever marks one lowers it afterwards.
            next.swap(u64::MAX, Ordering::AcqRel);
            let later = self.slots().filter_map(|slot| revoke_if_due(slot, now)).min();
            next.fetch_min(later.unwrap_or(u64::MAX), Ordering::AcqRel);
        }
        left(next.load(Ordering::Acquire), now)
    }

    fn tend_secrets(&self) -> Option<Duration> {
        let (next, now) = (&self.due.expiry, os::boot_now());
        if next.load(Ordering::Acquire) <= now {
            // Before the look at the secrets: whoever makes one lowers it afterwards.
            next.swap(u64::MAX, Ordering::AcqRel);
            let mut later = u64::MAX;
            if self.sweep_expired(now, &mut later).is_err() {
                later = now.saturating_add(nanos(RETRY));
            }
            next.fetch_min(later, Ordering::AcqRel);
        }
        left(next.load(Ordering::Acquire), now)
    }

    /// Ends what has expired; lowers `later` to the time at which the next one may.
    fn sweep_expired(&self, now: u64, later: &mut u64) -> Result<(), Error> {
        self.each_secret(|object| {
            let header = object.header();
            if let Some(expiry) = header.expiry()
                && !header.expire(expiry, now)
                && !header.gate.is_closed()
            {
                *later = (*later).min(expiry.due());
            }
            true
        })
    }
}

/// How long it is until then; `None`: for ever.
fn left(next: u64, now: u64) -> Option<Duration> {
    // The clock of views goes in steps: less than one would be a wait for nothing.
    const TICK: Duration = Duration::from_millis(2);
    (next != u64::MAX).then(|| Duration::from_nanos(next.saturating_sub(now)).max(TICK))
}

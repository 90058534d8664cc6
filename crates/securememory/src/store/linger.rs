//! Paged secrets whose pages stay open for a while after their last reader.
//!
//! A secret is listed here by the reader that leaves its pages open, and taken off by whoever closes them when their
//! time is over: an operation that finds it so, `Vault::tidy`, or a janitor. Whether a secret is listed is said by its
//! header ([`Header::lingers`]), in one order of changes: a reader leaves the gate and then exchanges that mark for
//! LISTED; a sweeper exchanges it for UNLISTED and then looks into the gate. Either the reader comes later
//! and finds UNLISTED, so it lists the secret anew; or it came earlier, then the sweeper sees that it has left.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::os;
use crate::store::object::{Body, Header};

/// Secrets of one vault that linger at the same time at most. Beyond them pages are closed at once.
const PLACES: usize = 64;

/// After a protection change that failed.
const RETRY: Duration = Duration::from_millis(20);

/// Marks of a header: the secret has never been in the list, is in it, is not in it any more.
pub(super) const NEVER: u8 = 0;
const LISTED: u8 = 1;
const UNLISTED: u8 = 2;

/// States of a place.
const FREE: u32 = 0;
const BUSY: u32 = 1;
const SET: u32 = 2;

struct Place {
    state: AtomicU32,
    header: AtomicPtr<Header>,
}

impl Place {
    fn move_on(&self, from: u32, to: u32) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// The list of one vault. In this order: see [`Machinery`](crate::store::Machinery).
#[repr(C)]
pub(crate) struct Lingering {
    /// The earliest end of a linger, as [`os::coarse_now`] tells; the maximum where nothing lingers.
    next: AtomicU64,
    sweeping: AtomicBool,
    /// Counted up when something new lingers, and when the vault ends: what a janitor sleeps on.
    event: Arc<AtomicU32>,
    places: [Place; PLACES],
}

impl Lingering {
    pub(super) fn new() -> Self {
        let place = || Place { state: AtomicU32::new(FREE), header: AtomicPtr::new(std::ptr::null_mut()) };
        Self {
            places: std::array::from_fn(|_| place()),
            next: AtomicU64::new(u64::MAX),
            sweeping: AtomicBool::new(false),
            event: Arc::new(AtomicU32::new(0)),
        }
    }

    pub(crate) fn event(&self) -> &Arc<AtomicU32> {
        &self.event
    }

    pub(crate) fn wake_janitor(&self) {
        self.event.fetch_add(1, Ordering::Release);
        os::wake_all(&self.event);
    }

    /// How many secrets are listed.
    pub(crate) fn count(&self) -> usize {
        self.places.iter().filter(|place| place.state.load(Ordering::Relaxed) != FREE).count()
    }

    /// The reader that calls has left the pages of a secret open. False: there is no place, and it must close them.
    pub(super) fn list(&self, header: &Header, linger: Duration, has_janitor: bool) -> bool {
        let Body::Paged(paged) = &header.body else { return true };
        let nanos = u64::try_from(linger.as_nanos()).unwrap_or(u64::MAX);
        let until = os::coarse_now().saturating_add(nanos);
        paged.open_until.store(until, Ordering::Relaxed);
        if header.lingers.swap(LISTED, Ordering::AcqRel) == LISTED {
            return true;
        }
        let Some(place) = self.places.iter().find(|place| place.move_on(FREE, BUSY)) else {
            // Others may have relied on the mark meanwhile: the caller closes for them, too.
            header.lingers.swap(UNLISTED, Ordering::AcqRel);
            return false;
        };
        place.header.store(std::ptr::from_ref(header).cast_mut(), Ordering::Relaxed);
        place.state.store(SET, Ordering::SeqCst);
        let before = self.next.fetch_min(until, Ordering::SeqCst);
        if has_janitor && until < before {
            self.wake_janitor();
        }
        true
    }

    /// Closes what is due, if anything may be.
    #[inline]
    pub(super) fn poll(&self) {
        let next = self.next.load(Ordering::Relaxed);
        if next != u64::MAX && next <= os::coarse_now() {
            self.tidy();
        }
    }

    /// Closes what is due; returns how long nothing will be, `None` where nothing lingers.
    #[cold]
    pub(crate) fn tidy(&self) -> Option<Duration> {
        let now = os::coarse_now();
        // One sweeper is enough.
        if !self.sweeping.swap(true, Ordering::Acquire) {
            // Before the look at the places: who lists a secret lowers it afterwards.
            self.next.store(u64::MAX, Ordering::SeqCst);
            let next = self.places.iter().filter_map(|place| sweep(place, now)).min();
            self.next.fetch_min(next.unwrap_or(u64::MAX), Ordering::SeqCst);
            self.sweeping.store(false, Ordering::Release);
        }
        let next = self.next.load(Ordering::SeqCst);
        (next != u64::MAX).then(|| Duration::from_nanos(next.saturating_sub(now)))
    }

    /// Takes a secret off the list that is about to be freed; waits for a sweeper that is at its pages.
    pub(super) fn forget(&self, header: NonNull<Header>) {
        for place in &self.places {
            while place.header.load(Ordering::Relaxed) == header.as_ptr()
                && place.state.load(Ordering::Acquire) != FREE
                && !place.move_on(SET, FREE)
            {
                std::thread::yield_now();
            }
        }
    }
}

/// Closes the pages of one secret, if it is due; returns when it will be.
#[allow(unsafe_code)]
fn sweep(place: &Place, now: u64) -> Option<u64> {
    if !place.move_on(SET, BUSY) {
        return None;
    }
    // SAFETY: a header is not freed before `forget` has found its place in another state than BUSY.
    let header = unsafe { &*place.header.load(Ordering::Relaxed) };
    let Body::Paged(paged) = &header.body else { return None };
    let until = paged.open_until.load(Ordering::Relaxed);
    if until > now {
        place.state.store(SET, Ordering::Release);
        return Some(until);
    }
    header.lingers.swap(UNLISTED, Ordering::AcqRel);
    let failed = paged.shut(header).is_err();
    if failed
        && header.lingers.compare_exchange(UNLISTED, LISTED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    {
        let again = now.saturating_add(RETRY.as_nanos() as u64);
        paged.open_until.store(again, Ordering::Relaxed);
        place.state.store(SET, Ordering::Release);
        return Some(again);
    }
    place.state.store(FREE, Ordering::Release);
    None
}

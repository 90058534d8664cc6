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
use crate::store::header::{Body, Header};
use crate::store::object;

/// Secrets of one vault that linger at the same time at most. Beyond them pages are closed at once.
const PLACES: usize = 64;

/// After a protection change that failed, and where another sweeper is at it.
pub(super) const RETRY: Duration = Duration::from_millis(20);

/// About one step of the coarse clock.
const TICK: Duration = Duration::from_millis(2);

/// Marks of a header: the secret has never been in the list, is in it, is not in it any more.
pub(super) const NEVER: u8 = 0;
const LISTED: u8 = 1;
const UNLISTED: u8 = 2;

/// Null: free. The address of a header: it is listed. The address and [`AT_IT`]: a sweeper is at its pages. One word, so
/// that nobody takes one secret for another.
struct Place(AtomicPtr<Header>);

/// Headers are aligned to more than these.
const AT_IT: usize = 1;
/// With [`AT_IT`]: the last reference to the secret has gone meanwhile, and the sweeper buries it.
const LEFT: usize = 2;

impl Place {
    fn move_on(&self, from: *mut Header, to: *mut Header) -> Result<*mut Header, *mut Header> {
        // The total order: a sweeper stores the maximum and looks here, who lists comes here and then lowers it.
        self.0.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
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
    pub(super) fn new(event: Arc<AtomicU32>) -> Self {
        Self {
            places: [const { Place(AtomicPtr::new(std::ptr::null_mut())) }; PLACES],
            next: AtomicU64::new(u64::MAX),
            sweeping: AtomicBool::new(false),
            event,
        }
    }

    pub(crate) fn event(&self) -> &Arc<AtomicU32> {
        &self.event
    }

    pub(crate) fn wake_janitor(&self) {
        self.event.fetch_add(1, Ordering::Release);
        os::wake_all(&self.event);
    }

    /// In a child: whoever was at it is not here.
    pub(super) fn forget_others(&self) {
        for place in &self.places {
            let at = place.0.load(Ordering::SeqCst);
            place.0.store(at.map_addr(|address| address & !AT_IT), Ordering::SeqCst);
        }
        self.sweeping.store(false, Ordering::Release);
        // Whoever comes next looks at all of them.
        self.next.store(0, Ordering::SeqCst);
    }

    /// How many secrets are listed.
    pub(crate) fn count(&self) -> usize {
        self.places.iter().filter(|place| !place.0.load(Ordering::Relaxed).is_null()).count()
    }

    /// The reader that calls has left the pages of a secret open. False: there is no place, and it must close them.
    pub(super) fn list(&self, header: &Header, linger: Duration, has_janitor: bool) -> bool {
        let Body::Paged(paged) = header.body() else { return true };
        let nanos = u64::try_from(linger.as_nanos()).unwrap_or(u64::MAX);
        let until = os::coarse_now().saturating_add(nanos);
        paged.open_until.store(until, Ordering::Relaxed);
        if header.lingers.swap(LISTED, Ordering::AcqRel) == LISTED {
            return true;
        }
        let (free, at) = (std::ptr::null_mut(), std::ptr::from_ref(header).cast_mut());
        if !self.places.iter().any(|place| place.move_on(free, at).is_ok()) {
            // Others may have relied on the mark meanwhile: the caller closes for them, too.
            header.lingers.swap(UNLISTED, Ordering::AcqRel);
            return false;
        }
        let before = self.next.fetch_min(until, Ordering::SeqCst);
        // Also where a sweeper was quicker and has told a janitor's sleep of nothing.
        if has_janitor && until <= before {
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
        // One sweeper is enough; what it will find is not known yet.
        if self.sweeping.swap(true, Ordering::Acquire) {
            return Some(RETRY);
        }
        // Before the look at the places: who lists a secret lowers it afterwards.
        self.next.store(u64::MAX, Ordering::SeqCst);
        let due = self.places.iter().filter_map(|place| sweep(place, now)).min().unwrap_or(u64::MAX);
        let next = self.next.fetch_min(due, Ordering::SeqCst).min(due);
        self.sweeping.store(false, Ordering::Release);
        // The clock goes in steps: less than one would be a wait for nothing.
        (next != u64::MAX).then(|| Duration::from_nanos(next.saturating_sub(now)).max(TICK))
    }

    /// Takes a secret off the list that is about to be freed. False: a sweeper is at its pages, which is not waited for; it
    /// buries the secret.
    pub(super) fn forget(&self, header: NonNull<Header>) -> bool {
        let (at, busy) = (header.as_ptr(), header.as_ptr().map_addr(|address| address | AT_IT));
        loop {
            // Nobody lists it any more but a sweeper that is at it, and there is one sweeper at a time. So when it was
            // found at one place, all others are seen to be without it.
            let is_busy = |place: &&Place| place.move_on(at, std::ptr::null_mut()) == Err(busy);
            let mut found = self.places.iter().filter(is_busy);
            let (first, second) = (found.next(), found.next());
            match (first, second) {
                (None, _) => return true,
                (Some(place), None) => {
                    let left = busy.map_addr(|address| address | LEFT);
                    if place.move_on(busy, left).is_ok() {
                        return false;
                    }
                }
                // The sweeper has come from one to the other.
                (Some(_), Some(_)) => {}
            }
        }
    }
}

/// Closes the pages of one secret, if it is due; returns when it will be.
#[allow(unsafe_code)]
fn sweep(place: &Place, now: u64) -> Option<u64> {
    let at = place.0.load(Ordering::SeqCst);
    if at.is_null() || at.addr() & AT_IT != 0 {
        return None;
    }
    place.move_on(at, at.map_addr(|address| address | AT_IT)).ok()?;
    // SAFETY: a listed header lives, and is not freed by others as long as its place has AT_IT.
    let header = unsafe { &*at };
    let until = close_due(header, now);
    let next = if until.is_some() { at } else { std::ptr::null_mut() };
    let busy = at.map_addr(|address| address | AT_IT);
    if place.move_on(busy, next).is_ok() {
        return until;
    }
    // Left to us: see `forget`.
    place.0.store(std::ptr::null_mut(), Ordering::Release);
    if let Some(header) = NonNull::new(at) {
        // SAFETY: the last reference has gone, and the secret is in no other place. The vault lives: the caller has it.
        unsafe { object::bury(header) };
    }
    None
}

/// Closes the pages, if they are due; returns until when the secret stays listed.
fn close_due(header: &Header, now: u64) -> Option<u64> {
    let Body::Paged(paged) = header.body() else { return None };
    let until = paged.open_until.load(Ordering::Relaxed);
    if until > now {
        return Some(until);
    }
    header.lingers.swap(UNLISTED, Ordering::AcqRel);
    let failed = paged.shut(header).is_err();
    if header.gate.is_closed() {
        // A close that met us at the pages could not end it.
        let _ = header.try_end(None);
    }
    let again = now.saturating_add(RETRY.as_nanos() as u64);
    let relist = || header.lingers.compare_exchange(UNLISTED, LISTED, Ordering::AcqRel, Ordering::Acquire);
    if !failed || relist().is_err() {
        return None;
    }
    paged.open_until.store(again, Ordering::Relaxed);
    Some(again)
}

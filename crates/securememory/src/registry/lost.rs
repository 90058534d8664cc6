//! Pages whose contents were lost, to failing hardware for instance, and that were replaced by pages of noise.

use std::sync::atomic::{AtomicUsize, Ordering, fence};

/// Such pages at one time, at most. Who loses more has another machine to look for.
const MAX: usize = 256;

/// Address of each page plus one, so that zero is a free place.
static PAGES: [AtomicUsize; MAX] = [const { AtomicUsize::new(0) }; MAX];
/// How many there are.
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// How many there ever were.
static EVER: AtomicUsize = AtomicUsize::new(0);

/// Is any page lost? Asked at the end of every view.
#[inline]
pub(crate) fn any() -> bool {
    fence(Ordering::Acquire);
    COUNT.load(Ordering::Relaxed) != 0
}

/// How many pages were ever lost: who reads memory that may be replaced meanwhile asks before and after, and finds out
/// whether what it has read may be noise.
#[inline]
pub(crate) fn ever() -> usize {
    // What was read before the call is read before the count, which was raised before there was noise to be read.
    fence(Ordering::Acquire);
    EVER.load(Ordering::Relaxed)
}

/// Notes a page, before it is replaced; false: there is no room.
pub(crate) fn note(page: usize) -> bool {
    let word = page.wrapping_add(1);
    if PAGES.iter().any(|place| place.load(Ordering::Relaxed) == word) {
        EVER.fetch_add(1, Ordering::SeqCst);
        return true;
    }
    let found = PAGES
        .iter()
        .any(|place| place.compare_exchange(0, word, Ordering::SeqCst, Ordering::Relaxed).is_ok());
    if found {
        COUNT.fetch_add(1, Ordering::SeqCst);
        EVER.fetch_add(1, Ordering::SeqCst);
    }
    found
}

/// The addresses of the pages that are lost now.
pub(crate) fn all() -> impl Iterator<Item = usize> {
    PAGES.iter().filter_map(|place| place.load(Ordering::Relaxed).checked_sub(1))
}

/// Is a part of this range lost?
#[cold]
pub(crate) fn in_range(start: usize, len: usize, page: usize) -> bool {
    places(start, len, page).next().is_some()
}

/// The range has been written anew as a whole, or is used for other things.
#[cold]
pub(crate) fn forget(start: usize, len: usize, page: usize) {
    for place in places(start, len, page) {
        let seen = place.load(Ordering::Relaxed);
        if seen != 0 && place.compare_exchange(seen, 0, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
            COUNT.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn places(start: usize, len: usize, page: usize) -> impl Iterator<Item = &'static AtomicUsize> {
    PAGES.iter().filter(move |place| {
        let lost = place.load(Ordering::Relaxed);
        lost.checked_sub(1)
            .is_some_and(|lost| lost < start.saturating_add(len) && start < lost.saturating_add(page))
    })
}

//! Circles of handlers: which level a call that comes back to us is sent to.

use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};

use super::{Delivery, Station};
use crate::os::{self, signals};

/// A call of [`super::pass`] under way, on a thread.
struct Active {
    thread: AtomicU32,
    signal: AtomicI32,
    info: AtomicUsize,
    frame: AtomicUsize,
    level: AtomicUsize,
}

/// As many threads at the same time can be in a circle of handlers.
const ACTIVE: usize = 64;

static ACTIVES: [Active; ACTIVE] = [const {
    Active {
        thread: AtomicU32::new(0),
        signal: AtomicI32::new(0),
        info: AtomicUsize::new(0),
        frame: AtomicUsize::new(0),
        level: AtomicUsize::new(0),
    }
}; ACTIVE];

/// What an [`Active`] says.
#[derive(Clone, Copy)]
struct Call {
    info: usize,
    frame: usize,
    level: usize,
}

impl Call {
    /// Deeper in the stack, with the same delivery: called by the handler that we are calling.
    fn encloses(&self, delivery: &Delivery) -> bool {
        self.info == delivery.info.addr() && delivery.frame() < self.frame
    }
}

/// Is our handler being called by one that we are calling, with the same delivery? Then all has been done about it
/// already but to pass it on.
pub(in crate::fault) fn comes_back(station: &Station, delivery: &Delivery) -> bool {
    station.levels() > 1
        && Active::of(os::thread_id() as u32, delivery.signal)
            .is_some_and(|active| active.read().encloses(delivery))
}

/// Which level's handler is to be called now.
pub(super) struct Turn {
    active: Option<&'static Active>,
    /// What is to be there again when this one has ended: of the call that it comes back from, or that it interrupts.
    outer: Option<Call>,
    level: usize,
}

impl Turn {
    /// `None`: there is no level left.
    pub(super) fn begin(station: &Station, delivery: &Delivery) -> Option<Self> {
        let top = station.levels().checked_sub(1)?;
        if top == 0 {
            return Some(Self { active: None, outer: None, level: 0 });
        }
        let (frame, info) = (delivery.frame(), delivery.info.addr());
        let thread = os::thread_id() as u32;
        let Some((active, is_new)) = Active::find(thread, delivery.signal) else {
            // Nobody would notice a circle: so it is cut at once.
            return Some(Self { active: None, outer: None, level: 0 });
        };
        let outer = (!is_new).then(|| active.read());
        // Deeper in the stack: called by the handler that we are calling. Else that one was interrupted, or has jumped away.
        let level = match outer {
            Some(outer) if outer.encloses(delivery) => outer.level.checked_sub(1)?,
            // We are about to take the place of that handler, or have given it back: it has been called, and calls us.
            _ if signals::action(delivery.signal).ok() == station.previous(top) => top.wrapping_sub(1),
            _ => top,
        };
        active.write(Call { info, frame, level });
        Some(Self { active: Some(active), outer, level })
    }

    pub(super) fn level(&self) -> usize {
        self.level
    }

    pub(super) fn end(self) {
        match (self.active, self.outer) {
            (Some(active), Some(outer)) => active.write(outer),
            (Some(active), None) => active.thread.store(0, Ordering::Release),
            (None, _) => {}
        }
    }
}

impl Active {
    /// The one of this thread and signal.
    fn of(thread: u32, signal: c_int) -> Option<&'static Self> {
        ACTIVES.iter().find(|active| {
            active.thread.load(Ordering::Relaxed) == thread && active.signal.load(Ordering::Relaxed) == signal
        })
    }

    /// The one of this thread and signal, or a free one, or one of a thread that has ended after it had jumped away.
    fn find(thread: u32, signal: c_int) -> Option<(&'static Self, bool)> {
        if let Some(active) = Self::of(thread, signal) {
            return Some((active, false));
        }
        let takes = |active: &&Self, from: u32| {
            active.thread.compare_exchange(from, thread, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let free = ACTIVES.iter().find(|active| takes(active, 0));
        let taken = free.or_else(|| {
            ACTIVES.iter().find(|active| {
                let other = active.thread.load(Ordering::Relaxed);
                !signals::is_thread(other) && takes(active, other)
            })
        })?;
        taken.signal.store(signal, Ordering::Relaxed);
        Some((taken, true))
    }

    fn read(&self) -> Call {
        Call {
            info: self.info.load(Ordering::Relaxed),
            frame: self.frame.load(Ordering::Relaxed),
            level: self.level.load(Ordering::Relaxed),
        }
    }

    fn write(&self, call: Call) {
        self.info.store(call.info, Ordering::Relaxed);
        self.frame.store(call.frame, Ordering::Relaxed);
        self.level.store(call.level, Ordering::Relaxed);
    }
}

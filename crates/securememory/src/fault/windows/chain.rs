//! Deliveries, and what is known of each signal: exceptions, and console events.
//!
//! Who is called after us Windows decides: it asks one handler after the other, and ours says that it goes on.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::AtomicU32;

use super::roles::Roles;
use crate::os::signals::{self, Failure, Info, MAX_SIGNAL};
use crate::shutdown::dying::Fatal;
use windows_sys::Win32::Foundation::EXCEPTION_IN_PAGE_ERROR;

/// It is done with.
pub(crate) const HANDLED: u32 = 3;

/// A console event.
#[derive(Debug)]
pub(crate) struct Station {
    pub(crate) roles: Roles,
    /// Not used: the coordinator's thread sends nothing to itself.
    pub(crate) sent_on: AtomicU32,
    /// Deliveries that wait for the coordinator's thread.
    pub(crate) waiting: AtomicU32,
    /// What has become of the one that was waiting: zero, nothing yet;
    /// [`PASSING`](super::roles::PASSING), [`ENDING`](super::roles::ENDING), [`HANDLED`].
    pub(crate) answer: AtomicU32,
    /// The thread of an event is waiting for it.
    pub(crate) asking: AtomicU32,
}

static STATIONS: [Station; MAX_SIGNAL + 1] = [const {
    Station {
        roles: Roles::none(),
        sent_on: AtomicU32::new(0),
        waiting: AtomicU32::new(0),
        answer: AtomicU32::new(0),
        asking: AtomicU32::new(0),
    }
}; MAX_SIGNAL + 1];

/// What is known of exceptions: their roles.
pub(super) fn of_exceptions() -> &'static Station {
    // No console event is signal zero.
    &STATIONS[0]
}

/// Counts what the coordinator's thread has to look at; it sleeps on this.
pub(crate) static WORK: AtomicU32 = AtomicU32::new(0);

/// There are no children that have their parent's handlers.
pub(crate) fn own_in_child() {}

/// A signal's station; `None`: no such signal.
pub(crate) fn station(signal: c_int) -> Option<&'static Station> {
    STATIONS.get(usize::try_from(signal).ok().filter(|&signal| signal != 0)?)
}

/// Does it end a process for which nobody has said anything? All console events do.
pub(crate) fn ends_by_default(signal: c_int) -> bool {
    signals::can_be_handled(signal)
}

/// One call of our handler.
pub(crate) struct Delivery {
    /// Of an exception its code, of a console event the signal that it stands for.
    pub(crate) signal: c_int,
    pub(crate) info: *mut Info,
    pub(crate) context: *mut c_void,
    pub(crate) code: c_int,
    pub(crate) address: usize,
    is_mapped: bool,
    /// It was left to the coordinator's thread.
    pub(super) is_handed_over: Cell<bool>,
}

impl Delivery {
    /// Of an exception.
    ///
    /// # Safety
    ///
    /// What a handler was called with, which is valid until it returns.
    #[allow(unsafe_code)]
    pub(super) unsafe fn of_exception(info: *mut Info) -> Self {
        // SAFETY: as the caller vouches.
        let words = unsafe { signals::words(info) };
        Self {
            signal: words.code,
            info,
            context: info.cast(),
            code: words.reason,
            address: words.address,
            is_mapped: signals::is_mapped(words.address),
            is_handed_over: Cell::new(false),
        }
    }

    /// Of a console event.
    pub(super) fn of_event(signal: c_int) -> Self {
        let (info, context) = (null_mut(), null_mut());
        Self { signal, info, context, code: 0, address: 0, is_mapped: true, is_handed_over: Cell::new(false) }
    }

    /// What has failed.
    #[allow(clippy::unnecessary_wraps, reason = "as elsewhere, where it may be no access")]
    pub(super) fn failure(&self) -> Option<Failure> {
        Some(match self.signal {
            EXCEPTION_IN_PAGE_ERROR => Failure::Lost,
            _ if self.is_mapped => Failure::Denied,
            _ => Failure::Unmapped,
        })
    }

    /// The access that has failed, for who dies of it.
    pub(super) fn fatal(&self) -> Option<Fatal> {
        let is_lost = self.failure()? != Failure::Denied;
        Some(Fatal { address: self.address, is_lost })
    }

    /// Nothing comes with an event that somebody could want to know.
    pub(super) fn hand_over(&self) {
        self.is_handed_over.set(true);
    }
}

/// A function of the program's that aborts does not come back, and nothing of ours stands in its way.
pub(super) mod abort {
    use super::Delivery;

    pub(in crate::fault) fn make_room(_: &Delivery, _: Option<()>) {}

    pub(in crate::fault) fn take_room((): ()) {}
}

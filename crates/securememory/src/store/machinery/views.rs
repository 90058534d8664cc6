//! Who views what: the slots of scratch, and those without memory (tickets) for views of pages.

use std::sync::atomic::Ordering;

use super::Machinery;
use crate::error::{Error, Outstanding};
use crate::gate::{Deadline, Refusal, word};
use crate::region::slots;
use crate::registry::{HELD, Slot, Thread};

/// The first threads have a ticket of their own for a view that is not nested.
pub(super) const HOMES: usize = 64;

impl Machinery {
    /// Notes a view of a paged secret.
    #[inline]
    pub(in crate::store) fn take_ticket(&self, thread: Thread, secret: u64) -> Result<&'static Slot, Error> {
        let home = thread.index();
        if home < HOMES
            && let Some(slot) = self.tickets.get(home)
            && slot.take_own(HELD)
        {
            self.note_ticket(home, slot, thread, secret);
            return Ok(slot);
        }
        self.take_shared_ticket(thread, secret)
    }

    #[cold]
    fn take_shared_ticket(&self, thread: Thread, secret: u64) -> Result<&'static Slot, Error> {
        let shared = self.tickets.get(HOMES..).unwrap_or_default();
        // The first of them, so that what is looked at in search of views stays small.
        let start = thread.index() % shared.len().clamp(1, HOMES);
        let (before, after) = shared.split_at(start);
        for (step, slot) in after.iter().chain(before).enumerate() {
            if slot.take(HELD) {
                self.note_ticket(HOMES + (start + step) % shared.len(), slot, thread, secret);
                return Ok(slot);
            }
        }
        Err(Error::ScratchExhausted { limit: shared.len() })
    }

    #[inline]
    fn note_ticket(&self, index: usize, slot: &Slot, thread: Thread, secret: u64) {
        slot.assign(thread, secret);
        if index >= self.tickets_used.load(Ordering::Relaxed) {
            self.tickets_used.fetch_max(index + 1, Ordering::SeqCst);
        }
    }

    pub(super) fn tickets(&self) -> &'static [Slot] {
        &self.tickets[..self.tickets_used.load(Ordering::SeqCst)]
    }

    /// All places that views may be in.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &'static Slot> {
        self.scratch.used().iter().chain(self.tickets())
    }

    /// The views of a secret, wherever they are.
    #[cold]
    pub(in crate::store) fn holders(&self, secret: u64) -> Outstanding {
        let mut outstanding = Outstanding::default();
        self.scratch.add_holders(secret, &mut outstanding);
        slots::add_holders(self.tickets(), secret, &mut outstanding);
        outstanding
    }

    /// The threads that have a key in hand.
    #[cold]
    pub(in crate::store) fn at_work(&self) -> Outstanding {
        let mut outstanding = Outstanding::default();
        slots::add_windows(self.scratch.used(), &mut outstanding);
        outstanding
    }

    /// Has the thread a borrowed view of any secret?
    #[cold]
    pub(in crate::store) fn holds_any(&self, thread: Thread) -> bool {
        self.slots().any(|slot| slots::is_borrowed_by(slot, thread))
    }

    /// Has the thread a borrowed view of the secret, in one of these roles?
    #[cold]
    pub(in crate::store) fn holds(&self, secret: u64, thread: Thread, roles: &[u32]) -> bool {
        self.scratch.holds(secret, thread, roles) || slots::holds(self.tickets(), secret, thread, roles)
    }

    /// Has the thread a view of the paged secret besides the one that it is about to open?
    #[cold]
    pub(in crate::store) fn is_nested(&self, secret: u64, thread: Thread) -> bool {
        slots::count(self.tickets(), secret, thread) > 1
    }

    /// Says in the user's terms why the gate refused.
    #[cold]
    pub(in crate::store) fn explain(&self, refusal: Refusal, secret: u64, deadline: Deadline) -> Error {
        match refusal {
            Refusal::Closed => Error::Closed,
            Refusal::TooMany => Error::TooManyViews { limit: word::MAX_VIEWS },
            Refusal::Call(cause) => Error::System(cause),
            Refusal::Late if deadline.is_immediate() => Error::Busy(self.holders(secret)),
            Refusal::Late => Error::Timeout { waited: deadline.waited(), holders: self.holders(secret) },
        }
    }
}

/// A table of tickets until a vault has taken it.
pub(super) struct Tickets(&'static [Slot]);

impl Tickets {
    pub(super) fn make(max: usize) -> Result<Self, Error> {
        slots::make(max).map(Self)
    }

    pub(super) fn keep(self) -> &'static [Slot] {
        let slots = self.0;
        let _ = std::mem::ManuallyDrop::new(self);
        slots
    }
}

impl Drop for Tickets {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: no vault has taken the table, so nobody has a ticket.
        unsafe { slots::free(self.0) };
    }
}

//! Readers and writers of a paged secret: see "Paged" in [`super`].

use std::sync::atomic::Ordering;

use super::wait::{self, Deadline};
use super::word::{self, Entry};
use super::{Gate, Refusal};
use crate::os::CallError;

impl Gate {
    /// Keeps the pages mapped, open or not, while `look` looks at them; not if the secret is closed. The caller inherits
    /// the same duties as one who was refused by [`Self::enter_paged`].
    pub(crate) fn inspect<T>(&self, look: impl FnOnce() -> T) -> Option<T> {
        let before = self.word.fetch_add(word::VIEW, Ordering::AcqRel);
        let seen = (before & word::CLOSED == 0).then(look);
        self.undo(word::VIEW);
        seen
    }

    /// Enters as a reader of pages. `nested` says whether the thread is inside already; `open` makes them readable and
    /// may run in several threads at once.
    ///
    /// Whoever is refused has been counted for a while, and inherits the duties of those who left meanwhile: it
    /// calls [`Self::shut_if_idle`], and [`Self::begin_final`] if the secret is closed.
    #[inline]
    pub(crate) fn enter_paged(
        &self,
        nested: impl FnOnce() -> bool,
        deadline: impl FnOnce() -> Deadline,
        open: impl FnOnce() -> Result<(), CallError>,
    ) -> Result<(), Refusal> {
        let before = self.word.fetch_add(word::VIEW, Ordering::AcqRel);
        match word::paged_entry(before, false) {
            Entry::Free => self.open_paged(open),
            _ => {
                let nested = nested();
                self.enter_paged_slowly(word::paged_entry(before, nested), nested, deadline(), open)
            }
        }
    }

    /// Counted in, with nobody closing or writing.
    #[inline]
    fn open_paged(&self, open: impl FnOnce() -> Result<(), CallError>) -> Result<(), Refusal> {
        if self.is_open() {
            return Ok(());
        }
        match open() {
            Ok(()) => {
                self.open.store(true, Ordering::Release);
                Ok(())
            }
            Err(cause) => {
                self.undo(word::VIEW);
                Err(Refusal::Call(cause))
            }
        }
    }

    #[cold]
    fn enter_paged_slowly(
        &self,
        mut entry: Entry,
        nested: bool,
        deadline: Deadline,
        open: impl FnOnce() -> Result<(), CallError>,
    ) -> Result<(), Refusal> {
        loop {
            match entry {
                Entry::Free => return self.open_paged(open),
                Entry::Sealing => {
                    // Our count stands, so this ends with the protection change in flight.
                    if !wait::wait_until(&self.word, deadline, |word| word & word::SEALING == 0) {
                        self.undo(word::VIEW);
                        return Err(Refusal::Late);
                    }
                    entry = word::paged_entry(self.load() - word::VIEW, nested);
                }
                Entry::Writer => {
                    // First the place in the queue, so that no second writer comes between.
                    self.set(word::QUEUE);
                    self.undo(word::VIEW);
                    let free =
                        |word: u64| word & (word::WRITER | word::PENDING) == 0 || word & word::CLOSED != 0;
                    let in_time = wait::wait_until(&self.word, deadline, free);
                    if in_time {
                        entry = word::paged_entry(self.word.fetch_add(word::VIEW, Ordering::AcqRel), nested);
                    }
                    if !in_time || entry != Entry::Writer {
                        // Of all that queue: those who are not in yet find the next writer, and queue again.
                        self.clear(word::QUEUE);
                    }
                    if !in_time {
                        return Err(Refusal::Late);
                    }
                }
                Entry::Closed => {
                    self.undo(word::VIEW);
                    return Err(Refusal::Closed);
                }
                Entry::TooMany => {
                    self.undo(word::VIEW);
                    return Err(Refusal::TooMany);
                }
            }
        }
    }

    /// A view of pages has ended. Says whether the secret is closed and nobody is left: then try
    /// [`Self::begin_final`].
    #[inline]
    #[must_use]
    pub(crate) fn leave(&self) -> bool {
        let now = self.undo(word::VIEW);
        now & word::CLOSED != 0 && word::views(now) == 0
    }

    /// A view of pages has ended, which stay open. Says whether it was the last: then the caller sees to it that somebody
    /// calls [`Self::shut_if_idle`] later.
    #[must_use]
    pub(crate) fn leave_unshut(&self) -> bool {
        word::views(self.undo(word::VIEW)) == 0
    }

    /// Closes the pages if nobody is inside. `shut` is called by one thread at a time, never under a reader.
    /// A failed `shut` leaves the pages open and marked so: the next call tries again.
    #[inline]
    pub(crate) fn shut_if_idle(&self, shut: impl FnOnce() -> Result<(), CallError>) -> Result<(), CallError> {
        if self.is_open() && self.attempt(word::begin_sealing).is_some() { self.seal(shut) } else { Ok(()) }
    }

    /// A view of pages has ended; the last one closes them, as [`Self::shut_if_idle`] does.
    #[inline]
    pub(crate) fn leave_paged(&self, shut: impl FnOnce() -> Result<(), CallError>) -> Result<(), CallError> {
        // Leaving and beginning to close in one step, where this is the last view.
        let last = |word: u64| {
            if word::views(word) == 1 { word::begin_sealing(word - word::VIEW) } else { None }
        };
        if self.attempt(last).is_some() {
            return self.seal(shut);
        }
        self.undo(word::VIEW);
        // Someone else may have left in between, taking us for the last one.
        self.shut_if_idle(shut)
    }

    /// In the state SEALING, which the caller has begun.
    #[inline]
    fn seal(&self, shut: impl FnOnce() -> Result<(), CallError>) -> Result<(), CallError> {
        // A second look saves two protection changes when someone has just come in. It ends SEALING in the same step: a
        // newcomer that gives up while SEALING lasts leaves the closing to us, one that does so later closes itself.
        if let Some(before) = self.attempt(word::leave_open) {
            wait::wake_after(&self.word, before);
            return Ok(());
        }
        let outcome = shut();
        if outcome.is_ok() {
            self.open.store(false, Ordering::Relaxed);
        }
        self.clear(word::SEALING);
        outcome
    }

    /// Becomes the one writer of a paged secret when all readers have left; new ones wait meanwhile.
    pub(crate) fn begin_write_paged(&self, deadline: Deadline) -> Result<(), Refusal> {
        loop {
            if self.attempt(word::begin_pending).is_some() {
                break;
            }
            if self.load() & word::CLOSED != 0 {
                return Err(Refusal::Closed);
            }
            let free = |word: u64| word & word::CLOSED != 0 || word::begin_pending(word).is_some();
            if !wait::wait_until(&self.word, deadline, free) {
                return Err(Refusal::Late);
            }
        }
        loop {
            if self.attempt(word::begin_write_paged).is_some() {
                return Ok(());
            }
            let ready = |word: u64| word & word::CLOSED != 0 || word::begin_write_paged(word).is_some();
            let refusal = if self.load() & word::CLOSED != 0 {
                Refusal::Closed
            } else if wait::wait_until(&self.word, deadline, ready) {
                continue;
            } else {
                Refusal::Late
            };
            self.clear(word::PENDING);
            return Err(refusal);
        }
    }

    /// The writer is done. `open`: are the pages still accessible?
    pub(crate) fn end_write_paged(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
        self.clear(word::WRITER);
    }
}

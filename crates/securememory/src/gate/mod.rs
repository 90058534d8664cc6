//! The gate of a secret: admits readers and writers, and lets exactly one closer through.
//!
//! # How it works
//!
//! All flags are in one 64-bit word (layout and transitions in [`word`]).
//!
//! **Sealed.** A reader's slot of scratch is also its sign-in: it takes a slot (state WINDOW, a sequentially
//! consistent compare-and-swap on a line of its own), writes the secret's id into it, and only then looks whether
//! the secret is CLOSED and loads the pointer to the ciphertext. When it has decrypted, the state becomes HELD.
//! Whoever wants to free a ciphertext first makes it unreachable (a writer exchanges the pointer, a closer sets
//! CLOSED; sequentially consistent too) and then looks at the slots: as long as one is in its WINDOW with this id, or
//! with none yet, its reader may still have the old pointer, and the freeing waits. Either the reader sees
//! the change, or it is seen. No count is shared between readers: reading one secret in many threads
//! writes to no common line. The views of a sealed secret are the slots that bear its id.
//!
//! **Paged.** Readers share the pages, which are open while there is a reader, so they are counted in the word: a
//! reader first adds itself and only then looks at what the word was. Nobody who decides on "no views" can have missed
//! it, because both decide on the same word, and all changes of one word have one order. The last one out closes the
//! pages; the danger is that its closing lands after a newcomer's opening. So closing is a state of its own:
//! only who moves the word from (no views) to SEALING by compare-and-swap may close. A newcomer that
//! finds SEALING keeps its count and waits for the end of that one protection change; one that finds the
//! pages shut opens them itself, which is harmless when two do. While its count stands nobody can begin to close.
//!
//! Whether the pages are open is a flag beside the word, so that setting it is a store and not one more atomic
//! change of the word. It is set by readers while their count stands, after they have opened the pages, and cleared in
//! the state SEALING, which excludes readers. So a newcomer that finds neither SEALING nor a writer cannot read an
//! old `true`: the last clearing came before SEALING ended, which its own count came after. If it reads an old
//! `false`, it opens the pages once more.
//!
//! **Closing.** CLOSED turns away whoever comes later. Whoever then finds no views (a closer, or the last
//! view to leave) takes SEALING by compare-and-swap, wipes, and sets FINAL. So there is one wiper, whoever
//! it is, and all closers wait for FINAL.
//!
//! # Orderings
//!
//! Entering pages is an acquire-release add: it sees what the writer, sealer or opener before it in the order of
//! the word did, protection changes included (they happen in the kernel before the releasing change of the
//! word). Leaving releases, so that a wiper that acquires the word wipes after the last use. The sign-in of sealed
//! readers against the look of those who free is the pattern "each writes its own, then reads the other's", which needs
//! the one total order of sequential consistency. Sleeping and waking: see [`wait`].
//!
//! # What is wait-free
//!
//! Entering and leaving a sealed secret: a compare-and-swap on the thread's own slot, one more for each slot that
//! is taken, at most as many as there are; leaving is a store. Entering a paged secret whose pages are open: one
//! atomic add where the processor has it (x86-64, arm64 with LSE), a loop and so lock-free elsewhere. All else here
//! waits at most to its deadline.

#[cfg(all(loom, test))]
mod models;
mod current;
pub(crate) mod wait;
pub(crate) mod word;

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::os::CallError;
use crate::sync::{AtomicBool, AtomicU64};
pub(crate) use current::Current;
pub(crate) use wait::Deadline;
use word::Entry;

/// Why someone was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The secret is closed.
    Closed,
    /// The count is at its bound.
    TooMany,
    /// The deadline passed.
    Late,
    /// The pages could not be opened.
    Call(CallError),
}

/// The state of one secret.
pub(crate) struct Gate {
    word: AtomicU64,
    /// May the pages be accessible though nobody is inside?
    open: AtomicBool,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self { word: AtomicU64::new(0), open: AtomicBool::new(false) }
    }

    pub(crate) fn load(&self) -> u64 {
        self.word.load(Ordering::Acquire)
    }

    pub(crate) fn views(&self) -> u32 {
        word::views(self.load()) as u32
    }

    /// Takes `what` back; who waits for the word to fall is woken.
    #[inline]
    fn undo(&self, what: u64) -> u64 {
        let before = self.word.fetch_sub(what, Ordering::AcqRel);
        wait::wake_after(&self.word, before);
        before - what
    }

    fn set(&self, flags: u64) {
        let before = self.word.fetch_or(flags, Ordering::AcqRel);
        wait::wake_after(&self.word, before);
    }

    fn clear(&self, flags: u64) {
        let before = self.word.fetch_and(!flags, Ordering::AcqRel);
        wait::wake_after(&self.word, before);
    }

    /// Replaces the word by what `step` makes of it, as long as it makes something of it; then returns what it was.
    fn attempt(&self, step: impl Fn(u64) -> Option<u64>) -> Option<u64> {
        let mut now = self.load();
        while let Some(next) = step(now) {
            match self.word.compare_exchange_weak(now, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(now),
                Err(seen) => now = seen,
            }
        }
        None
    }

    // ---- writers of sealed secrets ----

    /// Becomes the one writer of a sealed secret. Readers are not affected.
    pub(crate) fn begin_write_sealed(&self, deadline: Deadline) -> Result<(), Refusal> {
        loop {
            if self.attempt(word::begin_write_sealed).is_some() {
                return Ok(());
            }
            if self.is_closed() {
                return Err(Refusal::Closed);
            }
            let free = |word: u64| word & word::WRITER == 0 || word & word::CLOSED != 0;
            if !wait::wait_until(&self.word, deadline, free) {
                return Err(Refusal::Late);
            }
        }
    }

    /// The writer of a sealed secret is done.
    pub(crate) fn end_write_sealed(&self) {
        self.clear(word::WRITER);
    }

    // ---- readers and writers of pages ----

    /// Keeps the pages mapped, open or not, while `look` looks at them; not if the secret is closed.
    pub(crate) fn inspect<T>(&self, look: impl FnOnce() -> T) -> Option<T> {
        let before = self.word.fetch_add(word::VIEW, Ordering::AcqRel);
        let seen = (before & word::CLOSED == 0).then(look);
        self.undo(word::VIEW);
        seen
    }

    /// Enters as a reader of pages. `nested` says whether the thread is inside already; `open` makes them readable and may run in several threads at once.
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

    // ---- the end ----

    /// Turns away whoever comes from now on.
    pub(crate) fn close(&self) {
        let before = self.word.fetch_or(word::CLOSED, Ordering::SeqCst);
        wait::wake_after(&self.word, before);
    }

    pub(crate) fn revoke(&self) {
        self.set(word::REVOKED);
    }

    /// Sequentially consistent: see "Sealed" above.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.word.load(Ordering::SeqCst) & word::CLOSED != 0
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.load() & word::REVOKED != 0
    }

    pub(crate) fn is_final(&self) -> bool {
        self.load() & word::FINAL != 0
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Takes the closed secret for the caller alone, who then wipes it and calls [`Self::end_final`]. True
    /// for one caller at most.
    #[must_use]
    pub(crate) fn begin_final(&self) -> bool {
        self.attempt(word::begin_final).is_some()
    }

    pub(crate) fn end_final(&self) {
        self.open.store(false, Ordering::Relaxed);
        // FINAL first: nobody begins the end again in between.
        self.set(word::FINAL);
        self.clear(word::SEALING);
    }

    /// Wiping failed; the next one may try.
    pub(crate) fn abort_final(&self) {
        self.clear(word::SEALING);
    }

    /// Sleeps until something about the secret may have changed: a millisecond at most, because the end of a sealed
    /// view looks for sleepers without a fence and may miss one.
    pub(crate) fn nap(&self, left: Duration) {
        wait::sleep(&self.word, left.min(Duration::from_millis(1)));
    }

    /// A view of a sealed secret has ended: wakes who waits for it.
    #[inline]
    pub(crate) fn notify(&self) {
        wait::wake_after(&self.word, self.word.load(Ordering::Relaxed));
    }
}

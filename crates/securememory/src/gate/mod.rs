//! The gate of a secret: admits readers and writers, and lets exactly one closer through.
//!
//! # How it works
//!
//! All flags are in one 64-bit word (layout and transitions, without atomics, in [`word`]).
//!
//! **Sealed.** A reader's slot of scratch is also its sign-in: it takes a slot (state WINDOW, by a
//! compare-and-swap on a line of its own), writes the secret's id into it, and only then looks whether
//! the secret is CLOSED and loads the pointer to the ciphertext ([`Current::find`]). When it has decrypted, the
//! state becomes HELD. Whoever wants to free a ciphertext first makes it unreachable (a writer exchanges the pointer, a
//! closer sets CLOSED) and then looks at the slots ([`crate::registry::quiet`]): as long as one is in its WINDOW with
//! this id, or with none yet, its reader may still have the old pointer, and the freeing waits. Either the reader sees
//! the change, or it is seen. A slot that has been given back since it was first seen is quiet too, whoever has it
//! now: so readers that come again and again do not hold a writer up. No count is shared between readers: reading one
//! secret in many threads writes to no common line. The views of a sealed secret are the slots that bear its id.
//!
//! Who moves records to another key ([`crate::store`]) is no writer, and no writer waits for it. It signs in with no id,
//! so that it holds up the freeing in all secrets, and exchanges the pointer while its window is still open, if that is
//! what it has found: nothing else can have come to lie at that address meanwhile. So it puts a copy in the place of the
//! record that it is a copy of, or nowhere. The writer frees what its own exchange gives it, whoever put that there.
//!
//! Keys are found and taken away in the same manner ([`crate::enclave::epoch`]): their numbers are to them what the
//! pointer is to a ciphertext.
//!
//! **Paged** ([`pages`]). Readers share the pages, which are open while there is a reader, so they are counted in the
//! word: a reader first adds itself and only then looks at what the word was. Nobody who decides on "no views" can have
//! missed it, because both decide on the same word, and all changes of one word have one order. The last one out closes
//! the pages; the danger is that its closing lands after a newcomer's opening. So closing is a state of its own: only
//! who moves the word from (no views) to SEALING by compare-and-swap may close. A newcomer that finds SEALING keeps its
//! count and waits for the end of that one protection change; one that finds the pages shut opens them itself, which is
//! harmless when two do. While its count stands nobody can begin to close.
//!
//! Whether the pages are open is a flag beside the word, so that setting it is a store and not one more atomic change
//! of the word. It is set by readers while their count stands, after they have opened the pages, and cleared in
//! the state SEALING, which excludes readers. So a newcomer that finds neither SEALING nor a writer cannot read an
//! old `true`: the last clearing came before SEALING ended, which its own count came after. If it reads an old
//! `false`, it opens the pages once more.
//!
//! A count hinders others even if it is taken back at once: who leaves meanwhile is not the last. So **whoever takes a
//! count back inherits the duties of the last one out**: to close the pages ([`Gate::shut_if_idle`]), and to end a secret
//! that is closed. The same goes for one that meets SEALING: who seals looks for counts in the very step that ends
//! SEALING without having closed.
//!
//! **Taking turns.** A writer of pages announces itself (PENDING), and newcomers wait behind it, so readers do not
//! starve it; those who are inside already pass, or it would wait for itself. A reader that had to wait puts itself
//! down (QUEUE), and no other writer announces itself before a reader has come in: so writers do not starve readers.
//!
//! **Closing.** CLOSED turns away whoever comes later. Whoever then finds no views (a closer, or the last
//! view to leave) takes SEALING by compare-and-swap, wipes, and sets FINAL. So there is one wiper, whoever
//! it is, and all closers wait for FINAL.
//!
//! # Orderings
//!
//! | operation | ordering | why it is enough |
//! |---|---|---|
//! | entering pages: add to the word | AcqRel | sees what the writer, sealer or opener before it in the order of the word did; protection changes too, since they are done in the kernel when the call returns, before the word is changed |
//! | leaving: subtract, or swap in SEALING | AcqRel | Release: who wipes or writes, and acquires the word, does so after the last use. Acquire: the one who leaves last may be the wiper |
//! | flags: `set`, `clear` | AcqRel | as above; a writer's work is released with WRITER, a wiper's with FINAL |
//! | `attempt`: load and swap | Acquire, AcqRel | the decision is made by the swap; an old value costs one more round |
//! | `load`, and looks at the flags | Acquire | who finds FINAL finds everything wiped. All changes of the word are read-modify-writes, so no later one cuts off what an earlier one released |
//! | `open`: set by an opener | Release | who reads `true` reads the pages after they were opened |
//! | `open`: cleared by sealer, writer, wiper | Relaxed | the releasing change of the word follows; nobody relies on the flag before |
//! | `open`: read | Acquire | pairs with the opener |
//! | slot taken, its window opened again; CLOSED set and read; pointer exchanged and loaded; a key's number withdrawn and asked; state of slots read | SeqCst | each side writes its own, then reads the other's: with less, both could miss each other. They need the one total order |
//! | the same exchange and load of the pointer | Release, Acquire (in SeqCst) | who finds a record finds it complete, and who has exchanged it frees what others have completed |
//! | the pointer exchanged by a mover, in vain | Relaxed | nothing is taken from what is there instead |
//! | the pointer of a paged secret | Acquire | never exchanged |
//! | a key's number published and asked | Release, Acquire (in SeqCst) | who finds the number finds the key complete. Epochs are never used twice, so the cell's next key is not taken for it |
//! | the end of a batch of moves: fence, then looks for a close | SeqCst | a close that did not wait has seen the window closed at its second look, or is seen here |
//! | state of a slot: HELD, FREE | Release | who reads it (SeqCst includes Acquire) frees after the reader's last use |
//! | id in a slot; number of its turns | Release, Acquire | who reads a later owner's id, or a later turn, is behind the use by the owner before |
//! | a slot's thread, role, memory | Relaxed | informative, or constant before the slot can be found |
//! | a sealed view's end looks for sleepers | Relaxed | may miss one: who waits for views naps a millisecond at most |
//! | event words, WAITERS | SeqCst | Acquire and Release would do, see [`wait`] |
//!
//! # What is wait-free
//!
//! - Entering a sealed secret, as far as the gate goes: a compare-and-swap on the thread's own slot, one more for each
//!   slot that is taken, at most as many as there are. x86-64 has it as an instruction, so has arm64 with
//!   LSE: wait-free. arm64 without LSE repeats a load and a conditional store: lock-free. Fetching the key
//!   waits as its hold says, a fork under way is waited for, and so is the making of more slots, where all are taken.
//! - Leaving a sealed secret: stores, wait-free everywhere; one system call more if somebody sleeps.
//! - Entering a paged secret whose pages are open, without a writer: one addition and two loads. Wait-free on
//!   x86-64 (`lock xadd`) and arm64 with LSE (`ldaddal`), lock-free without.
//! - Leaving a paged secret: lock-free; the swap that begins SEALING is repeated when others have changed the word. The
//!   last one out makes a system call.
//! - Setting and clearing flags: wait-free on arm64 with LSE, a loop and so lock-free elsewhere, since x86-64 has no
//!   instruction that does it and tells what was before.
//! - All else waits, by sleeping, at most to its deadline: a newcomer for one protection change, readers and writers of
//!   pages for each other, closers for views. Who frees ciphertexts looks again and again, and gives way in between.
//!
//! # What has been checked
//!
//! [`models`] runs this code under a model checker, with broken variants that it must find out: its text says what the
//! models cover and what they do not.

mod current;
#[cfg(all(loom, test))]
mod models;
mod pages;
pub(crate) mod wait;
pub(crate) mod word;

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::os::CallError;
use crate::sync::{AtomicBool, AtomicU64};
pub(crate) use current::Current;
pub(crate) use wait::Deadline;

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

    #[inline]
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

    #[inline]
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

    // ---- the end ----

    /// Turns away whoever comes from now on.
    pub(crate) fn close(&self) {
        let before = self.word.fetch_or(word::CLOSED, Ordering::SeqCst);
        wait::wake_after(&self.word, before);
    }

    /// Sequentially consistent, as is [`Self::is_revoked`]: a close that revokes says so here and then looks for owned
    /// views; an owned view in the making can first be found and then looks here.
    pub(crate) fn revoke(&self) {
        let before = self.word.fetch_or(word::REVOKED, Ordering::SeqCst);
        wait::wake_after(&self.word, before);
    }

    /// Sequentially consistent: see "Sealed" above.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.word.load(Ordering::SeqCst) & word::CLOSED != 0
    }

    #[inline]
    pub(crate) fn is_revoked(&self) -> bool {
        self.word.load(Ordering::SeqCst) & word::REVOKED != 0
    }

    #[inline]
    pub(crate) fn is_final(&self) -> bool {
        self.load() & word::FINAL != 0
    }

    #[inline]
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

    /// In a child, where none of the others is who was closing the pages, or waiting: says whether somebody was at the
    /// former. Then nobody knows whether they are open.
    pub(crate) fn forget_others(&self) -> bool {
        let gone = word::SEALING | word::PENDING | word::QUEUE | word::WAITERS;
        let was_closing = self.word.fetch_and(!gone, Ordering::AcqRel) & word::SEALING != 0;
        if was_closing {
            self.open.store(true, Ordering::Release);
        }
        was_closing
    }

    /// The same child does not know whether pages that it could not close are open: whoever comes next opens them.
    pub(crate) fn distrust_open(&self) {
        self.open.store(false, Ordering::Release);
    }

    /// Sleeps until something about the secret may have changed: a millisecond at most, because the end of a sealed
    /// view looks for sleepers without a fence and may miss one.
    pub(crate) fn nap(&self, left: Duration) {
        wait::sleep(&self.word, left.min(Duration::from_millis(1)));
    }

    /// A view of a sealed secret has ended: wakes who waits for it. Says whether the secret is closed. It may miss a close that comes in the same instant: then the drop of the secret is the end.
    #[inline]
    #[must_use]
    pub(crate) fn notify(&self) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        wait::wake_after(&self.word, word);
        word & word::CLOSED != 0
    }
}

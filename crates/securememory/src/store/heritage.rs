//! A vault that a forked child inherits (`fork` is [`Level::Off`]).
//!
//! Before the fork all locks of the vault are taken, so that the child finds nobody in the middle of something that they
//! guard, and the child's shares of split keys are made. In the child the vault is made the child's: keys, the owner of
//! its memory and files, and locks of memory, which a child does not inherit. Then what other threads, which are not there,
//! were in the middle of is put right: windows, places that were being given back, pages that were being closed, waiting
//! writers, a sweep, a walk.
//!
//! What is not put right, since it cannot be known whether somebody in the child has it: views and writers of other threads
//! stay counted, and what they were making stays as it was. (A view may have been lent by its thread to the one that
//! forks.) What goes wrong on the way costs the child the vault, and the parent nothing.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::gate::Deadline;
use crate::os;
use crate::policy::{Level, Levels, Policy};
use crate::registry::arenas::{self, Purpose};
use crate::registry::forks::Heritage;
use crate::registry::{self, dying};
use crate::store::header::{Body, Header};
use crate::store::machinery::Machinery;
use crate::store::sealed::MOMENT;

/// How long a fork waits for each of a vault's locks.
const PATIENCE: Duration = Duration::from_millis(200);

/// What is ready for a child.
#[derive(Default)]
pub(super) struct Ready {
    /// The keys stay as they are.
    keys: AtomicBool,
    /// All is.
    all: AtomicBool,
    /// No other thread is there that could be in the middle of anything.
    alone: AtomicBool,
}

impl Machinery {
    /// Does a child inherit it?
    #[inline]
    pub(super) fn is_inherited(&self) -> bool {
        self.settings.policy.levels().fork == Level::Off
    }

    /// What a secret's pages are to be. A child that inherits the vault has them.
    pub(super) fn page_levels_for(&self, policy: &Policy) -> Levels {
        let levels = policy.page_levels();
        if self.is_inherited() { Levels { fork: Level::Off, ..levels } } else { levels }
    }

    fn thaw(&self, in_child: bool) {
        self.ledger.thaw(in_child);
        self.pool.thaw(in_child);
        self.scratch.thaw(in_child);
        self.enclave.thaw(in_child);
    }

    /// Says whether the child has it.
    fn make_the_childs(&self, parent: u32) -> bool {
        let process = os::process_id();
        let Ok((page, key)) = self.enclave.adopt() else { return false };
        let ours = || {
            arenas::all().filter_map(|arena| {
                let is_ours = arena.vault.load(Ordering::Relaxed) == self.seat.number();
                Some((arena, arena.base_of(parent).filter(|_| is_ours)?))
            })
        };
        let pages = ours().filter(|(arena, _)| arena.is_for(Purpose::Pages));
        let locked = pages.fold(true, |right, (arena, base)| self.pool.lock_again(arena, base) && right);
        let required = self.settings.policy.levels().lock == Level::Require;
        if !self.scratch.inherit(required, self.enclave.anchor().is_as_locked()) || !locked {
            return false;
        }
        self.note_unlocked(page, key);
        ours().for_each(|(arena, _)| arena.set_owner(process));
        self.seat.set_owner(process);
        true
    }

    /// Nobody is in the middle of anything.
    #[allow(unsafe_code)]
    fn forget_others(&self) {
        let me = registry::thread();
        self.slots().for_each(|slot| slot.rename(me));
        self.lingering.forget_others();
        self.turnover.forget_others();
        self.due.forget_others();
        // Where there was nobody else, nobody was in the middle of anything.
        if self.ready.alone.load(Ordering::Relaxed) {
            return;
        }
        self.ledger.recount(|piece| {
            // SAFETY: a piece of the roll.
            let header = unsafe { header_in(piece) }?;
            match header.body() {
                Body::Sealed(sealed) => sealed.epoch_in_child(header),
                Body::Paged(_) => None,
            }
        });
        let mut place = None;
        while let Some((piece, next)) = self.ledger.next_piece(place) {
            place = Some(next);
            // SAFETY: as above.
            let Some(header) = (unsafe { header_in(piece) }) else { continue };
            let was_closing = header.gate.forget_others();
            if let Body::Paged(paged) = header.body()
                && was_closing
            {
                let _ = paged.shut(header);
                // Others who had come meanwhile are counted, and are not here.
                header.gate.distrust_open();
            }
            if was_closing && header.gate.is_closed() {
                let _ = header.try_end(Some(Deadline::after(MOMENT)));
            }
        }
    }
}

/// The header in a piece of the roll, if there is one.
///
/// # Safety
///
/// A piece of the roll of a vault, in a child that has just been forked: nobody else uses it, or gives it back.
#[allow(unsafe_code)]
unsafe fn header_in<'a>(piece: NonNull<u8>) -> Option<&'a Header> {
    let at = piece.cast::<Header>();
    // SAFETY: in use or not, this part of the piece is an atomic number. With a count of references it is a header.
    unsafe {
        let references = (*at.as_ptr()).references.load(Ordering::Acquire);
        if references == 0 { None } else { Some(at.as_ref()) }
    }
}

impl Heritage for Machinery {
    fn prepare(&self) {
        let Ready { keys, all, alone } = &self.ready;
        [keys, all].into_iter().for_each(|ready| ready.store(false, Ordering::Relaxed));
        alone.store(os::threads() == Some(1), Ordering::Relaxed);
        if self.enclave.check_owner().is_err() || dying::has_begun() {
            return;
        }
        self.ledger.share_seals();
        keys.store(self.enclave.freeze(PATIENCE), Ordering::Relaxed);
        let frozen = keys.load(Ordering::Relaxed)
            && self.scratch.freeze(PATIENCE)
            && self.pool.freeze(PATIENCE)
            && self.ledger.freeze(PATIENCE);
        all.store(frozen && self.enclave.bequeath(), Ordering::Relaxed);
    }

    fn after(&self) {
        if self.ready.keys.load(Ordering::Relaxed) {
            self.enclave.leave_heirs();
        }
        self.thaw(false);
    }

    fn adopt(&self, whole: bool) {
        let parent = self.enclave.anchor().owner();
        self.thaw(true);
        if whole && self.ready.all.load(Ordering::Relaxed) && self.make_the_childs(parent) {
            self.forget_others();
            return;
        }
        if self.ready.keys.load(Ordering::Relaxed) {
            self.enclave.give_up_heirs();
        }
        self.enclave.anchor().give_up();
    }
}

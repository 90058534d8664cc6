//! Who is alive: tables of plain atomics that can be walked from anywhere, also from a fork hook.
//!
//! A [`Slot`] is the place of one view. The slots of all vaults are listed here, so that a fork can wait
//! until no thread has a key in its registers or on its stack. The other tables tell a signal handler which memory is ours
//! ([`arenas`], [`vaults`]), what a dying process has to wipe (and [`files`]), and who has registered for a signal
//! ([`handlers`]) and what came with signals that wait for them ([`deliveries`]).

pub(crate) mod arenas;
pub(crate) mod deliveries;
pub(crate) mod dying;
pub(crate) mod files;
pub(crate) mod forks;
#[cfg(feature = "testing")]
pub(crate) mod guards;
pub(crate) mod handlers;
pub(crate) mod lost;
mod table;
pub(crate) mod vaults;

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::error::Error;
use crate::locks::{Freeze, Guard, Lock, Rank};
use crate::os;
use crate::sync;

/// Bytes of a label at most.
pub(crate) const MAX_LABEL: usize = 255;

/// Vaults in one process at most.
pub(crate) const MAX_VAULTS: usize = 1024;

/// Stands for all secrets where readers are waited for.
pub(crate) const ANY: u64 = u64::MAX;

/// The id of a slot that may be reading any secret: its owner has not named one yet, or moves many. Who waits for one
/// secret's readers waits for it too.
pub(crate) const UNNAMED: u64 = 0;

/// An id that no secret has: of a slot that is for a key alone, for which nobody waits who waits for one secret's readers.
pub(crate) const NOBODY: u64 = u64::MAX - 1;

/// Nobody uses the slot.
pub(crate) const FREE: u32 = 0;
/// Its thread is between fetching the key and scrubbing it: a fork waits.
pub(crate) const WINDOW: u32 = 1;
/// A borrowed view, or a writer's copy.
pub(crate) const HELD: u32 = 2;
/// An owned view; the calls that use its bytes at the moment are counted in the lower bits.
pub(crate) const OWNED: u32 = 1 << 30;
/// An owned view that has ended, while a revocation was at it: whoever is at it last gives the slot back.
pub(crate) const LEFT: u32 = 1 << 29;
/// An owned view that a close has revoked.
pub(crate) const REVOKED: u32 = 1 << 31;
/// The slot's memory is being made or given back.
pub(crate) const BUSY: u32 = 3;

/// Looks at a slot before there is talk of patience.
const LOOKS: u32 = if cfg!(all(loom, test)) { 1 } else { 100 };

/// The view only reads.
pub(crate) const READER: u32 = 0;
/// The view changes the secret.
pub(crate) const WRITER: u32 = 1;

/// The chunk of a stream that is being written: nobody can look at its bytes.
pub(crate) const CHUNK: u32 = 2;

/// The place of one view. On lines of its own, so that threads with different slots do not share any.
#[repr(align(128))]
#[cfg_attr(all(loom, test), derive(Default))]
pub(crate) struct Slot {
    pub(crate) state: sync::AtomicU32,
    /// How often it was given back.
    pub(crate) turns: sync::AtomicU32,
    /// [`READER`], [`WRITER`] or [`CHUNK`].
    pub(crate) role: AtomicU32,
    /// Is the memory locked? (1 or 0)
    pub(crate) locked: AtomicU32,
    /// The thread that took it, see [`thread`].
    pub(crate) thread: AtomicU64,
    /// The secret it shows.
    pub(crate) secret: sync::AtomicU64,
    /// When it was taken, as [`os::coarse_now`] tells.
    pub(crate) since: AtomicU64,
    /// Handles of an owned view: the last one gives the slot back.
    pub(crate) handles: AtomicU32,
    /// Its memory, or null.
    pub(crate) base: AtomicPtr<u8>,
    /// Bytes of it.
    pub(crate) capacity: AtomicUsize,
    /// For who explains a fault: the secret that is or was last shown here, where its bytes lie, and its label (null:
    /// none), which is valid while the slot is in use for that secret.
    pub(crate) shown: AtomicU64,
    pub(crate) data: AtomicUsize,
    pub(crate) len: AtomicUsize,
    pub(crate) label: AtomicPtr<String>,
    /// What its thread is decrypting from, while the window is open.
    pub(crate) record: AtomicUsize,
    pub(crate) record_len: AtomicUsize,
    /// When the view is revoked that is here; see `region::revocation`. Zero: never.
    pub(crate) revocation: AtomicU64,
}

impl Slot {
    /// Takes a free slot into `state`.
    #[inline]
    pub(crate) fn take(&self, state: u32) -> bool {
        // SeqCst: who makes something unreachable and then looks for readers here, and a reader that signs in here and
        // then looks whether it is reachable, must not both miss each other. The same goes for a fork hook that announces
        // itself and then looks at the state, and a reader that sets the state and then looks for forks.
        self.state.load(Ordering::Relaxed) == FREE
            && self.state.compare_exchange(FREE, state, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    /// Takes a free slot as the sign-in of a reader, with its window open.
    #[inline]
    pub(crate) fn sign_in(&self, thread: Thread, secret: u64) -> bool {
        let taken = self.take(WINDOW);
        if taken {
            self.assign(thread, secret);
        }
        taken
    }

    /// Its thread decrypts no more.
    #[inline]
    pub(crate) fn close_window(&self) {
        self.state.store(HELD, Ordering::Release);
    }

    /// Takes a free slot that no other thread ever takes: no exchange is needed.
    #[inline]
    pub(crate) fn take_own(&self, state: u32) -> bool {
        let free = self.state.load(Ordering::Relaxed) == FREE;
        if free {
            self.state.store(state, Ordering::Relaxed);
        }
        free
    }

    /// Writes down whose view this is.
    #[inline]
    pub(crate) fn assign(&self, thread: Thread, secret: u64) {
        self.thread.store(thread.0, Ordering::Relaxed);
        // Release: who sees this id, and not the one before, may free what the slot's owner before was reading.
        self.secret.store(secret, Ordering::Release);
        self.since.store(os::coarse_now(), Ordering::Relaxed);
        self.role.store(READER, Ordering::Relaxed);
    }

    /// May its thread be decrypting this secret?
    pub(crate) fn may_read(&self, secret: u64) -> bool {
        self.state.load(Ordering::SeqCst) == WINDOW && {
            let id = self.secret.load(Ordering::Acquire);
            secret == ANY || id == secret || id == UNNAMED
        }
    }

    /// In a child: its thread has another of the system's numbers.
    pub(crate) fn rename(&self, thread: Thread) {
        if Thread(self.thread.load(Ordering::Relaxed)).index() == thread.index() {
            self.thread.store(thread.0, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(crate) fn release(&self) {
        self.secret.store(UNNAMED, Ordering::Relaxed);
        // A fork hook must not take the next owner, who has not signed yet, for its own thread.
        self.thread.store(0, Ordering::Relaxed);
        // Ours alone, so no atomic addition. Release: see `quiet`.
        self.turns.store(self.turns.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        self.state.store(FREE, Ordering::Release);
    }

    /// What is written here from now on is another's.
    #[cold]
    pub(crate) fn forget_lost(&self) {
        let base = self.base.load(Ordering::Relaxed).addr();
        lost::forget(base, self.capacity.load(Ordering::Relaxed), os::page_size());
    }

    /// Was memory of it lost since it was taken?
    #[cold]
    pub(crate) fn is_poisoned(&self) -> bool {
        let base = self.base.load(Ordering::Relaxed).addr();
        lost::in_range(base, self.capacity.load(Ordering::Relaxed), os::page_size())
    }

    /// Notes what it shows, for who explains a fault.
    #[inline]
    pub(crate) fn show(&self, data: usize, len: usize) {
        self.shown.store(self.secret.load(Ordering::Relaxed), Ordering::Relaxed);
        self.data.store(data, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.label.store(std::ptr::null_mut(), Ordering::Relaxed);
        self.record_len.store(0, Ordering::Relaxed);
    }
}

/// Waits until no reader in these slots can still be decrypting what was made unreachable before the call. After some
/// looks at one slot `patient` is asked; says whether all were seen to be quiet before it denied.
pub(crate) fn quiet(slots: &[Slot], secret: u64, mut patient: impl FnMut() -> bool) -> bool {
    sync::total_order();
    slots.iter().all(|slot| {
        if !slot.may_read(secret) {
            return true;
        }
        // A slot that is given back and taken again is quiet too: its new owner finds what is valid now. Else a reader
        // that comes again and again would keep us here. Looked at after the state, which tells of all turns before this
        // one.
        let turn = slot.turns.load(Ordering::Acquire);
        let mut looks = 0u32;
        loop {
            looks += 1;
            if looks < LOOKS {
                sync::spin_loop();
            } else if patient() {
                sync::yield_now();
            } else {
                return false;
            }
            if !slot.may_read(secret) || slot.turns.load(Ordering::Acquire) != turn {
                return true;
            }
        }
    })
}

/// A thread: a number of ours, never used twice, and the system's id.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thread(u64);

impl Thread {
    /// Small numbers for the first threads.
    #[inline]
    pub(crate) fn index(self) -> usize {
        (self.0 >> 32) as usize
    }

    pub(crate) fn system_id(self) -> u32 {
        self.0 as u32
    }

    pub(crate) fn from_word(word: u64) -> Self {
        Self(word)
    }
}

static NEXT_THREAD: AtomicU64 = AtomicU64::new(0);

thread_local! {
    // Const-initialised and without a destructor: no allocation, no registration, usable at any time.
    static THREAD: std::cell::Cell<u64> = const { std::cell::Cell::new(u64::MAX) };
}

/// The calling thread.
#[inline]
pub(crate) fn thread() -> Thread {
    match THREAD.try_with(std::cell::Cell::get) {
        Ok(word) if word != u64::MAX => Thread(word),
        _ => name_thread(),
    }
}

#[cold]
fn name_thread() -> Thread {
    // The first numbers are never given out again: their threads own tickets.
    let index = NEXT_THREAD.fetch_add(1, Ordering::Relaxed).min(u64::from(u32::MAX));
    let word = index << 32 | (os::thread_id() & u64::from(u32::MAX));
    let _ = THREAD.try_with(|thread| thread.set(word));
    Thread(word)
}

/// In a child, whose only thread has another id of the system's than the one of the parent that it was made from.
pub(crate) fn rename_in_child() {
    let _ = THREAD.try_with(|thread| {
        if thread.get() != u64::MAX {
            thread.set(thread.get() >> 32 << 32 | (os::thread_id() & u64::from(u32::MAX)));
        }
    });
}

/// The slots of one vault.
struct Table {
    slots: &'static [Slot],
}

static TABLES: Lock<Vec<Table>> = Lock::new(Rank::Registry, Vec::new());

/// The first slots of tables that are to be withdrawn and freed by whoever changes the list next: each leads to another by
/// its address of memory, of which it has none any more.
static WITHDRAWN: AtomicPtr<Slot> = AtomicPtr::new(std::ptr::null_mut());

#[cfg(feature = "testing")]
pub(crate) fn set_frozen(frozen: bool) -> bool {
    TABLES.set_frozen(frozen)
}

/// Enters a vault's slots. They must be withdrawn before they are freed. `free` is called with those that have been withdrawn
/// when the list was not to be had.
pub(crate) fn enlist(slots: &'static [Slot], free: impl FnMut(&'static [Slot])) -> Result<(), Error> {
    let mut tables = TABLES.lock()?;
    remove_withdrawn(&mut tables, free);
    if tables.len() >= MAX_VAULTS {
        return Err(Error::TooManyVaults { limit: MAX_VAULTS });
    }
    tables.try_reserve(1).map_err(|_| Error::OutOfMemory { bytes: std::mem::size_of::<Table>() })?;
    tables.push(Table { slots });
    Ok(())
}

/// Withdraws a vault's slots, which have no memory any more; `free` is called with all that nobody can find any more. Where
/// others have the list, which may be a fork that looks at them, somebody else is going to free them. Waits for nobody.
pub(crate) fn withdraw(slots: &'static [Slot], free: impl FnMut(&'static [Slot])) {
    let Some(first) = slots.first() else { return };
    let mut next = WITHDRAWN.load(Ordering::Relaxed);
    loop {
        first.base.store(next.cast(), Ordering::Relaxed);
        let this = std::ptr::from_ref(first).cast_mut();
        match WITHDRAWN.compare_exchange_weak(next, this, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => break,
            Err(seen) => next = seen,
        }
    }
    if let Some(mut tables) = TABLES.try_lock() {
        remove_withdrawn(&mut tables, free);
    }
}

fn remove_withdrawn(tables: &mut Vec<Table>, mut free: impl FnMut(&'static [Slot])) {
    let mut at = WITHDRAWN.swap(std::ptr::null_mut(), Ordering::Acquire).cast_const();
    while !at.is_null() {
        let index = tables.iter().position(|table| std::ptr::eq(table.slots.as_ptr(), at));
        // It is there: it was entered, and is withdrawn once.
        let Some(Table { slots }) = index.map(|index| tables.swap_remove(index)) else { return };
        at = slots.first().map_or(std::ptr::null(), |first| first.base.load(Ordering::Relaxed).cast());
        free(slots);
    }
}

/// Keeps vaults from coming and going, and shows all their slots.
pub(crate) struct Frozen(#[allow(dead_code)] Guard<'static, Vec<Table>>);

pub(crate) fn freeze() -> Result<Frozen, Error> {
    TABLES.lock().map(Frozen)
}

/// Keeps tables of this room from growing.
pub(crate) fn freeze_growth(patience: Duration) -> bool {
    table::GROWING.freeze(patience)
}

/// Lets them grow again.
pub(crate) fn thaw_growth(thaw: fn(&dyn Freeze)) {
    thaw(&table::GROWING);
}

impl Frozen {
    /// Is a thread other than `but` in its window?
    pub(crate) fn window_open(&self, but: Thread) -> bool {
        self.0.iter().flat_map(|table| table.slots).any(|slot| {
            slot.state.load(Ordering::SeqCst) == WINDOW && slot.thread.load(Ordering::Relaxed) != but.0
        })
    }
}

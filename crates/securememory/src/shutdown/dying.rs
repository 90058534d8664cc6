//! The process is going down: wipe, and never wait for anybody.
//!
//! Runs in signal handlers, while other threads go on with whatever they are doing. No lock, no allocation, nothing is
//! unmapped. What it walks through are the tables of [`crate::registry`], and from the moment it has begun nothing that
//! they name is unmapped or freed (see [`crate::registry::dying`]).
//!
//! In this order: first nothing can be opened or sealed any more (alive marks, and the halves of the shares by which keys
//! are checked), then keys in use and open views are overwritten with noise, then keys are wiped, then files, then
//! pages, and at last once more the views, since a thread that had its key already may just have decrypted another.
//!
//! Only what this process itself has made is touched: a forked child that inherited our handlers has nothing of its own.
//! A child of vfork(2) or `clone` with `CLONE_VM`, which shares our memory, is told by its number.

use std::sync::atomic::{AtomicU32, Ordering, fence};

use super::noise::Noise;
use crate::os::{self, Access, ProtectionKey, ShareFile, errno, signals};
use crate::registry::arenas::{self, Arena, Purpose, anchor};
use crate::registry::{self, FREE, Slot, WINDOW, dying};

/// How long others wait for the one who wipes.
const PATIENCE_MS: u32 = 2000;
/// Looks at threads that are decrypting, all of them together, before they are left to themselves: a look is 50 µs, and a
/// read less than one, but a thread must be given a processor to end it.
const LOOKS: u32 = 1000;

/// How often a page is opened again that others have closed meanwhile.
const OPENINGS: u32 = 64;

/// The access that the process dies of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fatal {
    pub(crate) address: usize,
    /// The page is there no more, or its memory is not. Else it is closed again after it was wiped, since what failed there
    /// must fail again.
    pub(crate) is_lost: bool,
}

/// The thread that wipes.
static WIPER: AtomicU32 = AtomicU32::new(0);

/// Wipes everything, once in a process. When it returns, it is done; or another thread was at it for too long; or this
/// thread was at it itself, and has been interrupted.
#[inline(never)]
pub(crate) fn run(fatal: Option<Fatal>) {
    let process = os::process_id();
    if !has_any(process) {
        return;
    }
    let thread = os::thread_id() as u32;
    if !dying::begin() {
        wait(thread);
        return;
    }
    WIPER.store(thread, Ordering::SeqCst);
    let noise = &mut Noise::new();
    close_all(process, noise);
    overwrite_views(process, noise);
    wipe_keys(process, noise);
    empty_files(process);
    wipe_pages(process, fatal, noise);
    settle_windows(process, thread);
    overwrite_views(process, noise);
    dying::end();
}

/// Apart, as all that `run` calls: so the stack that this takes is that of the deepest of them, and not of all.
#[inline(never)]
fn has_any(process: u32) -> bool {
    arenas::all().any(|arena| arena.is_of(process))
}

/// Another thread is at it.
#[inline(never)]
fn wait(thread: u32) {
    let mut waited = 0_u32;
    while !dying::is_done() && waited < PATIENCE_MS && WIPER.load(Ordering::SeqCst) != thread {
        signals::pause(1_000_000);
        waited = waited.wrapping_add(1);
    }
}

/// Runs `each` for the arenas of a purpose, each with where it begins: read once, since what is withdrawn meanwhile says zero,
/// and stays mapped. A loop and no iterator: what an adapter of one takes of the stack is not for us to say.
#[inline(always)]
fn each_of(process: u32, purpose: Purpose, mut each: impl FnMut(&'static Arena, usize)) {
    for arena in arenas::all() {
        match arena.base_of(process) {
            Some(base) if arena.is_for(purpose) => each(arena, base),
            _ => {}
        }
    }
}

/// The first byte of a slot.
fn slot(arena: &Arena, base: usize, index: usize) -> usize {
    let page = os::page_size();
    let stride = arena.capacity.load(Ordering::Relaxed).wrapping_add(page);
    base.wrapping_add(page).wrapping_add(index.wrapping_mul(stride))
}

/// What the tables have for each slot of an arena, from the first on; null: nothing.
///
/// # Safety
///
/// The table has as many entries from there on as the arena has slots, and is not freed any more.
#[allow(unsafe_code)]
unsafe fn entries<T: 'static>(first: *const T, arena: &Arena) -> impl Iterator<Item = &'static T> {
    let count = if first.is_null() { 0 } else { arena.count() };
    // SAFETY: as the caller vouches.
    (0..count).map(move |index| unsafe { &*first.add(index) })
}

/// Runs `each` for the slots of scratch.
#[inline(always)]
#[allow(unsafe_code)]
fn each_slot(process: u32, mut each: impl FnMut(&'static Slot)) {
    each_of(process, Purpose::Scratch, |arena, _| {
        // SAFETY: so it was entered, and since `dying::begin` no table is freed.
        for slot in unsafe { entries(arena.slots.load(Ordering::Acquire).cast_const(), arena) } {
            each(slot);
        }
    });
}

/// Alive marks, and then the check halves of all shares, so that nothing is sealed under what will be left of a key.
#[inline(never)]
fn close_all(process: u32, noise: &mut Noise) {
    each_of(process, Purpose::Anchor, |arena, base| {
        let page = slot(arena, base, 0);
        overwrite(page, size_of::<u64>(), noise);
        let mut at: usize = anchor::SHARES_AT + anchor::CHECK_AT;
        while at < anchor::LEN {
            overwrite(page.wrapping_add(at), anchor::SHARE - anchor::CHECK_AT, noise);
            at = at.wrapping_add(anchor::SHARE);
        }
    });
    fence(Ordering::SeqCst);
}

/// Noise over everything that a view or a key in use lies in.
#[inline(never)]
fn overwrite_views(process: u32, noise: &mut Noise) {
    each_slot(process, |slot| overwrite_view(slot, noise));
    overwrite_views_in_anchors(process, noise);
}

/// On large pages the first slot of a vault lies in its anchor.
#[inline(never)]
#[allow(unsafe_code)]
fn overwrite_views_in_anchors(process: u32, noise: &mut Noise) {
    for views in registry::vaults::views(process) {
        // SAFETY: a table of at least one slot, which is not freed any more.
        let slot = unsafe { &*views.first };
        let at = slot.base.load(Ordering::Relaxed).addr();
        let mut is_in_anchor = false;
        each_of(process, Purpose::Anchor, |arena, base| {
            is_in_anchor |= at.wrapping_sub(base) < arena.size.load(Ordering::Relaxed);
        });
        if is_in_anchor {
            overwrite_view(slot, noise);
        }
    }
}

fn overwrite_view(slot: &Slot, noise: &mut Noise) {
    let base = slot.base.load(Ordering::Acquire);
    if !base.is_null() && slot.state.load(Ordering::SeqCst) != FREE {
        overwrite(base.addr(), slot.capacity.load(Ordering::Relaxed), noise);
    }
}

/// The key halves of shares, and keys that are used where they lie.
#[inline(never)]
fn wipe_keys(process: u32, noise: &mut Noise) {
    each_of(process, Purpose::Anchor, |arena, base| overwrite(slot(arena, base, 0), anchor::LEN, noise));
    each_of(process, Purpose::Key, |arena, base| {
        let (at, len) = (slot(arena, base, 0), arena.capacity.load(Ordering::Relaxed));
        let number = arena.key.load(Ordering::Acquire).checked_sub(1);
        // Handlers run with the rights that a process starts with: none.
        let _open = number.and_then(ProtectionKey::of_number).map(ProtectionKey::open_to_write);
        // The key and its check value are at the start, the check value second and to be wiped first.
        overwrite(at.wrapping_add(anchor::CHECK_AT), 32, noise);
        overwrite(at, len, noise);
    });
}

#[allow(unsafe_code)]
fn open(at: usize, len: usize) -> bool {
    // SAFETY: whole pages of ours; being writable takes nothing from anybody.
    std::ptr::NonNull::new(at as *mut u8)
        .is_some_and(|at| unsafe { os::protect(at, len, Access::ReadWrite) }.is_ok())
}

/// Overwrites what lies in pages of ours. They may be closed; or be closed at any moment by a thread that leaves a view; or
/// be lost, or unmapped by somebody: a fault here would end the process before all is wiped. So the kernel writes, to which
/// that is an error, if not all at once then page by page.
#[inline(never)]
fn overwrite(at: usize, len: usize, noise: &mut Noise) {
    if write(at, len, noise) {
        return;
    }
    let (page, end) = (os::page_size(), at.wrapping_add(len));
    let first = at & !page.wrapping_sub(1);
    // All of them with one call, if it can be.
    let whole = end.wrapping_sub(first).checked_next_multiple_of(page).unwrap_or(page);
    open(first, whole);
    let mut at = at;
    while at < end {
        let (first, next) =
            (at & !page.wrapping_sub(1), (at | page.wrapping_sub(1)).wrapping_add(1).min(end));
        let mut openings = 0;
        while !write(at, next.wrapping_sub(at), noise) && openings < OPENINGS && open(first, page) {
            openings = openings.wrapping_add(1);
        }
        at = next;
    }
}

/// Has it written, or is there nothing that could be done?
#[allow(unsafe_code)]
fn write(at: usize, len: usize, noise: &mut Noise) -> bool {
    // SAFETY: pages of ours, which are not given back any more. Others may be reading and writing there, which the kernel
    // does not mind.
    match unsafe { signals::random(at, len) } {
        Ok(()) => true,
        Err(errno::EFAULT) => false,
        Err(_) => {
            // There are no random bytes: then it is done by hand, with all its risks.
            open(at & !os::page_size().wrapping_sub(1), os::page_size());
            // SAFETY: as above.
            unsafe { noise.fill(at as *mut u8, len) };
            true
        }
    }
}

/// The shares in files. Each is found to be ours before it is changed.
#[inline(never)]
#[allow(unsafe_code)]
fn empty_files(process: u32) {
    static ZEROS: [u8; ShareFile::LEN] = [0; ShareFile::LEN];
    for file in registry::files::all() {
        let Some(number) = file.number.load(Ordering::Acquire).checked_sub(1) else { continue };
        let owner = file.owner.load(Ordering::Relaxed);
        if owner != process {
            continue;
        }
        let identity = (file.device.load(Ordering::Relaxed), file.inode.load(Ordering::Relaxed));
        let file = ShareFile::known(number as i32, identity, owner);
        // SAFETY: as many readable bytes as a share has.
        let _ = unsafe { file.write(ZEROS.as_ptr()) };
        let _ = file.truncate();
    }
}

/// Paged secrets.
#[inline(never)]
#[allow(unsafe_code)]
fn wipe_pages(process: u32, fatal: Option<Fatal>, noise: &mut Noise) {
    each_of(process, Purpose::Pages, |arena, base| {
        let len = arena.capacity.load(Ordering::Relaxed);
        // SAFETY: so it was entered, and since `dying::begin` no regions are freed.
        let regions = unsafe { entries(arena.regions.load(Ordering::Acquire).cast_const(), arena) };
        for (index, region) in (0..arena.count()).zip(regions) {
            let at = slot(arena, base, index);
            if region.state.load(Ordering::SeqCst) == arenas::UNUSED {
                continue;
            }
            overwrite(at, len, noise);
            if fatal.is_some_and(|fatal| !fatal.is_lost && fatal.address.wrapping_sub(at) < len) {
                // SAFETY: whole pages of ours; whoever reads there is not to go on.
                let _ = std::ptr::NonNull::new(at as *mut u8)
                    .map(|at| unsafe { os::protect(at, len, Access::None) });
            }
        }
    });
}

/// Waits a moment for threads that are decrypting.
#[inline(never)]
fn settle_windows(process: u32, me: u32) {
    let mut looks = 0_u32;
    each_slot(process, |slot| {
        while slot.state.load(Ordering::SeqCst) == WINDOW
            && slot.thread.load(Ordering::Relaxed) as u32 != me
            && looks < LOOKS
        {
            looks = looks.wrapping_add(1);
            signals::pause(50_000);
        }
    });
}

//! What those who may not wait for the ledger's lock have left to whoever takes it next.
//!
//! A drop tries the lock. Where others have it, what is to be given back waits here, without an allocation: in a stack
//! whose links lie in the dead pieces themselves. Their bytes have been overwritten before. Whoever comes pushes by one
//! exchange; who has the lock takes all at once, so nothing is taken out of the middle, and no piece comes back while
//! somebody looks at it.
//!
//! A header's piece may be looked at meanwhile by whoever walks through the roll: its count of references stays zero
//! (see [`crate::store::roll`]). The memory of a record may be lost, and be replaced by noise; then what it leads to is not
//! followed, and stays unused until the vault ends. Headers are never replaced: so the two do not share a stack.

use std::mem::{MaybeUninit, offset_of, size_of};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use super::{Item, Kind, Live, Retired};
use crate::store::header::{HEADER, Header};
use crate::store::slab;

/// Where in a piece the note begins: behind a header's count of references.
const NOTE: usize = (offset_of!(Header, references) + 4).next_multiple_of(8);

/// What lies in a piece that waits.
#[repr(C)]
struct Waiting<N> {
    next: *mut Self,
    _count: [MaybeUninit<u8>; NOTE - 8],
    note: N,
}

/// What a secret was for the account, and whether it ends with its header: its length, in a word with three marks. There is
/// room for little more than that.
#[derive(Clone, Copy)]
struct What(u64);

impl What {
    const PAGED: u64 = 1 << 63;
    const CHUNK: u64 = 1 << 62;
    const ENDS: u64 = 1 << 61;

    fn new(item: Item, ends: bool) -> Self {
        let mark = |is: bool, bit: u64| if is { bit } else { 0 };
        // No memory is so large that the marks would be in its length's way.
        Self(
            item.len as u64
                | mark(item.kind == Kind::Paged, Self::PAGED)
                | mark(item.chunk, Self::CHUNK)
                | mark(ends, Self::ENDS),
        )
    }

    fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }
}

impl OfSecret {
    pub(super) fn item(&self) -> Item {
        let kind = if self.what.has(What::PAGED) { Kind::Paged } else { Kind::Sealed };
        let len = self.what.0 & !(What::PAGED | What::CHUNK | What::ENDS);
        Item { kind, chunk: self.what.has(What::CHUNK), len: len as usize }
    }

    /// The secret ends with it.
    pub(super) fn ends(&self) -> bool {
        self.what.has(What::ENDS)
    }
}

/// Of a header's piece: what goes with it.
#[derive(Clone, Copy)]
pub(super) struct OfSecret {
    what: What,
    /// Zero: the body is not there any more.
    pub(super) size: usize,
    pub(super) body: Option<NonNull<u8>>,
    pub(super) epoch: u64,
}

/// Of a record's piece.
#[derive(Clone, Copy)]
pub(super) struct OfRecord {
    pub(super) size: usize,
    pub(super) epoch: u64,
    /// What waits in limbo of this secret, up to the one that was retired as the `last`, can be freed, too. Zero: of none.
    pub(super) secret: u64,
    pub(super) last: u64,
}

const _: () = assert!(size_of::<Waiting<OfSecret>>() <= HEADER);
/// Bytes of the smallest record.
const RECORD: usize = 80;
const _: () = assert!(size_of::<Waiting<OfRecord>>() <= RECORD);

/// A stack of dead pieces.
struct Stack<N>(AtomicPtr<Waiting<N>>);

impl<N: Copy> Stack<N> {
    const fn new() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()))
    }

    /// # Safety
    ///
    /// The piece has room, is aligned to eight, and nobody uses it but who looks at the count of a header.
    #[allow(unsafe_code)]
    unsafe fn push(&self, piece: NonNull<u8>, note: N) {
        let at = piece.cast::<Waiting<N>>().as_ptr();
        // SAFETY: as the caller vouches. Field by field: the bytes in between are not touched.
        unsafe {
            (&raw mut (*at).note).write(note);
            let mut newest = self.0.load(Ordering::Relaxed);
            loop {
                (&raw mut (*at).next).write(newest);
                match self.0.compare_exchange_weak(newest, at, Ordering::Release, Ordering::Relaxed) {
                    Ok(_) => return,
                    Err(seen) => newest = seen,
                }
            }
        }
    }

    /// Takes all away, and calls `each` with every one, that may do with the piece as it likes. `is_sound` says whether
    /// what was read from a piece can be believed.
    #[allow(unsafe_code)]
    fn take_all(&self, is_sound: impl Fn(NonNull<u8>) -> bool, mut each: impl FnMut(NonNull<u8>, N)) {
        let mut at = self.0.swap(std::ptr::null_mut(), Ordering::Acquire);
        while let Some(piece) = NonNull::new(at) {
            // SAFETY: pushed, and taken by nobody else; any bytes will do as long as they are not looked at.
            let (next, note) = unsafe {
                let next = (&raw const (*at).next).cast::<MaybeUninit<*mut Waiting<N>>>().read_volatile();
                (next, (&raw const (*at).note).cast::<MaybeUninit<N>>().read_volatile())
            };
            if !is_sound(piece.cast()) {
                return;
            }
            // SAFETY: written by `push`.
            let note = unsafe {
                at = next.assume_init();
                note.assume_init()
            };
            each(piece.cast(), note);
        }
    }
}

/// A count of secrets, in its parts.
struct Ended {
    secrets: AtomicU64,
    paged: AtomicU64,
    chunks: AtomicU64,
    bytes: AtomicU64,
}

pub(super) struct Left {
    /// There is something.
    any: AtomicBool,
    secrets: Stack<OfSecret>,
    records: Stack<OfRecord>,
    /// Secrets that have ended, and are counted still.
    ended: Ended,
    /// Places in limbo that are not needed any more.
    kept: AtomicUsize,
}

/// What [`Left::settle`] finds.
pub(super) trait Settle {
    fn secret(&mut self, header: NonNull<u8>, of: OfSecret);
    fn record(&mut self, record: NonNull<u8>, of: OfRecord);
    fn ended(&mut self, live: Live);
    fn kept(&mut self, count: usize);
}

impl Left {
    pub(super) const fn new() -> Self {
        Self {
            any: AtomicBool::new(false),
            secrets: Stack::new(),
            records: Stack::new(),
            ended: Ended {
                secrets: AtomicU64::new(0),
                paged: AtomicU64::new(0),
                chunks: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
            },
            kept: AtomicUsize::new(0),
        }
    }

    /// Is there something? To be asked by whoever has the lock.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    fn tell(&self) {
        self.any.store(true, Ordering::Release);
    }

    /// A header's piece, and the body if it is there still.
    ///
    /// # Safety
    ///
    /// Nobody uses them any more; the body has been overwritten; the count of references is zero.
    #[allow(unsafe_code)]
    pub(super) unsafe fn secret(&self, header: NonNull<u8>, item: Item, body: Option<Retired>, ends: bool) {
        let (size, epoch) = body.map_or((0, 0), |body| (body.size, body.epoch));
        let note = OfSecret { what: What::new(item, ends), size, body: body.map(|body| body.at), epoch };
        // SAFETY: as the caller vouches; a header's piece has room.
        unsafe { self.secrets.push(header, note) };
        self.tell();
    }

    /// A record; `swept`: what waits in limbo, of which secret and up to which one, that can be freed.
    ///
    /// # Safety
    ///
    /// It is a record's piece, overwritten, and nobody uses it any more.
    #[allow(unsafe_code)]
    pub(super) unsafe fn record(&self, record: Retired, sweep: Option<(u64, u64)>) {
        let (secret, last) = sweep.unwrap_or_default();
        let note = OfRecord { size: record.size, epoch: record.epoch, secret, last };
        debug_assert!(record.size >= size_of::<Waiting<OfRecord>>());
        // SAFETY: as the caller vouches; a record has room.
        unsafe { self.records.push(record.at, note) };
        self.tell();
    }

    pub(super) fn ended(&self, live: Live) {
        self.ended.secrets.fetch_add(live.secrets, Ordering::Relaxed);
        self.ended.paged.fetch_add(live.paged, Ordering::Relaxed);
        self.ended.chunks.fetch_add(live.chunks, Ordering::Relaxed);
        self.ended.bytes.fetch_add(live.bytes, Ordering::Relaxed);
        self.tell();
    }

    pub(super) fn kept(&self, count: usize) {
        self.kept.fetch_add(count, Ordering::Relaxed);
        self.tell();
    }

    /// Takes all that was left. Under the ledger's lock.
    #[cold]
    pub(super) fn settle(&self, ledger: &mut impl Settle) {
        // First: whoever comes later says so anew.
        self.any.swap(false, Ordering::Acquire);
        // Of one that is just being counted some parts may come now, and the others with the next.
        let take = |part: &AtomicU64| part.swap(0, Ordering::Relaxed);
        let Ended { secrets, paged, chunks, bytes } = &self.ended;
        let (secrets, paged, chunks, bytes) = (take(secrets), take(paged), take(chunks), take(bytes));
        ledger.ended(Live { secrets, paged, chunks, bytes });
        ledger.kept(self.kept.swap(0, Ordering::Relaxed));
        self.secrets.take_all(|_| true, |header, note| ledger.secret(header, note));
        let is_sound = |record| !slab::is_lost(record, size_of::<Waiting<OfRecord>>());
        self.records.take_all(is_sound, |record, note| ledger.record(record, note));
    }
}

#[cfg(test)]
mod tests {
    #![allow(unsafe_code, clippy::unwrap_used)]

    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn what_a_secret_was_is_kept_in_a_word() {
        for (kind, chunk) in [(Kind::Sealed, false), (Kind::Sealed, true), (Kind::Paged, false)] {
            for (len, ends) in [(1, true), (usize::MAX >> 3, false), (usize::MAX >> 3, true)] {
                let item = Item { kind, chunk, len };
                let note = OfSecret { what: What::new(item, ends), size: 0, body: None, epoch: 0 };
                assert_eq!((note.item(), note.ends()), (item, ends));
            }
        }
    }

    #[test]
    fn nothing_is_lost_and_nothing_comes_twice() {
        const THREADS: usize = 3;
        const PIECES: usize = if cfg!(miri) { 50 } else { 20_000 };
        let stack = Stack::<OfRecord>::new();
        let done = AtomicUsize::new(0);
        let mut seen = vec![0u32; THREADS * PIECES];
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (stack, done) = (&stack, &done);
                scope.spawn(move || {
                    for number in thread * PIECES..(thread + 1) * PIECES {
                        let piece = slab::take_large(RECORD).unwrap();
                        let note = OfRecord { size: RECORD, epoch: number as u64, secret: 7, last: 8 };
                        // SAFETY: a piece of ours, large enough.
                        unsafe { stack.push(piece, note) };
                    }
                    done.fetch_add(1, Ordering::Release);
                });
            }
            loop {
                let last = done.load(Ordering::Acquire) == THREADS;
                stack.take_all(
                    |_| true,
                    |piece, note| {
                        assert_eq!((note.size, note.secret, note.last), (RECORD, 7, 8));
                        seen[usize::try_from(note.epoch).unwrap()] += 1;
                        // SAFETY: ours again, and nobody else's.
                        unsafe { slab::give_large(piece, RECORD) };
                    },
                );
                if last {
                    break;
                }
                std::thread::yield_now();
            }
        });
        assert!(seen.iter().all(|&count| count == 1));
    }

    #[test]
    fn the_count_of_references_is_not_touched() {
        let stack = Stack::<OfSecret>::new();
        let piece = slab::take_large(HEADER).unwrap();
        // SAFETY: of ours, and its count is an atomic number.
        let count = unsafe {
            piece.as_ptr().write_bytes(0xA5, HEADER);
            &*piece.as_ptr().add(offset_of!(Header, references)).cast::<AtomicU32>()
        };
        let item = Item { kind: Kind::Paged, chunk: false, len: 5 };
        let note = OfSecret { what: What::new(item, true), size: 3, body: None, epoch: 9 };
        // SAFETY: as above.
        unsafe { stack.push(piece, note) };
        assert_eq!(count.load(Ordering::Relaxed), 0xA5A5_A5A5);
        let mut taken = 0;
        stack.take_all(
            |_| true,
            |_, note| taken += usize::from(note.ends() && note.epoch == 9 && note.item() == item),
        );
        assert_eq!(taken, 1);
        // SAFETY: as above.
        unsafe { slab::give_large(piece, HEADER) };
    }

    #[test]
    fn what_lies_behind_a_lost_record_is_not_followed() {
        let stack = Stack::<OfRecord>::new();
        let pieces = [(); 3].map(|()| slab::take_large(RECORD).unwrap());
        let note = OfRecord { size: RECORD, epoch: 1, secret: 0, last: 0 };
        // SAFETY: of ours.
        pieces.iter().for_each(|&piece| unsafe { stack.push(piece, note) });
        let mut taken = Vec::new();
        stack.take_all(|piece| piece != pieces[1], |piece, _| taken.push(piece));
        assert_eq!(taken, [pieces[2]]);
        // SAFETY: of ours.
        pieces.iter().for_each(|&piece| unsafe { slab::give_large(piece, RECORD) });
    }
}

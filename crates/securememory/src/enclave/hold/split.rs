//! The hold `Split`: the key is the exclusive or of two shares, either of which alone is noise.
//!
//! Share A lies in in-memory files that are never mapped: a stray or malicious read of memory cannot
//! reach it. Share B lies in the vault's locked page. There are several replicas, each a separate file with
//! a random A of its own, because the kernel counts references on a file and on its page: threads that read one
//! file slow each other down, threads that read different ones do not.
//!
//! A share is 64 bytes: half of the key, then half of a check value. Whoever destroys shares destroys the check
//! half first; whoever fetches reads the key half first. So a key whose check is right was read before the
//! destruction began, and a file that came under our descriptor's number by a host's mistake is noticed.
//!
//! A replica whose file was lost is made anew by the fetch that met the loss, once it has the key from another:
//! a new file, a new A, and a B in a place that was never used before (see [`super::replica`]). Of the old
//! share B the key half is wiped and the check half stays: it tells those who fetched by it, and are still
//! sealing, that the key was not wiped meanwhile.
//!
//! A replica of which only the key half was overwritten passes that check. Whoever finds by the key's confirmation that it
//! makes a wrong key marks its entry, and then it is lost like others.

mod heir;

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

use super::broken;
use super::replica::{Entry, Replica};
use super::{CHECK, CHECK_AT, REPLICA_AT};
use crate::enclave::cipher::{self, Confirmation, KEY, UNFIT};
use crate::enclave::hold::anchor::{Anchor, MAX_SHARES, SHARE, Staging};
use crate::error::Error;
use crate::events::{self, Note};
use crate::os::{self, Call, CallError, CallResult, ShareFile, errno};
use crate::policy::Cipher;
use crate::region::{bytes, scrub};
use crate::registry::dying::why_gone;
use crate::registry::files;
use crate::shutdown::fork;

/// Threads beyond these share files.
const REPLICAS: usize = 8;

const _: () = assert!(REPLICAS <= MAX_SHARES, "every replica has a place for its share B");

/// How long the making of a key waits for the staging area.
const PATIENCE: Duration = Duration::from_secs(1);

/// After a renewal was refused, so many fetches that meet a lost replica do without.
const PAUSE: u32 = 1000;

/// Bytes of stack that making a replica takes at most, apart from the confirmation of the key; measured by the test
/// `renewals_stay_above_the_depth_that_is_scrubbed_after_them`.
const RENEWAL_STACK: usize = if cfg!(debug_assertions) { 8192 } else { 2048 };

/// What is read and written at once. The cipher loads the key in parts of 16 bytes, which is slow when they
/// were stored in smaller ones.
#[cfg(target_arch = "x86_64")]
type Part = std::arch::x86_64::__m128i;
#[cfg(not(target_arch = "x86_64"))]
type Part = u64;

#[cfg(target_arch = "x86_64")]
#[inline]
#[allow(unsafe_code)]
fn xor(a: Part, b: Part) -> Part {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { std::arch::x86_64::_mm_xor_si128(a, b) }
}

#[cfg(not(target_arch = "x86_64"))]
fn xor(a: Part, b: Part) -> Part {
    a ^ b
}

pub(crate) struct Split {
    replicas: [Replica; REPLICAS],
    /// How many of them were made. In a child that has inherited the key there may be fewer.
    count: AtomicUsize,
    /// A.check ^ B.check of every replica. Not secret.
    check: [u64; CHECK / 8],
    confirmation: Confirmation,
    /// The process that made the files.
    owner: AtomicU32,
    /// Made before a fork for the child, see [`heir`].
    heir: Replica,
    /// The first of the places for this key's shares B.
    first_place: usize,
    /// Places from here on were never used for this key. Changed by the renewer only, as the next one.
    next_place: AtomicUsize,
    /// Fetches that will do without a renewal.
    pause: AtomicU32,
    /// Renewals so far.
    renewed: AtomicUsize,
}

impl Split {
    /// Makes a fresh key and its shares; those in memory in the places of a cell, none of which is in use.
    pub(crate) fn make(cipher: Cipher, anchor: &Anchor, cell: usize) -> Result<Self, Error> {
        let started = Instant::now();
        let staging = loop {
            if let Some(staging) = anchor.take_staging() {
                break staging;
            }
            // Another key's replica is being made anew, which takes less than a millisecond.
            if started.elapsed() > PATIENCE {
                return Err(Error::LockTimeout(PATIENCE));
            }
            std::thread::sleep(Duration::from_micros(50));
        };
        let outcome = Self::make_files(cipher, anchor, &staging, cell * MAX_SHARES);
        drop(staging);
        scrub::after_window(scrub::depth(RENEWAL_STACK));
        outcome
    }

    #[inline(never)]
    #[allow(unsafe_code)]
    fn make_files(
        cipher: Cipher,
        anchor: &Anchor,
        staging: &Staging,
        first_place: usize,
    ) -> Result<Self, Error> {
        let wanted = std::thread::available_parallelism().map_or(1, usize::from).clamp(2, REPLICAS);
        let whole = staging.at();
        // SAFETY: the staging area is ours while the vault is built, and larger than two shares. The check
        // value is not secret.
        let (check, confirmation) = unsafe {
            os::random(whole, KEY + CHECK)?;
            let confirmation = Confirmation::of(cipher, &*whole.cast::<[u8; KEY]>());
            (whole.add(CHECK_AT).cast::<[u64; CHECK / 8]>().read_unaligned(), confirmation)
        };
        let mut split = Self {
            replicas: std::array::from_fn(|_| Replica::default()),
            count: AtomicUsize::new(0),
            check,
            confirmation: confirmation.map_err(|_| UNFIT)?,
            owner: AtomicU32::new(os::process_id()),
            heir: Replica::default(),
            first_place,
            next_place: AtomicUsize::new(first_place),
            pause: AtomicU32::new(0),
            renewed: AtomicUsize::new(0),
        };
        for (made, place) in (0..wanted).zip(first_place..) {
            // SAFETY: as above; nobody knows the places of the shares yet.
            let file = unsafe {
                Self::make_file(staging, None).inspect(|_| split.write_b(anchor, staging, whole, place))
            };
            match file {
                Ok(file) => split.replicas[made].publish(&file, place),
                // One file is enough to work with; more are for speed.
                Err(_) if made > 0 => break,
                Err(error) => return Err(error.into()),
            }
            *split.count.get_mut() = made + 1;
            *split.next_place.get_mut() = place + 1;
        }
        Ok(split)
    }

    /// A new file with a fresh share A, which is in the staging area as well.
    #[allow(unsafe_code)]
    fn make_file(staging: &Staging, lost: Option<Entry>) -> CallResult<ShareFile> {
        let file = ShareFile::create_but(lost.map(Entry::number))?;
        let a = Self::staged_a(staging);
        // SAFETY: inside the staging area, which is the caller's.
        let written = unsafe { os::random(a, SHARE).and_then(|()| file.write(a)) }.and_then(|()| {
            let number = file.raw_fd().unsigned_abs();
            // The table of what a dying process empties cannot grow for want of memory only.
            files::enter(number, file.identity(), os::process_id(), staging.vault().number())
                .map_err(|_| CallError::new(Call::Mmap, errno::ENOMEM))
        });
        match written {
            Ok(()) => Ok(file),
            Err(cause) => {
                let _ = file.close();
                Err(cause)
            }
        }
    }

    /// Empties a file and closes it, if the number still stands for it: it may have been cut or overwritten, but is ours.
    /// The page of a file that is only closed is freed, but not at once overwritten.
    fn discard(file: ShareFile) {
        let _ = file.truncate();
        Self::close(file);
    }

    fn close(file: ShareFile) {
        files::withdraw(file.raw_fd().unsigned_abs(), file.identity());
        let _ = file.close();
    }

    #[allow(unsafe_code)]
    fn staged_a(staging: &Staging) -> *mut u8 {
        // SAFETY: the staging area has room for a key with its check value, and a share.
        unsafe { staging.at().add(SHARE) }
    }

    /// Writes share B to a place: the staged A, exclusive or `key`. A leaf, so that no part of the key gets
    /// further down the stack.
    ///
    /// # Safety
    ///
    /// `key` is readable for [`KEY`] bytes, aligned as a page or a scratch head; the place is not in use.
    #[inline(never)]
    #[allow(unsafe_code)]
    unsafe fn write_b(&self, anchor: &Anchor, staging: &Staging, key: *const u8, place: usize) {
        let (a, b) = (Self::staged_a(staging), anchor.share(place));
        // SAFETY: all are readable or writable for as much, and aligned to 16.
        unsafe {
            for part in 0..KEY / size_of::<Part>() {
                let key = key.cast::<Part>().add(part).read_volatile();
                b.cast::<Part>().add(part).write_volatile(xor(a.cast::<Part>().add(part).read(), key));
            }
            for (word, check) in self.check.iter().enumerate() {
                let a = a.add(CHECK_AT).cast::<u64>().add(word).read();
                b.add(CHECK_AT).cast::<u64>().add(word).write_volatile(a ^ check);
            }
        }
    }

    /// See [`super::KeyHold::fetch`].
    ///
    /// # Safety
    ///
    /// As there.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) unsafe fn fetch(&self, anchor: &Anchor, thread: usize, head: *mut u8) -> Result<(), Error> {
        let first = thread % self.count().max(1);
        // SAFETY: as the caller vouches.
        if unsafe { self.fetch_replica(anchor, first, head) } {
            return Ok(());
        }
        // SAFETY: as the caller vouches.
        unsafe { self.fetch_another(anchor, first, head) }
    }

    #[inline]
    #[allow(unsafe_code)]
    unsafe fn fetch_replica(&self, anchor: &Anchor, index: usize, head: *mut u8) -> bool {
        let Some((replica, entry)) =
            self.replicas.get(index).and_then(|replica| Some((replica, replica.entry()?)))
        else {
            return false;
        };
        // SAFETY: as the caller vouches.
        unsafe {
            if !Self::combine(anchor, entry.number(), entry.place(), head) {
                return false;
            }
            // The key half was read before the check half, and before the entry is looked at again, see above.
            fence(Ordering::Acquire);
            head.add(REPLICA_AT).cast::<u64>().write(entry.place() as u64);
            replica.is_still(entry)
                && (self.check_of(anchor, head, entry.place()) || broken::skips(broken::FETCH))
        }
    }

    /// Puts the key together from both shares of a replica. False: the file could not be read.
    #[inline(always)]
    #[allow(unsafe_code)]
    unsafe fn combine(anchor: &Anchor, number: i32, place: usize, head: *mut u8) -> bool {
        let b = anchor.share(place);
        // SAFETY: head has room for a share and more; all addresses are aligned to 16.
        unsafe {
            if ShareFile::read(number, head).is_err() {
                return false;
            }
            for part in 0..KEY / size_of::<Part>() {
                let at = head.cast::<Part>().add(part);
                at.write(xor(at.read(), b.cast::<Part>().add(part).read_volatile()));
            }
        }
        true
    }

    #[inline]
    #[allow(unsafe_code)]
    unsafe fn check_of(&self, anchor: &Anchor, head: *const u8, place: usize) -> bool {
        // SAFETY: both are 32 readable bytes, aligned to 8.
        unsafe {
            let a = head.add(CHECK_AT).cast::<u64>();
            let b = anchor.share(place).add(CHECK_AT).cast::<u64>();
            let mut difference = 0;
            for (word, value) in self.check.iter().enumerate() {
                difference |= a.add(word).read_volatile() ^ b.add(word).read_volatile() ^ value;
            }
            difference == 0
        }
    }

    #[cold]
    #[inline(never)]
    #[allow(unsafe_code)]
    unsafe fn fetch_another(&self, anchor: &Anchor, failed: usize, head: *mut u8) -> Result<(), Error> {
        // A replica may have been renewed just after we found it lost: then once more from the start. At most as
        // often as there are places.
        let (mut from, mut renewed) = (1, 0);
        loop {
            for step in from..self.count() {
                // SAFETY: as the caller vouches.
                if unsafe { self.fetch_replica(anchor, (failed + step) % self.count().max(1), head) } {
                    // SAFETY: the key has just been put there.
                    if unsafe { self.renew_lost(anchor, head) } {
                        // Deeper than the window's own scrub reaches.
                        scrub::after_window(scrub::depth(self.renewal_stack()));
                    }
                    return Ok(());
                }
            }
            let now = self.renewed.load(Ordering::Acquire);
            if now == renewed {
                return Err(if anchor.is_alive() { Error::KeyLost } else { why_gone() });
            }
            (from, renewed) = (0, now);
        }
    }

    /// See [`super::KeyHold::is_intact`].
    ///
    /// # Safety
    ///
    /// As there.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) unsafe fn is_intact(&self, anchor: &Anchor, head: *const u8) -> bool {
        // SAFETY: as the caller vouches; a number that was overwritten is out of bounds or fails the check.
        unsafe {
            let place = head.add(REPLICA_AT).cast::<u64>().read_volatile() as usize;
            self.places().contains(&place) && self.check_of(anchor, head, place)
        }
    }

    /// See [`super::KeyHold::distrust`].
    ///
    /// # Safety
    ///
    /// The head holds what a fetch put there, and belongs to the caller.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn distrust(&self, anchor: &Anchor, head: *const u8) -> bool {
        // A child that shares our memory may have other files.
        if !self.is_owner(anchor) {
            return false;
        }
        // SAFETY: as the caller vouches.
        let place = unsafe { head.add(REPLICA_AT).cast::<u64>().read_volatile() };
        for replica in self.made() {
            if let Some(entry) = replica.entry().filter(|entry| entry.place() as u64 == place) {
                replica.distrust(entry);
            }
        }
        // Where none was found, somebody else has seen to it.
        true
    }

    #[inline]
    pub(crate) fn confirmation(&self) -> &Confirmation {
        &self.confirmation
    }

    #[inline]
    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The replicas that were made.
    fn made(&self) -> &[Replica] {
        self.replicas.get(..self.count()).unwrap_or_default()
    }

    fn owner(&self) -> u32 {
        self.owner.load(Ordering::Relaxed)
    }

    /// Where in the anchor this key's shares B lie.
    #[inline]
    fn places(&self) -> Range<usize> {
        self.first_place..self.first_place + MAX_SHARES
    }

    /// Bytes of stack below the caller of [`Self::renew_lost`] that it may use.
    pub(crate) fn renewal_stack(&self) -> usize {
        RENEWAL_STACK.max(cipher::stack(self.confirmation.cipher()))
    }

    /// Makes lost replicas anew, unless another thread is at that or at a new key. Says whether it tried. What is refused here
    /// is tried again much later: the key has been fetched, and the loss costs one failed call in each fetch.
    ///
    /// # Safety
    ///
    /// The head holds what a fetch put there, and belongs to the caller.
    #[inline(never)]
    #[allow(unsafe_code)]
    pub(crate) unsafe fn renew_lost(&self, anchor: &Anchor, head: *const u8) -> bool {
        // A fork waits for our window, and a child must not find us at it; it would keep the flag besides.
        if self.next_place.load(Ordering::Relaxed) >= self.places().end || fork::pending() {
            return false;
        }
        let Some(staging) = anchor.take_staging() else { return false };
        let pause = self.pause.load(Ordering::Relaxed);
        if pause > 0 {
            self.pause.store(pause - 1, Ordering::Relaxed);
        } else if self.is_owner(anchor) {
            let mut confirmed = false;
            for replica in self.made() {
                let Some(entry) = replica.last().filter(|&entry| !self.is_living(anchor, entry)) else {
                    continue;
                };
                // A wrong key would spread to all replicas.
                // SAFETY: as the caller vouches; the head begins with the key.
                confirmed = confirmed || self.confirmation.confirms(unsafe { &*head.cast::<[u8; KEY]>() });
                if !confirmed {
                    // SAFETY: as the caller vouches.
                    unsafe { self.distrust(anchor, head) };
                    break;
                }
                // SAFETY: we have the staging area; the rest as the caller vouches.
                if !unsafe { self.renew(anchor, &staging, replica, entry, head) } {
                    self.pause.store(PAUSE, Ordering::Relaxed);
                    break;
                }
            }
        }
        pause == 0
    }

    /// # Safety
    ///
    /// As for [`Self::renew_lost`].
    #[allow(unsafe_code)]
    unsafe fn renew(
        &self,
        anchor: &Anchor,
        staging: &Staging,
        replica: &Replica,
        lost: Entry,
        head: *const u8,
    ) -> bool {
        let place = self.next_place.load(Ordering::Relaxed);
        if place >= self.places().end {
            return false;
        }
        let Ok(file) = Self::make_file(staging, Some(lost)) else { return false };
        // Whatever comes, this place is used.
        self.next_place.store(place + 1, Ordering::Relaxed);
        // SAFETY: as the caller vouches; a place that nobody reads or has read, since no entry names it.
        unsafe { self.write_b(anchor, staging, head, place) };
        // Against a wiper, which wipes all check halves, then all key halves, this place's included. Between the two it
        // has a fence like this one. So if we see no check half wiped, it will come past what we have written;
        // otherwise we take it back ourselves.
        fence(Ordering::SeqCst);
        // SAFETY: as the caller vouches.
        let unharmed = self.is_owner(anchor) && unsafe { self.is_intact(anchor, head) };
        if !unharmed {
            Self::wipe_share(anchor, place);
            Self::discard(file);
            return false;
        }
        let old = replica.file(lost, self.owner());
        replica.publish(&file, place);
        self.renewed.fetch_add(1, Ordering::Release);
        events::note(Note::Replica, 0, 0);
        // Who finds the key half wiped finds the entry changed.
        fence(Ordering::Release);
        // SAFETY: our own page; readers of this half look at the entry afterwards.
        unsafe { bytes::wipe(anchor.share(lost.place()), KEY) };
        Self::discard(old);
        true
    }

    /// Are we in the process that made the files? In its signal handlers too; a child that shares our memory is
    /// told by its number.
    fn is_owner(&self, anchor: &Anchor) -> bool {
        anchor.is_alive() && os::process_id() == self.owner()
    }

    /// Does the file still hold its share, as far as its check half tells, and nobody has found it wrong?
    #[allow(unsafe_code)]
    fn is_living(&self, anchor: &Anchor, entry: Entry) -> bool {
        if !entry.is_trusted() {
            return false;
        }
        let Ok(a) = ShareFile::read_check(entry.number()) else { return false };
        let b = anchor.share(entry.place());
        a.iter().zip(self.check).enumerate().all(|(word, (a, value))| {
            // SAFETY: 32 readable bytes of our page, aligned to 8.
            let b = unsafe { b.add(CHECK_AT).cast::<u64>().add(word).read_volatile() };
            a ^ b == value
        })
    }

    /// Replicas that can be read now. One `pread` for each.
    pub(crate) fn replicas(&self, anchor: &Anchor) -> usize {
        if !anchor.is_alive() {
            return 0;
        }
        let entries = self.made().iter().filter_map(Replica::entry);
        entries.filter(|&entry| self.is_living(anchor, entry)).count()
    }

    /// Cuts the file of one replica, as a stray hand would.
    #[cfg(all(test, target_arch = "x86_64", any(target_os = "linux", target_os = "android")))]
    pub(crate) fn lose_one(&self) -> bool {
        let [replica, ..] = &self.replicas;
        replica.entry().is_some_and(|entry| replica.file(entry, self.owner()).truncate().is_ok())
    }

    /// How many lost replicas were made anew so far.
    pub(crate) fn renewed(&self) -> usize {
        self.renewed.load(Ordering::Relaxed)
    }

    #[allow(unsafe_code)]
    fn wipe_share(anchor: &Anchor, place: usize) {
        let b = anchor.share(place);
        // SAFETY: our own page. Check halves before key halves, see above.
        unsafe {
            bytes::wipe(b.add(CHECK_AT), CHECK);
            fence(Ordering::SeqCst);
            bytes::wipe(b, KEY);
        }
    }

    /// Destroys the key in memory: the check halves of all shares B, then what `between` destroys, then the key
    /// halves. No system call but getpid(2); nothing in a child, also one that shares our memory.
    #[allow(unsafe_code)]
    pub(crate) fn wipe(&self, anchor: &Anchor, between: impl FnOnce()) {
        if !self.is_owner(anchor) {
            return;
        }
        // All places, also those of replicas that are just being renewed, see `renew`.
        let wipe_checks = || {
            for place in self.places() {
                // SAFETY: our own page; readers notice.
                unsafe { bytes::wipe(anchor.share(place).add(CHECK_AT), CHECK) };
            }
            fence(Ordering::SeqCst);
        };
        wipe_checks();
        between();
        // A renewer that sees no check half wiped has written its own before its fence, and so before ours; but maybe beside
        // the first pass, after that had been at its place. Then its check half would stand over a wiped key half.
        wipe_checks();
        for place in self.places() {
            // SAFETY: as above.
            unsafe { bytes::wipe(anchor.share(place), KEY) };
        }
    }

    /// Destroys share B first, which needs no system call, then what is in the files.
    pub(crate) fn erase(&self, anchor: &Anchor) {
        if !self.is_owner(anchor) {
            return;
        }
        self.wipe(anchor, || ());
        for replica in &self.replicas {
            if let Some(entry) = replica.last() {
                let _ = replica.file(entry, self.owner()).truncate();
            }
        }
    }

    /// Closes the files, which have been emptied.
    pub(crate) fn release(&mut self, anchor: &Anchor) {
        if !self.is_owner(anchor) {
            return;
        }
        for replica in &self.replicas {
            let Some(entry) = replica.last() else { continue };
            let file = replica.file(entry, self.owner());
            replica.clear();
            Self::close(file);
        }
    }
}

//! A vault's keys turn over: a new key seals, what the old ones have sealed is moved to it, and they are destroyed.
//!
//! A record is moved by sealing its plaintext anew and exchanging the pointer, if that still is to the record that was
//! read ([`Sealed::publish_moved`]): never over a commit. Readers find the one or the other. Records are moved in batches,
//! with one fetch of both keys, by whoever finishes a refresh; and by creations and commits, a few by each. Reads move
//! nothing.
//!
//! What cannot be decrypted any more is moved as it is: it stays unreadable ([`Error::Tampered`]), and does not keep the
//! old key alive.
//!
//! A thread that moves signs in for all secrets at once (slots without an id): while its window is open nothing is freed
//! that it may have found, whatever secret it belongs to.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::enclave::cipher::{Forged, NONCE};
use crate::enclave::epoch::{Changing, LIVE};
use crate::enclave::{Binding, InHand};
use crate::error::{Error, Outstanding};
use crate::gate::Deadline;
use crate::os;
use crate::policy::Level;
use crate::region::lease::Lease;
use crate::registry::{self, ANY};
use crate::store::ledger::{Retired, Taking};
use crate::store::machinery::Machinery;
use crate::store::object::{Body, Object};
use crate::store::sealed::{Draft, MOMENT, Record, Sealed, sealed_in};

/// Records that are moved with one fetch of the keys.
const BATCH: usize = 32;
/// No more secrets are in a batch from here on: readers and forks wait for its window.
const BATCH_BYTES: usize = 256 * 1024;
/// Records that a creation or a commit moves.
const SMALL_BATCH: usize = 8;
/// Places of the roll that are looked at under the ledger's lock at most.
const LOOKS: usize = 512;
/// How long who finishes a refresh leaves others alone before it looks again.
const NAP: Duration = Duration::from_micros(100);
/// After a refresh that was due by itself was refused, so many seals are made before it is tried again.
const PAUSE: u32 = 1000;

/// What [`Vault::finish_refresh`](crate::Vault::finish_refresh) has done.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// Secrets and chunks of streams that the call has sealed under the new key. Others may have been moved by creations
    /// and commits.
    pub moved: u64,
    /// How many of them were damaged: they could not be opened, and still cannot.
    pub damaged: u64,
}

/// Where the change of keys is.
pub(crate) struct Turnover {
    /// There may be records of older keys.
    unfinished: AtomicBool,
    /// A thread is moving records. Nobody waits for it.
    moving: AtomicBool,
    /// When the present key was made, as [`os::coarse_now`] tells.
    since: AtomicU64,
    /// How often all keys were purged.
    purges: AtomicU64,
    /// Seals that will be made without trying to replace a key that is due.
    pause: AtomicU32,
}

impl Turnover {
    pub(super) fn new() -> Self {
        Self {
            unfinished: AtomicBool::new(false),
            moving: AtomicBool::new(false),
            since: AtomicU64::new(os::coarse_now()),
            purges: AtomicU64::new(0),
            pause: AtomicU32::new(0),
        }
    }

    /// The right to move, if nobody has it.
    fn begin(&self) -> Option<Mover<'_>> {
        (!self.moving.swap(true, Ordering::Acquire)).then_some(Mover(self))
    }
}

struct Mover<'a>(&'a Turnover);

impl Drop for Mover<'_> {
    fn drop(&mut self) {
        self.0.moving.store(false, Ordering::Release);
    }
}

/// A record that is being moved.
struct Item<'a> {
    object: &'a Object,
    from: NonNull<Record>,
    to: Retired,
    /// Has it been sealed?
    made: bool,
    damaged: bool,
}

impl Machinery {
    fn check_alive(&self) -> Result<(), Error> {
        if self.enclave.is_alive() { Ok(()) } else { Err(Error::Forked) }
    }

    /// Makes a new key, which seals from now on.
    pub(crate) fn refresh(&self) -> Result<(), Error> {
        self.check_alive()?;
        let has_room = self.enclave.epochs().freeze()?.has_room();
        if !has_room {
            self.finish_refresh(self.settings.policy.wait)?;
        }
        self.install_key()?;
        // Those that seal nothing any more. The new key is in use, whatever comes of it.
        let _ = self.retire_keys();
        Ok(())
    }

    fn install_key(&self) -> Result<(), Error> {
        self.install_next(&mut self.enclave.epochs().freeze()?)
    }

    fn install_next(&self, keys: &mut Changing<'_>) -> Result<(), Error> {
        if !keys.has_room() {
            return Err(Error::Busy(Outstanding::default()));
        }
        let hold = self.enclave.make_key(keys.newest())?;
        match keys.install(hold) {
            Ok(epoch) => {
                self.turnover.since.store(os::coarse_now(), Ordering::Relaxed);
                self.turnover.pause.store(0, Ordering::Relaxed);
                self.turnover.unfinished.store(true, Ordering::Release);
                self.ledger.open_epoch(epoch)
            }
            Err(mut hold) => {
                hold.destroy(self.enclave.anchor());
                Err(Error::Busy(Outstanding::default()))
            }
        }
    }

    /// Destroys older keys that have no records any more. Says whether the present one is the only one left.
    #[allow(unsafe_code)]
    fn retire_keys(&self) -> Result<bool, Error> {
        let mut keys = self.enclave.epochs().freeze()?;
        let (sealing, _) = self.ledger.current()?;
        let present = keys.newest().min(sealing);
        let mut last = true;
        for epoch in keys.newest().saturating_sub(LIVE as u64)..present {
            if !self.enclave.epochs().has(epoch) {
                continue;
            }
            if self.ledger.records_of(epoch)? == 0 {
                keys.withdraw(epoch);
            } else {
                last = false;
            }
        }
        // Nobody should be there, see `enclave::epoch`.
        if !self.scratch.quiesce(ANY, Deadline::after(MOMENT)) {
            return Ok(false);
        }
        // SAFETY: all windows that were open when they were withdrawn have been seen to be closed.
        unsafe { keys.destroy_withdrawn(self.enclave.anchor()) };
        if last {
            self.turnover.unfinished.store(false, Ordering::Release);
        }
        Ok(last)
    }

    /// Moves everything to the present key and destroys the others.
    pub(crate) fn finish_refresh(&self, wait: Duration) -> Result<Refreshed, Error> {
        self.check_alive()?;
        let deadline = Deadline::after(wait);
        let mut done = Refreshed::default();
        loop {
            if let Some(_mover) = self.turnover.begin() {
                self.ledger.walk_from_start()?;
                while self.move_batch(BATCH, &mut done)? && deadline.left().is_some() {}
                self.sweep_limbo(Deadline::after(MOMENT));
            }
            if self.retire_keys()? {
                return Ok(done);
            }
            if deadline.left().is_none() {
                return Err(Error::Timeout { waited: deadline.waited(), holders: Outstanding::default() });
            }
            std::thread::sleep(NAP);
        }
    }

    /// To be called after each seal that was published: replaces a key that is due, and moves a few records if there is
    /// something to be moved.
    #[inline]
    pub(super) fn after_seal(&self, seals: u64) {
        let due = seals >= self.settings.seals_max || self.is_key_old();
        if due || self.turnover.unfinished.load(Ordering::Relaxed) {
            self.turn_over();
        }
    }

    /// Is the present key to be replaced?
    fn is_key_due(&self) -> bool {
        self.is_key_old() || self.ledger.current().is_ok_and(|(_, seals)| seals >= self.settings.seals_max)
    }

    #[inline]
    fn is_key_old(&self) -> bool {
        self.settings.age_max.is_some_and(|age| {
            let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
            os::coarse_now().saturating_sub(self.turnover.since.load(Ordering::Relaxed)) >= age
        })
    }

    #[cold]
    fn turn_over(&self) {
        let Some(_mover) = self.turnover.begin() else { return };
        // Asked anew: another thread may have found the same key due, and replaced it.
        let due = self.is_key_due();
        let pause = self.turnover.pause.load(Ordering::Relaxed);
        if due && pause > 0 {
            self.turnover.pause.store(pause - 1, Ordering::Relaxed);
        } else if due
            && let Err(error) = self.install_key()
            // Where there are four keys, the next comes as soon as the oldest has been moved, which goes on
            // below.
            && !matches!(error, Error::Busy(_))
        {
            // What was to be done has been done, under the old key. It is told by the status.
            self.turnover.pause.store(PAUSE, Ordering::Relaxed);
            self.note_refusal(error);
        }
        // What goes wrong here is told to whoever finishes the refresh.
        if let Ok(false) = self.move_batch(SMALL_BATCH, &mut Refreshed::default()) {
            self.sweep_limbo(Deadline::after(Duration::ZERO));
            let _ = self.ledger.walk_from_start();
            let _ = self.retire_keys();
        }
    }

    #[cold]
    fn note_refusal(&self, error: Error) {
        if let Ok(mut keys) = self.enclave.epochs().freeze() {
            // Told once, until it succeeds.
            if keys.refused().is_none() {
                tracing::warn!(%error, "a vault's key is due to be replaced, which was refused");
            }
            keys.note_refusal(error);
        }
    }

    /// Destroys all keys, and with them everything that was sealed; closes what is paged. Then makes a new key.
    #[allow(unsafe_code)]
    pub(crate) fn purge(&self) -> Result<(), Error> {
        self.check_alive()?;
        let deadline = Deadline::after(self.settings.policy.wait);
        let mut keys = self.enclave.epochs().freeze()?;
        self.turnover.purges.fetch_add(1, Ordering::AcqRel);
        let newest = keys.newest();
        for epoch in newest.saturating_sub(LIVE as u64)..=newest {
            keys.withdraw(epoch);
        }
        self.ledger.forget_epochs(newest + 1)?;
        let quiet = self.scratch.quiesce(ANY, deadline);
        if quiet {
            // SAFETY: all windows that were open when they were withdrawn have been seen to be closed.
            unsafe { keys.destroy_withdrawn(self.enclave.anchor()) };
        } else {
            keys.wipe_withdrawn(self.enclave.anchor());
        }
        let installed = self.install_next(&mut keys);
        drop(keys);
        let paged = self.purge_paged();
        if !quiet {
            return Err(Error::Timeout { waited: deadline.waited(), holders: Outstanding::default() });
        }
        installed.and(paged)
    }

    /// How often all keys were purged.
    pub(super) fn purges(&self) -> u64 {
        self.turnover.purges.load(Ordering::Acquire)
    }

    /// Closes all paged secrets; those with views are wiped when these end.
    fn purge_paged(&self) -> Result<(), Error> {
        // The walk is the movers' too: who is at it begins again.
        let deadline = Deadline::after(self.settings.policy.wait);
        while self.ledger.paged() > 0 {
            if let Some(_mover) = self.turnover.begin() {
                self.ledger.walk_from_start()?;
                while self.close_paged_batch()? {}
                return Ok(());
            }
            if deadline.left().is_none() {
                return Err(Error::Timeout { waited: deadline.waited(), holders: Outstanding::default() });
            }
            std::thread::sleep(NAP);
        }
        Ok(())
    }

    fn close_paged_batch(&self) -> Result<bool, Error> {
        let mut objects: [Option<Object>; BATCH] = [const { None }; BATCH];
        let more = self.collect(&mut objects)?;
        for object in objects.iter().flatten() {
            if let Body::Paged(_) = object.header().body() {
                let header = object.header();
                header.gate.close();
                // Where somebody is inside, the last one out wipes it.
                let _ = header.try_end(None);
            }
        }
        Ok(more)
    }

    /// For a janitor: does what is due by age, and moves a batch. Says how soon there is more to do; `None`: not before
    /// something is sealed.
    pub(crate) fn tend_keys(&self) -> Option<Duration> {
        if self.is_key_old() || self.turnover.unfinished.load(Ordering::Acquire) {
            self.turn_over();
            return Some(if self.turnover.unfinished.load(Ordering::Acquire) {
                NAP
            } else {
                self.settings.age_max?
            });
        }
        let age = self.settings.age_max?;
        let old = Duration::from_nanos(
            os::coarse_now().saturating_sub(self.turnover.since.load(Ordering::Relaxed)),
        );
        Some(age.saturating_sub(old))
    }

    /// Frees what waits for readers, if they are seen to be done by the deadline; says whether something was freed, or
    /// nothing waits.
    #[allow(unsafe_code)]
    pub(super) fn sweep_limbo(&self, deadline: Deadline) -> bool {
        let Some(retired) = self.ledger.retired() else { return true };
        let quiet = self.scratch.quiesce(ANY, deadline);
        if quiet {
            // SAFETY: seen to be done after that was asked.
            unsafe { self.ledger.sweep(None, retired) };
        }
        quiet
    }

    /// Looks at the next secrets of the roll and moves those that need it. False: that was the end of the roll. For who
    /// has the right to move.
    fn move_batch(&self, most: usize, done: &mut Refreshed) -> Result<bool, Error> {
        let mut objects: [Option<Object>; BATCH] = [const { None }; BATCH];
        let more = self.collect(objects.get_mut(..most).unwrap_or_default())?;
        let present = self.ledger.current()?.0;
        for epoch in present.saturating_sub(LIVE as u64)..present {
            if self.enclave.epochs().has(epoch) {
                self.move_from(epoch, present, &objects, done)?;
            }
        }
        // A close that had no time for our window has left the end to us, and a record to the old key.
        for header in objects.iter().flatten().map(Object::header) {
            if header.gate.is_closed() && !header.gate.is_final() {
                header.end_left();
            }
        }
        Ok(more)
    }

    /// Takes references to the next secrets of the roll. False: that was its end.
    fn collect(&self, objects: &mut [Option<Object>]) -> Result<bool, Error> {
        let (mut places, mut looks, mut bytes) = (objects.iter_mut(), 0, 0_usize);
        let mut place = places.next();
        self.ledger.walk(|piece| {
            // SAFETY: called under the ledger's lock, with a piece of the roll.
            #[allow(unsafe_code)]
            if let Some(object) = unsafe { Object::upgrade(piece) }
                && let Some(free) = place.take()
            {
                bytes = bytes.saturating_add(object.len());
                *free = Some(object);
                place = places.next();
            }
            looks += 1;
            place.is_some() && looks < LOOKS && bytes < BATCH_BYTES
        })
    }

    /// Moves those of the objects that have a record of the epoch `old`.
    #[allow(unsafe_code)]
    fn move_from(
        &self,
        old: u64,
        present: u64,
        objects: &[Option<Object>],
        done: &mut Refreshed,
    ) -> Result<(), Error> {
        let sealed =
            || objects.iter().flatten().filter(|object| matches!(object.header().body(), Body::Sealed(_)));
        let Some(len) = sealed().map(Object::len).max() else { return Ok(()) };
        let policy = &self.settings.policy;
        let (thread, wait) = (registry::thread(), policy.wait);
        let lock = policy.levels().lock == Level::Require;
        let take = |len| {
            let lease = self.scratch.take(thread, 0, len, 1, lock, wait)?;
            // Or a fork would wait for us, and the next lease for the fork.
            lease.close_window();
            Ok::<_, Error>(Room(lease))
        };
        let (mut old_room, mut new_room) = (take(len)?, take(1)?);
        Lease::open_windows(&[&old_room.0, &new_room.0], wait)?;
        let mut items: [Option<Item<'_>>; BATCH] = [const { None }; BATCH];
        let (mut places, mut failure) = (items.iter_mut(), None);
        for object in sealed() {
            match self.begin_move(object, old, present) {
                Ok(None) => {}
                Ok(item) => {
                    if let Some(place) = places.next() {
                        *place = item;
                    }
                }
                Err(error) => {
                    failure = error;
                    break;
                }
            }
        }
        let outcome = if items.iter().flatten().next().is_none() {
            Ok(())
        } else {
            let (from, to) = ((old, &mut old_room.0), (present, &mut new_room.0));
            self.enclave.with_two_keys(thread, from, to, |old_key, new_key, room| {
                for item in items.iter_mut().flatten() {
                    if let Err(error) = move_one(item, old_key, new_key, room) {
                        failure = Some(error);
                        break;
                    }
                }
            })
        };
        let mut freed: [Option<Retired>; BATCH] = [None; BATCH];
        let mut replaced: [Option<Retired>; BATCH] = [None; BATCH];
        for (item, (freed, replaced)) in items.iter().flatten().zip(freed.iter_mut().zip(&mut replaced)) {
            let Body::Sealed(sealed) = item.object.header().body() else { continue };
            // The window is still open: what lies at `from` is what was found there.
            if outcome.is_ok() && item.made && sealed.publish_moved(item.from, item.to.at.cast()) {
                done.moved += 1;
                done.damaged += u64::from(item.damaged);
                *replaced = Some(Retired { at: item.from.cast(), epoch: old, ..item.to });
            } else {
                *freed = Some(item.to);
            }
        }
        old_room.0.wipe_data();
        self.enclave.end_batch(&old_room.0);
        self.enclave.end_batch(&new_room.0);
        self.free_all(&freed);
        if self.scratch.quiesce(ANY, Deadline::after(MOMENT)) {
            self.free_all(&replaced);
        } else {
            each(&replaced, |record| self.ledger.retire(&[record]));
        }
        outcome.and(failure.map_or(Ok(()), Err))
    }

    /// Frees records that nobody can be reading, and the places in limbo that were kept for them.
    #[allow(unsafe_code)]
    fn free_all(&self, records: &[Option<Retired>]) {
        // SAFETY: as the callers have seen to it.
        each(records, |record| unsafe { self.ledger.free(&[record], 1) });
    }

    /// Memory for a record's new form, if it has one of the epoch `old`. For who is signed in. An error without a cause:
    /// the batch has to end here.
    #[allow(unsafe_code)]
    fn begin_move<'a>(
        &self,
        object: &'a Object,
        old: u64,
        present: u64,
    ) -> Result<Option<Item<'a>>, Option<Error>> {
        let header = object.header();
        let Body::Sealed(sealed) = header.body() else { return Ok(None) };
        let Some(from) = sealed.find(header) else { return Ok(None) };
        // SAFETY: found by one who is signed in, so it is not freed before the window is closed.
        if unsafe { sealed_in(header, from.as_ptr()) }.binding.epoch != old {
            return Ok(None);
        }
        let size = Sealed::size(header.len).map_err(Some)?;
        let (at, epoch, _) = match self.ledger.take_record(size) {
            Ok(taken) => taken,
            Err(Taking::Failed(error)) => return Err(Some(error)),
            Err(Taking::LimboFull) => return Err(None),
        };
        let to = Retired { secret: header.id, at, size, epoch };
        if epoch != present {
            // There is a newer key by now.
            self.free_all(&[Some(to)]);
            return Err(None);
        }
        Ok(Some(Item { object, from, to, made: false, damaged: false }))
    }
}

fn each(records: &[Option<Retired>], mut act: impl FnMut(Retired)) {
    records.iter().flatten().for_each(|record| act(*record));
}

/// Seals one record anew. `room` has space for its plaintext.
#[allow(unsafe_code)]
fn move_one(
    item: &mut Item<'_>,
    old_key: &InHand<'_>,
    new_key: &InHand<'_>,
    room: &mut [u8],
) -> Result<(), Error> {
    let header = item.object.header();
    // SAFETY: found by one who is signed in, and the window is still open.
    let sealed = unsafe { sealed_in(header, item.from.as_ptr()) };
    // SAFETY: taken for a record of this length, and nobody else has it.
    let draft = unsafe { Draft::new(item.to.at.cast(), header.len) };
    let Some(room) = room.get_mut(..header.len) else { return Ok(()) };
    let mut nonce = [0; NONCE];
    os::fill_random(&mut nonce)?;
    let binding = Binding { epoch: item.to.epoch, ..sealed.binding };
    match old_key.open(&sealed, room) {
        Ok(()) => {
            if let Ok(envelope) = new_key.seal(binding, &nonce, room, draft.room) {
                draft.complete(binding, envelope);
                item.made = true;
            }
        }
        Err(Forged::Data) => {
            for (to, from) in draft.room.iter_mut().zip(sealed.ciphertext) {
                to.write(*from);
            }
            draft.complete(binding, *sealed.envelope);
            (item.made, item.damaged) = (true, true);
        }
        // Another attempt has another replica.
        Err(Forged::Key) => {}
    }
    Ok(())
}

/// A slot of the mover's, given back however that ends.
struct Room(Lease);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.vacate();
    }
}

#[cfg(test)]
mod tests;

//! What a vault keeps account of under one lock: the memory of its secrets, which of them there are, how many records
//! each key has sealed, and which old records wait to be freed.
//!
//! **Records are counted by the epoch of their key**, from before they are sealed until their memory has been
//! overwritten. So an epoch without records is one that no thread is at work with, and its key can go. The epoch of a
//! seal is chosen here, together with the count: no seal can begin under a key that was counted out.
//!
//! Records that were replaced, but may still be read, wait in [`limbo`].
//!
//! Whoever ends something does not wait for the lock: see [`left`].

mod inner;
mod left;
mod limbo;
mod tally;
mod walks;

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::enclave::epoch::{LIVE, cell_of};
use crate::error::Error;
use crate::locks::{Guard, Lock, Rank};
use crate::registry::vaults::Seat;
use crate::store::header::HEADER;
use crate::store::roll::{Place, Roll};
use crate::store::slab::{self, Pieces};
use inner::Inner;
use left::Left;
use limbo::Limbo;
use tally::Tally;

pub(super) use limbo::Retired;
pub(super) use tally::Item;
pub(crate) use tally::{Limits, Live};

/// A vault's account.
pub(crate) struct Ledger {
    inner: Lock<Inner>,
    /// What is to be given back by whoever takes the lock next.
    left: Left,
    /// How many records were ever retired, for whoever cannot have the lock.
    retired: AtomicU64,
}

/// The pieces of a new secret.
#[derive(Clone, Copy)]
pub(super) struct Taken {
    pub(super) id: u64,
    pub(super) header: NonNull<u8>,
    pub(super) body: NonNull<u8>,
    /// Of a sealed secret's key; zero where that is not chosen yet, or there is none.
    pub(super) epoch: u64,
    /// Seals under that key so far.
    pub(super) seals: u64,
}

/// What a new secret keeps its bytes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Sealed,
    Paged,
}

/// When the epoch of a new secret is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Now,
    /// By [`Ledger::choose_epoch`], when its bytes are there. Code of the user's may take any time to write
    /// them, and must not keep a key alive meanwhile.
    Later,
}

impl Ledger {
    /// `most_seals`: as many as one key may make. `limits`: as many secrets as there may be.
    pub(super) fn new(most_seals: u64, limits: Limits, vault: Seat) -> Self {
        let inner = Inner {
            pieces: Pieces::new(Some(vault)),
            paged_pieces: Pieces::new(None),
            roll: Roll::new(HEADER),
            walk: Place::default(),
            tally: Tally::new(limits),
            last_id: 0,
            closed: false,
            epoch: 0,
            oldest: 1,
            records: [0; LIVE],
            seals: 0,
            most_seals,
            limbo: Limbo::new(),
        };
        Self { inner: Lock::new(Rank::Ledger, inner), left: Left::new(), retired: AtomicU64::new(0) }
    }

    /// Takes the lock, and gives back what was left to whoever does.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    fn lock(&self) -> Result<Guard<'_, Inner>, Error> {
        self.inner.lock().map(|inner| self.settled(inner))
    }

    /// The same if the lock is free.
    #[inline]
    #[cfg_attr(debug_assertions, track_caller)]
    fn try_lock(&self) -> Option<Guard<'_, Inner>> {
        self.inner.try_lock().map(|inner| self.settled(inner))
    }

    #[inline]
    fn settled<'a>(&self, mut inner: Guard<'a, Inner>) -> Guard<'a, Inner> {
        if self.left.any() {
            self.left.settle(&mut *inner);
        }
        inner
    }

    /// Gives back what was left to whoever takes the lock. For the end of a call that may wait for it.
    pub(super) fn settle(&self) {
        if self.left.any() {
            // Where the lock is not to be had, the next one does it.
            let _ = self.lock();
        }
    }

    #[cfg(feature = "testing")]
    pub(super) fn set_frozen(&self, frozen: bool) -> bool {
        self.inner.set_frozen(frozen)
    }

    #[cfg(test)]
    pub(super) fn allow_seals(&self, most: u64) {
        if let Ok(mut inner) = self.lock() {
            inner.most_seals = most;
        }
    }

    /// An id that no other secret of the vault has.
    pub(crate) fn new_id(&self) -> Result<u64, Error> {
        let mut inner = self.lock()?;
        inner.check_open()?;
        inner.last_id += 1;
        Ok(inner.last_id)
    }

    /// The pieces of a new secret, with any content but for the header's count of references, which is zero; `size` is
    /// that of its body. `id`: the one that it is to have, or a new one.
    #[allow(unsafe_code)]
    pub(super) fn take_secret(
        &self,
        (item, choice): (Item, Choice),
        size: usize,
        id: Option<u64>,
    ) -> Result<Taken, Error> {
        let large = if slab::is_large(size) { Some(slab::take_large(size)?) } else { None };
        let free_large = || {
            if let Some(piece) = large {
                // SAFETY: nobody has seen it.
                unsafe { slab::give_large(piece, size) };
            }
        };
        let mut inner = self.lock().inspect_err(|_| free_large())?;
        inner.take_secret((item, choice), size, id, large).inspect_err(|_| free_large())
    }

    /// Chooses the epoch that a new secret is sealed under, if that was left for later.
    pub(super) fn choose_epoch(&self, taken: &mut Taken) -> Result<(), Error> {
        let mut inner = self.lock()?;
        if taken.epoch == 0 {
            taken.epoch = inner.seal_under()?;
            taken.seals = inner.count_seal(taken.epoch);
        }
        Ok(())
    }

    /// Takes back what [`Self::take_secret`] gave, with nothing made of it.
    ///
    /// # Safety
    ///
    /// Nobody uses the pieces.
    #[allow(unsafe_code)]
    pub(super) unsafe fn untake(&self, item: Item, taken: &Taken, size: usize) {
        let Taken { id: secret, body: at, epoch, .. } = *taken;
        // SAFETY: as the caller vouches.
        unsafe { self.give_secret(taken.header, item, Some(Retired { secret, at, size, epoch }), true) };
    }

    /// A secret's bytes are gone for good; its header is still there. Waits for nobody.
    pub(super) fn ended(&self, item: Item) {
        match self.try_lock() {
            Some(mut inner) => inner.tally.remove(item.into()),
            None => self.left.ended(item.into()),
        }
    }

    /// How many records were ever retired, as [`Self::retired`]; without the lock the number comes also where nothing
    /// waits. Waits for nobody.
    pub(super) fn retired_so_far(&self) -> Option<u64> {
        match self.try_lock() {
            Some(inner) => inner.limbo.retired(),
            None => Some(self.retired.load(Ordering::Acquire)),
        }
    }

    /// A sealed secret's bytes are gone for good; its header is still there. Overwrites and frees the last record, and what
    /// waits in limbo up to the one that was retired as number `retired`, if anything does. Waits for nobody.
    ///
    /// # Safety
    ///
    /// Nobody can find the last record. Since `retired` was asked, all readers of the secret that were at work then have
    /// been seen to be done.
    #[allow(unsafe_code)]
    pub(super) unsafe fn end_sealed(
        &self,
        item: Item,
        secret: u64,
        retired: Option<u64>,
        last: Option<Retired>,
    ) {
        let mut sweep = retired.map(|retired| (secret, retired));
        // SAFETY: as the caller vouches.
        unsafe {
            if let Some(record) = last {
                slab::overwrite(record.at, record.size);
            }
            // One after the other, since a large one is not to be overwritten under the lock.
            while let Some((secret, retired)) = sweep {
                let Some(mut inner) = self.try_lock() else { break };
                let Some(record) = inner.limbo.take(Some(secret), retired) else {
                    sweep = None;
                    break;
                };
                drop(inner);
                slab::overwrite(record.at, record.size);
                self.give_record(record, None);
            }
            self.ended(item);
            if let Some(record) = last {
                self.give_record(record, sweep);
            }
        }
    }

    /// Takes back a record that has been overwritten; waits for nobody.
    ///
    /// # Safety
    ///
    /// As for [`Self::free`]. `sweep`: of this secret all up to that number can be freed.
    #[allow(unsafe_code)]
    unsafe fn give_record(&self, record: Retired, sweep: Option<(u64, u64)>) {
        let Retired { at, size, epoch, .. } = record;
        // SAFETY: as the caller vouches.
        unsafe {
            match self.try_lock() {
                Some(mut inner) => {
                    inner.give(Kind::Sealed, at, size, epoch);
                    if let Some((secret, last)) = sweep {
                        inner.sweep(secret, last);
                    }
                }
                None => self.left.record(record, sweep),
            }
        }
    }

    /// Takes back a secret's header, and the body if that is still there. `ends`: the secret ends with it, and not before.
    /// Waits for nobody.
    ///
    /// # Safety
    ///
    /// They came from [`Self::take_secret`], or the body from [`Self::take_record`], and nobody uses them any more.
    #[allow(unsafe_code)]
    pub(super) unsafe fn give_secret(
        &self,
        header: NonNull<u8>,
        item: Item,
        body: Option<Retired>,
        ends: bool,
    ) {
        // SAFETY: as the caller vouches.
        unsafe {
            if let Some(Retired { at, size, .. }) = body {
                slab::overwrite(at, size);
            }
            let Some(mut inner) = self.try_lock() else {
                return self.left.secret(header, item, body, ends);
            };
            if ends {
                inner.tally.remove(item.into());
            }
            inner.roll.give(header);
            if let Some(Retired { at, size, epoch, .. }) = body {
                inner.give(item.kind, at, size, epoch);
            }
        }
    }

    /// Memory for a new record of `size` bytes, the epoch to seal it under, and the seals under that key so far. With
    /// it comes a place in limbo for the record that it replaces, which [`Self::free`] or [`Self::retire`] gives back.
    #[allow(unsafe_code)]
    pub(super) fn take_record(&self, size: usize) -> Result<(NonNull<u8>, u64, u64), Taking> {
        let large = if slab::is_large(size) { Some(slab::take_large(size)?) } else { None };
        let outcome = self.lock().map_err(Taking::Failed).and_then(|mut inner| {
            let epoch = inner.seal_under()?;
            let record = large.map_or_else(|| inner.pieces.take(size), Ok)?;
            if !inner.limbo.keep() {
                if large.is_none() {
                    // SAFETY: just taken.
                    unsafe { inner.pieces.give(record, size) };
                }
                return Err(Taking::LimboFull);
            }
            let seals = inner.count_seal(epoch);
            Ok((record, epoch, seals))
        });
        if let (Err(_), Some(piece)) = (&outcome, large) {
            // SAFETY: nobody has seen it.
            unsafe { slab::give_large(piece, size) };
        }
        outcome
    }

    /// Overwrites and frees records: those that were replaced, or new ones that were not published. `kept`: places in
    /// limbo that are not needed any more.
    ///
    /// # Safety
    ///
    /// They came from [`Self::take_record`] or [`Self::take_secret`], and nobody reads them any more.
    #[allow(unsafe_code)]
    pub(super) unsafe fn free(&self, records: &[Retired], kept: usize) {
        // SAFETY: as the caller vouches.
        unsafe {
            records.iter().for_each(|record| slab::overwrite(record.at, record.size));
            let Ok(mut inner) = self.lock() else {
                self.left.kept(kept);
                return records.iter().for_each(|record| self.left.record(*record, None));
            };
            inner.limbo.give_back(kept);
            for record in records {
                inner.give(Kind::Sealed, record.at, record.size, record.epoch);
            }
        }
    }

    /// Leaves a record that was replaced in the place that was kept for it. False: the lock is not to be had, and it is
    /// the caller's still.
    #[must_use]
    pub(super) fn retire(&self, record: Retired) -> bool {
        self.lock().is_ok_and(|mut inner| {
            self.retired.store(inner.limbo.retire(record), Ordering::Release);
            true
        })
    }

    /// How many records were ever retired: to be asked before the readers are looked at, for [`Self::sweep`]. `None`:
    /// nothing waits.
    pub(super) fn retired(&self) -> Option<u64> {
        self.lock().ok()?.limbo.retired()
    }

    /// Overwrites and frees what waits, of one secret if it is named, up to the one that was retired as the `last`.
    ///
    /// # Safety
    ///
    /// Since that one was retired, all readers (of that secret) that were at work then have been seen to be done.
    #[allow(unsafe_code)]
    pub(super) unsafe fn sweep(&self, secret: Option<u64>, last: u64) {
        // One after the other, since a large one is not to be overwritten under the lock.
        while let Ok(mut inner) = self.lock() {
            let Some(record) = inner.limbo.take(secret, last) else { return };
            drop(inner);
            // SAFETY: as the caller vouches.
            unsafe { self.free(&[record], 0) };
        }
    }

    /// Keeps it as it is over a fork.
    pub(super) fn freeze(&self, patience: Duration) -> bool {
        self.inner.freeze(patience)
    }

    /// Takes that back.
    pub(super) fn thaw(&self, in_child: bool) {
        if in_child { self.inner.thaw_in_child() } else { self.inner.thaw() }
    }

    /// Of a key that may make only so many seals, parent and child have half of what is left each.
    pub(super) fn share_seals(&self) {
        if let Ok(mut inner) = self.lock()
            && inner.most_seals != u64::MAX
        {
            inner.seals += inner.most_seals.saturating_sub(inner.seals).div_ceil(2);
        }
    }

    /// From now on seals are made under the key of this epoch.
    pub(super) fn open_epoch(&self, epoch: u64) -> Result<(), Error> {
        let mut inner = self.lock()?;
        inner.epoch = epoch;
        inner.seals = 0;
        Ok(())
    }

    /// All keys are purged: the records of epochs before `oldest` are counted no more, and nothing is sealed until
    /// there is a new epoch.
    pub(super) fn forget_epochs(&self, oldest: u64) -> Result<(), Error> {
        let mut inner = self.lock()?;
        inner.epoch = 0;
        inner.oldest = oldest;
        inner.records = [0; LIVE];
        Ok(())
    }

    /// Nothing is made or sealed from now on.
    pub(super) fn close(&self) -> Result<(), Error> {
        self.lock()?.closed = true;
        Ok(())
    }

    /// Records of an epoch, those in limbo and in the making included.
    pub(super) fn records_of(&self, epoch: u64) -> Result<u64, Error> {
        let inner = self.lock()?;
        Ok(if epoch < inner.oldest { 0 } else { inner.records[cell_of(epoch)] })
    }

    /// The epoch that seals now, and the seals under it.
    pub(super) fn current(&self) -> Result<(u64, u64), Error> {
        self.lock().map(|inner| (inner.epoch, inner.seals))
    }

    /// Secrets whose bytes are there.
    pub(super) fn live(&self) -> Result<Live, Error> {
        Ok(self.lock()?.tally.live)
    }

    /// Frees all memory. Large pieces must have been given back before.
    ///
    /// # Safety
    ///
    /// Nothing of it is in use.
    #[allow(unsafe_code)]
    pub(super) unsafe fn end(&mut self) {
        let inner = self.inner.get_mut();
        self.left.settle(inner);
        // SAFETY: as the caller vouches.
        unsafe {
            while let Some(record) = inner.limbo.take(None, u64::MAX) {
                slab::overwrite(record.at, record.size);
                inner.pieces_or_large(Kind::Sealed, record.at, record.size);
            }
            inner.roll.end();
            inner.pieces.end();
            inner.paged_pieces.end();
        }
    }
}

/// Why there is no memory for a record.
pub(super) enum Taking {
    /// Too many old records wait for readers.
    LimboFull,
    Failed(Error),
}

impl From<Error> for Taking {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

#[cfg(test)]
mod tests;

//! What is under the ledger's lock, and how it changes.

use std::ptr::NonNull;

#[cfg(doc)]
use super::Ledger;
use super::left::{OfRecord, OfSecret, Settle};
use super::limbo::Limbo;
use super::tally::{Item, Live, Tally};
use super::{Choice, Kind, Taken};
use crate::enclave::epoch::{LIVE, cell_of};
use crate::error::Error;
use crate::store::roll::{Place, Roll};
use crate::store::slab::{self, Pieces};

/// What is under the lock.
pub(super) struct Inner {
    /// Of ciphertext. A page of them may be replaced by noise, should its memory be lost.
    pub(super) pieces: Pieces,
    /// Of what paged secrets have in ordinary memory: addresses, for which noise would not do.
    pub(super) paged_pieces: Pieces,
    pub(super) roll: Roll,
    /// Where the walk through it goes on.
    pub(super) walk: Place,
    /// Secrets made and not ended.
    pub(super) tally: Tally,
    /// The newest secret's id.
    pub(super) last_id: u64,
    /// The vault is closed: nothing is made any more.
    pub(super) closed: bool,
    /// The epoch of the key that seals; zero where there is none.
    pub(super) epoch: u64,
    /// Records of epochs before this one are not counted: their keys were purged, or it is zero and none has
    /// one.
    pub(super) oldest: u64,
    /// Records of each live epoch.
    pub(super) records: [u64; LIVE],
    /// Seals under the present key, and how many there may be.
    pub(super) seals: u64,
    pub(super) most_seals: u64,
    pub(super) limbo: Limbo,
}

impl Inner {
    pub(super) fn take_secret(
        &mut self,
        (item, choice): (Item, Choice),
        size: usize,
        id: Option<u64>,
        large: Option<NonNull<u8>>,
    ) -> Result<Taken, Error> {
        self.check_open()?;
        self.tally.check(item)?;
        let kind = item.kind;
        let seals = kind == Kind::Sealed && choice == Choice::Now;
        let epoch = if seals { self.seal_under()? } else { 0 };
        let header = self.roll.take()?;
        let body = match large.map_or_else(|| self.pieces_of(kind).take(size), Ok) {
            Ok(body) => body,
            Err(error) => {
                #[allow(unsafe_code)]
                // SAFETY: just taken.
                unsafe {
                    self.roll.give(header);
                }
                return Err(error);
            }
        };
        self.tally.add(item);
        let id = id.unwrap_or_else(|| {
            self.last_id += 1;
            self.last_id
        });
        let seals = if seals { self.count_seal(epoch) } else { 0 };
        Ok(Taken { id, header, body, epoch, seals })
    }

    /// Overwrites and frees what waits of a secret, up to the one that was retired as the `last`.
    ///
    /// # Safety
    ///
    /// As for [`Ledger::sweep`].
    #[allow(unsafe_code)]
    pub(super) unsafe fn sweep(&mut self, secret: u64, last: u64) {
        while let Some(record) = self.limbo.take(Some(secret), last) {
            // SAFETY: as the caller vouches.
            unsafe {
                slab::overwrite(record.at, record.size);
                self.give(Kind::Sealed, record.at, record.size, record.epoch);
            }
        }
    }

    pub(super) fn check_open(&self) -> Result<(), Error> {
        if self.closed { Err(Error::Closed) } else { Ok(()) }
    }

    /// The epoch that a seal may be made under now.
    pub(super) fn seal_under(&self) -> Result<u64, Error> {
        self.check_open()?;
        match self.epoch {
            0 => Err(Error::Purged),
            _ if self.seals >= self.most_seals => Err(Error::KeyUsedUp { limit: self.most_seals }),
            epoch => Ok(epoch),
        }
    }

    pub(super) fn count_seal(&mut self, epoch: u64) -> u64 {
        self.records[cell_of(epoch)] += 1;
        self.seals += 1;
        self.seals
    }

    /// # Safety
    ///
    /// The body's memory, overwritten, which nobody uses any more.
    #[allow(unsafe_code)]
    pub(super) unsafe fn give(&mut self, kind: Kind, body: NonNull<u8>, size: usize, epoch: u64) {
        if kind == Kind::Sealed && epoch >= self.oldest {
            let records = &mut self.records[cell_of(epoch)];
            *records = records.saturating_sub(1);
        }
        // SAFETY: as the caller vouches.
        unsafe { self.pieces_or_large(kind, body, size) };
    }

    /// # Safety
    ///
    /// As for [`Self::give`].
    #[allow(unsafe_code)]
    pub(super) unsafe fn pieces_or_large(&mut self, kind: Kind, piece: NonNull<u8>, size: usize) {
        // SAFETY: as the caller vouches.
        unsafe {
            if slab::is_large(size) {
                slab::give_large(piece, size);
            } else {
                self.pieces_of(kind).give(piece, size);
            }
        }
    }

    pub(super) fn pieces_of(&mut self, kind: Kind) -> &mut Pieces {
        match kind {
            Kind::Sealed => &mut self.pieces,
            Kind::Paged => &mut self.paged_pieces,
        }
    }
}

#[allow(unsafe_code)]
impl Settle for Inner {
    fn secret(&mut self, header: NonNull<u8>, of: OfSecret) {
        let item = of.item();
        if of.ends() {
            self.tally.remove(item.into());
        }
        // SAFETY: whoever has left them has vouched for them: see `Ledger::give_secret`.
        unsafe {
            self.roll.give(header);
            if let Some(body) = of.body {
                self.give(item.kind, body, of.size, of.epoch);
            }
        }
    }

    fn record(&mut self, record: NonNull<u8>, of: OfRecord) {
        // SAFETY: as above: see `Ledger::free` and `Ledger::end_sealed`.
        unsafe {
            self.give(Kind::Sealed, record, of.size, of.epoch);
            if of.secret != 0 {
                self.sweep(of.secret, of.last);
            }
        }
    }

    fn ended(&mut self, live: Live) {
        self.tally.remove(live);
    }

    fn kept(&mut self, count: usize) {
        self.limbo.give_back(count);
    }
}

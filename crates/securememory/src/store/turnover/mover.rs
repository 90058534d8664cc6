//! Moves records from one key to another: see [`super::turnover`].

use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

use super::{BATCH, Refreshed};
use crate::enclave::cipher::Forged;
use crate::enclave::epoch;
use crate::enclave::{Binding, InHand, Nonces};
use crate::error::Error;
use crate::gate::Deadline;
use crate::region::lease::{Lease, Records, Room};
use crate::registry::{self, ANY, UNNAMED, lost};
use crate::store::census::{Batch, collect};
use crate::store::header::Body;
use crate::store::ledger::{Retired, Taking};
use crate::store::machinery::Machinery;
use crate::store::object::Object;
use crate::store::sealed::{Draft, MOMENT, Record, Sealed, is_lost, sealed_in};

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
    /// Looks at the next secrets of the roll and moves those that need it. False: that was the end of the roll. On an error
    /// some were left as they are; the next call goes on after them. For who has the right to move.
    pub(super) fn move_batch(&self, most: usize, done: &mut Refreshed) -> Result<bool, Error> {
        let mut objects: Batch = [const { None }; BATCH];
        let more = collect(objects.get_mut(..most).unwrap_or_default(), |look| self.ledger.walk(look))?;
        let present = self.ledger.current()?.0;
        let older =
            epoch::up_to(present).filter(|&epoch| epoch < present && self.enclave.epochs().has(epoch));
        let mut outcome = Ok(());
        for epoch in older {
            outcome = outcome.and(self.move_from(epoch, present, &objects, done));
        }
        // A close that had no time for our window has left the end to us, and a record to the old key. Either it has seen
        // the window closed, or we see that there was a close.
        fence(Ordering::SeqCst);
        for header in objects.iter().flatten().map(Object::header) {
            if header.gate.is_closed() && !header.gate.is_final() {
                header.end_left();
            }
        }
        outcome.map(|()| more)
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
        let required = |object: &Object| object.header().requires_lock();
        let lock = policy.requires_lock() || sealed().any(required);
        let take = |len| {
            let lease = self.scratch.take(thread, UNNAMED, len, 1, lock, wait)?;
            // Or a fork would wait for us, and the next lease for the fork.
            lease.close_window();
            Ok::<_, Error>(Room(lease))
        };
        let (mut old_room, mut new_room) = (take(len)?, take(1)?);
        let (records, before) = (old_room.0.records(), lost::ever());
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
                let mut nonces = Nonces::new();
                for item in items.iter_mut().flatten() {
                    if let Err(error) = move_one(item, old_key, new_key, &mut nonces, room, records) {
                        failure = Some(error);
                        break;
                    }
                }
            })
        };
        // What was sealed may be noise, or of noise.
        let outcome = if lost::ever() == before { outcome } else { Err(Error::Poisoned) };
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
            each(&replaced, |record| {
                if !self.ledger.retire(record) {
                    self.give_up(record);
                }
            });
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
    nonces: &mut Nonces,
    room: &mut [u8],
    records: Records,
) -> Result<(), Error> {
    let header = item.object.header();
    // SAFETY: found by one who is signed in, and the window is still open.
    let sealed = unsafe { sealed_in(header, item.from.as_ptr()) };
    // SAFETY: taken for a record of this length, and nobody else has it.
    let draft = unsafe { Draft::new(item.to.at.cast(), header.len) };
    let Some(room) = room.get_mut(..header.len) else { return Ok(()) };
    let nonce = nonces.draw()?;
    let binding = Binding { epoch: item.to.epoch, ..sealed.binding };
    records.show(item.from.addr().get(), item.to.size);
    match old_key.open(&sealed, room) {
        Ok(()) => {
            records.show(item.to.at.addr().get(), item.to.size);
            if let Ok(envelope) = new_key.seal(binding, &nonce, room, draft.room) {
                draft.complete(binding, envelope);
                item.made = true;
            }
        }
        // Nobody has changed it: it is told by where it lies that it was lost.
        Err(Forged::Data) if is_lost(item.from.as_ptr(), header.len) => {}
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

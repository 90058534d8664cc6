//! Many secrets at once, with one fetch of the key.

use std::sync::Arc;

use crate::enclave::cipher::Forged;
use crate::enclave::{Binding, Check, Nonces};
use crate::error::{Error, TryError};
use crate::region::geometry;
use crate::region::lease::{Lease, Room};
use crate::registry::{self, NOBODY, lost};
use crate::store::header::{self, Body, Header, Shape};
use crate::store::ledger::{Choice, Item, Kind, Taken};
use crate::store::machinery::Machinery;
use crate::store::object::Object;
use crate::store::opened::Opened;
use crate::store::sealed::{Draft, Sealed, WINDOW_BYTES, is_lost, sealed_in, show_large};
use crate::store::slab;
use crate::store::spec::{Bytes, Spec};

/// Secrets that are made with one fetch of the key.
const MAKES: usize = 64;
/// Secrets that are opened with one fetch: each takes a slot of scratch.
pub(crate) const OPENS: usize = 8;

/// Pieces taken for secrets, given back unless they become some.
struct Taking<'a> {
    machinery: &'a Arc<Machinery>,
    taken: [Option<(Taken, usize, Item)>; MAKES],
}

impl Drop for Taking<'_> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        for (taken, size, item) in self.taken.iter_mut().filter_map(Option::take) {
            // SAFETY: of no secret.
            unsafe { self.machinery.ledger.untake(item, &taken, size) };
        }
    }
}

impl Machinery {
    /// Makes a secret of each source, with the vault's own policy, and appends them to `made`, which has room for
    /// them. On an error those that were made are there.
    pub(crate) fn make_many(
        self: &Arc<Self>,
        mut sources: &[&[u8]],
        made: &mut Vec<Object>,
    ) -> Result<(), Error> {
        let purges = self.purges();
        while let [first, rest @ ..] = sources {
            // One that expires has more to it than a batch makes.
            let alone = self.settings.policy.expires()
                || self.settings.kind_for(self.settings.store, first.len()) == Kind::Paged;
            if alone {
                made.push(self.make_one(first)?);
                sources = rest;
                continue;
            }
            let sealed =
                |source: &&&[u8]| self.settings.kind_for(self.settings.store, source.len()) == Kind::Sealed;
            let lengths = sources.iter().take(MAKES).take_while(sealed).map(|source| source.len());
            let count = within_bound(lengths);
            let done = self.make_batch(sources.get(..count).unwrap_or_default(), made)?;
            sources = sources.get(done..).unwrap_or_default();
        }
        // Else some of them could not be opened.
        if self.purges() == purges { Ok(()) } else { Err(self.purged()) }
    }

    fn make_one(self: &Arc<Self>, source: &[u8]) -> Result<Object, Error> {
        Object::make(Arc::clone(self), Spec::default(), source.len(), Bytes(source))
            .map_err(TryError::into_error)
    }

    /// Makes as many as have a key in common, at least one; says how many.
    #[allow(unsafe_code)]
    fn make_batch(self: &Arc<Self>, batch: &[&[u8]], made: &mut Vec<Object>) -> Result<usize, Error> {
        let policy = &self.settings.policy;
        self.check_alive()?;
        let mut taking = Taking { machinery: self, taken: [const { None }; MAKES] };
        let mut epoch = None;
        for (place, source) in taking.taken.iter_mut().zip(batch) {
            if source.is_empty() {
                return Err(Error::Empty);
            }
            let size = Sealed::size(source.len())?;
            let item = Item { kind: Kind::Sealed, chunk: false, len: source.len() };
            let taken = self.ledger.take_secret((item, Choice::Now), size, None)?;
            let other = *epoch.get_or_insert(taken.epoch) != taken.epoch;
            *place = Some((taken, size, item));
            if other {
                break;
            }
        }
        let epoch = epoch.unwrap_or_default();
        let of_epoch = taking.taken.iter().flatten().filter(|(taken, ..)| taken.epoch == epoch).count();
        let lock = policy.requires_lock();
        let thread = registry::thread();
        // Where views must be locked, nothing is taken for which there would be no view.
        let longest = batch.iter().map(|source| source.len()).max().unwrap_or(1);
        let room = if lock { longest } else { 1 };
        let mut slot = Room(self.scratch.take(thread, NOBODY, room, 1, lock, policy.wait)?);
        let mut failure = None;
        let (records, before) = (slot.0.records(), lost::ever());
        let sealed = self.enclave.with_key(thread, &mut slot.0, epoch, Check::Always, |key| {
            let mut nonces = Nonces::new();
            for ((taken, size, _), source) in taking.taken.iter().flatten().zip(batch).take(of_epoch) {
                let nonce = nonces.draw().map_err(|error| {
                    failure = Some(Error::System(error));
                    Forged::Data
                })?;
                let binding = Binding { vault: self.id, secret: taken.id, version: 0, epoch };
                records.show(taken.body.addr().get(), *size);
                // SAFETY: taken for a record of this length, and nobody else has it.
                let draft = unsafe { Draft::new(taken.body.cast(), source.len()) };
                let envelope = key.seal(binding, &nonce, source, draft.room).inspect_err(|_| {
                    failure = Some(Error::TooLarge { len: source.len(), limit: isize::MAX as usize });
                })?;
                draft.complete(binding, envelope);
            }
            Ok(())
        });
        let is_lost = |(taken, size, _): &(Taken, usize, Item)| slab::is_lost(taken.body, *size);
        if lost::ever() != before && (slot.0.is_poisoned() || taking.taken.iter().flatten().any(is_lost)) {
            return Err(Error::Poisoned);
        }
        if let Err(error) = sealed {
            return Err(failure.unwrap_or(error));
        }
        let mut seals = 0;
        for place in taking.taken.iter_mut().take(of_epoch) {
            let Some((taken, _, item)) = place.take() else { continue };
            seals = taken.seals;
            let shape = Shape {
                item,
                align: geometry::DEFAULT_ALIGN,
                traits: header::traits(item, policy),
                extra: None,
            };
            let record = taken.body.as_ptr().cast();
            // SAFETY: the pieces were taken for a secret of this length, and the record is complete.
            let object = unsafe { Object::assemble(Arc::clone(self), &taken, shape, record) };
            self.check_made(object.header())?;
            made.push(object);
        }
        drop(slot);
        self.after_seal(seals);
        Ok(of_epoch)
    }
}

/// How many of these lengths, one at least, may be worked on in one window.
fn within_bound(lengths: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0_usize;
    let fits = |len: &usize| {
        let first = bytes == 0;
        bytes = bytes.saturating_add(*len);
        first || bytes <= WINDOW_BYTES
    };
    lengths.take_while(fits).count()
}

/// A secret that is being opened with others.
struct Opening<'a> {
    header: &'a Header,
    lease: Lease,
    outcome: Result<(), Error>,
}

impl<'a> Opening<'a> {
    fn end(self) -> Result<Opened<'a>, Error> {
        let Self { header, lease, outcome } = self;
        match outcome {
            Ok(()) => {
                lease.write_canary(&header.machinery.canary);
                Ok(Opened::in_scratch(header, lease))
            }
            Err(error) => {
                // Wiped with it.
                lease.release();
                if header.gate.notify() {
                    header.end_left();
                }
                Err(error)
            }
        }
    }
}

/// Opens the first of these secrets, and others after it that have vault and key in common, as far as they find room.
/// Calls `open` with each in order, when the key has been put away; says how many that were.
pub(crate) fn open_many<'a>(
    objects: &[&'a Object],
    mut open: impl FnMut(Result<Opened<'a>, Error>),
) -> usize {
    let Some(first) = objects.first() else { return 0 };
    let machinery = first.machinery();
    let is_alike = |object: &&&Object| {
        let header = object.header();
        Arc::ptr_eq(object.machinery(), machinery) && header.is_plain()
    };
    let lengths = objects.iter().take(OPENS).take_while(is_alike).map(|object| object.len());
    let alike = within_bound(lengths);
    let mut openings: [Option<Opening<'a>>; OPENS] = [const { None }; OPENS];
    let batch = objects.get(..alike).unwrap_or_default();
    let tried = if alike < 2 { Ok(0) } else { machinery.open_batch(batch, &mut openings) };
    let count = tried.unwrap_or(0);
    // All of them, so that they end as views do if `open` panics.
    let opened = openings.map(|opening| opening.map(Opening::end));
    opened.into_iter().flatten().take(count).for_each(&mut open);
    if count == 0 {
        // One alone may do better, or says why not.
        open(first.open());
    }
    count.max(1)
}

impl Machinery {
    /// Fills `openings`, and says how many of them have been seen to; the others are still to be opened.
    fn open_batch<'a>(
        &self,
        objects: &[&'a Object],
        openings: &mut [Option<Opening<'a>>; OPENS],
    ) -> Result<usize, Error> {
        self.check_alive()?;
        let policy = &self.settings.policy;
        let (thread, wait) = (registry::thread(), policy.wait);
        let required = |object: &&Object| object.header().requires_lock();
        let lock = policy.requires_lock() || objects.iter().any(required);
        let mut key = Room(self.scratch.take(thread, NOBODY, 1, 1, lock, wait)?);
        // Or a fork would wait for us, and the next lease for the fork.
        key.0.close_window();
        for (place, object) in openings.iter_mut().zip(objects) {
            let header = object.header();
            let lock = header.requires_lock();
            let taken = self.scratch.take(thread, header.id, header.len, header.align(), lock, wait);
            let Ok(lease) = taken else { break };
            lease.close_window();
            *place = Some(Opening { header, lease, outcome: Err(Error::Closed) });
        }
        let mut leases: [&Lease; OPENS + 1] = [&key.0; OPENS + 1];
        for (place, opening) in leases.iter_mut().zip(openings.iter().flatten()) {
            *place = &opening.lease;
        }
        Lease::open_windows(&leases, wait)?;
        let outcome = self.open_in_windows(thread, &mut key.0, openings);
        openings.iter().flatten().for_each(|opening| opening.lease.close_window());
        outcome
    }

    /// Decrypts into the leases, whose windows are open, and closes that of the key's slot. Says how many of them have been
    /// seen to.
    #[allow(unsafe_code)]
    fn open_in_windows(
        &self,
        thread: registry::Thread,
        key: &mut Lease,
        openings: &mut [Option<Opening<'_>>; OPENS],
    ) -> Result<usize, Error> {
        let found = |header: &Header| {
            let Body::Sealed(sealed) = header.body() else { return None };
            let record = sealed.find(header)?;
            // SAFETY: found by one who is signed in, so it is not freed before the window is closed.
            Some((unsafe { sealed_in(header, record.as_ptr()) }, record.as_ptr()))
        };
        let mut sealed = [const { None }; OPENS];
        let (mut epoch, mut count) = (None, 0);
        for (place, opening) in sealed.iter_mut().zip(openings.iter().flatten()) {
            *place = found(opening.header);
            if let Some((_, record)) = place {
                show_large(&opening.lease, *record, opening.header.len);
            }
            if let Some((record, _)) = place
                && *epoch.get_or_insert(record.binding.epoch) != record.binding.epoch
            {
                // It wants another key.
                *place = None;
                break;
            }
            count += 1;
        }
        let Some(epoch) = epoch else {
            // All are closed.
            self.enclave.end_batch(key);
            return Ok(count);
        };
        self.enclave.with_key(thread, key, epoch, Check::Forged, |key| {
            for (sealed, opening) in sealed.iter().zip(openings.iter_mut().flatten()) {
                let Some((sealed, record)) = sealed else { continue };
                opening.outcome = match key.open(sealed, opening.lease.bytes_mut()) {
                    Ok(()) => Ok(()),
                    Err(Forged::Data) => Err(Error::Tampered),
                    // The key was wiped under us.
                    Err(Forged::Key) => return Err(Forged::Key),
                };
                if lost::any() && (opening.lease.is_poisoned() || is_lost(*record, opening.header.len)) {
                    opening.outcome = Err(Error::Poisoned);
                }
            }
            Ok(())
        })?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_bounded_in_bytes_but_has_one_at_least() {
        let half = WINDOW_BYTES / 2;
        for (lengths, expected) in [
            (&[][..], 0),
            (&[WINDOW_BYTES * 9, 1][..], 1),
            (&[half, half, 1][..], 2),
            (&[half, half + 1][..], 1),
            (&[usize::MAX, usize::MAX][..], 1),
            (&[32; 64][..], 64),
        ] {
            assert_eq!(within_bound(lengths.iter().copied()), expected, "{lengths:?}");
        }
    }
}

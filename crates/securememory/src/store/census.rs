//! All secrets of a vault, one after the other, while others come and go.

use std::ptr::NonNull;

use crate::error::Error;
use crate::store::header::Body;
use crate::store::machinery::Machinery;
use crate::store::object::Object;
use crate::store::roll::Place;
use crate::store::sealed::WINDOW_BYTES;

/// Secrets that are taken hold of with one look into the account.
pub(super) const BATCH: usize = 32;
/// Places of the roll that are looked at under the account's lock at most.
const LOOKS: usize = 512;

/// Secrets that were taken hold of.
pub(super) type Batch = [Option<Object>; BATCH];

/// Fills the batch by a walk, up to `most`. What the walk says is handed on.
pub(super) fn collect(
    objects: &mut [Option<Object>],
    walk: impl FnOnce(&mut dyn FnMut(NonNull<u8>) -> bool) -> Result<bool, Error>,
) -> Result<bool, Error> {
    let (mut places, mut looks, mut bytes) = (objects.iter_mut(), 0, 0_usize);
    let mut place = places.next();
    walk(&mut |piece| {
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
        place.is_some() && looks < LOOKS && bytes < WINDOW_BYTES
    })
}

impl Machinery {
    /// Calls `see` with the id and the label of each secret, until it says that it has seen enough.
    pub(crate) fn each_label(&self, mut see: impl FnMut(u64, Option<&str>) -> bool) {
        // Without the account there are no labels.
        let _ = self.each_secret(|object| see(object.id(), object.label()));
    }

    /// How many paged secrets have pages that could not be closed, and how many have pages that are not locked though they
    /// should be.
    pub(crate) fn paged_troubles(&self) -> (u64, u64) {
        let (mut stuck, mut unlocked) = (0, 0);
        if self.live().paged > 0 {
            // Without the account there is nothing to be found out.
            let _ = self.each_secret(|object| {
                let header = object.header();
                if let Body::Paged(paged) = header.body()
                    && !header.gate.is_final()
                {
                    stuck += u64::from(paged.is_stuck(header));
                    unlocked += u64::from(header.is_unlocked());
                }
                true
            });
        }
        (stuck, unlocked)
    }

    /// Calls `visit` with each secret and each chunk of a stream, until it says that it has seen enough. Those that are made
    /// or dropped meanwhile may be met or not. Nothing is locked while `visit` runs.
    pub(super) fn each_secret(&self, mut visit: impl FnMut(&Object) -> bool) -> Result<(), Error> {
        let mut place = Place::default();
        loop {
            let mut objects: Batch = [const { None }; BATCH];
            let more = collect(&mut objects, |look| self.ledger.walk_from(&mut place, look))?;
            if !objects.iter().flatten().all(&mut visit) || !more {
                return Ok(());
            }
        }
    }
}

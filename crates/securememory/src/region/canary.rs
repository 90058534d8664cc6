//! Random bytes around the data, by which writes that stay inside the page are noticed.

use crate::error::{Error, Side};
use crate::os;
use crate::region::geometry::{CANARY, Place};

/// The pattern of one vault. It is compared with what lies in memory that a fork wipes, so it lies in
/// ordinary memory itself; it is no secret worth more than that.
pub(crate) struct Canary([u64; CANARY / 8]);

impl Canary {
    pub(crate) fn new() -> Result<Self, Error> {
        let mut bytes = [0; CANARY];
        os::fill_random(&mut bytes)?;
        let (words, _) = bytes.as_chunks::<8>();
        Ok(Self(std::array::from_fn(|index| u64::from_ne_bytes(words[index]))))
    }

    fn byte(&self, index: usize) -> u8 {
        self.0[index / 8 % self.0.len()].to_ne_bytes()[index % 8]
    }

    /// Writes the canary below the data and over the slack above it.
    ///
    /// # Safety
    ///
    /// `base` points to `capacity` writable bytes that nobody else uses, `place` was computed for them.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) unsafe fn write(&self, base: *mut u8, capacity: usize, place: Place) {
        // SAFETY: `place` puts CANARY bytes below the data and keeps all of it inside `capacity`.
        unsafe {
            base.add(place.canary).cast::<[u64; CANARY / 8]>().write_unaligned(self.0);
            for offset in place.end..capacity {
                base.add(offset).write(self.byte(offset - place.end));
            }
        }
    }

    /// Looks whether both are as they were written.
    ///
    /// # Safety
    ///
    /// As for [`Self::write`], but readable suffices, and after it.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) unsafe fn check(&self, base: *const u8, capacity: usize, place: Place) -> Result<(), Error> {
        // SAFETY: see `write`.
        let (below, above) = unsafe {
            let below = base.add(place.canary).cast::<[u64; CANARY / 8]>().read_unaligned();
            let slack = place.end..capacity;
            let above = slack.fold(true, |same, o| same & (base.add(o).read() == self.byte(o - place.end)));
            (below == self.0, above)
        };
        match (below, above) {
            (true, true) => Ok(()),
            (false, _) => Err(Error::Overrun { side: Side::Below }),
            (_, false) => Err(Error::Overrun { side: Side::Above }),
        }
    }
}

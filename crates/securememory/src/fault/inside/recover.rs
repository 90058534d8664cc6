//! Memory that was lost, replaced so that the thread can go on: by noise, which nobody takes for a secret, nor for zeros.
//!
//! Whoever was reading it, in code of ours or in the program's, reads noise instead, and finds out when it ends: the page
//! is noted in [`crate::registry::lost`].

use super::examine::Found;
use crate::fault::chain::Delivery;
use crate::os::{self, signals};
use crate::registry::arenas::Purpose;
use crate::registry::arenas::anchor::ALIVE;
use crate::registry::lost;
use crate::shutdown::noise::Noise;

/// Replaces the page, if memory was lost there.
#[inline(never)]
#[allow(unsafe_code)]
pub(super) fn recover(delivery: &Delivery, found: &Found) -> bool {
    if delivery.failure() != Some(signals::Failure::Lost) {
        return false;
    }
    let page = os::page_size();
    let at = delivery.address & !page.wrapping_sub(1);
    // Before anybody can read the noise.
    if !lost::note(at) {
        return false;
    }
    let fill = |new: *mut u8| {
        // SAFETY: a new page, readable and writable.
        unsafe {
            Noise::new().fill(new, page);
            if found.purpose == Purpose::Anchor {
                // The vault has lost its key, but it is not a child's, and the process is not dying. The page begins with
                // the mark.
                new.cast::<u64>().write_volatile(ALIVE);
            }
        }
    };
    // Ciphertext lies in the allocator's memory, which must be there in a child, and may be swapped, as before.
    let secured = found.purpose != Purpose::Records;
    // SAFETY: a whole page inside an arena of ours, or inside a record of ours; its contents are lost.
    unsafe { signals::replace(at, page, secured, fill) }
}

//! Whose memory an address is, and what lies there.

use std::sync::atomic::Ordering;

use crate::fault::chain::Delivery;
use crate::os::{self, signals::Failure};
use crate::registry::arenas::{self, Arena, Purpose, Region, UNUSED};
use crate::registry::{self, FREE, Slot, WINDOW};

/// What is known of a fault in our memory.
#[derive(Clone, Copy)]
pub(super) struct Found {
    /// Whose: its vault, by the place in the registry.
    pub(super) vault: u32,
    pub(super) purpose: Purpose,
    pub(super) site: Site,
    /// The secret, zero: none, and bytes before its first, or beyond its last; zero where that does not apply.
    pub(super) secret: u64,
    pub(super) distance: usize,
    /// Its label, to be read with [`label`].
    pub(super) label: Label,
    /// Has the view or the secret ended?
    pub(super) ended: bool,
}

/// Where the address lies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Site {
    /// In the guard above a secret.
    Above,
    /// In the guard below.
    Below,
    /// In a guard, with no secret on either side.
    Guard,
    /// Where the bytes are.
    Inside,
    /// In a page that is not mapped any more, though we have not given it back.
    Unmapped,
}

/// Where a label is to be found, if it is still there when it is copied.
#[derive(Clone, Copy)]
pub(super) enum Label {
    None,
    OfSlot(*const Slot),
    OfRegion(*const Region),
}

/// A neighbour of the address.
#[derive(Clone, Copy)]
struct Tenant {
    secret: u64,
    data: usize,
    len: usize,
    ended: bool,
    label: Label,
}

/// Is the address of a fault ours?
pub(super) fn examine(delivery: &Delivery) -> Option<Found> {
    let process = os::process_id();
    let address = delivery.address;
    let arena = arenas::all().find(|arena| arena.contains(address) && arena.is_of(process));
    let Some(arena) = arena else { return in_window(delivery, process) };
    let purpose = arena.purpose()?;
    if purpose == Purpose::Records {
        return Some(found(arena, purpose, Site::Inside, None, 0));
    }
    let page = os::page_size();
    let stride = arena.capacity.load(Ordering::Relaxed).wrapping_add(page);
    let offset = address.wrapping_sub(arena.base.load(Ordering::Relaxed));
    let index = offset.checked_div(stride)?;
    let within = offset.wrapping_sub(index.wrapping_mul(stride));
    if within >= page {
        let tenant = if purpose == Purpose::Anchor { None } else { tenant(arena, index) };
        let site = if delivery.failure() == Some(Failure::Unmapped) { Site::Unmapped } else { Site::Inside };
        return Some(found(arena, purpose, site, tenant, 0));
    }
    // A guard: below the slot of that index, and above the one before. Where there are secrets on both sides, it is
    // taken for the one that is nearer.
    let above =
        index.checked_sub(1).and_then(|index| tenant(arena, index)).map(|tenant| (Site::Above, tenant));
    let below = tenant(arena, index).map(|tenant| (Site::Below, tenant));
    let nearer_above = within < page / 2;
    let chosen = match (above, below) {
        (Some(above), Some(below)) if above.1.ended == below.1.ended => {
            Some(if nearer_above { above } else { below })
        }
        (Some(above), Some(below)) => Some(if below.1.ended { above } else { below }),
        (one, other) => one.or(other),
    };
    let Some((site, tenant)) = chosen else { return Some(found(arena, purpose, Site::Guard, None, 0)) };
    let distance = match site {
        Site::Above => address.wrapping_sub(tenant.data.wrapping_add(tenant.len)).wrapping_add(1),
        _ => tenant.data.wrapping_sub(address),
    };
    // Whose guard it is, also of an anchor.
    let purpose = if purpose == Purpose::Anchor { Purpose::Scratch } else { purpose };
    Some(found(arena, purpose, site, Some(tenant), distance))
}

fn found(arena: &Arena, purpose: Purpose, site: Site, tenant: Option<Tenant>, distance: usize) -> Found {
    let vault = arena.vault.load(Ordering::Relaxed);
    let (secret, label, ended) =
        tenant.map_or((0, Label::None, false), |tenant| (tenant.secret, tenant.label, tenant.ended));
    Found { vault, purpose, site, secret, distance, label, ended }
}

/// Who is, or was, in a slot.
#[allow(unsafe_code)]
fn tenant(arena: &Arena, index: usize) -> Option<Tenant> {
    if index >= arena.count() {
        return None;
    }
    if arena.is_for(Purpose::Anchor) {
        return view_in(arena).and_then(tenant_of);
    }
    let (slots, regions) = (arena.slots.load(Ordering::Acquire), arena.regions.load(Ordering::Acquire));
    if !slots.is_null() {
        // SAFETY: as many as the arena has; a table is freed only after its arenas are withdrawn. Should that be happening
        // at this moment, then the fault was in memory that is being freed under the thread that reads it.
        return tenant_of(unsafe { &*slots.add(index) });
    }
    if !regions.is_null() {
        // SAFETY: as above.
        let region = unsafe { &*regions.add(index) };
        let ended = region.state.load(Ordering::Acquire) == UNUSED;
        let (data, len) = (region.data.load(Ordering::Relaxed), region.len.load(Ordering::Relaxed));
        let secret = region.secret.load(Ordering::Relaxed);
        return (secret != 0).then_some(Tenant { secret, data, len, ended, label: Label::OfRegion(region) });
    }
    None
}

/// The view that lies in an anchor, behind the shares: on large pages that is the first one of its vault.
#[allow(unsafe_code)]
fn view_in(anchor: &Arena) -> Option<&'static Slot> {
    let vault = anchor.vault.load(Ordering::Relaxed);
    let first = registry::vaults::views(os::process_id()).find(|views| views.vault == vault)?.first;
    // SAFETY: a table of at least one slot, as in `tenant`.
    let slot = unsafe { &*first };
    anchor.contains(slot.base.load(Ordering::Relaxed).addr()).then_some(slot)
}

/// Whose view is, or was, in a slot of scratch.
fn tenant_of(slot: &Slot) -> Option<Tenant> {
    let secret = slot.shown.load(Ordering::Relaxed);
    let ended = slot.state.load(Ordering::Acquire) == FREE;
    let (data, len) = (slot.data.load(Ordering::Relaxed), slot.len.load(Ordering::Relaxed));
    (secret != 0 && len != 0).then_some(Tenant { secret, data, len, ended, label: Label::OfSlot(slot) })
}

/// Ciphertext that is too large for our slabs lies in the allocator's memory. A page that is whole inside of what this
/// thread is decrypting, or is sealing into, is ours, too.
fn in_window(delivery: &Delivery, process: u32) -> Option<Found> {
    if delivery.failure() != Some(Failure::Lost) {
        return None;
    }
    let page = os::page_size();
    let start = delivery.address & !page.wrapping_sub(1);
    own_window(process, |vault, slot| {
        let (record, len) = (slot.record.load(Ordering::Relaxed), slot.record_len.load(Ordering::Relaxed));
        let is_inside = start >= record && start.wrapping_add(page) <= record.wrapping_add(len);
        is_inside.then(|| Found {
            vault,
            purpose: Purpose::Records,
            site: Site::Inside,
            secret: slot.secret.load(Ordering::Relaxed),
            distance: 0,
            label: Label::OfSlot(slot),
            ended: false,
        })
    })
}

/// Is this thread decrypting or sealing? Then there is a key or a secret in its registers.
pub(super) fn is_in_window() -> bool {
    own_window(os::process_id(), |_, _| Some(())).is_some()
}

/// Looks at the slots by which this thread is in a window, until there is something.
#[allow(unsafe_code)]
fn own_window<T>(process: u32, look: impl Fn(u32, &Slot) -> Option<T>) -> Option<T> {
    let thread = os::thread_id() as u32;
    for views in registry::vaults::views(process) {
        let mut index = 0_usize;
        while index < views.len {
            // SAFETY: a table of so many slots, that is not freed while its vault is listed.
            let slot = unsafe { &*views.first.add(index) };
            index = index.wrapping_add(1);
            if slot.thread.load(Ordering::Relaxed) as u32 == thread
                && slot.state.load(Ordering::Acquire) == WINDOW
                && let Some(found) = look(views.vault, slot)
            {
                return Some(found);
            }
        }
    }
    None
}

/// Copies a label, if it is still the secret's when that is done, with `each` for each byte. How many bytes.
#[allow(unsafe_code)]
pub(super) fn label(found: &Found, mut each: impl FnMut(usize, u8)) -> usize {
    // SAFETY: slots and regions are as in `tenant`.
    let source = || unsafe {
        match found.label {
            Label::None => (0, std::ptr::null_mut()),
            Label::OfSlot(slot) if (*slot).state.load(Ordering::Acquire) == FREE => (0, std::ptr::null_mut()),
            Label::OfSlot(slot) => {
                ((*slot).secret.load(Ordering::Acquire), (*slot).label.load(Ordering::Acquire))
            }
            Label::OfRegion(region) => {
                ((*region).secret.load(Ordering::Acquire), (*region).label.load(Ordering::Acquire))
            }
        }
    };
    let before = source();
    let (secret, label) = before;
    if label.is_null() || secret != found.secret {
        return 0;
    }
    // SAFETY: the secret has not ended, so its label is there. Should it be ending at this moment, in another thread,
    // then what was copied is thrown away below.
    let (at, len) = unsafe { ((&*label).as_ptr(), (&*label).len().min(crate::fault::report::LABEL)) };
    let mut index = 0_usize;
    while index < len {
        // SAFETY: as above.
        each(index, unsafe { at.add(index).read_volatile() });
        index = index.wrapping_add(1);
    }
    std::sync::atomic::fence(Ordering::Acquire);
    if source() == before { len } else { 0 }
}

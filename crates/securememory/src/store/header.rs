//! All there is to a secret but its bytes, in a cache line.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering, fence};
use std::time::Duration;

use crate::error::Error;
use crate::gate::{Deadline, Gate};
use crate::policy::Policy;
use crate::region::lease::Lease;
use crate::store::expiry::Expiry;
use crate::store::ledger::{Item, Kind};
use crate::store::machinery::Machinery;
use crate::store::paged::Paged;
use crate::store::sealed::{MOMENT, Sealed};

/// What most secrets do without.
pub(super) struct Extra {
    policy: Option<Policy>,
    pub(super) label: Option<String>,
    pub(super) expiry: Option<Expiry>,
}

impl Extra {
    pub(super) fn make(
        policy: Option<Policy>,
        label: Option<String>,
        expiry: Option<Expiry>,
    ) -> Result<Option<Box<[Self; 1]>>, Error> {
        if policy.is_none() && label.is_none() && expiry.is_none() {
            return Ok(None);
        }
        let no_memory = Error::OutOfMemory { bytes: std::mem::size_of::<Self>() };
        let mut extra = Vec::new();
        extra.try_reserve_exact(1).map_err(|_| no_memory)?;
        extra.push(Self { policy, label, expiry });
        extra.into_boxed_slice().try_into().map(Some).map_err(|_| no_memory)
    }
}

/// How the secret is kept.
pub(super) enum Body<'a> {
    Sealed(&'a Sealed),
    Paged(&'a Paged),
}

/// All there is to a secret but its bytes. As small as can be, since a vault may have a million of them.
#[repr(C)]
pub(super) struct Header {
    pub(super) gate: Gate,
    /// Zero where there is no secret, see [`super::roll`]; so it is written last.
    pub(super) references: AtomicU32,
    /// Is it in the vault's list of lingering secrets? See [`crate::store::linger`].
    pub(super) lingers: AtomicU8,
    /// The last attempt to close the pages of a paged secret has failed.
    pub(super) stuck: AtomicBool,
    pub(super) traits: u8,
    /// The alignment, as a power of two.
    pub(super) align_bits: u8,
    pub(super) id: u64,
    pub(super) len: usize,
    /// Of a paged secret, the pointer inside is to its [`Paged`].
    pub(super) sealed: Sealed,
    pub(super) machinery: Arc<Machinery>,
    /// At most one; an array, because its allocation can fail without an abort.
    pub(super) extra: Option<Box<[Extra; 1]>>,
}

/// The secret is paged.
const PAGED: u8 = 1;
/// Its policy has a linger.
const MAY_LINGER: u8 = 2;
/// It has an expiry.
const EXPIRES: u8 = 4;
/// It is a chunk of a stream.
const CHUNK: u8 = 8;
/// It is sealed because pages could not be locked.
pub(super) const NEXT_STORE: u8 = 16;
/// Its pages are not locked, though they should be.
pub(super) const UNLOCKED: u8 = 32;

/// What is to be remembered of a secret with this policy.
pub(super) fn traits(item: Item, policy: &Policy) -> u8 {
    let of = |is: bool, bit: u8| if is { bit } else { 0 };
    of(item.kind == Kind::Paged, PAGED)
        | of(item.chunk, CHUNK)
        | of(!policy.linger.is_zero(), MAY_LINGER)
        | of(policy.expires(), EXPIRES)
}

/// Bytes of a header.
pub(super) const HEADER: usize = std::mem::size_of::<Header>();
#[cfg(all(target_pointer_width = "64", not(loom)))]
const _: () = assert!(HEADER == 64, "a cache line");
const _: () = assert!(std::mem::align_of::<Header>() <= crate::store::slab::ALIGN);
const _: () = assert!(std::mem::offset_of!(Header, references) >= 8);

impl Header {
    #[inline]
    pub(super) fn kind(&self) -> Kind {
        if self.traits & PAGED == 0 { Kind::Sealed } else { Kind::Paged }
    }

    /// For the account.
    pub(super) fn item(&self) -> Item {
        Item { kind: self.kind(), chunk: self.traits & CHUNK != 0, len: self.len }
    }

    #[inline]
    #[allow(unsafe_code)]
    pub(super) fn body(&self) -> Body<'_> {
        match self.kind() {
            Kind::Sealed => Body::Sealed(&self.sealed),
            // SAFETY: set by `Object::make`, and freed with the header.
            Kind::Paged => Body::Paged(unsafe { &*self.sealed.pointer().cast() }),
        }
    }

    pub(super) fn align(&self) -> usize {
        1 << self.align_bits
    }

    #[inline]
    pub(super) fn may_linger(&self) -> bool {
        self.traits & MAY_LINGER != 0
    }

    /// Are its pages not locked, though they should be?
    pub(super) fn is_unlocked(&self) -> bool {
        self.traits & UNLOCKED != 0
    }

    /// Is it sealed because pages could not be locked?
    pub(super) fn is_next_store(&self) -> bool {
        self.traits & NEXT_STORE != 0
    }

    /// Is it sealed, and its time does not matter?
    pub(super) fn is_plain(&self) -> bool {
        self.traits & (PAGED | EXPIRES) == 0
    }

    #[inline]
    pub(super) fn expires(&self) -> bool {
        self.traits & EXPIRES != 0
    }

    pub(super) fn extra(&self) -> Option<&Extra> {
        self.extra.as_ref().map(|extra| {
            let [extra] = &**extra;
            extra
        })
    }

    /// For who explains a fault; null: there is none.
    #[inline]
    pub(super) fn label_pointer(&self) -> *mut String {
        let label = self.extra().and_then(|extra| extra.label.as_ref());
        label.map_or(std::ptr::null_mut(), |label| std::ptr::from_ref(label).cast_mut())
    }

    #[inline]
    pub(super) fn policy(&self) -> &Policy {
        let own = self.extra().and_then(|extra| extra.policy.as_ref());
        own.unwrap_or(&self.machinery.settings.policy)
    }

    /// Has a close revoked this view?
    #[inline]
    pub(super) fn is_revoked(&self, view: &Lease) -> bool {
        self.gate.is_revoked() || view.is_due()
    }

    /// Does this secret insist on locked scratch?
    #[inline]
    pub(super) fn requires_lock(&self) -> bool {
        self.policy().requires_lock()
    }

    #[inline]
    pub(super) fn check_alive(&self) -> Result<(), Error> {
        self.machinery.check_alive()
    }

    /// Wipes what is at rest, if the secret is closed and nobody is inside by the deadline; `None`: no sealed reader can
    /// be there, or the secret is not sealed.
    pub(super) fn try_end(&self, deadline: Option<Deadline>) -> Result<(), Error> {
        loop {
            if !self.gate.begin_final() {
                return Ok(());
            }
            let wiped = match self.body() {
                Body::Sealed(sealed) => sealed.end(self, deadline),
                Body::Paged(paged) => paged.end(self).map(|()| true),
            };
            if let Ok(true) = wiped {
                self.gate.end_final();
                return Ok(());
            }
            self.gate.abort_final();
            wiped?;
            // A reader that ended meanwhile found us at it, and left the end to us.
            fence(Ordering::SeqCst);
            if !self.machinery.scratch.quiesce(self.id, Deadline::after(Duration::ZERO)) {
                return Ok(());
            }
        }
    }

    /// For a view of a sealed secret that has ended: does what a close that met it, and did not wait, has left to it.
    #[cold]
    pub(super) fn end_left(&self) {
        fence(Ordering::SeqCst);
        let _ = self.try_end(Some(Deadline::after(MOMENT)));
        self.machinery.after_last_view();
    }
}

/// What a header says of its secret.
pub(super) struct Shape {
    pub(super) item: Item,
    pub(super) align: usize,
    /// As [`traits`] says.
    pub(super) traits: u8,
    pub(super) extra: Option<Box<[Extra; 1]>>,
}

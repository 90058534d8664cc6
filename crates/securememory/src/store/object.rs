//! A secret at rest: a counted reference to its header.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering, fence};
use std::time::Duration;

use crate::enclave::cipher::for_len;
use crate::error::{Error, Outstanding, TryError};
use crate::gate::{Deadline, Gate};
use crate::policy::{OnClose, Policy, Store};
use crate::region::geometry;
use crate::registry::{self, READER, WRITER};
use crate::status::{AtRest, Status};
use crate::store::linger;
use crate::store::machinery::Machinery;
use crate::store::paged::Paged;
use crate::store::sealed::{MOMENT, Sealed};
use crate::store::slab::{Slabs, Taken};

/// Labels are cut from the same slabs as secrets.
pub(crate) const MAX_LABEL: usize = 255;

/// What a secret is to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spec {
    pub(crate) align: Option<usize>,
    pub(crate) store: Option<Store>,
    pub(crate) policy: Option<Policy>,
    pub(crate) label: Option<String>,
}

/// What most secrets do without.
struct Extra {
    policy: Option<Policy>,
    label: Option<String>,
}

impl Extra {
    fn make(policy: Option<Policy>, label: Option<String>) -> Result<Box<[Self]>, Error> {
        let mut extra = Vec::new();
        if policy.is_some() || label.is_some() {
            let no_memory = |_| Error::OutOfMemory { bytes: std::mem::size_of::<Self>() };
            extra.try_reserve_exact(1).map_err(no_memory)?;
            extra.push(Self { policy, label });
        }
        Ok(extra.into_boxed_slice())
    }
}

/// How the secret is kept.
pub(super) enum Body {
    Sealed(Sealed),
    Paged(Paged),
}

/// All there is to a secret but its bytes.
pub(super) struct Header {
    pub(super) gate: Gate,
    references: AtomicU32,
    /// Is it in the vault's list of lingering secrets? See [`crate::store::linger`].
    pub(super) lingers: AtomicU8,
    /// Has its policy a linger?
    pub(super) may_linger: bool,
    /// The last attempt to close the pages of a paged secret has failed.
    pub(super) stuck: AtomicBool,
    /// The alignment, as a power of two.
    align_bits: u8,
    pub(super) id: u64,
    pub(super) len: usize,
    pub(super) body: Body,
    pub(super) machinery: Arc<Machinery>,
    /// At most one; a slice, because its allocation can fail without an abort.
    extra: Box<[Extra]>,
}

impl Header {
    pub(super) fn align(&self) -> usize {
        1 << self.align_bits
    }

    #[inline]
    pub(super) fn policy(&self) -> &Policy {
        let own = self.extra.first().and_then(|extra| extra.policy.as_ref());
        own.unwrap_or(&self.machinery.settings.policy)
    }

    /// Does this secret insist on locked scratch?
    #[inline]
    pub(super) fn requires_lock(&self) -> bool {
        self.policy().levels().lock == crate::policy::Level::Require
    }

    #[inline]
    pub(super) fn check_alive(&self) -> Result<(), Error> {
        if self.machinery.enclave.is_alive() { Ok(()) } else { Err(Error::Forked) }
    }

    /// Wipes what is at rest, if the secret is closed and nobody is inside by the deadline; `None`: no sealed reader can
    /// be there, or the secret is not sealed.
    pub(super) fn try_end(&self, deadline: Option<Deadline>) -> Result<(), Error> {
        loop {
            if !self.gate.begin_final() {
                return Ok(());
            }
            let wiped = match &self.body {
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
    }
}

/// What writes a secret's first value into protected memory.
pub(crate) trait Source<E> {
    /// Is it code of the user's? Then no key may be at hand while it runs.
    const FOREIGN: bool;

    fn write(self, room: &mut [u8]) -> Result<(), TryError<E>>;
}

/// The pieces of a secret in the making: given back unless it is made, also where the source panics.
struct Pieces<'a> {
    slabs: &'a Slabs,
    taken: &'a Taken,
    size: usize,
}

impl Pieces<'_> {
    fn keep(self) {
        let _ = std::mem::ManuallyDrop::new(self);
    }
}

impl Drop for Pieces<'_> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: of no secret: whoever made one has called `keep`.
        unsafe { self.slabs.give_secret(Some((self.taken.header, HEADER)), self.taken.body, self.size) };
    }
}

/// A counted reference to a secret.
pub(crate) struct Object(NonNull<Header>);

// SAFETY: a header is shared by many threads: its gate governs access to the body, the rest never changes.
#[allow(unsafe_code)]
unsafe impl Send for Object {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Object {}

const HEADER: usize = std::mem::size_of::<Header>();
const _: () = assert!(std::mem::align_of::<Header>() <= crate::store::slab::ALIGN);

impl Object {
    /// Makes a secret of `len` bytes that `source` writes, in protected memory. On an error everything that
    /// it has written is wiped.
    #[allow(unsafe_code)]
    pub(crate) fn make<E>(
        machinery: Arc<Machinery>,
        mut spec: Spec,
        len: usize,
        source: impl Source<E>,
    ) -> Result<Self, TryError<E>> {
        let page = crate::os::page_size();
        if len == 0 {
            return Err(Error::Empty.into());
        }
        let align = spec.align.unwrap_or(geometry::DEFAULT_ALIGN);
        geometry::check_align(align, page)?;
        let policy = spec.policy.as_ref().unwrap_or(&machinery.settings.policy);
        let may_linger = !policy.linger.is_zero();
        let levels = policy.levels();
        if levels.fork == crate::policy::Level::Off {
            return Err(Error::Unsupported("a secret that a forked child inherits").into());
        }
        if let Some(label) = spec.label.as_ref().filter(|label| label.len() > MAX_LABEL) {
            return Err(Error::LabelTooLong { len: label.len(), limit: MAX_LABEL }.into());
        }
        if !machinery.enclave.is_alive() {
            return Err(Error::Forked.into());
        }
        let settings = &machinery.settings;
        let sealed = match spec.store.unwrap_or(settings.store) {
            Store::Sealed => true,
            Store::Paged => false,
            Store::Auto => len <= settings.sealed_max,
        };
        // Before the body: what has been made cannot fail any more.
        // The label is taken, not copied: a copy would end the process where there is no memory.
        let extra = Extra::make(spec.policy.clone(), spec.label.take())?;
        let size = if sealed { Sealed::size(len)? } else { Paged::SIZE };
        let taken = machinery.slabs.take_secret(HEADER, size)?;
        let pieces = Pieces { slabs: &machinery.slabs, taken: &taken, size };
        let body = if sealed {
            machinery.enclave.satisfies(levels)?;
            Body::Sealed(Sealed::make(&machinery, &taken, policy, (len, align), source)?)
        } else if levels.secretmem == crate::policy::Level::Require {
            return Err(Error::NotInForce(crate::error::Protection::Secretmem).into());
        } else {
            Body::Paged(Paged::make(&machinery, &taken, policy, (len, align), source)?)
        };
        pieces.keep();
        let header = taken.header.cast::<Header>();
        // SAFETY: a fresh piece of the right size and alignment.
        unsafe {
            header.write(Header {
                gate: Gate::new(),
                references: AtomicU32::new(1),
                lingers: AtomicU8::new(linger::NEVER),
                may_linger,
                stuck: AtomicBool::new(false),
                align_bits: align.trailing_zeros() as u8,
                id: taken.id,
                len,
                body,
                machinery,
                extra,
            });
        }
        Ok(Self(header))
    }

    #[inline]
    #[allow(unsafe_code)]
    pub(super) fn header(&self) -> &Header {
        // SAFETY: a header lives as long as there is a reference, and only its atomics change.
        unsafe { self.0.as_ref() }
    }

    pub(crate) fn id(&self) -> u64 {
        self.header().id
    }

    pub(crate) fn len(&self) -> usize {
        self.header().len
    }

    pub(crate) fn policy(&self) -> &Policy {
        self.header().policy()
    }

    pub(crate) fn machinery(&self) -> &Arc<Machinery> {
        &self.header().machinery
    }

    pub(crate) fn label(&self) -> Option<&str> {
        self.header().extra.first().and_then(|extra| extra.label.as_deref())
    }

    pub(crate) fn status(&self) -> Status {
        let header = self.header();
        let (store, version, at_rest, stuck_open, protections) = match &header.body {
            Body::Sealed(sealed) => {
                let protections = header.machinery.protections();
                let (version, at_rest) = sealed.at_rest(header).unzip();
                (Store::Sealed, version.unwrap_or(0), at_rest, false, protections)
            }
            Body::Paged(paged) => {
                let place = paged.at_rest(header);
                (Store::Paged, paged.version(), place, paged.is_stuck(header), paged.protections(header))
            }
        };
        let is_sealed = store == Store::Sealed;
        let enclave = &header.machinery.enclave;
        Status {
            id: header.id,
            vault_id: header.machinery.id,
            version,
            len: header.len,
            store,
            cipher: is_sealed.then(|| for_len(enclave.cipher(), header.len)),
            hold: is_sealed.then(|| enclave.hold().used()),
            open_views: header.machinery.holders(header.id).views(),
            closed: header.gate.is_closed(),
            stuck_open,
            at_rest: at_rest
                .filter(|_| !header.gate.is_final())
                .map(|(address, len)| AtRest { address, len }),
            protections,
        }
    }

    /// Closes: `Ok(None)` when it is wiped, otherwise the views that are left, which `mode` was applied to.
    pub(crate) fn close(&self, wait: Duration, mode: OnClose) -> Result<Option<Outstanding>, Error> {
        let header = self.header();
        header.check_alive()?;
        let machinery = &header.machinery;
        if machinery.holds(header.id, registry::thread(), &[READER, WRITER]) {
            return Err(Error::WouldDeadlock);
        }
        header.gate.close();
        let deadline = Deadline::after(wait);
        loop {
            header.try_end(Some(deadline))?;
            // In this order: who was inside until the end, and has gone on to be an owned view, is in its slot by then.
            let ended = header.gate.is_final();
            let views = machinery.holders(header.id);
            if ended && views.views == 0 {
                return Ok(None);
            }
            if let Some(left) = deadline.left() {
                header.gate.nap(left);
                continue;
            }
            if mode == OnClose::Revoke {
                header.gate.revoke();
                machinery.scratch.revoke(header.id);
            }
            return Ok(Some(views));
        }
    }
}

/// References to one secret at most: far below what the count holds, so that a few too many in the moment of a check do
/// no harm.
const MAX_REFERENCES: u32 = 1 << 30;

impl Object {
    /// A clone, unless there are so many that the count could overflow.
    pub(super) fn try_clone(&self) -> Result<Self, Error> {
        if self.header().references.load(Ordering::Relaxed) >= MAX_REFERENCES {
            return Err(Error::TooManyViews { limit: MAX_REFERENCES as usize });
        }
        // As in Arc: a new reference needs no ordering.
        self.header().references.fetch_add(1, Ordering::Relaxed);
        Ok(Self(self.0))
    }
}

impl Drop for Object {
    #[inline]
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        let header = self.header();
        // Where there is one reference, it is this one, and nobody can make another.
        if header.references.load(Ordering::Acquire) != 1 {
            if header.references.fetch_sub(1, Ordering::Release) != 1 {
                return;
            }
            fence(Ordering::Acquire);
        }
        // A child leaves alone what it inherited.
        if !header.machinery.enclave.is_alive() {
            return;
        }
        if header.lingers.load(Ordering::Acquire) != linger::NEVER {
            header.machinery.lingering.forget(self.0);
        }
        // A borrowed view that was forgotten may still be counted, but can no longer be used: it borrowed the secret
        // that is being dropped. So there is nobody whom the gate would have to keep out.
        let body = if header.gate.is_final() {
            None
        } else {
            match &header.body {
                Body::Sealed(sealed) => sealed.take(header),
                Body::Paged(paged) => paged.take(header).unwrap_or_else(|cause| {
                    tracing::warn!(secret = header.id, %cause, "a secret was dropped that cannot be wiped yet");
                    paged.abandon(header)
                }),
            }
        };
        // SAFETY: this was the last reference. The machinery must outlive the pieces that came from its slabs.
        unsafe {
            let header = self.0.read();
            let piece = self.0.cast();
            let slabs = &header.machinery.slabs;
            match body {
                Some((body, size)) => slabs.give_secret(Some((piece, HEADER)), body, size),
                None => slabs.give(piece, HEADER),
            }
        }
    }
}

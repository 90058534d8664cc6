//! A secret at rest: a counted reference to its header.

use std::convert::Infallible;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering, fence};
use std::time::Duration;

use crate::enclave::Binding;
use crate::enclave::cipher::for_len;
use crate::error::{Error, Outstanding, TryError};
use crate::gate::{Deadline, Gate};
use crate::policy::{OnClose, Policy, Store};
use crate::region::{bytes, geometry};
use crate::registry::{self, READER, WRITER};
use crate::status::{AtRest, Status};
use crate::store::ledger::{Choice, Kind, Ledger, Retired, Taken};
use crate::store::linger;
use crate::store::machinery::Machinery;
use crate::store::paged::Paged;
use crate::store::sealed::{MOMENT, Record, Sealed};

/// Bytes of a label at most.
pub(crate) const MAX_LABEL: usize = 255;

/// What a secret is to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spec {
    pub(crate) align: Option<usize>,
    pub(crate) store: Option<Store>,
    pub(crate) policy: Option<Policy>,
    pub(crate) label: Option<String>,
    /// Where the secret is a chunk of a stream: then it is sealed, whatever the store, and is never changed.
    pub(crate) position: Option<Position>,
}

/// The place of a chunk. It takes the place of a secret's id and version in what the seal is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The stream's id, which no secret of the vault has.
    pub(crate) stream: u64,
    pub(crate) index: u64,
    /// Is it the last chunk of a stream that is complete?
    pub(crate) last: bool,
}

impl Position {
    const CHUNK: u64 = 1 << 63;
    const LAST: u64 = 1 << 62;
    /// No chunk of a stream that has bytes comes so far.
    pub(crate) const MAX_INDEX: u64 = Self::LAST - 1;

    /// As the version of a record.
    pub(crate) fn version(self) -> u64 {
        Self::CHUNK | if self.last { Self::LAST } else { 0 } | (self.index & Self::MAX_INDEX)
    }

    /// What the seal of the chunk at this place, in a stream of this vault, is bound to.
    pub(super) fn binding(self, vault: u64, epoch: u64) -> Binding {
        Binding { vault, secret: self.stream, version: self.version(), epoch }
    }
}

/// What most secrets do without.
pub(super) struct Extra {
    policy: Option<Policy>,
    label: Option<String>,
}

impl Extra {
    fn make(policy: Option<Policy>, label: Option<String>) -> Result<Option<Box<[Self; 1]>>, Error> {
        if policy.is_none() && label.is_none() {
            return Ok(None);
        }
        let no_memory = Error::OutOfMemory { bytes: std::mem::size_of::<Self>() };
        let mut extra = Vec::new();
        extra.try_reserve_exact(1).map_err(|_| no_memory)?;
        extra.push(Self { policy, label });
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
    references: AtomicU32,
    /// Is it in the vault's list of lingering secrets? See [`crate::store::linger`].
    pub(super) lingers: AtomicU8,
    /// The last attempt to close the pages of a paged secret has failed.
    pub(super) stuck: AtomicBool,
    traits: u8,
    /// The alignment, as a power of two.
    align_bits: u8,
    pub(super) id: u64,
    pub(super) len: usize,
    /// Of a paged secret, the pointer inside is to its [`Paged`].
    sealed: Sealed,
    pub(super) machinery: Arc<Machinery>,
    /// At most one; an array, because its allocation can fail without an abort.
    extra: Option<Box<[Extra; 1]>>,
}

/// The secret is paged.
const PAGED: u8 = 1;
/// Its policy has a linger.
const MAY_LINGER: u8 = 2;

/// Bytes of a header.
pub(super) const HEADER: usize = std::mem::size_of::<Header>();
#[cfg(all(target_pointer_width = "64", not(loom)))]
const _: () = assert!(HEADER == 64, "a cache line");
const _: () = assert!(std::mem::align_of::<Header>() <= crate::store::slab::ALIGN);
const _: () = assert!(std::mem::offset_of!(Header, references) >= 8);

impl Header {
    #[inline]
    fn kind(&self) -> Kind {
        if self.traits & PAGED == 0 { Kind::Sealed } else { Kind::Paged }
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

    fn extra(&self) -> Option<&Extra> {
        self.extra.as_ref().map(|extra| {
            let [extra] = &**extra;
            extra
        })
    }

    #[inline]
    pub(super) fn policy(&self) -> &Policy {
        let own = self.extra().and_then(|extra| extra.policy.as_ref());
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
    }
}

/// What writes a secret's first value into protected memory.
pub(crate) trait Source<E> {
    /// Is it code of the user's? Then no key may be at hand while it runs.
    const FOREIGN: bool;

    /// The bytes, where they lie somewhere already: then they can be sealed from there, without another copy.
    fn bytes(&self) -> Option<&[u8]> {
        None
    }

    fn write(self, room: &mut [u8]) -> Result<(), TryError<E>>;
}

/// Bytes that are there and become a secret.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl Source<Infallible> for Bytes<'_> {
    const FOREIGN: bool = false;

    #[inline]
    fn bytes(&self) -> Option<&[u8]> {
        Some(self.0)
    }

    #[inline]
    fn write(self, room: &mut [u8]) -> Result<(), TryError<Infallible>> {
        bytes::copy_slice(room, self.0);
        Ok(())
    }
}

/// The pieces of a secret in the making: given back unless it is made, also where the source panics.
struct Pieces<'a> {
    ledger: &'a Ledger,
    taken: Taken,
    kind: Kind,
    size: usize,
}

impl Pieces<'_> {
    fn keep(self) -> Taken {
        std::mem::ManuallyDrop::new(self).taken
    }
}

impl Drop for Pieces<'_> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: of no secret: whoever made one has called `keep`.
        unsafe { self.ledger.untake(self.kind, &self.taken, self.size) };
    }
}

/// What a header says of its secret.
pub(super) struct Shape {
    pub(super) kind: Kind,
    pub(super) len: usize,
    pub(super) align: usize,
    pub(super) may_linger: bool,
    pub(super) extra: Option<Box<[Extra; 1]>>,
}

/// A counted reference to a secret.
pub(crate) struct Object(NonNull<Header>);

// SAFETY: a header is shared by many threads: its gate governs access to the body, the rest never changes.
#[allow(unsafe_code)]
unsafe impl Send for Object {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Object {}

impl Object {
    /// Makes a secret of `len` bytes that `source` writes, in protected memory. On an error everything that
    /// it has written is wiped.
    #[allow(unsafe_code)]
    pub(crate) fn make<E, S: Source<E>>(
        machinery: Arc<Machinery>,
        mut spec: Spec,
        len: usize,
        source: S,
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
        let kind = match spec.store.unwrap_or(machinery.settings.store) {
            _ if spec.position.is_some() => Kind::Sealed,
            store => machinery.settings.kind_for(store, len),
        };
        if kind == Kind::Sealed {
            machinery.enclave.satisfies(levels)?;
        } else if levels.secretmem == crate::policy::Level::Require {
            return Err(Error::NotInForce(crate::error::Protection::Secretmem).into());
        }
        // Before the body: what has been made cannot fail any more.
        // The label is taken, not copied: a copy would end the process where there is no memory.
        let extra = Extra::make(spec.policy.clone(), spec.label.take())?;
        let size = if kind == Kind::Sealed { Sealed::size(len)? } else { Paged::SIZE };
        let choice = if S::FOREIGN { Choice::Later } else { Choice::Now };
        let id = spec.position.map(|position| position.stream);
        let taken = machinery.ledger.take_secret((kind, choice), size, id)?;
        let mut pieces = Pieces { ledger: &machinery.ledger, taken, kind, size };
        let version = spec.position.map_or(0, Position::version);
        let taken = &mut pieces.taken;
        let record = match kind {
            Kind::Sealed => Sealed::make(&machinery, taken, policy, (len, align, version), source)?,
            Kind::Paged => Paged::make(&machinery, taken, policy, (len, align), source)?.cast(),
        };
        let taken = pieces.keep();
        let shape = Shape { kind, len, align, may_linger, extra };
        // SAFETY: the pieces are a secret's from now on, and `record` is what was made in the body.
        let object = unsafe { Self::assemble(machinery, &taken, shape, record) };
        if kind == Kind::Sealed {
            object.machinery().after_seal(taken.seals);
        }
        Ok(object)
    }

    /// Makes a secret of what is complete but for its header. Cannot fail.
    ///
    /// # Safety
    ///
    /// The pieces were taken from this vault's ledger, and nobody else will use or give them back. `record` is the body,
    /// with a record of that length, or with a [`Paged`].
    #[allow(unsafe_code)]
    pub(super) unsafe fn assemble(
        machinery: Arc<Machinery>,
        taken: &Taken,
        shape: Shape,
        record: *mut Record,
    ) -> Self {
        let Shape { kind, len, align, may_linger, extra } = shape;
        let paged = if kind == Kind::Paged { PAGED } else { 0 };
        let header = Header {
            gate: Gate::new(),
            references: AtomicU32::new(0),
            lingers: AtomicU8::new(linger::NEVER),
            stuck: AtomicBool::new(false),
            traits: paged | if may_linger { MAY_LINGER } else { 0 },
            align_bits: align.trailing_zeros() as u8,
            id: taken.id,
            len,
            sealed: Sealed::new(record),
            machinery,
            extra,
        };
        // SAFETY: a fresh piece of the right size and alignment.
        unsafe { Self::write_header(taken.header, header) }
    }

    /// Fills a header's piece. Whoever walks through the roll may look at its count of references meanwhile: so
    /// that is not written with the rest, but last, as an atomic.
    ///
    /// # Safety
    ///
    /// A piece of the roll of the vault, taken for this.
    #[allow(unsafe_code)]
    unsafe fn write_header(piece: NonNull<u8>, header: Header) -> Self {
        let Header { gate, lingers, stuck, traits, align_bits, id, len, sealed, machinery, extra, .. } =
            header;
        let at = piece.cast::<Header>();
        // SAFETY: as the caller vouches.
        unsafe {
            let at = at.as_ptr();
            (&raw mut (*at).gate).write(gate);
            (&raw mut (*at).lingers).write(lingers);
            (&raw mut (*at).stuck).write(stuck);
            (&raw mut (*at).traits).write(traits);
            (&raw mut (*at).align_bits).write(align_bits);
            (&raw mut (*at).id).write(id);
            (&raw mut (*at).len).write(len);
            (&raw mut (*at).sealed).write(sealed);
            (&raw mut (*at).machinery).write(machinery);
            (&raw mut (*at).extra).write(extra);
            (*at).references.store(1, Ordering::Release);
        }
        Self(at)
    }

    /// A reference to the secret whose header is in this piece of the roll, if there is one.
    ///
    /// # Safety
    ///
    /// A piece of the roll, whose ledger's lock the caller has, so that no piece is given back meanwhile.
    #[allow(unsafe_code)]
    pub(super) unsafe fn upgrade(piece: NonNull<u8>) -> Option<Self> {
        let at = piece.cast::<Header>();
        // SAFETY: in use or not, this part of the piece is an atomic number.
        let references = unsafe { &(*at.as_ptr()).references };
        let one_more = |count| (1..MAX_REFERENCES).contains(&count).then_some(count + 1);
        // Acquire: the rest of the header was written before.
        references.fetch_update(Ordering::Acquire, Ordering::Relaxed, one_more).ok()?;
        Some(Self(at))
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
        self.header().extra().and_then(|extra| extra.label.as_deref())
    }

    pub(crate) fn status(&self) -> Status {
        let header = self.header();
        let (store, (version, epoch), at_rest, stuck_open, protections) = match header.body() {
            Body::Sealed(sealed) => {
                let protections = header.machinery.protections();
                let found = sealed.at_rest(header);
                let (version, epoch, place) = found.map_or((0, 0, None), |(v, e, place)| (v, e, Some(place)));
                (Store::Sealed, (version, epoch), place, false, protections)
            }
            Body::Paged(paged) => {
                let place = paged.at_rest(header);
                let stuck = paged.is_stuck(header);
                (Store::Paged, (paged.version(), 0), place, stuck, paged.protections(header))
            }
        };
        let is_sealed = store == Store::Sealed;
        let enclave = &header.machinery.enclave;
        Status {
            id: header.id,
            vault_id: header.machinery.id,
            version,
            epoch,
            len: header.len,
            store,
            cipher: is_sealed.then(|| for_len(enclave.cipher(), header.len)),
            hold: is_sealed.then(|| enclave.used()),
            open_views: header.machinery.holders(header.id).views(),
            closed: header.gate.is_closed(),
            stuck_open,
            at_rest: at_rest
                .filter(|_| !header.gate.is_final())
                .map(|(address, len)| AtRest { address, len }),
            protections,
        }
    }

    /// Turns away whoever comes from now on.
    pub(crate) fn begin_close(&self) -> Result<(), Error> {
        let header = self.header();
        header.check_alive()?;
        if header.machinery.holds(header.id, registry::thread(), &[READER, WRITER]) {
            return Err(Error::WouldDeadlock);
        }
        header.gate.close();
        Ok(())
    }

    /// Closes: `Ok(None)` when it is wiped, otherwise the views that are left, which `mode` was applied to.
    pub(crate) fn close(&self, wait: Duration, mode: OnClose) -> Result<Option<Outstanding>, Error> {
        self.begin_close()?;
        let header = self.header();
        let machinery = &header.machinery;
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
        // Never by a look at the count alone: whoever walks through the roll may make a reference at any time.
        if header.references.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
        // A child leaves alone what it inherited.
        if !header.machinery.enclave.is_alive() {
            return;
        }
        if header.lingers.load(Ordering::Acquire) != linger::NEVER {
            header.machinery.lingering.forget(self.0);
        }
        // A borrowed view that was forgotten may still be counted, but can no longer be used: it borrowed the secret
        // that is being dropped. So there is nobody whom the gate would have to keep out.
        let ends = !header.gate.is_final();
        let body = match header.body() {
            Body::Sealed(sealed) => sealed.take(header),
            Body::Paged(paged) => {
                if ends && let Err(cause) = paged.take(header) {
                    tracing::warn!(secret = header.id, %cause, "a secret was dropped that cannot be wiped yet");
                    paged.abandon(header);
                }
                let at = NonNull::from(paged).cast();
                Some(Retired { secret: header.id, at, size: Paged::SIZE, epoch: 0 })
            }
        };
        let kind = header.kind();
        // SAFETY: this was the last reference. The machinery must outlive the pieces that came from its ledger.
        unsafe {
            let header = self.0.read();
            header.machinery.ledger.give_secret(self.0.cast(), kind, body, ends);
        }
    }
}

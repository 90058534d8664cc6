//! A secret at rest: a counted reference to its header.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering, fence};
use std::time::Duration;

use crate::counters::{self, Count};
use crate::enclave::cipher::for_len;
use crate::error::{Error, Outstanding, Protection, TryError};
use crate::events::{self, Note};
use crate::gate::{Deadline, Gate};
use crate::policy::{OnClose, Policy, Store};
use crate::region::geometry;
use crate::registry::{self, MAX_LABEL, READER, WRITER};
use crate::status::{AtRest, Status};
use crate::store::expiry::Expiry;
use crate::store::header::{self, Body, Extra, Header, NEXT_STORE, Shape, UNLOCKED};
use crate::store::ledger::{Choice, Item, Kind, Ledger, Retired, Taken};
use crate::store::linger;
use crate::store::machinery::Machinery;
use crate::store::paged::{Draft, Paged};
use crate::store::sealed::{MOMENT, Record, Sealed};
use crate::store::spec::{Position, Source, Spec};

/// The pieces of a secret in the making: given back unless it is made, also where the source panics.
struct Pieces<'a> {
    ledger: &'a Ledger,
    taken: Taken,
    item: Item,
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
        unsafe { self.ledger.untake(self.item, &self.taken, self.size) };
    }
}

/// Seals what `source` writes, or keeps it in the pages that were reserved for it.
fn make_body<E, S: Source<E>>(
    machinery: &Machinery,
    (taken, pages): (&mut Taken, Option<Draft<'_>>),
    policy: &Policy,
    (len, align, version): (usize, usize, u64),
    source: S,
) -> Result<*mut Record, TryError<E>> {
    match pages {
        None => Sealed::make(machinery, taken, policy, (len, align, version), source),
        Some(pages) => Ok(Paged::make(pages, taken, (len, align), source)?.cast()),
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
        let levels = policy.levels();
        machinery.check_fork(levels.fork)?;
        if let Some(label) = spec.label.as_ref().filter(|label| label.len() > MAX_LABEL) {
            return Err(Error::LabelTooLong { len: label.len(), limit: MAX_LABEL }.into());
        }
        machinery.check_alive()?;
        let store = spec.store.unwrap_or(machinery.settings.store);
        let mut kind = match store {
            _ if spec.position.is_some() => Kind::Sealed,
            store => machinery.settings.kind_for(store, len),
        };
        if kind == Kind::Sealed {
            machinery.enclave.satisfies(levels)?;
        } else if levels.secretmem == crate::policy::Level::Require {
            return Err(Error::NotInForce(Protection::Secretmem).into());
        }
        let (mut pages, mut degraded) = (None, 0);
        if kind == Kind::Paged {
            match Paged::reserve(&machinery, policy, (len, align)) {
                Ok(reserved) => {
                    degraded = if reserved.is_unlocked() { UNLOCKED } else { 0 };
                    pages = Some(reserved);
                }
                Err(Error::Refused { protection: Protection::Lock, cause }) if policy.may_seal(store) => {
                    machinery.enclave.satisfies(levels)?;
                    machinery.note_next_store(cause);
                    (kind, degraded) = (Kind::Sealed, NEXT_STORE);
                }
                Err(error) => return Err(error.into()),
            }
        }
        // Before the body: what has been made cannot fail any more.
        // The label is taken, not copied: a copy would end the process where there is no memory.
        let extra = Extra::make(spec.policy.clone(), spec.label.take(), Expiry::of(policy))?;
        let size = if kind == Kind::Sealed { Sealed::size(len)? } else { Paged::SIZE };
        let choice = if S::FOREIGN { Choice::Later } else { Choice::Now };
        let id = spec.position.map(|position| position.stream);
        let item = Item { kind, chunk: id.is_some(), len };
        let taken = machinery.ledger.take_secret((item, choice), size, id)?;
        let mut pieces = Pieces { ledger: &machinery.ledger, taken, item, size };
        let version = spec.position.map_or(0, Position::version);
        let taken = &mut pieces.taken;
        let record = make_body(&machinery, (taken, pages), policy, (len, align, version), source)?;
        let taken = pieces.keep();
        let shape = Shape { item, align, traits: header::traits(item, policy) | degraded, extra };
        // SAFETY: the pieces are a secret's from now on, and `record` is what was made in the body.
        let object = unsafe { Self::assemble(machinery, &taken, shape, record) };
        if let Body::Paged(paged) = object.header().body() {
            paged.show_label(object.header());
        }
        let machinery = object.machinery();
        machinery.check_made(object.header())?;
        if object.header().expires() {
            machinery.expect_expiry(object.header());
        }
        if kind == Kind::Sealed {
            machinery.after_seal(taken.seals);
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
        let Shape { item, align, traits, extra } = shape;
        counters::add(match (item.kind, item.chunk) {
            (Kind::Paged, _) => Count::PagedMade,
            (Kind::Sealed, false) => Count::SealedMade,
            (Kind::Sealed, true) => Count::ChunksMade,
        });
        let header = Header {
            gate: Gate::new(),
            references: AtomicU32::new(0),
            lingers: AtomicU8::new(linger::NEVER),
            stuck: AtomicBool::new(false),
            traits,
            align_bits: align.trailing_zeros() as u8,
            id: taken.id,
            len: item.len,
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
            next_store: header.is_next_store(),
            open_views: header.machinery.holders(header.id).views(),
            closed: header.gate.is_closed() || header.machinery.is_closed(),
            stuck_open,
            at_rest: at_rest
                .filter(|_| !header.gate.is_final())
                .map(|(address, len)| AtRest { address, len }),
            protections,
        }
    }

    /// Version, epoch, address and length of what is at rest of a sealed secret, in a child, too.
    ///
    /// # Safety
    ///
    /// Nobody else uses the secret.
    #[cfg(feature = "testing")]
    #[allow(unsafe_code)]
    pub(crate) unsafe fn look(&self) -> Option<(u64, u64, (usize, usize))> {
        let header = self.header();
        match header.body() {
            // SAFETY: as the caller vouches.
            Body::Sealed(sealed) => unsafe { sealed.look(header) },
            Body::Paged(_) => None,
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
        // Also without patience: readers decrypt for less than that, and whoever moves records to another key is for all
        // secrets a reader meanwhile, but ends only those that it has in hand.
        let moment = Deadline::after(wait.max(MOMENT));
        loop {
            header.try_end(Some(moment))?;
            // In this order: who was inside until the end, and has gone on to be an owned view, is in its slot by then.
            let ended = header.gate.is_final();
            let views = machinery.holders(header.id);
            if ended && views.views == 0 {
                machinery.ledger.settle();
                return Ok(None);
            }
            if let Some(left) = deadline.left() {
                header.gate.nap(left);
                continue;
            }
            match (mode, header.policy().revoke_after) {
                (OnClose::Revoke, _) => {
                    header.gate.revoke();
                    machinery.scratch.revoke(header.id);
                }
                (OnClose::Defer, Some(after)) => machinery.revoke_later(after, |id| id == header.id),
                (OnClose::Defer, None) => {}
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
        if header.lingers.load(Ordering::Acquire) != linger::NEVER
            && !header.machinery.lingering.forget(self.0)
        {
            return;
        }
        // SAFETY: this was the last reference, and nobody else looks at the header.
        unsafe { bury(self.0) };
    }
}

/// Ends a secret, and gives back what it had.
///
/// # Safety
///
/// There is no reference to the header any more, and nobody looks at it. The vault is this process's.
#[allow(unsafe_code)]
pub(super) unsafe fn bury(at: NonNull<Header>) {
    // SAFETY: complete, and not freed yet.
    let header = unsafe { at.as_ref() };
    // A borrowed view that was forgotten may still be counted, but can no longer be used: it borrowed the secret
    // that is being dropped. So there is nobody whom the gate would have to keep out.
    let ends = !header.gate.is_final();
    let body = match header.body() {
        Body::Sealed(sealed) => sealed.take(header),
        Body::Paged(paged) => {
            let paged_at = NonNull::from(paged);
            let mut in_use = false;
            if ends && let Err(cause) = paged.take(header) {
                events::note(Note::Unwiped, header.id, events::cause(cause.call()));
                // SAFETY: this was the last reference.
                in_use = unsafe { Paged::abandon(paged_at, header) };
            }
            let body = Retired { secret: header.id, at: paged_at.cast(), size: Paged::SIZE, epoch: 0 };
            (!in_use).then_some(body)
        }
    };
    let item = header.item();
    // SAFETY: this was the last reference. The machinery must outlive the pieces that came from its ledger.
    unsafe {
        let header = at.read();
        header.machinery.ledger.give_secret(at.cast(), item, body, ends);
    }
}

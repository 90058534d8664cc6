//! The machinery of sealed secrets: the cipher, and the keys, which are lent for the moment of their use.
//!
//! From before the key is lent to the end of the scrub a thread is in its *window*. All that works with the
//! key runs below a call that is not inlined, so that when it has returned, everything it put on the stack
//! lies below the frame of the one who scrubs.

pub(crate) mod cipher;
pub(crate) mod epoch;
mod heritage;
pub(crate) mod hold;
mod in_hand;
mod record;

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Protection};
use crate::os;
use crate::policy::{Cipher, Hold, Level, Levels};
use crate::region::lease::Lease;
use crate::region::scrub;
use crate::region::{both, verify};
use crate::registry::Thread;
use crate::registry::dying::why_gone;
use crate::registry::vaults::Seat;
use crate::status::{Achieved, HoldUsed, Protections};
use cipher::{Forged, KEY, NONCE};
use epoch::Epochs;
use hold::anchor::{Anchor, MAX_SHARES};
use hold::{Held, KeyHold, broken, lost};

pub(crate) use hold::Check;
pub(crate) use in_hand::{InHand, Nonces};
pub(crate) use record::{Binding, Envelope, Sealed};

/// What is to be told of a vault's keys.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Keys {
    pub(crate) live: usize,
    /// Is a page of one open at rest?
    pub(crate) stuck: bool,
    /// Of the newest.
    pub(crate) replicas: usize,
    pub(crate) renewed: usize,
    pub(crate) refused: Option<Error>,
}

/// The cipher and the keys of one vault.
pub(crate) struct Enclave {
    cipher: Cipher,
    anchor: Anchor,
    epochs: Epochs,
    levels: Levels,
    /// What was found in force at creation, on all that holds the key and its shares. Every later key has as much.
    at_creation: Protections,
    /// The hold of the first key, and so of all.
    used: HoldUsed,
    stepped_down: Option<Error>,
    closed: AtomicBool,
    /// Bytes of stack to wipe after a window.
    scrub_depth: usize,
}

impl Enclave {
    pub(crate) fn make(
        wish: Hold,
        wish_level: Level,
        cipher: Option<Cipher>,
        levels: Levels,
        seat: Seat,
    ) -> Result<Self, Error> {
        let cipher = cipher.unwrap_or_else(cipher::choose);
        cipher::available(cipher)?;
        // Before there is anything that would stay.
        hold::choice::check(wish, wish_level, levels)?;
        let mut anchor = Anchor::make(levels, seat)?;
        match KeyHold::make(wish, wish_level, cipher, &anchor, epoch::cell_of(1), levels) {
            Ok((hold, stepped_down)) => Ok(Self {
                cipher,
                levels,
                at_creation: protections_of(&anchor, &hold),
                anchor,
                used: hold.used(),
                epochs: Epochs::new(hold),
                stepped_down,
                closed: AtomicBool::new(false),
                scrub_depth: scrub::depth(cipher::stack(cipher)),
            }),
            Err(error) => {
                anchor.end();
                Err(error)
            }
        }
    }

    pub(crate) fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// The key hold in use.
    pub(crate) fn used(&self) -> HoldUsed {
        self.used
    }

    pub(crate) fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    pub(crate) fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    pub(crate) fn stepped_down(&self) -> Option<Error> {
        self.stepped_down
    }

    #[inline]
    pub(crate) fn is_alive(&self) -> bool {
        self.anchor.is_alive()
    }

    /// Bytes locked with `keys` keys.
    pub(crate) fn locked_bytes(&mut self, keys: usize) -> usize {
        let each = self.epochs.all_mut().next().map_or(0, |hold| hold.locked_bytes());
        self.anchor.locked_bytes() + keys * each
    }

    /// What is in force now on all that holds keys and their shares.
    pub(crate) fn protections(&self) -> Protections {
        // A child leaves the locks alone that it inherited.
        if !self.is_alive() {
            return self.anchor.protections();
        }
        // Looked up afterwards, since that takes its time. A key's page that is gone by then is found nowhere, and believed.
        let mut places = [None; epoch::LIVE];
        if let Ok(keys) = self.epochs.freeze() {
            let held = keys.live().filter_map(|epoch| keys.key(epoch).and_then(KeyHold::held));
            places.iter_mut().zip(held).for_each(|(place, held)| *place = Some(held));
        }
        let found = places.into_iter().flatten().map(|Held { at, len, claimed }| verify(at, len, claimed));
        found.fold(self.anchor.protections(), both)
    }

    /// What was found in force there at creation.
    pub(crate) fn protections_at_creation(&self) -> Protections {
        self.at_creation
    }

    /// What is to be told of the keys.
    pub(crate) fn keys(&self) -> Keys {
        if !self.is_alive() {
            return Keys::default();
        }
        let Ok(keys) = self.epochs.freeze() else { return Keys::default() };
        let replicas = keys.newest_key().map_or((0, 0), |hold| hold.replicas(&self.anchor));
        Keys {
            live: keys.live().count(),
            stuck: keys.live().filter_map(|epoch| keys.key(epoch)).any(KeyHold::is_stuck),
            replicas: replicas.0,
            renewed: replicas.1,
            refused: keys.refused(),
        }
    }

    /// Destroys a split key as a process that ends has to; see [`KeyHold::wipe`].
    #[cfg(feature = "testing")]
    pub(crate) fn wipe_newest(&self, between: impl FnOnce()) -> bool {
        let keys = self.epochs.freeze();
        keys.is_ok_and(|keys| keys.newest_key().is_some_and(|hold| hold.wipe(&self.anchor, between)))
    }

    /// Refuses where a secret requires more than the vault got.
    #[inline]
    pub(crate) fn satisfies(&self, levels: Levels) -> Result<(), Error> {
        meets(&self.at_creation, levels)?;
        if levels.lock == Level::Require && !self.anchor.is_as_locked() {
            return Err(Error::NotInForce(Protection::Lock));
        }
        if levels.secretmem == Level::Require && self.used != HoldUsed::Secretmem {
            return Err(Error::NotInForce(Protection::Secretmem));
        }
        Ok(())
    }

    /// An error where this is not the process that the keys belong to: in a child, also in one that shares our memory.
    pub(crate) fn check_owner(&self) -> Result<(), Error> {
        if self.anchor.is_owner() { Ok(()) } else { Err(why_gone()) }
    }

    /// A fresh key like the ones that there are, for this epoch.
    pub(crate) fn make_key(&self, epoch: u64) -> Result<KeyHold, Error> {
        // The files of a child that shares our memory would be its own.
        self.check_owner()?;
        let wish = match self.used {
            HoldUsed::Pkey => Hold::Pkey,
            HoldUsed::Split => Hold::Split,
            HoldUsed::Secretmem => Hold::Secretmem,
            HoldUsed::Guarded => Hold::Guarded,
        };
        let cell = epoch::cell_of(epoch);
        let levels = Levels { secretmem: Level::Off, ..self.levels };
        let (mut hold, _) = KeyHold::make(wish, Level::Require, self.cipher, &self.anchor, cell, levels)?;
        // A vault's promise to its secrets is for all its keys.
        let promised = &self.at_creation;
        let of = |achieved: Achieved| if achieved.got { Level::Require } else { Level::Off };
        let lock = if self.anchor.is_as_locked() { of(promised.lock) } else { self.levels.lock };
        let (dump, fork) = (of(promised.dump), of(promised.fork));
        let got = protections_of(&self.anchor, &hold);
        match meets(&got, Levels { lock, dump, fork, ..levels }) {
            Ok(()) => Ok(hold),
            Err(error) => {
                hold.destroy(&self.anchor);
                Err(error)
            }
        }
    }

    /// The key of an epoch, for a thread that is in its window.
    #[inline]
    #[allow(unsafe_code)]
    fn key(&self, epoch: u64) -> Result<&KeyHold, Error> {
        // SAFETY: called by what runs in a window only, and used no longer than that.
        unsafe { self.epochs.key(epoch) }.ok_or_else(|| self.without_key(epoch))
    }

    /// There is no key any more, and will be none: the vault is closed.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Why a record's key is not there. An epoch that never was is not what the record was made with.
    #[cold]
    fn without_key(&self, epoch: u64) -> Error {
        match self.is_alive() {
            false => why_gone(),
            true if self.is_closed() => Error::Closed,
            true if self.epochs.had(epoch) => Error::Purged,
            true => Error::Tampered,
        }
    }

    /// What an error of a window means: a key that was lost in the middle of its use may have been purged.
    #[cold]
    fn explain(&self, error: Error, epoch: u64) -> Error {
        if error == Error::KeyLost && !self.epochs.has(epoch) { self.without_key(epoch) } else { error }
    }

    /// Is there a key of this epoch?
    pub(crate) fn check_epoch(&self, epoch: u64) -> Result<(), Error> {
        if self.epochs.has(epoch) { Ok(()) } else { Err(self.without_key(epoch)) }
    }

    fn in_hand<'a>(&self, key: &'a [u8; KEY], hold: &'a KeyHold) -> InHand<'a> {
        InHand { cipher: self.cipher, key, confirmation: hold.confirmation() }
    }

    /// Decrypts into a slot whose window is open, and closes the window. On an error the data is wiped.
    #[inline]
    pub(crate) fn open(&self, thread: Thread, slot: &mut Lease, sealed: &Sealed<'_>) -> Result<(), Error> {
        let outcome = self.open_in_window(thread, slot, sealed);
        if outcome.is_err() {
            slot.wipe_data();
        }
        self.end_window(slot);
        outcome.map_err(|error| self.explain(error, sealed.binding.epoch))
    }

    #[inline(never)]
    fn open_in_window(&self, thread: Thread, slot: &mut Lease, sealed: &Sealed<'_>) -> Result<(), Error> {
        let hold = self.key(sealed.binding.epoch)?;
        for _ in 0..=MAX_SHARES {
            let opened = hold.lend(&self.anchor, thread.index(), slot, Check::Forged, |key, data| {
                self.in_hand(key, hold).open(sealed, data)
            })?;
            match opened {
                Ok(()) => return Ok(()),
                Err(Forged::Data) => return Err(Error::Tampered),
                Err(Forged::Key) if hold.distrust(&self.anchor, slot) => {}
                Err(Forged::Key) => break,
            }
        }
        Err(lost(&self.anchor))
    }

    /// Encrypts what lies in a slot whose window is open, or elsewhere, into `out`, which is as long, and closes the
    /// window. On an error nothing that was made may be published.
    #[inline]
    pub(crate) fn seal(
        &self,
        thread: Thread,
        slot: &mut Lease,
        binding: Binding,
        elsewhere: Option<&[u8]>,
        out: &mut [MaybeUninit<u8>],
    ) -> Result<Envelope, Error> {
        let outcome = self.seal_in_window(thread, slot, binding, elsewhere, out);
        self.end_window(slot);
        outcome.map_err(|error| self.explain(error, binding.epoch))
    }

    #[inline(never)]
    fn seal_in_window(
        &self,
        thread: Thread,
        slot: &mut Lease,
        binding: Binding,
        elsewhere: Option<&[u8]>,
        out: &mut [MaybeUninit<u8>],
    ) -> Result<Envelope, Error> {
        let hold = self.key(binding.epoch)?;
        let mut nonce = [0; NONCE];
        os::fill_random(&mut nonce)?;
        let len = out.len();
        for _ in 0..=MAX_SHARES {
            let sealed = hold.lend(&self.anchor, thread.index(), slot, Check::Always, |key, data| {
                let key = self.in_hand(key, hold);
                // Before anything is made, so that another key may be tried, with the nonce that was not used yet.
                if !key.is_right() {
                    return Err(Forged::Key);
                }
                broken::in_window();
                key.seal(binding, &nonce, elsewhere.unwrap_or(data), out)
            })?;
            match sealed {
                Ok(envelope) => return Ok(envelope),
                Err(Forged::Data) => return Err(Error::TooLarge { len, limit: isize::MAX as usize }),
                Err(Forged::Key) if hold.distrust(&self.anchor, slot) => {}
                Err(Forged::Key) => break,
            }
        }
        Err(lost(&self.anchor))
    }

    /// Has `work` done with one key in hand, which it may use many times, and closes the window of the slot. On an error
    /// nothing that was sealed may be published. `work` may neither panic nor call code of the user's.
    pub(crate) fn with_key(
        &self,
        thread: Thread,
        slot: &mut Lease,
        epoch: u64,
        when: Check,
        work: impl FnOnce(&InHand<'_>) -> Result<(), Forged>,
    ) -> Result<(), Error> {
        let outcome = self.with_key_in_window(thread, slot, epoch, when, work);
        self.end_batch(slot);
        outcome.map_err(|error| self.explain(error, epoch))
    }

    #[inline(never)]
    fn with_key_in_window(
        &self,
        thread: Thread,
        slot: &mut Lease,
        epoch: u64,
        when: Check,
        work: impl FnOnce(&InHand<'_>) -> Result<(), Forged>,
    ) -> Result<(), Error> {
        let hold = self.key(epoch)?;
        let mut work = Some(work);
        for _ in 0..=MAX_SHARES {
            let done = hold.lend(&self.anchor, thread.index(), slot, when, |key, _| {
                let key = self.in_hand(key, hold);
                if !key.is_right() {
                    return Err(Forged::Key);
                }
                work.take().map_or(Err(Forged::Key), |work| work(&key))
            })?;
            match done {
                Ok(()) => return Ok(()),
                Err(Forged::Data) => return Err(Error::Tampered),
                Err(Forged::Key) if work.is_some() && hold.distrust(&self.anchor, slot) => {}
                Err(Forged::Key) => break,
            }
        }
        Err(lost(&self.anchor))
    }

    /// The same with the keys of two epochs, the first of which opens and the second seals, and with the data of the
    /// first slot. Both windows stay open, for who publishes what was made: [`Self::end_batch`] closes them.
    #[inline(never)]
    pub(crate) fn with_two_keys(
        &self,
        thread: Thread,
        (from, old_slot): (u64, &mut Lease),
        (to, new_slot): (u64, &mut Lease),
        work: impl FnOnce(&InHand<'_>, &InHand<'_>, &mut [u8]),
    ) -> Result<(), Error> {
        let (old, new) = (self.key(from)?, self.key(to)?);
        let anchor = &self.anchor;
        let outcome = new.lend(anchor, thread.index(), new_slot, Check::Always, |new_key, _| {
            let new_key = self.in_hand(new_key, new);
            if !new_key.is_right() {
                return Err(Forged::Key);
            }
            Ok(old.lend_within(new, anchor, thread.index(), old_slot, Check::Forged, |old_key, data| {
                let old_key = self.in_hand(old_key, old);
                if !old_key.is_right() {
                    return Err(Forged::Key);
                }
                work(&old_key, &new_key, data);
                Ok(())
            }))
        })?;
        // What is found wrong will not be lent again; then the next attempt has another replica.
        match outcome {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(_))) => drop(old.distrust(anchor, old_slot)),
            Ok(Err(error)) => return Err(error),
            Err(_) => drop(new.distrust(anchor, new_slot)),
        }
        Err(lost(anchor))
    }

    #[inline]
    fn end_window(&self, slot: &Lease) {
        slot.wipe_head();
        scrub::after_window(self.scrub_depth);
        slot.close_window();
    }

    /// Closes the window of a slot after work on many records.
    pub(crate) fn end_batch(&self, slot: &Lease) {
        slot.wipe_head();
        scrub::after_window(scrub::depth(cipher::stack(self.cipher) + BATCH_STACK));
        slot.close_window();
    }

    /// Destroys all keys; in a child that inherited them, does nothing.
    pub(crate) fn erase_keys(&mut self) {
        let Self { anchor, epochs, .. } = self;
        // What lies in memory first, of all of them.
        epochs.all_mut().for_each(|hold| _ = hold.wipe(anchor, || ()));
        epochs.all_mut().for_each(|hold| hold.erase(anchor));
    }

    /// Gives back what the system gave for the keys, which have been erased, and then the page that everything else hung
    /// on. The last call; in the owner process only.
    pub(crate) fn end(&mut self) {
        let Self { anchor, epochs, .. } = self;
        epochs.all_mut().for_each(|hold| hold.release(anchor));
        anchor.end();
    }
}

/// Bytes of stack that work on many records takes more than that on one; measured by the test
/// `the_cipher_path_stays_above_the_scrubbed_depth`.
const BATCH_STACK: usize = if cfg!(debug_assertions) { 8192 } else { 2048 };

/// What was found in force at creation on the memory that a key lies in.
fn protections_of(anchor: &Anchor, hold: &KeyHold) -> Protections {
    let own = *anchor.protections_at_creation();
    hold.held().map_or(own, |held| both(own, held.claimed))
}

/// Is there every protection that is required?
fn meets(got: &Protections, levels: Levels) -> Result<(), Error> {
    let wanted = [
        (Protection::Lock, levels.lock, got.lock),
        (Protection::Dump, levels.dump, got.dump),
        (Protection::Fork, levels.fork, got.fork),
    ];
    match wanted.into_iter().find(|(_, level, achieved)| *level == Level::Require && !achieved.got) {
        None => Ok(()),
        Some((protection, _, Achieved { refused: Some(cause), .. })) => {
            Err(Error::Refused { protection, cause })
        }
        Some((protection, ..)) => Err(Error::NotInForce(protection)),
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

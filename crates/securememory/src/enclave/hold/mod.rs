//! Key holds: how a vault's key is at rest, and how it is lent for the moment of its use.
//!
//! The contract: [`KeyHold::lend`] calls the work with the key, and vouches for it by a check value that is kept
//! beside the key and wiped before it. After the work it is looked at again: an error says that the key, or what it
//! came from, was wiped meanwhile. So nothing is published that was sealed under a wiped key.
//!
//! That the key is the vault's, the check value cannot say where key and check value are changed apart: a stray write to
//! a share's file may hit the key half only. The work says so, by the key's [`Confirmation`]. Then [`KeyHold::distrust`]
//! sees to it that the key is not lent from there again.
//!
//! `Pkey` and `Secretmem` lend the key where it lies, see [`in_place`]. `Split` and `Guarded` put it into a scratch
//! head first. Layout of the head: `[ key 32 | what the check is computed from 32 | place of share B 8 ]`.

pub(crate) mod anchor;
pub(crate) mod broken;
pub(crate) mod choice;
mod door;
mod guarded;
mod in_place;
mod replica;
pub(crate) mod split;

use std::ptr::NonNull;

use crate::enclave::cipher::{Confirmation, Forged, KEY};
use crate::error::Error;
use crate::region::lease::Lease;
use crate::registry::dying::why_gone;
use crate::status::{HoldUsed, Protections};
use anchor::Anchor;
use guarded::Guarded;
use in_place::InPlace;
use split::Split;

/// Offset of the check half in a head, and in a share.
const CHECK_AT: usize = KEY;
/// Bytes of the check value.
const CHECK: usize = 32;
/// Where it is kept in a head which of the places for shares B the key came from.
const REPLICA_AT: usize = KEY + CHECK;

/// The key of one vault at rest.
pub(crate) enum KeyHold {
    Pkey(InPlace),
    Split(Split),
    Secretmem(InPlace),
    Guarded(Guarded),
}

/// Where a key lies, and what was found in force there at creation.
#[derive(Clone, Copy)]
pub(crate) struct Held {
    pub(crate) at: NonNull<u8>,
    pub(crate) len: usize,
    pub(crate) claimed: Protections,
}

/// When it is looked after the work whether the key was right until then.
#[derive(Clone, Copy)]
pub(crate) enum Check {
    /// Always: what was made would be published.
    Always,
    /// When the work found its data forged: what it vouches for was made under the right key.
    Forged,
}

impl Check {
    #[inline]
    fn applies<R>(self, outcome: &Result<R, Forged>) -> bool {
        matches!(self, Self::Always) || outcome.is_err()
    }
}

impl KeyHold {
    /// Does `work` with the key and the data of a slot whose window is open. `when` says whether the key is checked
    /// afterwards. On an error the work has not been done, or must be thrown away.
    ///
    /// The work may neither panic nor call code of the user's. What it leaves of the key on the stack is the caller's
    /// to scrub; what is left in the slot's head, too.
    #[inline]
    pub(crate) fn lend<R>(
        &self,
        anchor: &Anchor,
        thread: usize,
        slot: &mut Lease,
        when: Check,
        work: impl FnOnce(&[u8; KEY], &mut [u8]) -> Result<R, Forged>,
    ) -> Result<Result<R, Forged>, Error> {
        match self {
            Self::Pkey(page) | Self::Secretmem(page) => page.lend(anchor, slot.bytes_mut(), when, None, work),
            Self::Split(_) | Self::Guarded(_) => {
                self.fetch(anchor, thread, slot)?;
                let (key, data) = slot.key_and_data();
                let outcome = work(key, data);
                // The shares, or the key in the slot, may have been wiped after the fetch: by a fork, a purge, a dying
                // process. What was sealed then may be readable for anybody.
                let right = || self.is_intact(anchor, slot) || broken::skips(broken::SEAL);
                if when.applies(&outcome) && !right() {
                    return Err(lost(anchor));
                }
                Ok(outcome)
            }
        }
    }

    /// The same within the work with another key, the outer one.
    pub(crate) fn lend_within<R>(
        &self,
        outer: &Self,
        anchor: &Anchor,
        thread: usize,
        slot: &mut Lease,
        when: Check,
        work: impl FnOnce(&[u8; KEY], &mut [u8]) -> Result<R, Forged>,
    ) -> Result<Result<R, Forged>, Error> {
        match (self, outer) {
            (Self::Pkey(page) | Self::Secretmem(page), Self::Pkey(outer) | Self::Secretmem(outer)) => {
                page.lend(anchor, slot.bytes_mut(), when, Some(outer), work)
            }
            _ => self.lend(anchor, thread, slot, when, work),
        }
    }

    /// Puts the key into the head of a slot. On an error the head has been wiped.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) fn fetch(&self, anchor: &Anchor, thread: usize, slot: &mut Lease) -> Result<(), Error> {
        let head = slot.head();
        let outcome = match self {
            // SAFETY: the head of a slot that is ours has HEAD bytes.
            Self::Split(split) => unsafe { split.fetch(anchor, thread, head) },
            // A child may have inherited the page's gate in the middle of a change: it must not try.
            Self::Guarded(_) if !anchor.is_alive() => Err(why_gone()),
            // SAFETY: as above.
            Self::Guarded(guarded) => unsafe { guarded.fetch(head) },
            // Lent where it lies.
            Self::Pkey(_) | Self::Secretmem(_) => Err(Error::KeyLost),
        };
        if outcome.is_err() {
            slot.wipe_head();
        }
        outcome
    }

    /// The work found the key in the head of a slot to be another than the vault's. Says whether it makes sense to lend it
    /// again: where it came from will not be asked again before it was made anew.
    #[cold]
    #[inline(never)]
    #[allow(unsafe_code)]
    pub(crate) fn distrust(&self, anchor: &Anchor, slot: &Lease) -> bool {
        match self {
            // SAFETY: the head of a slot that is ours has HEAD bytes.
            Self::Split(split) => unsafe { split.distrust(anchor, slot.head()) },
            Self::Pkey(_) | Self::Secretmem(_) | Self::Guarded(_) => false,
        }
    }

    /// What tells the key from others.
    #[inline]
    pub(crate) fn confirmation(&self) -> &Confirmation {
        match self {
            Self::Split(split) => split.confirmation(),
            Self::Pkey(page) | Self::Secretmem(page) => page.confirmation(),
            Self::Guarded(guarded) => guarded.confirmation(),
        }
    }

    /// Is the key in the head of a slot, where [`Self::fetch`] put it, still the vault's key?
    #[inline]
    #[allow(unsafe_code)]
    fn is_intact(&self, anchor: &Anchor, slot: &Lease) -> bool {
        anchor.is_alive()
            && match self {
                // SAFETY: the head of a slot that is ours has HEAD bytes.
                Self::Split(split) => unsafe { split.is_intact(anchor, slot.head()) },
                // SAFETY: as above.
                Self::Guarded(guarded) => unsafe { guarded.is_intact(slot.head()) },
                Self::Pkey(_) | Self::Secretmem(_) => false,
            }
    }

    pub(crate) fn used(&self) -> HoldUsed {
        match self {
            Self::Pkey(_) => HoldUsed::Pkey,
            Self::Split(_) => HoldUsed::Split,
            Self::Secretmem(_) => HoldUsed::Secretmem,
            Self::Guarded(_) => HoldUsed::Guarded,
        }
    }

    /// Replicas of a share that can be read now, and how many were made anew so far.
    pub(crate) fn replicas(&self, anchor: &Anchor) -> (usize, usize) {
        match self {
            Self::Split(split) => (split.replicas(anchor), split.renewed()),
            Self::Pkey(_) | Self::Secretmem(_) | Self::Guarded(_) => (0, 0),
        }
    }

    /// Destroys a split key in memory, and in the middle of that what `between` destroys; says whether there
    /// is one. Also under its users.
    pub(crate) fn wipe(&self, anchor: &Anchor, between: impl FnOnce()) -> bool {
        match self {
            Self::Split(split) => split.wipe(anchor, between),
            Self::Pkey(_) | Self::Secretmem(_) | Self::Guarded(_) => return false,
        }
        true
    }

    /// Memory of its own; `None` where it has none besides the anchor.
    pub(crate) fn held(&self) -> Option<Held> {
        match self {
            Self::Split(_) => None,
            Self::Pkey(page) | Self::Secretmem(page) => page.held(),
            Self::Guarded(guarded) => guarded.held(),
        }
    }

    /// Is a page of its own open at rest, because it could not be shut? It has just been tried again.
    pub(crate) fn is_stuck(&self) -> bool {
        match self {
            Self::Split(_) => false,
            Self::Pkey(page) | Self::Secretmem(page) => page.is_stuck(),
            Self::Guarded(guarded) => guarded.is_stuck(),
        }
    }

    pub(crate) fn locked_bytes(&self) -> usize {
        match self {
            Self::Split(_) => 0,
            Self::Pkey(page) | Self::Secretmem(page) => page.locked_bytes(),
            Self::Guarded(guarded) => guarded.locked_bytes(),
        }
    }

    /// Destroys the key, but keeps what the system gave for it; in a child that inherited it, does nothing.
    pub(crate) fn erase(&self, anchor: &Anchor) {
        match self {
            Self::Split(split) => split.erase(anchor),
            _ if !anchor.is_alive() => {}
            Self::Pkey(page) | Self::Secretmem(page) => page.erase(),
            Self::Guarded(guarded) => guarded.erase(),
        }
    }

    /// Gives pages and descriptors back, when the key has been erased; likewise.
    pub(crate) fn release(&mut self, anchor: &Anchor) {
        match self {
            Self::Split(split) => split.release(anchor),
            _ if !anchor.is_alive() => {}
            Self::Pkey(page) | Self::Secretmem(page) => page.release(),
            Self::Guarded(guarded) => guarded.release(),
        }
    }

    /// Both.
    pub(crate) fn destroy(&mut self, anchor: &Anchor) {
        self.erase(anchor);
        self.release(anchor);
    }
}

/// Why the key is not right.
#[cold]
pub(crate) fn lost(anchor: &Anchor) -> Error {
    if anchor.is_alive() { Error::KeyLost } else { why_gone() }
}

/// Compares 32 bytes at any address with a value, reading each byte that is compared.
///
/// # Safety
///
/// `at` is readable for 32 bytes.
#[inline]
#[allow(unsafe_code)]
unsafe fn check_equals(at: *const u8, value: &[u64; CHECK / 8]) -> bool {
    let mut difference = 0;
    for (index, word) in value.iter().enumerate() {
        // SAFETY: inside the 32 bytes. Heads and shares are aligned to 8.
        difference |= unsafe { at.cast::<u64>().add(index).read_volatile() } ^ word;
    }
    difference == 0
}

//! Key holds: how a vault's key is at rest, and how it comes into scratch for the moment of its use.
//!
//! The contract: [`KeyHold::fetch`] puts the key into a scratch head and vouches for it by a check value that
//! is kept beside the key and wiped before it. [`KeyHold::is_intact`] says, after the key was used, that
//! neither it nor what it came from was wiped meanwhile: nothing is published that was sealed under a wiped
//! key.
//!
//! Layout of the head: `[ key 32 | what the check is computed from 32 | place of share B 8 ]`.

pub(crate) mod anchor;
pub(crate) mod broken;
mod guarded;
mod replica;
pub(crate) mod split;

use crate::enclave::cipher::KEY;
use crate::error::Error;
use crate::policy::{Hold, Level, Levels};
use crate::region::lease::Lease;
use crate::status::{HoldUsed, Protections};
use anchor::Anchor;
use guarded::Guarded;
use split::Split;

/// Offset of the check half in a head, and in a share.
const CHECK_AT: usize = KEY;
/// Bytes of the check value.
const CHECK: usize = 32;
/// Where it is kept in a head which of the places for shares B the key came from.
const REPLICA_AT: usize = KEY + CHECK;

/// The key of one vault at rest.
pub(crate) enum KeyHold {
    Split(Split),
    Guarded(Guarded),
}

impl KeyHold {
    /// Makes a fresh key in the hold that is asked for. With `Auto`, or when the wish is only preferred, the
    /// next hold is taken where the first cannot be had; then the reason comes with it.
    pub(crate) fn make(
        wish: Hold,
        level: Level,
        anchor: &Anchor,
        levels: Levels,
    ) -> Result<(Self, Option<Error>), Error> {
        match wish {
            Hold::Pkey | Hold::Secretmem => Err(Error::Unsupported("this key hold")),
            Hold::Guarded => Ok((Self::Guarded(Guarded::make(anchor, levels)?), None)),
            Hold::Split | Hold::Auto => match Split::make(anchor) {
                Ok(split) => Ok((Self::Split(split), None)),
                Err(cause) if level == Level::Require => match cause {
                    Error::System(call) => Err(Error::HoldRefused(call)),
                    other => Err(other),
                },
                Err(cause) => {
                    tracing::warn!(%cause, "the key cannot be split here; it is kept in a guarded page");
                    Ok((Self::Guarded(Guarded::make(anchor, levels)?), Some(cause)))
                }
            },
        }
    }

    /// Puts the key into the head of a slot. On an error the head has been wiped.
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn fetch(&self, anchor: &Anchor, thread: usize, slot: &mut Lease) -> Result<(), Error> {
        let head = slot.head();
        let outcome = match self {
            // SAFETY: the head of a slot that is ours has HEAD bytes.
            Self::Split(split) => unsafe { split.fetch(anchor, thread, head) },
            // A child may have inherited the page's gate in the middle of a change: it must not try.
            Self::Guarded(_) if !anchor.is_alive() => Err(Error::Forked),
            // SAFETY: as above.
            Self::Guarded(guarded) => unsafe { guarded.fetch(head) },
        };
        if outcome.is_err() {
            slot.wipe_head();
        }
        outcome
    }

    /// Is the key in the head of a slot, where [`Self::fetch`] put it, still the vault's key?
    #[inline]
    #[allow(unsafe_code)]
    pub(crate) fn is_intact(&self, anchor: &Anchor, slot: &Lease) -> bool {
        anchor.is_alive()
            && match self {
                // SAFETY: the head of a slot that is ours has HEAD bytes.
                Self::Split(split) => unsafe { split.is_intact(anchor, slot.head()) },
                // SAFETY: as above.
                Self::Guarded(guarded) => unsafe { guarded.is_intact(slot.head()) },
            }
    }

    pub(crate) fn used(&self) -> HoldUsed {
        match self {
            Self::Split(_) => HoldUsed::Split,
            Self::Guarded(_) => HoldUsed::Guarded,
        }
    }

    /// Replicas of a share that can be read now, and how many were made anew so far.
    pub(crate) fn replicas(&self, anchor: &Anchor) -> (usize, usize) {
        match self {
            Self::Split(split) => (split.replicas(anchor), split.renewed()),
            Self::Guarded(_) => (0, 0),
        }
    }

    /// Destroys a split key in memory, and in the middle of that what `between` destroys; says whether there
    /// is one.
    #[cfg(feature = "testing")]
    pub(crate) fn wipe(&self, anchor: &Anchor, between: impl FnOnce()) -> bool {
        match self {
            Self::Split(split) => split.wipe(anchor, between),
            Self::Guarded(_) => return false,
        }
        true
    }

    /// What is in force, `now` or at creation, on memory of its own; `None` where it has none besides the anchor.
    pub(crate) fn protections(&self, now: bool) -> Option<Protections> {
        match self {
            Self::Split(_) => None,
            Self::Guarded(guarded) => guarded.protections(now),
        }
    }

    pub(crate) fn locked_bytes(&self) -> usize {
        match self {
            Self::Split(_) => 0,
            Self::Guarded(guarded) => guarded.locked_bytes(),
        }
    }

    /// Destroys the key; in a child that inherited it, does nothing.
    pub(crate) fn destroy(&mut self, anchor: &Anchor) {
        match self {
            Self::Split(split) => split.destroy(anchor),
            Self::Guarded(guarded) if anchor.is_alive() => guarded.destroy(),
            Self::Guarded(_) => {}
        }
    }
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

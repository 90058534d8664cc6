//! What a vault was asked for and did not get, each with who refused it.

use std::fmt;

use crate::error::{Error, Protection};
use crate::os::CallError;
use crate::policy::{Hold, Level};
use crate::status::HoldUsed;
use crate::store::Machinery;

/// Something that a vault or its secrets are to have, and have not. Its `Display` is a sentence.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Degradation {
    /// A protection of the memory that holds the key and its share.
    Protection {
        /// Which one.
        protection: Protection,
        /// How badly it was wanted.
        asked: Level,
        /// Who refused it. `None`: no call did, but the kernel does not list it as in force.
        refused: Option<CallError>,
    },
    /// The key is held otherwise than was preferred.
    Hold {
        /// What was asked for.
        asked: Hold,
        /// What was got.
        got: HoldUsed,
        /// Why the hold before it was not taken.
        refused: Error,
    },
    /// Places for views that are not locked: the vault's `locked_max` or the limit of the process is reached.
    Views {
        /// How many are not.
        unlocked: usize,
        /// How many there are.
        of: usize,
    },
    /// Paged secrets whose pages are not locked.
    Pages {
        /// How many secrets.
        unlocked: u64,
    },
    /// Secrets that were sealed because pages could not be locked, since the vault was made: see
    /// [`OnLockLimit::NextStore`](crate::OnLockLimit::NextStore).
    NextStore {
        /// How many.
        secrets: u64,
        /// Who refused the last of them its pages' lock.
        refused: CallError,
    },
    /// A key that is due to be replaced was not.
    Refresh {
        /// Why.
        refused: Error,
    },
    /// Paged secrets whose pages are open though nobody views them: closing them failed.
    StuckPages {
        /// How many secrets.
        secrets: u64,
    },
    /// The page of a key is open: closing it failed.
    StuckKey,
    /// Files with shares of the present key that were lost and have been replaced: something in the process closes
    /// descriptors that are not its own.
    Replicas {
        /// How many times.
        replaced: usize,
    },
}

impl fmt::Display for Degradation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protection { protection, asked, refused } => {
                let asked = match asked {
                    Level::Require => "required",
                    _ => "preferred",
                };
                write!(f, "{protection} is not in force on the key's memory, though {asked}")?;
                refused.map_or(Ok(()), |cause| write!(f, ": {cause}"))
            }
            Self::Hold { asked, got, refused } => {
                write!(f, "the key's hold is {got:?}, asked for was {asked:?}: {refused}")
            }
            Self::Views { unlocked, of } => write!(f, "{unlocked} of {of} places for views are not locked"),
            Self::Pages { unlocked } => write!(f, "the pages of {unlocked} paged secrets are not locked"),
            Self::NextStore { secrets, refused } => {
                write!(f, "{secrets} secrets were sealed, since pages could not be locked: {refused}")
            }
            Self::Refresh { refused } => write!(f, "a key that is due to be replaced was not: {refused}"),
            Self::StuckPages { secrets } => write!(f, "the pages of {secrets} secrets could not be closed"),
            Self::StuckKey => f.write_str("the page of a key could not be closed"),
            Self::Replicas { replaced } => {
                write!(f, "{replaced} files with a share of the key were lost and have been replaced")
            }
        }
    }
}

/// All that is so at the moment.
pub(super) fn of(machinery: &Machinery) -> Vec<Degradation> {
    let status = machinery.status();
    let protections = status.protections;
    let mut found = Vec::new();
    for (protection, achieved) in [
        (Protection::Guard, protections.guard),
        (Protection::Lock, protections.lock),
        (Protection::Dump, protections.dump),
        (Protection::Fork, protections.fork),
    ] {
        if !achieved.got && achieved.asked != Level::Off {
            found.push(Degradation::Protection {
                protection,
                asked: achieved.asked,
                refused: achieved.refused,
            });
        }
    }
    let settings = &machinery.settings;
    if let Some(refused) = machinery.unusual_step_down() {
        found.push(Degradation::Hold { asked: settings.hold, got: status.hold, refused });
    }
    if status.scratch_unlocked > 0 && settings.policy.levels().lock != Level::Off {
        found.push(Degradation::Views { unlocked: status.scratch_unlocked, of: status.scratch_slots });
    }
    let (stuck, unlocked) = machinery.paged_troubles();
    if unlocked > 0 {
        found.push(Degradation::Pages { unlocked });
    }
    if let Some((secrets, refused)) = machinery.next_store.told() {
        found.push(Degradation::NextStore { secrets, refused });
    }
    found.extend(status.refresh_refused.map(|refused| Degradation::Refresh { refused }));
    if stuck > 0 {
        found.push(Degradation::StuckPages { secrets: stuck });
    }
    if status.key_stuck_open {
        found.push(Degradation::StuckKey);
    }
    if status.replicas_renewed > 0 {
        found.push(Degradation::Replicas { replaced: status.replicas_renewed });
    }
    found
}

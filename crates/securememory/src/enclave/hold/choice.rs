//! Which hold a vault gets: the one that is asked for, or the next one that can be had.

use super::KeyHold;
use super::anchor::Anchor;
use super::guarded::Guarded;
use super::in_place::InPlace;
use super::split::Split;
use crate::error::{Error, Protection};
use crate::os::{Call, CallError, errno};
use crate::policy::{Cipher, Hold, Level, Levels};

impl KeyHold {
    /// Makes a fresh key in the first hold of [`candidates`] that can be had. Where that is not the first of them, the
    /// last refusal comes with it. `cell`: where in the anchor a split key has its places, see [`crate::enclave::epoch`].
    pub(crate) fn make(
        wish: Hold,
        level: Level,
        cipher: Cipher,
        anchor: &Anchor,
        cell: usize,
        levels: Levels,
    ) -> Result<(Self, Option<Error>), Error> {
        let (candidates, required) = candidates(wish, level, levels.secretmem, levels.fork)?;
        let mut refused = None;
        for &candidate in candidates {
            let made = match candidate {
                Hold::Pkey => InPlace::pkey(cipher, levels, anchor.vault()).map(Self::Pkey),
                Hold::Secretmem => InPlace::secretmem(cipher, levels, anchor.vault()).map(Self::Secretmem),
                Hold::Split => Split::make(cipher, anchor, cell).map(Self::Split),
                Hold::Guarded | Hold::Auto => {
                    Guarded::make(cipher, levels, anchor.vault()).map(Self::Guarded)
                }
            };
            match made {
                Ok(hold) => {
                    return Ok((hold, refused));
                }
                Err(cause) => refused = Some(cause),
            }
        }
        match refused {
            Some(Error::System(call)) if required => Err(Error::HoldRefused(call)),
            Some(cause) => Err(cause),
            None => Err(Error::Unsupported("this key hold")),
        }
    }
}

/// Refuses what can be had nowhere.
pub(crate) fn check(wish: Hold, level: Level, levels: Levels) -> Result<(), Error> {
    candidates(wish, level, levels.secretmem, levels.fork).map(drop)
}

/// The holds to be tried, in this order, and whether the user has forbidden others.
fn candidates(
    wish: Hold,
    level: Level,
    secretmem: Level,
    fork: Level,
) -> Result<(&'static [Hold], bool), Error> {
    use Hold::{Auto, Guarded, Pkey, Secretmem, Split};
    let required = level == Level::Require;
    let wants_secretmem = wish == Secretmem || secretmem == Level::Require;
    if fork == Level::Off && wants_secretmem {
        return Err(Error::Unsupported("a key that a forked child inherits, in memory that it would share"));
    }
    // Only preferred: then the others are.
    let secretmem = if fork == Level::Off { Level::Off } else { secretmem };
    if secretmem == Level::Require {
        return match wish {
            Auto | Secretmem => Ok((&[Secretmem], true)),
            Pkey | Split | Guarded => Err(Error::NotInForce(Protection::Secretmem)),
        };
    }
    let order: &[Hold] = match (wish, required) {
        (Auto, _) if secretmem == Level::Prefer => match required {
            true => &[Secretmem, Pkey, Split],
            false => &[Secretmem, Pkey, Split, Guarded],
        },
        (Auto, true) => &[Pkey, Split],
        (Auto, false) => &[Pkey, Split, Guarded],
        (Pkey, true) => &[Pkey],
        (Pkey, false) => &[Pkey, Split, Guarded],
        (Secretmem, true) => &[Secretmem],
        (Secretmem, false) => &[Secretmem, Split, Guarded],
        (Split, true) => &[Split],
        (Split, false) => &[Split, Guarded],
        (Guarded, _) => &[Guarded],
    };
    Ok((order, required))
}

/// A host without protection keys, where nobody asked for them: nothing to warn of.
pub(crate) fn is_usual(wish: Hold, secretmem: Level, cause: &Error) -> bool {
    let none = matches!(
        cause,
        Error::System(CallError {
            call: Call::PkeyAlloc,
            errno: errno::EINVAL | errno::ENOSPC | errno::ENOSYS
        })
    );
    wish == Hold::Auto && secretmem == Level::Off && none
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const HOLDS: [Hold; 5] = [Hold::Auto, Hold::Pkey, Hold::Split, Hold::Secretmem, Hold::Guarded];
    const LEVELS: [Level; 3] = [Level::Require, Level::Prefer, Level::Off];

    #[test]
    fn a_required_hold_is_the_only_one() {
        for wish in HOLDS.into_iter().filter(|&wish| wish != Hold::Auto) {
            for secretmem in [Level::Prefer, Level::Off] {
                assert_eq!(
                    candidates(wish, Level::Require, secretmem, Level::Require),
                    Ok((&[wish][..], true))
                );
                let (order, required) = candidates(wish, Level::Prefer, secretmem, Level::Require).unwrap();
                assert_eq!((order[0], required, order.last()), (wish, false, Some(&Hold::Guarded)));
            }
        }
    }

    #[test]
    fn auto_begins_with_the_best_and_ends_with_what_always_works_unless_forbidden() {
        let auto = |level, secretmem| candidates(Hold::Auto, level, secretmem, Level::Require).unwrap().0;
        assert_eq!(auto(Level::Prefer, Level::Off), [Hold::Pkey, Hold::Split, Hold::Guarded]);
        assert_eq!(auto(Level::Require, Level::Off), [Hold::Pkey, Hold::Split]);
        assert_eq!(auto(Level::Off, Level::Prefer)[..2], [Hold::Secretmem, Hold::Pkey]);
        assert!(!auto(Level::Require, Level::Prefer).contains(&Hold::Guarded));
    }

    #[test]
    fn a_required_secretmem_leaves_no_other_hold() {
        for level in LEVELS {
            for wish in HOLDS {
                let expected = match wish {
                    Hold::Auto | Hold::Secretmem => Ok((&[Hold::Secretmem][..], true)),
                    _ => Err(Error::NotInForce(Protection::Secretmem)),
                };
                assert_eq!(candidates(wish, level, Level::Require, Level::Require), expected);
            }
        }
    }

    #[test]
    fn what_a_child_inherits_is_not_in_memory_that_it_would_share() {
        for level in LEVELS {
            for wish in HOLDS {
                let refused = candidates(wish, level, Level::Require, Level::Off);
                assert!(matches!(refused, Err(Error::Unsupported(_))), "{wish:?}");
                match candidates(wish, level, Level::Prefer, Level::Off) {
                    Ok((order, _)) => assert!(!order.contains(&Hold::Secretmem) && wish != Hold::Secretmem),
                    Err(error) => assert!(matches!((wish, error), (Hold::Secretmem, Error::Unsupported(_)))),
                }
            }
        }
    }

    #[test]
    fn only_missing_protection_keys_that_nobody_asked_for_are_usual() {
        let refused = |call, errno| Error::System(CallError::new(call, errno));
        let none = refused(Call::PkeyAlloc, errno::EINVAL);
        assert!(is_usual(Hold::Auto, Level::Off, &none));
        assert!(!is_usual(Hold::Pkey, Level::Off, &none));
        assert!(!is_usual(Hold::Auto, Level::Prefer, &none));
        assert!(!is_usual(Hold::Auto, Level::Off, &refused(Call::PkeyAlloc, errno::EPERM)));
        assert!(!is_usual(Hold::Auto, Level::Off, &refused(Call::MemfdCreate, errno::EINVAL)));
    }
}

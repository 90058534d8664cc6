//! New keys, and the end of all keys.

use super::held::Held;
use crate::doctor::verdict::Trouble;

/// A new key, under which everything is moved, and the end of the old one. Nothing where there is no vault.
pub fn refresh(held: &Held) -> Result<(), Trouble> {
    let Held::Kept(_kept) = held else { return Ok(()) };
    // CHIEF: replace by
    //     kept.vault.refresh()?;
    //     kept.vault.finish_refresh(Duration::from_secs(5))?;   and fail unless it says that the old key is gone
    Err(Trouble::NotHere("this library cannot give a vault a new key".to_owned()))
}

/// The end of all keys of the vault; for a vector, of the vector.
pub fn purge(held: &mut Held) -> Result<(), Trouble> {
    // CHIEF: replace by
    //     match held {
    //         Held::Plain(bytes) => *bytes = Vec::new(),
    //         Held::Kept(kept) => kept.vault.purge()?,
    //     }
    // Until then the vault itself ends, which destroys its key as well.
    *held = Held::Plain(Vec::new());
    Ok(())
}

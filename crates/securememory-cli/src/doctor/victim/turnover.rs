//! New keys, the end of all keys, and that of the vault.

use std::time::Duration;

use super::held::Held;
use crate::doctor::verdict::Trouble;

/// How long the old key may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// A new key, under which everything is moved, and the end of the old one. Nothing where there is no vault.
pub fn refresh(held: &Held) -> Result<(), Trouble> {
    let Held::Kept(kept) = held else { return Ok(()) };
    kept.vault.refresh()?;
    kept.vault.finish_refresh(PATIENCE)?;
    match kept.vault.status().keys {
        1 => Ok(()),
        keys => Err(Trouble::failed(format!("{keys} keys live after a refresh that is finished"))),
    }
}

/// The end of all keys of the vault; for a vector, of the vector.
pub fn purge(held: &mut Held) -> Result<(), Trouble> {
    match held {
        Held::Plain(bytes) => *bytes = Vec::new(),
        Held::Kept(kept) => drop(kept.vault.purge()?),
    }
    Ok(())
}

/// The end of the vault, while the secret's handle lives; for a vector, of the vector.
pub fn close(held: &mut Held) -> Result<(), Trouble> {
    match held {
        Held::Plain(bytes) => *bytes = Vec::new(),
        Held::Kept(kept) => {
            let closed = kept.vault.close(Duration::ZERO)?;
            if !closed.is_complete() {
                return Err(Trouble::failed(closed.to_string()));
            }
        }
    }
    Ok(())
}

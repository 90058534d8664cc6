//! On Windows no key share lies in a file: there is nothing to take.

use super::{Loot, Through};
use crate::doctor::verdict::Trouble;

/// Nothing.
#[allow(clippy::unnecessary_wraps, reason = "as elsewhere, where it may be refused")]
pub fn loot(_: u32, _: Through) -> Result<Loot, Trouble> {
    Ok(Loot::default())
}

//! Each write here, beside a secret of its own. One that faults is survived.

use std::cell::Cell;

use securememory::Error;

use super::{Kind, Place, Struck, addresses, through};
use crate::doctor::needle::Needle;
use crate::doctor::order::Order;
use crate::doctor::verdict::Trouble;
use crate::doctor::victim::held::Held;
use crate::raw;

/// A secret, a view, one write.
pub(super) fn strike(order: &Order, len: usize, kind: Kind, place: &Place<'_>) -> Result<Struck, Trouble> {
    raw::survive()?;
    let needle = if len == order.needle.len() { order.needle.clone() } else { Needle::random(len)? };
    let faulted = Cell::new(false);
    match Held::make(order.kept, &needle)? {
        Held::Plain(bytes) => {
            let at = place(&addresses(&bytes));
            // Put back at once: this process goes on with its heap.
            if flip(at) && flip(at) { Ok(Struck::Unnoticed) } else { Ok(Struck::Faulted) }
        }
        Held::Kept(kept) => match through(&kept, kind, place, |at| faulted.set(!flip(at))) {
            Ok(()) if faulted.get() => Ok(Struck::Faulted),
            Ok(()) => Ok(Struck::Unnoticed),
            Err(Error::Overrun { .. }) if !faulted.get() => Ok(Struck::Noticed),
            Err(error) => Err(Trouble::failed(format!("a view ended with another error: {error}"))),
        },
    }
}

/// Changes all bits of a byte; `false`: that has faulted.
fn flip(at: usize) -> bool {
    let mut byte = [0];
    // What cannot be loaded is stored to all the same.
    let loaded = raw::load(at, &mut byte) == 1;
    raw::store(at, !byte[0]) && loaded
}

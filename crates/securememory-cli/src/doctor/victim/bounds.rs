//! One byte changed beside an open view.
//!
//! Each write is beside a view of a secret of its own: it faults on a guard page, or a canary is found broken when the
//! view ends.

#[cfg_attr(windows, path = "bounds/windows.rs")]
#[cfg_attr(not(windows), path = "bounds/linux.rs")]
mod system;

use std::ops::Range;

use securememory::Error;

use super::held::InVault;
use crate::doctor::order::Order;
use crate::doctor::promises::Kept;
use crate::doctor::verdict::{Trouble, Verdict};
use crate::system::page_size;
use system::strike;

/// Which byte to change, of a view that is open there.
type Place<'a> = dyn Fn(&Range<usize>) -> usize + 'a;

/// What became of a write.
enum Struck {
    Faulted,
    Noticed,
    Unnoticed,
}

/// The views under attack.
#[derive(Clone, Copy)]
enum Kind {
    Read,
    Write,
    Owned,
}

/// Behind the end: the slack up to the guard page, and the guard page.
pub fn overflow(order: &Order) -> Result<Verdict, Trouble> {
    let page = page_size();
    beside(order, |bytes| [0, 1, 7, 14, 15, 16, 100, page - 1].map(|distance| bytes.end + distance).to_vec())
}

/// Before the start: the 16 bytes that are promised.
pub fn underflow(order: &Order) -> Result<Verdict, Trouble> {
    beside(order, |bytes| [1, 2, 8, 15, 16].map(|distance| bytes.start - distance).to_vec())
}

/// Writes at all the places that `places` gives for an open view, and counts what became of it.
fn beside(order: &Order, places: impl Fn(&Range<usize>) -> Vec<usize>) -> Result<Verdict, Trouble> {
    let kinds: &[Kind] =
        if order.kept == Kept::Plain { &[Kind::Read] } else { &[Kind::Read, Kind::Write, Kind::Owned] };
    let (mut writes, mut faulted, mut noticed, mut unnoticed) = (0, 0, 0, Vec::new());
    for len in [1, 16, 17, 32, page_size(), order.needle.len()] {
        for kind in kinds {
            for choice in 0..places(&(4096..8192)).len() {
                writes += 1;
                match strike(order, len, *kind, &|bytes| places(bytes)[choice])? {
                    Struck::Faulted => faulted += 1,
                    Struck::Noticed => noticed += 1,
                    Struck::Unnoticed => unnoticed.push(len),
                }
            }
        }
    }
    let count = unnoticed.len();
    unnoticed.dedup();
    let detail = format!("of {writes} writes {faulted} faulted on a guard page and {noticed} broke a canary");
    if count > 0 {
        return Ok(Verdict::leaked(format!(
            "{detail}; {count} went unnoticed (secrets of {unnoticed:?} bytes)"
        )));
    }
    Ok(Verdict::blocked(detail))
}

/// Writes beside a view and ends the view.
fn through(
    kept: &InVault,
    kind: Kind,
    place: impl Fn(&Range<usize>) -> usize,
    change: impl Fn(usize),
) -> Result<(), Error> {
    match kind {
        Kind::Read => {
            let view = kept.secret.view()?;
            change(place(&addresses(&view)));
            view.finish()
        }
        Kind::Write => {
            let view = kept.secret.view_mut()?;
            change(place(&addresses(&view)));
            view.commit()
        }
        Kind::Owned => {
            let view = kept.secret.owned_view()?;
            view.with(|bytes| change(place(&addresses(bytes)))).map_err(Error::from)
        }
    }
}

fn addresses(bytes: &[u8]) -> Range<usize> {
    let start = bytes.as_ptr().expose_provenance();
    start..start + bytes.len()
}

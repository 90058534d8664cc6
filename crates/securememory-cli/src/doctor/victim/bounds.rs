//! One byte changed beside an open view.
//!
//! Each write happens in a forked child that makes a secret of its own: a guard page kills it, or a canary is
//! found broken when the view ends.

use std::io;
use std::ops::Range;

use rustix::process::{Pid, Resource, Rlimit, WaitOptions, setrlimit, waitpid};
use securememory::Error;

use super::held::{Held, InVault};
use crate::doctor::needle::Needle;
use crate::doctor::order::Order;
use crate::doctor::promises::Kept;
use crate::doctor::verdict::{Trouble, Verdict};
use crate::raw;

// How the child exits.
const NOTICED: u8 = 10;
const UNNOTICED: u8 = 11;
const OTHER_ERROR: u8 = 12;
const NO_SECRET: u8 = 13;

/// The views under attack.
#[derive(Clone, Copy)]
enum Kind {
    Read,
    Write,
    Owned,
}

/// Behind the end: the slack up to the guard page, and the guard page.
pub fn overflow(order: &Order) -> Result<Verdict, Trouble> {
    let page = rustix::param::page_size();
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
    for len in [1, 16, 17, 32, rustix::param::page_size(), order.needle.len()] {
        for kind in kinds {
            for choice in 0..places(&(4096..8192)).len() {
                let child = raw::fork_alone(|| strike(order, len, *kind, |bytes| places(bytes)[choice]))?;
                writes += 1;
                match wait(child)? {
                    Ended::Fault => faulted += 1,
                    Ended::Code(NOTICED) => noticed += 1,
                    Ended::Code(UNNOTICED) => unnoticed.push(len),
                    Ended::Code(NO_SECRET) => {
                        return Err(Trouble::failed("a forked child could not make a secret"));
                    }
                    Ended::Code(OTHER_ERROR) => {
                        return Err(Trouble::failed("a view ended with another error"));
                    }
                    other => return Err(Trouble::failed(format!("a child ended strangely: {other:?}"))),
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

/// In the child: a secret, a view, one write.
fn strike(order: &Order, len: usize, kind: Kind, place: impl Fn(&Range<usize>) -> usize) -> u8 {
    // It may die with the view open: no core of that, and no program that takes cores from a pipe.
    let quiet = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).and_then(|()| {
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
    });
    let needle = if len == order.needle.len() { Ok(order.needle.clone()) } else { Needle::random(len) };
    let (Ok(()), Ok(needle)) = (quiet, needle) else { return NO_SECRET };
    match Held::make(order.kept, &needle) {
        Ok(Held::Plain(bytes)) => {
            raw::flip_byte(place(&addresses(&bytes)));
            // At once: the allocator may notice when it frees something, long after; the vector never does.
            raw::leave(UNNOTICED)
        }
        Ok(Held::Kept(kept)) => match through(&kept, kind, place) {
            Ok(()) => UNNOTICED,
            Err(Error::Overrun { .. }) => NOTICED,
            Err(_) => OTHER_ERROR,
        },
        Err(_) => NO_SECRET,
    }
}

/// Writes beside a view and ends the view.
fn through(kept: &InVault, kind: Kind, place: impl Fn(&Range<usize>) -> usize) -> Result<(), Error> {
    match kind {
        Kind::Read => {
            let view = kept.secret.view()?;
            raw::flip_byte(place(&addresses(&view)));
            view.finish()
        }
        Kind::Write => {
            let view = kept.secret.view_mut()?;
            raw::flip_byte(place(&addresses(&view)));
            view.commit()
        }
        Kind::Owned => {
            let view = kept.secret.owned_view()?;
            view.with(|bytes| raw::flip_byte(place(&addresses(bytes)))).map_err(Error::from)
        }
    }
}

fn addresses(bytes: &[u8]) -> Range<usize> {
    let start = bytes.as_ptr().expose_provenance();
    start..start + bytes.len()
}

#[derive(Debug)]
enum Ended {
    Fault,
    Signal(#[allow(dead_code)] i32),
    Code(u8),
}

fn wait(child: u32) -> Result<Ended, Trouble> {
    let pid = i32::try_from(child).ok().and_then(Pid::from_raw).ok_or_else(|| Trouble::failed("no child"))?;
    let ended = waitpid(Some(pid), WaitOptions::empty()).map_err(io::Error::from)?;
    let (_, status) = ended.ok_or_else(|| Trouble::failed("a child did not end"))?;
    Ok(match (status.terminating_signal(), status.exit_status()) {
        (Some(libc::SIGSEGV | libc::SIGBUS), _) => Ended::Fault,
        (Some(signal), _) => Ended::Signal(signal),
        (None, code) => Ended::Code(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(255)),
    })
}

//! Each write in a forked child, which ends by it, or says what has become of it.

use std::io;

use rustix::process::{Pid, Resource, Rlimit, WaitOptions, setrlimit, waitpid};
use securememory::Error;

use super::{Kind, Place, Struck, addresses, through};
use crate::doctor::needle::Needle;
use crate::doctor::order::Order;
use crate::doctor::verdict::Trouble;
use crate::doctor::victim::held::Held;
use crate::raw;

// How the child exits.
const NOTICED: u8 = 10;
const UNNOTICED: u8 = 11;
const OTHER_ERROR: u8 = 12;
const NO_SECRET: u8 = 13;

/// A secret, a view, one write.
pub(super) fn strike(order: &Order, len: usize, kind: Kind, place: &Place<'_>) -> Result<Struck, Trouble> {
    let child = raw::fork_alone(|| in_child(order, len, kind, place))?;
    match wait(child)? {
        Ended::Fault => Ok(Struck::Faulted),
        Ended::Code(NOTICED) => Ok(Struck::Noticed),
        Ended::Code(UNNOTICED) => Ok(Struck::Unnoticed),
        Ended::Code(NO_SECRET) => Err(Trouble::failed("a forked child could not make a secret")),
        Ended::Code(OTHER_ERROR) => Err(Trouble::failed("a view ended with another error")),
        other => Err(Trouble::failed(format!("a child ended strangely: {other:?}"))),
    }
}

/// In the child: a secret, a view, one write.
fn in_child(order: &Order, len: usize, kind: Kind, place: &Place<'_>) -> u8 {
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
        Ok(Held::Kept(kept)) => match through(&kept, kind, place, raw::flip_byte) {
            Ok(()) => UNNOTICED,
            Err(Error::Overrun { .. }) => NOTICED,
            Err(_) => OTHER_ERROR,
        },
        Err(_) => NO_SECRET,
    }
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

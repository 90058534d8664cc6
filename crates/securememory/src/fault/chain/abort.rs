//! Handlers that abort, on an alternate stack that has no room for one more delivery.
//!
//! The kernel puts all registers on the stack for each: 3.3 KiB where there is AVX-512, and the usual alternate stack has
//! 8 KiB. If our handler for SIGABRT were called on what is left, the process would end by SIGSEGV instead, since the kernel
//! finds no room. So for as long as such a handler runs, what was done about SIGABRT before us is done again.
//!
//! Rust's own handler is among them. It aborts if a stack has overflowed, and for nothing else. So then secrets are wiped
//! before it is called; of other handlers nobody knows whether they abort, and if they do, nothing is wiped.

use super::{Delivery, is_owner, station};
use crate::fault::outside::is_ours;
use crate::fault::roles::{ASIDE, WIPES};
use crate::os::signals::{self, Action};
use crate::shutdown::dying;

/// Bytes for what a handler itself takes of the stack before it aborts, and for our frames.
const OWN: usize = 3072;
/// So near its end an access is one to the stack.
const NEAR: usize = 1 << 16;

/// Gives SIGABRT back, if a handler that is going to be called here, or a function of the program's, could not have it
/// delivered; to be given to [`take_room`].
#[allow(unsafe_code)]
pub(crate) fn make_room(delivery: &Delivery, action: Option<&Action>) -> Option<Action> {
    // SAFETY: what our handler was called with.
    let stack = unsafe { signals::alternate_stack(delivery.context) }?;
    if !delivery.recurs() || stack.left >= stack.frame.saturating_add(OWN) || !is_owner() {
        return None;
    }
    let abort = station(libc::SIGABRT)?;
    let before = abort.previous(abort.levels().checked_sub(1)?)?;
    let ours = signals::action(libc::SIGABRT).ok()?;
    if abort.roles.now() & WIPES == 0 || !is_ours(&ours) {
        return None;
    }
    if is_overflow(delivery) && action.is_some_and(is_rusts) {
        dying::run(delivery.fatal());
    }
    if !signals::put_action(libc::SIGABRT, before) {
        return None;
    }
    abort.roles.add(ASIDE);
    Some(ours)
}

/// Takes it again, if nobody else has taken it.
pub(crate) fn take_room(ours: Option<Action>) {
    let (Some(ours), Some(abort)) = (ours, station(libc::SIGABRT)) else { return };
    let before = abort.levels().checked_sub(1).and_then(|level| abort.previous(level));
    if signals::action(libc::SIGABRT).ok() == before && signals::put_action(libc::SIGABRT, ours) {
        abort.roles.remove(ASIDE);
    }
}

/// Has the stack overflowed?
#[allow(unsafe_code)]
fn is_overflow(delivery: &Delivery) -> bool {
    // SAFETY: what our handler was called with.
    let end = unsafe { signals::interrupted_stack(delivery.context) };
    end.is_some_and(|end| delivery.address.wrapping_sub(end).wrapping_add(NEAR) < 2 * NEAR)
}

/// Does it look like the handler of Rust's standard library? That is one for both signals, and asks for nothing more.
fn is_rusts(action: &Action) -> bool {
    let same = |signal| {
        let before = station(signal).and_then(|station| station.previous(0));
        before.is_some_and(|before| before == *action)
    };
    action.flags == libc::SA_SIGINFO | libc::SA_ONSTACK
        && action.mask == 0
        && same(libc::SIGSEGV)
        && same(libc::SIGBUS)
}

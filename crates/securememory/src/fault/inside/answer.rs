//! What is done about a fault in our memory.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::examine::{self, Found, Site};
use super::{record, recover};
use crate::fault::chain::{Delivery, abort};
use crate::fault::report::{Access, Done, FaultReport, Memory, Place};
use crate::os::{self, signals};
use crate::registry::arenas::Purpose;
use crate::registry::vaults;
use crate::shutdown::dying;

/// Not said: as for all.
pub(crate) const INHERIT: u32 = 0;
pub(crate) const ABORT: u32 = 1;
pub(crate) const REPORT: u32 = 2;
pub(crate) const RECOVER: u32 = 3;
pub(crate) const CALL: u32 = 4;

/// For all vaults that have said nothing else.
pub(crate) static ON_FAULT: AtomicU32 = AtomicU32::new(ABORT);
pub(crate) static CALL_ON_FAULT: AtomicUsize = AtomicUsize::new(0);

/// What a function of the program's has said.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFault {
    /// Wipe all secrets and end the process.
    Abort,
    /// Pass the fault on to the handler that was there before.
    PassOn,
    /// The function has done away with the cause: go on. If it has not, the fault comes again, and it is asked again.
    Resume,
}

/// A function that is asked.
pub(crate) type Ask = fn(&FaultReport) -> AfterFault;

/// What is still to be done about a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing: the thread goes on.
    GoOn,
    /// It is passed on.
    PassOn,
    /// It is not in memory of ours.
    NotOurs,
    /// It is passed on, and ends the process in any case. All is wiped.
    End,
}

/// Answers a fault, if it is in memory of ours.
#[inline(never)]
#[allow(unsafe_code)]
pub(super) fn answer(delivery: &Delivery) -> Answer {
    let Some(found) = &examine::examine(delivery) else { return Answer::NotOurs };
    if let Some(entry) = vaults::entry(found.vault) {
        entry.faults.fetch_add(1, Ordering::Relaxed);
    }
    let (code, function) = policy(found.vault);
    match code {
        RECOVER if recover::recover(delivery, found) => {
            if let Some(entry) = vaults::entry(found.vault) {
                entry.replaced.fetch_add(1, Ordering::Relaxed);
            }
            keep(delivery, found, Done::Replaced);
            return Answer::GoOn;
        }
        REPORT => {
            keep(delivery, found, Done::PassedOn);
            return Answer::PassOn;
        }
        CALL => match ask(delivery, found, function) {
            AfterFault::Resume => return Answer::GoOn,
            AfterFault::PassOn => return Answer::PassOn,
            AfterFault::Abort => {}
        },
        _ => {}
    }
    // First of all. Whatever goes wrong after it, the secrets are gone.
    dying::run(delivery.fatal());
    if examine::is_in_window() {
        // What our own routines had in them lies in the frame of this handler now.
        // SAFETY: what our handler was called with.
        unsafe { signals::wipe_vectors(delivery.context) };
    }
    keep(delivery, found, Done::Wiped);
    Answer::End
}

#[inline(never)]
fn keep(delivery: &Delivery, found: &Found, done: Done) {
    record::keep(|report| describe(report, delivery, found, done));
}

fn policy(vault: u32) -> (u32, usize) {
    let own = vaults::entry(vault)
        .map(|entry| (entry.on_fault.load(Ordering::Acquire), entry.call.load(Ordering::Relaxed)));
    own.filter(|&(code, _)| code != INHERIT)
        .unwrap_or_else(|| (ON_FAULT.load(Ordering::Acquire), CALL_ON_FAULT.load(Ordering::Relaxed)))
}

// Apart, since a report takes room on the stack. It is this thread's own: others may write theirs down meanwhile.
#[inline(never)]
#[allow(unsafe_code)]
fn ask(delivery: &Delivery, found: &Found, function: usize) -> AfterFault {
    if function == 0 {
        return AfterFault::Abort;
    }
    let mut report = FaultReport::EMPTY;
    describe(&mut report, delivery, found, Done::Asked);
    record::keep(|kept| kept.clone_from(&report));
    // SAFETY: put there by `crate::fault::outside`, as this type.
    let function = unsafe { std::mem::transmute::<usize, Ask>(function) };
    // Should it abort, nothing is wiped, but the process ends by that.
    let room = abort::make_room(delivery, None);
    let after = function(&report);
    abort::take_room(room);
    after
}

#[allow(unsafe_code)]
fn describe(report: &mut FaultReport, delivery: &Delivery, found: &Found, done: Done) {
    let ended = found.ended && matches!(found.site, Site::Above | Site::Below | Site::Inside);
    let is_key = matches!(found.purpose, Purpose::Key | Purpose::Anchor);
    report.place = match found.site {
        _ if delivery.failure() == Some(signals::Failure::Lost) => Place::Lost,
        Site::Unmapped => Place::Unmapped,
        _ if ended => Place::Ended,
        Site::Above => Place::Overflow { bytes: found.distance },
        Site::Below => Place::Underflow { bytes: found.distance },
        Site::Guard => Place::Guard,
        Site::Inside if is_key => Place::Key,
        Site::Inside => Place::AtRest,
    };
    report.memory = match found.purpose {
        Purpose::Anchor | Purpose::Key => Memory::Key,
        Purpose::Scratch => Memory::View,
        Purpose::Pages => Memory::Paged,
        Purpose::Records => Memory::Ciphertext,
    };
    report.signal = delivery.signal;
    report.code = delivery.code;
    report.address = delivery.address;
    report.vault_id = vaults::entry(found.vault).map_or(0, |entry| entry.id.load(Ordering::Relaxed));
    report.secret_id = (found.secret != 0).then_some(found.secret);
    // SAFETY: the context of an access fault, valid until our handler returns.
    report.access = Access::from(unsafe { signals::attempt(delivery.context) });
    report.thread = os::thread_id() as u32;
    report.done = done;
    let label = &mut report.label;
    let len = examine::label(found, |index, byte| {
        if let Some(place) = label.bytes.get_mut(index) {
            *place = byte;
        }
    });
    label.len = len as u8;
}

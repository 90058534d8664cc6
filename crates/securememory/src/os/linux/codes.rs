//! What the codes of signals mean on Linux. sigaction(2)

use super::super::signals::Failure;
use std::ffi::c_int;

const SEGV_MAPERR: c_int = 1;

/// Of a signal that a thread has sent to a thread.
pub(in super::super) const RAISED: c_int = libc::SI_TKILL;
/// Of signals that a process has sent.
pub(in super::super) const SENT: [c_int; 2] = [libc::SI_USER, libc::SI_TKILL];
/// Of one that was sent with a value.
pub(in super::super) const QUEUED: Option<c_int> = Some(libc::SI_QUEUE);
/// Memory was lost that this thread has not touched.
pub(in super::super) const NOT_OF_THIS_THREAD: c_int = libc::BUS_MCEERR_AO;

pub(in super::super) fn is_fault(code: c_int) -> bool {
    code > 0
}

pub(in super::super) fn failure(signal: c_int, code: c_int) -> Failure {
    match (signal, code) {
        (libc::SIGBUS, _) => Failure::Lost,
        (_, SEGV_MAPERR) => Failure::Unmapped,
        _ => Failure::Denied,
    }
}

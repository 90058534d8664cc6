//! On Windows.

use securememory::{Call, CallError, Host};

/// Nothing else can be changed.
pub(super) fn also(_: &Host, _: &mut Vec<String>) {}

/// How more can be locked.
pub(super) fn how_to_raise(_: &Host) -> String {
    "The library raises the minimum of the working set itself; where that is refused, call SetProcessWorkingSetSize \
     at the start, give the user the right to increase a working set (SeIncreaseWorkingSetPrivilege), or raise the \
     limit of the job object."
        .to_owned()
}

/// What to do where not all memory could be locked.
pub(super) fn lock(host: &Host, refused: Option<CallError>) -> String {
    match refused {
        Some(cause) if cause.call == Call::ProtectMemory => {
            "Closed pages cannot be encrypted here, and Windows unlocks them: what lies in them may be written to the \
             page file. Wine has this call without effect; on Windows nothing is known that stands in its way."
                .to_owned()
        }
        _ => format!("Not all memory could be locked. {}", how_to_raise(host)),
    }
}

//! On Linux and other Unix systems.

use securememory::{CallError, Feature, Host};

use crate::info::words;

/// What only such systems have.
pub(super) fn also(host: &Host, advice: &mut Vec<String>) {
    if let Feature::Unavailable { errno } = host.memfd {
        advice.push(format!(
            "memfd_create is refused (errno {errno}), so the key hold is `guarded`: each read costs two protection \
             changes. A container's system call filter that allows memfd_create lifts this."
        ));
    }
    if !host.proc_mounted {
        advice.push("Mount /proc, so that protections can be verified and not only asked for.".to_owned());
    }
}

/// The way that is open to this user.
pub(super) fn how_to_raise(host: &Host) -> String {
    let own = match (host.memlock_soft, host.memlock_hard) {
        (Some(soft), hard) if hard.is_none_or(|hard| hard > soft) => {
            "`ulimit -l` raises it in a shell".to_owned()
        }
        (_, Some(hard)) => format!("The hard limit is {}, so root has to raise it", words::bytes(hard)),
        (_, None) => "No limit stands in the way".to_owned(),
    };
    format!(
        "{own}; lasting ways are LimitMEMLOCK= in a systemd unit, `memlock` in /etc/security/limits.conf, \
         --ulimit memlock= for a container, or the capability CAP_IPC_LOCK."
    )
}

/// What to do where not all memory could be locked.
pub(super) fn lock(host: &Host, _: Option<CallError>) -> String {
    match (host.memlock_enforced, host.memlock_soft) {
        (true, Some(soft)) => {
            format!("Not all memory could be locked: {} may be. {}", words::bytes(soft), how_to_raise(host))
        }
        _ => "Memory could not all be locked although no limit forbids it: a system call filter or an emulator \
              may stand in the way."
            .to_owned(),
    }
}

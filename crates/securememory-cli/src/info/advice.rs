//! What to change so that a default vault gets what it asks for: nothing else is advised.

use securememory::{Error, Feature, Host, Level, VaultStatus};

use super::words;

/// What a vault locks at the most, by default.
const VAULT_LOCKS: u64 = 64 * 1024;

/// One entry for each thing that is missing and can be changed.
pub(super) fn of(host: &Host, vault: &Result<VaultStatus, Error>) -> Vec<String> {
    let mut advice = Vec::new();
    let lock_is_missing = match vault {
        Ok(status) => {
            (!status.protections.lock.got && status.protections.lock.asked != Level::Off)
                || status.scratch_unlocked > 0
        }
        Err(_) => false,
    };
    if lock_is_missing {
        advice.push(lock(host));
    } else if let Some(soft) = host.memlock_soft.filter(|soft| host.memlock_enforced && *soft < VAULT_LOCKS) {
        advice.push(format!(
            "A vault locks up to {}, and only {} may be locked here: views beyond that are not. {}",
            words::bytes(VAULT_LOCKS),
            words::bytes(soft),
            how_to_raise(host)
        ));
    }
    if let Feature::Unavailable { errno } = host.memfd {
        advice.push(format!(
            "memfd_create is refused (errno {errno}), so the key hold is `guarded`: each read costs two protection \
             changes. A container's system call filter that allows memfd_create lifts this."
        ));
    }
    if !host.proc_mounted {
        advice.push("Mount /proc, so that protections can be verified and not only asked for.".to_owned());
    }
    if host.swap == Some(true) && lock_is_missing {
        advice.push(
            "Swap is in use and memory could not be locked: open views may be written to it.".to_owned(),
        );
    }
    if let Err(hint) = vault.as_ref().map_err(Error::hint) {
        advice.extend(hint.map(|hint| format!("No vault can be made: {hint}.")));
    }
    advice
}

fn lock(host: &Host) -> String {
    match (host.memlock_enforced, host.memlock_soft) {
        (true, Some(soft)) => {
            format!("Not all memory could be locked: {} may be. {}", words::bytes(soft), how_to_raise(host))
        }
        _ => "Memory could not all be locked although no limit forbids it: a system call filter or an emulator \
              may stand in the way."
            .to_owned(),
    }
}

/// The way that is open to this user.
fn how_to_raise(host: &Host) -> String {
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

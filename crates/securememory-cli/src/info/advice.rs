//! What to change so that a default vault gets what it asks for: nothing else is advised.

#[cfg_attr(windows, path = "advice/windows.rs")]
#[cfg_attr(not(windows), path = "advice/unix.rs")]
mod system;

use securememory::{Error, Host, Level, VaultStatus};

use super::words;
use system::how_to_raise;

/// What a vault locks at the most, by default.
const VAULT_LOCKS: u64 = 64 * 1024;

/// One entry for each thing that is missing and can be changed.
pub(super) fn of(host: &Host, vault: &Result<VaultStatus, Error>) -> Vec<String> {
    let mut advice = Vec::new();
    let refused = vault.as_ref().ok().and_then(|status| status.protections.lock.refused);
    let lock_is_missing = match vault {
        Ok(status) => {
            (!status.protections.lock.got && status.protections.lock.asked != Level::Off)
                || status.scratch_unlocked > 0
        }
        Err(_) => false,
    };
    if lock_is_missing {
        advice.push(system::lock(host, refused));
    } else if let Some(soft) = host.memlock_soft.filter(|soft| host.memlock_enforced && *soft < VAULT_LOCKS) {
        advice.push(format!(
            "A vault locks up to {}, and only {} may be locked here: views beyond that are not. {}",
            words::bytes(VAULT_LOCKS),
            words::bytes(soft),
            how_to_raise(host)
        ));
    }
    system::also(host, &mut advice);
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

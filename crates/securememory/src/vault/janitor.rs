//! The thread that does what is due by time, replaces keys by age and moves what older ones have sealed: only in vaults that
//! ask for one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::Result;
use crate::events;
use crate::os;
use crate::store::Machinery;

/// Starts it. It ends by itself when the vault does, which it does not keep alive.
pub(super) fn start(machinery: &Arc<Machinery>) -> Result<()> {
    let vault = Arc::downgrade(machinery);
    let event = Arc::clone(machinery.lingering.event());
    let run = move || {
        loop {
            let seen = event.load(Ordering::Acquire);
            let Some(machinery) = vault.upgrade() else { return };
            let idle = [machinery.lingering.tidy(), machinery.tend_time(), machinery.tend_keys()]
                .into_iter()
                .flatten()
                .min();
            drop(machinery);
            // Code of the user's; what it does is no reason to end.
            let _ = std::panic::catch_unwind(events::tell);
            os::wait_on(&event, seen, idle);
        }
    };
    Ok(os::spawn("securememory", run)?)
}

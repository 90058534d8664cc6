//! For tests of this library and of programs that use it. Feature `testing`, never for production.
//!
//! - [`TestGuard`]: what a test makes is its own, and nothing of it may be left at its end.
//! - [`own_process`] and [`in_own_process`]: tests that run in a process of their own, and what such a process has taken
//!   from the system ([`Footprint`]).
//! - [`inject`]: system calls that fail on demand.

mod footprint;
mod guard;
mod own_process;

use crate::enclave::hold::broken;
use crate::vault::diagnostics;
use crate::{OpenView, Secret, Vault};

pub use crate::os::{errno, inject};
pub use crate::registry::guards::Left;
pub use footprint::Footprint;
pub use guard::{GuardHandle, TestGuard, UnderGuard, expect_leak};
pub use own_process::{Ending, OwnProcess, in_own_process, own_process, patience, skip};

/// The number by which the library knows this thread: the system's.
#[doc(hidden)]
#[must_use]
pub fn thread_id() -> u32 {
    crate::os::thread_id() as u32
}

/// Destroys a vault's split key in memory while the vault is in use, in the order in which a process that ends has to do
/// it. Says whether the vault has such a key.
#[doc(hidden)]
#[must_use]
pub fn wipe_key(vault: &Vault) -> bool {
    vault.machinery().wipe_key()
}

/// Takes the locks of a vault, and keeps them as if a thread had them that does not run; or gives them back. False: not all
/// were to be had.
#[doc(hidden)]
#[must_use]
pub fn freeze_vault(vault: &Vault, frozen: bool) -> bool {
    vault.machinery().set_frozen(frozen)
}

/// The same with the locks of the process: those of its vaults, of the coordinator of signals, and of who installs
/// handlers.
#[doc(hidden)]
#[must_use]
pub fn freeze_process(frozen: bool) -> bool {
    let signals = crate::signal::set_frozen(frozen);
    let handlers = crate::fault::guard::set_frozen(frozen);
    crate::registry::set_frozen(frozen) && handlers && signals
}

/// Switches off the checks of a key before its use (its check value and its confirmation), and the second look after
/// encrypting, in the whole process: so that tests which show that these hold can be seen to fail without them.
#[doc(hidden)]
pub fn skip_key_checks(fetch: bool, seal: bool) {
    let of = |skipped, check| if skipped { check } else { 0 };
    broken::skip(of(fetch, broken::FETCH | broken::CONFIRM) | of(seal, broken::SEAL));
}

/// Switches off the confirmation of keys alone, in the whole process, likewise.
#[doc(hidden)]
pub fn skip_confirmation(skipped: bool) {
    broken::skip(if skipped { broken::CONFIRM } else { 0 });
}

/// Has every seal of the process call a function between the checks of its key and the use of it, where a disturbance makes
/// a difference. Once in a process; says whether it was the first time.
#[doc(hidden)]
pub fn call_in_window(act: fn()) -> bool {
    broken::call_in_window(act)
}

/// Version, epoch, address and length of what is at rest of a sealed secret: also in a child that has inherited it, where
/// [`Secret::status`] tells nothing.
///
/// # Safety
///
/// Nobody else uses the secret.
#[doc(hidden)]
#[must_use]
#[allow(unsafe_code, reason = "the promise is handed on")]
pub unsafe fn look_at_rest(secret: &Secret) -> Option<(u64, u64, (usize, usize))> {
    // SAFETY: as the caller vouches.
    unsafe { secret.object().look() }
}

/// The views of a vault, and how many of its secrets linger: what [`Vault::diagnostics`] says of them, without the kernel's
/// listings, for tests that ask very often.
#[doc(hidden)]
#[must_use]
pub fn open_views(vault: &Vault) -> (Vec<OpenView>, usize) {
    let machinery = vault.machinery();
    (diagnostics::open_views(machinery), machinery.lingering.count())
}

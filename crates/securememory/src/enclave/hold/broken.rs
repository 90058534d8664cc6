//! Switches that break the checks of the key on purpose, so that the tests which prove them can be seen to fail
//! without them; and a call in the middle of the window in which a key can go wrong. Feature `testing`; in any other
//! build nothing of this is there.

/// The check of a fetched key.
pub(crate) const FETCH: u32 = 1;
/// The second look after encrypting.
pub(crate) const SEAL: u32 = 2;
/// The confirmation of the key before encrypting, after a failure to decrypt, and before a renewal.
pub(crate) const CONFIRM: u32 = 4;

#[cfg(feature = "testing")]
static SKIPPED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

/// Is this check switched off?
#[cfg(feature = "testing")]
pub(crate) fn skips(check: u32) -> bool {
    SKIPPED.load(std::sync::atomic::Ordering::Relaxed) & check != 0
}

/// Never.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub(crate) const fn skips(_check: u32) -> bool {
    false
}

/// Switches checks off, in all vaults of the process, until the next call.
#[cfg(feature = "testing")]
pub(crate) fn skip(checks: u32) {
    SKIPPED.store(checks, std::sync::atomic::Ordering::Relaxed);
}

#[cfg(feature = "testing")]
static IN_WINDOW: std::sync::OnceLock<fn()> = std::sync::OnceLock::new();

/// Between the checks of a key and its use in a seal: what a test wishes to happen there.
#[cfg(feature = "testing")]
pub(crate) fn in_window() {
    if let Some(act) = IN_WINDOW.get() {
        act();
    }
}

/// Nothing.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub(crate) const fn in_window() {}

/// Has [`in_window`] call a function from now on; once in a process.
#[cfg(feature = "testing")]
pub(crate) fn call_in_window(act: fn()) -> bool {
    IN_WINDOW.set(act).is_ok()
}

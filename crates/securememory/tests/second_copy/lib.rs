//! A second copy of the library, in a shared object: built and loaded by the test `second_copy.rs`.
#![allow(unsafe_code, reason = "functions for who loads it, and an overflow on purpose")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use securememory::fault::{self, FaultPolicy};
use securememory::signal::{
    Coordinator, Options, Outcome, Priority, Registration, Signal, Uninstalled, register,
};
use securememory::{Secret, Vault};

static COUNT: AtomicU32 = AtomicU32::new(0);
static INSTALLED: Mutex<Option<(Coordinator, Registration)>> = Mutex::new(None);
static SECRET: Mutex<Option<Secret>> = Mutex::new(None);

/// Installs a coordinator with a closure that counts and passes on. Zero: done.
#[unsafe(no_mangle)]
pub extern "C" fn second_install(signal: i32) -> i32 {
    let install = || {
        let signal = Signal::from_raw(signal)?;
        let coordinator = Coordinator::install(&[signal], Options::new())?;
        let registration = register(signal, Priority::Normal, |_| {
            COUNT.fetch_add(1, Ordering::SeqCst);
            Outcome::Pass
        })?;
        Ok::<_, securememory::Error>((coordinator, registration))
    };
    match install() {
        Ok(installed) => {
            *INSTALLED.lock().unwrap() = Some(installed);
            0
        }
        Err(_) => -1,
    }
}

/// How often that was called.
#[unsafe(no_mangle)]
pub extern "C" fn second_count() -> u32 {
    COUNT.load(Ordering::SeqCst)
}

/// Uninstalls it. Zero: what was there before is there again; one: it is dormant.
#[unsafe(no_mangle)]
pub extern "C" fn second_uninstall() -> i32 {
    let Some((coordinator, registration)) = INSTALLED.lock().unwrap().take() else { return -1 };
    drop(registration);
    match coordinator.uninstall() {
        Ok(Uninstalled::Restored) => 0,
        Ok(Uninstalled::Dormant) => 1,
        _ => -1,
    }
}

unsafe extern "C" {
    fn _exit(code: i32) -> !;
}

/// Handles faults, of which each ends the process with the code 44, and has a secret. Zero: done.
#[unsafe(no_mangle)]
pub extern "C" fn second_handle_faults() -> i32 {
    let install = || {
        // SAFETY: async-signal-safe.
        let policy = unsafe { FaultPolicy::call(|_| _exit(44)) };
        fault::install(policy)?.keep();
        Vault::builder().build()?.secret().label("in the second copy").from_bytes(&mut [9; 32])
    };
    match install() {
        Ok(secret) => {
            *SECRET.lock().unwrap() = Some(secret);
            0
        }
        Err(_) => -1,
    }
}

/// Reads far beyond that secret.
#[unsafe(no_mangle)]
pub extern "C" fn second_overflow() -> i32 {
    let secret = SECRET.lock().unwrap();
    let Some(view) = secret.as_ref().and_then(|secret| secret.view().ok()) else { return -1 };
    // SAFETY: none; it ends the process.
    unsafe { view.as_ptr().add(40).read_volatile().into() }
}

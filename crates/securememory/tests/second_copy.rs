//! Two copies of the library in one process, the second in a shared object: they chain like strangers.
//!
//! The shared object is built here, by cargo, from what cargo has at hand. Where that cannot be done the cases are
//! skipped.
#![cfg(unix)]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests end by panics, load a shared object, and send and handle signals by raw calls"
)]

mod common;

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use common::signals::{PLAIN, count_plain, install, installed, send, until};
use common::{Ending, case};
use securememory::Vault;
use securememory::fault::{self, FaultPolicy};
use securememory::signal::{
    Coordinator, Options, Outcome, Priority, Registration, Signal, Uninstalled, register,
};
use securememory::testing::TestGuard;

static OURS: AtomicU32 = AtomicU32::new(0);
/// Cargo waits for itself, but not the cases' deadlines.
static BUILDING: Mutex<()> = Mutex::new(());

/// The shared object; why there is none.
fn build() -> Result<PathBuf, String> {
    let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let library = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("second_copy");
    let file = package.join("target/debug/libsecond_copy.so");
    let manifest = format!(
        "[package]\nname = \"second_copy\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [lib]\ncrate-type = [\"cdylib\"]\n\n[dependencies]\nsecurememory = {{ path = {library:?} }}\n\n\
         [profile.dev]\ndebug = false\n\n[workspace]\n"
    );
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(package.join("src"))?;
        std::fs::write(package.join("Cargo.toml"), manifest)?;
        std::fs::write(package.join("src/lib.rs"), include_str!("second_copy/lib.rs"))?;
        // The same versions as here: those are at hand.
        std::fs::copy(library.join("../../Cargo.lock"), package.join("Cargo.lock"))?;
        Ok(())
    };
    write().map_err(|error| error.to_string())?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--offline", "--quiet", "--target-dir"])
        .arg(package.join("target"))
        .current_dir(&package);
    // What is set for the tests is not for it.
    for name in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS"] {
        cargo.env_remove(name);
    }
    let output = cargo.output().map_err(|error| error.to_string())?;
    if output.status.success() && file.exists() {
        return Ok(file);
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Runs a case with the second copy loaded, or skips it.
fn with_second(name: &'static str, ending: Ending, body: impl FnOnce(&Second)) {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("second_copy/target/debug/libsecond_copy.so");
    let is_parent = std::env::var_os("SECUREMEMORY_TEST_CASE").is_none();
    if is_parent && let Err(reason) = build() {
        eprintln!("SKIPPED {name}: the second copy could not be built:\n{reason}");
        return;
    }
    case(name).ending(ending).run(|| body(&Second::load(&file)));
}

/// The second copy.
struct Second(*mut libc::c_void);

impl Second {
    fn load(file: &Path) -> Self {
        let name = CString::new(file.to_str().unwrap()).unwrap();
        // SAFETY: nothing of it happens when it is loaded.
        let loaded = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if loaded.is_null() {
            common::skip("the second copy could not be loaded");
        }
        Self(loaded)
    }

    fn symbol(&self, name: &str) -> *mut libc::c_void {
        let name = CString::new(name).unwrap();
        // SAFETY: a loaded object, never closed.
        let found = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!found.is_null(), "{name:?}");
        found
    }

    fn call(&self, name: &str) -> i32 {
        // SAFETY: all but one of its functions are of this type.
        let function: extern "C" fn() -> i32 = unsafe { std::mem::transmute(self.symbol(name)) };
        function()
    }

    fn install(&self, signal: Signal) {
        // SAFETY: this one is of this type.
        let function: extern "C" fn(i32) -> i32 =
            unsafe { std::mem::transmute(self.symbol("second_install")) };
        assert_eq!(function(signal.as_raw()), 0);
    }

    /// Sends a signal; ours, the second's and the handler below both see it, so often in all.
    fn expect(&self, signal: Signal, counts: [u32; 3]) {
        let seen = || {
            let second = self.call("second_count") as u32;
            [OURS.load(Ordering::SeqCst), second, PLAIN.load(Ordering::SeqCst)]
        };
        send(signal);
        until(&format!("{counts:?}"), || seen() == counts);
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert_eq!(seen(), counts);
    }
}

fn ours(signal: Signal) -> (Coordinator, Registration) {
    let coordinator = Coordinator::install(&[signal], Options::new()).unwrap();
    let registration = register(signal, Priority::Normal, |_| {
        OURS.fetch_add(1, Ordering::SeqCst);
        Outcome::Pass
    });
    (coordinator, registration.unwrap())
}

const SIGNAL: Signal = Signal::USR1;

fn plain_first(flags: i32) {
    let function: extern "C" fn(i32) = count_plain;
    install(SIGNAL, function as usize, flags);
}

#[test]
fn the_second_comes_later_and_goes_first() {
    let _guard = TestGuard::new();
    with_second("the_second_comes_later_and_goes_first", Ending::Done, |second| {
        plain_first(libc::SA_ONSTACK);
        let (coordinator, _kept) = ours(SIGNAL);
        second.install(SIGNAL);
        (1..=100).for_each(|n| second.expect(SIGNAL, [n, n, n]));
        assert_eq!(coordinator.check(), Ok(vec![SIGNAL]), "to each the other is a stranger");
        assert_eq!(second.call("second_uninstall"), 0);
        (101..=150).for_each(|n| second.expect(SIGNAL, [n, 100, n]));
        assert_eq!(coordinator.uninstall(), Ok(Uninstalled::Restored));
        let function: extern "C" fn(i32) = count_plain;
        assert_eq!(installed(SIGNAL).sa_sigaction, function as usize);
    });
}

#[test]
fn the_first_goes_first_and_stays_as_a_way_through() {
    let _guard = TestGuard::new();
    with_second("the_first_goes_first_and_stays_as_a_way_through", Ending::Done, |second| {
        // Without SA_ONSTACK, too.
        plain_first(0);
        let (coordinator, kept) = ours(SIGNAL);
        second.install(SIGNAL);
        (1..=20).for_each(|n| second.expect(SIGNAL, [n, n, n]));
        assert_eq!(coordinator.uninstall(), Ok(Uninstalled::Dormant));
        (21..=40).for_each(|n| second.expect(SIGNAL, [20, n, n]));
        assert_eq!(second.call("second_uninstall"), 0);
        (41..=60).for_each(|n| second.expect(SIGNAL, [20, 40, n]));
        drop(kept);
        // A coordinator again: ours is in place already.
        let (coordinator, _kept) = ours(SIGNAL);
        (61..=80).for_each(|n| second.expect(SIGNAL, [n - 40, 40, n]));
        assert_eq!(coordinator.uninstall(), Ok(Uninstalled::Restored));
    });
}

fn overflow(second: &Second, second_is_above: bool) {
    let here = || {
        fault::install(FaultPolicy::Abort).unwrap().keep();
        Vault::builder().build().unwrap().secret().from_bytes(&mut [5; 32]).unwrap()
    };
    let there = || assert_eq!(second.call("second_handle_faults"), 0);
    let _secret = if second_is_above {
        let secret = here();
        there();
        secret
    } else {
        there();
        here()
    };
    second.call("second_overflow");
}

#[test]
fn a_fault_in_the_seconds_memory_is_the_seconds_when_it_is_above() {
    let _guard = TestGuard::new();
    with_second(
        "a_fault_in_the_seconds_memory_is_the_seconds_when_it_is_above",
        Ending::Code(44),
        |second| {
            overflow(second, true);
        },
    );
}

#[test]
fn a_fault_in_the_seconds_memory_is_the_seconds_when_it_is_below() {
    let _guard = TestGuard::new();
    with_second(
        "a_fault_in_the_seconds_memory_is_the_seconds_when_it_is_below",
        Ending::Code(44),
        |second| {
            overflow(second, false);
        },
    );
}

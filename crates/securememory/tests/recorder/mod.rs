//! A subscriber of `tracing` that writes everything down, and uses the library while it is called: so a lock of ours that
//! is held meanwhile is found out, by the check of ranks in debug builds.

use std::cell::Cell;
use std::fmt::{Debug, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use securememory::{Error, Store, Vault, ViewKind};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// What is used by whoever is told something.
static OTHER: Mutex<Option<Vault>> = Mutex::new(None);

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// What lines begin with that the recorder has caused itself.
pub const OWN: &str = "own: ";

struct Recorder(AtomicU64);

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }

    fn record_bytes(&mut self, _field: &Field, value: &[u8]) {
        panic!("bytes in an event: {} of them", value.len());
    }
}

fn keep(line: String) {
    if INSIDE.replace(true) {
        LINES.lock().unwrap().push(format!("{OWN}{line}"));
        return;
    }
    LINES.lock().unwrap().push(line);
    // The first lock of all; so none may be held.
    // Not with the lock: the calls below come here again.
    let other = OTHER.lock().unwrap().clone();
    if let Some(other) = &other {
        if other.is_alive() {
            let used = || {
                let secret = other.secret().store(Store::Paged).random(40)?;
                secret.replace(&mut [1; 40])?;
                other.secret().store(Store::Sealed).random(40)?.close()?;
                other.refresh()?;
                secret.close()
            };
            assert_usable(used());
        }
        assert_usable(Vault::builder().build().map(|vault| assert!(vault.status().keys == 1)));
        let own = securememory::testing::thread_id();
        let views = other.diagnostics().views;
        assert!(!views.iter().any(|view| view.kind == ViewKind::Opening && view.thread == own), "{views:?}");
    }
    INSIDE.set(false);
}

/// The library can be used by who is told something, but for what a test has the system refuse.
#[track_caller]
fn assert_usable<T>(outcome: Result<T, Error>) {
    match outcome {
        Ok(_) | Err(Error::System(_) | Error::HoldRefused(_) | Error::StuckOpen(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("securememory")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut text = Text(format!("{} span {}", span.metadata().level(), span.metadata().name()));
        span.record(&mut text);
        keep(text.0);
        Id::from_u64(self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(event.metadata().level().to_string());
        event.record(&mut text);
        keep(text.0);
    }

    fn enter(&self, _span: &Id) {
        keep("enter".to_owned());
    }

    fn exit(&self, _span: &Id) {
        keep("exit".to_owned());
    }
}

/// While it lives, whoever is told something uses a vault.
#[must_use]
pub struct Active(());

impl Drop for Active {
    fn drop(&mut self) {
        let other = OTHER.lock().unwrap().take();
        drop(other);
    }
}

/// Begins to write down, in the whole process.
pub fn install() -> Active {
    *OTHER.lock().unwrap() = Some(Vault::builder().build().unwrap());
    tracing::subscriber::set_global_default(Recorder(AtomicU64::new(1))).unwrap();
    Active(())
}

/// Runs `work` on this thread while the recorder does nothing but write down.
#[cfg(unix)] // A test of files with shares alone.
pub fn quietly<T>(work: impl FnOnce() -> T) -> T {
    INSIDE.set(true);
    let result = work();
    INSIDE.set(false);
    result
}

/// What was written down since the last call.
pub fn take() -> Vec<String> {
    std::mem::take(&mut *LINES.lock().unwrap())
}

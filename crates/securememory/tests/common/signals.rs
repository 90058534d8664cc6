//! Signals, sent and counted.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use securememory::signal::{
    Change, Coordinator, DirectHandler, Options, Outcome, Priority, Registration, Signal, register,
    register_direct,
};

/// Sends a signal to this process.
pub fn send(signal: Signal) {
    // SAFETY: numbers only.
    assert_eq!(unsafe { libc::kill(libc::getpid(), signal.as_raw()) }, 0);
}

/// Sends a signal to the calling thread, which has it when this returns, unless it is blocked.
pub fn raise(signal: Signal) {
    // SAFETY: numbers only.
    assert_eq!(unsafe { libc::raise(signal.as_raw()) }, 0);
}

/// Sends a signal to this process with a word; false: the queue is full.
pub fn queue(signal: Signal, word: usize) -> bool {
    let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(word) };
    // SAFETY: numbers only.
    unsafe { libc::sigqueue(libc::getpid(), signal.as_raw(), value) == 0 }
}

/// Waits until something holds.
pub fn until(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Waits until so many have been counted.
pub fn until_counted(counter: &AtomicU32, count: u32) {
    until(&format!("{count} counted"), || counter.load(Ordering::SeqCst) >= count);
}

/// Installs a handler behind the library's back.
pub fn install(signal: Signal, handler: usize, flags: i32) -> libc::sigaction {
    // SAFETY: numbers and a set, for which zero is right; what was there before is read back.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        let mut before: libc::sigaction = std::mem::zeroed();
        assert_eq!(libc::sigaction(signal.as_raw(), &raw const action, &raw mut before), 0);
        before
    }
}

/// What is installed.
pub fn installed(signal: Signal) -> libc::sigaction {
    // SAFETY: numbers and a set, for which zero is right.
    unsafe {
        let mut found: libc::sigaction = std::mem::zeroed();
        assert_eq!(libc::sigaction(signal.as_raw(), std::ptr::null(), &raw mut found), 0);
        found
    }
}

/// Calls of [`count_plain`].
pub static PLAIN: AtomicU32 = AtomicU32::new(0);

/// A handler that counts.
pub extern "C" fn count_plain(_: i32) {
    PLAIN.fetch_add(1, Ordering::SeqCst);
}

/// A coordinator of one signal.
pub fn of(signal: Signal) -> Coordinator {
    Coordinator::install(&[signal], Options::new()).unwrap()
}

pub fn ending(signals: &[Signal]) -> Coordinator {
    Coordinator::install(signals, Options::new().ends(true)).unwrap()
}

/// Changes, as they are told.
pub fn noted(options: Options) -> (Options, Arc<Mutex<Vec<Change>>>) {
    let changes = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&changes);
    (options.on_change(move |change| noted.lock().unwrap().push(*change)), changes)
}

/// A closure that counts its calls.
pub fn counting(signal: Signal, counter: &Arc<AtomicU32>, outcome: Outcome) -> Registration {
    let counter = Arc::clone(counter);
    register(signal, Priority::Normal, move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        outcome
    })
    .unwrap()
}

pub fn counter() -> Arc<AtomicU32> {
    Arc::default()
}

pub fn load(counter: &AtomicU32) -> u32 {
    counter.load(Ordering::SeqCst)
}

// Functions that are called in the signal handler: the word is the address of an atomic.

pub unsafe fn count(_: i32, _: *mut c_void, _: *mut c_void, word: usize) -> Outcome {
    // SAFETY: registered with the address of one that lives as long.
    unsafe { &*(word as *const AtomicU32) }.fetch_add(1, Ordering::SeqCst);
    Outcome::Handled
}

/// Registers the function with a counter that lives as long as the process.
pub fn direct(signal: Signal, function: DirectHandler, counter: &'static AtomicU32) -> Registration {
    // SAFETY: async-signal-safe: an atomic.
    unsafe {
        register_direct(signal, Priority::Normal, function, std::ptr::from_ref(counter).addr()).unwrap()
    }
}

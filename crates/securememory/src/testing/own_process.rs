//! Tests that run in a process of their own.

// Reason: what is wrong with a test is told by a panic.
#![allow(clippy::expect_used, clippy::panic)]

use std::io::Read;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::footprint::Footprint;
use super::guard::TestGuard;
use crate::{os, signal};

const VARIABLE: &str = "SECUREMEMORY_TEST_CASE";

/// The exit code of a process that has carried out its body.
const DONE: i32 = 42;
/// The exit code of one that cannot do so here.
const SKIPPED: i32 = 77;
/// The exit code of one that found something wrong, as of any test process.
const WRONG: i32 = 101;

/// How the process of a test is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With the body carried out.
    Done,
    /// With this exit code.
    Code(i32),
    /// By this signal. On Windows no process ends so: one that dies of an exception ends with the exception's code.
    Signal(i32),
}

/// A test in a process of its own: see [`own_process`].
#[derive(Debug)]
#[must_use = "nothing is run before `run`"]
pub struct OwnProcess {
    name: &'static str,
    limits: Vec<(u32, u64)>,
    deadline: Duration,
    ending: Ending,
    shown: bool,
    guarded: bool,
}

/// Begins a test whose body runs in a process of its own, so that limits, damage and deaths stay there, and a count of its
/// descriptors or mappings is not disturbed by other tests. The name must be that of the test function, with its modules:
/// `tests::it_works`.
///
/// The function runs its own binary again, with its name in an environment variable; the second run carries out the body,
/// under a [`TestGuard`], and ends with a code that nothing else ends with: by `exit`, or by `_exit(2)` where a coordinator of
/// signals is still installed or the user has changed.
///
/// ```no_run
/// use securememory::testing::{Ending, own_process};
///
/// #[test]
/// fn an_abort_ends_the_process() {
///     own_process("an_abort_ends_the_process").ending(Ending::Signal(6)).run(|| std::process::abort());
/// }
/// ```
pub fn own_process(name: &'static str) -> OwnProcess {
    let deadline = Duration::from_secs(100);
    OwnProcess { name, limits: Vec::new(), deadline, ending: Ending::Done, shown: false, guarded: true }
}

/// Runs a test's body in a process of its own, two times, each under a [`TestGuard`]: what the second one takes from the
/// system has to be back at its end ([`Footprint`]). The first one makes what stays as long as the process.
///
/// ```no_run
/// #[test]
/// fn nothing_is_kept() {
///     securememory::testing::in_own_process("nothing_is_kept", || {
///         let secret = securememory::Secret::random(32).unwrap();
///         assert_eq!(secret.with(|bytes| bytes.len()).unwrap(), 32);
///     });
/// }
/// ```
///
/// # Panics
///
/// Where the body does, or something is left.
#[track_caller]
pub fn in_own_process(name: &'static str, mut body: impl FnMut()) {
    let place = Location::caller();
    own_process(name).without_guard("each time has its own").run(|| {
        let mut guarded = || {
            let guard = TestGuard::at(place);
            body();
            drop(guard);
        };
        guarded();
        let before = Footprint::now();
        guarded();
        before.assert_same("after the test");
    });
}

/// The path of this program; without /proc, by which it was started.
fn own_program() -> PathBuf {
    let by_name = || std::env::args_os().next().map(PathBuf::from);
    std::env::current_exe().ok().or_else(by_name).expect("the test binary")
}

/// Where there is no /proc: ends a test's own process as one that cannot run here. Others panic when they want to read there.
#[cfg(unix)]
pub(super) fn need_proc() {
    if std::env::var_os(VARIABLE).is_some() && std::fs::exists("/proc/self/task").is_ok_and(|there| !there) {
        skip("needs /proc, to see what the process has taken from the system");
    }
}

/// Ends a test's own process as that of one that cannot run here; the reason is shown.
pub fn skip(reason: &str) -> ! {
    eprintln!("{reason}");
    // For the reason that `run` has, whatever was done before.
    os::limits::exit_at_once(SKIPPED)
}

impl OwnProcess {
    /// Sets a limit of setrlimit(2), soft and hard, before the process starts: by its number, such as
    /// `libc::RLIMIT_NOFILE`. On Windows, which has no such limits, a test with one is skipped.
    ///
    /// # Panics
    ///
    /// For what is no such number.
    pub fn limit(mut self, resource: impl TryInto<u32>, value: u64) -> Self {
        let resource = resource.try_into().unwrap_or_else(|_| panic!("no number of a limit"));
        self.limits.push((resource, value));
        self
    }

    /// How long it may take: 100 seconds, if nothing else is said. `SECUREMEMORY_PATIENCE` multiplies it, where processors
    /// are emulated.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How it is to end, if not with the body carried out.
    pub fn ending(mut self, ending: Ending) -> Self {
        self.ending = ending;
        self
    }

    /// Shows what it has said, also where all is well.
    pub fn shown(mut self) -> Self {
        self.shown = true;
        self
    }

    /// No guard watches the body, for this reason.
    pub fn without_guard(mut self, _why: &str) -> Self {
        self.guarded = false;
        self
    }

    /// Runs it: in the process of the test, the child and its judgement; in the child, the body.
    ///
    /// # Panics
    ///
    /// Where it ends otherwise than it should.
    #[track_caller]
    pub fn run(self, body: impl FnOnce()) {
        if std::env::var(VARIABLE).is_ok_and(|name| name == self.name) {
            let (place, user) = (Location::caller(), os::limits::user());
            wait_for_other_threads();
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let _guard = self.guarded.then(|| TestGuard::at(place));
                body();
            }));
            let code = if outcome.is_ok() { DONE } else { WRONG };
            // At `exit` the standard library unmaps the alternate stack of the main thread, which is another than this one. A
            // signal that is handled after that would find none; and by a signal the C library changes the user of the other
            // threads, see setuid(2), whose handler may still be at work there.
            if signal::coordinated().is_some() || os::limits::user() != user {
                os::limits::exit_at_once(code);
            }
            std::process::exit(code);
        }
        if let Some(&(resource, value)) = self.limits.iter().find(|&&limit| !os::limits::may_set(limit)) {
            let name = self.name;
            eprintln!("SKIPPED {name}: needs limit {resource} at {value}, which is above the hard limit");
            return;
        }
        let (status, output) = self.start_and_wait();
        let ended = match status.code() {
            Some(DONE) => Ending::Done,
            Some(code) => Ending::Code(code),
            None => Ending::Signal(signal_of(status)),
        };
        if ended == Ending::Code(SKIPPED) {
            eprintln!("SKIPPED {}:\n{output}", self.name);
            return;
        }
        assert_eq!(ended, self.ending, "case {} said:\n{output}", self.name);
        if self.shown {
            eprintln!("case {} said:\n{output}", self.name);
        }
    }

    fn start_and_wait(&self) -> (ExitStatus, String) {
        let mut command = Command::new(own_program());
        command
            .args(["--exact", self.name, "--nocapture", "--test-threads=1"])
            .env(VARIABLE, self.name)
            .env("RUST_BACKTRACE", "0")
            // Large blocks of the C library's heap are mappings when taken and none when freed, and there is one
            // heap for all threads: so mappings can be counted. mallopt(3)
            .env("MALLOC_MMAP_THRESHOLD_", "131072")
            .env("MALLOC_ARENA_MAX", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        os::limits::set_before_exec(&mut command, self.limits.clone());
        let mut child = command.spawn().expect("the test binary starts");
        // Pipes, since a limit on file sizes does not concern them; read aside, so that a full one holds nobody up.
        let readers =
            [drain(child.stdout.take().expect("a pipe")), drain(child.stderr.take().expect("a pipe"))];
        let started = Instant::now();
        let deadline = self.deadline * patience();
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child") {
                break Some(status);
            }
            if started.elapsed() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let output: String = readers.into_iter().map(|reader| reader.join().unwrap_or_default()).collect();
        let status =
            status.unwrap_or_else(|| panic!("case {} took longer than {deadline:?}:\n{output}", self.name));
        (status, output)
    }
}

/// How many times as long as usual everything may take here: `SECUREMEMORY_PATIENCE`, or 1. For tests with deadlines of
/// their own, where instructions are emulated.
///
/// # Panics
///
/// Where the variable is no whole number.
#[must_use]
pub fn patience() -> u32 {
    std::env::var("SECUREMEMORY_PATIENCE").map_or(1, |text| text.parse().expect("a whole number"))
}

#[cfg(unix)]
fn signal_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.signal().unwrap_or(0)
}

/// Every process ends with a code.
#[cfg(windows)]
fn signal_of(_: ExitStatus) -> i32 {
    0
}

fn drain(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = from.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// Waits until the test harness's own thread has gone to sleep, waiting for this one: what it allocates on the way must
/// not come in the middle of a test.
#[cfg(unix)]
fn wait_for_other_threads() {
    let own = os::thread_id().to_string();
    if std::fs::exists("/proc/self/task").is_ok_and(|there| !there) {
        // Nothing tells whether it sleeps: it will, in so long a time.
        return std::thread::sleep(Duration::from_millis(50));
    }
    let asleep = || {
        std::fs::read_dir("/proc/self/task").expect("/proc/self/task").flatten().all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            task.file_name().to_str() == Some(&own) || stat.contains(") S ")
        })
    };
    let mut seen = 0;
    while seen < 3 {
        seen = if asleep() { seen + 1 } else { 0 };
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Windows does not tell whether a thread sleeps: a moment must do.
#[cfg(windows)]
fn wait_for_other_threads() {
    std::thread::sleep(Duration::from_millis(20));
}

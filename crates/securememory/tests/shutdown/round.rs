//! One shutdown after the other.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use securememory::{Error, Level, OnClose, OpenView, Policy, Secret, Store, Vault, VaultClosed, ViewKind};

use securememory::testing::{TestGuard, patience};

use super::common::{Footprint, look_open, threads};
use super::crowd::{Work, work};
use super::holders::{Handle, Held, Hold, hold};

pub const LEN: usize = 48;

/// A close ends so long after its deadline at most, on a machine that has 32 busy threads for its processors.
fn margin() -> Duration {
    Duration::from_millis(1500) * patience()
}

/// A round that takes longer hangs.
const ROUND: Duration = Duration::from_secs(60);
/// Small enough for the C library to keep all of them for the next round.
const STACK: usize = 256 << 10;

/// What goes on at the same time as the close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    Nothing,
    Keys,
    Janitor,
    #[cfg(target_os = "linux")]
    Forks,
    Close,
}

static SINCE: AtomicU64 = AtomicU64::new(0);

fn watch() {
    let started = Instant::now();
    std::thread::spawn(move || {
        let mut seen = (0, started);
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let now = SINCE.load(Ordering::Relaxed);
            if now != seen.0 {
                seen = (now, Instant::now());
            } else if seen.1.elapsed() > ROUND {
                eprintln!("round {now} does not end");
                std::process::abort();
            }
        }
    });
}

/// How often an internal lock was not free in time, for a thread of the crowd.
pub static LOCKS_LATE: AtomicUsize = AtomicUsize::new(0);

/// What one round hands to the next, and figures for whoever reads.
#[derive(Default)]
struct Told {
    /// Threads while there is no round.
    alone: usize,
    late: Vec<Duration>,
    turns: usize,
    in_flight: usize,
}

/// So many shutdowns.
pub fn rounds(beside: Beside, count: u64) {
    watch();
    let mut told = Told { alone: threads(), ..Told::default() };
    // What the first ones take from the system is kept: stacks of threads, and the heap.
    (0..2).for_each(|n| round(beside, n, &mut Told { alone: told.alone, ..Told::default() }));
    let before = Footprint::now();
    for n in 0..count {
        SINCE.store(n + 1, Ordering::Relaxed);
        round(beside, n, &mut told);
        before.assert_same(format!("after round {n}"));
    }
    told.late.sort();
    let (middle, last) = (told.late[told.late.len() / 2], told.late[told.late.len() - 1]);
    eprintln!(
        "{count} shutdowns beside {beside:?}, {} turns of work; after the deadline: {middle:?} in the middle, \
         {last:?} at most; {} views in flight at it; {} internal locks not free in time",
        told.turns,
        told.in_flight,
        LOCKS_LATE.load(Ordering::Relaxed)
    );
}

fn vault(beside: Beside, n: u64) -> (Vault, OnClose) {
    let on_close = if n.is_multiple_of(2) { OnClose::Defer } else { OnClose::Revoke };
    let store = [Store::Sealed, Store::Paged, Store::Auto][n as usize / 2 % 3];
    let policy = Policy::new().on_close(on_close).wait(Duration::from_secs(5)).lock(Level::Prefer);
    let mut builder = Vault::builder().policy(policy.close_wait(Duration::from_secs(2))).store(store);
    if n % 3 == 1 {
        builder = builder.hold(securememory::Hold::Guarded);
    }
    if beside == Beside::Janitor {
        builder = builder.janitor().refresh_after(Duration::from_millis(2));
    }
    (builder.build().expect("a vault"), on_close)
}

/// Three pages of secrets: those that the crowd works with, those that are held, and those that rest.
fn secrets(vault: &Vault, label: &str, count: usize) -> Vec<Secret> {
    let make = |n: usize| vault.secret().label(format!("{label} {n}")).from_bytes(&mut [n as u8 + 1; LEN]);
    (0..count).map(|n| make(n).expect("a secret")).collect()
}

/// A thread with a small stack.
fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    run: impl FnOnce() -> T + Send + 'scope,
) -> ScopedJoinHandle<'scope, T> {
    std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, run).expect("a thread")
}

fn held(view: &OpenView) -> Held {
    Held {
        secret: view.secret_id,
        label: view.label.clone(),
        thread: view.thread,
        kind: view.kind.to_string(),
    }
}

/// Are all that are held among those that are outstanding? Gives how many others there are.
fn others(closed: &VaultClosed, handles: &[Handle], on_close: OnClose) -> usize {
    let mut left: Vec<&OpenView> = closed.outstanding.iter().collect();
    for handle in handles {
        let is_it = |view: &&OpenView| {
            let found = held(view);
            let revoked = Held { kind: ViewKind::Revoked.to_string(), ..handle.held.clone() };
            found == handle.held || (on_close == OnClose::Revoke && found == revoked)
        };
        let at = left.iter().position(is_it);
        left.remove(at.unwrap_or_else(|| panic!("{:?} is not told of: {closed}", handle.held)));
    }
    left.len()
}

/// Everything is refused by an error that says why.
fn check_refusals(vault: &Vault, secrets: &[Secret]) {
    for secret in secrets {
        assert_eq!(secret.view().unwrap_err(), Error::Closed);
        assert_eq!(secret.view_mut().unwrap_err(), Error::Closed);
        assert_eq!(secret.owned_view().unwrap_err(), Error::Closed);
        assert_eq!(secret.replace(&mut [1; LEN]).unwrap_err(), Error::Closed);
        assert_eq!(secret.with(|_| ()).unwrap_err().error(), Error::Closed);
        // Ciphertext, which is worth nothing any more, may wait for readers; see the end.
        let status = secret.status();
        assert!(status.store == Store::Sealed || status.at_rest.is_none());
    }
    assert_eq!(vault.secret().random(8).unwrap_err(), Error::Closed);
    assert_eq!(vault.secrets_from(&mut [[1; 8]; 3]).unwrap_err(), Error::Closed);
    assert_eq!(vault.stream().build().unwrap_err(), Error::Closed);
    assert_eq!(vault.refresh().unwrap_err(), Error::Closed);
    assert_eq!(vault.finish_refresh(Duration::ZERO).unwrap_err(), Error::Closed);
    assert_eq!(vault.purge().unwrap_err(), Error::Closed);
    assert_eq!(vault.warm_thread(1).unwrap_err(), Error::Closed);
    assert_eq!((vault.status().keys, vault.status().replicas), (0, 0));
}

fn crew(beside: Beside) -> Vec<Work> {
    let mut crew = Vec::new();
    let parts = [(Work::Read, 7), (Work::Write, 4), (Work::Create, 4), (Work::Stream, 3), (Work::Owned, 2)];
    parts.iter().for_each(|&(work, count)| crew.extend(vec![work; count]));
    crew.extend([Work::ReadMany, Work::Batch]);
    match beside {
        Beside::Keys => crew[0] = Work::Keys,
        #[cfg(target_os = "linux")]
        Beside::Forks => crew[0] = Work::Fork,
        _ => {}
    }
    crew
}

const HOLDS: [Hold; 10] = [
    Hold::View,
    Hold::View,
    Hold::View,
    Hold::Writer,
    Hold::Writer,
    Hold::Owned,
    Hold::Owned,
    Hold::Part,
    Hold::Using,
    Hold::Using,
];

fn round(beside: Beside, n: u64, told: &mut Told) {
    let _guard = TestGuard::new().patience(Duration::from_secs(10));
    let (vault, on_close) = vault(beside, n);
    let (shared, idle) = (secrets(&vault, "shared", 8), secrets(&vault, "idle", 6));
    // Writers of pages have them to themselves: each holder has a secret of its own.
    let kept = secrets(&vault, "kept", HOLDS.len());
    let deadline = Duration::from_millis([0, 10, 60, 25][n as usize % 4]);
    let crew = crew(beside);
    assert_eq!(crew.len() + HOLDS.len(), 32);
    let keys_turn = matches!(beside, Beside::Keys);
    let ready = Barrier::new(crew.len() + 1);
    let (tell, reports) = channel();
    let turns = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let holders: Vec<_> = (HOLDS.iter().zip(&kept))
            .map(|(&what, secret)| {
                let tell = tell.clone();
                start(scope, move || {
                    hold(what, secret, on_close, &tell);
                })
            })
            .collect();
        let handles: Vec<Handle> =
            HOLDS.iter().map(|_| reports.recv_timeout(ROUND).expect("a holder")).collect();
        let workers: Vec<_> = (crew.iter().enumerate())
            .map(|(at, &what)| {
                let (vault, shared, ready) = (&vault, &shared, &ready);
                start(scope, move || {
                    ready.wait();
                    work(what, at * 1000, vault, shared, keys_turn)
                })
            })
            .collect();
        ready.wait();
        std::thread::sleep(Duration::from_micros(500 + n * 397 % 5000));
        let resting: Vec<Rest> = idle.iter().filter_map(Rest::of).collect();
        let second = (beside == Beside::Close).then(|| {
            let vault = &vault;
            start(scope, move || {
                let started = Instant::now();
                let closed = vault.close(2 * deadline).expect("a second close");
                assert!(started.elapsed() < 2 * deadline + margin(), "{:?}", started.elapsed());
                closed
            })
        });
        let started = Instant::now();
        // An emulated processor may not come round to all threads in the time that an internal lock is waited for.
        let closed = loop {
            match vault.close(deadline) {
                Err(Error::LockTimeout(_)) if patience() > 1 => {}
                closed => break closed.expect("a close"),
            }
        };
        let took = started.elapsed();
        assert!(took >= deadline, "views are held, and {took:?} is too short a wait");
        assert!(took < deadline + margin(), "a close of {deadline:?} has taken {took:?}");
        told.late.push(took - deadline);
        // At once:
        let plain = resting.iter().filter(|rest| rest.is_plain);
        assert_eq!(plain.filter(|rest| rest.shows()).count(), 0, "what was at rest is to be found");
        check_refusals(&vault, &idle);
        check_refusals(&vault, &kept);
        told.in_flight += others(&closed, &handles, on_close);
        let oldest = closed.outstanding.iter().filter(|view| view.label.is_some()).map(|view| view.age).max();
        assert!(oldest.is_some_and(|age| age + Duration::from_millis(20) >= deadline), "{closed}");
        assert_eq!(closed.revoked, on_close == OnClose::Revoke);
        assert_eq!(closed.failed, None);
        // The crowd ends by itself, since every call says that the vault is closed.
        for worker in workers {
            turns.fetch_add(worker.join().expect("a worker"), Ordering::Relaxed);
        }
        if let Some(second) = second {
            told.in_flight += others(&second.join().expect("the second close"), &handles, on_close);
        }
        check_refusals(&vault, &shared);
        let again = vault.close(Duration::ZERO).expect("a later close");
        let revoked_at_once = |handle: &&Handle| handle.held.kind == ViewKind::Owned.to_string();
        assert_eq!(others(&again, &handles, on_close), 0, "{again}");
        if on_close == OnClose::Revoke {
            let unused = handles.iter().filter(revoked_at_once).filter(|handle| handle.shows()).count();
            assert!(unused <= 2, "only those in use may still show their bytes");
        }
        // One after the other, in another order each time.
        for at in 0..handles.len() {
            let handle = &handles[(at * 7 + n as usize) % handles.len()];
            handle.release();
        }
        for holder in holders {
            holder.join().expect("a holder");
        }
        assert!(!handles.iter().any(Handle::shows), "what was held is wiped");
        let end = vault.close(Duration::ZERO).expect("the last close");
        assert!(end.is_complete(), "{end}");
        let all = || shared.iter().chain(&idle).chain(&kept);
        assert!(all().all(|secret| secret.status().at_rest.is_none()), "{end}");
        // Ciphertext, which was worth nothing since its key was gone, may have waited for readers.
        assert!(!resting.iter().any(Rest::shows), "ciphertext is to be found");
    });
    told.turns += turns.load(Ordering::Relaxed);
    let status = vault.status();
    assert_eq!((status.secrets, vault.diagnostics().views.len()), (0, 0), "{status:?}");
    drop((shared, idle, kept, vault));
    wait_for_janitor(told.alone);
}

/// What is at rest: where, and the bytes that must not stay there.
struct Rest {
    address: usize,
    bytes: Vec<u8>,
    is_plain: bool,
}

impl Rest {
    fn of(secret: &Secret) -> Option<Self> {
        let status = secret.status();
        let place = status.at_rest?;
        if status.store == Store::Paged {
            // Nobody can see them now; they must not be seen later.
            let bytes = secret.with(<[u8]>::to_vec).ok()?;
            return Some(Self { address: place.address, bytes, is_plain: true });
        }
        let mut bytes = vec![0; place.len];
        let whole = look_open(place.address, &mut bytes) == place.len;
        whole.then_some(Self { address: place.address, bytes, is_plain: false })
    }

    fn shows(&self) -> bool {
        let mut seen = vec![0; self.bytes.len()];
        look_open(self.address, &mut seen) == seen.len() && seen == self.bytes
    }
}

fn wait_for_janitor(alone: usize) {
    let started = Instant::now();
    while threads() > alone {
        assert!(started.elapsed() < ROUND, "threads are left");
        std::thread::sleep(Duration::from_millis(1));
    }
}

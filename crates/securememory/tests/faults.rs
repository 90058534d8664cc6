//! Every system call that the library makes fails on purpose, at every place, in every way. Each time: no panic, a
//! typed error or a recorded step down, nothing lost that was promised, nothing leaked.
//!
//! The sweeps set a plan for the n-th call, run one step of a secret's life, take the plan away, and look at what is
//! there; n grows until the step no longer makes so many calls. Each test runs in a process of its own.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests end by panics, and damage descriptors and memory by raw calls"
)]

#[cfg_attr(windows, path = "common/windows.rs")]
mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Access, Footprint, Needle, NoKeys, access, case, page_size};
use securememory::testing::errno;
use securememory::testing::inject::{self, Injection, Plan};
use securememory::{
    Build, Call, CallError, Closed, Error, ErrorKind, Hold, HoldUsed, Level, Policy, Protections, Secret,
    Store, Vault, VaultBuilder, WithError, with2,
};

/// What a build, a use and an end of a secret may call.
const CALLS: [Call; 19] = [
    Call::Mmap,
    Call::Munmap,
    Call::Mprotect,
    Call::Mlock,
    Call::Madvise,
    Call::MemfdCreate,
    Call::Fcntl,
    Call::Fchmod,
    Call::Fstat,
    Call::Pread,
    Call::Pwrite,
    Call::Ftruncate,
    Call::Close,
    Call::Getrandom,
    Call::Futex,
    Call::Sigprocmask,
    // Of Windows alone.
    Call::WorkingSet,
    Call::ProtectMemory,
    Call::UnprotectMemory,
];

fn stores() -> [(&'static str, VaultBuilder); 3] {
    [
        ("sealed-split", Vault::builder().store(Store::Sealed).hold(common::HOLD).hold_level(Level::Require)),
        ("sealed-guarded", Vault::builder().store(Store::Sealed).hold(Hold::Guarded)),
        ("paged", Vault::builder().store(Store::Paged).hold(Hold::Guarded)),
    ]
}

/// Error numbers that this call may meet. Zero: the call moves half of the bytes.
fn errnos(call: Call) -> &'static [i32] {
    match call {
        Call::MemfdCreate => &[errno::EMFILE, errno::ENFILE, errno::ENOMEM, errno::EPERM, errno::ENOSYS],
        Call::Fcntl => &[errno::EMFILE, errno::EPERM, errno::EINVAL],
        Call::Pread | Call::Pwrite => &[0, errno::EINTR, errno::EIO, errno::EBADF, errno::ENOMEM],
        Call::Getrandom => &[0, errno::EAGAIN, errno::EINTR, errno::ENOSYS],
        Call::Ftruncate => &[errno::EFBIG, errno::EINTR, errno::EPERM],
        Call::Mlock => &[errno::ENOMEM, errno::EPERM, errno::EAGAIN],
        Call::Madvise => &[errno::EINVAL, errno::EAGAIN, errno::ENOMEM],
        Call::Futex => &[errno::EINTR, errno::EAGAIN],
        Call::Mmap | Call::Mprotect | Call::Munmap => &[errno::ENOMEM, errno::EACCES],
        _ => &[errno::EPERM, errno::EINTR],
    }
}

/// One way for one call to fail.
#[derive(Clone, Copy, Debug)]
struct Fault {
    call: Call,
    errno: i32,
    n: u64,
    /// Do the calls after the n-th fail as well?
    on: bool,
}

impl Fault {
    fn arm(self) -> Armed {
        let Self { call, errno, n, on } = self;
        let plan = match (errno, on) {
            (0, _) => Plan::ShortNth { n },
            (errno, false) => Plan::Nth { n, errno },
            (errno, true) => Plan::FromNth { n, errno },
        };
        Armed { plan: inject::fail(call, plan), n }
    }

    fn cause(self) -> CallError {
        CallError { call: self.call, errno: self.errno }
    }

    /// Is this what an error because of it looks like?
    fn explains(self, error: &Error) -> bool {
        let cause = match error {
            Error::System(cause) | Error::HoldRefused(cause) | Error::StuckOpen(cause) => *cause,
            Error::Refused { cause, .. } => *cause,
            // All replicas of the share could not be read.
            Error::KeyLost => return self.call == Call::Pread,
            // The one bound that the process's own limit stands for.
            Error::ScratchExhausted { .. } => return self.call == Call::Mlock,
            _ => return false,
        };
        cause == self.cause()
    }
}

struct Armed {
    plan: Injection,
    n: u64,
}

impl Armed {
    /// Ends the plan and says whether it came to a failure.
    fn disarm(self) -> bool {
        self.plan.calls() >= self.n
    }
}

/// Guards were left mapped, since the system would not take them back.
static GUARDS_STAY: AtomicBool = AtomicBool::new(false);

/// A sweep's state: what was there before, and what was seen.
struct Sweep {
    name: String,
    before: RefCell<Footprint>,
    hits: RefCell<BTreeMap<&'static str, u32>>,
    errors: Cell<u32>,
}

impl Sweep {
    fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            before: RefCell::new(Footprint::now()),
            hits: RefCell::default(),
            errors: Cell::new(0),
        }
    }

    /// Runs `attempt`, which says whether its fault was hit, for all calls, errors and places.
    fn run(&self, attempt: impl Fn(Fault) -> bool) {
        for call in CALLS {
            for &errno in errnos(call) {
                for on in [false, true] {
                    if errno == 0 && on {
                        continue;
                    }
                    for n in 1.. {
                        let fault = Fault { call, errno, n, on };
                        let outcome =
                            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attempt(fault)));
                        let Ok(hit) = outcome else { panic!("in {} with {fault:?}", self.name) };
                        self.check_leaks(fault, hit);
                        if !hit {
                            break;
                        }
                        *self.hits.borrow_mut().entry(call.name()).or_default() += 1;
                        assert!(n < 300, "{} {fault:?}: no end", self.name);
                    }
                }
            }
        }
    }

    fn check_leaks(&self, fault: Fault, hit: bool) {
        match fault.call {
            // What the system does not take back stays; that it is wiped is checked elsewhere.
            Call::Munmap if hit => {
                *self.before.borrow_mut() = Footprint::now();
                GUARDS_STAY.store(true, Ordering::Relaxed);
            }
            // They lie in front of what musl's allocator maps, and make that look like the library's.
            _ if cfg!(target_env = "musl") && GUARDS_STAY.load(Ordering::Relaxed) => {}
            // Without it nobody knows whose the descriptor is: hands off.
            Call::Fstat if hit => *self.before.borrow_mut() = Footprint::now(),
            _ => self.before.borrow().assert_same(format_args!("after {} with {fault:?}", self.name)),
        }
    }

    /// Notes an error, which must say what was done to the call.
    fn expect(&self, fault: Fault, error: &Error) {
        self.errors.set(self.errors.get() + 1);
        assert!(fault.explains(error), "{} with {fault:?}: {error:?}", self.name);
        // Its words come without another failure.
        assert!(!error.to_string().is_empty());
        let _ = (error.hint().map(|hint| hint.to_string()), error.kind());
    }

    fn assert_met(&self, calls: &[Call]) {
        let hits = self.hits.borrow();
        // Without shares in files nobody reads one, or ends it.
        let of_files = [Call::Pread, Call::Ftruncate, Call::Fstat, Call::Close, Call::Sigprocmask];
        for call in calls.iter().filter(|call| Build::HERE.split || !of_files.contains(call)) {
            assert!(hits.contains_key(call.name()), "{}: {call} was never made; {hits:?}", self.name);
        }
    }

    fn assert_not_met(&self, calls: &[Call]) {
        let hits = self.hits.borrow();
        for call in calls {
            assert!(!hits.contains_key(call.name()), "{}: {call} was made; {hits:?}", self.name);
        }
    }
}

const OLD: [u8; 24] = *b"the value that was there";
const NEW: [u8; 24] = *b"a value that replaces it";

fn secret_in(vault: &Vault) -> Secret {
    let secret = vault.secret().from_bytes(&mut OLD.clone()).unwrap();
    drop(secret.view().unwrap());
    secret
}

fn assert_value(secret: &Secret, value: &[u8]) {
    let view = secret.view().unwrap();
    assert_eq!(*view, *value);
    view.finish().unwrap();
}

/// All works, as if nothing had been.
fn assert_usable(secret: &Secret, value: &[u8]) {
    assert_value(secret, value);
    let mut other = NEW;
    secret.replace(&mut other).unwrap();
    assert_eq!(other, [0; 24]);
    let owned = secret.owned_view().unwrap();
    owned.with(|bytes| assert_eq!(bytes, NEW)).unwrap();
    drop(owned);
    let status = secret.status();
    assert_eq!((status.open_views, status.closed, status.stuck_open), (0, false, false));
    assert_eq!(secret.close(), Ok(Closed::Closed));
    assert_eq!(secret.view().unwrap_err(), Error::Closed);
}

fn assert_vault_usable(vault: &Vault) {
    assert_usable(&secret_in(vault), &OLD);
    assert_eq!(vault.status().secrets, 0);
}

fn warm_up() {
    common::keep_stacks();
    for (_, builder) in stores() {
        assert_vault_usable(&builder.build().unwrap());
    }
}

/// Sweeps over one step on each store; the vault is built without a fault.
fn sweep_stores(what: &str, met: [&[Call]; 3], step: impl Fn(&Sweep, Fault, Vault) -> bool) {
    warm_up();
    // On large pages the first view has its place beside the shares, and there is nothing to be made for it.
    let has_place = |name: &str, call: &Call| {
        let is_made = [Call::Mmap, Call::Mlock, Call::Madvise].contains(call)
            // A guarded key is opened by it.
            || *call == Call::Mprotect && name == "sealed-split";
        is_made && name.starts_with("sealed") && page_size() >= common::LARGE_PAGE
    };
    for ((name, builder), met) in stores().into_iter().zip(met) {
        let met: Vec<Call> = met.iter().copied().filter(|call| !has_place(name, call)).collect();
        let sweep = Sweep::new(format!("{what} on {name}"));
        sweep.run(|fault| step(&sweep, fault, builder.clone().build().unwrap()));
        sweep.assert_met(&met);
        eprintln!("{}: {:?}, {} errors", sweep.name, sweep.hits.borrow(), sweep.errors.get());
    }
}

// ---- the sweeps ----

#[test]
fn building() {
    // Some of the vaults require locked memory.
    let case = case("building");
    // Windows has no such limit.
    #[cfg(unix)]
    let case = case.limit(libc::RLIMIT_MEMLOCK, common::usual_locked_max() as u64);
    case.run(|| {
        warm_up();
        let holds = [
            ("auto", Vault::builder()),
            ("split", Vault::builder().hold(common::HOLD).hold_level(Level::Require)),
            ("guarded", Vault::builder().hold(Hold::Guarded)),
            (
                "strict",
                Vault::builder().hold(common::HOLD).hold_level(Level::Require).policy(Policy::strict()),
            ),
            ("strict guarded", Vault::builder().hold(Hold::Guarded).policy(Policy::strict())),
        ];
        for (name, builder) in holds {
            // Protection keys have a sweep of their own, with the other holds that use the key in place.
            let _none = NoKeys::from_now();
            let strict = name.starts_with("strict");
            if strict && let Some(cause) = common::strict_is_refused() {
                eprintln!("skipped: {name} is not to be had here: {cause}");
                continue;
            }
            let anyway = builder.clone().build().unwrap().status().protections;
            let sweep = Sweep::new(format!("building {name}"));
            sweep.run(|fault| {
                let armed = fault.arm();
                let built = builder.clone().build();
                let hit = armed.disarm();
                match built {
                    Err(error) => {
                        assert!(hit, "{error:?}");
                        sweep.expect(fault, &error);
                    }
                    Ok(vault) => {
                        if hit {
                            assert_recorded(&vault, fault, name, &anyway);
                        }
                        let status = vault.status();
                        if strict {
                            assert!(status.protections.lock.got && status.protections.dump.got);
                        }
                        assert!(status.protections.fork.got);
                        assert_vault_usable(&vault);
                    }
                }
                hit
            });
            let common = [Call::Mmap, Call::Mprotect, Call::Mlock, Call::Madvise, Call::Getrandom];
            sweep.assert_met(&common);
            let files = [
                Call::MemfdCreate,
                Call::Fcntl,
                Call::Fchmod,
                Call::Fstat,
                Call::Ftruncate,
                Call::Pwrite,
                Call::Sigprocmask,
            ];
            if !Build::HERE.split {
                // A file is asked for, and there is none.
                sweep.assert_not_met(&files[1..]);
            } else if name.contains("guarded") {
                sweep.assert_not_met(&files);
            } else {
                sweep.assert_met(&files);
            }
            assert!(sweep.errors.get() > 0);
        }
    });
}

/// A vault was built though a call failed: then its status tells, or it makes no difference to anybody. `anyway`: what such a
/// vault has here without a failure; of what this host refuses in any case, the first refusal is told.
fn assert_recorded(vault: &Vault, fault: Fault, name: &str, anyway: &Protections) {
    let status = vault.status();
    let fallen = status.hold_stepped_down == Some(Error::System(fault.cause()));
    if fallen {
        assert_eq!((name, status.hold), ("auto", HoldUsed::Guarded));
    }
    // As many as on this machine without a fault.
    let replicas = std::thread::available_parallelism().map_or(1, usize::from).clamp(2, 8);
    let fewer = status.hold == HoldUsed::Split && status.replicas < replicas;
    let refused = [status.protections.lock, status.protections.dump, status.protections.fork]
        .iter()
        .any(|one| !one.got && one.refused == Some(fault.cause()));
    let concerned = match fault.call {
        Call::Madvise => Some((anyway.dump, status.protections.dump)),
        Call::Mlock => Some((anyway.lock, status.protections.lock)),
        _ => None,
    };
    let refused = refused || concerned.is_some_and(|(anyway, now)| !anyway.got && now == anyway);
    let harmless = match fault.call {
        // What cannot be merged needs no advice against it; and a child that does not have a page (DONTFORK) has
        // nothing to be wiped.
        Call::Madvise => status.protections.dump.got && status.protections.fork.got,
        // Seals and numbers are tried once; without O_NOATIME and a high number all works.
        Call::Fcntl | Call::Munmap | Call::Close | Call::Futex => true,
        // What is short is continued.
        Call::Getrandom => fault.errno == 0,
        _ => false,
    };
    assert!(fallen || fewer || refused || harmless, "{name}: {fault:?} is not recorded: {status:#?}");
}

#[test]
fn creating() {
    case("creating").run(|| {
        let files: &[Call] =
            &[Call::Mmap, Call::Mprotect, Call::Mlock, Call::Madvise, Call::Pread, Call::Getrandom];
        let pages: &[Call] = &[Call::Mmap, Call::Mprotect, Call::Mlock, Call::Madvise, Call::Getrandom];
        let paged: &[Call] = &[Call::Mmap, Call::Mprotect, Call::Mlock, Call::Madvise];
        sweep_stores("creating", [files, pages, paged], |sweep, fault, vault| {
            let mut source = OLD;
            let armed = fault.arm();
            let made = vault.secret().label("a label").from_bytes(&mut source);
            let hit = armed.disarm();
            match made {
                Err(error) => {
                    sweep.expect(fault, &error);
                    assert_eq!(source, OLD, "the source of a failed create is untouched");
                    assert_eq!(vault.status().secrets, 0);
                }
                Ok(secret) => {
                    assert_eq!(source, [0; 24], "the source of a create is wiped");
                    if hit && fault.call == Call::Mlock {
                        let status = (secret.status().protections.lock, vault.status());
                        assert!(!status.0.got || status.1.scratch_unlocked > 0, "{status:?}");
                    }
                    assert_usable(&secret, &OLD);
                }
            }
            assert_vault_usable(&vault);
            hit
        });
    });
}

#[test]
fn creating_in_place() {
    case("creating_in_place").run(|| {
        let sealed: &[Call] = &[Call::Mmap, Call::Mprotect];
        sweep_stores("creating in place", [sealed, sealed, sealed], |sweep, fault, vault| {
            // Larger than a page, and more than one at a time.
            let armed = fault.arm();
            let mut runs = 0;
            let one = vault.secret().init_with(3 * page_size(), |room| {
                runs += 1;
                assert!(room.iter().all(|&byte| byte == 0), "zeros are found");
                room.fill(0xC3);
            });
            let two = vault.secret().read_from(&mut &OLD[..], 24);
            let three = vault.secret().random(100);
            let hit = armed.disarm();
            assert!(runs <= 1 && (runs == 1 || one.is_err()));
            for outcome in [&one, &two, &three] {
                if let Err(error) = outcome {
                    sweep.expect(fault, error);
                }
            }
            assert_eq!(
                vault.status().secrets,
                [&one, &two, &three].iter().filter(|o| o.is_ok()).count() as u64
            );
            if let Ok(secret) = one {
                assert_value(&secret, &vec![0xC3; 3 * page_size()]);
            }
            if let Ok(secret) = two {
                assert_usable(&secret, &OLD);
            }
            if let Ok(secret) = three {
                assert_eq!(secret.close(), Ok(Closed::Closed));
            }
            assert_vault_usable(&vault);
            hit
        });
    });
}

#[test]
fn reading() {
    case("reading").run(|| {
        let split: &[Call] = &[Call::Pread, Call::Mmap, Call::Mprotect, Call::Madvise, Call::Mlock];
        let guarded: &[Call] = &[Call::Mprotect, Call::Mmap, Call::Madvise, Call::Mlock];
        sweep_stores("reading", [split, guarded, &[Call::Mprotect]], |sweep, fault, vault| {
            let secret = secret_in(&vault);
            let other = secret_in(&vault);
            let armed = fault.arm();
            let mut outcomes = Vec::new();
            {
                // Nested, so that scratch must grow.
                let views: Vec<_> = (0..6).map(|_| secret.view()).collect();
                for view in views {
                    outcomes.push(view.and_then(|view| {
                        assert_eq!(*view, OLD, "a view that was opened shows what is there");
                        view.finish()
                    }));
                }
            }
            let with = secret.with(|bytes| bytes == OLD);
            let with_two = with2(&secret, &other, |a, b| a == OLD && b == OLD);
            let equal = secret.ct_eq(&other);
            let hit = armed.disarm();
            for outcome in outcomes {
                if let Err(error) = outcome {
                    sweep.expect(fault, &error);
                }
            }
            for outcome in [with, with_two] {
                match outcome {
                    Ok(right) => assert!(right),
                    Err(WithError::NotRun(error)) => sweep.expect(fault, &error),
                    Err(WithError::Ran { result, error }) => {
                        assert!(result && matches!(error, Error::StuckOpen(_)), "{error:?}");
                        sweep.expect(fault, &error);
                    }
                    Err(other) => panic!("{other:?}"),
                }
            }
            match equal {
                Ok(right) => assert!(right),
                Err(error) => sweep.expect(fault, &error),
            }
            assert_usable(&secret, &OLD);
            assert_usable(&other, &OLD);
            hit
        });
    });
}

#[test]
fn changing() {
    case("changing").run(|| {
        let split: &[Call] = &[Call::Pread, Call::Getrandom];
        let guarded: &[Call] = &[Call::Mprotect, Call::Getrandom];
        sweep_stores(
            "changing",
            [split, guarded, &[Call::Mprotect, Call::Madvise]],
            |sweep, fault, vault| {
                let secret = secret_in(&vault);
                let armed = fault.arm();
                let committed = secret.view_mut().and_then(|mut view| {
                    assert_eq!(*view, OLD);
                    view.copy_from_slice(&NEW);
                    view.commit()
                });
                let hit = armed.disarm();
                // The new value is valid exactly if it was said to be.
                let value = match committed {
                    Ok(()) => NEW,
                    Err(error) => {
                        sweep.expect(fault, &error);
                        if matches!(error, Error::StuckOpen(_)) { NEW } else { OLD }
                    }
                };
                assert_eq!(secret.status().version, u64::from(value == NEW));
                assert_usable(&secret, &value);
                hit
            },
        );
    });
}

#[test]
fn changing_and_discarding() {
    case("changing_and_discarding").run(|| {
        let sealed: &[Call] = &[Call::Mprotect];
        sweep_stores("discarding", [&[Call::Pread], sealed, sealed], |sweep, fault, vault| {
            let secret = secret_in(&vault);
            let armed = fault.arm();
            match secret.view_mut() {
                Ok(mut view) => view.copy_from_slice(&NEW),
                Err(error) => sweep.expect(fault, &error),
            }
            let hit = armed.disarm();
            assert_eq!(secret.status().version, 0);
            assert_usable(&secret, &OLD);
            hit
        });
        sweep_stores("replacing", [&[Call::Pread], sealed, sealed], |sweep, fault, vault| {
            let secret = secret_in(&vault);
            let mut source = NEW;
            let armed = fault.arm();
            let replaced = secret.replace(&mut source);
            let hit = armed.disarm();
            match replaced {
                Ok(()) => {
                    assert_eq!(source, [0; 24]);
                    assert_usable(&secret, &NEW);
                }
                Err(error) => {
                    sweep.expect(fault, &error);
                    // Stuck open, the new value is valid, so its source is wiped; else nothing has changed.
                    let stuck = matches!(error, Error::StuckOpen(_));
                    assert_eq!(source, if stuck { [0; 24] } else { NEW });
                    assert_usable(&secret, if stuck { &NEW } else { &OLD });
                }
            }
            hit
        });
    });
}

#[test]
fn closing() {
    case("closing").run(|| {
        sweep_stores("closing", [&[], &[], &[Call::Mprotect]], |sweep, fault, vault| {
            let secret = secret_in(&vault);
            let large = vault.secret().random(3 * page_size()).unwrap();
            let armed = fault.arm();
            let outcomes = [secret.close(), large.close_timeout(Duration::from_millis(1))];
            let hit = armed.disarm();
            for outcome in outcomes {
                match outcome {
                    Ok(closed) => assert_eq!(closed, Closed::Closed),
                    Err(error) => {
                        assert!(matches!(error, Error::StuckOpen(_)), "{error:?}");
                        sweep.expect(fault, &error);
                    }
                }
            }
            for secret in [&secret, &large] {
                // Closed in any case, and wiped at the next attempt.
                assert!(secret.status().closed);
                assert_eq!(secret.view().unwrap_err(), Error::Closed);
                assert_eq!(secret.close(), Ok(Closed::Closed));
                assert_eq!(secret.status().at_rest, None);
            }
            assert_eq!(vault.status().secrets, 0);
            assert_vault_usable(&vault);
            hit
        });
    });
}

#[test]
fn dropping() {
    case("dropping").run(|| {
        sweep_stores("dropping secrets", [&[], &[], &[Call::Mprotect]], |_, fault, vault| {
            let secrets: Vec<_> = (0..3).map(|_| secret_in(&vault)).collect();
            let large = vault.secret().random(3 * page_size()).unwrap();
            let armed = fault.arm();
            drop((secrets, large));
            let hit = armed.disarm();
            assert_vault_usable(&vault);
            hit
        });
        let split: &[Call] = &[Call::Munmap, Call::Ftruncate, Call::Fstat, Call::Close, Call::Sigprocmask];
        let guarded: &[Call] = &[Call::Munmap, Call::Mprotect];
        sweep_stores("dropping a vault", [split, guarded, guarded], |_, fault, vault| {
            let secret = secret_in(&vault);
            let view = secret.owned_view().unwrap();
            drop(secret);
            let armed = fault.arm();
            drop(vault);
            drop(view);
            armed.disarm()
        });
    });
}

#[test]
fn sharing() {
    case("sharing").run(|| {
        let paged: &[Call] = &[Call::Mprotect, Call::Mmap, Call::Madvise, Call::Mlock];
        sweep_stores("sharing", [&[Call::Pread], &[Call::Mprotect], paged], |sweep, fault, vault| {
            let secret = secret_in(&vault);
            let armed = fault.arm();
            let owned = secret.owned_view();
            let derived = secret.derive(24, |input, output| output.copy_from_slice(input));
            let seen =
                owned.as_ref().map_err(|error| *error).and_then(|view| Ok(view.with(|bytes| bytes == OLD)?));
            let warmed = vault.warm_thread(6);
            let hit = armed.disarm();
            match seen {
                Ok(right) => assert!(right),
                Err(error) => sweep.expect(fault, &error),
            }
            match derived {
                Ok(derived) => assert_usable(&derived, &OLD),
                Err(error) => sweep.expect(fault, &error),
            }
            if let Err(error) = warmed {
                sweep.expect(fault, &error);
            }
            drop(owned);
            assert_usable(&secret, &OLD);
            hit
        });
    });
}

#[test]
fn asking() {
    case("asking").run(|| {
        sweep_stores("asking", [&[], &[], &[]], |_, fault, vault| {
            let secret = secret_in(&vault);
            let armed = fault.arm();
            let status = secret.status();
            let of_vault = vault.status();
            let text = format!("{secret:?} {vault:?} {status:?} {of_vault:?}");
            let hit = armed.disarm();
            assert!(!text.is_empty());
            assert_eq!((status.len, status.closed, status.open_views), (24, false, 0));
            assert!(status.at_rest.is_some());
            assert_eq!(of_vault.secrets, 1);
            assert_usable(&secret, &OLD);
            hit
        });
    });
}

// ---- pages that do not open or close ----

const NO_MEMORY: i32 = errno::ENOMEM;

fn stuck() -> Error {
    Error::StuckOpen(CallError { call: Call::Mprotect, errno: NO_MEMORY })
}

#[test]
fn pages_that_do_not_open() {
    case("pages_that_do_not_open").run(|| {
        let vault = Vault::builder().store(Store::Paged).build().unwrap();
        let secret = secret_in(&vault);
        let at = secret.status().at_rest.unwrap().address;
        let refused = Error::System(CallError { call: Call::Mprotect, errno: NO_MEMORY });
        {
            let _plan = inject::fail(Call::Mprotect, Plan::Always { errno: NO_MEMORY });
            assert_eq!(secret.view().unwrap_err(), refused);
            assert_eq!(refused.kind(), ErrorKind::Limit);
            let advice = if cfg!(windows) { "page file" } else { "vm.max_map_count" };
            assert!(refused.hint().unwrap().to_string().contains(advice));
            assert_eq!(secret.with(|_| panic!("run")), Err(WithError::<()>::NotRun(refused)));
            assert_eq!(secret.view_mut().unwrap_err(), refused);
            assert_eq!(secret.owned_view().unwrap_err(), refused);
            let status = secret.status();
            assert_eq!((status.stuck_open, status.open_views, status.closed), (false, 0, false));
            assert_eq!(access(at), Access::None);
        }
        assert_usable(&secret, &OLD);
    });
}

#[test]
fn pages_that_do_not_close() {
    case("pages_that_do_not_close").run(|| {
        warm_up();
        let before = Footprint::now();
        let vault = Vault::builder().store(Store::Paged).build().unwrap();
        let secret = secret_in(&vault);
        let at = secret.status().at_rest.unwrap().address;
        // A change needs pages for an image of what was there; now they are in the vault's pool.
        drop(secret.view_mut().unwrap());
        let fail = || inject::fail(Call::Mprotect, Plan::FromNth { n: 2, errno: NO_MEMORY });
        let assert_stuck = |allowed: Access| {
            let status = secret.status();
            assert!(status.stuck_open && status.open_views == 0 && !status.closed, "{status:?}");
            assert_eq!(access(at), allowed);
        };
        let assert_shut = || {
            // Any operation tries again; this one only asks.
            assert!(!secret.status().stuck_open);
            assert_eq!(access(at), Access::None);
        };
        // A view.
        let plan = fail();
        assert_eq!(secret.view().unwrap().finish(), Err(stuck()));
        assert_stuck(Access::Read);
        // It can be read, still without being closed.
        assert_eq!(secret.with(|bytes| bytes == OLD), Err(WithError::Ran { result: true, error: stuck() }));
        drop(secret.view().unwrap());
        assert_stuck(Access::Read);
        drop(plan);
        assert_shut();
        // The next view closes it.
        let plan = fail();
        drop(secret.view().unwrap());
        drop(plan);
        assert_eq!(access(at), Access::Read);
        assert_eq!(secret.view().unwrap().finish(), Ok(()));
        assert_eq!(access(at), Access::None);
        // A change is valid, and its pages stay open for writing.
        let plan = fail();
        let mut view = secret.view_mut().unwrap();
        view.copy_from_slice(&NEW);
        assert_eq!(view.commit(), Err(stuck()));
        assert_stuck(Access::ReadWrite);
        assert_eq!(secret.with(|bytes| bytes == NEW), Err(WithError::Ran { result: true, error: stuck() }));
        drop(plan);
        assert_value(&secret, &NEW);
        assert_shut();
        assert_eq!(secret.status().version, 1);
        // A discarded change is undone all the same.
        let plan = fail();
        let mut view = secret.view_mut().unwrap();
        view.copy_from_slice(&OLD);
        drop(view);
        assert_stuck(Access::ReadWrite);
        // A writer finds the pages open.
        let plan_for_none = inject::fail(Call::Mprotect, Plan::Always { errno: NO_MEMORY });
        assert!(secret.view_mut().is_err());
        assert_stuck(Access::ReadWrite);
        drop((plan, plan_for_none));
        assert_value(&secret, &NEW);
        assert_shut();
        // A close of stuck pages.
        let plan = fail();
        drop(secret.view().unwrap());
        assert_eq!(secret.close(), Err(stuck()));
        assert!(secret.status().closed);
        assert_eq!(secret.view().unwrap_err(), Error::Closed);
        assert_eq!(secret.close(), Err(stuck()));
        drop(plan);
        assert_eq!(secret.close(), Ok(Closed::Closed));
        assert_eq!(secret.status().at_rest, None);
        drop(secret);
        assert_vault_usable(&vault);
        drop(vault);
        before.assert_same("in the end");
    });
}

#[test]
fn pages_that_cannot_be_wiped_when_dropped() {
    case("pages_that_cannot_be_wiped_when_dropped").run(|| {
        warm_up();
        // A large one is a mapping of its own.
        let needles = [64usize, 3 * page_size()].map(|len| Needle::new(len as u64, len));
        let before = Footprint::now();
        for needle in &needles {
            let len = needle.len();
            let vault = Vault::builder().store(Store::Paged).build().unwrap();
            let secret = vault.secret().init_with(len, |room| needle.write(room, 0)).unwrap();
            let stuck_one = vault.secret().init_with(len, |room| needle.write(room, 0)).unwrap();
            {
                let _plan = inject::fail(Call::Mprotect, Plan::FromNth { n: 2, errno: NO_MEMORY });
                drop(stuck_one.view().unwrap());
                drop(secret);
                drop(stuck_one);
            }
            // Others are made meanwhile, and none of them finds it.
            for _ in 0..40 {
                let other =
                    vault.secret().init_with(len, |room| assert!(room.iter().all(|&b| b == 0))).unwrap();
                assert_eq!(other.close(), Ok(Closed::Closed));
            }
            assert_vault_usable(&vault);
            drop(vault);
            assert_eq!(needle.find(), Vec::<String>::new());
            before.assert_same(format_args!("after secrets of {len} bytes could not be wiped"));
        }
    });
}

/// What the system does not take back has been wiped.
#[test]
fn mappings_that_stay_hold_nothing() {
    case("mappings_that_stay_hold_nothing").run(|| {
        for (name, builder) in stores() {
            let vault = builder.build().unwrap();
            let needle = Needle::new(99, 256);
            let make = || vault.secret().init_with(256, |room| needle.write(room, 0)).unwrap();
            let secrets = [make(), make()];
            let views = [secrets[0].owned_view().unwrap(), secrets[1].owned_view().unwrap()];
            assert!(!needle.find().is_empty());
            let _plan = inject::fail(Call::Munmap, Plan::Always { errno: NO_MEMORY });
            drop((secrets, views, vault));
            assert_eq!(needle.find(), Vec::<String>::new(), "{name}");
        }
    });
}

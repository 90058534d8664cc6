//! What happens at the limits of the system: a clear error or a recorded fallback, nothing
//! leaks, the process lives. Each case runs in a process of its own.
#![cfg(unix)]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests end by panics, and press on the system by raw calls"
)]

mod common;

use std::time::{Duration, Instant};

use common::stores::{builders, use_fully, warm_up};
use common::{Footprint, NoKeys, case, page_size, usual_locked_max};
use securememory::testing::TestGuard;
use securememory::{
    Call, CallError, Closed, Error, ErrorKind, Evidence, Hint, Hold, HoldUsed, Level, OwnedView, Policy,
    Protection, Secret, Store, Vault, VaultBuilder, View,
};

fn with_policy(policy: &Policy) -> [(&'static str, VaultBuilder); 3] {
    builders().map(|(name, builder)| (name, builder.policy(policy.clone())))
}

fn assert_hint_on_locking(error: &Error, limit: &str) {
    let text = error.hint().expect("a hint").to_string();
    for part in [limit, "ulimit -l", "LimitMEMLOCK=", "--ulimit memlock=", "CAP_IPC_LOCK"] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn nothing_may_be_locked_and_locking_is_required() {
    case("nothing_may_be_locked_and_locking_is_required").limit(libc::RLIMIT_MEMLOCK, 0).run(|| {
        common::become_ordinary_user();
        warm_up();
        let before = Footprint::now();
        let required = Policy::new().lock(Level::Require);
        for (name, builder) in with_policy(&required) {
            let refused = builder.build().unwrap_err();
            let cause = CallError { call: Call::Mlock, errno: libc::EPERM };
            assert_eq!(refused, Error::Refused { protection: Protection::Lock, cause }, "{name}");
            assert_eq!(refused.kind(), ErrorKind::Protection);
            assert!(matches!(refused.hint(), Some(Hint::LockedMemory { limit: Some(0), in_use: Some(0) })));
            assert_hint_on_locking(&refused, "limited to 0 KiB");
            before.assert_same(name);
        }
        // A vault that only prefers it, and a secret that requires it.
        for (name, builder) in builders() {
            let vault = builder.build().unwrap();
            let mut source = *b"sixteen bytes ok";
            let refused = vault.secret().policy(required.clone()).from_bytes(&mut source).unwrap_err();
            assert!(
                matches!(refused, Error::Refused { protection: Protection::Lock, .. }),
                "{name}: {refused:?}"
            );
            assert_hint_on_locking(&refused, "limited to 0 KiB");
            assert_eq!(source, *b"sixteen bytes ok", "{name}: an untouched source");
            assert_eq!(vault.status().secrets, 0, "{name}");
            let failed = vault.secret().policy(required.clone()).from_vec(source.to_vec()).unwrap_err();
            assert_eq!(failed.source, source, "{name}");
            use_fully(name, &vault);
        }
        before.assert_same("in the end");
    });
}

#[test]
fn nothing_may_be_locked_and_locking_is_preferred() {
    case("nothing_may_be_locked_and_locking_is_preferred").limit(libc::RLIMIT_MEMLOCK, 0).run(|| {
        common::become_ordinary_user();
        warm_up();
        let before = Footprint::now();
        for (name, builder) in builders() {
            let vault = builder.build().unwrap();
            use_fully(name, &vault);
            let secret = vault.secret().random(32).unwrap();
            let protections = secret.status().protections;
            assert_eq!(protections.lock.asked, Level::Prefer, "{name}");
            assert!(!protections.lock.got, "{name}");
            assert_eq!(protections.lock.evidence, Evidence::None, "{name}");
            let refused = CallError { call: Call::Mlock, errno: libc::EPERM };
            assert_eq!(protections.lock.refused, Some(refused), "{name}");
            for other in [protections.dump, protections.fork] {
                assert!(other.got && other.evidence == Evidence::Kernel, "{name}: {other:?}");
            }
            let status = vault.status();
            assert_eq!(status.locked_bytes, 0, "{name}");
            assert!(status.scratch_slots > 0, "{name}");
            assert_eq!(status.scratch_unlocked, status.scratch_slots, "{name}");
            assert!(!status.protections.lock.got, "{name}");
            // That there are no protection keys is nothing that locking has to do with.
            let other =
                |error: Error| !matches!(error, Error::System(cause) if cause.call == Call::PkeyAlloc);
            assert!(!status.hold_stepped_down.is_some_and(other), "{name}: {status:?}");
            assert_eq!(common::locked(), 0, "{name}");
        }
        before.assert_same("in the end");
    });
}

/// As much as is asked of a process that may lock 64 KiB, or 16 pages where those are larger.
#[test]
fn lockable_memory_of_64_kib() {
    let most = usual_locked_max();
    case("lockable_memory_of_64_kib").limit(libc::RLIMIT_MEMLOCK, most as u64).run(|| {
        common::become_ordinary_user();
        warm_up();
        let before = Footprint::now();
        for (name, builder) in builders() {
            let vault = builder.build().unwrap();
            use_fully(name, &vault);
            let secret = vault.secret().random(32).unwrap();
            let lock = secret.status().protections.lock;
            assert!(lock.got && lock.evidence == Evidence::Kernel, "{name}: {lock:?}");
            // More views and pages than can be locked.
            let more: Vec<Secret> = (0..40).map(|_| vault.secret().random(32).unwrap()).collect();
            let views: Vec<OwnedView> = more.iter().map(|secret| secret.owned_view().unwrap()).collect();
            let status = vault.status();
            assert!(status.scratch_unlocked > 0, "{name}: {status:?}");
            assert!(status.locked_bytes > 0 && status.locked_bytes <= most, "{name}: {status:?}");
            assert_eq!(common::locked(), status.locked_bytes as u64, "{name}");
            if name == "paged" {
                let last = more.last().unwrap().status().protections.lock;
                assert!(!last.got, "{name}: {last:?}");
                assert!(matches!(last.refused, Some(CallError { call: Call::Mlock, .. })), "{last:?}");
            }
            for (secret, view) in more.iter().zip(&views) {
                assert!(view.with(|bytes| secret.ct_eq_bytes(bytes).unwrap()).unwrap());
            }
            // A second vault gets on with what is left.
            let second = Vault::builder().build().unwrap();
            use_fully(name, &second);
            assert!(common::locked() <= most as u64);
        }
        before.assert_same("preferred");

        let required = Policy::strict();
        for (name, builder) in with_policy(&required) {
            let vault = builder.build().unwrap();
            use_fully(name, &vault);
            if name == "paged" {
                let mut secrets = Vec::new();
                let refused = loop {
                    let mut source = *b"sixteen bytes ok";
                    match vault.secret().from_bytes(&mut source) {
                        Ok(secret) => secrets.push(secret),
                        Err(error) => {
                            assert_eq!(source, *b"sixteen bytes ok");
                            break error;
                        }
                    }
                    assert!(secrets.len() < 17);
                };
                assert!(secrets.len() >= 4, "{}", secrets.len());
                assert!(
                    matches!(refused, Error::Refused { protection: Protection::Lock, .. }),
                    "{refused:?}"
                );
                assert_hint_on_locking(&refused, &format!("limited to {} KiB", most >> 10));
                for secret in &secrets {
                    assert!(secret.ct_eq_bytes(b"sixteen bytes ok").unwrap());
                }
                // Pages for a secret, for the image of a change, and for a copy.
                secrets.truncate(secrets.len() - 6);
                use_fully(name, &vault);
            } else {
                let secret = vault.secret().from_bytes(&mut b"sixteen bytes ok".to_vec()).unwrap();
                let mut views: Vec<View<'_>> = Vec::new();
                let refused = loop {
                    match secret.view() {
                        Ok(view) => views.push(view),
                        Err(error) => break error,
                    }
                    assert!(views.len() < 17);
                };
                assert!(views.len() >= 4, "{name}: {}", views.len());
                assert!(matches!(refused, Error::ScratchExhausted { .. }), "{name}: {refused:?}");
                assert_eq!(refused.kind(), ErrorKind::Limit);
                assert!(refused.hint().unwrap().to_string().contains("locked_max"));
                let status = vault.status();
                assert_eq!(status.scratch_unlocked, 0, "{name}: {status:?}");
                assert!(views.iter().all(|view| **view == *b"sixteen bytes ok"), "{name}");
                views.pop();
                assert_eq!(*secret.view().unwrap(), *b"sixteen bytes ok", "{name}");
                drop(views);
                use_fully(name, &vault);
            }
        }
        before.assert_same("required");
    });
}

/// Where a process may lock one page: that is 64 KiB, where pages have so many.
#[test]
fn lockable_memory_of_one_page() {
    case("lockable_memory_of_one_page").limit(libc::RLIMIT_MEMLOCK, page_size() as u64).run(|| {
        common::become_ordinary_user();
        warm_up();
        let before = Footprint::now();
        // What is preferred is less, and said to be.
        for (name, builder) in builders() {
            let vault = builder.build().unwrap();
            use_fully(name, &vault);
            let secrets: Vec<Secret> = (0..3).map(|_| vault.secret().random(32).unwrap()).collect();
            let views: Vec<OwnedView> = secrets.iter().map(|secret| secret.owned_view().unwrap()).collect();
            let status = vault.status();
            assert!(status.scratch_unlocked > 0, "{name}: {status:?}");
            assert!(common::locked() <= page_size() as u64, "{name}");
            assert_eq!(common::locked(), status.locked_bytes as u64, "{name}");
            for (secret, view) in secrets.iter().zip(&views) {
                assert!(view.with(|bytes| secret.ct_eq_bytes(bytes).unwrap()).unwrap());
            }
        }
        before.assert_same("preferred");
        // What is required is refused, or there.
        for (name, builder) in with_policy(&Policy::new().lock(Level::Require)) {
            let made = builder.build().and_then(|vault| {
                let secret = vault.secret().random(32)?;
                let locked = secret.status().protections.lock;
                assert!(locked.got, "{name}: {locked:?}");
                secret.with(|bytes| assert_eq!(bytes.len(), 32)).map_err(|error| match error {
                    securememory::WithError::NotRun(error) => error,
                    other => panic!("{name}: {other:?}"),
                })
            });
            match made {
                Ok(()) => {}
                Err(Error::Refused { protection: Protection::Lock, .. } | Error::ScratchExhausted { .. }) => {
                }
                Err(Error::HoldRefused(cause)) => assert_eq!(cause.call, Call::Mlock, "{name}"),
                Err(other) => panic!("{name}: {other:?}"),
            }
        }
        before.assert_same("required");
    });
}

#[test]
fn lockable_memory_of_8_mib() {
    case("lockable_memory_of_8_mib").limit(libc::RLIMIT_MEMLOCK, 8 << 20).run(|| {
        common::become_ordinary_user();
        warm_up();
        let before = Footprint::now();
        for (name, builder) in with_policy(&Policy::strict()) {
            let vault = builder.build().unwrap();
            let secrets: Vec<Secret> = (0..64).map(|_| vault.secret().random(100).unwrap()).collect();
            for secret in &secrets {
                let protections = secret.status().protections;
                for one in [protections.lock, protections.dump, protections.fork] {
                    assert!(one.got && one.evidence == Evidence::Kernel && one.refused.is_none(), "{one:?}");
                }
                assert_eq!(secret.with(<[u8]>::len), Ok(100));
            }
            let status = vault.status();
            assert_eq!(common::locked(), status.locked_bytes as u64, "{name}");
            assert_eq!(status.scratch_unlocked, 0, "{name}");
            use_fully(name, &vault);
        }
        before.assert_same("strict");
        // One secret that needs more than the limit.
        let vault = Vault::builder().store(Store::Paged).policy(Policy::strict()).build().unwrap();
        let refused = vault.secret().random(9 << 20).unwrap_err();
        assert!(matches!(refused, Error::Refused { protection: Protection::Lock, .. }), "{refused:?}");
        assert_hint_on_locking(&refused, "limited to 8192 KiB");
        let secret = vault.secret().random(4 << 20).unwrap();
        assert!(common::locked() >= 4 << 20);
        assert_eq!(secret.close(), Ok(Closed::Closed));
        drop((secret, vault));
        before.assert_same("in the end");
    });
}

/// Takes all descriptors but `free`.
struct Hoard(Vec<i32>);

impl Hoard {
    fn all_but(free: usize) -> Self {
        common::soft_limit(libc::RLIMIT_NOFILE, 64).unwrap();
        let mut taken = Vec::with_capacity(64);
        loop {
            // SAFETY: makes a descriptor, or does not.
            let made = unsafe { libc::fcntl(2, libc::F_DUPFD_CLOEXEC, 3) };
            if made < 0 {
                break;
            }
            taken.push(made);
        }
        let mut this = Self(taken);
        (0..free).for_each(|_| this.give_one());
        this
    }

    fn give_one(&mut self) {
        let one = self.0.pop().unwrap();
        // SAFETY: made by `all_but`, and nobody else's.
        assert_eq!(unsafe { libc::close(one) }, 0);
    }
}

impl Drop for Hoard {
    fn drop(&mut self) {
        while !self.0.is_empty() {
            self.give_one();
        }
    }
}

fn assert_hint_on_descriptors(error: &Error) {
    let text = error.hint().expect("a hint").to_string();
    for part in ["limited to 64", "ulimit -n", "LimitNOFILE=", "--ulimit nofile="] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

/// A vault as on a host without protection keys: they need no files.
fn without_keys(builder: VaultBuilder) -> Vault {
    let _none = NoKeys::from_now();
    builder.build().unwrap()
}

#[test]
fn no_descriptor_is_free() {
    case("no_descriptor_is_free").run(|| {
        warm_up();
        let before = Footprint::now();
        let old = Vault::builder().hold(Hold::Split).hold_level(Level::Require).build().unwrap();
        let kept = old.secret().from_bytes(&mut b"made before".to_vec()).unwrap();
        {
            let _hoard = Hoard::all_but(0);
            let cause = CallError { call: Call::MemfdCreate, errno: libc::EMFILE };
            // A vault that has its files does not need more.
            use_fully("old", &old);
            assert!(kept.ct_eq_bytes(b"made before").unwrap());
            let strict = Vault::builder().hold(Hold::Split).hold_level(Level::Require);
            let refused = strict.build().unwrap_err();
            assert_eq!(refused, Error::HoldRefused(cause));
            assert_eq!(refused.kind(), ErrorKind::Protection);
            assert_hint_on_descriptors(&refused);
            for hold in [Hold::Auto, Hold::Split] {
                let vault = without_keys(Vault::builder().hold(hold));
                let status = vault.status();
                assert_eq!(status.hold, HoldUsed::Guarded, "{hold:?}");
                assert_eq!(status.hold_stepped_down, Some(Error::System(cause)), "{hold:?}");
                assert_eq!(status.replicas, 0);
                assert_hint_on_descriptors(&status.hold_stepped_down.unwrap());
                use_fully("stepped down", &vault);
                // /proc cannot be read: what the calls granted is claimed, but not as checked.
                let secret = vault.secret().random(8).unwrap();
                assert_eq!(secret.status().hold, Some(HoldUsed::Guarded));
                assert_eq!(secret.status().protections.fork.evidence, Evidence::Unverified);
            }
            let paged = Vault::builder().store(Store::Paged).hold(Hold::Guarded).build().unwrap();
            use_fully("paged", &paged);
        }
        drop((kept, old));
        before.assert_same("after no descriptor was free");
    });
}

#[test]
fn few_descriptors_are_free() {
    case("few_descriptors_are_free").run(|| {
        warm_up();
        let before = Footprint::now();
        for free in 1..=3 {
            let hoard = Hoard::all_but(free);
            let vault = Vault::builder().hold(Hold::Split).hold_level(Level::Require).build().unwrap();
            let status = vault.status();
            assert_eq!(status.hold, HoldUsed::Split);
            assert!(status.replicas >= 1 && status.replicas <= free, "{free}: {status:?}");
            use_fully("few", &vault);
            drop((vault, hoard));
            before.assert_same(format_args!("after {free} descriptors were free"));
        }
        // The standard streams are everybody's: none of their numbers is taken, even where no other is free.
        // SAFETY: the case does not read.
        assert_eq!(unsafe { libc::close(0) }, 0);
        let without_input = Footprint::now();
        for free in 0..=1 {
            let hoard = Hoard::all_but(free);
            let vault = Vault::builder().hold(Hold::Split).build().unwrap();
            // SAFETY: asks whether there is such a descriptor.
            assert_eq!(unsafe { libc::fcntl(0, libc::F_GETFD) }, -1, "{free}: {:?}", vault.status());
            assert_eq!(vault.status().hold_stepped_down.is_some(), free == 0);
            use_fully("without standard input", &vault);
            drop((vault, hoard));
            without_input.assert_same("without standard input");
        }
    });
}

/// Is the signal blocked, and is it pending?
fn sigxfsz() -> (bool, bool) {
    // SAFETY: the sets live over the calls.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        assert_eq!(libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), &raw mut set), 0);
        let blocked = libc::sigismember(&raw const set, libc::SIGXFSZ) == 1;
        assert_eq!(libc::sigpending(&raw mut set), 0);
        (blocked, libc::sigismember(&raw const set, libc::SIGXFSZ) == 1)
    }
}

#[test]
fn files_may_not_be_written() {
    case("files_may_not_be_written").run(|| {
        warm_up();
        let before = Footprint::now();
        let old = Vault::builder().hold(Hold::Split).hold_level(Level::Require).build().unwrap();
        let refused = Error::System(CallError { call: Call::Ftruncate, errno: libc::EFBIG });
        for size in [0, 1, 63] {
            common::soft_limit(libc::RLIMIT_FSIZE, size).unwrap();
            let vault = without_keys(Vault::builder());
            assert_eq!(sigxfsz(), (false, false));
            assert_eq!(vault.status().hold, HoldUsed::Guarded);
            assert_eq!(vault.status().hold_stepped_down, Some(refused), "{size}");
            use_fully("stepped down", &vault);
            let strict = Vault::builder().hold(Hold::Split).hold_level(Level::Require).build();
            assert!(matches!(
                strict.unwrap_err(),
                Error::HoldRefused(CallError { call: Call::Ftruncate, errno: libc::EFBIG })
            ));
            use_fully("old", &old);
        }
        // Exactly what a share needs.
        common::soft_limit(libc::RLIMIT_FSIZE, 64).unwrap();
        let vault = Vault::builder().hold(Hold::Split).hold_level(Level::Require).build().unwrap();
        use_fully("64", &vault);
        // The end of a vault does not depend on the limit either.
        common::soft_limit(libc::RLIMIT_FSIZE, 0).unwrap();
        drop((vault, old));
        assert_eq!(sigxfsz(), (false, false));
        before.assert_same("after the limit was zero");

        // A host that has the signal blocked and pending keeps it so.
        // SAFETY: the set lives over the calls; the signal is blocked, so it only becomes pending.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&raw mut set, libc::SIGXFSZ);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            drop(without_keys(Vault::builder()));
            assert_eq!(sigxfsz(), (true, false), "ours was taken back");
            libc::pthread_kill(libc::pthread_self(), libc::SIGXFSZ);
            drop(without_keys(Vault::builder()));
            assert_eq!(sigxfsz(), (true, true), "the host's stays");
        }
    });
}

/// The stepped-down vault under a limit that was there from the start.
#[test]
fn files_may_not_be_written_from_the_start() {
    let case = case("files_may_not_be_written_from_the_start").limit(libc::RLIMIT_FSIZE, 0);
    case.limit(libc::RLIMIT_MEMLOCK, 0).run(|| {
        let none = NoKeys::from_now();
        let vault = Vault::global().unwrap();
        drop(none);
        assert_eq!(vault.status().hold, HoldUsed::Guarded);
        use_fully("global", &vault);
    });
}

#[test]
fn little_address_space() {
    case("little_address_space").run(|| {
        warm_up();
        let before = Footprint::now();
        let (mut failed, mut worked) = (0, 0);
        for (name, builder) in builders() {
            // KiB, not a page size.
            for room in [0u64, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 65536] {
                // Prepared with room, so that the pressure is on each step in turn.
                let vault = builder.clone().views_max(100_000).build().unwrap();
                let secret = vault.secret().from_bytes(&mut b"made before".to_vec()).unwrap();
                let mut source = vec![0xB7; 300_000];
                let mut views = Vec::with_capacity(64);
                common::soft_limit(libc::RLIMIT_AS, common::address_space() + room * 1024).unwrap();
                let built = builder.clone().views_max(10_000).build().map(drop);
                let large = vault.secret().from_bytes(&mut source).map(drop);
                let untouched = source.iter().all(|&byte| byte == 0xB7);
                let mut nested = Ok(());
                for _ in 0..64 {
                    match secret.owned_view() {
                        Ok(view) => views.push(view),
                        Err(error) => {
                            nested = Err(error);
                            break;
                        }
                    }
                }
                let right = views.iter().all(|view| view.with(|bytes| bytes == b"made before").unwrap());
                let changed = secret.replace(&mut b"MADE BEFORE".to_vec());
                common::soft_limit(libc::RLIMIT_AS, common::UNLIMITED).unwrap();
                assert!(right, "{name} {room}");
                assert_eq!(large.is_err(), untouched, "{name} {room}");
                for outcome in [built, large, nested, changed] {
                    match outcome {
                        Ok(()) => worked += 1,
                        Err(Error::OutOfMemory { bytes }) => {
                            failed += 1;
                            assert!(bytes > 0);
                        }
                        Err(error @ Error::System(CallError { call: Call::Mmap, errno: libc::ENOMEM })) => {
                            failed += 1;
                            assert_eq!(error.kind(), ErrorKind::Limit);
                            assert!(error.hint().unwrap().to_string().contains("ulimit -v"));
                        }
                        Err(other) => panic!("{name} {room}: {other:?}"),
                    }
                }
                views.clear();
                let now: &[u8] = if changed.is_ok() { b"MADE BEFORE" } else { b"made before" };
                assert!(secret.ct_eq_bytes(now).unwrap(), "{name} {room}: {changed:?}");
                // With room again, all is as if nothing had been.
                let again: Vec<OwnedView> = (0..100).map(|_| secret.owned_view().unwrap()).collect();
                assert!(again.iter().all(|view| view.with(|bytes| bytes == now).unwrap()));
                drop(again);
                use_fully(name, &vault);
                assert_eq!(vault.secret().from_bytes(&mut source).unwrap().close(), Ok(Closed::Closed));
                drop((secret, vault, views, source));
                before.assert_same(format_args!("{name} {room}"));
            }
        }
        assert!(failed > 20 && worked > 20, "{failed} {worked}");
    });
}

/// Takes all that the C library's heap gives under the limit on address space.
struct Heap(*mut u8);

impl Heap {
    fn exhaust() -> Self {
        common::soft_limit(libc::RLIMIT_AS, common::address_space()).unwrap();
        let mut last: *mut u8 = std::ptr::null_mut();
        let mut size = 1 << 20;
        while size >= 16 {
            // SAFETY: a block of at least 16 bytes, in which the address of the one before is kept.
            unsafe {
                let block: *mut u8 = libc::malloc(size).cast();
                if block.is_null() {
                    size /= 2;
                    continue;
                }
                block.cast::<*mut u8>().write(last);
                last = block;
            }
        }
        Self(last)
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        while !self.0.is_null() {
            // SAFETY: a block of ours that holds the address of the one before.
            unsafe {
                let next = self.0.cast::<*mut u8>().read();
                libc::free(self.0.cast());
                self.0 = next;
            }
        }
        common::soft_limit(libc::RLIMIT_AS, common::UNLIMITED).unwrap();
    }
}

/// No step allocates in a way that aborts. (Nothing may be asserted, and so allocated, while there is no memory.)
#[test]
fn no_heap_at_all() {
    case("no_heap_at_all").run(|| {
        warm_up();
        let before = Footprint::now();
        for (name, builder) in builders() {
            let vault = builder.clone().build().unwrap();
            let secret = vault.secret().from_bytes(&mut b"made before".to_vec()).unwrap();
            drop(secret.view().unwrap());
            let mut made: Vec<Secret> = Vec::with_capacity(2000);
            let mut sources = vec![[0xB7u8; 48]; 2000];
            let mut large = vec![0xB7u8; 5000];
            let label = "a label".to_owned();
            let heap = Heap::exhaust();
            let read = secret.with(|bytes| bytes == b"made before");
            let mut replacement = *b"MADE BEFORE";
            let replaced = secret.replace(&mut replacement);
            let large_one = vault.secret().from_bytes(&mut large).map(drop);
            let labelled = vault.secret().label(label).policy(Policy::strict()).random(20).map(drop);
            let owned = secret.owned_view().map(drop);
            let warmed = vault.warm_thread(50);
            let another = builder.build().map(drop);
            let mut full = Ok(());
            for source in &mut sources {
                match vault.secret().from_bytes(source) {
                    Ok(secret) => made.push(secret),
                    Err(error) => {
                        full = Err(error);
                        break;
                    }
                }
            }
            let readable = made.iter().all(|secret| secret.ct_eq_bytes(&[0xB7; 48]) == Ok(true));
            let count = made.len();
            let closed = made.iter().all(|secret| secret.close() == Ok(Closed::Closed));
            made.clear();
            drop(heap);
            assert_eq!(read, Ok(true), "{name}");
            assert!(readable && closed, "{name} {count}");
            for outcome in [replaced, large_one, labelled, owned, warmed, another, full] {
                match outcome {
                    Ok(()) | Err(Error::OutOfMemory { .. }) => {}
                    Err(Error::System(CallError { call: Call::Mmap, errno: libc::ENOMEM })) => {}
                    Err(other) => panic!("{name}: {other:?}"),
                }
            }
            assert!(full.is_err(), "{name}: memory never ended, so nothing was tested");
            assert_eq!(sources[count], [0xB7; 48], "{name}: an untouched source");
            assert!(sources[..count].iter().all(|source| *source == [0; 48]), "{name}");
            assert_eq!(large_one.is_err(), large[0] == 0xB7, "{name}");
            let now: &[u8] = if replaced.is_ok() { b"MADE BEFORE" } else { b"made before" };
            assert_eq!(replaced.is_err(), replacement == *b"MADE BEFORE", "{name}");
            assert!(secret.ct_eq_bytes(now).unwrap(), "{name}");
            use_fully(name, &vault);
            drop((secret, vault, sources, large, made));
            before.assert_same(name);
        }
    });
}

#[test]
fn views_of_64_kib_where_64_kib_are_lockable() {
    // The limits here are those of the vault; the process may lock more.
    case("views_of_64_kib_where_64_kib_are_lockable").limit(libc::RLIMIT_MEMLOCK, 8 << 20).run(|| {
        warm_up();
        // 64 KiB, or 16 pages where those are larger: so much the C library maps, and it is there before we count.
        let room = usual_locked_max();
        let original: Vec<u8> = (0..room).map(|n| (n * 31 + n / 256) as u8).collect();
        let mut source = original.clone();
        let before = Footprint::now();
        for (name, builder) in builders().into_iter().filter(|(name, _)| *name != "paged") {
            let vault = builder.clone().locked_max(room).build().unwrap();
            source.copy_from_slice(&original);
            let secret = vault.secret().from_bytes(&mut source).unwrap();
            let views = [secret.view().unwrap(), secret.view().unwrap()];
            assert!(views.iter().all(|view| **view == original[..]), "{name}");
            let status = vault.status();
            assert!(status.scratch_unlocked >= 1, "{name}: {status:?}");
            assert!(status.locked_bytes <= room, "{name}: {status:?}");
            drop(views);
            let mut change = secret.view_mut().unwrap();
            change[room - 1] ^= 1;
            change.commit().unwrap();
            use_fully(name, &vault);
            drop((secret, vault));
            before.assert_same(name);

            let strict = builder.policy(Policy::new().lock(Level::Require));
            let vault = strict.clone().locked_max(room).build().unwrap();
            source.copy_from_slice(&original);
            let error = vault.secret().from_bytes(&mut source).unwrap_err();
            assert!(matches!(error, Error::ScratchExhausted { .. }), "{name}: {error:?}");
            assert_eq!(source, original, "{name}: an untouched source");
            assert!(error.hint().unwrap().to_string().contains("raise views_max or locked_max"));
            // Smaller ones have room, and a view that needs too much does not spoil it.
            use_fully(name, &vault);
            assert_eq!(vault.status().scratch_unlocked, 0, "{name}");
            drop(vault);
            // With room for one view there is one, and not two.
            let vault = strict.locked_max(3 * room).build().unwrap();
            let secret = vault.secret().from_bytes(&mut source).unwrap();
            let first = secret.view().unwrap();
            assert!(matches!(secret.view().unwrap_err(), Error::ScratchExhausted { .. }), "{name}");
            assert_eq!(*first, original[..], "{name}");
            drop(first);
            assert_eq!(*secret.view().unwrap(), original[..], "{name}");
            drop((secret, vault));
            before.assert_same(name);
        }
    });
}

/// Mappings that use up what vm.max_map_count leaves.
struct Crowd {
    at: *mut libc::c_void,
    len: usize,
}

impl Crowd {
    /// All but `free` mappings. `None`: there can be too many to be made in a test.
    fn all_but(free: usize) -> Option<Self> {
        let limit: usize = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok()?;
        if limit > 300_000 {
            return None;
        }
        // Every other page is readable, so that no two neighbours merge.
        let wanted = limit.checked_sub(Footprint::now().mappings() + free)?;
        let len = wanted * page_size();
        // SAFETY: a new mapping, whose pages change their access; nobody refers to them.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            let at = libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(at, libc::MAP_FAILED);
            for page in (1..wanted).step_by(2) {
                if libc::mprotect(at.byte_add(page * page_size()), page_size(), libc::PROT_READ) != 0 {
                    break;
                }
            }
            Some(Self { at, len })
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // SAFETY: mapped by `all_but`, and nobody refers to it.
        assert_eq!(unsafe { libc::munmap(self.at, self.len) }, 0);
    }
}

fn assert_out_of_mappings(error: &Error) {
    match error {
        Error::System(CallError {
            call: Call::Mmap | Call::Mprotect | Call::Madvise,
            errno: libc::ENOMEM,
        }) => {
            assert_eq!(error.kind(), ErrorKind::Limit);
        }
        // Older kernels say ENOMEM.
        Error::Refused {
            cause: CallError { call: Call::Madvise, errno: libc::EAGAIN | libc::ENOMEM },
            ..
        } => {}
        Error::OutOfMemory { .. } => return,
        other => panic!("{other:?}"),
    }
    let text = error.hint().expect("a hint").to_string();
    assert!(text.contains("vm.max_map_count") && text.contains("sysctl"), "{text}");
}

#[test]
fn no_mapping_is_left() {
    case("no_mapping_is_left").run(|| {
        warm_up();
        let before = Footprint::now();
        let (_, paged) = builders().into_iter().find(|(name, _)| *name == "paged").unwrap();
        let vault = paged.build().unwrap();
        let sealed = Vault::builder().store(Store::Sealed).views_max(100_000).build().unwrap();
        let sealed_secret = sealed.secret().from_bytes(&mut b"sealed".to_vec()).unwrap();
        let mut secrets: Vec<Secret> = Vec::with_capacity(4000);
        let mut views: Vec<OwnedView> = Vec::with_capacity(4000);
        let Some(crowd) = Crowd::all_but(1500) else {
            common::skip("vm.max_map_count is too large to be used up in a test");
        };
        let started = Instant::now();
        // Pages until there is no mapping left.
        let error = loop {
            let mut source = *b"0 paged one";
            match vault.secret().from_bytes(&mut source) {
                Ok(secret) => secrets.push(secret),
                Err(error) => {
                    assert_eq!(source, *b"0 paged one");
                    break error;
                }
            }
            assert!(secrets.len() < 4000);
        };
        assert_out_of_mappings(&error);
        assert!(secrets.len() > 100, "{}", secrets.len());
        // The large ones have mappings of their own.
        assert_out_of_mappings(&vault.secret().random(3 * page_size()).unwrap_err());
        // All that are there can be read, changed (or not: an error, and the old value) and closed.
        for secret in &secrets {
            let view = secret.view().unwrap();
            assert_eq!(*view, *b"0 paged one");
            view.finish().unwrap();
        }
        // Seldom: it reads the whole listing of mappings.
        assert!(secrets.iter().step_by(100).all(|secret| !secret.status().stuck_open));
        let mut changed = 0;
        for secret in secrets.iter().take(20) {
            match secret.view_mut() {
                Ok(mut view) => {
                    view[0] = b'1';
                    view.commit().unwrap();
                    changed += 1;
                }
                Err(error) => assert_out_of_mappings(&error),
            }
        }
        let with_new_value = secrets.iter().filter(|secret| secret.ct_eq_bytes(b"1 paged one").unwrap());
        assert_eq!(with_new_value.count(), changed);
        // Sealed secrets need none, but their views' scratch does: until there is none left.
        let error = loop {
            match sealed_secret.owned_view() {
                Ok(view) => views.push(view),
                Err(error) => break error,
            }
            assert!(views.len() < 4000);
        };
        assert_out_of_mappings(&error);
        assert!(views.iter().all(|view| view.with(|bytes| bytes == b"sealed").unwrap()));
        for builder in [Vault::builder().hold(Hold::Guarded), Vault::builder()] {
            assert_out_of_mappings(&builder.build().map(drop).unwrap_err());
        }
        // Closing half makes room in the vault's pool, not in the system.
        for secret in &secrets[..secrets.len() / 2] {
            assert_eq!(secret.close(), Ok(Closed::Closed));
        }
        let half = secrets.len() / 2;
        let once_more = |_| vault.secret().from_bytes(&mut b"once more".to_vec());
        let again: Vec<Secret> = if cfg!(target_env = "musl") {
            // Where a new table on the heap is a mapping, too.
            (0..half).map_while(|at| once_more(at).ok()).collect()
        } else {
            (0..half).map(once_more).collect::<Result<_, _>>().unwrap()
        };
        assert!(again.iter().all(|secret| secret.ct_eq_bytes(b"once more").unwrap()));
        drop(again);
        drop(crowd);
        // With room again, all goes on.
        views.extend((0..20).map(|_| sealed_secret.owned_view().unwrap()));
        assert!(views.iter().all(|view| view.with(|bytes| bytes == b"sealed").unwrap()));
        use_fully("paged", &vault);
        use_fully("sealed", &sealed);
        assert_eq!(vault.secret().random(3 * page_size()).unwrap().close(), Ok(Closed::Closed));
        assert!(secrets[half..].iter().all(|secret| secret.with(|bytes| bytes.len() == 11).unwrap()));
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        drop((secrets, views, sealed_secret, vault, sealed));
        before.assert_same("in the end");
    });
}

/// Every step of making a vault and using it, with every number of mappings that it might find.
#[test]
fn few_mappings_are_left() {
    case("few_mappings_are_left").run(|| {
        warm_up();
        let Some(crowd) = Crowd::all_but(400) else {
            common::skip("vm.max_map_count is too large to be used up in a test");
        };
        // The rest by single pages, which can be given back one by one.
        let mut singles: Vec<*mut libc::c_void> = Vec::with_capacity(1000);
        let mut seen = [0; 2];
        let take_all = |singles: &mut Vec<*mut libc::c_void>| {
            for access in [libc::PROT_READ, libc::PROT_WRITE].into_iter().cycle() {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                // SAFETY: a new mapping; a neighbour has another access, or it merges and the next one does not.
                let at = unsafe { libc::mmap(std::ptr::null_mut(), page_size(), access, flags, -1, 0) };
                if at == libc::MAP_FAILED || singles.len() == singles.capacity() {
                    return;
                }
                singles.push(at);
            }
        };
        take_all(&mut singles);
        assert!(singles.len() > 100);
        let give = |singles: &mut Vec<*mut libc::c_void>| {
            let at = singles.pop().unwrap();
            // SAFETY: mapped above, and nobody refers to it.
            assert_eq!(unsafe { libc::munmap(at, page_size()) }, 0);
        };
        for free in 0..40 {
            give(&mut singles);
            for (name, builder) in builders() {
                let outcome =
                    builder.build().map_err(|error| assert_out_of_mappings(&error)).and_then(|vault| {
                        let secret = vault
                            .secret()
                            .from_bytes(&mut b"few mappings".to_vec())
                            .map_err(|error| assert_out_of_mappings(&error))?;
                        secret.with(|bytes| assert_eq!(bytes, b"few mappings")).unwrap();
                        assert!(!secret.status().stuck_open);
                        let replaced = secret.replace(&mut b"FEW MAPPINGS".to_vec());
                        let now: &[u8] = match replaced {
                            Ok(()) => b"FEW MAPPINGS",
                            Err(error) => {
                                assert_out_of_mappings(&error);
                                b"few mappings"
                            }
                        };
                        secret.with(|bytes| assert_eq!(bytes, now)).unwrap();
                        assert_eq!(secret.close(), Ok(Closed::Closed), "{name} {free}");
                        Ok(())
                    });
                seen[usize::from(outcome.is_ok())] += 1;
            }
        }
        assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
        while !singles.is_empty() {
            give(&mut singles);
        }
        drop(crowd);
        for (name, builder) in builders() {
            use_fully(name, &builder.build().unwrap());
        }
        assert_eq!(common::locked(), 0);
        assert_eq!(common::share_files(), Vec::<i32>::new());
    });
}

/// What a person reads.
#[test]
fn errors_and_hints_are_sentences() {
    let _guard = TestGuard::new();
    let call = |call, errno| CallError { call, errno };
    let refused = Error::Refused { protection: Protection::Lock, cause: call(Call::Mlock, libc::ENOMEM) };
    assert_hint_on_locking(&refused, "KiB");
    assert!(refused.to_string().contains("`lock`") && refused.to_string().contains("ENOMEM"), "{refused}");
    let expected = [
        (call(Call::MemfdCreate, libc::EMFILE), "ulimit -n"),
        (call(Call::MemfdCreate, libc::ENFILE), "LimitNOFILE="),
        (call(Call::Mmap, libc::ENOMEM), "vm.max_map_count"),
        (call(Call::Mprotect, libc::ENOMEM), "sysctl"),
        (call(Call::MemfdCreate, libc::EPERM), "forbid memfd_create"),
        (call(Call::Getrandom, libc::ENOSYS), "forbid getrandom"),
        (call(Call::Madvise, libc::EACCES), "forbid madvise"),
    ];
    for (cause, part) in expected {
        for error in [Error::System(cause), Error::HoldRefused(cause), Error::StuckOpen(cause)] {
            let hint = error.hint().expect("a hint").to_string();
            assert!(hint.contains(part), "{error}: {hint}");
            assert!(error.to_string().contains(cause.call.name()), "{error}");
        }
    }
    assert!(Error::ScratchExhausted { limit: 7 }.hint().unwrap().to_string().contains("views_max"));
    assert!(Error::NotInForce(Protection::Dump).hint().unwrap().to_string().contains("Prefer"));
    for error in [Error::Empty, Error::Closed, Error::Tampered, Error::KeyLost, Error::WouldDeadlock] {
        assert_eq!(error.hint(), None, "{error}");
    }
}

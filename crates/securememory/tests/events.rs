//! What is told by `tracing`: it is there, each at its level, and there is no byte of a secret in it; and whoever is told
//! may use the library. Each case runs in a process of its own.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests end by panics, and press on the library by raw calls"
)]

#[cfg_attr(windows, path = "common/windows.rs")]
mod common;
mod recorder;
#[path = "recorder/spelling.rs"]
mod spelling;

use std::io::Write;
use std::time::Duration;

use common::{Needle, case};
use securememory::testing::errno;
use securememory::testing::inject::{self, Plan};
use securememory::{Call, Closed, Error, Hold, HoldUsed, OnClose, OnLockLimit, Policy, Secret, Store, Vault};

/// What codes are called.
const NO_MEMORY: &str = if cfg!(windows) { "ERROR_NOT_ENOUGH_MEMORY" } else { "ENOMEM" };
const NO_RIGHT: &str = if cfg!(windows) { "ERROR_PRIVILEGE_NOT_HELD" } else { "EPERM" };

/// The one line that has all of this, at this level.
#[track_caller]
fn assert_told(lines: &[String], level: &str, parts: &[&str]) {
    let found: Vec<_> = lines.iter().filter(|line| parts.iter().all(|part| line.contains(part))).collect();
    assert!(found.len() == 1 && found[0].starts_with(level), "{level} {parts:?}: {found:?} in {lines:#?}");
}

fn is_refusal_of_a_lock(line: &str) -> bool {
    line.contains("a preferred protection was refused") && line.contains("\"lock\"")
}

#[track_caller]
fn assert_silent(lines: &[String]) {
    assert!(lines.is_empty(), "{lines:#?}");
}

/// Makes, reads and changes, in every way there is.
fn use_fully(vault: &Vault, needle: &Needle) -> Vec<Secret> {
    let plain = || (0..needle.len()).map(|index| needle.byte(index)).collect::<Vec<u8>>();
    let mut secrets: Vec<_> = [Store::Sealed, Store::Paged]
        .into_iter()
        .map(|store| {
            vault.secret().label("label \"quoted\"\nnewline").store(store).from_vec(plain()).unwrap()
        })
        .collect();
    for secret in &secrets {
        assert_eq!(secret.with(|bytes| bytes[3]), Ok(needle.byte(3)));
        let view = secret.view_mut().unwrap();
        view.commit().unwrap();
        secret.replace(&mut plain()).unwrap();
        assert!(secret.replace(&mut [0; 3]).is_err());
        let owned = secret.owned_view().unwrap();
        assert!(secret.ct_eq_bytes(&plain()).unwrap() && owned.part(1..).is_ok());
        let _ = format!("{secret:?} {owned:?} {:?} {}", secret.status(), vault.diagnostics());
    }
    secrets.extend(vault.secrets_from(&mut [plain(), plain()]).unwrap());
    secrets.push(secrets[0].derive(32, |from, to| to.copy_from_slice(from)).unwrap());
    let all: Vec<_> = secrets.iter().collect();
    Secret::with_many(&all, |_, bytes| assert_eq!(bytes[0], needle.byte(0))).unwrap();
    let mut stream = vault.stream().chunk_size(10).build().unwrap();
    stream.write_all(&plain()).unwrap();
    let mut read = 0;
    stream.for_each_chunk(|bytes| read += bytes.len()).unwrap();
    assert_eq!(read, needle.len());
    secrets
}

/// A share file that somebody else closes: noticed by a read, told by the next call that may take its time.
#[cfg(unix)]
fn a_file_is_lost(take: &mut impl FnMut() -> Vec<String>) {
    let (fragile, files) = recorder::quietly(|| {
        let before = common::share_files();
        let fragile = Vault::builder().build().unwrap();
        let mut files = common::share_files();
        files.retain(|file| !before.contains(file));
        (fragile, files)
    });
    let secret = fragile.secret().random(32).unwrap();
    take();
    // SAFETY: what this test is about; the library notices.
    assert_eq!(unsafe { libc::close(files[0]) }, 0);
    // Threads prefer different files.
    common::in_threads(&[(); 8], |()| secret.with(|_| ()).unwrap());
    assert_silent(&take());
    let _ = fragile.status();
    assert_eq!(fragile.status().replicas_renewed, 1);
    let told = take();
    assert_told(&told, "WARN", &["a file with a share of a key was lost", "count=1"]);
}

/// Another hold than was preferred, and a key that is due and cannot be had.
fn another_hold(take: &mut impl FnMut() -> Vec<String>) {
    let plan = inject::fail(Call::MemfdCreate, Plan::Always { errno: errno::EMFILE });
    let guarded = Vault::builder().hold(Hold::Split).build().unwrap();
    assert_eq!(guarded.status().hold, HoldUsed::Guarded);
    drop(plan);
    assert_told(&take(), "WARN", &["not held as was preferred", "hold=Guarded", "EMFILE"]);
    // A key that is due and cannot be had, told once.
    let due = Vault::builder().store(Store::Sealed).refresh_after_seals(1).build().unwrap();
    take();
    let plan = inject::fail(Call::MemfdCreate, Plan::Always { errno: errno::EMFILE });
    let made: Vec<_> = (0..3).map(|_| due.secret().random(32).unwrap()).collect();
    drop(plan);
    assert_told(&take(), "WARN", &["due to be replaced, which was refused", "EMFILE"]);
    drop(made);
}

#[test]
fn all_is_told_at_its_level_and_nothing_of_a_secret() {
    case("all_is_told_at_its_level_and_nothing_of_a_secret").run(|| {
        let split = common::can("split");
        let keys_are_missing = common::NoKeys::from_now();
        let _recorder = recorder::install();
        let mut all = Vec::new();
        let mut take = || {
            let lines: Vec<String> =
                recorder::take().into_iter().filter(|line| line != "enter" && line != "exit").collect();
            all.extend_from_slice(&lines);
            lines.into_iter().filter(|line| !line.starts_with(recorder::OWN)).collect::<Vec<_>>()
        };
        let needle = Needle::new(0x4556_454e_5453, 32);

        let vault = Vault::builder().build().unwrap();
        let id = vault.id();
        let lines = take();
        // Once for all: where a host takes a call without carrying it out, it has been told now.
        let lock_is_told = vault.status().protections.lock.refused.is_some();
        let of = format!("vault={id} ");
        assert_told(
            &lines,
            "DEBUG",
            &["a vault was made", &of, &format!("hold={:?}", vault.status().hold), "cipher="],
        );
        assert!(lines.contains(&"DEBUG span build_vault".to_owned()), "{lines:#?}");

        // The ordinary is silent.
        let secrets = use_fully(&vault, &needle);
        assert_silent(&take());

        vault.refresh().unwrap();
        let of = format!("vault={id}");
        let lines = take();
        assert_told(&lines, "DEBUG", &["span refresh_vault", &of]);
        assert_told(&lines, "DEBUG", &["a vault has a new key", "epoch=2", &of]);
        vault.finish_refresh(Duration::from_secs(5)).unwrap();
        let lines = take();
        assert_told(&lines, "DEBUG", &["span finish_refresh", &of]);
        assert_told(&lines, "DEBUG", &["moved="]);

        // Closed under a view, in both ways.
        let view = secrets[0].owned_view().unwrap();
        assert!(matches!(secrets[0].close_timeout(Duration::ZERO), Ok(Closed::Deferred { .. })));
        assert_told(&take(), "INFO", &["closed under open views", &of, r#"label \"quoted\"\nnewline"#]);
        drop(view);
        let policy = Policy::new().on_close(OnClose::Revoke).close_wait(Duration::ZERO);
        let revoking = vault.secret().policy(policy).random(32).unwrap();
        let view = revoking.owned_view().unwrap();
        assert!(matches!(revoking.close(), Ok(Closed::Revoked { .. })));
        assert_told(&take(), "WARN", &["open views of it revoked", &of, "1 view"]);
        drop(view);
        let policy = Policy::new().revoke_after(Duration::from_millis(1)).close_wait(Duration::ZERO);
        let later = vault.secret().policy(policy).random(32).unwrap();
        let view = later.owned_view().unwrap();
        later.close().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        vault.tidy();
        assert_told(&take(), "INFO", &["views that had outlived a close were revoked", "count=1"]);
        assert!(view.with(|_| ()).is_err());
        drop(view);
        let expiring =
            vault.secret().policy(Policy::new().time_to_live(Duration::from_millis(1))).random(8).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(expiring.view().err(), Some(Error::Expired));
        vault.tidy();
        assert_told(&take(), "DEBUG", &["a secret has expired", &format!("secret={}", expiring.id())]);

        // Pages that cannot be closed; each secret once, until they can.
        let plan = inject::fail(Call::Mprotect, Plan::FromNth { n: 2, errno: errno::ENOMEM });
        for _ in 0..3 {
            assert!(secrets[1].with(|_| ()).is_err());
        }
        drop(plan);
        let _ = vault.status();
        assert_told(&take(), "WARN", &["pages could not be closed", "count=1", NO_MEMORY]);
        secrets[1].with(|_| ()).unwrap();

        #[cfg(unix)]
        if split {
            a_file_is_lost(&mut take);
        }

        // Refused: once for all, in a process.
        let plan = inject::fail(Call::Mlock, Plan::Always { errno: errno::EPERM });
        for _ in 0..2 {
            drop(vault.secret().store(Store::Paged).random(common::page_size() * 9 / 4).unwrap());
        }
        drop(plan);
        let lines = take();
        if lock_is_told {
            assert!(!lines.iter().any(|line| is_refusal_of_a_lock(line)), "{lines:#?}");
        } else {
            assert_told(&lines, "WARN", &["a preferred protection was refused", "\"lock\"", NO_RIGHT]);
        }
        let next = Policy::new().on_lock_limit(OnLockLimit::NextStore);
        let vault_that_seals = Vault::builder().policy(next).sealed_max(1).build().unwrap();
        take();
        let plan = inject::fail(Call::Mlock, Plan::Always { errno: errno::ENOMEM });
        for _ in 0..2 {
            assert!(
                vault_that_seals.secret().random(common::page_size() * 9 / 4).unwrap().status().next_store
            );
        }
        drop(plan);
        assert_told(&take(), "WARN", &["a secret is sealed", NO_MEMORY]);

        // Another hold than was preferred.
        if split {
            another_hold(&mut take);
        }

        // A fork: the child tells of itself, and nothing of its parent's.
        let stuck = vault.secret().store(Store::Paged).random(32).unwrap();
        let plan = inject::fail(Call::Mprotect, Plan::FromNth { n: 2, errno: errno::ENOMEM });
        assert!(stuck.with(|_| ()).is_err(), "noted, and not told yet");
        drop(plan);
        #[cfg(unix)] // There are no forks on Windows.
        let status = common::in_child(|| {
            let child = Vault::builder().build().unwrap();
            let lines = recorder::take();
            assert!(!lines.iter().any(|line| line.contains("could not be closed")), "{lines:?}");
            let forked = lines.iter().filter(|line| line.contains("this process was forked")).count();
            forked == 1 && child.secret().random(32).is_ok()
        });
        #[cfg(unix)]
        assert_eq!(status, 0);
        assert_silent(&take());
        let _ = vault.status();
        assert_told(&take(), "WARN", &["pages could not be closed", &format!("secret={} ", stuck.id())]);
        drop(stuck);

        vault.purge().unwrap();
        let lines = take();
        assert_told(&lines, "DEBUG", &["span purge_vault", &of]);
        assert_told(&lines, "INFO", &["all keys of a vault were destroyed"]);
        let open = vault.secret().from_vec((0..32).map(|index| needle.byte(index)).collect()).unwrap();
        let view = open.owned_view().unwrap();
        let closed = vault.close(Duration::ZERO).unwrap();
        assert_eq!(closed.outstanding.len(), 1);
        let lines = take();
        assert_told(&lines, "DEBUG", &["span close_vault", &of]);
        assert_told(&lines, "WARN", &["a vault was closed under open views"]);
        drop((view, open, secrets, keys_are_missing));

        let wrong: Vec<_> = spelling::spellings(&needle)
            .into_iter()
            .filter_map(|spelling| all.iter().find(|line| line.contains(&spelling)))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert!(all.len() > 50, "{}", all.len());
    });
}

#[cfg(unix)] // Windows has no such limit.
#[test]
fn near_the_limit_on_locked_memory_there_is_one_warning() {
    let page = common::page_size() as u64;
    let limit = 160 * page;
    case("near_the_limit_on_locked_memory_there_is_one_warning").limit(libc::RLIMIT_MEMLOCK, limit).run(
        || {
            common::become_ordinary_user();
            let _recorder = recorder::install();
            let vault = Vault::builder().store(Store::Paged).build().unwrap();
            let mut kept = Vec::new();
            let is_near = |line: &String| line.contains("nearly locked as much memory as it may");
            let mut at = None;
            // Until there is no room: its end is a refusal, which is told, too.
            while vault.budget().lock_left > Some(8 * page) {
                kept.push(vault.secret().random(32).unwrap());
                if let Some(line) = recorder::take().iter().find(|line| is_near(line)) {
                    assert!(line.starts_with("WARN") && line.contains(&format!("limit={limit}")), "{line}");
                    assert_eq!(at.replace(common::locked()), None, "once");
                }
            }
            let at = at.expect("a warning");
            // A few pages of what the recorder used meanwhile.
            let near = limit - limit / 8;
            assert!((near..=near + 8 * page).contains(&at), "{at}");
        },
    );
}

#[cfg(unix)] // Windows has no such limit.
#[test]
fn far_from_the_limit_there_is_none() {
    case("far_from_the_limit_there_is_none").limit(libc::RLIMIT_MEMLOCK, 8 << 20).run(|| {
        common::need("verifies");
        common::become_ordinary_user();
        let _recorder = recorder::install();
        let vault = Vault::builder().store(Store::Paged).build().unwrap();
        let kept: Vec<_> =
            (0..(2 << 20) / common::page_size()).map(|_| vault.secret().random(32).unwrap()).collect();
        assert!(!recorder::take().iter().any(|line| line.contains("nearly")));
        drop(kept);
    });
}

#[test]
fn a_janitor_tells_what_it_has_done() {
    case("a_janitor_tells_what_it_has_done").run(|| {
        let _recorder = recorder::install();
        let policy = Policy::new().time_to_live(Duration::from_millis(20));
        let vault = Vault::builder().policy(policy).janitor().build().unwrap();
        let secret = vault.secret().random(32).unwrap();
        let started = std::time::Instant::now();
        while !recorder::take().iter().any(|line| line.contains("a secret has expired")) {
            assert!(started.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(secret);
    });
}

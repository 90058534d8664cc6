//! What `Vault::diagnostics` tells: counts, degradations with who refused, faults; in words, without a byte of a secret.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests end by panics, and reach for memory by raw pointers"
)]

#[cfg_attr(windows, path = "common/windows.rs")]
mod common;
#[path = "recorder/spelling.rs"]
mod spelling;

use std::io::Write;

use common::{Needle, case, page_of, page_size};
use securememory::fault::{self, AfterFault, FaultPolicy, FaultReport};
use securememory::testing::inject::{self, Plan};
use securememory::testing::{TestGuard, errno};
use securememory::{
    Call, CallError, Degradation, Error, Hold, HoldUsed, Level, OnLockLimit, Policy, Protection, Store, Vault,
};

const NO_MEMORY: i32 = errno::ENOMEM;

fn refused(call: Call, errno: i32) -> CallError {
    CallError { call, errno }
}

#[test]
fn secrets_are_told_by_store_and_chunks_apart() {
    let _guard = TestGuard::new();
    let vault = Vault::builder().bytes_max(1000).build().unwrap();
    let sealed: Vec<_> = (0..3).map(|_| vault.secret().random(10).unwrap()).collect();
    let paged = vault.secret().store(Store::Paged).label("a \"label\"\n2 open views").random(20).unwrap();
    let mut stream = vault.stream().chunk_size(8).build().unwrap();
    stream.write_all(&[1; 20]).unwrap();
    stream.finish().unwrap();
    let view = paged.view().unwrap();
    let found = vault.diagnostics();
    assert_eq!((found.sealed, found.paged, found.chunks), (3, 1, 3));
    assert_eq!((found.budget.secrets, found.budget.bytes, found.budget.bytes_max), (7, 70, Some(1000)));
    assert_eq!((found.vault_id, found.closed, found.hold), (vault.id(), false, Some(vault.status().hold)));
    assert_eq!(found.budget, vault.budget());
    let all = securememory::Build::HERE.split && securememory::Build::HERE.dont_dump;
    assert_eq!(found.degradations.is_empty(), all, "{:?}", found.degradations);
    assert_eq!((found.faults, found.poisoned), (0, 0));
    let text = found.to_string();
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("note: ")).collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert!(lines[0].contains("3 sealed and 1 paged secrets, 3 chunks of streams; key hold"), "{text}");
    assert_eq!(lines[1], "7 secrets, 70 of 1000 bytes");
    assert!(lines[2].starts_with(&format!("locked: {} bytes by the vault", found.budget.locked)), "{text}");
    assert_eq!(lines[3], "1 open views, 0 secrets linger");
    assert!(lines[4].contains(r#""a \"label\"\n2 open views""#), "{text}");
    drop(view);
    drop((sealed, paged, stream));
    let found = vault.diagnostics();
    assert_eq!((found.sealed, found.paged, found.chunks, found.budget.bytes), (0, 0, 0, 0));
    vault.close(std::time::Duration::ZERO).unwrap();
    assert!(vault.diagnostics().closed && vault.diagnostics().to_string().contains("closed"));
}

#[test]
fn each_degradation_is_told_with_what_was_asked_and_who_refused() {
    case("each_degradation_is_told_with_what_was_asked_and_who_refused").run(|| {
        common::need("split");
        let keys_are_missing = common::NoKeys::from_now();
        // Nothing can be locked, and there are no in-memory files.
        let no_locks = inject::fail(Call::Mlock, Plan::Always { errno: NO_MEMORY });
        let no_files = inject::fail(Call::MemfdCreate, Plan::Always { errno: errno::EMFILE });
        let vault = Vault::builder().hold(Hold::Split).refresh_after_seals(1).build().unwrap();
        let paged = vault.secret().store(Store::Paged).random(20).unwrap();
        let found = vault.diagnostics().degradations;
        let lock = Degradation::Protection {
            protection: Protection::Lock,
            asked: Level::Prefer,
            refused: Some(refused(Call::Mlock, NO_MEMORY)),
        };
        let cause = Error::System(refused(Call::MemfdCreate, errno::EMFILE));
        let hold = Degradation::Hold { asked: Hold::Split, got: HoldUsed::Guarded, refused: cause };
        let (views, others): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|one| matches!(one, Degradation::Views { .. }));
        assert_eq!(others, [lock, hold, Degradation::Pages { unlocked: 1 }]);
        // On large pages there is one from the start, beside the shares.
        assert_eq!(views.is_empty(), common::page_size() < common::LARGE_PAGE, "{views:?}");
        // Views, and a key that is due.
        let n = if views.is_empty() { 2 } else { 1 };
        let no_maps = inject::fail(Call::Mmap, Plan::Nth { n, errno: NO_MEMORY });
        let sealed = vault.secret().random(32).unwrap();
        drop(no_maps);
        let found = vault.diagnostics();
        let refresh = Degradation::Refresh { refused: Error::HoldRefused(refused(Call::Mmap, NO_MEMORY)) };
        assert!(found.degradations.contains(&refresh), "{found}");
        let places = if views.is_empty() { 4 } else { 1 };
        let of_views = Degradation::Views { unlocked: places, of: places };
        assert_eq!(found.degradations[2], of_views, "{found}");
        // Pages that cannot be closed.
        let plan = inject::fail(Call::Mprotect, Plan::FromNth { n: 2, errno: NO_MEMORY });
        assert!(paged.with(|_| ()).is_err());
        drop(plan);
        let found = vault.diagnostics();
        assert!(found.degradations.contains(&Degradation::StuckPages { secrets: 1 }), "{found}");
        let text = found.to_string();
        for part in [
            "note: lock is not in force on the key's memory, though preferred: mlock: ",
            "note: the key's hold is Guarded, asked for was Split: memfd_create: ",
            &format!("note: {places} of {places} places for views are not locked"),
            "note: the pages of 1 paged secrets are not locked",
            "note: a key that is due to be replaced was not: the required key hold is not to be had: mmap: ",
            "note: the pages of 1 secrets could not be closed",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        paged.with(|_| ()).unwrap();
        assert!(!vault.diagnostics().degradations.contains(&Degradation::StuckPages { secrets: 1 }));
        drop((no_files, paged, sealed));

        drop(no_locks);
        let policy = Policy::new().on_lock_limit(OnLockLimit::NextStore);
        let vault = Vault::builder().policy(policy).sealed_max(1).build().unwrap();
        assert_eq!(vault.diagnostics().degradations, []);
        let no_locks = inject::fail(Call::Mlock, Plan::Always { errno: NO_MEMORY });
        let _moved = vault.secret().random(32).unwrap();
        drop(no_locks);
        let next = Degradation::NextStore { secrets: 1, refused: refused(Call::Mlock, NO_MEMORY) };
        assert!(vault.diagnostics().degradations.contains(&next));
        drop(keys_are_missing);
    });
}

/// The fault's cause is done away with.
fn open_page(report: &FaultReport) -> AfterFault {
    let page = page_of(report.address);
    // SAFETY: the guard page below, which this test has closed for itself.
    #[cfg(unix)]
    unsafe {
        libc::mprotect(page as *mut libc::c_void, page_size(), libc::PROT_READ);
    }
    #[cfg(windows)]
    common::open(page);
    AfterFault::Resume
}

#[test]
fn faults_are_told_of_the_vault_that_they_were_in() {
    case("faults_are_told_of_the_vault_that_they_were_in").run(|| {
        // SAFETY: it only calls mprotect(2).
        let policy = unsafe { FaultPolicy::call(open_page) };
        let _guard = fault::install(FaultPolicy::Abort).unwrap();
        let vault = Vault::builder().store(Store::Paged).on_fault(policy).build().unwrap();
        let other = Vault::builder().build().unwrap();
        let secret = vault.secret().label("one\nline").random(page_size()).unwrap();
        let view = secret.view().unwrap();
        // SAFETY: a guard page, which is what this is about; the handler opens it.
        let byte = unsafe { view.as_ptr().add(page_size()).read_volatile() };
        assert_eq!(byte, 0);
        let found = vault.diagnostics();
        assert_eq!((found.faults, found.replaced), (1, 0));
        let last = found.last_fault.unwrap();
        assert_eq!((last.vault_id, last.secret_id), (vault.id(), Some(secret.id())));
        let text = found.to_string();
        assert!(text.contains("\n1 faults, 0 of them answered"), "{text}");
        assert!(text.contains("\nlast fault: ") && text.contains("\"one?line\""), "{text}");
        let found = other.diagnostics();
        assert_eq!((found.faults, found.last_fault), (0, None));
    });
}

#[test]
fn a_vault_in_the_place_of_another_begins_without_its_faults() {
    case("a_vault_in_the_place_of_another_begins_without_its_faults").run(|| {
        // SAFETY: as above.
        let policy = unsafe { FaultPolicy::call(open_page) };
        let _guard = fault::install(FaultPolicy::Abort).unwrap();
        let vault = Vault::builder().store(Store::Paged).on_fault(policy).build().unwrap();
        let secret = vault.secret().random(page_size()).unwrap();
        let view = secret.view().unwrap();
        // SAFETY: as above.
        unsafe { view.as_ptr().add(page_size()).read_volatile() };
        assert_eq!(vault.diagnostics().faults, 1);
        drop(view);
        drop((secret, vault));
        assert_eq!(Vault::builder().build().unwrap().diagnostics().faults, 0);
    });
}

#[test]
fn nothing_of_a_secret_is_in_it_and_a_child_is_told_nothing() {
    case("nothing_of_a_secret_is_in_it_and_a_child_is_told_nothing").run(|| {
        let needle = Needle::new(0x4449_4147, 32);
        let vault = Vault::builder().build().unwrap();
        let plain: Vec<u8> = (0..32).map(|index| needle.byte(index)).collect();
        let secrets: Vec<_> = [Store::Sealed, Store::Paged]
            .map(|store| vault.secret().store(store).label("label").from_bytes(&mut plain.clone()).unwrap())
            .into();
        let _views: Vec<_> =
            secrets.iter().map(|secret| (secret.view().unwrap(), secret.owned_view().unwrap())).collect();
        let found = vault.diagnostics();
        let text = format!("{found} {found:?} {} {:?}", vault.budget(), vault.budget());
        assert!(text.contains("\"label\""));
        assert!(!spelling::spellings(&needle).iter().any(|spelling| text.contains(spelling)), "{text}");
        #[cfg(unix)] // There are no forks on Windows.
        let status = common::in_child(|| {
            vault.diagnostics() == securememory::Diagnostics::default()
                && vault.budget() == securememory::Budget::default()
        });
        #[cfg(unix)]
        assert_eq!(status, 0);
    });
}

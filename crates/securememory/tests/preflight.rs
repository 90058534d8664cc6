//! Whether what preflight says comes true. Limits are set in processes of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests end by panics")]

#[cfg_attr(windows, path = "common/windows.rs")]
mod common;

#[cfg(unix)]
use common::case;
use proptest::prelude::*;
use securememory::testing::TestGuard;
use securememory::{Build, Error, Level, Policy, Preflight, Store, Vault};
#[cfg(unix)]
use securememory::{Resource, Secret};

/// So many secrets of 200,000 bytes are a size, also in 32 bits.
const MANY: usize = if usize::BITS == 64 { 1 << 30 } else { 4000 };

fn vault(store: Store, policy: Policy) -> Vault {
    Vault::builder().store(store).policy(policy).build().unwrap()
}

fn needs(found: &Preflight) -> [u64; 5] {
    [found.memory, found.address_space, found.locked, found.mappings, found.descriptors]
        .map(|need| need.needed)
}

/// The most that fit, as preflight says.
#[cfg(unix)]
fn most(vault: &Vault, size: usize) -> usize {
    let fits = |count| match vault.preflight(count, size) {
        // In 32 bits.
        Err(Error::TooLarge { .. }) if count as u64 * size as u64 > isize::MAX as u64 / 8 => false,
        found => found.unwrap().fits,
    };
    let (mut low, mut high) = (0, 1 << 24);
    assert!(fits(low) && !fits(high));
    while high - low > 1 {
        let middle = low.midpoint(high);
        if fits(middle) { low = middle } else { high = middle }
    }
    low
}

/// Makes secrets until one is refused, into room that was there before.
#[cfg(unix)]
fn fill(vault: &Vault, size: usize, secrets: &mut Vec<Secret>) -> Error {
    loop {
        match vault.secret().random(size) {
            Ok(secret) => secrets.push(secret),
            Err(error) => return error,
        }
        assert!(secrets.len() < secrets.capacity(), "no limit was met");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn more_secrets_never_need_less(
        paged: bool, few in 0..MANY, more in 0..MANY, size in 1usize..200_000,
    ) {
        let _guard = TestGuard::new();
        let vault = vault(if paged { Store::Paged } else { Store::Sealed }, Policy::new());
        let (few, more) = (few.min(more), few.max(more));
        let found = [few, more].map(|count| vault.preflight(count, size).unwrap());
        for (few, more) in needs(&found[0]).into_iter().zip(needs(&found[1])) {
            prop_assert!(few <= more, "{found:?}");
        }
        for found in found {
            let all = (found.count as u64) * (found.size as u64);
            prop_assert!(found.memory.needed >= all && found.address_space.needed >= all, "{found:?}");
            prop_assert_eq!(found.fits, found.shortages().next().is_none());
            // Windows does not tell how much more may be locked.
            let told = Build::HERE.verifies || cfg!(windows) && found.locked.needed == 0;
            prop_assert_eq!(found.unverified().count() == 0, told);
            let own = if paged { found.count as u64 } else { 0 };
            prop_assert!(found.mappings.needed == 2 * own && found.locked.needed >= common::page_size() as u64 * own, "{found:?}");
            prop_assert!(paged || found.locked.needed == 0, "{found:?}");
        }
    }

    #[test]
    fn sizes_that_cannot_be_are_errors(paged: bool, count in 2usize.., over in 0usize..1 << 20) {
        let _guard = TestGuard::new();
        let vault = vault(if paged { Store::Paged } else { Store::Sealed }, Policy::new());
        let size = (usize::MAX / count).saturating_add(1).saturating_add(over);
        for (count, size) in [(count, size), (1, usize::MAX - over)] {
            let refused = vault.preflight(count, size);
            prop_assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
        }
        prop_assert_eq!(vault.preflight(count, 0), Err(Error::Empty));
    }
}

#[test]
fn the_store_is_the_one_that_the_vault_would_take() {
    let _guard = TestGuard::new();
    let vault = Vault::builder().sealed_max(1000).build().unwrap();
    assert_eq!(vault.preflight(1, 1000).unwrap().store, Store::Sealed);
    let paged = vault.preflight(1, 1001).unwrap();
    assert_eq!(paged.store, Store::Paged);
    assert!(paged.to_string().starts_with("1 more paged secrets of 1001 bytes fit"), "{paged}");
    let unlocked = self::vault(Store::Paged, Policy::new().lock(Level::Off));
    assert_eq!(unlocked.preflight(1000, 32).unwrap().locked.needed, 0);
}

#[cfg(unix)]
#[test]
fn locked_memory_that_is_required() {
    let page = common::page_size();
    case("locked_memory_that_is_required").limit(libc::RLIMIT_MEMLOCK, 256 * page as u64).run(|| {
        common::need("verifies");
        common::become_ordinary_user();
        let mut secrets = Vec::with_capacity(1000);
        for size in [32, page + page / 4] {
            let vault = vault(Store::Paged, Policy::strict());
            let said = most(&vault, size);
            assert!((50..256).contains(&said), "{said}");
            let short = vault.preflight(said + 1, size).unwrap();
            let shortage = short.shortages().next().unwrap();
            assert_eq!((shortage.resource, shortage.refuses), (Resource::LockedMemory, true));
            let text = short.to_string();
            assert!(text.contains("do not fit") && text.contains("ulimit -l"), "{text}");
            let refused = fill(&vault, size, &mut secrets);
            assert!(matches!(refused, Error::Refused { .. }), "{refused:?}");
            assert_eq!(secrets.len(), said, "{size}");
            // What ended secrets leave is counted, for others of their size: 8 MiB are kept at most.
            secrets.clear();
            let again = vault.preflight(said, size).unwrap();
            if said * (size + 64).next_multiple_of(page) <= 8 << 20 {
                assert_eq!([again.mappings.needed, again.locked.needed], [0, 0]);
                assert_eq!(most(&vault, 5 * page / 2), 0);
                assert!(vault.secret().random(5 * page / 2).is_err());
            }
            assert!(again.fits && !vault.preflight(said + 1, size).unwrap().fits);
        }
    });
}

#[cfg(unix)]
#[test]
fn locked_memory_that_is_preferred() {
    case("locked_memory_that_is_preferred").limit(libc::RLIMIT_MEMLOCK, 64 * 1024).run(|| {
        common::need("verifies");
        common::become_ordinary_user();
        let vault = vault(Store::Paged, Policy::new());
        let short = vault.preflight(100, 32).unwrap();
        let shortages: Vec<_> = short.shortages().collect();
        assert!(!short.fits && shortages.len() == 1, "{short}");
        assert_eq!((shortages[0].resource, shortages[0].refuses), (Resource::LockedMemory, false));
        let secrets: Vec<Secret> = (0..100).map(|_| vault.secret().random(32).unwrap()).collect();
        assert!(!secrets[99].status().protections.lock.got);
        assert!(self::vault(Store::Sealed, Policy::new()).preflight(100_000, 32).unwrap().fits);
    });
}

#[cfg(unix)]
#[test]
fn address_space_for_sealed_secrets() {
    case("address_space_for_sealed_secrets").run(|| {
        common::need("verifies");
        for size in [32, 5000] {
            let vault = vault(Store::Sealed, Policy::new());
            // What a process takes once.
            drop(vault.secret().random(size).unwrap());
            let mut secrets = Vec::with_capacity(1_000_000);
            common::soft_limit(libc::RLIMIT_AS, common::address_space() + (64 << 20)).unwrap();
            let said = most(&vault, size);
            let short = vault.preflight(said + 1, size).unwrap();
            assert!(short.shortages().all(|short| short.resource == Resource::AddressSpace && short.refuses));
            let refused = fill(&vault, size, &mut secrets);
            common::soft_limit(libc::RLIMIT_AS, common::UNLIMITED).unwrap();
            assert!(matches!(refused, Error::OutOfMemory { .. }), "{refused:?}");
            let (made, said) = (secrets.len() as f64, said as f64);
            println!("{size}: said {said}, made {made}");
            // musl's allocator may, or may not, take a quarter more for one.
            let most = if cfg!(target_env = "musl") { 1.3 } else { 1.2 };
            assert!(made >= said && made < most * said, "{size}: said {said}, made {made}");
        }
    });
}

#[cfg(unix)]
#[test]
fn mappings_and_address_space_of_paged_secrets() {
    case("mappings_and_address_space_of_paged_secrets").run(|| {
        for size in [32, 4064, 4065, 5000, 100_000] {
            let vault = vault(Store::Paged, Policy::new().lock(Level::Off));
            drop(vault.secret().random(size).unwrap());
            let before = (common::Footprint::now().mappings(), common::address_space());
            let said = vault.preflight(500, size).unwrap();
            let secrets: Vec<Secret> = (0..500).map(|_| vault.secret().random(size).unwrap()).collect();
            let mappings = (common::Footprint::now().mappings() - before.0) as f64;
            let space = (common::address_space() - before.1) as f64;
            println!("{size}: {mappings} mappings, {space} bytes, said {said:?}");
            // What the size before has left on the heap is used again, and not taken off from what is said.
            let near = |made: f64, said: u64| made <= 1.02 * said as f64 + 4.0 && made >= 0.85 * said as f64;
            assert!(near(mappings, said.mappings.needed), "{size}: {mappings} mappings, {said:?}");
            assert!(near(space, said.address_space.needed), "{size}: {space} bytes, {said:?}");
            drop(secrets);
        }
    });
}

/// A group around this process that may use so much memory; the process leaves it, and it goes, when this is dropped.
#[cfg(unix)]
struct Group(std::path::PathBuf);

#[cfg(unix)]
impl Group {
    const ROOT: &str = "/sys/fs/cgroup/memory";

    fn around(bytes: u64) -> std::io::Result<Self> {
        let place = std::path::Path::new(Self::ROOT).join(format!("securememory-{}", std::process::id()));
        std::fs::create_dir(&place)?;
        let group = Self(place);
        std::fs::write(group.0.join("memory.limit_in_bytes"), bytes.to_string())?;
        std::fs::write(group.0.join("cgroup.procs"), std::process::id().to_string())?;
        Ok(group)
    }
}

#[cfg(unix)]
impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::write(format!("{}/cgroup.procs", Self::ROOT), std::process::id().to_string());
        for _ in 0..100 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

#[cfg(unix)]
#[test]
fn the_memory_of_a_group_of_the_first_version() {
    case("the_memory_of_a_group_of_the_first_version").run(|| {
        let vault = vault(Store::Sealed, Policy::new());
        assert!(vault.preflight(2000, 60_000).unwrap().fits, "120 MB are too much for this machine");
        let _group = Group::around(64 << 20).unwrap_or_else(|error| {
            common::skip(&format!("no control group of the first version can be made: {error}"))
        });
        assert!(vault.preflight(100, 60_000).unwrap().fits);
        let short = vault.preflight(2000, 60_000).unwrap();
        let shortage = short.shortages().next().unwrap();
        assert_eq!((shortage.resource, shortage.refuses), (Resource::Memory, true));
        let left = shortage.need.available.unwrap();
        assert!(
            (1..64 << 20).contains(&left) && short.to_string().contains("memory.limit_in_bytes"),
            "{short}"
        );
    });
}

/// For a machine with `vm.overcommit_memory` 2, which others must not use: where SECUREMEMORY_STRICT_ACCOUNTING is set, this sets
/// it. Elsewhere it is skipped.
#[cfg(unix)]
#[test]
fn memory_that_the_kernel_promises() {
    case("memory_that_the_kernel_promises").run(|| {
        const MODE: &str = "/proc/sys/vm/overcommit_memory";
        const SIZE: usize = 60_000;
        let mode = || std::fs::read_to_string(MODE).unwrap_or_default().trim().to_owned();
        let before = mode();
        if std::env::var_os("SECUREMEMORY_STRICT_ACCOUNTING").is_some() {
            std::fs::write(MODE, "2").unwrap();
        }
        if mode() != "2" {
            common::skip("vm.overcommit_memory is not 2");
        }
        let vault = vault(Store::Sealed, Policy::new());
        let mut secrets = Vec::with_capacity(100_000);
        let reserve = vec![1_u8; 1 << 20];
        // Promised and never used: what is left is filled in seconds.
        let left = vault.preflight(1, SIZE).unwrap().memory.available.unwrap();
        let ballast = Vec::<u8>::with_capacity(left.saturating_sub(100 << 20) as usize);
        let said = most(&vault, SIZE);
        let refused = fill(&vault, SIZE, &mut secrets);
        // So that others can go on.
        drop((reserve, ballast));
        let made = secrets.len();
        assert_eq!(refused.kind(), securememory::ErrorKind::Limit, "{refused:?}");
        assert!(refused.hint().is_some(), "{refused:?}");
        assert!(secrets.iter().step_by(100).all(|secret| secret.with(|bytes| bytes.len()) == Ok(SIZE)));
        drop(secrets);
        std::fs::write(MODE, before).unwrap_or_default();
        eprintln!("said {said}, made {made}: {refused}");
        assert!(said <= made + made / 20 && made <= said + said / 4, "said {said}, made {made}");
    });
}

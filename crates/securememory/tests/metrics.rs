//! Counters through the `metrics` facade: each counts what it says, and the recorder is called by `publish` only.
#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests end by panics")]

#[cfg(unix)]
mod common;
#[cfg(windows)]
#[path = "common/windows.rs"]
mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::case;
use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use securememory::testing::inject::{self, Plan};
use securememory::{Build, Call, Hold, OnClose, OnLockLimit, Policy, Secret, Store, Vault};

#[derive(Default)]
struct Book {
    counts: Mutex<BTreeMap<String, Arc<Count>>>,
    described: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Count(AtomicU64);

impl CounterFn for Count {
    fn increment(&self, _value: u64) {
        panic!("counts are told as a whole");
    }

    fn absolute(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// A recorder that uses the library, which must be possible.
struct Teller(Arc<Book>);

impl Recorder for Teller {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, _description: SharedString) {
        assert_eq!(unit, Some(Unit::Count));
        self.0.described.lock().unwrap().push(name.as_str().to_owned());
    }

    fn describe_gauge(&self, _name: KeyName, _unit: Option<Unit>, _description: SharedString) {}

    fn describe_histogram(&self, _name: KeyName, _unit: Option<Unit>, _description: SharedString) {}

    fn register_counter(&self, key: &Key, _metadata: &Metadata<'_>) -> Counter {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        Counter::from_arc(Arc::clone(self.0.counts.lock().unwrap().entry(name).or_default()))
    }

    fn register_gauge(&self, _key: &Key, _metadata: &Metadata<'_>) -> Gauge {
        panic!("there are none");
    }

    fn register_histogram(&self, _key: &Key, _metadata: &Metadata<'_>) -> Histogram {
        panic!("there are none");
    }
}

impl Book {
    /// Those that have changed since the last call.
    fn changed(&self, before: &mut BTreeMap<String, u64>) -> Vec<(String, u64)> {
        securememory::metrics::publish();
        let counts = self.counts.lock().unwrap();
        let now = counts.iter().map(|(name, count)| (name.clone(), count.0.load(Ordering::Relaxed)));
        let now: BTreeMap<_, _> = now.collect();
        let old = std::mem::replace(before, now.clone());
        let more = now.into_iter().map(|(name, count)| {
            let by = count - old.get(&name).copied().unwrap_or(0);
            (name.trim_start_matches("securememory_").replace("{}", ""), by)
        });
        more.filter(|(_, by)| *by > 0).collect()
    }
}

/// Does this host refuse a vault something in any case? Then more is counted as such than a test can foresee.
static DEGRADES: AtomicBool = AtomicBool::new(false);

#[track_caller]
fn assert_changed(found: &[(String, u64)], expected: &[(&str, u64)]) {
    let kept = |name: &str| !DEGRADES.load(Ordering::Relaxed) || name != "degradations_total";
    let found: Vec<_> = found.iter().filter(|(name, _)| kept(name)).cloned().collect();
    let expected: Vec<_> = expected.iter().filter(|(name, _)| kept(name)).copied().collect();
    assert!(found.iter().map(|(name, by)| (name.as_str(), *by)).eq(expected.iter().copied()), "{found:#?}");
}

#[test]
fn each_counter_counts_what_it_says() {
    case("each_counter_counts_what_it_says").run(|| {
        let keys_are_missing = common::NoKeys::from_now();
        let book = Arc::new(Book::default());
        metrics::set_global_recorder(Teller(Arc::clone(&book))).ok().unwrap();
        securememory::metrics::describe();
        let vault = Vault::builder().bytes_max(10_000).sealed_max(100).build().unwrap();
        assert!(book.counts.lock().unwrap().is_empty(), "nobody has asked for them");
        if !vault.diagnostics().degradations.is_empty() {
            DEGRADES.store(true, Ordering::Relaxed);
            eprintln!("skipped: how often something is refused is not looked at, since something is here in any case");
        }
        let mut before = BTreeMap::new();
        let mut changed = || book.changed(&mut before);
        assert_changed(&changed(), &[("vaults_built_total", 1)]);

        let sealed = vault.secret().store(Store::Sealed).random(32).unwrap();
        let paged = vault.secret().store(Store::Paged).random(32).unwrap();
        let many = vault.secrets_from(&mut [[1; 8], [2; 8], [3; 8]]).unwrap();
        let mut stream = vault.stream().chunk_size(10).build().unwrap();
        stream.write_all(&[1; 25]).unwrap();
        stream.finish().unwrap();
        assert_changed(
            &changed(),
            &[
                ("secrets_created_total{store=chunk}", 3),
                ("secrets_created_total{store=paged}", 1),
                ("secrets_created_total{store=sealed}", 4),
            ],
        );

        for secret in [&sealed, &paged] {
            secret.with(|_| ()).unwrap();
            drop(secret.view().unwrap());
            drop(secret.owned_view().unwrap());
            drop(secret.view_mut().unwrap());
        }
        let all: Vec<&Secret> = many.iter().collect();
        Secret::with_many(&all, |_, _| ()).unwrap();
        assert_changed(
            &changed(),
            &[("views_opened_total{store=paged}", 4), ("views_opened_total{store=sealed}", 7)],
        );
        common::in_threads(&[(); 20], |()| (0..50).for_each(|_| sealed.with(|_| ()).unwrap()));
        assert_changed(&changed(), &[("views_opened_total{store=sealed}", 1000)]);

        sealed.replace(&mut [1; 32]).unwrap();
        paged.view_mut().unwrap().commit().unwrap();
        assert_changed(
            &changed(),
            &[
                ("commits_total", 2),
                ("views_opened_total{store=paged}", 1),
                ("views_opened_total{store=sealed}", 1),
            ],
        );

        let view = paged.owned_view().unwrap();
        paged.close_timeout(Duration::ZERO).unwrap();
        drop(view);
        paged.close().unwrap();
        let policy = Policy::new().on_close(OnClose::Revoke);
        let revoked = vault.secret().policy(policy).random(4).unwrap();
        let view = revoked.owned_view().unwrap();
        revoked.close_timeout(Duration::ZERO).unwrap();
        drop((view, revoked));
        assert_changed(
            &changed(),
            &[
                ("closes_total{outcome=closed}", 1),
                ("closes_total{outcome=deferred}", 1),
                ("closes_total{outcome=revoked}", 1),
                ("secrets_created_total{store=sealed}", 1),
                ("views_opened_total{store=paged}", 1),
                ("views_opened_total{store=sealed}", 1),
            ],
        );

        // Errors, by what a caller can do about them.
        assert!(vault.secret().random(0).is_err());
        assert!(vault.secret().random(100_000).is_err());
        assert!(paged.view().is_err() && paged.with(|_| ()).is_err());
        assert!(vault.secret().try_init_with(4, |_| Err(())).is_err(), "not of ours");
        let call = if Build::HERE.split { Call::MemfdCreate } else { Call::Mmap };
        let plan = inject::fail(call, Plan::Always { errno: securememory::testing::errno::EACCES });
        assert!(vault.refresh().is_err());
        drop(plan);
        let plan =
            inject::fail(Call::MemfdCreate, Plan::Always { errno: securememory::testing::errno::EACCES });
        assert!(Vault::builder().hold(Hold::Split).build().is_ok());
        drop(plan);
        assert_changed(
            &changed(),
            &[
                ("degradations_total", 1),
                ("refusals_total{kind=gone}", 2),
                ("refusals_total{kind=limit}", 1),
                ("refusals_total{kind=protection}", 1),
                ("refusals_total{kind=usage}", 1),
                ("vaults_built_total", 1),
            ],
        );

        vault.refresh().unwrap();
        vault.finish_refresh(Duration::from_secs(5)).unwrap();
        vault.purge().unwrap();
        let expiring = vault.secret().policy(Policy::new().time_to_live(Duration::ZERO)).random(4).unwrap();
        assert!(expiring.view().is_err());
        assert_changed(
            &changed(),
            &[
                ("expired_total", 1),
                ("purges_total", 1),
                ("refreshes_total", 1),
                ("refusals_total{kind=gone}", 1),
                ("secrets_created_total{store=sealed}", 1),
            ],
        );
        let policy = Policy::new().on_lock_limit(OnLockLimit::NextStore);
        let plan = inject::fail(Call::Mlock, Plan::Always { errno: securememory::testing::errno::ENOMEM });
        assert!(vault.secret().policy(policy).random(150).is_ok());
        drop(plan);
        assert_changed(&changed(), &[("degradations_total", 1), ("secrets_created_total{store=sealed}", 1)]);

        let described = book.described.lock().unwrap();
        let counts = book.counts.lock().unwrap();
        for name in counts.keys() {
            assert!(described.iter().any(|known| name.split('{').next() == Some(known)), "{name}");
        }
        drop(keys_are_missing);
    });
}

//! What happens to all secrets at once: their key turns over while a reader goes on, and is destroyed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use securememory::{Error, Refreshed, Vault};

use super::crowd::{self, Crowd};
use super::latency::Latencies;
use super::report::Report;
use crate::stress::random::Random;

/// The reader is watched for no shorter time.
const WATCH: Duration = Duration::from_secs(1);
/// Reads before its first one counts.
const WARM_UP: usize = 10_000;
/// How long an old key may take to be gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// Turns the key over with a reader beside it, and lets the same reader run alone for as long.
pub(super) fn refresh_beside_reader(report: &mut Report, vault: &Vault, crowd: &Crowd) {
    let mut first = None;
    let mut failed = None;
    let (beside, took) = watch(report, crowd, || {
        let begin = Instant::now();
        // Again where one is over in no time: a ten-thousandth of few reads says nothing.
        while begin.elapsed() < WATCH {
            match once(vault) {
                Ok(times) => _ = first.get_or_insert(times),
                Err(what) => {
                    failed = Some(what);
                    break;
                }
            }
        }
    });
    if let Some(what) = failed {
        report.wrong(what);
    }
    let (alone, _) = watch(report, crowd, || thread::sleep(took.max(WATCH)));
    let millis = |latencies: &Latencies| latencies.within(9_999).map(|nanos| nanos as f64 / 1e6);
    let beside = first.and_then(|_| millis(&beside));
    let times = first.map(|Times { refresh, finish, moved }| {
        (refresh.as_secs_f64() * 1e3, finish.as_secs_f64() * 1e3, moved as f64)
    });
    report.figure(("refresh_ms", "refresh: until the new key is in use"), "ms", times.map(|t| t.0), None);
    report.figure(("finish_ms", "finish_refresh: until the old one is gone"), "ms", times.map(|t| t.1), None);
    report.figure(("moved", "secrets that it sealed anew"), "", times.map(|t| t.2), None);
    let alone = (millis(&alone), alone.total() as f64);
    report.figure(("reader_alone_ms", "99.99 % of reads are within"), "ms", alone.0, None);
    report.figure(("reader_reads", "of so many"), "", alone.1, None);
    report.figure(("reader_beside_ms", "beside refresh, 99.99 % are within"), "ms", beside, Some(1.0));
}

#[derive(Clone, Copy)]
struct Times {
    refresh: Duration,
    finish: Duration,
    moved: u64,
}

fn once(vault: &Vault) -> Result<Times, String> {
    let begin = Instant::now();
    vault.refresh().map_err(|error| format!("refresh failed: {error}"))?;
    let refresh = begin.elapsed();
    let begin = Instant::now();
    match vault.finish_refresh(PATIENCE) {
        Ok(Refreshed { moved, damaged: 0, .. }) => Ok(Times { refresh, finish: begin.elapsed(), moved }),
        Ok(Refreshed { damaged, .. }) => Err(format!("refresh found {damaged} secrets damaged")),
        Err(error) => Err(format!("finish_refresh failed: {error}")),
    }
}

/// Has a thread read at random as long as `work` takes; how long each read took, and how long the work.
fn watch(report: &mut Report, crowd: &Crowd, work: impl FnOnce()) -> (Latencies, Duration) {
    let (warm, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let reader = || {
        let (mut random, mut latencies, mut found) = (Random::new(4), Latencies::new(), Vec::new());
        for count in 0u64.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let begin = Instant::now();
            let read = crowd.read_any(&mut random);
            let nanos = begin.elapsed().as_nanos();
            match read {
                Ok(()) if count >= WARM_UP as u64 => latencies.add(u64::try_from(nanos).unwrap_or(u64::MAX)),
                Ok(()) => {}
                Err(what) => {
                    found.push(what);
                    break;
                }
            }
            if count == WARM_UP as u64 {
                warm.store(true, Ordering::Relaxed);
            }
        }
        (latencies, found)
    };
    thread::scope(|scope| {
        let reader = scope.spawn(reader);
        while !warm.load(Ordering::Relaxed) && !reader.is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
        let begin = Instant::now();
        work();
        let took = begin.elapsed();
        stop.store(true, Ordering::Relaxed);
        let (latencies, found) =
            reader.join().unwrap_or_else(|_| (Latencies::new(), vec!["the reader has panicked".to_owned()]));
        found.into_iter().for_each(|what| report.wrong(what));
        (latencies, took)
    })
}

/// Makes all unreadable by one call, and sees that they are, and that the vault goes on.
pub(super) fn purge_all(report: &mut Report, vault: &Vault, crowd: &Crowd) {
    let begin = Instant::now();
    let outcome = vault.purge();
    let took = begin.elapsed();
    let done = outcome.is_ok().then_some(took.as_secs_f64() * 1e3);
    report.figure(("purge_ms", "purge: until none can be read"), "ms", done, Some(1.0));
    if let Err(error) = outcome {
        report.wrong(format!("purge failed: {error}"));
        return;
    }
    crowd.refused_sample(report, |error| *error == Error::Purged);
    if let Err(what) = crowd::one_works(vault) {
        report.wrong(format!("no new secret after the purge: {what}"));
    }
}

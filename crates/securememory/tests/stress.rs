//! Readers, writers and closers on the same secrets at the same time: right bytes, no fault, no hang.
//!
//! `SECUREMEMORY_STRESS_SECONDS` makes it longer.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use securememory::{Closed, Error, Hold, Level, Policy, Secret, Store, Vault};

const LEN: usize = 40;

/// A value that can be recognised: a number, and the same number in every further word.
fn value(number: u64) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes.chunks_mut(8).enumerate().for_each(|(word, chunk)| {
        chunk.copy_from_slice(
            &number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(word as u64).to_le_bytes(),
        );
    });
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn check(bytes: &[u8]) {
    let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(bytes, value(number), "a torn or wrong value");
}

fn seconds() -> Duration {
    let seconds = std::env::var("SECUREMEMORY_STRESS_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Errors that the others' work may cause; everything else is a defect.
fn expected(error: Error) {
    match error {
        Error::Closed | Error::Timeout { .. } | Error::Busy(_) | Error::Revoked => {}
        other => panic!("unexpected: {other}"),
    }
}

fn one_step(vault: &Vault, cells: &[RwLock<Arc<Secret>>], random: &mut Random, numbers: &AtomicU64) {
    let cell = &cells[random.below(cells.len() as u64) as usize];
    let secret = Arc::clone(&cell.read().unwrap());
    match random.below(100) {
        0..60 => {
            if let Err(error) = secret.with(check) {
                expected(error.into());
            }
        }
        60..70 => match (secret.view(), secret.view()) {
            (Ok(first), Ok(second)) => {
                check(&first);
                check(&second);
                first.finish().unwrap();
                check(&second);
            }
            (first, second) => {
                first.err().into_iter().chain(second.err()).for_each(expected);
            }
        },
        70..80 => match secret.owned_view() {
            Ok(view) => {
                if let Err(error) = view.with(check) {
                    expected(error.into());
                }
            }
            Err(error) => expected(error),
        },
        80..92 => match secret.view_mut() {
            Ok(mut view) => {
                check(&view);
                view.copy_from_slice(&value(numbers.fetch_add(1, Ordering::Relaxed)));
                if random.below(4) != 0
                    && let Err(error) = view.commit()
                {
                    expected(error);
                }
            }
            Err(error) => expected(error),
        },
        92..96 => {
            let fresh = vault.secret().from_bytes(&mut value(numbers.fetch_add(1, Ordering::Relaxed)));
            *cell.write().unwrap() = Arc::new(fresh.unwrap());
        }
        96..98 => match secret.close_timeout(Duration::from_millis(random.below(3))) {
            Ok(Closed::Closed | Closed::Deferred { .. }) => assert!(secret.view().is_err()),
            Ok(other) => panic!("unexpected: {other:?}"),
            Err(error) => expected(error),
        },
        _ => {
            let _ = secret.status();
        }
    }
}

fn stress(vault: &Vault) -> u64 {
    let numbers = AtomicU64::new(1);
    let cells: Vec<_> =
        (0..6).map(|_| RwLock::new(Arc::new(vault.secret().from_bytes(&mut value(0)).unwrap()))).collect();
    let stop = AtomicBool::new(false);
    let steps = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (cells, stop, steps, numbers) = (&cells, &stop, &steps, &numbers);
            scope.spawn(move || {
                let mut random = Random(thread * 7919 + 1);
                while !stop.load(Ordering::Relaxed) {
                    one_step(vault, cells, &mut random, numbers);
                    steps.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let end = Instant::now() + seconds();
        let mut seen = 0;
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(500));
            let now = steps.load(Ordering::Relaxed);
            assert_ne!(now, seen, "nobody has made a step for half a second");
            seen = now;
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop(cells);
    assert_eq!(vault.status().secrets, 0, "all secrets were given back");
    steps.into_inner()
}

fn patient() -> Policy {
    Policy::new().wait(Duration::from_millis(200))
}

#[test]
fn stress_sealed_split() {
    let vault = Vault::builder().policy(patient()).store(Store::Sealed).hold(Hold::Split);
    let steps = stress(&vault.hold_level(Level::Require).build().unwrap());
    println!("{steps} steps");
}

#[test]
fn stress_sealed_guarded() {
    let vault = Vault::builder().policy(patient()).store(Store::Sealed).hold(Hold::Guarded);
    let steps = stress(&vault.build().unwrap());
    println!("{steps} steps");
}

#[test]
fn stress_paged() {
    let steps = stress(&Vault::builder().policy(patient()).store(Store::Paged).build().unwrap());
    println!("{steps} steps");
}

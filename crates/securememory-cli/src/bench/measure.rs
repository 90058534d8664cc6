//! Timing: an operation and its floor in turns, so that both see the same machine.
//!
//! A round is a number of short slices, one of the operation, one of the floor, and so on; its ratio is
//! that of the two sums. What disturbs the machine for longer than a slice disturbs both alike. The
//! result is the median over the rounds, of the ratios too: the ratio of two medians could come from
//! rounds that had nothing to do with each other.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec, clock_gettime};

use super::Failure;

/// Does the thing so many times.
pub(super) type Batch = Box<dyn FnMut(u64) -> Result<(), Failure>>;

/// Slices of each in a round.
pub(super) const SLICES: u32 = 8;
/// How long a slice should take.
const SLICE: Duration = Duration::from_millis(2);
/// How long each is run before anything counts.
pub(super) const WARM_UP: Duration = Duration::from_millis(40);

/// What came out, times in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    pub(super) ns: f64,
    pub(super) floor_ns: f64,
    pub(super) ratio: f64,
    pub(super) ratio_low: f64,
    pub(super) ratio_high: f64,
    /// Of the least disturbed slices, where they were looked at.
    pub(super) least: Option<Least>,
}

/// What the quickest slice of each took a call: on a machine that others use the nearest to what it costs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Least {
    pub(super) ns: f64,
    pub(super) floor_ns: f64,
}

impl Figures {
    /// From one figure of each kind a round; sorts them.
    pub(super) fn of(ops: &mut [f64], floors: &mut [f64], ratios: &mut [f64]) -> Self {
        let ratio = median(ratios);
        Self {
            ns: median(ops),
            floor_ns: median(floors),
            ratio,
            ratio_low: ratios.first().copied().unwrap_or(ratio),
            ratio_high: ratios.last().copied().unwrap_or(ratio),
            least: None,
        }
    }
}

/// Runs `rounds` rounds of both.
pub(super) fn in_turns(op: &mut Batch, floor: &mut Batch, rounds: u32) -> Result<Figures, Failure> {
    let origin = Instant::now();
    in_turns_by(&|| origin.elapsed(), op, floor, rounds)
}

/// Tells the time that has passed since a fixed moment.
pub(super) type Clock<'a> = &'a dyn Fn() -> Duration;

fn in_turns_by(clock: Clock, op: &mut Batch, floor: &mut Batch, rounds: u32) -> Result<Figures, Failure> {
    let op_count = calibrate(clock, op)?;
    let floor_count = calibrate(clock, floor)?;
    let (mut ops, mut floors, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut op_least, mut floor_least) = (Duration::MAX, Duration::MAX);
    for _ in 0..rounds {
        let (mut op_time, mut floor_time) = (Duration::ZERO, Duration::ZERO);
        let mut op_slice = || {
            let took = time(clock, op, op_count)?;
            (op_time, op_least) = (op_time + took, op_least.min(took));
            Ok::<(), Failure>(())
        };
        let mut floor_slice = || {
            let took = time(clock, floor, floor_count)?;
            (floor_time, floor_least) = (floor_time + took, floor_least.min(took));
            Ok::<(), Failure>(())
        };
        for slice in 0..SLICES {
            // Who goes first changes from slice to slice: neither always finds the caches of the other.
            if slice % 2 == 0 {
                op_slice()?;
                floor_slice()?;
            } else {
                floor_slice()?;
                op_slice()?;
            }
        }
        let op_ns = per_call(op_time, op_count);
        let floor_ns = per_call(floor_time, floor_count);
        ops.push(op_ns);
        floors.push(floor_ns);
        ratios.push(op_ns / floor_ns);
    }
    // Of one slice, not of a round of them.
    let slice = |took, count| per_call(took, count) * f64::from(SLICES);
    let least = Least { ns: slice(op_least, op_count), floor_ns: slice(floor_least, floor_count) };
    Ok(Figures { least: Some(least), ..Figures::of(&mut ops, &mut floors, &mut ratios) })
}

/// Warms up and finds how many calls fill a slice.
pub(super) fn calibrate(clock: Clock, batch: &mut Batch) -> Result<u64, Failure> {
    let begin = clock();
    let mut count = 1;
    loop {
        let took = time(clock, batch, count)?;
        if clock().saturating_sub(begin) >= WARM_UP && took > Duration::ZERO {
            let fitting = SLICE.as_nanos() * u128::from(count) / took.as_nanos();
            return Ok(u64::try_from(fitting).unwrap_or(u64::MAX).max(1));
        }
        if took < SLICE {
            count *= 2;
        }
    }
}

pub(super) fn time(clock: Clock, batch: &mut Batch, count: u64) -> Result<Duration, Failure> {
    let begin = clock();
    batch(count)?;
    Ok(clock().saturating_sub(begin))
}

pub(super) fn per_call(time: Duration, count: u64) -> f64 {
    time.as_nanos() as f64 / count as f64 / f64::from(SLICES)
}

/// For how long the calling thread has had a processor.
pub(super) fn processor_time() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(tv_sec.unsigned_abs(), u32::try_from(tv_nsec).unwrap_or(0))
}

/// The median; sorts what it is given. Of an even number, the upper of the two in the middle.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn the_median_ignores_outliers() {
        assert_eq!(median(&mut [900.0, 1.0, 3.0, 2.0, 2.5]), 2.5);
    }

    #[test]
    fn the_ratio_is_that_of_the_times_and_survives_disturbed_rounds() {
        // A clock that only these batches move, and an operation that takes ten times as long now and then.
        let now = Rc::new(Cell::new(Duration::ZERO));
        let calls = Rc::new(Cell::new(0u32));
        let batch = |nanos: u64, disturbed: bool| -> Batch {
            let (now, calls) = (Rc::clone(&now), Rc::clone(&calls));
            Box::new(move |count| {
                calls.set(calls.get() + 1);
                let slow = if disturbed && calls.get() % 80 < 9 { 10 } else { 1 };
                now.set(now.get() + Duration::from_nanos(nanos * count * slow));
                Ok(())
            })
        };
        let figures = in_turns_by(&|| now.get(), &mut batch(300, true), &mut batch(200, false), 15).unwrap();
        assert!((figures.ratio - 1.5).abs() < 0.001, "{figures:?}");
        assert!((figures.ns - 300.0).abs() < 0.1 && (figures.floor_ns - 200.0).abs() < 0.1, "{figures:?}");
        assert!(figures.ratio_low <= figures.ratio && figures.ratio < figures.ratio_high, "{figures:?}");
        let least = figures.least.unwrap();
        assert!((least.ns - 300.0).abs() < 0.1 && (least.floor_ns - 200.0).abs() < 0.1, "{figures:?}");
    }

    #[test]
    fn a_failure_ends_the_run() {
        let mut fails: Batch = Box::new(|_| Err("no".into()));
        let mut works: Batch = Box::new(|_| Ok(()));
        assert!(in_turns(&mut fails, &mut works, 7).is_err());
    }
}

//! What a second thread brings: calls a second of two threads against one, next to what it brings to bare
//! calls that have nothing to do with each other.
//!
//! Operation and floor, on one thread and on two, in turns. A round's ratio is the gain of the operation over
//! the gain of the floor in that round.

use std::time::{Duration, Instant};

use super::crew::{Crew, Slice, What};
use super::measure::{Figures, WARM_UP, median};
use super::{Failure, Skipped};

/// Slices of each kind in a round; even, so that each thread is the only one equally often.
const SLICES: usize = 4;
/// A floor that gains less says that there is no second processor for the second thread; beside it, anything
/// would look good.
const LEAST_FLOOR_GAIN: f64 = 1.2;
/// Bare calls never sleep, so threads without a processor are waiting for other work on the machine. Two that
/// seldom run at the same moment seldom get into each other's way, whatever they do.
const LEAST_SHARE: f64 = 0.9;

/// What came out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gains {
    /// Times are those of a call while both threads run, the ratio is that of the gains.
    pub(super) figures: Figures,
    pub(super) gain: f64,
    pub(super) floor_gain: f64,
    /// Calls a second, of one thread and of two.
    pub(super) rates: [f64; 2],
    pub(super) floor_rates: [f64; 2],
}

/// Sums over the slices of a round.
#[derive(Clone, Copy, Default)]
struct Tally {
    alone: Slice,
    both: [Slice; 2],
}

impl Tally {
    fn add(&mut self, slices: &[Slice]) {
        match slices {
            [one] => add(&mut self.alone, one),
            _ => self.both.iter_mut().zip(slices).for_each(|(sum, slice)| add(sum, slice)),
        }
    }

    /// Calls a second of one thread, and of both together.
    fn rates(&self) -> [f64; 2] {
        [rate(&self.alone), self.both.iter().map(rate).sum()]
    }
}

fn add(sum: &mut Slice, slice: &Slice) {
    sum.calls += slice.calls;
    sum.time += slice.time;
    sum.processor += slice.processor;
}

fn rate(slice: &Slice) -> f64 {
    slice.calls as f64 / slice.time.as_secs_f64()
}

/// Runs `rounds` rounds.
pub(super) fn in_turns(crew: &mut dyn Crew, rounds: u32) -> Result<Gains, Failure> {
    let begin = Instant::now();
    while begin.elapsed() < 2 * WARM_UP {
        crew.run(What::Op, &[0, 1])?;
        crew.run(What::Floor, &[0, 1])?;
    }
    let rounds = (0..rounds).map(|_| round(crew)).collect::<Result<Vec<_>, _>>()?;
    summary(&rounds)
}

/// How much of the time the two threads had a processor each.
fn share(both: &[Slice; 2]) -> f64 {
    let part = |slice: &Slice| slice.processor.as_secs_f64() / slice.time.as_secs_f64();
    both.iter().map(part).sum::<f64>() / 2.0
}

/// One round.
struct Round {
    op: [f64; 2],
    floor: [f64; 2],
    /// Of the floor's two threads.
    share: f64,
}

fn round(crew: &mut dyn Crew) -> Result<Round, Failure> {
    let (mut op, mut floor) = (Tally::default(), Tally::default());
    for slice in 0..SLICES {
        let alone: &[usize] = if slice % 2 == 0 { &[0] } else { &[1] };
        let mut turns =
            [(What::Op, alone), (What::Floor, alone), (What::Op, &[0, 1]), (What::Floor, &[0, 1])];
        // Each follows each other kind now and then: none always finds the caches of the same one.
        turns.rotate_left(slice % 4);
        for (what, who) in turns {
            let slices = crew.run(what, who)?;
            if slices.len() != who.len() || slices.iter().any(|slice| slice.time == Duration::ZERO) {
                return Err("a thread has not worked".into());
            }
            match what {
                What::Op => op.add(&slices),
                What::Floor => floor.add(&slices),
            }
        }
    }
    Ok(Round { op: op.rates(), floor: floor.rates(), share: share(&floor.both) })
}

fn summary(rounds: &[Round]) -> Result<Gains, Failure> {
    let each = |figure: &dyn Fn(&Round) -> f64| rounds.iter().map(figure).collect::<Vec<f64>>();
    let middle = |figure: &dyn Fn(&Round) -> f64| median(&mut each(figure));
    let gain = |[one, two]: [f64; 2]| two / one;
    let ns = |[_, two]: [f64; 2]| 2e9 / two;
    let share = middle(&|round| round.share);
    if share < LEAST_SHARE {
        let reason = format!("two threads had a processor each for only {:.0} % of the time", 100.0 * share);
        return Err(Skipped(reason).into());
    }
    let floor_gain = middle(&|round| gain(round.floor));
    if floor_gain < LEAST_FLOOR_GAIN {
        let reason = format!("a second thread brings bare calls only {floor_gain:.2} times as far here");
        return Err(Skipped(reason).into());
    }
    Ok(Gains {
        figures: Figures::of(
            &mut each(&|round| ns(round.op)),
            &mut each(&|round| ns(round.floor)),
            &mut each(&|round| gain(round.op) / gain(round.floor)),
        ),
        gain: middle(&|round| gain(round.op)),
        floor_gain,
        rates: [middle(&|round| round.op[0]), middle(&|round| round.op[1])],
        floor_rates: [middle(&|round| round.floor[0]), middle(&|round| round.floor[1])],
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Threads that exist in a table only: nanoseconds a call, alone and beside the other, of the operation
    /// and of the floor. Every so often a slice is disturbed and takes ten times as long.
    struct Table {
        op: [u64; 2],
        floor: [u64; 2],
        disturbed: bool,
        /// How much of a processor each gets, in percent.
        percent: u32,
        runs: u64,
    }

    impl Crew for Table {
        fn run(&mut self, what: What, who: &[usize]) -> Result<Vec<Slice>, Failure> {
            self.runs += 1;
            let slow = if self.disturbed && self.runs % 100 < 9 { 10 } else { 1 };
            let cost = if what == What::Op { self.op } else { self.floor }[who.len() - 1];
            let time = Duration::from_nanos(1000 * cost * slow);
            let slice = Slice { calls: 1000, time, processor: time * self.percent / 100 };
            Ok(vec![slice; who.len()])
        }
    }

    fn gains(op: [u64; 2], floor: [u64; 2], disturbed: bool) -> Result<Gains, Failure> {
        of(Table { op, floor, disturbed, percent: 100, runs: 0 })
    }

    fn of(mut table: Table) -> Result<Gains, Failure> {
        // Without the warming up, which goes by the real clock.
        let rounds: Vec<Round> = (0..15).map(|_| round(&mut table).unwrap()).collect();
        summary(&rounds)
    }

    fn near(value: f64, expected: f64) -> bool {
        (value / expected - 1.0).abs() < 0.001
    }

    #[test]
    fn the_ratio_is_that_of_the_gains_and_survives_disturbed_slices() {
        for disturbed in [false, true] {
            // Two threads: 1.5 times the calls of one; the floor: 2 times.
            let gains = gains([300, 400], [100, 100], disturbed).unwrap();
            assert!(near(gains.gain, 1.5) && near(gains.floor_gain, 2.0), "{gains:?}");
            assert!(near(gains.figures.ratio, 0.75), "{gains:?}");
            assert!(near(gains.figures.ns, 400.0) && near(gains.figures.floor_ns, 100.0), "{gains:?}");
            assert!(near(gains.rates[0], 1e9 / 300.0) && near(gains.rates[1], 2e9 / 400.0), "{gains:?}");
            assert_eq!(
                disturbed,
                gains.figures.ratio_low < 0.7 || gains.figures.ratio_high > 0.8,
                "{gains:?}"
            );
        }
    }

    #[test]
    fn an_operation_whose_threads_wait_for_each_other_gains_nothing() {
        let gains = gains([300, 600], [100, 110], false).unwrap();
        assert!(near(gains.gain, 1.0) && near(gains.figures.ratio, 0.55), "{gains:?}");
    }

    #[test]
    fn a_floor_that_gains_nothing_is_no_measure() {
        let failure = gains([300, 600], [100, 200], false).unwrap_err();
        assert!(failure.downcast_ref::<Skipped>().is_some(), "{failure}");
    }

    #[test]
    fn threads_that_seldom_run_together_are_no_measure() {
        let table = |percent| Table { op: [300, 310], floor: [100, 100], disturbed: false, percent, runs: 0 };
        assert!(of(table(95)).is_ok());
        assert!(of(table(80)).unwrap_err().is::<Skipped>());
    }

    #[test]
    fn a_thread_that_does_not_answer_is_an_error() {
        struct Lazy;
        impl Crew for Lazy {
            fn run(&mut self, _: What, _: &[usize]) -> Result<Vec<Slice>, Failure> {
                Ok(vec![Slice { calls: 1, time: Duration::from_nanos(1), ..Slice::default() }])
            }
        }
        assert!(round(&mut Lazy).is_err());
    }
}

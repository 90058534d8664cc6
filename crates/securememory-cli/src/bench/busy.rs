//! What an operation costs while another thread of the process computes, against its cost alone; and what the
//! bare pair of protection changes costs in the same two conditions, in the same rounds.
//!
//! A protection change interrupts every processor on which the process runs at that moment: it is cheap in a
//! benchmark with one thread, and dear in a program with several.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::measure::{Batch, Clock, Figures, SLICES, calibrate, per_call, processor_time, time};
use super::{Failure, Skipped};

/// How long the other thread may take to begin.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Burden {
    /// Of the operation beside a computing thread (`ns`) and alone (`floor_ns`).
    pub(super) op: Figures,
    /// The same of the bare pair.
    pub(super) pair: Figures,
}

/// How long the other thread was to compute, and for how long it had a processor.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    wall: Duration,
    processor: Duration,
}

/// The other thread.
pub(super) trait Neighbour {
    /// Returns when it computes.
    fn begin(&mut self) -> Result<(), Failure>;
    /// Returns when it has stopped.
    fn end(&mut self) -> Result<Share, Failure>;
}

/// Runs `rounds` rounds of the operation and the pair, alone and beside the neighbour.
pub(super) fn in_turns(
    op: &mut Batch,
    pair: &mut Batch,
    neighbour: &mut dyn Neighbour,
    rounds: u32,
) -> Result<Burden, Failure> {
    let origin = Instant::now();
    in_turns_by(&|| origin.elapsed(), op, pair, neighbour, rounds)
}

fn in_turns_by(
    clock: Clock,
    op: &mut Batch,
    pair: &mut Batch,
    neighbour: &mut dyn Neighbour,
    rounds: u32,
) -> Result<Burden, Failure> {
    let counts = [calibrate(clock, op)?, calibrate(clock, pair)?];
    let mut share = Share::default();
    let (mut op_rounds, mut pair_rounds) = (Rounds::default(), Rounds::default());
    for _ in 0..rounds {
        // Of the operation and of the pair, alone and beside the other.
        let (mut alone, mut beside) = ([Duration::ZERO; 2], [Duration::ZERO; 2]);
        for slice in 0..SLICES {
            // Who goes first changes from slice to slice.
            for computing in [slice % 2 == 0, slice % 2 != 0] {
                let sums = if computing { &mut beside } else { &mut alone };
                if computing {
                    neighbour.begin()?;
                }
                sums[0] += time(clock, op, counts[0])?;
                sums[1] += time(clock, pair, counts[1])?;
                if computing {
                    let part = neighbour.end()?;
                    share.wall += part.wall;
                    share.processor += part.processor;
                }
            }
        }
        op_rounds.push(beside[0], alone[0], counts[0]);
        pair_rounds.push(beside[1], alone[1], counts[1]);
    }
    if share.processor * 2 < share.wall {
        let percent = 100.0 * share.processor.as_secs_f64() / share.wall.as_secs_f64();
        let reason = format!("the other thread had a processor for only {percent:.0} % of the time");
        return Err(Skipped(reason).into());
    }
    Ok(Burden { op: op_rounds.figures(), pair: pair_rounds.figures() })
}

#[derive(Default)]
struct Rounds {
    beside: Vec<f64>,
    alone: Vec<f64>,
    ratios: Vec<f64>,
}

impl Rounds {
    fn push(&mut self, beside: Duration, alone: Duration, count: u64) {
        let (beside, alone) = (per_call(beside, count), per_call(alone, count));
        self.beside.push(beside);
        self.alone.push(alone);
        self.ratios.push(beside / alone);
    }

    fn figures(mut self) -> Figures {
        Figures::of(&mut self.beside, &mut self.alone, &mut self.ratios)
    }
}

/// A thread that does arithmetic in registers, and sleeps in between.
pub(super) struct Computing {
    shared: Arc<Shared>,
    /// `None` only while it is being ended.
    orders: Option<Sender<()>>,
    done: Receiver<Share>,
    thread: Option<JoinHandle<()>>,
}

/// Written when it begins and ends, and only read in between: no line of memory goes back and forth.
#[derive(Default)]
#[repr(align(128))]
struct Shared {
    stop: AtomicBool,
    runs: AtomicBool,
}

impl Computing {
    pub(super) fn start() -> Result<Self, Failure> {
        let shared = Arc::new(Shared::default());
        let (orders, inbox) = channel();
        let (outbox, done) = channel();
        let with = Arc::clone(&shared);
        let thread = std::thread::Builder::new().spawn(move || {
            for () in inbox {
                if outbox.send(compute(&with)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { shared, orders: Some(orders), done, thread: Some(thread) })
    }
}

/// Computes until told to stop.
fn compute(shared: &Shared) -> Share {
    let (begin, processor) = (Instant::now(), processor_time());
    shared.runs.store(true, Ordering::Release);
    let mut number = 1u64;
    while !shared.stop.load(Ordering::Acquire) {
        for _ in 0..256 {
            number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).rotate_left(17) | 1;
        }
        number = std::hint::black_box(number);
    }
    shared.runs.store(false, Ordering::Release);
    Share { wall: begin.elapsed(), processor: processor_time().saturating_sub(processor) }
}

impl Neighbour for Computing {
    fn begin(&mut self) -> Result<(), Failure> {
        self.shared.stop.store(false, Ordering::Release);
        let orders = self.orders.as_ref().ok_or("the other thread has ended")?;
        orders.send(()).map_err(|_| "the other thread has ended")?;
        let begin = Instant::now();
        // Awake, so that the other thread is given another processor than ours.
        while !self.shared.runs.load(Ordering::Acquire) {
            std::hint::spin_loop();
            if begin.elapsed() > PATIENCE {
                return Err("the other thread did not begin".into());
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<Share, Failure> {
        self.shared.stop.store(true, Ordering::Release);
        Ok(self.done.recv()?)
    }
}

impl Drop for Computing {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    /// A machine that exists in numbers only.
    #[derive(Default)]
    struct Machine {
        now: Cell<Duration>,
        computing: Cell<bool>,
        slices: Cell<u32>,
    }

    struct Fake {
        machine: Rc<Machine>,
        since: Duration,
        /// How much of a processor it gets, in percent.
        percent: u32,
    }

    impl Neighbour for Fake {
        fn begin(&mut self) -> Result<(), Failure> {
            assert!(!self.machine.computing.replace(true), "begun twice");
            self.since = self.machine.now.get();
            Ok(())
        }

        fn end(&mut self) -> Result<Share, Failure> {
            assert!(self.machine.computing.replace(false), "ended twice");
            let wall = self.machine.now.get() - self.since;
            Ok(Share { wall, processor: wall * self.percent / 100 })
        }
    }

    /// Runs an operation and a pair of these costs, alone and beside the other.
    fn burden(op: [u64; 2], pair: [u64; 2], percent: u32, disturbed: bool) -> Result<Burden, Failure> {
        let machine = Rc::new(Machine::default());
        let batch = |[alone, beside]: [u64; 2]| -> Batch {
            let machine = Rc::clone(&machine);
            Box::new(move |count| {
                machine.slices.set(machine.slices.get() + 1);
                let slow = if disturbed && machine.slices.get() % 200 < 20 { 10 } else { 1 };
                let cost = if machine.computing.get() { beside } else { alone };
                machine.now.set(machine.now.get() + Duration::from_nanos(cost * count * slow));
                Ok(())
            })
        };
        let (mut op, mut pair) = (batch(op), batch(pair));
        let mut fake = Fake { machine: Rc::clone(&machine), since: Duration::ZERO, percent };
        in_turns_by(&|| machine.now.get(), &mut op, &mut pair, &mut fake, 15)
    }

    fn near(value: f64, expected: f64) -> bool {
        (value / expected - 1.0).abs() < 0.001
    }

    #[test]
    fn each_is_held_against_itself_alone() {
        for disturbed in [false, true] {
            let burden = burden([400, 440], [1000, 5000], 100, disturbed).unwrap();
            assert!(near(burden.op.ratio, 1.1) && near(burden.pair.ratio, 5.0), "{burden:?}");
            assert!(near(burden.op.ns, 440.0) && near(burden.op.floor_ns, 400.0), "{burden:?}");
            assert!(near(burden.pair.ns, 5000.0) && near(burden.pair.floor_ns, 1000.0), "{burden:?}");
        }
    }

    #[test]
    fn a_neighbour_without_a_processor_is_no_neighbour() {
        let failure = burden([400, 400], [1000, 1000], 40, false).unwrap_err();
        assert!(failure.downcast_ref::<Skipped>().is_some(), "{failure}");
    }

    #[test]
    fn the_real_neighbour_computes_between_begin_and_end_only() {
        let mut other = Computing::start().unwrap();
        for _ in 0..3 {
            assert!(!other.shared.runs.load(Ordering::Acquire));
            other.begin().unwrap();
            assert!(other.shared.runs.load(Ordering::Acquire));
            std::thread::sleep(Duration::from_millis(20));
            let share = other.end().unwrap();
            assert!(share.wall >= Duration::from_millis(20) && share.processor > Duration::ZERO, "{share:?}");
        }
    }
}

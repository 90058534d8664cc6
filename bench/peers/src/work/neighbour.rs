//! A thread of the same process that does arithmetic in registers, and sleeps in between.
//!
//! A protection change interrupts every processor on which the process runs at that moment: cheap in a program with
//! one thread, dear in one with several.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::Failure;

/// How long it may take to begin.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct Neighbour {
    shared: Arc<Shared>,
    orders: Sender<()>,
    done: Receiver<f64>,
}

/// Written when it begins and ends, and only read in between: no line of memory goes back and forth.
#[derive(Default)]
#[repr(align(128))]
struct Shared {
    stop: AtomicBool,
    runs: AtomicBool,
}

impl Neighbour {
    pub fn start() -> Result<Self, Failure> {
        let shared = Arc::new(Shared::default());
        let (orders, inbox) = channel();
        let (outbox, done) = channel();
        let with = Arc::clone(&shared);
        std::thread::Builder::new().spawn(move || {
            for () in inbox {
                if outbox.send(compute(&with)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { shared, orders, done })
    }

    /// Returns when it computes.
    pub fn begin(&self) -> Result<(), Failure> {
        self.shared.stop.store(false, Ordering::Release);
        self.orders.send(())?;
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

    /// Returns when it has stopped; the part of the time for which it had a processor.
    pub fn end(&self) -> Result<f64, Failure> {
        self.shared.stop.store(true, Ordering::Release);
        Ok(self.done.recv()?)
    }
}

/// Computes until told to stop.
fn compute(shared: &Shared) -> f64 {
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
    (processor_time().saturating_sub(processor)).as_secs_f64() / begin.elapsed().as_secs_f64()
}

/// For how long the calling thread has had a processor.
pub fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

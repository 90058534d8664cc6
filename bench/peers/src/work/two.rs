//! Two threads that read, one of them alone or both at the same time.
//!
//! They are there from before anything is timed until the end, so that a process with one busy thread and one with
//! two differ in nothing else. Each counts what it does within a fixed time by a clock of its own.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::Turns;
use super::neighbour::processor_time;
use crate::Failure;
use crate::peer::{Peer, look_at};

/// Calls between two looks at the clock.
const CALLS: u64 = 32;
/// How long a thread may take to get ready.
const PATIENCE: Duration = Duration::from_secs(5);

pub fn reader<P: Peer>(shared: Arc<P::Shared>) -> Turns {
    again(move || P::read_shared(&shared, look_at))
}

pub fn again<T>(mut once: impl FnMut() -> Result<T, Failure> + Send + 'static) -> Turns {
    Box::new(move |count| {
        for _ in 0..count {
            black_box(once()?);
        }
        Ok(())
    })
}

/// Calls a second, and the part of the time in which the thread had a processor.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub calls: f64,
    pub share: f64,
}

pub struct Crew(Vec<Worker>);

struct Worker {
    orders: Sender<(Duration, Arc<AtomicUsize>)>,
    /// A failure as text: errors need not be fit for another thread.
    done: Receiver<Result<Rate, String>>,
}

impl Crew {
    pub fn start(parts: [Turns; 2]) -> Result<Self, Failure> {
        Ok(Self(parts.into_iter().map(Worker::start).collect::<Result<_, _>>()?))
    }

    /// The threads of these numbers, all at the same time.
    pub fn run(&self, who: &[usize], window: Duration) -> Result<Vec<Rate>, Failure> {
        let start = Arc::new(AtomicUsize::new(who.len()));
        let workers: Vec<&Worker> = who.iter().filter_map(|&index| self.0.get(index)).collect();
        for worker in &workers {
            worker.orders.send((window, Arc::clone(&start))).map_err(|_| "the thread has ended")?;
        }
        // All answers, also after a failure, or the next turn would find those of this one.
        let answers: Vec<_> = workers.iter().map(|worker| worker.done.recv()).collect();
        answers.into_iter().map(|answer| Ok(answer??)).collect()
    }
}

impl Worker {
    fn start(mut turns: Turns) -> Result<Self, Failure> {
        let (orders, inbox) = channel::<(Duration, Arc<AtomicUsize>)>();
        let (outbox, done) = channel();
        std::thread::Builder::new().spawn(move || {
            for (window, start) in inbox {
                let rate = together(&start).and_then(|()| count(window, &mut turns));
                if outbox.send(rate.map_err(|failure| failure.to_string())).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { orders, done })
    }
}

/// Waits awake until all have come: a thread that has to be woken begins too late.
fn together(start: &AtomicUsize) -> Result<(), Failure> {
    start.fetch_sub(1, Ordering::AcqRel);
    let begin = Instant::now();
    while start.load(Ordering::Acquire) != 0 {
        std::hint::spin_loop();
        if begin.elapsed() > PATIENCE {
            return Err("the other thread did not begin".into());
        }
    }
    Ok(())
}

/// Counts calls until the window has passed.
fn count(window: Duration, turns: &mut Turns) -> Result<Rate, Failure> {
    let (processor, begin) = (processor_time(), Instant::now());
    let mut calls = 0;
    let time = loop {
        turns(CALLS)?;
        calls += CALLS;
        let time = begin.elapsed();
        if time >= window {
            break time;
        }
    };
    let processor = processor_time().saturating_sub(processor);
    Ok(Rate { calls: calls as f64 / time.as_secs_f64(), share: processor.as_secs_f64() / time.as_secs_f64() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_those_that_are_asked_work_and_a_failure_is_told() {
        let part = |fails: bool| again(move || if fails { Err("no".into()) } else { Ok(()) });
        let crew = Crew::start([part(false), part(true)]).unwrap();
        let window = Duration::from_millis(1);
        let rates = crew.run(&[0], window).unwrap();
        assert!(rates.len() == 1 && rates[0].calls > 0.0, "{rates:?}");
        assert!(crew.run(&[0, 1], window).is_err());
        assert!(crew.run(&[0], window).is_ok());
    }

    #[test]
    fn calls_are_counted_against_the_time_they_took() {
        let crew = Crew::start([
            again(|| {
                std::thread::sleep(Duration::from_micros(100));
                Ok(())
            }),
            again(|| Ok(())),
        ])
        .unwrap();
        let rates = crew.run(&[0, 1], Duration::from_millis(20)).unwrap();
        assert!(rates[0].calls < 10_000.0, "{rates:?}");
        assert!(rates[1].calls > rates[0].calls, "{rates:?}");
    }
}

//! Two threads that do the same work, alone or at the same time.
//!
//! They are there from before anything is timed until the end, so that a process with one busy thread and
//! one with two differ in nothing else. Each counts what it does within a fixed time by a clock of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Failure;
use super::measure::{Clock, processor_time};

/// How long a slice takes: long against the moment by which one thread may begin after the other.
const WINDOW: Duration = Duration::from_millis(6);
/// Calls between two looks at the clock.
const CALLS: u64 = 64;
/// How long a thread may take to get ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// Does the thing so many times, on whatever thread.
pub(super) type Work = Box<dyn FnMut(u64) -> Result<(), Failure> + Send>;

/// What one thread does.
pub(super) struct Part {
    pub(super) op: Work,
    pub(super) floor: Work,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Op,
    Floor,
}

/// What a thread has done in a slice.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slice {
    pub(super) calls: u64,
    pub(super) time: Duration,
    /// The part of the time in which it had a processor.
    pub(super) processor: Duration,
}

/// Runs slices on threads, which are numbered 0 and 1.
pub(super) trait Crew {
    /// A slice on each of these threads, all at the same time.
    fn run(&mut self, what: What, who: &[usize]) -> Result<Vec<Slice>, Failure>;
}

/// The real two.
pub(super) struct Threads(Vec<Worker>);

struct Worker {
    /// `None` only while it is being ended.
    orders: Option<Sender<(What, Arc<Start>)>>,
    /// A failure as text: errors need not be fit for another thread.
    done: Receiver<Result<Slice, String>>,
    thread: Option<JoinHandle<()>>,
}

impl Threads {
    pub(super) fn start(parts: [Part; 2]) -> Result<Self, Failure> {
        let workers = parts.into_iter().map(Worker::start).collect::<Result<_, _>>()?;
        Ok(Self(workers))
    }
}

impl Crew for Threads {
    fn run(&mut self, what: What, who: &[usize]) -> Result<Vec<Slice>, Failure> {
        let workers: Vec<&Worker> = who.iter().filter_map(|&index| self.0.get(index)).collect();
        let start = Arc::new(Start(AtomicUsize::new(workers.len())));
        for worker in &workers {
            let orders = worker.orders.as_ref().ok_or("the thread has ended")?;
            orders.send((what, Arc::clone(&start))).map_err(|_| "the thread has ended")?;
        }
        // All answers, also after a failure, or the next slice would find those of this one.
        let answers: Vec<_> = workers.iter().map(|worker| worker.done.recv()).collect();
        answers.into_iter().map(|answer| Ok(answer??)).collect()
    }
}

impl Worker {
    fn start(mut part: Part) -> Result<Self, Failure> {
        let (orders, inbox) = channel::<(What, Arc<Start>)>();
        let (outbox, done) = channel();
        let thread = std::thread::Builder::new().spawn(move || {
            let origin = Instant::now();
            for (what, start) in inbox {
                let work = match what {
                    What::Op => &mut part.op,
                    What::Floor => &mut part.floor,
                };
                let slice = start.wait().and_then(|()| count(&|| origin.elapsed(), &processor_time, work));
                if outbox.send(slice.map_err(|failure| failure.to_string())).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { orders: Some(orders), done, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it has been seen as a missing answer.
            let _ = thread.join();
        }
    }
}

/// Lets the threads of a slice begin together: how many are still to come.
struct Start(AtomicUsize);

impl Start {
    /// Waits awake: a thread that has to be woken begins too late.
    fn wait(&self) -> Result<(), Failure> {
        self.0.fetch_sub(1, Ordering::AcqRel);
        let begin = Instant::now();
        for looks in 1u32.. {
            if self.0.load(Ordering::Acquire) == 0 {
                return Ok(());
            }
            std::hint::spin_loop();
            if looks % 1024 == 0 {
                // There may be fewer processors free than threads.
                std::thread::yield_now();
                if begin.elapsed() > PATIENCE {
                    break;
                }
            }
        }
        Err("the other thread did not begin".into())
    }
}

/// Counts calls until the window has passed.
fn count(clock: Clock, processor: Clock, work: &mut Work) -> Result<Slice, Failure> {
    let (processor_begin, begin) = (processor(), clock());
    let mut slice = Slice::default();
    while slice.time < WINDOW {
        work(CALLS)?;
        slice.calls += CALLS;
        slice.time = clock().saturating_sub(begin);
    }
    slice.processor = processor().saturating_sub(processor_begin);
    Ok(slice)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Mutex;
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn calls_are_counted_by_the_clock_of_the_thread() {
        let now = Arc::new(AtomicU64::new(0));
        let moved = Arc::clone(&now);
        let mut work: Work = Box::new(move |calls| {
            moved.fetch_add(calls * 500, Ordering::Relaxed);
            Ok(())
        });
        let clock = || Duration::from_nanos(now.load(Ordering::Relaxed));
        let slice = count(&clock, &|| clock() / 4, &mut work).unwrap();
        assert_eq!(slice.processor, slice.time / 4);
        assert_eq!(slice.time, Duration::from_nanos(slice.calls * 500));
        assert!(slice.time >= WINDOW && slice.time < WINDOW + Duration::from_nanos(CALLS * 500), "{slice:?}");
    }

    #[test]
    fn only_the_threads_that_are_asked_work_and_do_what_they_are_asked() {
        let notes = Arc::new(Mutex::new(Vec::new()));
        let part = |index| {
            let work = |what| -> Work {
                let notes = Arc::clone(&notes);
                Box::new(move |_| {
                    std::thread::sleep(Duration::from_millis(1));
                    notes.lock().unwrap().push((index, what));
                    Ok(())
                })
            };
            Part { op: work(What::Op), floor: work(What::Floor) }
        };
        let mut crew = Threads::start([part(0), part(1)]).unwrap();
        for asked in [(0, What::Op), (1, What::Op), (1, What::Floor)] {
            assert_eq!(crew.run(asked.1, &[asked.0]).unwrap().len(), 1);
            let noted: Vec<_> = notes.lock().unwrap().drain(..).collect();
            assert!(!noted.is_empty() && noted.iter().all(|note| *note == asked), "{asked:?}: {noted:?}");
        }
    }

    #[test]
    fn two_threads_work_at_the_same_time() {
        let inside = Arc::new(AtomicUsize::new(0));
        // Each stays in its first call until the other is in its own: one after the other, neither came out.
        let work = || -> Work {
            let inside = Arc::clone(&inside);
            let mut first = true;
            Box::new(move |_| {
                if std::mem::take(&mut first) {
                    inside.fetch_add(1, Ordering::SeqCst);
                }
                let begin = Instant::now();
                while inside.load(Ordering::SeqCst) < 2 {
                    std::thread::yield_now();
                    if begin.elapsed() > PATIENCE {
                        return Err("alone".into());
                    }
                }
                Ok(())
            })
        };
        let part = || Part { op: work(), floor: Box::new(|_| Ok(())) };
        let mut crew = Threads::start([part(), part()]).unwrap();
        assert_eq!(crew.run(What::Op, &[0, 1]).unwrap().len(), 2);
    }

    #[test]
    fn a_failure_in_a_thread_ends_the_run() {
        let part = |fails: bool| {
            let work = move || -> Work { Box::new(move |_| if fails { Err("no".into()) } else { Ok(()) }) };
            Part { op: work(), floor: work() }
        };
        let mut crew = Threads::start([part(false), part(true)]).unwrap();
        assert!(crew.run(What::Op, &[0, 1]).is_err());
        assert!(crew.run(What::Op, &[0]).is_ok());
    }
}

//! How far the run is, for those who watch: on standard error, never in the report.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use super::order::Progress;

/// Lines that are kept follow each other this slowly.
const LINE: Duration = Duration::from_secs(10);
/// Characters of the bar.
const BAR: u64 = 30;

/// Shows it.
pub struct Meter {
    seconds: u64,
    terminal: bool,
    last: Instant,
}

impl Meter {
    /// For a run of so many seconds.
    pub fn new(seconds: u64) -> Self {
        Self { seconds, terminal: io::stderr().is_terminal(), last: Instant::now() }
    }

    /// A new state.
    pub fn show(&mut self, progress: &Progress) {
        if self.terminal {
            eprint!("\r{}", bar(progress, self.seconds));
        } else if self.last.elapsed() >= LINE {
            self.last = Instant::now();
            eprintln!("{}", line(progress, self.seconds));
        }
    }

    /// Makes room for the report.
    pub fn clear(&self) {
        if self.terminal {
            eprint!("\r{:78}\r", "");
        }
    }
}

fn operations(progress: &Progress) -> u64 {
    progress.counts.iter().map(|count| count.done + count.refused).sum()
}

fn rate(progress: &Progress) -> u64 {
    (operations(progress) as f64 / progress.elapsed.as_secs_f64().max(0.001)) as u64
}

fn bar(progress: &Progress, seconds: u64) -> String {
    let done = progress.elapsed.as_millis() as u64;
    let all = seconds.saturating_mul(1000).max(1);
    let percent = (done.saturating_mul(100) / all).min(100);
    let full = percent * BAR / 100;
    let left = all.saturating_sub(done).div_ceil(1000);
    let bar: String = (0..BAR).map(|n| if n < full { '#' } else { '.' }).collect();
    format!("[{bar}] {percent:3} %  {:>9} ops/s  {left:>5} s left", rate(progress))
}

fn line(progress: &Progress, seconds: u64) -> String {
    format!(
        "{} of {seconds} s: {} operations, {} a second",
        progress.elapsed.as_secs(),
        operations(progress),
        rate(progress)
    )
}

#[cfg(test)]
mod tests {
    use super::super::tally::Count;
    use super::*;

    #[test]
    fn percent_rate_and_rest() {
        let counts = vec![Count { done: 900, refused: 100 }, Count { done: 1000, refused: 0 }];
        let progress = Progress { elapsed: Duration::from_millis(2500), counts };
        let bar = bar(&progress, 10);
        assert_eq!(bar, "[#######.......................]  25 %        800 ops/s      8 s left");
        assert_eq!(line(&progress, 10), "2 of 10 s: 2000 operations, 800 a second");
        let late = Progress { elapsed: Duration::from_secs(11), counts: Vec::new() };
        assert!(super::bar(&late, 10).contains("100 %          0 ops/s      0 s left"));
    }
}

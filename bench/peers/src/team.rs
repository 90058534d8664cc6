//! The children of a work, and how each of them ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

use crate::place::Kept;
use crate::work::{Work, limit};
use crate::{Failure, child};

/// This very program, even if another one has been built in its place.
const OURSELVES: &str = "/proc/self/exe";
/// How long a child may take to get ready, and for a turn.
const PATIENCE: Duration = Duration::from_secs(15);
/// For a work that is done once.
const PATIENCE_ONCE: Duration = Duration::from_secs(60);

/// Why there are no more figures of a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "how", content = "why")]
pub enum End {
    /// It cannot be measured here.
    Skipped(String),
    /// By this signal.
    Crashed(String),
    /// It said so, or panicked.
    Failed(String),
    /// It did not answer and was killed.
    Hung,
}

impl End {
    pub fn words(&self) -> String {
        match self {
            Self::Skipped(why) => format!("not measured: {why}"),
            Self::Crashed(signal) => format!("crashed ({signal})"),
            Self::Failed(why) => format!("failed: {why}"),
            Self::Hung => "hung".into(),
        }
    }
}

pub struct Member {
    process: Child,
    orders: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
    /// What it said of how far it came.
    pub so_far: Option<String>,
    /// What it said before the last thing it did.
    pub made: Option<String>,
}

impl Member {
    /// Returns when it is ready, or has ended; of a work that is done once, at once.
    pub fn start(
        entry: usize,
        work: Work,
        pass: usize,
        slice: Duration,
    ) -> Result<Result<Self, End>, Failure> {
        let kept = work.one_thread().then(|| Kept::on(pass)).transpose()?;
        let mut process = Command::new(OURSELVES)
            .args([child::WORD, &entry.to_string(), &work.id(), &slice.as_micros().to_string()])
            // To print a backtrace takes memory, which is just what some of them have run out of.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        drop(kept);
        let (Some(out), Some(mut error)) = (process.stdout.take(), process.stderr.take()) else {
            return Err("a child without pipes".into());
        };
        let orders = process.stdin.take();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = error.read_to_string(&mut text);
            text
        });
        let mut member = Self { process, orders, lines, errors: Some(errors), so_far: None, made: None };
        if work.in_turns() {
            match member.line(PATIENCE) {
                Ok(line) if line == child::READY => {}
                Ok(line) => return Ok(Err(member.end_saying(&line))),
                Err(end) => return Ok(Err(end)),
            }
        }
        Ok(Ok(member))
    }

    /// One turn, and its figures.
    pub fn turn(&mut self) -> Result<Vec<f64>, End> {
        if let Some(orders) = &mut self.orders {
            // A child that is gone is found out when it does not answer.
            let _ = orders.write_all(b"go\n").and_then(|()| orders.flush());
        }
        let line = self.line(PATIENCE)?;
        let figures: Result<Vec<f64>, _> = line.split(' ').map(str::parse).collect();
        figures.map_err(|_| self.end_saying(&line))
    }

    /// What comes out of a work that is done once.
    pub fn once(&mut self) -> Result<String, End> {
        loop {
            let line = self.line(PATIENCE_ONCE)?;
            if let Some(count) = line.strip_prefix(limit::SO_FAR) {
                self.so_far = Some(count.into());
            } else if let Some(json) = line.strip_prefix(limit::MADE) {
                self.made = Some(json.into());
            } else if let Some(json) = line.strip_prefix(child::DONE) {
                return Ok(json.into());
            } else {
                return Err(self.end_saying(&line));
            }
        }
    }

    fn line(&mut self, patience: Duration) -> Result<String, End> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                let _ = self.process.kill();
                let _ = self.process.wait();
                Err(End::Hung)
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.end()),
        }
    }

    /// It said something else than figures.
    fn end_saying(&mut self, line: &str) -> End {
        if let Some(why) = line.strip_prefix(child::SKIP) {
            return End::Skipped(why.into());
        }
        let why = line.strip_prefix(child::FAIL).unwrap_or(line).to_string();
        match self.end() {
            // A panic in one of its threads says more than what it left behind.
            End::Failed(panic) if panic.starts_with("panic") => End::Failed(panic),
            End::Crashed(signal) => End::Crashed(signal),
            _ => End::Failed(why),
        }
    }

    /// It has closed its output, so it ends, or is about to.
    fn end(&mut self) -> End {
        self.orders = None;
        let Ok(status) = self.process.wait() else { return End::Hung };
        let errors = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        ending(status, &errors)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // It ends when there are no more orders; one that does not is ended.
        self.orders = None;
        let begin = std::time::Instant::now();
        while let Ok(None) = self.process.try_wait() {
            if begin.elapsed() > PATIENCE {
                let _ = self.process.kill();
                let _ = self.process.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn ending(status: ExitStatus, errors: &str) -> End {
    if let Some(signal) = status.signal() {
        return End::Crashed(name(signal));
    }
    if let Some(message) = panic_message(errors) {
        return End::Failed(format!("panic: {message}"));
    }
    let last = errors.lines().last().unwrap_or("it said nothing");
    End::Failed(format!("exit code {}: {last}", status.code().unwrap_or(-1)))
}

/// The line after the one that says where.
fn panic_message(errors: &str) -> Option<&str> {
    errors.lines().skip_while(|line| !line.contains("panicked at")).nth(1)
}

fn name(signal: i32) -> String {
    match signal {
        4 => "SIGILL".into(),
        6 => "SIGABRT".into(),
        7 => "SIGBUS".into(),
        9 => "SIGKILL".into(),
        11 => "SIGSEGV".into(),
        other => format!("signal {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_by_signal_panic_or_code() {
        let panic = "thread 'main' (7) panicked at src/a.rs:1:2:\nno more\nnote: run with ...\n";
        assert_eq!(ending(ExitStatus::from_raw(11), panic).words(), "crashed (SIGSEGV)");
        assert_eq!(ending(ExitStatus::from_raw(101 << 8), panic).words(), "failed: panic: no more");
        assert_eq!(ending(ExitStatus::from_raw(1 << 8), "a\nb\n").words(), "failed: exit code 1: b");
    }
}

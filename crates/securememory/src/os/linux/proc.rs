//! What /proc tells. Every question has the answer "unknown".

use std::fs::File;
use std::io::{ErrorKind, Read};

/// A file of this thread. The one of the process is that of its first thread, and empty once that has ended. Allocates
/// nothing.
macro_rules! own {
    ($name:literal) => {
        [concat!("/proc/thread-self/", $name), concat!("/proc/self/", $name)]
            .iter()
            .find_map(|path| std::fs::File::open(path).ok())
    };
}
pub(super) use own;

/// Lines of a listing, without allocation: it is read where there may be no memory.
pub(super) struct Lines<R> {
    source: R,
    buffer: [u8; LINE],
    /// What has been read and not given yet lies between these two.
    start: usize,
    end: usize,
}

/// Of longer lines, only the beginning is given: what is looked for stands there.
const LINE: usize = 2048;

impl<R: Read> Lines<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, buffer: [0; LINE], start: 0, end: 0 }
    }

    /// The next line; `None` at the end, or where reading fails.
    pub(super) fn next_line(&mut self) -> Option<&str> {
        loop {
            let unread = &self.buffer[self.start..self.end];
            if let Some(len) = unread.iter().position(|&byte| byte == b'\n') {
                let line = self.start..self.start + len;
                self.start += len + 1;
                // Of a name that is not text only the part before it is of use.
                let line = &self.buffer[line];
                return Some(match std::str::from_utf8(line) {
                    Ok(text) => text,
                    Err(error) => std::str::from_utf8(&line[..error.valid_up_to()]).unwrap_or_default(),
                });
            }
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end == LINE {
                // Too long: its beginning stays, its end is skipped over.
                self.end = LINE / 2;
            }
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => return None,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }
}

/// The text of this thread's `status`. proc_pid_status(5).
pub(super) fn status() -> Option<String> {
    own!("status").and_then(whole)
}

/// All of a source as text. Where there is no memory for it, it is unknown: the standard library's own function would end
/// the process, and what is asked for here is asked for while secrets are made.
fn whole(mut source: impl Read) -> Option<String> {
    const STEP: usize = 1024;
    let mut bytes = Vec::new();
    loop {
        bytes.try_reserve(STEP).ok()?;
        let read = bytes.len();
        bytes.resize(read + STEP, 0);
        let more = match source.read(bytes.get_mut(read..)?) {
            Ok(0) => {
                bytes.truncate(read);
                return String::from_utf8(bytes).ok();
            }
            Ok(more) => more,
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(_) => return None,
        };
        bytes.truncate(read + more);
    }
}

/// What follows `name` and a colon in a text of such lines.
pub(super) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// A size with the unit kB, in bytes.
pub(super) fn kilobytes(text: &str) -> Option<u64> {
    text.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The text of a small file, without white space around it.
pub(super) fn text(path: &str) -> Option<String> {
    let mut text = File::open(path).ok().and_then(whole)?;
    text.truncate(text.trim_end().len());
    text.drain(..text.len() - text.trim_start().len());
    Some(text)
}

pub(super) fn number<N: std::str::FromStr>(path: &str) -> Option<N> {
    text(path)?.parse().ok()
}

pub(in crate::os) fn locked_now() -> Option<u64> {
    kilobytes(field(&status()?, "VmLck")?)
}

/// Allocates nothing.
pub(in crate::os) fn threads() -> Option<u64> {
    let mut lines = Lines::new(own!("status")?);
    while let Some(line) = lines.next_line() {
        if let Some(number) = line.strip_prefix("Threads:") {
            return number.trim().parse().ok();
        }
    }
    None
}

pub(in crate::os) fn mapping_limit() -> Option<u64> {
    number("/proc/sys/vm/max_map_count")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let (now, rest) = self.0.split_at(self.1.min(buffer.len()).min(self.0.len()));
            buffer[..now.len()].copy_from_slice(now);
            self.0 = rest;
            Ok(now.len())
        }
    }

    #[test]
    fn lines_come_whole_and_the_beginnings_of_long_ones() {
        let long = "x".repeat(3000);
        let text = format!("first\n\n{long}\nlast\nwithout an end");
        for step in [1, 7, LINE / 2 - 1, LINE / 2, LINE - 1, LINE, 2 * LINE] {
            let mut lines = Lines::new(Slow(text.as_bytes(), step));
            assert_eq!(lines.next_line(), Some("first"));
            assert_eq!(lines.next_line(), Some(""));
            let start = lines.next_line();
            assert!(start.is_some_and(|line| line.len() >= LINE / 2 && long.starts_with(line)), "{start:?}");
            assert_eq!(lines.next_line(), Some("last"));
            assert_eq!(lines.next_line(), None);
        }
        let mut lines = Lines::new(&b"a \xff b\n"[..]);
        assert_eq!(lines.next_line(), Some("a "));
    }

    #[test]
    fn a_text_comes_whole() {
        let text = "x\n".repeat(2000);
        for step in [1, 1000, 1024, 5000] {
            assert_eq!(whole(Slow(text.as_bytes(), step)).as_deref(), Some(&text[..]));
        }
        assert_eq!(whole(&b"\xff"[..]), None);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "VmLckX:\t 1 kB\nVmLck:\t     12 kB\nSeccomp:\t2\n";
        assert_eq!(field(text, "VmLck").and_then(kilobytes), Some(12 * 1024));
        assert_eq!(field(text, "Seccomp"), Some("2"));
        assert_eq!(field(text, "Vm"), None);
        assert_eq!(kilobytes("18446744073709551615 kB"), None);
    }
}

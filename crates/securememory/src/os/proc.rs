//! What /proc tells. Every question has the answer "unknown".

use std::fs;
use std::path::Path;

/// A file of this thread. The one of the process is that of its first thread, and empty once that has ended.
pub(super) fn own(name: &str) -> Option<fs::File> {
    ["/proc/thread-self", "/proc/self"].iter().find_map(|dir| fs::File::open(Path::new(dir).join(name)).ok())
}

/// The text of this thread's `status`. proc_pid_status(5).
pub(super) fn status() -> Option<String> {
    own("status").and_then(|file| std::io::read_to_string(file).ok())
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
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

pub(super) fn number<N: std::str::FromStr>(path: &str) -> Option<N> {
    text(path)?.parse().ok()
}

pub(super) fn locked_now() -> Option<u64> {
    kilobytes(field(&status()?, "VmLck")?)
}

pub(super) fn mapping_limit() -> Option<u64> {
    number("/proc/sys/vm/max_map_count")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "VmLckX:\t 1 kB\nVmLck:\t     12 kB\nSeccomp:\t2\n";
        assert_eq!(field(text, "VmLck").and_then(kilobytes), Some(12 * 1024));
        assert_eq!(field(text, "Seccomp"), Some("2"));
        assert_eq!(field(text, "Vm"), None);
        assert_eq!(kilobytes("18446744073709551615 kB"), None);
    }
}

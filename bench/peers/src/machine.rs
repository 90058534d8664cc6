//! The machine that the figures are of.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub processor: String,
    pub processors: usize,
    /// Does the processor say that it is one of a virtual machine?
    pub r#virtual: bool,
    pub memory_gib: f64,
    pub kernel: String,
    pub date: String,
    pub compiler: &'static str,
}

impl Machine {
    pub fn here() -> Self {
        let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = field(&memory, "MemTotal").and_then(|size| size.strip_suffix("kB")?.trim().parse().ok());
        let uname = rustix::system::uname();
        let (name, release) = (uname.sysname().to_string_lossy(), uname.release().to_string_lossy());
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            processor: field(&text, "model name").unwrap_or(std::env::consts::ARCH).into(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            r#virtual: field(&text, "flags")
                .is_some_and(|flags| flags.split(' ').any(|it| it == "hypervisor")),
            memory_gib: kib.map_or(0.0, |kib: f64| (kib / 104_857.6).round() / 10.0),
            kernel: format!("{name} {release} {}", uname.machine().to_string_lossy()),
            date: date(since),
            compiler: option_env!("PEERS_RUSTC").unwrap_or("rustc of unknown version"),
        }
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.into_iter().find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

/// The day of a time, Gregorian, UTC.
fn date(seconds: u64) -> String {
    // Days since 1 March of the year 0: leap days come last in such years.
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    format!("{:04}-{month:02}-{of_month:02}", era * 400 + year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_767_225_599), "2025-12-31");
        assert_eq!(date(1_767_225_600), "2026-01-01");
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        assert_eq!(field("model\t: 1\nmodel name\t: A B\n", "model name"), Some("A B"));
        assert_eq!(field("model: 1\n", "name"), None);
    }
}

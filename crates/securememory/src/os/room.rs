//! How much of what is limited is left to this process. Every question has the answer "unknown".

use super::proc;
use rustix::process::{Resource, getrlimit};

/// What is in use of something, and what may come to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) in_use: Option<u64>,
    /// The maximum where there is no bound.
    pub(crate) left: Option<u64>,
}

impl Room {
    /// Without a limit there is room however much is in use.
    fn under(limit: Option<u64>, in_use: Option<u64>) -> Self {
        let left = match limit {
            None => Some(u64::MAX),
            Some(limit) => in_use.map(|in_use| limit.saturating_sub(in_use)),
        };
        Self { in_use, left }
    }
}

/// Bytes that may be locked. `RLIMIT_MEMLOCK` in getrlimit(2).
pub(crate) fn locked() -> Room {
    lockable().1
}

/// The same, with the limit where there is one.
pub(crate) fn lockable() -> (Option<u64>, Room) {
    let limit = if super::probe::may_lock_any() { None } else { super::lock_limit() };
    (limit, Room::under(limit, super::locked_now()))
}

/// Mappings. `vm.max_map_count` in proc_sys_vm(5).
pub(crate) fn mappings() -> Room {
    let in_use = super::probe::mappings();
    let left = super::mapping_limit().and_then(|limit| Some(limit.saturating_sub(in_use?)));
    Room { in_use, left }
}

/// Descriptors. `RLIMIT_NOFILE` in getrlimit(2).
pub(crate) fn descriptors() -> Room {
    Room::under(super::descriptor_limit(), super::probe::open_files())
}

/// Bytes of address space. `RLIMIT_AS` in getrlimit(2).
pub(crate) fn address_space() -> Room {
    Room::under(getrlimit(Resource::As).current, size("VmSize"))
}

/// Bytes of writable private memory. `RLIMIT_DATA` in getrlimit(2).
pub(crate) fn data() -> Room {
    Room::under(getrlimit(Resource::Data).current, size("VmData"))
}

/// Bytes that the machine, and the control groups of the second version around this process, have left for
/// its memory: free, or to be had from caches and swap. proc_meminfo(5), cgroups(7).
pub(crate) fn memory() -> Room {
    let machine = proc::text("/proc/meminfo").and_then(|text| {
        let bytes = |name| proc::field(&text, name).and_then(proc::kilobytes);
        bytes("MemAvailable")?.checked_add(bytes("SwapFree").unwrap_or(0))
    });
    let groups = proc::text("/proc/self/cgroup").and_then(|text| groups(&text, proc::text));
    Room { in_use: size("VmRSS"), left: machine.map(|left| left.min(groups.unwrap_or(u64::MAX))) }
}

fn size(name: &str) -> Option<u64> {
    proc::kilobytes(proc::field(&proc::status()?, name)?)
}

/// The least that one of the control groups has left; `None` where none of them has a limit.
fn groups(listing: &str, read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let mut path = listing.lines().find_map(|line| line.strip_prefix("0::"))?.trim_end_matches('/');
    let mut least = None;
    loop {
        let file = |name| read(&format!("/sys/fs/cgroup{path}/{name}"));
        let number = |name| file(name)?.parse::<u64>().ok();
        // Without a limit it says `max`, which is no number.
        if let (Some(limit), Some(current)) = (number("memory.max"), number("memory.current")) {
            let stat = file("memory.stat").unwrap_or_default();
            let cached = |name| {
                let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
                line.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
            };
            let caches = cached("active_file").saturating_add(cached("inactive_file"));
            let left = limit.saturating_sub(current.saturating_sub(caches));
            least = Some(least.map_or(left, |least: u64| least.min(left)));
        }
        let Some((above, _)) = path.rsplit_once('/') else { return least };
        path = above;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn room_is_what_a_limit_leaves() {
        assert_eq!(Room::under(Some(10), Some(4)), Room { in_use: Some(4), left: Some(6) });
        assert_eq!(Room::under(Some(10), Some(14)).left, Some(0));
        assert_eq!(Room::under(Some(10), None).left, None);
        assert_eq!(Room::under(None, None).left, Some(u64::MAX));
    }

    #[test]
    fn the_tightest_group_decides() {
        let files = |path: &str| {
            let text = match path.strip_prefix("/sys/fs/cgroup")? {
                "/a/b/memory.max" => "max",
                "/a/b/memory.current" => "50",
                "/a/memory.max" => "1000",
                "/a/memory.current" => "900",
                "/a/memory.stat" => "anon 700\nfile 300\ninactive_file 30\nactive_file 70",
                "/memory.max" => "2000",
                "/memory.current" => "1500",
                _ => return None,
            };
            Some(text.to_owned())
        };
        assert_eq!(groups("9:memory:/x\n0::/a/b", files), Some(200));
        assert_eq!(groups("0::/", files), Some(500));
        assert_eq!(groups("0::/other", files), Some(500));
        assert_eq!(groups("9:memory:/a", files), None);
        assert_eq!(groups("0::/a/b", |_| None), None);
    }

    #[test]
    fn all_of_it_is_known_where_there_is_proc() {
        for room in [locked(), mappings(), descriptors(), address_space(), data(), memory()] {
            assert!(room.in_use.is_some() && room.left.is_some(), "{room:?}");
        }
    }
}

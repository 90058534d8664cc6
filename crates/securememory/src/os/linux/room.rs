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
    let limit = if super::probe::may_lock_any() { None } else { crate::os::lock_limit() };
    (limit, Room::under(limit, crate::os::locked_now()))
}

/// Mappings. `vm.max_map_count` in proc_sys_vm(5).
pub(crate) fn mappings() -> Room {
    let in_use = super::probe::mappings();
    let left = crate::os::mapping_limit().and_then(|limit| Some(limit.saturating_sub(in_use?)));
    Room { in_use, left }
}

/// Descriptors. `RLIMIT_NOFILE` in getrlimit(2).
pub(crate) fn descriptors() -> Room {
    Room::under(crate::os::descriptor_limit(), super::probe::open_files())
}

/// Bytes of address space. `RLIMIT_AS` in getrlimit(2).
pub(crate) fn address_space() -> Room {
    Room::under(getrlimit(Resource::As).current, size("VmSize"))
}

/// Bytes of writable private memory. `RLIMIT_DATA` in getrlimit(2).
pub(crate) fn data() -> Room {
    Room::under(getrlimit(Resource::Data).current, size("VmData"))
}

/// Bytes that the machine, and the control groups around this process, have left for its memory: free, or to be had from
/// caches and swap. proc_meminfo(5), cgroups(7).
pub(crate) fn memory() -> Room {
    let info = proc::text("/proc/meminfo");
    let machine = info.as_deref().and_then(|text| {
        let bytes = |name| proc::field(text, name).and_then(proc::kilobytes);
        bytes("MemAvailable")?.checked_add(bytes("SwapFree").unwrap_or(0))
    });
    let listing = proc::text("/proc/self/cgroup");
    let listing = listing.as_deref().unwrap_or_default();
    let bounds = [
        groups(listing, &SECOND, proc::text),
        groups(listing, &FIRST, proc::text),
        info.as_deref().and_then(|info| committable(info, proc::text)),
    ];
    let bound = bounds.into_iter().flatten().min().unwrap_or(u64::MAX);
    Room { in_use: size("VmRSS"), left: machine.map(|left| left.min(bound)) }
}

/// What may be promised to this process where the kernel promises no more than there is: `vm.overcommit_memory` is 2. `None`:
/// it is not. proc_sys_vm(5), Documentation/mm/overcommit-accounting.rst.
fn committable(info: &str, read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let number = |name: &str| read(&format!("/proc/sys/vm/{name}"))?.parse::<u64>().ok();
    if number("overcommit_memory")? != 2 {
        return None;
    }
    let bytes = |name| proc::field(info, name).and_then(proc::kilobytes);
    let left = bytes("CommitLimit")?.saturating_sub(bytes("Committed_AS")?);
    // Kept for administrators, and for them to do away with this process.
    let kept = |name| number(name).unwrap_or(0).saturating_mul(1024);
    let own = kept("user_reserve_kbytes").min(size("VmSize").unwrap_or(0) / 32);
    let reserve = if super::probe::is_administrator() { 0 } else { kept("admin_reserve_kbytes") };
    Some(left.saturating_sub(reserve).saturating_sub(own))
}

/// How a version of control groups is laid out.
struct Version {
    /// The path in a line of /proc/self/cgroup.
    path: fn(&str) -> Option<&str>,
    root: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// What of the usage are caches, in `memory.stat`.
    caches: [&'static str; 2],
}

const SECOND: Version = Version {
    path: |line| line.strip_prefix("0::"),
    root: "/sys/fs/cgroup",
    limit: "memory.max",
    usage: "memory.current",
    caches: ["active_file", "inactive_file"],
};

const FIRST: Version = Version {
    path: |line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|one| one == "memory").then_some(path)
    },
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    caches: ["total_active_file", "total_inactive_file"],
};

fn size(name: &str) -> Option<u64> {
    proc::kilobytes(proc::field(&proc::status()?, name)?)
}

/// The least that one of the control groups has left; `None` where none of them has a limit. In a container the path may be that
/// outside of it: then only the last step, the root of what is mounted, is there.
fn groups(listing: &str, version: &Version, read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let mut path = listing.lines().find_map(version.path)?.trim_end_matches('/');
    let mut least = None;
    loop {
        let file = |name| read(&format!("{}{path}/{name}", version.root));
        let number = |name| file(name)?.parse::<u64>().ok();
        // Without a limit it says `max`, which is no number, or names more than any machine has.
        if let (Some(limit), Some(current)) = (number(version.limit), number(version.usage)) {
            let stat = file("memory.stat").unwrap_or_default();
            let cached = |name: &str| {
                let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
                line.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
            };
            let caches = version.caches.into_iter().map(cached).fold(0, u64::saturating_add);
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
        assert_eq!(groups("9:memory:/x\n0::/a/b", &SECOND, files), Some(200));
        assert_eq!(groups("0::/", &SECOND, files), Some(500));
        assert_eq!(groups("0::/other", &SECOND, files), Some(500));
        assert_eq!(groups("9:memory:/a", &SECOND, files), None);
        assert_eq!(groups("0::/a/b", &SECOND, |_| None), None);
    }

    #[test]
    fn groups_of_the_first_version_count_too() {
        let files = |path: &str| {
            let text = match path.strip_prefix("/sys/fs/cgroup/memory")? {
                "/a/memory.limit_in_bytes" => "1000",
                "/a/memory.usage_in_bytes" => "900",
                "/a/memory.stat" => {
                    "cache 300\ninactive_file 9\ntotal_inactive_file 30\ntotal_active_file 70"
                }
                "/memory.limit_in_bytes" => "9223372036854771712",
                "/memory.usage_in_bytes" => "1500",
                _ => return None,
            };
            Some(text.to_owned())
        };
        assert_eq!(groups("3:cpu,memory:/a\n0::/b", &FIRST, files), Some(200));
        let unbounded = 9_223_372_036_854_771_712 - 1500;
        assert_eq!(groups("3:memory:/outside/of/this", &FIRST, files), Some(unbounded));
        assert_eq!(groups("3:cpu:/a\n0::/a", &FIRST, files), None);
    }

    #[test]
    fn strict_accounting_leaves_what_is_not_promised() {
        let info = "MemAvailable: 900 kB\nCommitLimit: 1000 kB\nCommitted_AS: 400 kB\n";
        let under = |mode: &'static str| {
            move |path: &str| match path.strip_prefix("/proc/sys/vm/")? {
                "overcommit_memory" => Some(mode.to_owned()),
                _ => None,
            }
        };
        assert_eq!(committable(info, under("0")), None);
        assert_eq!(committable(info, under("2")), Some(600 * 1024));
        assert_eq!(committable("CommitLimit: 1 kB\nCommitted_AS: 4 kB\n", under("2")), Some(0));
        assert_eq!(committable("", under("2")), None);
    }

    #[test]
    fn all_of_it_is_known_where_there_is_proc() {
        for room in [locked(), mappings(), descriptors(), address_space(), data(), memory()] {
            assert!(room.in_use.is_some() && room.left.is_some(), "{room:?}");
        }
    }
}

//! What a Linux host can do.

use crate::os::capability::{Feature, Host};
use crate::os::{Access, Advice, Call};
use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};
use rustix::thread::CapabilitySet;
use std::fs;
use std::ptr::NonNull;

impl Host {
    /// Tries everything, and undoes it: a page, a descriptor and a protection key are taken for a moment.
    ///
    /// Takes about a millisecond, more in a process with many mappings.
    #[must_use]
    pub fn probe() -> Self {
        let memlock = getrlimit(Resource::Memlock);
        let nofile = getrlimit(Resource::Nofile);
        let status = super::proc::status();
        let field = |name| super::proc::field(status.as_deref()?, name);
        let capabilities = rustix::thread::capabilities(None).ok().map(|sets| sets.effective);
        let pages = Pages::probe();
        Self {
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            kernel: rustix::system::uname().release().to_str().ok().map(str::to_owned),
            page_size: crate::os::page_size(),
            memlock_soft: memlock.current,
            memlock_hard: memlock.maximum,
            locked_now: crate::os::locked_now(),
            memlock_enforced: !may_lock_all(capabilities),
            max_map_count: crate::os::mapping_limit(),
            mappings_now: mappings(),
            nofile_soft: nofile.current,
            nofile_hard: nofile.maximum,
            open_files: open_files(),
            memfd: Feature::of(crate::os::ShareFile::create().and_then(crate::os::ShareFile::close)),
            secretmem: Feature::of(super::secretmem::probe()),
            protection_keys: Feature::of(super::protection_key::probe()),
            guard_advice: pages.guard_advice,
            wipe_on_fork: pages.wipe_on_fork,
            dont_dump: pages.dont_dump,
            lock: pages.lock,
            dumpable: dumpable_behavior().ok().map(|found| found == DumpableBehavior::Dumpable),
            core_pattern: super::proc::text("/proc/sys/kernel/core_pattern"),
            core_limit: getrlimit(Resource::Core).current,
            swap: super::proc::text("/proc/swaps").map(|text| text.lines().count() > 1),
            yama: super::proc::number("/proc/sys/kernel/yama/ptrace_scope"),
            proc_mounted: status.is_some(),
            container: container(),
            seccomp: field("Seccomp").and_then(|text| text.parse().ok()),
            no_new_privs: rustix::thread::no_new_privs().ok(),
            user_id: rustix::process::geteuid().as_raw(),
            capabilities: capabilities.map(|set| set.bits()),
        }
    }
}

/// What one page can be given.
struct Pages {
    guard_advice: Feature,
    wipe_on_fork: Feature,
    dont_dump: Feature,
    lock: Feature,
}

impl Pages {
    fn probe() -> Self {
        let len = crate::os::page_size();
        let nothing = |wait| Self { guard_advice: wait, wipe_on_fork: wait, dont_dump: wait, lock: wait };
        let Ok(page) = crate::os::map(len) else {
            return nothing(Feature::Unknown);
        };
        let found = Self::probe_at(page, len);
        // A page that cannot be given back is lost, and that is all; what was found stays true.
        // SAFETY: mapped above, and no reference to it was made.
        let _ = unsafe { crate::os::unmap(page, len) };
        found
    }

    fn probe_at(page: NonNull<u8>, len: usize) -> Self {
        // SAFETY: one whole page of ours without references, for all calls here. Locked last but one, since
        // guard pages replace what is there.
        unsafe {
            let dont_dump = Feature::of(crate::os::advise(page, len, Advice::DontDump));
            let wipe_on_fork = Feature::of(crate::os::advise(page, len, Advice::WipeOnFork));
            let lock = match crate::os::protect(page, len, Access::ReadWrite) {
                Ok(()) => Feature::of(crate::os::lock(page, len)),
                Err(_) => Feature::Unknown,
            };
            if lock.is_available() && crate::os::unlock(page, len).is_err() {
                // Before Linux 6.15 a locked page takes no guard, so trying would tell nothing.
                return Self { guard_advice: Feature::Unknown, wipe_on_fork, dont_dump, lock };
            }
            let guard_advice = Feature::of(
                crate::os::injected(Call::Madvise).and_then(|()| crate::os::sys::try_guard(page, len)),
            );
            Self { guard_advice, wipe_on_fork, dont_dump, lock }
        }
    }
}

/// Is this process free of the limit on locked memory?
pub(super) fn may_lock_any() -> bool {
    may_lock_all(rustix::thread::capabilities(None).ok().map(|sets| sets.effective))
}

/// May this process have what is kept for administrators?
pub(super) fn is_administrator() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// The kernel asks for the capability in the first user namespace, so one that root has in its own does not
/// count.
fn may_lock_all(capabilities: Option<CapabilitySet>) -> bool {
    let capable = capabilities.is_some_and(|set| set.contains(CapabilitySet::IPC_LOCK));
    let first_namespace = super::proc::text("/proc/self/uid_map")
        .is_none_or(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    capable && first_namespace
}

pub(super) fn mappings() -> Option<u64> {
    let mut lines = super::proc::Lines::new(super::proc::own!("maps")?);
    let mut count = 0;
    while lines.next_line().is_some() {
        count += 1;
    }
    Some(count)
}

pub(super) fn open_files() -> Option<u64> {
    let listed = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    // The listing lists the descriptor that reads it.
    Some(listed.saturating_sub(1))
}

fn container() -> Option<String> {
    let named = std::env::var("container").ok().filter(|name| !name.is_empty());
    let file = |path: &str| fs::exists(path).unwrap_or(false);
    let guess = if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        "kubernetes"
    } else if named.is_some() {
        return named;
    } else if file("/run/.containerenv") {
        "podman"
    } else if file("/.dockerenv") {
        "docker"
    } else {
        let groups = super::proc::text("/proc/1/cgroup")?;
        // Longest-lived hint first: pods run in docker or containerd groups too.
        let known = [("kubepods", "kubernetes"), ("docker", "docker"), ("libpod", "podman"), ("lxc", "lxc")];
        known.iter().find(|(sign, _)| groups.contains(sign))?.1
    };
    Some(guess.to_owned())
}

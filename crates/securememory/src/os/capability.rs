//! What this host can do, found by trying.

use super::{CallError, CallResult};

/// Whether this process can use something of the host, here and now.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// It was tried and works.
    Available,
    /// It was tried and refused.
    Unavailable {
        /// The error number of the call, as in errno(3).
        errno: i32,
    },
    /// It could not be tried, because something else was refused first.
    Unknown,
}

impl Feature {
    /// Was it tried, and does it work?
    #[must_use]
    pub const fn is_available(self) -> bool {
        matches!(self, Self::Available)
    }

    pub(super) fn of<T>(tried: CallResult<T>) -> Self {
        match tried {
            Ok(_) => Self::Available,
            Err(CallError { errno, .. }) => Self::Unavailable { errno },
        }
    }
}

/// The host as this process finds it: limits, protections and what surrounds it.
///
/// Everything is found out anew by each [`Host::probe`]; nothing is read when the library is loaded. `None`
/// means unknown, unless a field says otherwise. Sizes are in bytes.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The operating system, such as `"linux"`.
    pub os: &'static str,
    /// The processor family, such as `"x86_64"`.
    pub arch: &'static str,
    /// The kernel's release, as uname(2) gives it: `"6.18.0"`.
    pub kernel: Option<String>,
    /// Bytes in a page. sysconf(3).
    pub page_size: usize,
    /// Bytes that this process may lock now; `None`: any number. `RLIMIT_MEMLOCK` in getrlimit(2); `ulimit
    /// -l` shows it in KiB.
    pub memlock_soft: Option<u64>,
    /// Bytes up to which it may raise [`memlock_soft`](Self::memlock_soft) itself; `None`: any number.
    pub memlock_hard: Option<u64>,
    /// Bytes locked now in this process. `VmLck` in proc_pid_status(5).
    pub locked_now: Option<u64>,
    /// Does the limit on locked memory bind this process? Not with `CAP_IPC_LOCK` (capabilities(7)), as root
    /// has it; in a user namespace (user_namespaces(7)) that capability is of no use for locking.
    pub memlock_enforced: bool,
    /// Mappings that a process may have. `vm.max_map_count` in proc_sys_vm(5).
    pub max_map_count: Option<u64>,
    /// Mappings that this process has now. proc_pid_maps(5).
    pub mappings_now: Option<u64>,
    /// Descriptors that this process may have now; `None`: any number. `RLIMIT_NOFILE` in getrlimit(2).
    pub nofile_soft: Option<u64>,
    /// Descriptors up to which it may raise [`nofile_soft`](Self::nofile_soft) itself; `None`: any number.
    pub nofile_hard: Option<u64>,
    /// Descriptors that this process has now. proc_pid_fd(5).
    pub open_files: Option<u64>,
    /// Files in memory, with all that a key share needs. memfd_create(2).
    pub memfd: Feature,
    /// Memory that even the kernel does not keep mapped. memfd_secret(2).
    pub secretmem: Feature,
    /// Memory protection keys. pkeys(7).
    pub protection_keys: Feature,
    /// Guard pages that cost no mapping. `MADV_GUARD_INSTALL` in madvise(2), since Linux 6.13.
    pub guard_advice: Feature,
    /// Memory that is zeroes in a forked child. `MADV_WIPEONFORK` in madvise(2).
    pub wipe_on_fork: Feature,
    /// Memory that is not in core dumps. `MADV_DONTDUMP` in madvise(2).
    pub dont_dump: Feature,
    /// Memory that is kept out of swap: one page, in addition to what is locked already. mlock(2).
    pub lock: Feature,
    /// May others of the same user read this process's memory, and may it leave a core dump?
    /// `PR_GET_DUMPABLE` in PR_SET_DUMPABLE(2const).
    pub dumpable: Option<bool>,
    /// Where core dumps go: a file name, or a program after a `|`. core(5).
    pub core_pattern: Option<String>,
    /// The largest core dump, in bytes; zero: none; `None`: any size. `RLIMIT_CORE` in getrlimit(2). A
    /// program behind [`core_pattern`](Self::core_pattern) is not bound by it, except by 1.
    pub core_limit: Option<u64>,
    /// Is there any swap? proc_swaps(5).
    pub swap: Option<bool>,
    /// Who may attach to a process: 0 any process of the same user, 1 its parents only, 2 administrators
    /// only, 3 nobody. `kernel.yama.ptrace_scope` in ptrace(2); `None`: there is no such restriction, or it
    /// is not known.
    pub yama: Option<u8>,
    /// Can /proc be read? Without it many fields here are unknown, and protections cannot be verified.
    pub proc_mounted: bool,
    /// A guess at the container around this process: `"docker"`, `"podman"`, `"kubernetes"`, `"lxc"`, or what
    /// the variable `container` says. `None`: no sign of one.
    pub container: Option<String>,
    /// The filter of system calls: 0 none, 1 strict, 2 a program. `Seccomp` in proc_pid_status(5);
    /// seccomp(2).
    pub seccomp: Option<u8>,
    /// Can this process gain no more rights by running a program? `PR_SET_NO_NEW_PRIVS` in prctl(2).
    pub no_new_privs: Option<bool>,
    /// The effective user. geteuid(2).
    pub user_id: u32,
    /// The effective capabilities of this thread, one bit each. capabilities(7).
    pub capabilities: Option<u64>,
}

impl Host {
    /// The first two numbers of the kernel's release, to be compared: `(6, 18)`.
    pub fn kernel_version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.kernel.as_deref()?.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next()?.parse().ok();
        Some((next()?, next()?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_probe_finds_what_every_kernel_has_and_leaves_nothing() {
        let host = Host::probe();
        assert_eq!(host.os, std::env::consts::OS);
        assert!(host.page_size.is_power_of_two());
        assert!(host.kernel_version() > Some((1, 0)), "{:?}", host.kernel);
        let of = |release: &str| Host { kernel: Some(release.to_owned()), ..host.clone() }.kernel_version();
        assert_eq!((of("6.12.117+deb13-cloud"), of("5.4-rc1")), (Some((6, 12)), Some((5, 4))));
        assert_eq!((of("6"), of("v6.1"), of("6.99999999999"), of("")), (None, None, None, None));
        // What the build has, every kernel has; but Windows before 10 has no such call, nor have its imitations.
        let build = crate::os::Build::HERE;
        assert!(cfg!(windows) || host.memfd.is_available() == build.split, "{host:?}");
        assert!(cfg!(windows) || host.dont_dump.is_available() == build.dont_dump, "{host:?}");
        if host.proc_mounted {
            assert!(host.locked_now.is_some() && host.mappings_now > Some(5) && host.open_files >= Some(3));
            assert!(host.seccomp.is_some() && host.max_map_count.is_some());
        }
    }

    #[cfg(feature = "testing")]
    #[test]
    fn a_refusal_is_reported_with_its_number() {
        use crate::os::inject::{self, Plan};
        use crate::os::{Call, errno};
        let plans = [Call::Mlock, Call::MemfdSecret, Call::PkeyAlloc, Call::MemfdCreate]
            .map(|call| inject::fail(call, Plan::Always { errno: errno::EPERM }));
        let host = Host::probe();
        drop(plans);
        let refused = Feature::Unavailable { errno: errno::EPERM };
        assert_eq!([host.lock, host.secretmem, host.protection_keys, host.memfd], [refused; 4]);
        let _plan = inject::fail(Call::Mmap, Plan::Nth { n: 1, errno: errno::ENOMEM });
        assert_eq!(Host::probe().dont_dump, Feature::Unknown);
    }
}

//! What such a host can do.

// Reason: what a page can be given is found out on one; every block says why it is sound.
#![allow(unsafe_code)]

use super::super::capability::{Feature, Host};
use super::super::{self as os, Access, Advice, Call};
use super::limits;
use std::ffi::CStr;
use std::mem::MaybeUninit;

impl Host {
    /// Tries everything, and undoes it: a page is taken for a moment.
    #[must_use]
    pub fn probe() -> Self {
        let memlock = limits(libc::RLIMIT_MEMLOCK as _);
        let nofile = limits(libc::RLIMIT_NOFILE as _);
        let [guard_advice, wipe_on_fork, dont_dump, lock] = pages();
        // SAFETY: asks for a number.
        let user_id = unsafe { libc::geteuid() };
        Self {
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            kernel: release(),
            page_size: os::page_size(),
            memlock_soft: memlock.0,
            memlock_hard: memlock.1,
            locked_now: os::locked_now(),
            // Of root, too.
            memlock_enforced: true,
            max_map_count: os::mapping_limit(),
            mappings_now: None,
            nofile_soft: nofile.0,
            nofile_hard: nofile.1,
            open_files: None,
            memfd: Feature::of(os::ShareFile::create()),
            secretmem: Feature::of(os::SecretFile::create(os::page_size())),
            protection_keys: Feature::of(os::ProtectionKey::of_process()),
            guard_advice,
            wipe_on_fork,
            dont_dump,
            lock,
            dumpable: os::process::is_dumpable().ok(),
            core_pattern: os::process::core_pattern().ok(),
            core_limit: os::process::core_limits().0,
            swap: None,
            yama: None,
            proc_mounted: false,
            container: None,
            seccomp: None,
            no_new_privs: None,
            user_id,
            capabilities: None,
        }
    }
}

/// What one page can be given: guards, zeros in a child, its absence from dumps, and from swap.
fn pages() -> [Feature; 4] {
    let len = os::page_size();
    let Ok(page) = os::map(len) else { return [Feature::Unknown; 4] };
    // SAFETY: one whole page of ours without references, for all calls here. A page that cannot be given back is lost, and
    // that is all.
    unsafe {
        let dont_dump = Feature::of(os::advise(page, len, Advice::DontDump));
        let wipe_on_fork = Feature::of(os::advise(page, len, Advice::WipeOnFork));
        let lock = match os::protect(page, len, Access::ReadWrite) {
            Ok(()) => Feature::of(os::lock(page, len)),
            Err(_) => Feature::Unknown,
        };
        let _ = os::unlock(page, len);
        let guard = Feature::of(os::injected(Call::Madvise).and_then(|()| super::try_guard(page, len)));
        let _ = os::unmap(page, len);
        [guard, wipe_on_fork, dont_dump, lock]
    }
}

/// The kernel's. uname(3)
fn release() -> Option<String> {
    let mut found = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: written by the call, if it succeeds; its texts end.
    unsafe {
        if libc::uname(found.as_mut_ptr()) != 0 {
            return None;
        }
        let found = found.assume_init();
        CStr::from_ptr(found.release.as_ptr()).to_str().ok().map(str::to_owned)
    }
}

//! What a Windows host can do.

use super::super::capability::{Feature, Host};
use super::super::{Access, Advice, Call, CallError, CallResult, errno, injected};
use super::{Found, find};
use windows_sys::Win32::System::SystemInformation::OSVERSIONINFOW;

impl Host {
    /// Tries everything, and undoes it: a page is taken for a moment.
    #[must_use]
    pub fn probe() -> Self {
        let page_size = super::super::page_size();
        let absent = |call| Feature::of(refused(call));
        let (dont_dump, lock) = page(page_size);
        Self {
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            kernel: version(),
            page_size,
            memlock_soft: super::lock_limit(),
            memlock_hard: None,
            locked_now: super::locked_now(),
            memlock_enforced: true,
            max_map_count: None,
            mappings_now: None,
            nofile_soft: None,
            nofile_hard: None,
            open_files: None,
            memfd: absent(Call::MemfdCreate),
            secretmem: absent(Call::MemfdSecret),
            protection_keys: absent(Call::PkeyAlloc),
            guard_advice: Feature::of::<()>(Err(CallError::new(Call::Madvise, errno::ENOSYS))),
            // There are no forked children.
            wipe_on_fork: Feature::Available,
            dont_dump,
            lock,
            dumpable: None,
            core_pattern: None,
            core_limit: None,
            swap: None,
            yama: None,
            proc_mounted: false,
            container: None,
            seccomp: None,
            no_new_privs: None,
            user_id: 0,
            capabilities: None,
        }
    }
}

fn refused(call: Call) -> CallResult<()> {
    injected(call)?;
    Err(CallError::new(call, errno::ENOSYS))
}

/// What one page can be given: left out of reports, and locked.
fn page(len: usize) -> (Feature, Feature) {
    use super::super::{advise, lock, map, protect, unlock, unmap};
    let Ok(page) = map(len) else { return (Feature::Unknown, Feature::Unknown) };
    // SAFETY: one whole page of ours without references, for all calls here.
    unsafe {
        let dont_dump = Feature::of(advise(page, len, Advice::DontDump));
        let lock = match protect(page, len, Access::ReadWrite) {
            Ok(()) => Feature::of(lock(page, len)),
            Err(_) => Feature::Unknown,
        };
        if lock.is_available() {
            let _ = unlock(page, len);
        }
        // A page that cannot be given back is lost, and that is all.
        let _ = unmap(page, len);
        (dont_dump, lock)
    }
}

/// RtlGetVersion, which tells what is there, whatever versions the program's manifest knows.
fn version() -> Option<String> {
    type Get = unsafe extern "system" fn(*mut OSVERSIONINFOW) -> i32;
    let found = find(Call::Sysconf, b"ntdll.dll\0", b"RtlGetVersion\0").ok()?;
    // SAFETY: the function of that name has this type.
    let get = unsafe { std::mem::transmute::<Found, Get>(found) };
    // SAFETY: numbers, for which zero is right.
    let mut info: OSVERSIONINFOW = unsafe { std::mem::zeroed() };
    info.dwOSVersionInfoSize = size_of::<OSVERSIONINFOW>() as u32;
    // SAFETY: writes one structure of the length that it says, which lives over the call.
    let told = unsafe { get(&raw mut info) } == 0;
    told.then(|| format!("{}.{}.{}", info.dwMajorVersion, info.dwMinorVersion, info.dwBuildNumber))
}

//! Share files against hosts that close, fork, limit and refuse.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::process::Command;

fn read(file: &ShareFile) -> CallResult<[u8; ShareFile::LEN]> {
    let mut bytes = [0; ShareFile::LEN];
    // SAFETY: an array of that many bytes.
    unsafe { ShareFile::read(file.raw_fd(), bytes.as_mut_ptr()).map(|()| bytes) }
}

fn write(file: &ShareFile, bytes: &[u8; ShareFile::LEN]) -> CallResult<()> {
    // SAFETY: an array of that many bytes.
    unsafe { file.write(bytes.as_ptr()) }
}

fn errno<T>(outcome: CallResult<T>) -> Option<i32> {
    outcome.err().map(|error| error.errno)
}

/// Runs a test of this module alone in a new process. In that process: false, so that the test goes on.
fn ran_alone(name: &str) -> bool {
    const MARK: &str = "SECUREMEMORY_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return false;
    }
    let module = module_path!().split_once("::").unwrap().1;
    let output = Command::new(std::env::current_exe().unwrap())
        .args([&format!("{module}::{name}"), "--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{}\n{text}\n{errors}", output.status);
    true
}

fn limit_file_size(bytes: u64) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: Some(bytes), maximum }).unwrap();
}

/// What a set of signals in this thread's status says about SIGXFSZ.
fn status_has_sigxfsz(name: &str) -> bool {
    let status = crate::os::linux::proc::status().unwrap();
    let set = u64::from_str_radix(crate::os::linux::proc::field(&status, name).unwrap(), 16).unwrap();
    set & (1 << (libc::SIGXFSZ - 1)) != 0
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn what_is_written_is_read_until_the_file_is_truncated() {
    let file = ShareFile::create().unwrap();
    assert!(file.is_ours() && file.raw_fd() > 2);
    assert_eq!(read(&file), Ok([0; ShareFile::LEN]));
    let bytes = std::array::from_fn(|at| at as u8 + 1);
    write(&file, &bytes).unwrap();
    assert_eq!(read(&file), Ok(bytes));
    let check = ShareFile::read_check(file.raw_fd()).unwrap();
    assert_eq!(check.map(u64::to_ne_bytes).as_flattened(), &bytes[32..]);
    file.truncate().unwrap();
    assert_eq!(read(&file), Err(CallError::short(Call::Pread)));
    assert_eq!(ShareFile::read_check(file.raw_fd()), Err(CallError::short(Call::Pread)));
    write(&file, &bytes).unwrap();
    assert_eq!(read(&file), Ok(bytes));
    file.close().unwrap();
}

#[test]
fn the_file_is_closed_to_others_and_to_sealing() {
    let file = ShareFile::create().unwrap();
    let stat = rustix::fs::fstat(file.lend()).unwrap();
    assert_eq!(stat.st_mode & 0o7777, 0);
    assert_eq!(stat.st_size, ShareFile::LEN as i64);
    assert_eq!(rustix::fs::fcntl_add_seals(file.lend(), SealFlags::WRITE), Err(Errno::PERM));
    assert!(rustix::fs::fcntl_getfl(file.lend()).unwrap().contains(OFlags::NOATIME));
    assert!(rustix::io::fcntl_getfd(file.lend()).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    file.close().unwrap();
}

#[test]
fn another_file_under_the_number_is_left_alone() {
    let file = ShareFile::create().unwrap();
    let number = file.raw_fd();
    let other = rustix::fs::memfd_create(c"other", MemfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&other, b"of the host").unwrap();
    // Closed on exec, since other tests run programs meanwhile that look at their descriptors.
    // SAFETY: points a number of this test elsewhere, as a stray call of a host would.
    assert_eq!(unsafe { libc::dup3(other.as_raw_fd(), number, libc::O_CLOEXEC) }, number);
    assert!(!file.is_ours());
    assert_eq!(errno(write(&file, &[1; ShareFile::LEN])), Some(libc::EBADF));
    assert_eq!(errno(file.truncate()), Some(libc::EBADF));
    assert_eq!(errno(read(&file)), Some(0));
    assert_eq!(errno(file.close()), Some(libc::EBADF));
    let mut bytes = [0; 32];
    assert_eq!(rustix::io::pread(&other, &mut bytes, 0), Ok(11));
    // SAFETY: asks only; the number must still be open. Then it is closed, being this test's.
    unsafe {
        assert_ne!(libc::fcntl(number, libc::F_GETFD), -1);
        libc::close(number);
    }
}

#[test]
fn a_forked_child_changes_nothing() {
    let file = ShareFile::create().unwrap();
    write(&file, &[9; ShareFile::LEN]).unwrap();
    // SAFETY: the child makes system calls only, and ends without running anything else.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = !file.is_ours()
            && write(&file, &[1; ShareFile::LEN]).is_err()
            && file.truncate().is_err()
            && file.close().is_err();
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(if refused { 0 } else { 1 }) }
    }
    let mut status = -1;
    // SAFETY: waits for the child made above; the status is a local.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    assert_eq!(read(&file), Ok([9; ShareFile::LEN]));
    file.close().unwrap();
}

#[test]
fn a_limit_on_file_sizes_is_an_error_and_not_a_signal() {
    if ran_alone("a_limit_on_file_sizes_is_an_error_and_not_a_signal") {
        return;
    }
    let file = ShareFile::create().unwrap();
    limit_file_size(0);
    assert_eq!(errno(write(&file, &[1; ShareFile::LEN])), Some(libc::EFBIG));
    let before = open_descriptors();
    assert_eq!(errno(ShareFile::create()), Some(libc::EFBIG));
    assert_eq!(open_descriptors(), before);
    assert!(!status_has_sigxfsz("SigPnd") && !status_has_sigxfsz("SigBlk"));
    limit_file_size(32);
    assert_eq!(errno(write(&file, &[1; ShareFile::LEN])), Some(0));
    file.truncate().unwrap();
    assert_eq!(errno(read(&file)), Some(0));

    // The host has it blocked: ours is taken back all the same, and its own stays.
    // SAFETY: sets of the C library, filled before use; a signal to this thread, blocked.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGXFSZ);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
    limit_file_size(0);
    assert_eq!(errno(write(&file, &[1; ShareFile::LEN])), Some(libc::EFBIG));
    assert!(!status_has_sigxfsz("SigPnd") && status_has_sigxfsz("SigBlk"));
    // SAFETY: blocked in this thread.
    unsafe { libc::raise(libc::SIGXFSZ) };
    assert_eq!(errno(write(&file, &[1; ShareFile::LEN])), Some(libc::EFBIG));
    assert!(status_has_sigxfsz("SigPnd") && status_has_sigxfsz("SigBlk"));
    file.close().unwrap();
}

#[test]
#[cfg(target_pointer_width = "64")]
fn the_table_is_known_to_hold_what_it_holds() {
    for (fd, size) in [(0, 64), (63, 64), (64, 128), (127, 128), (128, 256), (1000, 1024), (1024, 2048)] {
        assert_eq!(table_size(fd), size, "{fd}");
    }
}

#[test]
fn replicas_take_the_numbers_below_the_end_of_the_table() {
    if ran_alone("replicas_take_the_numbers_below_the_end_of_the_table") {
        return;
    }
    let size = || {
        crate::os::linux::proc::field(&crate::os::linux::proc::status().unwrap(), "FDSize")
            .unwrap()
            .to_owned()
    };
    let before = size();
    let files: [_; 4] = std::array::from_fn(|_| ShareFile::create().unwrap());
    let end = table_size(3) as RawFd;
    assert_eq!(files.each_ref().map(ShareFile::raw_fd), [end - 1, end - 2, end - 3, end - 4]);
    assert_eq!(size(), before);
    let other = ShareFile::create_but(Some(end - 5)).unwrap();
    assert_eq!(other.raw_fd(), end - 6);
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(end as u64 - 8), maximum }).unwrap();
    assert_eq!(ShareFile::create().unwrap().raw_fd(), end - 9);
}

#[cfg(feature = "testing")]
#[test]
fn a_refusal_on_the_way_leaves_nothing_open() {
    use crate::os::inject::{self, Plan};
    if ran_alone("a_refusal_on_the_way_leaves_nothing_open") {
        return;
    }
    let before = open_descriptors();
    for call in
        [Call::MemfdCreate, Call::Fcntl, Call::Fchmod, Call::Ftruncate, Call::Sigprocmask, Call::Fstat]
    {
        let _plan = inject::fail(call, Plan::Nth { n: 1, errno: libc::EPERM });
        assert_eq!(ShareFile::create().map(drop), Err(CallError::new(call, libc::EPERM)));
        assert_eq!(open_descriptors(), before);
    }
    // Neither the note of times nor the high number is needed.
    for n in [2, 3] {
        let _plan = inject::fail(Call::Fcntl, Plan::Nth { n, errno: libc::EPERM });
        let file = ShareFile::create().unwrap();
        assert!(file.raw_fd() > 2);
        file.close().unwrap();
    }
    // A host that has closed a standard stream gets it back, not our file.
    // SAFETY: nobody reads standard input here.
    unsafe { libc::close(0) };
    let _plan = inject::fail(Call::Fcntl, Plan::Nth { n: 3, errno: libc::EPERM });
    let file = ShareFile::create().unwrap();
    assert_eq!(file.raw_fd(), 3);
    file.close().unwrap();
    assert_eq!(open_descriptors(), before - 1);
    let _plan = inject::fail(Call::Fcntl, Plan::FromNth { n: 3, errno: libc::EMFILE });
    assert_eq!(errno(ShareFile::create()), Some(libc::EMFILE));
    assert_eq!(open_descriptors(), before - 1);
}

#[cfg(feature = "testing")]
#[test]
fn short_reads_and_writes_are_errors() {
    use crate::os::inject::{self, Plan};
    let file = ShareFile::create().unwrap();
    let plans = [Call::Pread, Call::Pwrite].map(|call| inject::fail(call, Plan::ShortNth { n: 1 }));
    assert_eq!(write(&file, &[5; ShareFile::LEN]), Err(CallError::short(Call::Pwrite)));
    assert_eq!(read(&file), Err(CallError::short(Call::Pread)));
    let half = read(&file).unwrap();
    assert!(half[..32] == [5; 32] && half[32..] == [0; 32]);
    drop(plans);
    file.close().unwrap();
}

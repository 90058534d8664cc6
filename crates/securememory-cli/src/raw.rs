//! The unsafe lines of doctor and stress: what an attacker does and safe Rust rightly forbids, and forks.
//!
//! Nothing here is called by the doctor or the judge of a stress run themselves, only by the processes that they start,
//! which exist to be damaged and end afterwards.
#![allow(unsafe_code)] // An attack is a stray load, a stray store, or a fork at a bad moment; safe Rust has none.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

/// Sends bytes of this process into a pipe and returns how many.
///
/// The kernel reads them with the rights of the calling thread, page by page, so it gets what a load would get,
/// and answers EFAULT where a load would fault. (/proc/self/mem would not do: it ignores page protection.)
pub fn send_from(pipe: BorrowedFd<'_>, address: usize, len: usize) -> io::Result<usize> {
    // SAFETY: write(2) only reads the range, in the kernel, which checks every page; a range that is not there
    // is an error and not a fault. Nothing is assumed about what the bytes mean.
    let sent = unsafe { libc::write(pipe.as_raw_fd(), ptr::with_exposed_provenance(address), len) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Stores bytes from a pipe at an address of this process: a stray store that cannot fault.
///
/// The kernel checks every page as a store would and answers EFAULT where a store would fault.
pub fn receive_into(pipe: BorrowedFd<'_>, address: usize, len: usize) -> io::Result<usize> {
    // SAFETY: the kernel checks that the pages may be written. What is stored there are plain bytes that the
    // library keeps at rest, valid for every value; no reference to them exists while no view is open. This is
    // the attack, and the victim ends after it.
    let stored = unsafe { libc::read(pipe.as_raw_fd(), ptr::with_exposed_provenance_mut(address), len) };
    usize::try_from(stored).map_err(|_| io::Error::last_os_error())
}

/// The bytes of pages that are closed to this process, made readable for as long as it takes, one byte at a time:
/// what code in the process can do, and no other process where the kernel keeps no map of them.
///
/// `write` is whether they may be written at rest, `key` the protection key that closes them, if one does.
pub fn bytes_behind(
    pages: &Range<usize>,
    write: bool,
    key: Option<i32>,
    mut each: impl FnMut(u8),
) -> io::Result<()> {
    // SAFETY: these are the rights of whole pages, of which nobody else is using any: the victim has one thread, and
    // it is here.
    let change = |rights: i32, to: i32| unsafe {
        let outcome = match key {
            Some(_) => {
                let rights = libc::c_long::from(rights);
                libc::syscall(libc::SYS_pkey_mprotect, pages.start, pages.len(), rights, to)
            }
            // Many kernels have no such call.
            None => libc::mprotect(ptr::with_exposed_provenance_mut(pages.start), pages.len(), rights).into(),
        };
        if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // Key 0 denies nothing.
    change(libc::PROT_READ, 0)?;
    for address in pages.clone() {
        // SAFETY: readable now, and bytes are valid for every value. Volatile, so that no more than one byte of the
        // key is anywhere at a time.
        each(unsafe { ptr::with_exposed_provenance::<u8>(address).read_volatile() });
    }
    let rest = if write { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_NONE };
    change(rest, key.unwrap_or(0))
}

/// What is in a file that can be mapped, though it may not be possible to read it.
pub fn mapped(file: BorrowedFd<'_>, len: usize) -> io::Result<Vec<u8>> {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    let mut bytes = vec![0; len];
    // SAFETY: a new mapping at an address that the kernel chooses; it is `len` bytes, the file is no shorter as the
    // caller has just seen, and should it be made so, the attacker dies and tells so. It is given back at once.
    unsafe {
        let start = mmap(ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, file, 0)?;
        ptr::copy_nonoverlapping(start.cast::<u8>(), bytes.as_mut_ptr(), len);
        munmap(start, len)?;
    }
    Ok(bytes)
}

/// Flips all bits of the byte at an address, with a load and a store as an overflow would do it: in a victim's child,
/// or where a stress run is sabotaged.
pub fn flip_byte(address: usize) {
    let byte: *mut u8 = ptr::with_exposed_provenance_mut(std::hint::black_box(address));
    // SAFETY: not sound, and meant so: it stands for the bug that a guard page, a canary or a tag has to catch. It
    // is called only in processes that exist to be damaged and that nobody believes afterwards. Volatile, so that the
    // compiler neither drops the store nor draws conclusions from it.
    unsafe { ptr::write_volatile(byte, !ptr::read_volatile(byte)) }
}

/// Forks a process that has one thread; the child runs `child` and exits with its result, at once and without
/// clean-up. Returns the child's id.
pub fn fork_alone(child: impl FnOnce() -> u8) -> io::Result<u32> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process with several threads may not go on after a fork"));
    }
    // SAFETY: the process has one thread, so no lock is held by a thread that the child lacks, and the child
    // may run any code.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            die_with_parent();
            let code = catch_unwind(AssertUnwindSafe(child)).unwrap_or(101);
            // No handlers of the parent's that the child inherited.
            leave(code)
        }
        child => Ok(child.unsigned_abs()),
    }
}

/// Ends this process at once, without any clean-up: for one whose heap was just damaged.
pub fn leave(code: u8) -> ! {
    // SAFETY: _exit(2) is always sound.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Forks at whatever the other threads are doing; the child runs `child` and exits with its result, at once and
/// without clean-up. Returns the child's id.
///
/// `child` must neither allocate nor take a lock that another thread may hold at that moment: nobody would ever open
/// it. It may look at secrets, which are made for that.
pub fn fork_beside_threads(child: impl FnOnce() -> u8) -> io::Result<u32> {
    // SAFETY: the child calls prctl(2) and _exit(2), which are async-signal-safe, and `child`, which keeps to the
    // above; a panic there ends it as well. A child that does not keep to it hangs, and is seen to.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            die_with_parent();
            leave(catch_unwind(AssertUnwindSafe(child)).unwrap_or(101))
        }
        child => Ok(child.unsigned_abs()),
    }
}

/// Forks at whatever the other threads are doing; the child only waits to be searched and killed.
///
/// It is the C library's fork, which runs the handlers of pthread_atfork(3).
pub fn fork_and_freeze() -> io::Result<u32> {
    // SAFETY: the child calls only prctl(2) and pause(2), which are async-signal-safe.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            die_with_parent();
            loop {
                // SAFETY: pause(2) has no conditions.
                unsafe { libc::pause() };
            }
        }
        child => Ok(child.unsigned_abs()),
    }
}

/// A forked child must not outlive a victim that was killed.
fn die_with_parent() {
    // SAFETY: prctl(2) with PR_SET_PDEATHSIG only sets a number of the calling process.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

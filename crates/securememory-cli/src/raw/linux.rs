//! Of Linux: what the kernel carries out for an attacker, forks, and a process that shares another's memory.

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

/// pkey_mprotect(2), where there are processors with protection keys that the library uses; not 0: refused.
///
/// # Safety
///
/// As for mprotect(2).
unsafe fn under_key(start: usize, len: usize, rights: i32, key: i32) -> libc::c_long {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    // SAFETY: as the caller promises.
    unsafe {
        libc::syscall(
            libc::SYS_pkey_mprotect,
            start,
            len,
            libc::c_long::from(rights),
            libc::c_long::from(key),
        )
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = (start, len, rights, key);
        -1
    }
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
            Some(_) => under_key(pages.start, pages.len(), rights, to),
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

/// Makes a process that shares this one's memory and stays when it is gone; its id. It stops at once. Woken, it reads
/// ranges from standard input, two words each, opens their pages, and writes their bytes to standard output, to the end
/// of its input.
pub fn witness() -> io::Result<i32> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    const STACK: usize = 64 * 1024;
    // SAFETY: a new mapping at an address that the kernel chooses. It stays for as long as the witness needs it.
    let stack = unsafe {
        mmap_anonymous(ptr::null_mut(), STACK, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)?
    };
    // SAFETY: the stack is the witness's own, and `testify` keeps to system calls: it has the thread-local memory of
    // this thread, so nothing of the C library may be used there but `syscall`, whose errno nobody looks at.
    let made = unsafe {
        libc::clone(testify, stack.byte_add(STACK), libc::CLONE_VM | libc::SIGCHLD, ptr::null_mut())
    };
    // Who is woken before it has stopped stops for ever.
    // SAFETY: numbers only.
    if made == -1 || unsafe { libc::waitpid(made, ptr::null_mut(), libc::WUNTRACED) } != made {
        return Err(io::Error::last_os_error());
    }
    Ok(made)
}

extern "C" fn testify(_: *mut libc::c_void) -> libc::c_int {
    // SAFETY: numbers only.
    unsafe {
        let own = libc::syscall(libc::SYS_getpid);
        libc::syscall(libc::SYS_kill, own, libc::SIGSTOP);
    }
    loop {
        let mut range = [0_usize; 2];
        let len = size_of_val(&range);
        // SAFETY: the range lives over the call.
        let read = unsafe { libc::syscall(libc::SYS_read, 0, range.as_mut_ptr(), len) };
        if usize::try_from(read) != Ok(len) {
            return 0;
        }
        let [start, len] = range;
        // SAFETY: nobody else is left who uses this memory. The kernel checks what it is to write.
        unsafe {
            // Key 0 denies nothing. Many kernels have no such call.
            if under_key(start, len, libc::PROT_READ, 0) != 0 {
                libc::syscall(libc::SYS_mprotect, start, len, libc::PROT_READ);
            }
            libc::syscall(libc::SYS_write, 1, start, len);
        }
    }
}

/// The stack on which this thread's signal handlers run, if they have one of their own. sigaltstack(2)
pub fn signal_stack() -> Option<Range<usize>> {
    // SAFETY: zeros are a `stack_t`.
    let mut stack = unsafe { std::mem::zeroed::<libc::stack_t>() };
    // SAFETY: only asks; `stack` lives over the call.
    let asked = unsafe { libc::sigaltstack(ptr::null(), &raw mut stack) };
    let start = stack.ss_sp.expose_provenance();
    (asked == 0 && stack.ss_flags & libc::SS_DISABLE == 0).then(|| start..start + stack.ss_size)
}

/// Has a signal do what it does by default.
pub fn default_action(signal: i32) -> io::Result<()> {
    // SAFETY: no handler is installed, and none of this process's own is replaced: it has just begun.
    if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A forked child must not outlive a victim that was killed.
fn die_with_parent() {
    // SAFETY: prctl(2) with PR_SET_PDEATHSIG only sets a number of the calling process.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

//! Memory protection keys: pages that a thread can deny itself without a system call. pkeys(7)
//!
//! One key serves the whole process, whatever the number of vaults: there are only 15. It is allocated on first
//! use and never freed, since a number that was freed may still be open in old threads, and whoever gets it next
//! would give them his pages. For the same reason the number taken is the highest of those that are free: a host
//! that used keys and gave them back had low ones. Whether an old thread has our number open nevertheless cannot be
//! found out.
//!
//! Every thread is denied, also one that existed before the key: the kernel starts processes with all keys but key 0
//! denied, and a thread starts with the rights of its maker. A signal handler runs with the rights that a process
//! starts with, whatever it interrupted, and its return brings back those of the interrupted code.
//!
//! The rights are in a register of each thread (PKRU). It is read, changed and written in one block of assembly, in
//! which only the two bits of our key change.

// Reason: system calls and a processor register; every block says why it is sound.
#![allow(unsafe_code)]

use crate::os::{Call, CallError, CallResult};

/// Takes a protection key and gives it back.
pub(super) fn probe() -> CallResult<()> {
    free(allocate()?)
}

/// A new key, denied to this thread. pkey_alloc(2).
fn allocate() -> CallResult<u32> {
    crate::os::injected(Call::PkeyAlloc)?;
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        /// Neither reading nor writing.
        const DENY: std::ffi::c_long = 3;
        // SAFETY: the call takes two numbers; nobody has pages under a key that was free.
        let made = crate::os::unix::keeping_errno(|| unsafe {
            libc::syscall(libc::SYS_pkey_alloc, 0 as std::ffi::c_long, DENY)
        });
        let made = made.map_err(|errno| CallError::new(Call::PkeyAlloc, errno))?;
        u32::try_from(made).map_err(|_| CallError::new(Call::PkeyAlloc, libc::EINVAL))
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    Err(CallError::new(Call::PkeyAlloc, libc::ENOSYS))
}

/// Gives back a key that has no pages. pkey_free(2).
fn free(key: u32) -> CallResult<()> {
    crate::os::injected(Call::PkeyFree)?;
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        // SAFETY: the call takes one number.
        crate::os::unix::keeping_errno(|| unsafe {
            libc::syscall(libc::SYS_pkey_free, std::ffi::c_long::from(key))
        })
        .map(drop)
        .map_err(|errno| CallError::new(Call::PkeyFree, errno))
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = key;
        Err(CallError::new(Call::PkeyFree, libc::ENOSYS))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::ProtectionKey;

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::ffi::c_long;
    use std::marker::PhantomData;
    use std::ptr::NonNull;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::{Duration, Instant};

    use super::{Call, CallError, CallResult, allocate, free};
    use crate::os;
    use crate::os::unix::keeping_errno;

    /// Keys that the processor has; key 0 is that of all ordinary memory.
    const KEYS: u32 = 16;

    /// The process's key plus one; 0: none yet. While a thread is allocating it: [`MAKING`] and the process id.
    static OF_PROCESS: AtomicU32 = AtomicU32::new(0);
    const MAKING: u32 = 1 << 31;
    /// How long a thread waits for another that is allocating.
    const PATIENCE: Duration = Duration::from_secs(1);

    /// The process's protection key.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct ProtectionKey(u32);

    impl ProtectionKey {
        /// The key of the process, allocated by the first call that succeeds. pkey_alloc(2), pkey_free(2).
        ///
        /// For a moment that call takes all free keys; another user of keys in the process who allocates one at that
        /// moment is told that there are none.
        pub(crate) fn of_process() -> CallResult<Self> {
            let making = MAKING | os::process_id();
            let started = Instant::now();
            loop {
                let seen = OF_PROCESS.load(Ordering::Acquire);
                if seen != 0 && seen & MAKING == 0 {
                    return Ok(Self(seen - 1));
                }
                // A child that was forked in the middle is alone: the one who was at it is not here.
                if seen != making {
                    if OF_PROCESS.compare_exchange(seen, making, Ordering::AcqRel, Ordering::Acquire).is_err()
                    {
                        continue;
                    }
                    let made = highest_free();
                    OF_PROCESS.store(made.map_or(0, |key| key + 1), Ordering::Release);
                    os::wake_all(&OF_PROCESS);
                    return made.map(Self);
                }
                let Some(left) = PATIENCE.checked_sub(started.elapsed()) else {
                    return Err(CallError::new(Call::PkeyAlloc, libc::ETIMEDOUT));
                };
                os::wait_on(&OF_PROCESS, seen, Some(left));
            }
        }

        /// The number that pages under it are known by.
        pub(crate) fn number(self) -> u32 {
            self.0
        }

        /// The key of a number that [`Self::number`] gave. Dying.
        pub(crate) fn of_number(number: u32) -> Option<Self> {
            (number < KEYS).then_some(Self(number))
        }

        /// Puts pages that may be read and written under the key. pkey_mprotect(2).
        ///
        /// # Safety
        ///
        /// Whole pages of the caller's, of which nobody holds a reference.
        pub(crate) unsafe fn protect(self, ptr: NonNull<u8>, len: usize) -> CallResult<()> {
            const ACCESS: c_long = (libc::PROT_READ | libc::PROT_WRITE) as c_long;
            os::injected(Call::PkeyMprotect)?;
            // SAFETY: as the caller vouches. Pages that become inaccessible are not referred to.
            keeping_errno(|| unsafe {
                libc::syscall(libc::SYS_pkey_mprotect, ptr.as_ptr(), len, ACCESS, c_long::from(self.0))
            })
            .map(drop)
            .map_err(|errno| CallError::new(Call::PkeyMprotect, errno))
        }

        /// Lets this thread read what is under the key, until the value is dropped. Hot, dying.
        #[inline]
        pub(crate) fn open_to_read(self) -> Opened {
            self.change(self.both(), self.no_writing());
            Opened { key: self, thread: PhantomData }
        }

        /// Lets this thread read and write what is under the key, until the value is dropped. Dying.
        #[inline]
        pub(crate) fn open_to_write(self) -> Opened {
            self.change(self.both(), 0);
            Opened { key: self, thread: PhantomData }
        }

        const fn no_access(self) -> u32 {
            1_u32.wrapping_shl(self.0.wrapping_mul(2))
        }

        const fn no_writing(self) -> u32 {
            2_u32.wrapping_shl(self.0.wrapping_mul(2))
        }

        const fn both(self) -> u32 {
            self.no_access() | self.no_writing()
        }

        /// Clears and then sets bits of this thread's rights.
        #[inline]
        fn change(self, clear: u32, set: u32) {
            // SAFETY: a key was allocated, so the processor and the kernel have the register. RDPKRU wants zero in ecx
            // and gives it in edx, as WRPKRU wants both. Only bits of our own key change, and what lies
            // under it is only touched between an opening and a closing. Memory counts as clobbered, so no access
            // is moved across by the compiler; nor is it by the processor.
            unsafe {
                std::arch::asm!(
                    "rdpkru",
                    "and eax, {keep:e}",
                    "or eax, {set:e}",
                    "wrpkru",
                    keep = in(reg) !clear,
                    set = in(reg) set,
                    out("eax") _,
                    inout("ecx") 0 => _,
                    out("edx") _,
                    options(nostack)
                );
            }
        }
    }

    /// What is under the key is open to this thread. Not to be sent to another.
    pub(crate) struct Opened {
        key: ProtectionKey,
        thread: PhantomData<*const ()>,
    }

    impl Drop for Opened {
        #[inline]
        fn drop(&mut self) {
            self.key.change(0, self.key.both());
        }
    }

    /// Allocates all keys that are free, keeps the highest and gives the others back.
    fn highest_free() -> CallResult<u32> {
        let mut highest = allocate()?;
        let mut others = 0_u32;
        // The error that ends it is that there are no more.
        while let Ok(next) = allocate() {
            others |= 1 << highest.min(next).min(KEYS);
            highest = highest.max(next);
        }
        for key in (1..KEYS).filter(|key| others & 1 << key != 0) {
            // One that cannot be given back stays taken, and that is all.
            let _ = free(key);
        }
        if highest < KEYS { Ok(highest) } else { Err(CallError::new(Call::PkeyAlloc, libc::EINVAL)) }
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use crate::os::no_protection_key::ProtectionKey;

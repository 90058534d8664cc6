//! A page that a memory protection key denies to the thread, and the pair of WRPKRU that opens and closes it.

use super::Result;

#[cfg(target_arch = "x86_64")]
pub use x86::{Pkey, pair};

#[cfg(not(target_arch = "x86_64"))]
pub use none::{Pkey, pair};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;

    use super::Result;
    use crate::floors::absent;
    use crate::floors::region::Region;

    pub struct Pkey {
        page: Region,
        /// The two bits of this key in the register.
        bits: u32,
    }

    impl Pkey {
        pub fn new() -> Result<Self> {
            const PKEY_ALLOC: isize = 330;
            let page = Region::locked()?;
            let key: isize;
            // SAFETY: pkey_alloc(2) touches no memory; on a machine without such keys it fails.
            unsafe {
                asm!("syscall", inlateout("rax") PKEY_ALLOC => key, in("rdi") 0, in("rsi") 0, out("rcx") _, out("r11") _)
            };
            let Some(key) = i32::try_from(key).ok().filter(|key| (1..16).contains(key)) else {
                return Err(absent("there are no protection keys here"));
            };
            page.give_to(key)?;
            let pkey = Self { page, bits: 0b11 << (2 * key) };
            // SAFETY: only the bits of our key.
            unsafe { wrpkru(rdpkru() | pkey.bits) };
            Ok(pkey)
        }
    }

    /// Opens the page for this thread, reads a byte, closes it.
    pub fn pair(key: &mut Pkey) -> Result<u64> {
        // SAFETY: only the bits of our key change; the page is readable in between.
        unsafe {
            let closed = rdpkru() | key.bits;
            wrpkru(closed & !key.bits);
            let seen = key.page.last(1).read_volatile();
            wrpkru(closed);
            Ok(seen.into())
        }
    }

    /// # Safety
    /// The system must have enabled protection keys.
    unsafe fn rdpkru() -> u32 {
        let value;
        // SAFETY: by the caller.
        unsafe { asm!("rdpkru", in("ecx") 0, out("eax") value, out("edx") _, options(nomem, nostack)) };
        value
    }

    /// # Safety
    /// As `rdpkru`; and no reference into what is closed lives.
    unsafe fn wrpkru(value: u32) {
        // SAFETY: by the caller.
        unsafe { asm!("wrpkru", in("eax") value, in("ecx") 0, in("edx") 0, options(nostack)) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod none {
    use super::Result;
    use crate::floors::absent;

    pub struct Pkey;

    impl Pkey {
        pub fn new() -> Result<Self> {
            Err(absent("WRPKRU is an instruction of x86-64"))
        }
    }

    pub fn pair(_: &mut Pkey) -> Result<u64> {
        Ok(0)
    }
}

//! Signals as POSIX has them: masks and sending by the C library, and what lies on the stack by the system's own layout.
//! Dying, as all of [`crate::os::signals`].
//!
//! What came with a signal cannot be sent again: who gets it afterwards sees this process as the sender.

// Reason: functions of the C library, and what the kernel has put on the stack; every block says why it is sound.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::time::Duration;

use super::system::{self, Context, SetWord};
use super::{ENTROPY, entropy, keeping_errno};
use crate::os::signals::{Attempt, Info, Mask, Words, is_fault, words};

const BITS: usize = SetWord::BITS as usize;
/// Words of a set that stand for the signals of a [`Mask`].
const WORDS_OF_MASK: usize = {
    let (all, wanted) = (size_of::<libc::sigset_t>() / size_of::<SetWord>(), Mask::BITS as usize / BITS);
    if all < wanted { all } else { wanted }
};

/// The signals of a set that a mask has room for. Sets are arrays of words on all these systems, filled from the lowest bit.
#[allow(clippy::unnecessary_cast, reason = "the words of some systems are as large as a mask")]
pub(crate) fn mask_of(set: &libc::sigset_t) -> Mask {
    let mut mask = 0;
    let mut index = 0_usize;
    while index < WORDS_OF_MASK {
        // SAFETY: inside the set.
        let word = unsafe { std::ptr::from_ref(set).cast::<SetWord>().add(index).read_unaligned() };
        mask |= (word as Mask).wrapping_shl(index.wrapping_mul(BITS) as u32);
        index = index.wrapping_add(1);
    }
    mask
}

/// Those above stay as they are in the set.
pub(crate) fn put_mask(mask: Mask, set: &mut libc::sigset_t) {
    let mut index = 0_usize;
    while index < WORDS_OF_MASK {
        let word = mask.wrapping_shr(index.wrapping_mul(BITS) as u32) as SetWord;
        // SAFETY: inside the set.
        unsafe { std::ptr::from_mut(set).cast::<SetWord>().add(index).write_unaligned(word) };
        index = index.wrapping_add(1);
    }
}

/// pthread_sigmask(3)
pub(crate) fn change_mask(how: c_int, mask: Mask) -> Option<Mask> {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: numbers, for which zero is right; both live over the calls.
    unsafe {
        if how == libc::SIG_SETMASK {
            // Signals that a mask has no room for stay as they are.
            if libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), set.as_mut_ptr()) != 0 {
                return None;
            }
        }
        put_mask(mask, set.assume_init_mut());
        (libc::pthread_sigmask(how, set.as_ptr(), before.as_mut_ptr()) == 0)
            .then(|| mask_of(before.assume_init_ref()))
    }
}

/// Has a signal come to this thread again: a fault by itself, if it does; others without what came with them.
///
/// # Safety
///
/// `info` is what a handler was called with.
pub(crate) unsafe fn send_again(signal: c_int, info: *const Info) -> bool {
    // SAFETY: as the caller vouches.
    let Words { code, .. } = unsafe { words(info) };
    !(is_fault(code) && crate::os::signals::recurs(signal, code)) && send(signal)
}

/// Is there a thread of this number in this process?
pub(crate) fn is_thread(thread: u32) -> bool {
    system::is_thread(thread)
}

/// Sends a signal to this thread. pthread_kill(3)
pub(crate) fn send(signal: c_int) -> bool {
    // SAFETY: this thread is there.
    unsafe { libc::pthread_kill(libc::pthread_self(), signal) == 0 }
}

/// Ends the process as an uncaught signal does that no other way has led to. _exit(2)
pub(crate) fn end_now(signal: c_int) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(signal.wrapping_add(128)) }
}

/// nanosleep(2)
pub(super) fn pause_for(time: Duration) {
    let time = libc::timespec { tv_sec: time.as_secs() as _, tv_nsec: time.subsec_nanos() as _ };
    // SAFETY: lives over the call; what is left of the time is not asked for.
    let _ = keeping_errno(|| unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) }.into());
}

/// The alternate stack that a handler runs on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AlternateStack {
    /// Bytes from its top to what the kernel has put there of this delivery: so much another one takes at most.
    pub(crate) frame: usize,
    /// Bytes that are left.
    pub(crate) left: usize,
}

/// The alternate stack, if the handler that calls this is running on it. sigaltstack(2)
///
/// # Safety
///
/// `context` is what a handler was called with.
pub(crate) unsafe fn alternate_stack(context: *const c_void) -> Option<AlternateStack> {
    let here = 0_u8;
    let mut stack = MaybeUninit::<libc::stack_t>::zeroed();
    // SAFETY: asks only, and writes one structure, in which zero is right.
    let stack = unsafe {
        keeping_errno(|| libc::sigaltstack(std::ptr::null(), stack.as_mut_ptr()).into()).ok()?;
        stack.assume_init()
    };
    let left = (&raw const here).addr().wrapping_sub(stack.ss_sp.addr());
    let context = context.addr().wrapping_sub(stack.ss_sp.addr());
    (left < stack.ss_size).then(|| AlternateStack { frame: stack.ss_size.saturating_sub(context), left })
}

/// Where the stack of the code ended that was interrupted; `None`: not known on this processor.
///
/// # Safety
///
/// `context` is what a handler was called with.
pub(crate) unsafe fn interrupted_stack(context: *const c_void) -> Option<usize> {
    // SAFETY: as the caller vouches.
    unsafe { system::stack_pointer(context.cast()) }
}

/// A context with this thread's mask, and no registers.
pub(crate) fn context_here() -> Context {
    // SAFETY: numbers and pointers, for which zero is right.
    let mut context = unsafe { MaybeUninit::<Context>::zeroed().assume_init() };
    let mask = change_mask(libc::SIG_BLOCK, 0).unwrap_or(Mask::MAX);
    // SAFETY: the set of the context above.
    put_mask(mask, unsafe { &mut *system::mask_in(&raw mut context) });
    context
}

/// The mask of the code that was interrupted.
///
/// # Safety
///
/// `context` is what a handler was called with.
pub(crate) unsafe fn interrupted_mask(context: *const c_void) -> Mask {
    // SAFETY: as the caller vouches.
    mask_of(unsafe { &*system::mask_in(context.cast_mut().cast()) })
}

/// What the instruction that was interrupted by an access fault has tried to do.
///
/// # Safety
///
/// `context` is what a handler was called with for such a fault.
pub(crate) unsafe fn attempt(context: *const c_void) -> Attempt {
    // SAFETY: as the caller vouches.
    unsafe { system::attempt(context.cast()) }
}

/// Wipes the vector registers that the kernel has saved, where it is known how they lie; the interrupted code finds zeros in
/// them.
///
/// # Safety
///
/// `context` is what a handler was called with, and what was interrupted does not need them.
#[inline(never)]
pub(crate) unsafe fn wipe_vectors(context: *mut c_void) {
    // SAFETY: as the caller vouches.
    unsafe { system::wipe_vectors(context.cast()) }
}

/// Random bytes, written by the kernel; an error number where it did not write all of them.
///
/// # Safety
///
/// Nobody minds what is written to the `len` bytes from `at`. They need not be writable: then it is EFAULT.
pub(crate) unsafe fn random(at: usize, len: usize) -> Result<(), c_int> {
    let mut done = 0_usize;
    while done < len {
        let (at, left) = (at.wrapping_add(done), len.wrapping_sub(done));
        // SAFETY: as the caller vouches.
        match unsafe { entropy(std::ptr::with_exposed_provenance_mut(at), left.min(ENTROPY)) } {
            Ok(bytes) => done = done.wrapping_add(bytes),
            Err(libc::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Random bytes, of which some or all are missing where the kernel has none yet.
pub(crate) fn seed() -> u64 {
    let mut seed = 0_u64;
    // SAFETY: as many bytes of this frame.
    let _ = unsafe { random((&raw mut seed).expose_provenance(), size_of::<u64>()) };
    seed
}

/// These systems have no call that puts a page in the place of another with its contents, at once: others would see zeros.
///
/// # Safety
///
/// None.
pub(crate) unsafe fn replace(_: usize, _: usize, _: bool, _: impl FnOnce(*mut u8)) -> bool {
    false
}

//! Our signal handler. All that runs in it is in this room, in [`super::chain`] and in [`crate::shutdown::dying`]: no lock,
//! no allocation, no thread-local that is made on first use, no panic, and a bounded stack: what needs room on it is not
//! inlined, returns before the next is called, and tells what is to be done instead of doing it. The tests `handler_object`
//! and `handler_stack` watch over that.
//!
//! A fault is ours if the kernel raised it (`si_code > 0`: of a signal that was sent, the address is somebody's process
//! id) at an address in one of our arenas. What is not ours goes on to whoever was there before.

mod answer;
mod dispatch;
#[cfg(unix)]
mod entry;
pub(super) mod examine;
pub(super) mod record;
mod recover;
#[cfg(windows)]
mod vectored;

pub use answer::AfterFault;
pub(crate) use answer::{ABORT, Ask, CALL, CALL_ON_FAULT, ON_FAULT, RECOVER, REPORT};
pub(crate) use dispatch::Direct;
pub use dispatch::Outcome;
#[cfg(unix)]
pub(crate) use entry::entry;
#[cfg(unix)]
pub(super) use entry::pass_outside;
#[cfg(windows)]
pub(super) use vectored::{filter_before, on_event, on_exception, on_unhandled, set_filter_before};

//! What a program does about its end on Windows.

use std::ops::Range;

use securememory::fault::{self, FaultPolicy};

use crate::doctor::order::{Care, Order};
use crate::doctor::verdict::Trouble;
use crate::raw;

/// What a program does at its start, so that it leaves nothing when it ends. Who holds it at its end was there before.
pub(super) fn take_care(care: Care) -> Result<(), Trouble> {
    raw::hold_at_end();
    if care != Care::None {
        fault::install(FaultPolicy::Abort)?.keep();
    }
    Ok(())
}

/// No page is seen by this process alone.
#[allow(clippy::unnecessary_wraps, reason = "elsewhere it may fail")]
pub(super) fn witness(_: &Order) -> Result<Option<i32>, Trouble> {
    Ok(None)
}

/// The system saves the registers on the thread's own stack.
#[allow(clippy::unnecessary_wraps, reason = "elsewhere there may be none")]
pub(super) fn saves_registers() -> Option<Range<usize>> {
    Some(raw::stack())
}

/// Nobody traces it: who is debugged is not asked what to do about an exception that nobody has handled.
#[allow(clippy::unnecessary_wraps, reason = "elsewhere there is none")]
pub(super) fn end_mark() -> Option<usize> {
    Some(raw::Ends::held())
}

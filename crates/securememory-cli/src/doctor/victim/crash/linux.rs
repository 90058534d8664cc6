//! What a program does about its end on Linux.

use std::ops::Range;

use securememory::fault::{self, FaultPolicy};
use securememory::signal::{Coordinator, Options, Signal};

use crate::doctor::order::{Care, Order};
use crate::doctor::promises::Kept;
use crate::doctor::verdict::Trouble;
use crate::raw;

/// The signals that a program may have its coordinator end it by.
const ENDING: [Signal; 4] = [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];

/// What a program does at its start, so that it leaves nothing when it ends.
pub(super) fn take_care(care: Care) -> Result<(), Trouble> {
    // Who started the doctor may have some ignored, as nohup(1) does, or a shell for what runs in the background. The
    // coordinator respects that, and it is not what is looked at here.
    for signal in ENDING {
        raw::default_action(signal.as_raw())?;
    }
    if care != Care::None {
        fault::install(FaultPolicy::Abort)?.keep();
    }
    if care == Care::FaultsAndSignals {
        Coordinator::install(&ENDING, Options::new().ends(true))?.keep();
    }
    Ok(())
}

/// A process that shares this one's memory, where only such a one can see the key's page.
pub(super) fn witness(order: &Order) -> Result<Option<i32>, Trouble> {
    Ok((order.kept == Kept::SealedSecretmem).then(raw::witness).transpose()?)
}

/// Where the kernel saves this thread's registers for a handler, if not on the thread's own stack.
pub(super) fn saves_registers() -> Option<Range<usize>> {
    raw::signal_stack()
}

/// Who traces this process is told of its end.
pub(super) fn end_mark() -> Option<usize> {
    None
}

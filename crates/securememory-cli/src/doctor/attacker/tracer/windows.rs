//! The victim at its end, held by a filter of its own that is called after the library's ([`crate::raw`]), until it has
//! been looked at. Not under the eyes of a debugger: who is debugged is not asked about exceptions that nobody has handled.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::captive::Captive;
use crate::doctor::loot::Loot;
use crate::doctor::memory::{Mapping, Sight};
use crate::doctor::order::{Armed, End};
use crate::doctor::promises::Attack;
use crate::doctor::verdict::Trouble;
use crate::raw::{Ends, Process, Threads};

/// Every way in which a program ends itself that can be looked at: abort goes past all handlers, and after an exit no code of
/// the victim's runs that could hold it.
pub const ENDS: &[End] = &[End::StrayRead, End::InView, End::NullWrite];

/// There are no signals.
pub fn signal_of(_: Attack) -> Option<i32> {
    None
}

/// A process that is held when it comes to its end.
pub struct Tracer {
    pid: u32,
    held: usize,
    sight: Sight,
}

impl Tracer {
    /// Looks on from now.
    pub fn seize(pid: u32, armed: &Armed) -> Result<Self, Trouble> {
        let held = armed.at_end.ok_or_else(|| Trouble::failed("a victim that nobody holds at its end"))?;
        Ok(Self { pid, held, sight: Sight::outside(pid)? })
    }

    /// There are no signals.
    #[allow(clippy::unused_self, reason = "elsewhere it is the process that is asked")]
    pub fn send(&self, _: i32) -> Result<(), Trouble> {
        Err(Trouble::failed("there are no signals"))
    }

    /// Returns when it is held at its end. Its other threads run: what they do must not bring anything back.
    #[allow(clippy::needless_pass_by_ref_mut, reason = "elsewhere it keeps what it has seen")]
    pub fn until_exit(&mut self, _: Option<i32>, patience: Duration) -> Result<(), Trouble> {
        let begin = Instant::now();
        let mut word = [0; size_of::<u32>()];
        while word == [0; size_of::<u32>()] {
            if begin.elapsed() > patience {
                let patience = patience.as_secs();
                return Err(Trouble::failed(format!("the victim did not end within {patience} s")));
            }
            std::thread::sleep(Duration::from_millis(1));
            self.sight.fill(self.held, &mut word).map_err(|error| {
                Trouble::failed(format!("the victim ended without being held at its end ({error})"))
            })?;
        }
        Ok(())
    }

    /// The registers of all threads, which are stopped for a moment.
    pub fn registers(&self) -> Result<Vec<(i32, Vec<u8>)>, Trouble> {
        let registers = Threads::stop(self.pid).and_then(|stopped| stopped.registers());
        registers.map_err(|error| Trouble::failed(format!("registers: {error}")))
    }

    /// Nothing has to be looked at before its end.
    #[allow(
        clippy::needless_pass_by_ref_mut,
        clippy::unused_self,
        reason = "elsewhere it depends on the kernel"
    )]
    pub fn seen_before(&mut self) -> Option<(Vec<Mapping>, Loot)> {
        None
    }

    /// Lets it end.
    pub fn let_go(&mut self) {
        if let Ok(process) = Process::open(self.pid) {
            let _ = process.put(Ends::go_on(self.held), 1);
        }
    }
}

/// A process that shares the victim's memory: there is none.
pub enum Witness {}

impl Witness {
    /// None.
    pub fn of(_: &Armed) -> Option<Self> {
        None
    }

    /// Nothing.
    pub fn sees(&self, _: &mut Captive, _: &Range<usize>) -> Result<Vec<u8>, Trouble> {
        match *self {}
    }
}

//! What is measured: one file for each kind.

pub mod cost;
pub mod limit;
pub mod memory;
pub mod neighbour;
pub mod two;

use std::time::Duration;

use crate::Failure;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// One measurement, of every peer that can do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Of so many bytes; the time of both together.
    CreateDrop(usize),
    /// The creation alone: the drop is not timed.
    Create(usize),
    /// At rest to at rest; all bytes are looked at.
    Read(usize),
    /// At rest to at rest; one byte is changed.
    Write(usize),
    /// The read of 32 bytes alone and beside a thread that computes.
    Busy,
    /// Reads of 32 bytes a second: one thread, and two threads on one secret.
    TwoSame,
    /// The same with a secret for each thread.
    TwoDifferent,
    /// Secrets of 32 bytes until one cannot be made.
    LimitRoot,
    /// The same as an ordinary user who may lock 8 MiB.
    LimitUser,
    /// What a secret of 32 bytes takes.
    Memory,
}

/// All, in the order in which a pass goes through them.
pub const ALL: &[Work] = &[
    Work::Read(32),
    Work::Busy,
    Work::TwoDifferent,
    Work::TwoSame,
    Work::Write(32),
    Work::CreateDrop(32),
    Work::CreateDrop(4 * KIB),
    Work::CreateDrop(MIB),
    Work::Create(MIB),
    Work::Read(MIB),
    Work::Memory,
    Work::LimitRoot,
    Work::LimitUser,
];

pub const READ: Work = Work::Read(32);
pub const READ_MIB: Work = Work::Read(MIB);
pub const CREATE: Work = Work::CreateDrop(32);
pub const CREATE_MIB: Work = Work::Create(MIB);
pub const CREATE_DROP_MIB: Work = Work::CreateDrop(MIB);

impl Work {
    pub fn id(self) -> String {
        match self {
            Self::CreateDrop(len) => format!("create-drop.{len}"),
            Self::Create(len) => format!("create.{len}"),
            Self::Read(len) => format!("read.{len}"),
            Self::Write(len) => format!("write.{len}"),
            Self::Busy => "read.32.busy".into(),
            Self::TwoSame => "read.32.2threads.same".into(),
            Self::TwoDifferent => "read.32.2threads.different".into(),
            Self::LimitRoot => "limit.root".into(),
            Self::LimitUser => "limit.user".into(),
            Self::Memory => "memory".into(),
        }
    }

    pub fn from_id(id: &str) -> Option<Self> {
        ALL.iter().copied().find(|work| work.id() == id)
    }

    pub fn title(self) -> String {
        match self {
            Self::CreateDrop(len) => format!("Create and destroy {}", size(len)),
            Self::Create(len) => format!("Create {}, the destruction not timed", size(len)),
            Self::Read(len) => format!("Read {}, at rest to at rest", size(len)),
            Self::Write(len) => format!("Change a byte of {}, at rest to at rest", size(len)),
            Self::Busy => "Read 32 B beside one other thread that computes".into(),
            Self::TwoSame => "Two threads read one secret of 32 B".into(),
            Self::TwoDifferent => "Two threads read a secret of 32 B each".into(),
            Self::LimitRoot => "Create secrets of 32 B until one fails, as root".into(),
            Self::LimitUser => "The same as an ordinary user who may lock 8 MiB".into(),
            Self::Memory => "What secrets of 32 B take".into(),
        }
    }

    /// Is there only one thread in it?
    pub fn one_thread(self) -> bool {
        matches!(self, Self::CreateDrop(_) | Self::Create(_) | Self::Read(_) | Self::Write(_))
    }

    /// Is it measured in many short turns? Else once, by a child that answers and ends.
    pub fn in_turns(self) -> bool {
        !matches!(self, Self::LimitRoot | Self::LimitUser | Self::Memory)
    }
}

pub fn size(bytes: usize) -> String {
    match bytes {
        MIB.. if bytes.is_multiple_of(MIB) => format!("{} MiB", bytes / MIB),
        KIB.. if bytes.is_multiple_of(KIB) => format!("{} KiB", bytes / KIB),
        _ => format!("{bytes} B"),
    }
}

/// Does the thing so many times and says how long that took, without what does not belong to it.
pub type Batch = Box<dyn FnMut(u64) -> Result<Duration, Failure>>;

/// Does the thing so many times, on a thread of its own.
pub type Turns = Box<dyn FnMut(u64) -> Result<(), Failure> + Send>;

/// Measures once and says what came out, as JSON.
pub type Once = Box<dyn FnOnce() -> Result<String, Failure>>;

/// What a child does.
pub enum Job {
    Cost(Batch),
    Busy(Batch),
    Two([Turns; 2]),
    Once(Once),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_work_has_a_name_of_its_own() {
        for work in ALL {
            assert_eq!(Work::from_id(&work.id()), Some(*work));
        }
        assert_eq!(Work::from_id("read.33"), None);
    }

    #[test]
    fn sizes_are_named_in_the_unit_that_fits() {
        assert_eq!([size(32), size(4096), size(1 << 20)], ["32 B", "4 KiB", "1 MiB"]);
    }
}

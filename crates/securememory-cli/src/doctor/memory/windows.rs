//! Memory on Windows: from inside by loads and stores that may fault, from outside by ReadProcessMemory.

use std::io;
use std::ops::Range;

use super::Mapping;
use crate::doctor::verdict::Trouble;
use crate::raw::{self, Kind, Process};

/// What a process has committed. Pages that warn of a stack's growth are left out: a touch takes the warning away, and
/// nobody has written to them.
pub fn mappings(pid: u32) -> Result<Vec<Mapping>, Trouble> {
    let process = Process::open(pid).map_err(Trouble::forbidden("OpenProcess"))?;
    let mut mappings = Vec::new();
    let mut at = 0;
    while let Some(pages) = process.pages(at) {
        at = pages.range.end;
        if !pages.committed || pages.warns {
            continue;
        }
        let name = match pages.kind {
            Kind::Private => "",
            Kind::Mapped => "memory that may be shared",
            Kind::Image => "a program or library",
        };
        mappings.push(Mapping {
            range: pages.range,
            write: pages.write,
            shared: pages.kind != Kind::Private,
            name: name.to_owned(),
        });
    }
    Ok(mappings)
}

/// A way to read a process's memory.
pub enum Sight {
    /// This process, with the rights of a load.
    Inside,
    /// Any process whose memory may be read, whatever its pages allow.
    Outside(Process),
}

/// Stray stores of this process.
pub struct Stray(());

impl Stray {
    /// Ready to store.
    pub fn new() -> io::Result<Self> {
        raw::survive()?;
        Ok(Self(()))
    }

    /// Stores a byte in this process as a stray store would.
    #[allow(clippy::unused_self, reason = "that it is there is the proof that a fault is survived")]
    pub fn store(&self, address: usize, byte: u8) -> io::Result<()> {
        if raw::store(address, byte) { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }
}

impl Sight {
    /// From inside.
    pub fn inside() -> io::Result<Self> {
        raw::survive()?;
        Ok(Self::Inside)
    }

    /// From outside.
    pub fn outside(pid: u32) -> Result<Self, Trouble> {
        Process::open(pid).map(Self::Outside).map_err(Trouble::forbidden("OpenProcess"))
    }

    /// Reads some bytes; an error where the very first cannot be read.
    pub fn read(&self, address: usize, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Inside => match raw::load(address, buffer) {
                0 if !buffer.is_empty() => Err(io::ErrorKind::PermissionDenied.into()),
                read => Ok(read),
            },
            Self::Outside(process) => process.read(address, buffer),
        }
    }

    /// The parts of a mapping that may hold anything: all of it.
    #[allow(clippy::unused_self, reason = "elsewhere it depends on the sight")]
    pub fn touched(&self, mapping: &Mapping) -> Vec<Range<usize>> {
        vec![mapping.range.clone()]
    }
}

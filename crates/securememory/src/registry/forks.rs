//! What a fork has to see to: locks of the process that a child must find free, and vaults that a child inherits.

use std::sync::{Arc, Weak};

use crate::error::Error;
use crate::locks::{Freeze, Guard, Lock, Rank};

/// A vault that a child inherits. Of the three the first is called before a fork, and then one of the others, by the same
/// thread; the last in the child.
pub(crate) trait Heritage: Send + Sync {
    /// Brings it into a state that a child can go on from, and keeps it there.
    fn prepare(&self);
    /// Takes that back.
    fn after(&self);
    /// Makes it the child's, or else gives it up. Not `whole`: the parent was dying, and has wiped some of it.
    fn adopt(&self, whole: bool);
}

/// What is known.
pub(crate) struct Forks {
    locks: Vec<&'static dyn Freeze>,
    vaults: Vec<Weak<dyn Heritage>>,
    /// Those that live, for the time of a fork. It has room for all of them.
    held: Vec<Arc<dyn Heritage>>,
}

static FORKS: Lock<Forks> =
    Lock::new(Rank::Forks, Forks { locks: Vec::new(), vaults: Vec::new(), held: Vec::new() });

/// For who forks: one at a time.
pub(crate) fn begin() -> Result<Guard<'static, Forks>, Error> {
    FORKS.lock()
}

/// From now on this lock is frozen over forks.
pub(crate) fn freeze_too(lock: &'static dyn Freeze) -> Result<(), Error> {
    let mut forks = FORKS.lock()?;
    let address = std::ptr::from_ref(lock).cast::<()>();
    if forks.locks.iter().any(|&known| std::ptr::from_ref(known).cast::<()>() == address) {
        return Ok(());
    }
    let bytes = size_of::<&dyn Freeze>();
    forks.locks.try_reserve(1).map_err(|_| Error::OutOfMemory { bytes })?;
    forks.locks.push(lock);
    Ok(())
}

/// From now on this vault is one that children inherit, as long as it lives.
pub(crate) fn bequeath(vault: Weak<dyn Heritage>) -> Result<(), Error> {
    let mut forks = FORKS.lock()?;
    forks.vaults.retain(|vault| vault.strong_count() > 0);
    let no_memory = Error::OutOfMemory { bytes: size_of::<Weak<dyn Heritage>>() };
    forks.vaults.try_reserve(1).map_err(|_| no_memory)?;
    let room = forks.vaults.len().saturating_add(1);
    forks.held.try_reserve(room).map_err(|_| no_memory)?;
    forks.vaults.push(vault);
    Ok(())
}

impl Forks {
    /// Locks that are frozen over a fork.
    pub(crate) fn locks(&self) -> &[&'static dyn Freeze] {
        &self.locks
    }

    /// The vaults that live; they do so until [`Self::release`].
    pub(crate) fn hold(&mut self) -> &[Arc<dyn Heritage>] {
        let Self { vaults, held, .. } = self;
        held.extend(vaults.iter().filter_map(Weak::upgrade));
        held
    }

    /// Those of [`Self::hold`].
    pub(crate) fn held(&self) -> &[Arc<dyn Heritage>] {
        &self.held
    }

    /// Keeps them alive no longer. One of them may have been the last that somebody had.
    pub(crate) fn release(&mut self) {
        self.held.clear();
    }
}

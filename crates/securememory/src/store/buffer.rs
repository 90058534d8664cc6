//! Plaintext on its way to a seal: a slot of scratch that belongs to no secret yet and is filled step by
//! step.

use std::sync::Arc;

use crate::error::{Error, TryError};
use crate::os;
use crate::region::lease::Lease;
use crate::region::scratch::HEAD;
use crate::region::{bytes, geometry};
use crate::registry;
use crate::store::machinery::Machinery;
use crate::store::object::Object;
use crate::store::spec::{Bytes, Position, Spec};

/// Room for a chunk of a stream. Its slot is kept like that of an owned view, so that it can change threads
/// and be revoked.
pub(crate) struct Buffer {
    machinery: Arc<Machinery>,
    lease: Lease,
    filled: usize,
    /// Purges of the vault before this was taken.
    purges: u64,
}

// SAFETY: the slot belongs to this buffer wherever it is; its bytes are touched through a mutable borrow
// only, and by a revocation only where no use is counted.
#[allow(unsafe_code)]
unsafe impl Send for Buffer {}
// SAFETY: as above; a shared borrow does not touch the bytes.
#[allow(unsafe_code)]
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Can there be one of so many bytes?
    pub(crate) fn check(len: usize) -> Result<(), Error> {
        if len == 0 {
            return Err(Error::Empty);
        }
        geometry::capacity_for(HEAD, len, geometry::DEFAULT_ALIGN, os::page_size()).map(drop)
    }

    /// An empty one for `len` bytes of the stream with this id.
    pub(crate) fn take(machinery: &Arc<Machinery>, id: u64, len: usize) -> Result<Self, Error> {
        let policy = &machinery.settings.policy;
        let lock = policy.requires_lock();
        let align = geometry::DEFAULT_ALIGN;
        let lease = machinery.scratch.take(registry::thread(), id, len, align, lock, policy.wait)?;
        lease.close_window();
        lease.write_canary(&machinery.canary);
        lease.mark_chunk();
        lease.own();
        let purges = machinery.purges();
        let buffer = Self { machinery: Arc::clone(machinery), lease, filled: 0, purges };
        // Asked when it can be found: a close says so first, and looks for chunks then.
        if machinery.is_closed() { Err(Error::Closed) } else { Ok(buffer) }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.filled == self.lease.len()
    }

    /// Adds as many bytes as there is room for, and says how many.
    pub(crate) fn push(&mut self, from: &[u8]) -> Result<usize, Error> {
        self.begin_use()?;
        let room = self.lease.bytes_mut().get_mut(self.filled..).unwrap_or_default();
        let count = room.len().min(from.len());
        bytes::copy_slice(room, from);
        self.end_use()?;
        self.filled += count;
        Ok(count)
    }

    /// Seals what is here as a chunk, and is empty again. On an error it has its bytes still: sealing only reads them.
    pub(crate) fn seal(&mut self, position: Position) -> Result<Object, Error> {
        self.begin_use()?;
        let made = self.seal_filled(position);
        if made.is_ok() {
            self.lease.wipe_data();
            self.lease.write_canary(&self.machinery.canary);
            self.filled = 0;
        }
        self.end_use()?;
        made
    }

    fn seal_filled(&self, position: Position) -> Result<Object, Error> {
        self.machinery.check_canary(&self.lease)?;
        let spec = Spec { position: Some(position), ..Spec::default() };
        let bytes = self.lease.bytes().get(..self.filled).unwrap_or_default();
        let made = Object::make(Arc::clone(&self.machinery), spec, bytes.len(), Bytes(bytes));
        let made = made.map_err(TryError::into_error)?;
        // One that came while we were at it: the seal may be under the next key.
        if self.purges == self.machinery.purges() { Ok(made) } else { Err(self.machinery.purged()) }
    }

    /// What was written before a purge is gone with what was sealed before it.
    fn begin_use(&self) -> Result<(), Error> {
        if self.purges != self.machinery.purges() {
            self.machinery.scratch.revoke(self.lease.secret());
            return Err(self.machinery.purged());
        }
        self.lease.begin_use()
    }

    fn end_use(&self) -> Result<(), Error> {
        self.lease.end_use();
        if self.lease.is_revoked() { Err(Error::Revoked) } else { Ok(()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // In a child the memory was wiped, and the slots are not its own.
        if self.machinery.enclave.is_alive() && self.lease.disown() {
            self.lease.wipe_data();
            self.lease.vacate();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::Settings;
    use crate::testing::TestGuard;

    #[test]
    fn a_revoked_buffer_is_wiped_and_takes_nothing_more() {
        let _guard = TestGuard::new();
        let machinery = Machinery::make(Settings::default()).unwrap();
        let mut buffer = Buffer::take(&machinery, 7, 20).unwrap();
        assert_eq!(buffer.push(b"sixteen bytes ok"), Ok(16));
        assert_eq!(&buffer.lease.bytes()[..16], b"sixteen bytes ok");
        machinery.scratch.revoke(7);
        assert_eq!(buffer.lease.bytes(), [0; 20]);
        assert_eq!(buffer.push(b"more"), Err(Error::Revoked));
        let position = Position { stream: 7, index: 0, last: true };
        assert_eq!(buffer.seal(position).err(), Some(Error::Revoked));
        drop(buffer);
        assert_eq!(machinery.holders(7).views(), 0);
    }

    #[test]
    fn what_was_written_before_a_purge_is_not_sealed_under_the_next_key() {
        let _guard = TestGuard::new();
        let machinery = Machinery::make(Settings::default()).unwrap();
        let mut buffer = Buffer::take(&machinery, 7, 20).unwrap();
        buffer.push(b"sixteen bytes ok").unwrap();
        machinery.purge().unwrap();
        let position = Position { stream: 7, index: 0, last: true };
        // As where the purge comes after `seal` has looked for one.
        assert_eq!(buffer.seal_filled(position).err(), Some(Error::Purged));
    }

    #[test]
    fn bytes_beside_it_that_were_overwritten_are_noticed() {
        let _guard = TestGuard::new();
        let machinery = Machinery::make(Settings::default()).unwrap();
        let mut buffer = Buffer::take(&machinery, 7, 20).unwrap();
        buffer.push(b"sixteen bytes ok").unwrap();
        let last = buffer.lease.data_start().as_ptr().wrapping_sub(1);
        // SAFETY: the canary of our own slot.
        #[allow(unsafe_code)]
        unsafe {
            last.write(last.read() ^ 1);
        }
        let position = Position { stream: 7, index: 0, last: true };
        assert!(matches!(buffer.seal(position).err(), Some(Error::Overrun { .. })));
    }
}

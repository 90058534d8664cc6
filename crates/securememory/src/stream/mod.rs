//! Data of any length, sealed chunk by chunk.
//!
//! A chunk is a sealed object whose seal is bound to the stream and the place in it, and to whether it is the
//! last one. The table of chunks is ordinary memory, which an attacker may write to: what is believed is the
//! seals. A stream that is complete always has a chunk that is marked as its last one. So a chunk that fills
//! up is kept back until it is known whether more follows, and an empty stream has a chunk of one byte, at a
//! place where no other stream has one.

mod builder;
mod io;
#[cfg(feature = "testing")]
mod tamper;

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use crate::error::{Error, Result, WithError};
use crate::events;
use crate::store::{Buffer, Machinery, Object, Owned, Position};
pub use builder::StreamBuilder;

/// Data of any length under protection: written once from its start to its end, then read in order as often
/// as wanted.
///
/// ```
/// use std::io::{Read, Write};
/// use securememory::SecretStream;
///
/// let mut stream = SecretStream::new()?;
/// stream.write_all(b"-----BEGIN PRIVATE KEY-----\n")?;
/// stream.write_all(b"MC4CAQAwBQYDK2VwBCIEIA==\n")?;
/// stream.finish()?;
///
/// // Chunk by chunk, without a copy outside of protected memory.
/// let mut lines = 0;
/// stream.for_each_chunk(|bytes| lines += bytes.iter().filter(|&&byte| byte == b'\n').count())?;
/// assert_eq!(lines, 2);
///
/// // Or as any reader, into memory that is the caller's to wipe.
/// stream.rewind()?;
/// let mut start = [0; 10];
/// stream.read_exact(&mut start)?;
/// assert_eq!(&start, b"-----BEGIN");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// What is written fills one chunk in locked memory between guard pages, which is sealed when it is full. So
/// there is never more than one chunk of plaintext, and the locked memory is
/// the same for a kilobyte as for a gigabyte; the ciphertext lies in ordinary memory. A chunk is opened when
/// reading comes to it, and wiped when all of it was read.
///
/// The first read, [`SecretStream::rewind`] or [`SecretStream::finish`] completes the stream; then it takes
/// no more bytes. Chunks that were changed, exchanged or left out are noticed when reading comes to them, a
/// missing end at the last chunk that is there: what was read before is what was written, from its start on,
/// but only the end of the stream tells that it was all.
///
/// As a [`std::io::Write`] it never buffers outside of that chunk, and as a [`std::io::Read`] not at all;
/// their errors have an [`Error`] inside. With the feature `tokio` it is an `AsyncWrite` and an `AsyncRead`
/// as well: always ready. A call seals or opens one chunk at most, and may replace a key that is due and move a few
/// records meanwhile; for so long it blocks, and never for a peer.
///
/// Dropping a stream overwrites all of it.
#[must_use = "a stream that is dropped is wiped"]
pub struct SecretStream {
    machinery: Arc<Machinery>,
    /// Of the ids of the vault's secrets.
    id: u64,
    chunk_size: usize,
    phase: Phase,
    /// Bytes written, those in the buffer included.
    len: u64,
    chunks: Vec<Object>,
    /// While it is written, from the first byte on.
    buffer: Option<Buffer>,
    cursor: Cursor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Writing,
    Complete,
    Closed,
}

/// How far reading has come.
#[derive(Default)]
struct Cursor {
    /// The chunk that is open, or the next one.
    chunk: usize,
    open: Option<Owned>,
    /// Bytes of the open chunk that were read.
    read: usize,
    /// The chunk that is marked as the last has been opened.
    at_last: bool,
}

impl SecretStream {
    /// An empty stream in the default vault, with chunks of the default size.
    ///
    /// # Errors
    ///
    /// As [`Vault::global`](crate::Vault::global), and as [`StreamBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Begins a stream in the default vault, with chunks of another size.
    pub fn builder() -> StreamBuilder {
        StreamBuilder::in_default_vault()
    }

    /// Completes the stream: what is left is sealed as the last chunk. Of a complete stream, nothing is
    /// changed.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::Forked`], [`Error::KeyLost`], [`Error::ScratchExhausted`],
    /// [`Error::OutOfMemory`], [`Error::OverBudget`], [`Error::KeyUsedUp`], [`Error::LockTimeout`], [`Error::System`]: the stream is as it
    /// was then, with all its bytes, and it can be tried again. [`Error::Purged`] and [`Error::Revoked`]: what was
    /// written is gone. [`Error::Overrun`]: the chunk that was being filled was damaged, and is not believed any more.
    pub fn finish(&mut self) -> Result<()> {
        events::ended(self.complete())
    }

    fn complete(&mut self) -> Result<()> {
        self.check()?;
        if self.phase == Phase::Complete {
            return Ok(());
        }
        let position = self.next_position(true)?;
        let mut mark;
        let buffer = if self.len == 0 {
            mark = Buffer::take(&self.machinery, self.id, 1)?;
            mark.push(&[0])?;
            &mut mark
        } else {
            self.buffer.as_mut().ok_or(Error::Closed)?
        };
        self.chunks.push(buffer.seal(position)?);
        self.buffer = None;
        self.phase = Phase::Complete;
        Ok(())
    }

    /// Goes back to the start, and completes the stream if it was not.
    ///
    /// # Errors
    ///
    /// As [`SecretStream::finish`].
    pub fn rewind(&mut self) -> Result<()> {
        self.finish()?;
        self.cursor = Cursor::default();
        Ok(())
    }

    /// Lends what is left of the chunk that reading has come to, in protected memory, and goes on to the
    /// next. `None` at the end of the stream.
    ///
    /// # Errors
    ///
    /// [`WithError::NotRun`] as [`SecretStream::finish`], with [`Error::Tampered`] where the next chunk is
    /// not what was written there, and [`Error::Truncated`] where the end of the stream is missing.
    /// [`WithError::Ran`] with [`Error::Overrun`] where bytes beside the chunk were written meanwhile; the chunk counts
    /// as read then, and [`SecretStream::rewind`] gives it again.
    pub fn read_chunk<R>(&mut self, f: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, WithError<Option<R>>> {
        self.lend(usize::MAX, f)
    }

    /// Lends one chunk after the other, from where reading has come to, up to the end.
    ///
    /// # Errors
    ///
    /// As [`SecretStream::read_chunk`]; the chunks before were lent.
    pub fn for_each_chunk(&mut self, mut f: impl FnMut(&[u8])) -> Result<()> {
        while self.read_chunk(&mut f)?.is_some() {}
        Ok(())
    }

    /// Overwrites all of it. Later calls are [`Error::Closed`], but for a second close.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`] in a child: the stream is the parent's.
    pub fn close(&mut self) -> Result<()> {
        self.machinery.check_alive()?;
        self.phase = Phase::Closed;
        self.buffer = None;
        self.cursor = Cursor::default();
        self.chunks = Vec::new();
        Ok(())
    }

    /// How many bytes were written.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Were no bytes written?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many chunks are sealed. A complete stream has at least one, also when it is empty.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// How many bytes a chunk has, the last one excepted.
    #[must_use]
    pub fn chunk_size(&self) -> usize {
        self.chunk_size
    }

    fn check(&self) -> Result<()> {
        self.machinery.check_alive()?;
        if self.phase == Phase::Closed { Err(Error::Closed) } else { Ok(()) }
    }

    /// Takes some of the bytes, as many as fit the chunk, and says how many.
    fn append(&mut self, bytes: &[u8]) -> Result<usize> {
        self.check()?;
        if self.phase == Phase::Complete {
            return Err(Error::Complete);
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        let position = self.next_position(false)?;
        let buffer = match &mut self.buffer {
            Some(buffer) => buffer,
            none => none.insert(Buffer::take(&self.machinery, self.id, self.chunk_size)?),
        };
        if buffer.is_full() {
            let sealed = events::ended(buffer.seal(position))?;
            self.chunks.push(sealed);
        }
        let count = buffer.push(bytes)?;
        self.len = self.len.saturating_add(count as u64);
        Ok(count)
    }

    /// Makes sure that there is room for one more chunk in the table, and says where in the stream it is.
    fn next_position(&mut self, last: bool) -> Result<Position> {
        let bytes = size_of::<Object>();
        self.chunks.try_reserve(1).map_err(|_| Error::OutOfMemory { bytes })?;
        Ok(self.position(self.chunks.len(), last))
    }

    fn position(&self, chunk: usize, last: bool) -> Position {
        let index = if self.len == 0 { Position::MAX_INDEX } else { chunk as u64 };
        Position { stream: self.id, index, last }
    }

    /// Opens the chunk that reading has come to, if none is open. False at the end.
    fn advance(&mut self) -> Result<bool> {
        self.finish()?;
        if self.cursor.open.is_none() && !self.cursor.at_last {
            let (opened, last) = self.open(self.cursor.chunk)?;
            self.cursor.at_last = last;
            // The one chunk of an empty stream has said what it has to say.
            self.cursor.open = (self.len != 0).then_some(opened);
        }
        Ok(self.cursor.open.is_some())
    }

    /// Opens a chunk, and says whether it is marked as the last.
    fn open(&self, chunk: usize) -> Result<(Owned, bool)> {
        let count = self.chunks.len();
        let truncated = Error::Truncated { chunks: count as u64 };
        let object = self.chunks.get(chunk).ok_or(truncated)?;
        let last = chunk + 1 == count;
        let open = |last| object.open_owned_at(self.machinery.id, self.position(chunk, last));
        match open(last) {
            // Is it the right one, but for having been followed by others?
            Err(Error::Tampered) if last => {
                open(false)?;
                Err(truncated)
            }
            opened => Ok((opened?, last)),
        }
    }

    /// Lends at most so many bytes of the chunk that reading has come to.
    fn lend<R>(
        &mut self,
        most: usize,
        f: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>, WithError<Option<R>>> {
        self.advance().map_err(WithError::NotRun)?;
        let Some(open) = &self.cursor.open else { return Ok(None) };
        let (start, end) = (self.cursor.read, self.cursor.read.saturating_add(most).min(open.len()));
        let lent = |bytes: &[u8]| f(bytes.get(start..end).unwrap_or_default());
        let (result, outcome) = open.with(lent).map_err(WithError::NotRun)?;
        if end < open.len() {
            self.cursor.read = end;
        } else {
            let Cursor { chunk, at_last, .. } = self.cursor;
            self.cursor = Cursor { chunk: chunk + 1, at_last, ..Cursor::default() };
        }
        match outcome {
            Ok(()) => Ok(Some(result)),
            Err(error) => Err(WithError::Ran { result: Some(result), error }),
        }
    }
}

// A panic in a closure of the user's leaves the stream where it was.
impl UnwindSafe for SecretStream {}
impl RefUnwindSafe for SecretStream {}

impl fmt::Debug for SecretStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretStream")
            .field("id", &self.id)
            .field("phase", &self.phase)
            .field("len", &self.len)
            .field("chunks", &self.chunks.len())
            .field("chunk_size", &self.chunk_size)
            .finish_non_exhaustive()
    }
}

//! Steps with streams, and their model.

use std::io::{Read, Write};

use securememory::{Error, SecretStream, WithError};

use super::program::Step;
use super::reference::Vault;
use super::run::{Found, Runner, agree, catch, check, panic_on_purpose, pick};
use super::values::{Plain, Value};

/// A stream, and what must happen to it.
pub struct Stream {
    real: SecretStream,
    pub vault: usize,
    chunk: usize,
    complete: bool,
    closed: bool,
    written: Value,
    /// Purges before the chunk that is written to was taken, and the bytes in it.
    buffer: Option<(u64, usize)>,
    /// Bytes in each chunk, and purges before it was sealed.
    chunks: Vec<(usize, u64)>,
    /// The chunk that is open, or the next one; bytes of it that were read.
    at: usize,
    open: bool,
    /// The chunk that is open has been revoked by the close of its vault.
    revoked: bool,
    read: usize,
    at_last: bool,
}

impl Stream {
    pub fn real(&mut self) -> &mut SecretStream {
        &mut self.real
    }

    /// Seals what is in the chunk.
    fn seal(&mut self, vault: &mut Vault) -> Result<(), Error> {
        let Some((purges, filled)) = self.buffer else { return Err(Error::Closed) };
        if purges != vault.purges {
            return Err(vault.purged());
        }
        vault.has_room(1)?;
        vault.chunks += 1;
        self.chunks.push((filled, purges));
        self.buffer = Some((purges, 0));
        Ok(())
    }

    fn append(&mut self, vault: &mut Vault, len: usize) -> Result<usize, Error> {
        if self.closed {
            return Err(Error::Closed);
        }
        if self.complete {
            return Err(Error::Complete);
        }
        if len == 0 {
            return Ok(0);
        }
        if self.buffer.is_none() {
            vault.take_slot()?;
            self.buffer = Some((vault.purges, 0));
        }
        if self.buffer.is_some_and(|(_, filled)| filled == self.chunk) {
            self.seal(vault)?;
        }
        match &mut self.buffer {
            Some((purges, _)) if *purges != vault.purges => Err(vault.purged()),
            Some((_, filled)) => {
                let taken = len.min(self.chunk - *filled);
                *filled += taken;
                Ok(taken)
            }
            None => Err(Error::Closed),
        }
    }

    fn finish(&mut self, vault: &mut Vault) -> Result<(), Error> {
        if self.closed {
            return Err(Error::Closed);
        }
        if self.complete {
            return Ok(());
        }
        if self.written.len() == 0 && self.buffer.is_none() {
            // A chunk for the mark that there is none, and a place to seal it.
            vault.has_room(2)?;
            vault.chunks += 1;
            self.chunks.push((0, vault.purges));
        } else if self.written.len() == 0 {
            // A first write that failed has left a buffer, which ends with the stream's completion.
            vault.has_room(2)?;
            vault.chunks += 1;
            self.chunks.push((0, vault.purges));
            vault.slots -= 1;
        } else {
            self.seal(vault)?;
            vault.slots -= 1;
        }
        self.buffer = None;
        self.complete = true;
        Ok(())
    }

    /// What a read of at most so many bytes gives.
    fn lend(&mut self, vault: &mut Vault, most: usize) -> Result<Option<Value>, Error> {
        self.finish(vault)?;
        if !self.open && !self.at_last {
            vault.has_room(1)?;
            if self.chunks[self.at].1 != vault.purges {
                return Err(vault.purged());
            }
            self.at_last = self.at + 1 == self.chunks.len();
            if self.written.len() != 0 {
                vault.take_slot()?;
                self.open = true;
            }
        }
        if !self.open {
            return Ok(None);
        }
        if self.revoked {
            return Err(Error::Revoked);
        }
        let before: usize = self.chunks[..self.at].iter().map(|(len, _)| len).sum();
        let (start, end) = (self.read, self.read.saturating_add(most).min(self.chunks[self.at].0));
        let lent = self.written.part(before + start, before + end);
        if end < self.chunks[self.at].0 {
            self.read = end;
        } else {
            self.leave(vault);
            self.at += 1;
        }
        Ok(Some(lent))
    }

    /// The chunk that is open is not any more.
    fn leave(&mut self, vault: &mut Vault) {
        vault.slots -= usize::from(self.open);
        (self.open, self.revoked, self.read) = (false, false, 0);
    }

    /// Everything of it is given back.
    fn end(&mut self, vault: &mut Vault) {
        self.leave(vault);
        vault.slots -= usize::from(self.buffer.take().is_some());
        vault.chunks -= self.chunks.len() as u64;
        self.chunks.clear();
    }
}

/// The library's error inside one of the system's.
fn ours<T>(outcome: std::io::Result<T>) -> Result<T, Error> {
    outcome.map_err(|error| {
        let inside = error.get_ref().and_then(|inside| inside.downcast_ref::<Error>());
        inside.copied().unwrap_or(Error::Unsupported("no error of the library"))
    })
}

impl Runner {
    /// How many streams of a vault have a chunk open for reading.
    pub fn cursors(&self, vault: usize) -> usize {
        self.streams.iter().filter(|stream| stream.vault == vault && stream.open).count()
    }

    pub fn revoke_cursors(&mut self, vault: usize) {
        for stream in self.streams.iter_mut().filter(|stream| stream.vault == vault) {
            stream.revoked |= stream.open;
        }
    }

    pub fn end_streams(&mut self) {
        for mut stream in std::mem::take(&mut self.streams) {
            stream.end(&mut self.model.vaults[stream.vault]);
        }
    }

    fn new_stream(&mut self, number: u8, chunk: usize) -> Found {
        let Some((at, vault)) = self.vault(number) else { return Ok(()) };
        let want = if self.model.vaults[at].closed { Err(Error::Closed) } else { Ok(()) };
        let made = agree(vault.stream().chunk_size(chunk).build(), want)?;
        self.streams.extend(made.map(|real| Stream {
            real,
            vault: at,
            chunk,
            complete: false,
            closed: false,
            written: Value::default(),
            buffer: None,
            chunks: Vec::new(),
            at: 0,
            open: false,
            revoked: false,
            read: 0,
            at_last: false,
        }));
        Ok(())
    }

    pub fn step_of_stream(&mut self, step: Step) -> Found {
        let number = match step {
            Step::Stream { vault, chunk } => return self.new_stream(vault, chunk),
            Step::StreamWrite { stream, .. }
            | Step::StreamFinish { stream }
            | Step::StreamRead { stream, .. }
            | Step::StreamChunk { stream, .. }
            | Step::StreamRewind { stream }
            | Step::StreamClose { stream }
            | Step::StreamDrop { stream } => stream,
            _ => return Err(format!("{step:?} is not for here")),
        };
        let Some(at) = pick(number, self.streams.len()) else { return Ok(()) };
        let bytes = match step {
            Step::StreamWrite { len, .. } => self.draw(len),
            _ => Value::default(),
        };
        let stream = &mut self.streams[at];
        let vault = &mut self.model.vaults[stream.vault];
        match step {
            Step::StreamWrite { .. } => {
                let source = bytes.bytes();
                let want = stream.append(vault, bytes.len());
                let got = agree(ours(stream.real.write(&source)), want.map(drop))?;
                if let (Some(got), Ok(want)) = (got, want) {
                    check(got == want, || format!("{got} bytes were taken, not {want}"))?;
                    stream.written.push(&bytes.part(0, got));
                }
            }
            Step::StreamFinish { .. } => {
                let want = stream.finish(vault);
                agree(stream.real.finish(), want)?;
            }
            Step::StreamRewind { .. } => {
                let want = stream.finish(vault);
                if want.is_ok() {
                    stream.leave(vault);
                    (stream.at, stream.at_last) = (0, false);
                }
                agree(stream.real.rewind(), want)?;
            }
            Step::StreamRead { most, .. } => {
                let mut room = Plain(vec![0; most]);
                let want =
                    if most == 0 { stream.finish(vault).map(|()| None) } else { stream.lend(vault, most) };
                let got = agree(ours(stream.real.read(&mut room)), want.clone().map(drop))?;
                if let (Some(got), Ok(want)) = (got, want) {
                    let right = want.unwrap_or_default().is(&room[..got]);
                    check(right, || format!("{got} bytes were read, which are not the right ones"))?;
                }
            }
            Step::StreamChunk { panics, .. } => {
                let before = (stream.at, stream.read, stream.open);
                let want = stream.lend(vault, usize::MAX);
                let expected = want.clone().ok().flatten();
                let lent = catch(|| {
                    stream.real.read_chunk(|bytes| {
                        if panics {
                            panic_on_purpose();
                        }
                        expected.as_ref().is_some_and(|expected| expected.is(bytes))
                    })
                });
                match lent {
                    None => {
                        check(panics && expected.is_some(), || "it panicked".into())?;
                        // As it was, but that the chunk is open.
                        vault.slots += 1;
                        (stream.at, stream.read, stream.open) = (before.0, before.1, true);
                    }
                    Some(outcome) => {
                        let same = agree(outcome.map_err(|e: WithError<_>| e.error()), want.map(drop))?;
                        let right = same.is_none_or(|same| same == expected.map(|_| true));
                        check(right, || "a chunk has other bytes".into())?;
                    }
                }
            }
            Step::StreamClose { .. } => {
                stream.end(vault);
                stream.closed = true;
                agree(stream.real.close(), Ok(()))?;
            }
            _ => {
                stream.end(vault);
                self.streams.remove(at);
                return Ok(());
            }
        }
        let (chunks, len) = (stream.real.chunks(), stream.real.len());
        check(chunks == stream.chunks.len() && (stream.closed || len == stream.written.len() as u64), || {
            format!("the stream has {chunks} chunks and {len} bytes, the model {}", stream.chunks.len())
        })
    }
}

//! A stream as a reader and a writer.

use std::io::{self, Read, Write};

use crate::error::WithError;
use crate::region::bytes;
use crate::stream::SecretStream;

impl Write for SecretStream {
    /// Takes bytes up to the end of the chunk. What it says was taken is kept; on an error, nothing was.
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        Ok(self.append(from)?)
    }

    /// Does nothing: what was written is kept, and a chunk is sealed when more follows or
    /// [`SecretStream::finish`] says that nothing does.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for SecretStream {
    /// Reads bytes up to the end of the chunk; a first call that reads nothing completes the stream as well. On an
    /// error, nothing that was written to `to` may be used; after [`Error::Overrun`](crate::Error::Overrun) those
    /// bytes count as read.
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if to.is_empty() {
            self.finish()?;
            return Ok(0);
        }
        let lent = self.lend(to.len(), |from| {
            bytes::copy_slice(to, from);
            from.len()
        });
        let read = lent.map_err(|error: WithError<_>| error.error())?;
        Ok(read.unwrap_or(0))
    }
}

#[cfg(feature = "tokio")]
mod with_tokio {
    use std::io::{self, Read, Write};
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use crate::stream::SecretStream;

    // Ready at once: there is nothing to wait for.
    impl AsyncWrite for SecretStream {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(self.write(from))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        /// Completes the stream.
        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(self.finish()?))
        }
    }

    impl AsyncRead for SecretStream {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            to: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let read = self.read(to.initialize_unfilled());
            Poll::Ready(read.map(|count| to.advance(count)))
        }
    }
}

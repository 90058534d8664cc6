//! What someone who can write to ordinary memory could do to a stream's table of chunks; for tests.

use crate::status::AtRest;
use crate::stream::SecretStream;

#[doc(hidden)]
impl SecretStream {
    pub fn swap_chunks(&mut self, one: usize, other: usize) {
        self.chunks.swap(one, other);
    }

    pub fn drop_chunk(&mut self, chunk: usize) {
        drop(self.chunks.remove(chunk));
    }

    pub fn truncate(&mut self, chunks: usize) {
        self.chunks.truncate(chunks);
    }

    pub fn exchange_chunk(&mut self, chunk: usize, other: &mut Self, others: usize) {
        std::mem::swap(&mut self.chunks[chunk], &mut other.chunks[others]);
    }

    pub fn set_len(&mut self, len: u64) {
        self.len = len;
    }

    /// Where the sealed chunk lies.
    pub fn chunk_at_rest(&self, chunk: usize) -> Option<AtRest> {
        self.chunks[chunk].status().at_rest
    }
}

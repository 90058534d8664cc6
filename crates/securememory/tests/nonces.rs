//! No nonce is used twice: not by two threads, not under two keys, not on the two sides of a fork.
#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests end by panics, fork, and read what is at rest"
)]

mod common;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;

use common::case;
use securememory::{AtRest, Secret, Store, Vault};

type Nonce = [u8; 32];

/// So many bytes of a nonce are all that one of the ciphers takes.
const FIRST: usize = 12;

/// Pieces of memory that the records of one secret lie in, turn by turn.
const PIECES: usize = 6;

/// One secret, and all the places where its records can lie.
struct Watched {
    secret: Secret,
    len: usize,
    places: Vec<usize>,
    last: [Nonce; PIECES],
}

fn place(secret: &Secret) -> usize {
    let AtRest { address, .. } = secret.status().at_rest.unwrap();
    address
}

impl Watched {
    /// Of a length whose records lie in pieces that no other secret uses.
    fn new(vault: &Vault, len: usize) -> Self {
        let make = |_| vault.secret().random(len).unwrap();
        let mut all: Vec<Secret> = (0..PIECES).map(make).collect();
        let places = all.iter().map(place).collect();
        // The others leave their pieces to its next records.
        Self { secret: all.swap_remove(0), len, places, last: [[0; 32]; PIECES] }
    }

    /// Adds the nonces that were not there the last time.
    fn look(&mut self, into: &mut Vec<Nonce>) {
        for (&place, last) in self.places.iter().zip(&mut self.last) {
            // SAFETY: memory of a vault that lives. Another thread may be writing there: then half of a nonce
            // is seen, and all of it the next time.
            let now = unsafe { std::ptr::with_exposed_provenance::<Nonce>(place).read_volatile() };
            // A piece that is free is zero.
            if now != *last && now[16..] != [0; 16] {
                if now[..FIRST] == last[..FIRST] {
                    into.retain(|half| half != last);
                }
                into.push(now);
            }
            *last = now;
        }
    }

    fn replace(&self) {
        self.secret.replace(&mut vec![1; self.len]).unwrap();
    }
}

/// So many seals in each of two threads of a vault whose keys turn over.
fn seal(vault: &Vault, count: usize) -> Vec<Nonce> {
    let mut watched: Vec<_> = [32, 300].map(|len| Watched::new(vault, len)).into();
    std::thread::scope(|scope| {
        let work = |mut one: Watched| {
            let mut seen = Vec::new();
            for _ in 0..count {
                one.replace();
                one.look(&mut seen);
            }
            seen
        };
        let threads: Vec<_> = watched.drain(..).map(|one| scope.spawn(move || work(one))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// The nonces of a vault that a child makes.
fn seal_in_child(count: usize) -> Vec<Nonce> {
    let mut ends = [0; 2];
    // SAFETY: makes two descriptors; the child ends with `_exit`, and no other thread of ours runs that could
    // have a lock.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        let pid = libc::fork();
        assert!(pid >= 0);
        if pid == 0 {
            let made = std::panic::catch_unwind(|| seal(&vault(), count));
            let written = made
                .is_ok_and(|made| std::fs::File::from_raw_fd(ends[1]).write_all(made.as_flattened()).is_ok());
            libc::_exit(if written { 0 } else { 1 });
        }
        libc::close(ends[1]);
        let mut bytes = Vec::new();
        std::fs::File::from_raw_fd(ends[0]).read_to_end(&mut bytes).unwrap();
        let mut status = -1;
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        assert_eq!(status, 0);
        bytes.chunks_exact(32).map(|nonce| nonce.try_into().unwrap()).collect()
    }
}

fn vault() -> Vault {
    Vault::builder().store(Store::Sealed).refresh_after_seals(500).build().unwrap()
}

#[test]
fn no_nonce_comes_twice() {
    case("no_nonce_comes_twice").run(|| {
        let vault = vault();
        let (mut all, mut seen) = (HashSet::new(), 0);
        for _ in 0..5 {
            let mut made = seal(&vault, 20_000);
            // From the same state of the parent twice.
            made.extend((0..2).flat_map(|_| seal_in_child(500)));
            seen += made.len();
            all.extend(made);
        }
        println!("{seen} nonces, epoch {}", vault.status().epoch);
        assert_eq!(all.len(), seen);
        // Usually all of 205,000; on a busy machine a thread misses what another's records make place for.
        assert!(seen > common::tries(100_000) && vault.status().epoch > 100);
        // Nor do their first bytes, which are all that some of the ciphers take.
        assert_eq!(all.iter().map(|nonce| &nonce[..FIRST]).collect::<HashSet<_>>().len(), seen);
    });
}

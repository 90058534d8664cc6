//! What a peer is: something that takes bytes, keeps them, and gives them out for the length of a call.
//!
//! A peer is a file in `peers/` that implements [`Peer`]; what is timed is made from it by [`job`], the same way for
//! all, ours too. Everything is generic, so that no peer pays for a call through a pointer.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::work::{self, Job, Work};

/// What a stray read inside the process finds of a secret while nobody uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AtRest {
    /// It faults.
    Inaccessible,
    /// Ciphertext. Where the key is differs: the notes say it.
    Encrypted,
    /// The secret.
    Readable,
}

impl AtRest {
    pub fn word(self) -> &'static str {
        match self {
            Self::Inaccessible => "inaccessible",
            Self::Encrypted => "encrypted",
            Self::Readable => "readable",
        }
    }
}

/// A library, set up the way its documentation shows.
pub trait Peer: Sized + 'static {
    /// One secret. It is moved to other threads, so it must be fit for that.
    type Secret: Send + 'static;
    /// The same, for two threads at once: itself where its type allows that, else behind a mutex, as the compiler
    /// would force anyone to do it.
    type Shared: Send + Sync + 'static;

    /// Takes these bytes and is at rest afterwards. Those that wipe the source do so here.
    fn create(&self, source: &mut [u8]) -> Result<Self::Secret, Failure>;

    /// From at rest, over a look at the bytes, to at rest.
    fn read(secret: &mut Self::Secret, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure>;

    /// From at rest, over a change of the bytes in place, to at rest.
    fn write(secret: &mut Self::Secret, change: impl FnOnce(&mut [u8])) -> Result<(), Failure>;

    fn share(secret: Self::Secret) -> Self::Shared;

    /// As `read`, while another thread may be doing the same.
    fn read_shared(shared: &Self::Shared, look: impl FnOnce(&[u8]) -> u64) -> Result<u64, Failure>;
}

/// For peers whose secrets only one thread at a time may use.
macro_rules! behind_a_mutex {
    () => {
        type Shared = std::sync::Mutex<Self::Secret>;

        fn share(secret: Self::Secret) -> Self::Shared {
            std::sync::Mutex::new(secret)
        }

        fn read_shared(
            shared: &Self::Shared,
            look: impl FnOnce(&[u8]) -> u64,
        ) -> Result<u64, $crate::Failure> {
            let mut secret = shared.lock().map_err(|_| "a thread panicked with the lock")?;
            Self::read(&mut secret, look)
        }
    };
}
pub(crate) use behind_a_mutex;

/// What a reader does at the least: every byte passes through a register.
pub fn look_at(bytes: &[u8]) -> u64 {
    bytes.as_chunks().0.iter().fold(0, |sum, word| sum ^ u64::from_ne_bytes(*word))
}

/// Makes what is timed, and checks first that the peer gives back what it was given.
pub fn job<P: Peer>(peer: P, work: Work) -> Result<Job, Failure> {
    check(&peer)?;
    Ok(match work {
        Work::CreateDrop(len) => Job::Cost(work::cost::create_and_drop(peer, len)),
        Work::Create(len) => Job::Cost(work::cost::create(peer, len)),
        Work::Read(len) => Job::Cost(work::cost::read(&peer, len)?),
        Work::Write(len) => Job::Cost(work::cost::write(&peer, len)?),
        Work::Busy => Job::Busy(work::cost::read(&peer, 32)?),
        Work::TwoSame => {
            let shared = Arc::new(shared(&peer)?);
            Job::Two([work::two::reader::<P>(Arc::clone(&shared)), work::two::reader::<P>(shared)])
        }
        Work::TwoDifferent => Job::Two([
            work::two::reader::<P>(Arc::new(shared(&peer)?)),
            work::two::reader::<P>(Arc::new(shared(&peer)?)),
        ]),
        Work::LimitRoot | Work::LimitUser => Job::Once(work::limit::job(peer)),
        Work::Memory => Job::Once(work::memory::job(peer)),
    })
}

fn shared<P: Peer>(peer: &P) -> Result<P::Shared, Failure> {
    Ok(P::share(peer.create(&mut [0x5a; 32])?))
}

fn check<P: Peer>(peer: &P) -> Result<(), Failure> {
    let mut source = *b"thirty-two bytes, to be kept....";
    let mut secret = peer.create(&mut source)?;
    P::write(&mut secret, |bytes| bytes[0] = b'T')?;
    let whole = b"Thirty-two bytes, to be kept....";
    // One of the peers keeps a byte less: its file says why.
    let same = P::read(&mut secret, |bytes| u64::from(bytes.len() >= 31 && whole.starts_with(bytes)))?;
    if same == 1 { Ok(()) } else { Err("it does not give back what it was given".into()) }
}

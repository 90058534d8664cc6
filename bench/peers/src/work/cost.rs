//! What one operation costs on one thread.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::Batch;
use crate::Failure;
use crate::peer::{Peer, look_at};

/// Up to so many bytes the source is written anew for each creation. Larger ones would measure that; their contents
/// do not matter to anyone here.
const REFILLED: usize = 4 << 10;

/// Times repetitions as a whole.
pub fn each<T>(mut once: impl FnMut() -> Result<T, Failure> + 'static) -> Batch {
    Box::new(move |count| {
        let begin = Instant::now();
        for _ in 0..count {
            black_box(once()?);
        }
        Ok(begin.elapsed())
    })
}

pub fn create_and_drop<P: Peer>(peer: P, len: usize) -> Batch {
    if len == 32 {
        // On the stack, where such a source usually is.
        return each(move || {
            drop(peer.create(black_box(&mut [0x5a; 32]))?);
            Ok(())
        });
    }
    let mut source = vec![0x5a; len];
    each(move || {
        if len <= REFILLED {
            source.fill(0x5a);
        }
        drop(peer.create(black_box(&mut source))?);
        Ok(())
    })
}

/// Without the drop: for lengths at which two looks at the clock are nothing.
pub fn create<P: Peer>(peer: P, len: usize) -> Batch {
    let mut source = vec![0x5a; len];
    alone(move || peer.create(black_box(&mut source)))
}

/// Times each call, but not the drop of what it returns.
pub fn alone<T>(mut once: impl FnMut() -> Result<T, Failure> + 'static) -> Batch {
    Box::new(move |count| {
        let mut sum = Duration::ZERO;
        for _ in 0..count {
            let begin = Instant::now();
            let made = black_box(once()?);
            sum += begin.elapsed();
            drop(made);
        }
        Ok(sum)
    })
}

pub fn read<P: Peer>(peer: &P, len: usize) -> Result<Batch, Failure> {
    let mut secret = peer.create(&mut vec![0x5a; len])?;
    Ok(each(move || P::read(&mut secret, look_at)))
}

pub fn write<P: Peer>(peer: &P, len: usize) -> Result<Batch, Failure> {
    let mut secret = peer.create(&mut vec![0x5a; len])?;
    Ok(each(move || P::write(&mut secret, |bytes| bytes[0] = bytes[0].wrapping_add(1))))
}

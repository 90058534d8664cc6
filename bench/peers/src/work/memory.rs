//! What secrets of 32 bytes take: memory, locked memory, mappings, descriptors; each, and once for all.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::Once;
use crate::peer::Peer;
use crate::{Failure, proc};

/// Fewer where they cannot all be made.
const SECRETS: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// How many were made after the first.
    pub made: usize,
    /// What the peer and its first secret took.
    pub first: Usage,
    /// What the others took, each.
    pub each: Usage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    pub resident: f64,
    pub locked: f64,
    pub mappings: f64,
    pub descriptors: f64,
}

impl Usage {
    fn now() -> Result<Self, Failure> {
        Ok(Self {
            resident: proc::resident()? as f64,
            locked: proc::locked()? as f64,
            mappings: proc::mappings()? as f64,
            descriptors: proc::descriptors()? as f64,
        })
    }

    fn since(self, before: Self, of: usize) -> Self {
        let of = of.max(1) as f64;
        Self {
            resident: (self.resident - before.resident) / of,
            locked: (self.locked - before.locked) / of,
            mappings: (self.mappings - before.mappings) / of,
            descriptors: (self.descriptors - before.descriptors) / of,
        }
    }
}

/// What the process has before any peer was set up.
static BEFORE: OnceLock<Usage> = OnceLock::new();

pub fn note_before() -> Result<(), Failure> {
    // The listing of descriptors and the text of smaps take memory, too: the first time.
    Usage::now()?;
    let _ = BEFORE.set(Usage::now()?);
    Ok(())
}

pub fn job<P: Peer>(peer: P) -> Once {
    Box::new(move || {
        let before = BEFORE.get().ok_or("nothing was noted before")?;
        // The handles count, too: some peers keep the ciphertext in them.
        let mut secrets: Vec<P::Secret> = Vec::with_capacity(SECRETS + 1);
        secrets.push(peer.create(&mut [0x5a; 32])?);
        let one = Usage::now()?;
        while secrets.len() <= SECRETS {
            match peer.create(&mut [0x5a; 32]) {
                Ok(secret) => secrets.push(secret),
                Err(_) => break,
            }
        }
        let all = Usage::now()?;
        let made = secrets.len() - 1;
        let memory = Memory { made, first: one.since(*before, 1), each: all.since(one, made) };
        // What is measured is not how they end.
        std::mem::forget(secrets);
        Ok(serde_json::to_string(&memory)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_takes_is_the_difference_over_their_number() {
        let usage =
            |bytes: f64| Usage { resident: bytes, locked: bytes / 2.0, mappings: 3.0, descriptors: 7.0 };
        let each = usage(9000.0).since(usage(1000.0), 100);
        assert_eq!(each, Usage { resident: 80.0, locked: 40.0, mappings: 0.0, descriptors: 0.0 });
        // None could be made: no division by zero.
        assert_eq!(usage(5.0).since(usage(5.0), 0).resident, 0.0);
    }
}

//! On which processor a process with one thread is.
//!
//! It begins on one and stays there. One that has moved pays for that with each of its protection changes, since the other
//! processor is told of them, too: for up to a second on new kernels, half a microsecond each on the machine on which this
//! was written. It would be chance who has to.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Failure;

/// Keeps the calling thread, and what it starts, on one processor; until it is dropped.
pub struct Kept(CpuSet);

impl Kept {
    /// On one of those that this process may use: another one in each pass.
    pub fn on(pass: usize) -> Result<Self, Failure> {
        let allowed = sched_getaffinity(None)?;
        let mut one = CpuSet::new();
        one.set(nth(&allowed, pass).ok_or("no processor may be used")?);
        sched_setaffinity(None, &one)?;
        Ok(Self(allowed))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // It was allowed a moment ago.
        let _ = sched_setaffinity(None, &self.0);
    }
}

fn nth(allowed: &CpuSet, pass: usize) -> Option<usize> {
    let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    all.get(pass.checked_rem(all.len())?).copied()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_what_is_allowed_is_taken_and_given_back() {
        let mut allowed = CpuSet::new();
        assert_eq!(nth(&allowed, 0), None);
        allowed.set(1);
        allowed.set(3);
        assert_eq!([0, 1, 2].map(|pass| nth(&allowed, pass)), [Some(1), Some(3), Some(1)]);

        let before = sched_getaffinity(None).unwrap();
        let kept = Kept::on(1).unwrap();
        assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
        drop(kept);
        assert!(sched_getaffinity(None).unwrap() == before);
    }
}

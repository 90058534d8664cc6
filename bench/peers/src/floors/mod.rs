//! The floors: bare system calls and the bare cipher, with nothing around them. No gate, no check value, no canary, no
//! associated data, no scrubbing. They protect nothing by themselves: they say what cannot be had for less.

// Mapping, protecting and locking memory by hand, and calling the bare cipher, is the whole purpose of these files.
#![allow(unsafe_code)]

pub mod calls;
pub mod cipher;
pub mod large;
pub mod pkey;
mod region;

use crate::work::{Job, Work, cost, two};
use crate::{Failure, Skipped};

/// What is called as one operation.
type Result<T> = std::result::Result<T, Failure>;

/// A floor that is the same thing in every work: on one thread, beside the neighbour, on two threads.
pub fn job<T: Send + 'static>(
    work: Work,
    make: impl Fn() -> Result<T>,
    call: impl Fn(&mut T) -> Result<u64> + Send + Copy + 'static,
) -> Result<Job> {
    Ok(match work {
        Work::Busy => {
            let mut it = make()?;
            Job::Busy(cost::each(move || call(&mut it)))
        }
        Work::TwoSame | Work::TwoDifferent => {
            let (mut one, mut other) = (make()?, make()?);
            Job::Two([two::again(move || call(&mut one)), two::again(move || call(&mut other))])
        }
        _ => {
            let mut it = make()?;
            Job::Cost(cost::each(move || call(&mut it)))
        }
    })
}

/// The floor needs something that this machine has not.
fn absent(what: &str) -> Failure {
    Skipped(what.into()).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_floor_can_be_called() {
        calls::bare_call(&mut ()).unwrap();
        let mut page = calls::Page::new().unwrap();
        calls::pair(&mut page).unwrap();
        assert_eq!(calls::pair_and_look(&mut page).unwrap(), 0);
        calls::six(&mut ()).unwrap();
        calls::fetch(&mut calls::Share::new().unwrap()).unwrap();
        let mut cipher = cipher::Cipher::new().unwrap();
        for call in
            [cipher::open, cipher::seal, cipher::fetch_and_open, cipher::fetch_and_seal, cipher::rewrite]
        {
            call(&mut cipher).unwrap();
        }
        for wide in [false, true] {
            let mut large = large::Large::new(1 << 20, wide).unwrap();
            large::open_and_wipe(&mut large).unwrap();
            large::seal_and_wipe(&mut large).unwrap();
            // What was sealed is what comes out: all zeros, since the source was wiped.
            assert_eq!(large::open_and_wipe(&mut large).unwrap(), 0);
        }
    }

    #[test]
    fn a_protection_key_works_or_is_said_to_be_absent() {
        match pkey::Pkey::new() {
            Ok(mut key) => assert!(pkey::pair(&mut key).is_ok()),
            Err(failure) => assert!(failure.is::<Skipped>(), "{failure}"),
        }
    }
}

//! Very many secrets, each with a value of its own, and what is done with all or a sample of them.

use std::time::{Duration, Instant};

use securememory::{Closed, Error, Secret, Vault};

use super::LEN;
use super::report::Report;
use crate::bench::measure::median;
use crate::stress::random::Random;
use crate::stress::value;

/// Secrets that are read or asked in turn, chosen at random.
pub(super) const SAMPLE: usize = 100_000;
/// Secrets that are changed.
const CHANGES: usize = 10_000;
/// Creations of which a median is taken.
const TIMED: usize = 1_000;
/// One in so many is closed before all are dropped.
const CLOSED: usize = 4;

/// The secrets. A secret's number is its place.
pub(super) struct Crowd {
    places: Vec<Option<Secret>>,
    changed: Vec<bool>,
    made: usize,
    /// Nanoseconds of the second [`TIMED`] creations.
    second: Vec<f64>,
    /// Of the last ones, as a ring.
    last: Vec<f64>,
}

impl Crowd {
    /// Room for so many, all of it in use already: the places are no part of what is measured.
    pub(super) fn new(count: usize) -> Self {
        let (mut places, mut changed) = (Vec::with_capacity(count), Vec::with_capacity(count));
        places.resize_with(count, || None);
        changed.resize(count, false);
        Self { places, changed, made: 0, second: Vec::with_capacity(TIMED), last: vec![f64::NAN; TIMED] }
    }

    /// Makes a secret for each place, or as many as can be.
    pub(super) fn fill(&mut self, vault: &Vault) -> Result<(), Error> {
        let mut bytes = [0; LEN];
        for (number, place) in self.places.iter_mut().enumerate() {
            value::write(&mut bytes, number as u64, 0);
            let begin = Instant::now();
            let secret = vault.secret().from_bytes(&mut bytes)?;
            let nanos = begin.elapsed().as_nanos() as f64;
            *place = Some(secret);
            self.made = number + 1;
            if (TIMED..2 * TIMED).contains(&number) {
                self.second.push(nanos);
            }
            self.last[number % TIMED] = nanos;
        }
        Ok(())
    }

    pub(super) fn made(&self) -> usize {
        self.made
    }

    /// The medians of the second and of the last thousand creations, where those are different ones.
    pub(super) fn creations(&mut self) -> Option<(f64, f64)> {
        let enough = self.made >= 3 * TIMED;
        enough.then(|| (median(&mut self.second), median(&mut self.last)))
    }

    /// One that is there, at random.
    #[inline]
    fn any(&self, random: &mut Random) -> Option<(usize, &Secret)> {
        let start = random.below(self.made.max(1));
        let found = |number: usize| self.places.get(number)?.as_ref().map(|secret| (number, secret));
        // Of those beside each other only one is closed.
        found(start).or_else(|| found(start + 1)).or_else(|| found(start.checked_sub(1)?))
    }

    /// Reads one and checks every byte.
    pub(super) fn read_any(&self, random: &mut Random) -> Result<(), String> {
        let Some((number, secret)) = self.any(random) else { return Err("there is no secret".to_owned()) };
        let wanted = u64::from(self.changed[number]);
        match secret.with(|bytes| value::check(bytes, number as u64)) {
            Ok(Ok(version)) if version == wanted => Ok(()),
            Ok(Ok(version)) => Err(format!("secret {number} has version {version} instead of {wanted}")),
            Ok(Err(wrong)) => Err(format!("secret {number}: {}", wrong.what)),
            Err(error) => Err(format!("secret {number} cannot be read: {}", error.error())),
        }
    }

    /// Reads a sample; nanoseconds of each.
    pub(super) fn read_sample(&self, report: &mut Report) -> Option<f64> {
        let mut random = Random::new(1);
        let begin = Instant::now();
        for _ in 0..SAMPLE {
            if let Err(what) = self.read_any(&mut random) {
                report.wrong(what);
            }
        }
        each(begin.elapsed(), SAMPLE)
    }

    /// Tries to read a sample, and wants each to be refused in the right way.
    pub(super) fn refused_sample(&self, report: &mut Report, is_right: impl Fn(&Error) -> bool) {
        let mut random = Random::new(2);
        for _ in 0..SAMPLE {
            let Some((number, secret)) = self.any(&mut random) else { return };
            match secret.with(|bytes| bytes.len()).map_err(|error| error.error()) {
                Err(error) if is_right(&error) => {}
                Err(error) => report.wrong(format!("secret {number} is refused with: {error}")),
                Ok(_) => report.wrong(format!("secret {number} can still be read")),
            }
        }
    }

    /// Changes a sample; nanoseconds of each.
    pub(super) fn change_sample(&mut self, report: &mut Report) -> Option<f64> {
        let mut random = Random::new(3);
        let mut changes = 0;
        let begin = Instant::now();
        for _ in 0..CHANGES {
            let Some((number, secret)) = self.any(&mut random) else { break };
            let changed = secret.view_mut().and_then(|mut view| {
                value::write(&mut view, number as u64, 1);
                view.commit()
            });
            match changed {
                Ok(()) => self.changed[number] = true,
                Err(error) => report.wrong(format!("secret {number} cannot be changed: {error}")),
            }
            changes += 1;
        }
        each(begin.elapsed(), changes)
    }

    /// Closes one in a few, never the only one, and sees that those cannot be read any more; nanoseconds of a
    /// close.
    pub(super) fn close_some(&mut self, report: &mut Report) -> Option<f64> {
        let (mut closes, mut time) = (0, Duration::ZERO);
        for (number, place) in self.places.iter_mut().enumerate().skip(1).step_by(CLOSED) {
            let Some(secret) = place.take() else { continue };
            let begin = Instant::now();
            let closed = secret.close();
            time += begin.elapsed();
            closes += 1;
            if closed != Ok(Closed::Closed) {
                report.wrong(format!("secret {number} cannot be closed: {closed:?}"));
            }
            if secret.view().map(drop) != Err(Error::Closed) {
                report.wrong(format!("secret {number} was closed and is not"));
            }
        }
        each(time, closes)
    }

    /// Drops all; nanoseconds of each.
    pub(super) fn drop_all(&mut self) -> Option<f64> {
        let there = self.places.iter().flatten().count();
        let begin = Instant::now();
        self.places.iter_mut().for_each(|place| *place = None);
        let time = begin.elapsed();
        self.made = 0;
        self.changed.fill(false);
        self.second.clear();
        each(time, there)
    }
}

/// Makes, reads and drops one secret with a value of its own.
pub(super) fn one_works(vault: &Vault) -> Result<(), String> {
    let mut bytes = [0; LEN];
    value::write(&mut bytes, u64::MAX, 0);
    let secret = vault.secret().from_bytes(&mut bytes).map_err(|error| error.to_string())?;
    match secret.with(|bytes| value::check(bytes, u64::MAX)) {
        Ok(Ok(0)) => Ok(()),
        Ok(other) => Err(format!("wrong bytes: {other:?}")),
        Err(error) => Err(error.error().to_string()),
    }
}

fn each(time: Duration, count: usize) -> Option<f64> {
    (count > 0).then(|| time.as_nanos() as f64 / count as f64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use securememory::Store;

    #[test]
    fn what_is_wrong_is_found() {
        let vault = Vault::builder().store(Store::Sealed).build().unwrap();
        let mut crowd = Crowd::new(3_000);
        crowd.fill(&vault).unwrap();
        let mut report = Report::new("sealed", 3_000);
        assert!(crowd.creations().unwrap().1 > 0.0);
        crowd.read_sample(&mut report);
        crowd.change_sample(&mut report);
        crowd.read_sample(&mut report);
        assert!(report.is_right(), "{}", report.text());
        crowd.refused_sample(&mut report, |_| true);
        assert!(report.text().contains("can still be read"), "{}", report.text());

        // A change that nobody knows of, and a value in a wrong place.
        for spoil in [
            |crowd: &mut Crowd| crowd.changed.iter_mut().for_each(|changed| *changed = !*changed),
            |crowd: &mut Crowd| crowd.places.rotate_left(1),
        ] {
            let mut report = Report::new("sealed", 3_000);
            spoil(&mut crowd);
            crowd.read_sample(&mut report);
            assert!(!report.is_right());
        }

        let mut report = Report::new("sealed", 3_000);
        assert!(crowd.close_some(&mut report).is_some() && report.is_right(), "{}", report.text());
        assert_eq!(vault.status().secrets, 2_250);
        crowd.drop_all();
        assert_eq!(vault.status().secrets, 0);
        crowd.read_sample(&mut report);
        assert!(!report.is_right(), "nothing to read shows nothing");
    }
}

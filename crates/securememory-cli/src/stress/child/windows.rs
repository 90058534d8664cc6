//! Windows has no fork: no thread is told to, and a saboteur who is cannot.

use std::sync::Arc;

use crate::stress::scene::Entry;
use crate::stress::tally::Tally;

/// A finding.
pub fn fork(tally: &Tally, _: &[Arc<Entry>], _: Option<&[u8]>, _: bool) {
    tally.unexpected("there is no fork here".to_owned());
}

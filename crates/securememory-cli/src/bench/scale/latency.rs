//! How long each of very many calls took, in constant memory.

/// Each power of two is divided into so many steps: what is told is at most 1/32 too long.
const STEPS: usize = 1 << STEP_BITS;
const STEP_BITS: u32 = 5;
/// Enough for every number of 64 bits.
const PLACES: usize = (64 - STEP_BITS as usize + 1) * STEPS;

/// A count of calls for each duration.
pub(super) struct Latencies {
    counts: Vec<u64>,
    total: u64,
}

impl Latencies {
    pub(super) fn new() -> Self {
        Self { counts: vec![0; PLACES], total: 0 }
    }

    #[inline]
    pub(super) fn add(&mut self, nanos: u64) {
        if let Some(count) = self.counts.get_mut(place(nanos)) {
            *count += 1;
            self.total += 1;
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The duration that `parts` of ten thousand calls do not exceed; `None` where there were too few to
    /// tell.
    pub(super) fn within(&self, parts: u64) -> Option<u64> {
        let rest = 10_000u64.saturating_sub(parts);
        if self.total == 0 || self.total.saturating_mul(rest) < 10_000 {
            return None;
        }
        let mut left = self.total - self.total.saturating_mul(rest) / 10_000;
        let found = self.counts.iter().position(|&count| {
            left = left.saturating_sub(count);
            left == 0
        });
        found.map(longest)
    }
}

/// Where a duration is counted.
fn place(nanos: u64) -> usize {
    let Some(shift) = (u64::BITS - STEP_BITS - 1).checked_sub(nanos.leading_zeros()) else {
        return nanos as usize;
    };
    // The leading bit is always set, so each shift has STEPS places, after the first STEPS that are exact.
    shift as usize * STEPS + (nanos >> shift) as usize
}

/// The longest duration that is counted there.
fn longest(place: usize) -> u64 {
    let Some(shift) = (place / STEPS).checked_sub(1) else { return place as u64 };
    let leading = (STEPS + place % STEPS) as u64;
    (leading << shift) | ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn places_are_in_order_and_narrow() {
        let mut last = 0;
        for bits in 0..64u32 {
            for nanos in [1 << bits, (1 << bits) + (1 << bits) / 3, u64::MAX >> (63 - bits)] {
                let place = place(nanos);
                assert!(place >= last && place < PLACES, "{nanos}");
                last = place;
                let told = longest(place);
                assert!(told >= nanos && told - nanos <= nanos / 32, "{nanos} is told as {told}");
                assert_eq!(super::place(told), place);
                assert!(told == u64::MAX || super::place(told + 1) == place + 1);
            }
        }
        assert_eq!(place(0), 0);
    }

    #[test]
    fn a_share_of_the_calls_is_told_where_there_are_enough() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.within(5_000), None);
        for nanos in 1..=9_999 {
            latencies.add(nanos);
        }
        assert_eq!(latencies.within(9_999), None, "not one of ten thousand");
        latencies.add(1 << 30);
        // All but the longest.
        let told = latencies.within(9_999).unwrap();
        assert!((9_999..9_999 + 9_999 / 32).contains(&told), "{told}");
        let told = latencies.within(5_000).unwrap();
        assert!((5_000..5_000 + 5_000 / 32).contains(&told), "{told}");
        latencies.add(1 << 30);
        latencies.add(1 << 30);
        assert!(latencies.within(9_999).unwrap() >= 1 << 30);
        assert_eq!(latencies.total(), 10_002);
    }
}

//! Medians and ratios.

use std::collections::BTreeMap;

/// One figure for each turn, by pass and turn within it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series(BTreeMap<(usize, usize), f64>);

impl Series {
    pub fn insert(&mut self, pass: usize, turn: usize, figure: f64) {
        self.0.insert((pass, turn), figure);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn median(&self) -> f64 {
        median(self.0.values().copied().collect())
    }

    pub fn least(&self) -> f64 {
        self.0.values().copied().fold(f64::INFINITY, f64::min)
    }

    pub fn most(&self) -> f64 {
        self.0.values().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// The median of each pass, in order.
    pub fn passes(&self) -> Vec<f64> {
        let mut passes: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for (&(pass, _), &figure) in &self.0 {
            passes.entry(pass).or_default().push(figure);
        }
        passes.into_values().map(median).collect()
    }

    /// This over that, turn by turn: both saw the same machine. A ratio of two medians could come from turns that had
    /// nothing to do with each other.
    pub fn over(&self, other: &Self) -> Self {
        let both = self.0.iter().filter_map(|(turn, figure)| Some((*turn, figure / other.0.get(turn)?)));
        Self(both.collect())
    }
}

/// Of an even number, the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match (values.get(half), half.checked_sub(1).and_then(|below| values.get(below))) {
        (Some(upper), Some(lower)) if values.len().is_multiple_of(2) => (upper + lower) / 2.0,
        (Some(middle), _) => *middle,
        (None, _) => f64::NAN,
    }
}

#[cfg(test)]
pub fn series(figures: &[f64]) -> Series {
    // Two turns a pass.
    let mut series = Series::default();
    for (index, figure) in figures.iter().enumerate() {
        series.insert(index / 2, index % 2, *figure);
    }
    series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_outliers() {
        assert_eq!(median(vec![900.0, 1.0, 3.0, 2.0, 2.5]), 2.5);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 100.0]), 3.0);
        assert_eq!(median(vec![7.0]), 7.0);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn a_ratio_is_that_of_the_same_turns() {
        // The machine was ten times as slow in half of the turns: both are, and the ratio is not.
        let ours = series(&[20.0, 200.0, 20.0, 200.0]);
        let theirs = series(&[10.0, 100.0, 10.0, 100.0]);
        let ratio = ours.over(&theirs);
        assert_eq!((ratio.median(), ratio.least(), ratio.most()), (2.0, 2.0, 2.0));
        // What only one of them has does not count.
        let ratio = ours.over(&series(&[10.0]));
        assert_eq!(ratio.median(), 2.0);
        assert!(ours.over(&Series::default()).is_empty());
    }

    #[test]
    fn passes_have_medians_of_their_own() {
        assert_eq!(series(&[1.0, 3.0, 10.0, 10.0, 7.0]).passes(), [2.0, 10.0, 7.0]);
    }
}

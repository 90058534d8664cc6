//! Searches bytes for windows of needles without ever unmasking a needle.

use std::collections::HashMap;
use std::hint::black_box;
use std::ops::Range;

use super::needle::{Needle, WINDOW};

/// A print is a number of a few bits, so that all prints that occur can be marked in a table that stays in the
/// processor's cache. It is linear under exclusive-or, so that the print of a window follows from the prints of
/// its two masked halves.
type Print = u32;
/// The bits of a print at most; fewer for fewer windows.
const PRINT_BITS: u32 = 24;

/// What most of memory is.
const ZEROS: [u8; 64] = [0; 64];

/// Searches for several needles at once and remembers what it found.
#[derive(Clone)]
pub struct Finder {
    /// One bit for each print that some window has.
    prints: Vec<u64>,
    /// The bits of a print that count.
    mask: Print,
    /// The windows, sorted by print.
    windows: Vec<Window>,
    needles: Vec<Seen>,
}

#[derive(Clone)]
struct Window {
    print: Print,
    needle: usize,
    /// Where in the needle: several places if the needle repeats itself.
    numbers: Vec<u32>,
    masked: u64,
    mask: u64,
    found: bool,
}

#[derive(Clone, Default)]
struct Seen {
    windows: usize,
    found: usize,
    first: Option<usize>,
    ignored: Vec<Range<usize>>,
}

impl Finder {
    /// Prepares to search for these needles; afterwards they go by their number here.
    pub fn new(needles: &[&Needle]) -> Self {
        let windows: usize = needles.iter().map(|needle| needle.len()).sum();
        // Hundreds of prints for each window: few false alarms.
        let bits = (usize::BITS - windows.leading_zeros() + 8).clamp(16, PRINT_BITS);
        let mut finder = Self {
            prints: vec![0; 1 << (bits - 6)],
            mask: (1 << bits) - 1,
            windows: Vec::new(),
            needles: vec![Seen::default(); needles.len()],
        };
        for (needle, source) in needles.iter().enumerate() {
            // Windows that are equal count once, or a key of one letter would make every match a thousand.
            let mut by_print: HashMap<Print, Vec<usize>> = HashMap::new();
            for (number, masked, mask) in source.windows() {
                // black_box: by the linearity used here the compiler could unmask first.
                let print = (black_box(fold(masked)) ^ black_box(fold(mask))) & finder.mask;
                let alike = by_print.entry(print).or_default();
                // Equal without unmasking: the differences of both halves are the same.
                let equal = |other: &Window| black_box(other.masked ^ masked) == black_box(other.mask ^ mask);
                if let Some(&known) = alike.iter().find(|&&known| equal(&finder.windows[known])) {
                    finder.windows[known].numbers.push(number);
                    continue;
                }
                alike.push(finder.windows.len());
                finder.prints[print as usize / 64] |= 1 << (print % 64);
                finder.windows.push(Window {
                    print,
                    needle,
                    numbers: vec![number],
                    masked,
                    mask,
                    found: false,
                });
                finder.needles[needle].windows += 1;
            }
        }
        finder.windows.sort_by_key(|window| window.print);
        finder
    }

    /// Finds of this needle inside this range do not count: there it is meant to be.
    pub fn ignore(&mut self, needle: usize, range: Range<usize>) {
        self.needles[needle].ignored.push(range);
    }

    /// Searches bytes that lie at this address.
    pub fn look(&mut self, address: usize, bytes: &[u8]) {
        let Some((head, tail)) = bytes.split_first_chunk::<WINDOW>() else { return };
        let mut word = u64::from_le_bytes(*head);
        self.try_word(address, word);
        let no_zeros = !self.marked(0);
        for (block, start) in tail.chunks(ZEROS.len()).zip((address + 1..).step_by(ZEROS.len())) {
            // Most of memory.
            if no_zeros && word == 0 && block == ZEROS {
                continue;
            }
            for (place, byte) in (start..).zip(block) {
                word = word >> 8 | u64::from(*byte) << 56;
                if self.marked(fold(word) & self.mask) {
                    self.try_word(place, word);
                }
            }
        }
    }

    fn marked(&self, print: Print) -> bool {
        self.prints[print as usize / 64] >> (print % 64) & 1 == 1
    }

    fn try_word(&mut self, address: usize, word: u64) {
        let print = fold(word) & self.mask;
        let start = self.windows.partition_point(|window| window.print < print);
        for window in self.windows[start..].iter_mut().take_while(|window| window.print == print) {
            // black_box: the memory is masked, not the needle unmasked.
            if black_box(word ^ window.mask) != window.masked {
                continue;
            }
            let seen = &mut self.needles[window.needle];
            if seen
                .ignored
                .iter()
                .any(|range| range.contains(&address) && range.contains(&(address + WINDOW - 1)))
            {
                continue;
            }
            seen.first.get_or_insert(address);
            seen.found += usize::from(!window.found);
            window.found = true;
        }
    }

    /// How many different windows of this needle were found.
    pub fn found(&self, needle: usize) -> usize {
        self.needles[needle].found
    }

    /// How many different windows of this needle are searched for.
    pub fn windows(&self, needle: usize) -> usize {
        self.needles[needle].windows
    }

    /// Where it was found first.
    pub fn first(&self, needle: usize) -> Option<usize> {
        self.needles[needle].first
    }

    /// The numbers of the windows that were found.
    pub fn numbers(&self, needle: usize) -> Vec<u32> {
        let found = self.windows.iter().filter(|window| window.needle == needle && window.found);
        found.flat_map(|window| &window.numbers).copied().collect()
    }

    /// Forgets what was found and what was to be ignored.
    #[cfg(target_os = "linux")]
    pub fn reset(&mut self) {
        for window in &mut self.windows {
            window.found = false;
        }
        for seen in &mut self.needles {
            *seen = Seen { windows: seen.windows, ..Seen::default() };
        }
    }
}

/// The print of eight bytes.
fn fold(word: u64) -> Print {
    // Truncation is meant: what is above was folded in. Not by whole bytes, or a letter that is repeated would
    // fold to zero, as most of memory does.
    (word ^ word >> (PRINT_BITS + 1) ^ word >> (2 * (PRINT_BITS + 1))) as Print & ((1 << PRINT_BITS) - 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn needle(bytes: &[u8]) -> Needle {
        Needle::hide(bytes.iter().copied()).unwrap()
    }

    #[test]
    fn finds_whole_partial_and_nothing() {
        let needle = needle(b"0123456789abcdef");
        let mut finder = Finder::new(&[&needle]);
        finder.look(1000, b"xx0123456789abcdefxx");
        assert_eq!((finder.found(0), finder.windows(0), finder.first(0)), (9, 9, Some(1002)));
        finder.reset();
        finder.look(1000, b"..3456789a..");
        assert_eq!((finder.found(0), finder.first(0)), (1, Some(1002)));
        finder.reset();
        finder.look(1000, b"..3456789..9abcde..");
        assert_eq!(finder.found(0), 0);
        finder.look(0, b"short");
        assert_eq!(finder.found(0), 0);
    }

    #[test]
    fn windows_of_a_control_process_are_left_out() {
        let mut needle = needle(b"AAAAAAAAAAAAAAAA12345678");
        let mut finder = Finder::new(&[&needle]);
        finder.look(0, b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(finder.found(0), 1, "equal windows count once");
        needle.leave_out(&finder.numbers(0));
        let mut again = Finder::new(&[&needle]);
        again.look(0, b"AAAAAAAA12345678");
        assert_eq!(again.found(0), 8);
    }

    #[test]
    fn finds_in_the_place_where_it_is_meant_to_be_do_not_count() {
        let needle = needle(b"0123456789abcdef");
        let mut finder = Finder::new(&[&needle]);
        finder.ignore(0, 100..116);
        finder.look(100, b"0123456789abcdef");
        assert_eq!(finder.found(0), 0);
        finder.look(200, b"0123456789abcdef");
        assert_eq!((finder.found(0), finder.first(0)), (9, Some(200)));
    }

    #[test]
    fn every_byte_that_is_repeated_has_a_print() {
        for byte in 1..=255_u8 {
            assert_ne!(fold(u64::from_le_bytes([byte; 8])) & 0xffff, 0, "{byte}");
        }
    }

    #[test]
    fn two_needles_at_once_and_a_long_one() {
        let long: Vec<u8> =
            (0..70_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        let (one, two) = (needle(b"needle one"), needle(&long));
        let mut finder = Finder::new(&[&one, &two]);
        finder.look(0, &long);
        assert_eq!(finder.found(0), 0);
        assert_eq!(finder.found(1), finder.windows(1));
        finder.look(0, b"a needle one is here");
        assert_eq!(finder.found(0), 3);
    }
}

//! Where things lie inside pages: pure arithmetic, all of it checked.
//!
//! ```text
//! [ guard ][ head | room ... | canary | data | slack ][ guard ]
//! ```
//!
//! The data ends at the upper guard page as far as its alignment allows; the slack that alignment leaves
//! above it, less than one alignment unit, is filled like the canary and checked like it.

use crate::error::Error;

/// Bytes of canary below the data.
pub(crate) const CANARY: usize = 32;

/// The alignment of secrets where none is asked for.
pub(crate) const DEFAULT_ALIGN: usize = 16;

/// Places for data of `len` bytes in memory of `capacity` bytes, all relative to its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// First byte of the canary.
    pub(crate) canary: usize,
    /// First byte of the data; the canary ends here.
    pub(crate) data: usize,
    /// First byte after the data; the slack reaches from here to the capacity.
    pub(crate) end: usize,
}

/// Places the data, if head, canary and data fit.
#[inline]
pub(crate) const fn place(capacity: usize, head: usize, len: usize, align: usize) -> Option<Place> {
    // `align` is a power of two, see `check_align`; this is also why the subtraction cannot wrap.
    let Some(space) = capacity.checked_sub(len) else { return None };
    let data = space & !(align - 1);
    let Some(canary) = data.checked_sub(CANARY) else { return None };
    if canary < head {
        return None;
    }
    Some(Place { canary, data, end: data + len })
}

/// The capacity that surely suffices: whole pages.
pub(crate) fn capacity_for(head: usize, len: usize, align: usize, page: usize) -> Result<usize, Error> {
    let too_large = Error::TooLarge { len, limit: isize::MAX as usize };
    let sum = len
        .checked_next_multiple_of(align)
        .and_then(|data| data.checked_add(head))
        .and_then(|sum| sum.checked_add(CANARY))
        .and_then(|sum| sum.checked_next_multiple_of(page))
        .ok_or(too_large)?;
    // Slices are at most isize::MAX bytes, guard pages included.
    if sum > isize::MAX as usize - 2 * page { Err(too_large) } else { Ok(sum) }
}

/// Bytes of a mapping of `count` slots of `capacity` bytes, with a guard page before, between and after.
pub(crate) fn slab_size(capacity: usize, count: usize, page: usize) -> Result<usize, Error> {
    capacity
        .checked_add(page)
        .and_then(|stride| stride.checked_mul(count))
        .and_then(|slots| slots.checked_add(page))
        .filter(|&size| size <= isize::MAX as usize)
        .ok_or(Error::TooLarge { len: capacity, limit: isize::MAX as usize })
}

/// The offset of slot `index` in such a mapping.
pub(crate) const fn slot_offset(capacity: usize, index: usize, page: usize) -> usize {
    page + index * (capacity + page)
}

/// Checks an alignment asked for.
pub(crate) fn check_align(align: usize, page: usize) -> Result<(), Error> {
    if align.is_power_of_two() && align <= page {
        Ok(())
    } else {
        Err(Error::BadAlignment { align, limit: page })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    /// All page sizes there are: of the usual processors, and huge ones.
    const PAGES: [usize; 5] = [4 << 10, 8 << 10, 16 << 10, 64 << 10, 2 << 20];

    fn pages() -> impl Strategy<Value = usize> {
        proptest::sample::select(&PAGES[..])
    }

    /// Small lengths, lengths around whole pages, and all that there are.
    fn lengths() -> impl Strategy<Value = usize> {
        let near = (pages(), 0usize..40, 0usize..200);
        let near = near.prop_map(|(page, pages, off)| (page * pages + off).saturating_sub(100).max(1));
        let most = (0usize..1 << 23).prop_map(|less| usize::MAX - less);
        prop_oneof![1usize..200, near, 1usize.., (0u32..usize::BITS).prop_map(|bits| 1 << bits), most]
    }

    /// What is known of a place that was found.
    fn is_right(place: Place, (capacity, head, len, align): (usize, usize, usize, usize)) {
        assert_eq!(place.data % align, 0);
        assert_eq!(place.end - place.data, len);
        assert_eq!(place.data - place.canary, CANARY);
        assert!(head <= place.canary && place.end <= capacity);
        assert!(capacity - place.end < align, "slack of a whole unit");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn data_fits_is_aligned_and_ends_at_the_guard(
            page in pages(), len in lengths(), align_bits in 0u32..=21, head in 0usize..1024,
        ) {
            let align = 1usize << align_bits;
            prop_assume!(check_align(align, page).is_ok());
            let Ok(capacity) = capacity_for(head, len, align, page) else {
                // Only what is larger than half of all addresses, with what it needs around it.
                prop_assert!(len >= isize::MAX as usize - head - CANARY - 4 * page - align);
                return Ok(());
            };
            is_right(place(capacity, head, len, align).unwrap(), (capacity, head, len, align));
            prop_assert_eq!(capacity % page, 0);
            // No page more than are needed: for the bytes, what is around them, and their alignment.
            prop_assert!(capacity - len < page + head + CANARY + align);
            // With its guards it is no larger than an object may be, and is laid out.
            let size = slab_size(capacity, 1, page).unwrap();
            prop_assert_eq!(size, capacity + 2 * page);
            prop_assert_eq!(slot_offset(capacity, 0, page), page);
        }

        #[test]
        fn sizes_beyond_the_address_space_are_errors(
            page in pages(), over in 0usize..1 << 22, align_bits in 0u32..=12, head in 0usize..1024,
        ) {
            let len = usize::MAX - over;
            let align = 1 << align_bits;
            for len in [len, isize::MAX as usize + 1, isize::MAX as usize - 2 * page + 1] {
                let refused = capacity_for(head, len, align, page);
                prop_assert_eq!(refused, Err(Error::TooLarge { len, limit: isize::MAX as usize }));
            }
            prop_assert!(slab_size(len, 1, page).is_err());
            prop_assert!(slab_size(page, len, page).is_err());
            prop_assert!(slab_size(page, isize::MAX as usize / page, page).is_err());
        }

        #[test]
        fn placing_never_wraps(
            capacity in any::<usize>(), head in any::<usize>(), len in any::<usize>(), align_bits in 0u32..=21,
        ) {
            let align = 1 << align_bits;
            if let Some(found) = place(capacity, head, len, align) {
                is_right(found, (capacity, head, len, align));
            }
        }

        #[test]
        fn slots_keep_a_guard_page_between_them(
            page in pages(), pages_each in 1usize..20, count in 1usize..64,
        ) {
            let capacity = page * pages_each;
            let Ok(size) = slab_size(capacity, count, page) else {
                // In 32 bits.
                prop_assert!(capacity as u64 * count as u64 > isize::MAX as u64 / 2);
                return Ok(());
            };
            for index in 0..count {
                let start = slot_offset(capacity, index, page);
                prop_assert!(start >= page);
                prop_assert_eq!(start % page, 0);
                prop_assert!(start + capacity + page <= size);
                if index > 0 {
                    prop_assert_eq!(start - (slot_offset(capacity, index - 1, page) + capacity), page);
                }
            }
            prop_assert_eq!(slot_offset(capacity, count, page), size);
        }
    }

    #[test]
    fn bad_alignments_are_refused() {
        for page in PAGES {
            for align in [0, 3, 24, page + 1, 2 * page, usize::MAX, !(usize::MAX >> 1)] {
                assert!(check_align(align, page).is_err(), "{align}, {page}");
            }
            assert!([1, 2, 16, page / 2, page].iter().all(|&align| check_align(align, page).is_ok()));
        }
    }
}

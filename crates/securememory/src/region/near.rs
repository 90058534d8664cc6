//! How near the process is to its limit on locked memory: looked at only when more is being locked, and only now and then.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::events::{self, Note};
use crate::os::room;

/// Bytes that we have locked since the last look. Others lock memory, too, so it says nothing by itself.
static SINCE: AtomicU64 = AtomicU64::new(0);
/// So many are locked before the next look.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// At the most.
const FAR: u64 = 16 << 20;

/// To be called when so many bytes have been locked.
pub(super) fn locked_more(bytes: usize) {
    let bytes = bytes as u64;
    let since = SINCE.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
    if since >= NEXT.load(Ordering::Relaxed) && !events::is_told(Note::NearLimit) {
        SINCE.store(0, Ordering::Relaxed);
        look();
    }
}

#[cold]
fn look() {
    let (limit, found) = room::lockable();
    let next = match (limit, found.in_use) {
        (Some(limit), Some(in_use)) => {
            let left = threshold(limit).saturating_sub(in_use);
            if left == 0 {
                events::note(Note::NearLimit, 0, 0);
            }
            // Others may take as much meanwhile.
            (left / 2).clamp(1, FAR)
        }
        _ => FAR,
    };
    NEXT.store(next, Ordering::Relaxed);
}

/// What is near to the limit: seven eighths of it.
fn threshold(limit: u64) -> u64 {
    limit - limit / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_is_seven_eighths() {
        assert_eq!([0, 8, 64 << 10, u64::MAX].map(threshold)[..3], [0, 7, 56 << 10]);
        assert!(threshold(u64::MAX) < u64::MAX);
    }
}

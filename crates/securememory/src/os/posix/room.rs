//! How much of what is limited is left to this process. Of most limits nothing tells how much of them is in use.

use super::limits;

/// What is in use of something, and what may come to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) in_use: Option<u64>,
    /// The maximum where there is no bound.
    pub(crate) left: Option<u64>,
}

impl Room {
    const UNKNOWN: Self = Self { in_use: None, left: None };

    /// Without a limit there is room however much is in use.
    fn under(limit: Option<u64>) -> Self {
        Self { in_use: None, left: limit.is_none().then_some(u64::MAX) }
    }
}

/// Bytes that may be locked. `RLIMIT_MEMLOCK` in getrlimit(2).
pub(crate) fn locked() -> Room {
    lockable().1
}

/// The same, with the limit where there is one.
pub(crate) fn lockable() -> (Option<u64>, Room) {
    let limit = super::lock_limit();
    (limit, Room::under(limit))
}

/// Mappings: there is no limit, or nothing tells.
pub(crate) fn mappings() -> Room {
    Room::UNKNOWN
}

/// Descriptors. `RLIMIT_NOFILE` in getrlimit(2).
pub(crate) fn descriptors() -> Room {
    Room::under(super::descriptor_limit())
}

/// Bytes of address space. `RLIMIT_AS` in getrlimit(2).
pub(crate) fn address_space() -> Room {
    #[cfg(not(target_os = "openbsd"))]
    return Room::under(limits(libc::RLIMIT_AS as _).0);
    #[cfg(target_os = "openbsd")]
    Room::UNKNOWN
}

/// Bytes of writable private memory. `RLIMIT_DATA` in getrlimit(2).
pub(crate) fn data() -> Room {
    Room::under(limits(libc::RLIMIT_DATA as _).0)
}

/// Bytes that the machine has left.
pub(crate) fn memory() -> Room {
    Room::UNKNOWN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_limit_there_is_room_and_with_one_nobody_knows() {
        assert_eq!(Room::under(None).left, Some(u64::MAX));
        assert_eq!(Room::under(Some(10)), Room::UNKNOWN);
    }
}

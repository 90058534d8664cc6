//! What happens to secrets when the process splits or ends.

pub(crate) mod fork;

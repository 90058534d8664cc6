//! What happens to secrets when the process splits or ends.

pub(crate) mod dying;
pub(crate) mod fork;
pub(crate) mod mark;
pub(crate) mod noise;

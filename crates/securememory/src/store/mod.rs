//! Secrets at rest, and their views. [`Object`] is the contract: what every store can do with a secret.
//!
//! `sealed` keeps ciphertext, `paged` keeps plaintext in closed pages; everything that is the same for both
//! (counting references, closing, telling what is true) is here and in `object`.

mod cost;
mod linger;
pub(crate) mod machinery;
mod object;
mod opened;
mod paged;
mod published;
mod sealed;
mod slab;

pub(crate) use machinery::{Machinery, Settings};
pub(crate) use object::{Object, Source, Spec};
pub(crate) use opened::{Opened, OpenedMut, Owned};
pub(crate) use published::Published;

//! Secrets at rest, and their views. [`Object`] is the contract: what every store can do with a secret.
//!
//! `sealed` keeps ciphertext, `paged` keeps plaintext in closed pages; everything that is the same for both
//! (counting references, closing, telling what is true) is here and in `object`.

mod batch;
mod buffer;
mod census;
mod closing;
mod cost;
mod expiry;
mod header;
mod heritage;
mod ledger;
#[cfg(feature = "testing")]
mod left;
mod linger;
pub(crate) mod machinery;
mod object;
mod opened;
mod paged;
mod published;
mod roll;
pub(crate) mod room;
mod sealed;
mod settings;
mod slab;
mod spec;
mod turnover;

pub(crate) use batch::{OPENS, open_many};
pub(crate) use buffer::Buffer;
pub(crate) use ledger::Limits;
pub(crate) use machinery::Machinery;
pub(crate) use object::Object;
pub(crate) use opened::{Opened, OpenedMut, Owned};
pub(crate) use published::Published;
pub(crate) use settings::Settings;
pub(crate) use spec::{Bytes, Position, Source, Spec};
pub use turnover::Refreshed;

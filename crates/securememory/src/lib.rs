#![doc = include_str!("../../../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod counters;
mod enclave;
mod error;
mod events;
pub mod fault;
mod gate;
pub mod harden;
mod locks;
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub mod metrics;
mod os;
mod policy;
mod region;
mod registry;
mod secret;
mod shutdown;
pub mod signal;
mod status;
mod store;
mod stream;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod vault;

pub use error::{
    Error, ErrorKind, FromOwnedError, Hint, Outstanding, Protection, Quota, Result, Side, TryError, WithError,
};
pub use os::{Build, Call, CallError, Feature, Host};
pub use policy::{Cipher, Hold, Level, Levels, OnClose, OnLockLimit, Policy, Profile, Store};
pub use secret::{Closed, ManyError, OwnedView, Secret, SecretBuilder, View, ViewMut, with2};
pub use status::{Achieved, AtRest, Evidence, HoldUsed, Protections, Status, VaultStatus};
pub use store::Refreshed;
pub use stream::{SecretStream, StreamBuilder};
pub use vault::{
    Budget, Degradation, Diagnostics, Need, OpenView, Preflight, Purged, Resource, Shortage, Vault,
    VaultBuilder, VaultClosed, ViewKind,
};

/// Was this library built with the fault injector (feature `testing`)? Then it is not fit for production.
pub const HAS_INJECTOR: bool = cfg!(feature = "testing");

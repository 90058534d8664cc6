//! The peers, a file each: what it does at rest in a line, and its calls. `entries.rs` lists them.

pub mod hardware_enclave;
#[cfg(feature = "sodium")]
pub mod libsodium;
pub mod memsafe;
pub mod memsec;
#[cfg(feature = "openssl")]
pub mod openssl;
pub mod ours;
pub mod redoubt;
#[cfg(feature = "sodium")]
pub mod secrets;
pub mod secure_gate;
pub mod secure_types;
pub mod shrouded;
pub mod siegel;

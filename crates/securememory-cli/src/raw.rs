//! The unsafe lines of doctor and stress: what an attacker does and safe Rust rightly forbids, and forks.
//!
//! Nothing here is called by the doctor or the judge of a stress run themselves, only by the processes that they start,
//! which exist to be damaged and end afterwards. (On Windows the doctor asks for jobs, random numbers and the page size.)
#![allow(unsafe_code)] // An attack is a stray load, a stray store, or a fork at a bad moment; safe Rust has none.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod step;
mod stray;
#[cfg(target_os = "linux")]
pub mod trace;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
pub use linux::*;
pub use stray::*;
#[cfg(windows)]
pub use windows::*;

//! For tests of this library and of programs that use it: faults on demand. Feature `testing`.

pub use crate::os::inject;

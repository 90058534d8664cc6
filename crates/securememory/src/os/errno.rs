//! Error numbers by the names of errno(3): those of the system that this is compiled for.
//!
//! On Windows each stands for the code of GetLastError that says the same there, so that who asks whether memory was short,
//! or a right was missing, asks alike everywhere. Codes keep their own names in messages.

#[cfg(unix)]
mod numbers {
    // Not all of them are asked for in every build.
    #![allow(unused_imports)]
    pub use libc::{
        EACCES, EAGAIN, EBADF, EFAULT, EFBIG, EINTR, EINVAL, EIO, EMFILE, ENFILE, ENODEV, ENOENT, ENOMEM,
        ENOSPC, ENOSYS, ENOTSUP, EPERM, ETIMEDOUT,
    };
}

#[cfg(windows)]
mod numbers {
    // Not all of them are asked for in every build.
    #![allow(dead_code, missing_docs)]
    use windows_sys::Win32::Foundation as f;

    pub const EACCES: i32 = f::ERROR_ACCESS_DENIED as i32;
    pub const EAGAIN: i32 = f::ERROR_WORKING_SET_QUOTA as i32;
    pub const EBADF: i32 = f::ERROR_INVALID_HANDLE as i32;
    pub const EFAULT: i32 = f::ERROR_NOACCESS as i32;
    pub const EFBIG: i32 = f::ERROR_FILE_TOO_LARGE as i32;
    pub const EINTR: i32 = f::ERROR_OPERATION_ABORTED as i32;
    pub const EINVAL: i32 = f::ERROR_INVALID_PARAMETER as i32;
    pub const EIO: i32 = f::ERROR_IO_DEVICE as i32;
    pub const EMFILE: i32 = f::ERROR_TOO_MANY_OPEN_FILES as i32;
    pub const ENFILE: i32 = f::ERROR_NO_SYSTEM_RESOURCES as i32;
    pub const ENODEV: i32 = f::ERROR_DEV_NOT_EXIST as i32;
    pub const ENOENT: i32 = f::ERROR_FILE_NOT_FOUND as i32;
    pub const ENOMEM: i32 = f::ERROR_NOT_ENOUGH_MEMORY as i32;
    pub const ENOSPC: i32 = f::ERROR_DISK_FULL as i32;
    pub const ENOSYS: i32 = f::ERROR_CALL_NOT_IMPLEMENTED as i32;
    pub const ENOTSUP: i32 = f::ERROR_NOT_SUPPORTED as i32;
    pub const EPERM: i32 = f::ERROR_PRIVILEGE_NOT_HELD as i32;
    pub const ETIMEDOUT: i32 = f::ERROR_TIMEOUT as i32;
}

#[allow(unused_imports)]
pub use numbers::*;

/// The symbolic name of an error number; `None` for the rare ones and for zero.
#[cfg(unix)]
pub(super) const fn symbol(errno: i32) -> Option<&'static str> {
    // EWOULDBLOCK and EOPNOTSUPP have the numbers of EAGAIN and ENOTSUP on Linux.
    Some(match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::ENXIO => "ENXIO",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::EINVAL => "EINVAL",
        libc::ENFILE => "ENFILE",
        libc::EMFILE => "EMFILE",
        libc::ETXTBSY => "ETXTBSY",
        libc::EFBIG => "EFBIG",
        libc::ENOSPC => "ENOSPC",
        libc::EROFS => "EROFS",
        libc::EPIPE => "EPIPE",
        libc::ENOSYS => "ENOSYS",
        libc::ENOTSUP => "EOPNOTSUPP",
        libc::EOVERFLOW => "EOVERFLOW",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::EDQUOT => "EDQUOT",
        _ => return None,
    })
}

/// The symbolic name of an error code; `None` for the rare ones and for zero.
#[cfg(windows)]
pub(super) const fn symbol(errno: i32) -> Option<&'static str> {
    use windows_sys::Win32::Foundation as f;
    Some(match errno.cast_unsigned() {
        f::ERROR_ACCESS_DENIED => "ERROR_ACCESS_DENIED",
        f::ERROR_CALL_NOT_IMPLEMENTED => "ERROR_CALL_NOT_IMPLEMENTED",
        f::ERROR_COMMITMENT_LIMIT => "ERROR_COMMITMENT_LIMIT",
        f::ERROR_DEV_NOT_EXIST => "ERROR_DEV_NOT_EXIST",
        f::ERROR_DISK_FULL => "ERROR_DISK_FULL",
        f::ERROR_FILE_NOT_FOUND => "ERROR_FILE_NOT_FOUND",
        f::ERROR_FILE_TOO_LARGE => "ERROR_FILE_TOO_LARGE",
        f::ERROR_INSUFFICIENT_BUFFER => "ERROR_INSUFFICIENT_BUFFER",
        f::ERROR_INVALID_ADDRESS => "ERROR_INVALID_ADDRESS",
        f::ERROR_INVALID_HANDLE => "ERROR_INVALID_HANDLE",
        f::ERROR_INVALID_PARAMETER => "ERROR_INVALID_PARAMETER",
        f::ERROR_IO_DEVICE => "ERROR_IO_DEVICE",
        f::ERROR_NOACCESS => "ERROR_NOACCESS",
        f::ERROR_NOT_ENOUGH_MEMORY => "ERROR_NOT_ENOUGH_MEMORY",
        f::ERROR_NOT_LOCKED => "ERROR_NOT_LOCKED",
        f::ERROR_NOT_SUPPORTED => "ERROR_NOT_SUPPORTED",
        f::ERROR_NO_SYSTEM_RESOURCES => "ERROR_NO_SYSTEM_RESOURCES",
        f::ERROR_OPERATION_ABORTED => "ERROR_OPERATION_ABORTED",
        f::ERROR_PRIVILEGE_NOT_HELD => "ERROR_PRIVILEGE_NOT_HELD",
        f::ERROR_PROC_NOT_FOUND => "ERROR_PROC_NOT_FOUND",
        f::ERROR_TIMEOUT => "ERROR_TIMEOUT",
        f::ERROR_TOO_MANY_OPEN_FILES => "ERROR_TOO_MANY_OPEN_FILES",
        f::ERROR_WORKING_SET_QUOTA => "ERROR_WORKING_SET_QUOTA",
        _ => return None,
    })
}

/// What the number is called in messages.
pub(super) const WORD: &str = if cfg!(windows) { "error" } else { "errno" };

//! For tests: runs a program that some system calls are refused to, by a seccomp filter.
//!
//! ```text
//! refuse CALL[,CALL...]:ERRNO PROGRAM [ARGUMENT...]
//! ```
//!
//! It ends as the program does, or with 77 where no filter can be set.

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
#[path = "../tests/common/refuse.rs"]
mod refuse;

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
fn main() -> std::process::ExitCode {
    use std::os::unix::process::CommandExt;

    let mut arguments = std::env::args_os().skip(1);
    let (Some(wanted), Some(program)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: refuse CALL[,CALL...]:ERRNO PROGRAM [ARGUMENT...]");
        return 2.into();
    };
    let set = refuse::filter(&wanted.to_string_lossy()).and_then(|filter| {
        // It sets no_new_privs, without which only root may set a filter.
        seccompiler::apply_filter(&filter).map_err(|error| error.to_string())
    });
    if let Err(error) = set {
        eprintln!("skipped: no filter can be set: {error}");
        return 77.into();
    }
    let error = std::process::Command::new(&program).args(arguments).exec();
    eprintln!("{}: {error}", program.display());
    126.into()
}

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
)))]
fn main() -> std::process::ExitCode {
    eprintln!("skipped: no filters of system calls for this processor");
    77.into()
}

//! Commands that this system does not have: they attack and measure by way of /proc, ptrace and raw system calls of Linux.

/// Options are taken as they come, and nothing is done.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    any: Vec<String>,
}

fn refuse(command: &str, Args { any }: &Args) -> std::process::ExitCode {
    let _ = any;
    let others = if cfg!(all(windows, target_arch = "x86_64")) {
        "`info`, `doctor` and `stress` are"
    } else {
        "`info` is"
    };
    eprintln!("securememory {command}: not on {}; {others}", std::env::consts::OS);
    // As for a command that is used wrongly.
    std::process::ExitCode::from(2)
}

macro_rules! absent {
    ($($name:ident: $($hidden:ident)*;)*) => {
        $(pub(crate) mod $name {
            pub(crate) use super::Args;

            pub(crate) fn run(args: Args) -> std::process::ExitCode {
                super::refuse(stringify!($name), &args)
            }

            $(pub(crate) fn $hidden() -> std::process::ExitCode {
                std::process::ExitCode::from(2)
            })*
        })*
    };
}

absent! {
    bench: ;
}

#[cfg(not(all(windows, target_arch = "x86_64")))]
absent! {
    doctor: attacker victim;
    stress: worker;
}

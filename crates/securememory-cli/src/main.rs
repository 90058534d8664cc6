//! `securememory`: attacks its own secrets and shows which promises hold on this machine, says what the machine
//! offers, measures what protection costs, and tries whether threads can get in each other's way.

#[cfg(target_os = "linux")]
mod bench;
#[cfg(any(target_os = "linux", all(windows, target_arch = "x86_64")))]
mod doctor;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
mod info;
#[cfg(target_os = "linux")]
mod proc;
#[cfg(any(target_os = "linux", all(windows, target_arch = "x86_64")))]
mod raw;
#[cfg(any(target_os = "linux", all(windows, target_arch = "x86_64")))]
mod stress;
#[cfg(any(target_os = "linux", all(windows, target_arch = "x86_64")))]
#[cfg_attr(windows, path = "system/windows.rs")]
#[cfg_attr(not(windows), path = "system/linux.rs")]
mod system;

#[cfg(not(target_os = "linux"))]
use elsewhere::bench;
#[cfg(not(any(target_os = "linux", all(windows, target_arch = "x86_64"))))]
use elsewhere::{doctor, stress};

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Shows on your own machine which promises of securememory hold there
#[derive(Parser)]
#[command(name = "securememory", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Attacks its own secrets as a thief would, and tells which attacks failed, which worked, and why
    Doctor(doctor::Args),
    /// What this host offers, which limits apply, and how to raise them
    Info(info::Args),
    /// What the library's operations cost, next to what they cannot cost less than
    Bench(bench::Args),
    /// Many threads do everything at once with shared secrets, and every byte and every error is judged
    Stress(stress::Args),
    /// The process that carries out one attack (the doctor starts it)
    #[command(hide = true)]
    DoctorAttacker,
    /// The process that holds the secret under attack (the attacker starts it)
    #[command(hide = true)]
    DoctorVictim,
    /// The process that does the work (`stress` starts it)
    #[command(hide = true)]
    StressWorker,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Doctor(args) => doctor::run(args),
        Command::Info(args) => info::run(args),
        Command::Bench(args) => bench::run(args),
        Command::DoctorAttacker => doctor::attacker(),
        Command::DoctorVictim => doctor::victim(),
        Command::Stress(args) => stress::run(args),
        Command::StressWorker => stress::worker(),
    }
}

//! The attacker: a process that starts a victim of its own and attacks it, on the doctor's order.
//!
//! It is the victim's parent, because some hosts let only a parent look into a process (Yama), and it runs as the
//! victim's user.

mod apart;
mod captive;
mod crash;
#[cfg(target_os = "linux")]
mod dump;
#[cfg(target_os = "linux")]
mod forks;
mod old_share;
mod residue;
#[cfg(target_os = "linux")]
mod swap;
mod thief;
#[cfg_attr(windows, path = "tracer/windows.rs")]
#[cfg_attr(not(windows), path = "tracer/linux.rs")]
mod tracer;

use std::io::{self, BufRead};
use std::process::ExitCode;

use super::crack::{Crack, Found, KEY, Record, search};
use super::loot::{Loot, Through, loot};
use super::memory::{Sight, mappings};
use super::order::{Answer, Command, Order, Reply, Task};
use super::promises::{Attack, Kept};
use super::verdict::{Trouble, Verdict};
use crate::system;
use captive::Captive;

/// Reads one order, answers in one line.
pub fn run() -> ExitCode {
    // Not to outlive a doctor that is interrupted; the victims do the same.
    system::die_with_parent();
    let mut line = String::new();
    let order =
        io::stdin().lock().read_line(&mut line).ok().and_then(|_| serde_json::from_str::<Order>(&line).ok());
    let Some(order) = order else {
        eprintln!("this command is for the doctor's own use; see `securememory doctor --help`");
        return ExitCode::from(2);
    };
    let answer = carry_out(&order).unwrap_or_else(|trouble| Answer::Verdict(trouble.into()));
    match serde_json::to_writer(io::stdout().lock(), &answer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn carry_out(order: &Order) -> Result<Answer, Trouble> {
    let attack = match order.task {
        Task::Attack(attack) => attack,
        Task::Control => return Captive::common(order).map(Answer::Common),
    };
    let victim = Captive::take(order)?;
    let verdict = match attack {
        Attack::ProcMem => thief::proc_mem(order, &victim),
        Attack::ProcFd | Attack::ProcFdRoot => thief::combine(order, &victim, Through::Name),
        Attack::BothShares => thief::combine(order, &victim, Through::Duplicate),
        Attack::OldShare => old_share::old_share(order, victim),
        Attack::KeyOnly => apart::key_only(order, victim),
        Attack::CiphertextOnly => apart::ciphertext_only(order, victim, Command::Purge),
        Attack::VaultClose => apart::ciphertext_only(order, victim, Command::CloseVault),
        #[cfg(target_os = "linux")]
        Attack::CoreDump => dump::core_dump(order, victim),
        #[cfg(target_os = "linux")]
        Attack::Swap => swap::swap(order, victim),
        #[cfg(target_os = "linux")]
        Attack::ForkChild => forks::fork_child(order, victim),
        #[cfg(target_os = "linux")]
        Attack::ForkInRead => forks::fork_in_read(order, victim),
        Attack::Residue => residue::residue(order, victim),
        Attack::Crash => crash::crash(order, victim),
        Attack::KillTerm
        | Attack::KillInt
        | Attack::KillHup
        | Attack::KillQuit
        | Attack::KillSegv
        | Attack::KillBus
        | Attack::KillAbrt => crash::killed(order, victim, attack),
        Attack::StrayRead
        | Attack::ReadInstant
        | Attack::Tamper
        | Attack::ExchangeCiphertexts
        | Attack::Overflow
        | Attack::Underflow
        | Attack::ReadAfterClose
        | Attack::Log => from_inside(victim),
        #[cfg(windows)]
        Attack::CoreDump | Attack::Swap | Attack::ForkChild | Attack::ForkInRead => {
            Err(Trouble::failed("not an attack of this system"))
        }
    }?;
    Ok(Answer::Verdict(verdict))
}

/// Attacks by code inside the process are carried out by the victim itself.
fn from_inside(mut victim: Captive) -> Result<Verdict, Trouble> {
    match victim.command(Command::Attack)? {
        Reply::Verdict(verdict) => Ok(verdict),
        other => Err(Captive::unexpected(&other)),
    }
}

/// The key of the victim's vault, as a debugger finds it: so that other attacks can search for it where it must
/// not be. `None` for a victim without a vault key.
fn find_key(order: &Order, victim: &mut Captive, sight: &Sight) -> Result<Option<Found>, Trouble> {
    let Some(decoy) = victim.facts.decoy else { return Ok(None) };
    let record = Record::take(sight, &decoy).map_err(Trouble::forbidden("/proc/PID/mem"))?;
    if order.kept == Kept::SealedSecretmem {
        let missing = || Trouble::failed("the vault's key is not in the pages of memfd_secret");
        return shown_key(&record, victim)?.ok_or_else(missing).map(Some);
    }
    let Loot { shares, read, refused, .. } = loot(victim.pid, Through::Duplicate)?;
    let (mut found, tried) = search(sight, &mappings(victim.pid)?, &record, &shares);
    if found.is_none() && cfg!(windows) {
        // Encrypted while it is closed.
        found = shown_key(&record, victim)?;
    }
    if found.is_none() && refused > 0 {
        return Err(Trouble::NotHere(format!(
            "{refused} descriptors of the victim could not be duplicated, so the key it uses is not known"
        )));
    }
    if found.is_none() {
        return Err(Trouble::failed(format!(
            "the vault's key was not found where it must be: tried {tried} sets of 32 bytes with {read} files"
        )));
    }
    Ok(found)
}

/// The key, in pages that nobody else can read. A debugger would run code in the victim; here the victim helps.
fn shown_key(record: &Record, victim: &mut Captive) -> Result<Option<Found>, Trouble> {
    let mut crack = Crack::new(record, &[], KEY);
    victim.show(Command::ShowPages)?.iter().for_each(|(address, bytes)| crack.look(*address, bytes));
    Ok(crack.found)
}

//! The victim: a process that holds a secret as a program would, does what it is told, and is attacked.

mod bounds;
mod crash;
mod exchange;
#[cfg(target_os = "linux")]
mod forks;
mod held;
mod inside;
#[cfg(target_os = "linux")]
mod instant;
mod log;
#[cfg_attr(windows, path = "pages/windows.rs")]
#[cfg_attr(not(windows), path = "pages/linux.rs")]
mod pages;
mod turnover;

use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use securememory::View;

use super::order::{Command, Order, Reply, Task};
use super::promises::Attack;
use super::verdict::{Trouble, Verdict};
use held::Held;

/// Runs to the end of its input.
pub fn run() -> ExitCode {
    crate::system::die_with_parent();
    let mut input = io::stdin().lock();
    let Some(order) = next_line::<Order>(&mut input) else {
        eprintln!("this command is for the doctor's own use; see `securememory doctor --help`");
        return ExitCode::from(2);
    };
    match serve(&mut input, &order) {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            say(&Reply::Trouble(trouble));
            ExitCode::FAILURE
        }
    }
}

/// The next line of the attacker; `None` where he is gone.
fn next_line<T: serde::de::DeserializeOwned>(input: &mut impl BufRead) -> Option<T> {
    let mut line = String::new();
    input.read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

/// Tells the attacker. If he is gone, the next read ends this process.
fn say(reply: &Reply) {
    let line = serde_json::to_string(reply).unwrap_or_default() + "\n";
    let mut output = io::stdout().lock();
    let _ = output.write_all(line.as_bytes()).and_then(|()| output.flush());
}

fn serve(input: &mut impl BufRead, order: &Order) -> Result<(), Trouble> {
    let mut beacon = vec![0; order.beacon.len()];
    order.beacon.fill(&mut beacon);
    if order.task == Task::Control {
        let other = super::needle::Needle::random(order.needle.len())?;
        let held = Held::make(order.kept, &other)?;
        held.read(&other).map_err(Trouble::failed)?;
        say(&Reply::Common(inside::common(order)?));
        return Ok(());
    }
    let mut held = Held::make(order.kept, &order.needle)?;
    held.read(&order.needle).map_err(|why| Trouble::failed(format!("a first read gave {why}")))?;
    let mut planted = Vec::new();
    say(&Reply::Ready(Box::new(held.facts())));
    while let Some(command) = next_line(input) {
        match command {
            Command::Attack => {
                say(&Reply::Verdict(attack(order, held)?));
                return Ok(());
            }
            Command::Exercise => {
                held.exercise(&order.needle)?;
                say(&Reply::Ready(Box::new(held.facts())));
            }
            Command::Plant => {
                planted = held.plant()?;
                say(&Reply::Ready(Box::new(held.facts())));
            }
            Command::CopyAtRest => say(&inside::copy_at_rest(&held)?),
            Command::Refresh => {
                turnover::refresh(&held)?;
                held.read(&order.needle).map_err(|why| Trouble::failed(format!("after a refresh: {why}")))?;
                say(&Reply::Ready(Box::new(held.facts())));
            }
            Command::Purge => {
                turnover::purge(&mut held)?;
                let (worked, refused) = held.try_all();
                say(&Reply::Tried { worked, refused });
            }
            Command::CloseVault => {
                turnover::close(&mut held)?;
                let (worked, refused) = held.try_all();
                say(&Reply::Tried { worked, refused });
            }
            Command::ShowPages => say(&pages::show()?),
            Command::OpenView => {
                let view = open(&held)?;
                say(&Reply::View { address: view.address(), unlocked: held.unlocked() });
                match next_line::<Command>(input) {
                    #[cfg(target_os = "linux")]
                    Some(Command::Abort) => forks::abort()?,
                    _ => drop(view),
                }
                say(&Reply::Done);
            }
            Command::Close => {
                if let Held::Kept(kept) = &held {
                    kept.secret.close()?;
                }
                if let Held::Plain(bytes) = &mut held {
                    *bytes = Vec::new();
                }
                say(&Reply::Done);
            }
            Command::GiveUp => {
                held = Held::Plain(Vec::new());
                say(&Reply::Done);
            }
            #[cfg(target_os = "linux")]
            Command::Fork => forks::fork(input, &held)?,
            #[cfg(target_os = "linux")]
            Command::ForkInRead => forks::fork_in_read(input, order, &held)?,
            Command::Arm(care) => crash::arm(input, order, &held, care)?,
            other => return Err(Trouble::failed(format!("{other:?} is out of turn"))),
        }
    }
    std::hint::black_box((beacon, planted));
    Ok(())
}

/// The attacks that come from inside.
fn attack(order: &Order, held: Held) -> Result<Verdict, Trouble> {
    match order.task {
        Task::Attack(Attack::StrayRead) => inside::stray_read(order, &held),
        #[cfg(target_os = "linux")]
        Task::Attack(Attack::ReadInstant) => instant::read_instant(order, &held),
        Task::Attack(Attack::Tamper) => inside::tamper(order, &held),
        Task::Attack(Attack::ExchangeCiphertexts) => exchange::exchange(order, &held),
        Task::Attack(Attack::ReadAfterClose) => inside::read_after_close(order, held),
        Task::Attack(Attack::Log) => log::log(order, held),
        Task::Attack(Attack::Overflow) => bounds::overflow(order),
        Task::Attack(Attack::Underflow) => bounds::underflow(order),
        _ => Err(Trouble::failed("not an attack from inside")),
    }
}

/// An open view of either kind of secret.
enum Open<'a> {
    Plain(&'a [u8]),
    Kept(View<'a>),
}

impl Open<'_> {
    fn address(&self) -> usize {
        match self {
            Self::Plain(bytes) => bytes.as_ptr().expose_provenance(),
            Self::Kept(view) => view.as_ptr().expose_provenance(),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Kept(view) => view,
        }
    }
}

fn open(held: &Held) -> Result<Open<'_>, Trouble> {
    match held {
        Held::Plain(bytes) => Ok(Open::Plain(bytes)),
        Held::Kept(kept) => Ok(Open::Kept(kept.secret.view()?)),
    }
}

//! Programs of two or three threads that work on the same secrets. What each call gives depends on the others, so the model
//! says what may be, and what must be after what a thread has seen itself.

use std::fmt;
use std::sync::Barrier;
use std::time::Duration;

use securememory::{Error, Hold, Secret, Store, Vault};

use super::program::{Rows, Setup, setup_of};
use super::run::{Found, build, check};

const LEN: usize = 33;

/// What a thread does. The number of a secret, and of the value that is written: of no other step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Read(usize),
    With(usize),
    Own(usize),
    Replace(usize, u8),
    Commit(usize, u8),
    Discard(usize, u8),
    Close(usize),
    Purge,
    Refresh,
    Finish,
    CloseVault,
}

/// A program: its vault, how many secrets, and what each thread does.
#[derive(Clone)]
pub struct Play {
    setup: Setup,
    secrets: usize,
    actors: Vec<Vec<Act>>,
}

impl fmt::Debug for Play {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {} secrets in {:?}", self.secrets, self.setup)?;
        self.actors.iter().enumerate().try_for_each(|(n, acts)| writeln!(f, "  thread {n}: {acts:?}"))
    }
}

/// What a thread has seen of the secrets.
#[derive(Clone, Default)]
struct Seen {
    /// Closed, or purged: it stays so.
    gone: [bool; 2],
    /// The last value that it wrote with success, and how often it did.
    wrote: [Option<u8>; 2],
    writes: [u64; 2],
}

pub fn decode((vaults, rows): &Rows, holds: &[Hold], stores: &[Store]) -> Play {
    let setup = Setup { tight: None, lingers: false, wait: 5000, ..setup_of(vaults[0], holds, stores) };
    let count = 2 + usize::from(vaults[0][5]) % 2;
    let secrets = 1 + usize::from(vaults[0][4]) % 2;
    let mut actors = vec![Vec::new(); count];
    for (n, &[op, secret, ..]) in rows.iter().enumerate() {
        let (secret, value) = (usize::from(secret) % secrets, n as u8 + 2);
        let act = match op % 40 {
            0..=8 => Act::Read(secret),
            9..=12 => Act::With(secret),
            13..=16 => Act::Own(secret),
            17..=21 => Act::Replace(secret, value),
            22..=26 => Act::Commit(secret, value),
            27..=29 => Act::Discard(secret, value),
            30..=32 => Act::Close(secret),
            33..=34 => Act::Purge,
            35..=36 => Act::Refresh,
            37..=38 => Act::Finish,
            _ => Act::CloseVault,
        };
        actors[n % count].push(act);
    }
    Play { setup, secrets, actors }
}

impl Play {
    fn is_paged(&self) -> bool {
        self.setup.store == Store::Paged
    }

    fn all(&self) -> impl Iterator<Item = Act> {
        self.actors.iter().flatten().copied()
    }

    /// May a use of the secret fail like this, whatever the others do?
    fn may_fail(&self, secret: usize, error: Error) -> bool {
        let has = |act: Act| self.all().any(|other| other == act);
        let closes = has(Act::Close(secret)) || has(Act::CloseVault);
        match error {
            Error::Closed => closes || (self.is_paged() && has(Act::Purge)),
            Error::Revoked => closes,
            Error::Purged => !self.is_paged() && has(Act::Purge),
            _ => false,
        }
    }

    /// May a reader that has seen this find that value?
    fn may_be(&self, me: usize, seen: &Seen, secret: usize, value: u8) -> bool {
        let writes = |act: &Act| matches!(act, Act::Replace(s, _) | Act::Commit(s, _) if *s == secret);
        let others = self.actors.iter().enumerate().filter(|(n, _)| *n != me);
        if others.flat_map(|(_, acts)| acts).any(writes) {
            let written = |act: Act| act == Act::Replace(secret, value) || act == Act::Commit(secret, value);
            return value == 1 || self.all().any(written);
        }
        value == seen.wrote[secret].unwrap_or(1)
    }
}

fn whole(bytes: &[u8]) -> Option<u8> {
    (bytes.len() == LEN && bytes.iter().all(|&byte| byte == bytes[0])).then_some(bytes[0])
}

/// Carries out one act; gives the value that was read, if one was.
fn perform(act: Act, vault: &Vault, secrets: &[Secret]) -> Result<Option<Option<u8>>, Error> {
    match act {
        Act::Read(at) => {
            let view = secrets[at].view()?;
            let first = whole(&view);
            std::thread::yield_now();
            let second = whole(&view);
            // Revoked or not, it has shown its bytes to the end.
            _ = view.finish();
            Ok(Some(if first == second { first } else { None }))
        }
        Act::With(at) => match secrets[at].with(whole) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(error.error()),
        },
        Act::Own(at) => {
            let view = secrets[at].owned_view()?;
            std::thread::yield_now();
            view.with(whole).map(Some).map_err(|error| error.error())
        }
        Act::Replace(at, value) => secrets[at].replace(&mut [value; LEN]).map(|()| None),
        Act::Commit(at, value) => {
            let mut writer = secrets[at].view_mut()?;
            writer.fill(value);
            std::thread::yield_now();
            writer.commit().map(|()| None)
        }
        Act::Discard(at, value) => {
            secrets[at].view_mut()?.fill(value);
            Ok(None)
        }
        Act::Close(at) => secrets[at].close_timeout(Duration::from_millis(1)).map(|_| None),
        Act::Purge => vault.purge().map(|_| None),
        Act::Refresh => vault.refresh().map(|()| None),
        Act::Finish => vault.finish_refresh(Duration::from_secs(5)).map(|_| None),
        Act::CloseVault => vault.close(Duration::from_millis(1)).map(|_| None),
    }
}

fn act_one(play: &Play, me: usize, vault: &Vault, secrets: &[Secret]) -> Found<Seen> {
    let mut seen = Seen::default();
    for (n, &act) in play.actors[me].iter().enumerate() {
        let got = perform(act, vault, secrets);
        let wrong = |why: &str| Err(format!("thread {me}, {n}: {act:?} gave {got:?}: {why}"));
        match (act, got) {
            (Act::Read(at) | Act::With(at) | Act::Own(at), Ok(value)) => {
                let right = value.flatten().is_some_and(|value| play.may_be(me, &seen, at, value));
                if seen.gone[at] || !right {
                    return wrong("no such value was there");
                }
            }
            (Act::Replace(at, value) | Act::Commit(at, value), Ok(_)) => {
                if seen.gone[at] {
                    return wrong("it was gone before");
                }
                seen.wrote[at] = Some(value);
                seen.writes[at] += 1;
            }
            (Act::Discard(at, _), Ok(_)) if seen.gone[at] => return wrong("it was gone before"),
            (Act::Close(at), Ok(_)) => seen.gone[at] = true,
            (Act::CloseVault, Ok(_)) => seen.gone = [true; 2],
            // A paged one that another thread was writing is closed when that ends.
            (Act::Purge, Ok(_)) => seen.gone = [true; 2],
            (_, Ok(_)) => {}
            (
                Act::Read(at)
                | Act::With(at)
                | Act::Own(at)
                | Act::Replace(at, _)
                | Act::Commit(at, _)
                | Act::Discard(at, _),
                Err(error),
            ) => {
                if !play.may_fail(at, error) {
                    return wrong("nothing of that kind is done");
                }
                seen.gone[at] = true;
            }
            (Act::Purge | Act::Refresh | Act::Finish, Err(Error::Closed))
                if play.all().any(|other| other == Act::CloseVault) => {}
            // A purge came in between; or the keys cannot keep up with those that are made.
            (Act::Finish, Err(Error::Purged)) if play.all().any(|other| other == Act::Purge) => {}
            (_, Err(_)) => return wrong("that must not fail"),
        }
    }
    Ok(seen)
}

/// Runs it once.
pub fn run(play: &Play) -> Found {
    let vault = build(&play.setup).map_err(|error| format!("a vault was refused: {error:?}"))?;
    let secrets: Vec<Secret> = (0..play.secrets)
        .map(|_| vault.secret().from_bytes(&mut [1; LEN]).map_err(|error| format!("{error:?}")))
        .collect::<Found<_>>()?;
    let start = Barrier::new(play.actors.len());
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..play.actors.len())
            .map(|me| {
                let (vault, secrets, start) = (&vault, &secrets, &start);
                scope.spawn(move || {
                    start.wait();
                    act_one(play, me, vault, secrets)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())))
            .collect::<Found<_>>()
    })?;
    for (at, secret) in secrets.iter().enumerate() {
        let closed = play.all().any(|act| act == Act::Close(at) || act == Act::CloseVault);
        let purged = play.all().any(|act| act == Act::Purge);
        let found = secret.with(whole).map_err(|error| error.error());
        let last = |value: u8| seen.iter().any(|seen| seen.wrote[at] == Some(value));
        let right = match found {
            Ok(Some(value)) => {
                let none = value == 1 && seen.iter().all(|seen| seen.wrote[at].is_none());
                !closed && !purged && (none || last(value))
            }
            Err(error) => (closed || purged) && play.may_fail(at, error),
            Ok(None) => false,
        };
        check(right, || format!("in the end secret {at} gives {found:?}"))?;
        let (writes, status) = (seen.iter().map(|seen| seen.writes[at]).sum::<u64>(), secret.status());
        let known = !closed && !purged;
        check(!known || status.version == writes, || format!("{writes} writes, and {status:?}"))?;
        check(status.open_views == 0, || format!("views are left: {status:?}"))?;
    }
    drop(secrets);
    super::run::soon(play.setup.janitor, || {
        let (status, left) = (vault.status(), vault.diagnostics().views.len());
        check(status.secrets == 0 && left == 0, || format!("{left} views are left, and {status:?}"))
    })
}

//! Steps that make secrets.

use std::io::Read;

use securememory::{Error, FromOwnedError, Policy, Secret, TryError};
use zeroize::Zeroize;

use super::program::{How, Own, Span};
use super::run::{Found, Runner, agree, catch, check, panic_on_purpose};
use super::values::{Plain, Value};

/// Where a program has few places for views, secrets have no more bytes than fit any of them.
const TIGHT_LEN: usize = 200;

/// Gives its bytes in small pieces, and ends.
struct Pieces<'a>(&'a [u8]);

impl Read for Pieces<'_> {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        let room = &mut room[..7.min(self.0.len())];
        Read::read(&mut self.0, room)
    }
}

/// The error of an outcome with others.
fn ours<T, E: std::fmt::Debug>(outcome: Result<T, TryError<E>>) -> Result<T, Option<Error>> {
    outcome.map_err(|error| match error {
        TryError::Failed(error) => Some(error),
        _ => None,
    })
}

impl Runner {
    fn bounded(&self, vault: usize, len: usize) -> usize {
        if self.model.vaults[vault].setup.tight.is_some() { len.min(TIGHT_LEN) } else { len }
    }

    pub fn create(&mut self, number: u8, how: How, len: usize, own: Option<Own>, label: bool) -> Found {
        let Some((at, vault)) = self.vault(number) else { return Ok(()) };
        let len = self.bounded(at, len);
        // A janitor would end those whose time is over at any moment.
        let janitor = self.model.vaults[at].setup.janitor;
        let lives = |own: &Own| ![own.time_to_live, own.idle_time].contains(&Some(Span::None));
        let own = own.filter(|own| !janitor || lives(own));
        if let How::Batch(count) = how {
            return self.create_batch(at, count, len);
        }
        let want = self.model.can_create(at, len);
        let value = self.draw(len);
        let mut builder = vault.secret();
        if let Some(own) = own {
            let setup = self.model.vaults[at].setup;
            let policy = Policy::new().lock(setup.lock).dump(setup.dump).on_close(own.on_close);
            let wait = std::time::Duration::from_millis;
            let policy = policy.wait(wait(setup.wait)).close_wait(wait(1));
            let hour = std::time::Duration::from_secs(3600);
            let policy = own.time_to_live.map_or(policy.clone(), |span| policy.time_to_live(span.duration()));
            let policy = own.idle_time.map_or(policy.clone(), |span| policy.idle_time(span.duration()));
            builder = builder.policy(if setup.lingers { policy.linger(hour) } else { policy });
        }
        if label {
            builder = builder.label("of a program");
        }
        let mut source = value.bytes();
        let wiped = |source: &[u8]| source.iter().all(|&byte| byte == 0);
        let made = match how {
            How::Bytes | How::Batch(_) => {
                let made = agree(builder.from_bytes(&mut source), want)?;
                let right = if made.is_some() { wiped(&source) } else { value.is(&source) };
                check(right, || "the source is neither whole nor wiped".into())?;
                made
            }
            How::Owned => match builder.from_vec(std::mem::take(&mut *source)) {
                Ok(made) => agree(Ok(made), want)?,
                Err(FromOwnedError { error, source: mut back, .. }) => {
                    let whole = value.is(&back);
                    back.zeroize();
                    check(whole, || "the source is not whole".into())?;
                    agree(Err(error), want)?
                }
            },
            How::Random => agree(builder.random(len), want)?,
            How::Init => agree(builder.init_with(len, |room| value.write(room)), want)?,
            How::InitPanics => {
                let panicked = catch(|| {
                    builder.init_with(len, |room| {
                        value.write(room);
                        panic_on_purpose()
                    })
                });
                return match panicked {
                    None => check(want.is_ok(), || format!("the closure ran, the model says {want:?}")),
                    Some(refused) => match (refused, want) {
                        (Err(error), Err(want)) if error == want => Ok(()),
                        (refused, want) => Err(format!("gave {refused:?}, the model says {want:?}")),
                    },
                };
            }
            How::InitFails => {
                let made = builder.try_init_with(len, |room| {
                    value.write(room);
                    Err("no")
                });
                let expected = want.err();
                return check(ours(made).err() == Some(expected), || {
                    format!("the model says {expected:?}, or the closure's own error")
                });
            }
            How::Reader => agree(builder.read_from(&mut Pieces(&source), len), want)?,
            How::ShortReader => {
                let got = len / 2;
                let want =
                    want.and(if len == 0 { Ok(()) } else { Err(Error::EndedEarly { expected: len, got }) });
                agree(builder.read_from(&mut Pieces(&source[..got]), len), want)?
            }
        };
        let Some(secret) = made else { return Ok(()) };
        let value = if how == How::Random { None } else { Some(value) };
        self.admit(at, secret, value, own)
    }

    /// Takes a new secret into the model; where nobody knows its bytes, by a look at them.
    fn admit(&mut self, vault: usize, secret: Secret, value: Option<Value>, own: Option<Own>) -> Found {
        let len = secret.len();
        let known = value.is_some();
        self.note(vault, secret, value.unwrap_or_else(|| Value::seen(&vec![0; len])), own);
        if known {
            return Ok(());
        }
        let Some((at, secret)) = self.secrets.last().cloned() else { return Ok(()) };
        let want = self.model.open(at);
        if let Some(view) = agree(secret.view(), want)? {
            self.model.secrets[at].value = Value::seen(&view);
            agree(view.finish(), Ok(()))?;
            self.model.end(at);
        } else {
            // No place for a view: then nobody will ever know what to expect.
            self.secrets.pop();
        }
        Ok(())
    }

    fn create_batch(&mut self, at: usize, count: usize, len: usize) -> Found {
        let Some(vault) = self.vaults[at].clone() else { return Ok(()) };
        let want = (0..count).try_for_each(|_| self.model.can_create(at, len));
        let values: Vec<Value> = (0..count).map(|_| self.draw(len)).collect();
        let mut sources: Vec<Plain> = values.iter().map(|value| value.bytes()).collect();
        let mut slices: Vec<&mut [u8]> = sources.iter_mut().map(|source| &mut source[..]).collect();
        let made = agree(vault.secrets_from(&mut slices), want)?;
        let is_right = |(source, value): (&Plain, &Value)| {
            if made.is_some() { source.iter().all(|&byte| byte == 0) } else { value.is(source) }
        };
        check(sources.iter().zip(&values).all(is_right), || "sources are neither whole nor wiped".into())?;
        for (secret, value) in made.into_iter().flatten().zip(values) {
            self.note(at, secret, value, None);
        }
        Ok(())
    }

    pub fn derive(&mut self, number: u8, len: usize, panics: bool) -> Found {
        let Some((at, secret)) = self.secret(number) else { return Ok(()) };
        let vault = self.model.secrets[at].vault;
        let len = self.bounded(vault, len);
        let input = self.model.secrets[at].value.clone();
        let output = self.draw(len);
        let want = self.model.open(at).and_then(|()| {
            let made = self.model.can_create(vault, len);
            self.model.end(at);
            made
        });
        let mut saw = true;
        let derived = catch(|| {
            secret.derive(len, |from, to| {
                saw = input.is(from);
                output.write(to);
                if panics {
                    panic_on_purpose();
                }
            })
        });
        check(saw, || "a derivation saw other bytes".into())?;
        match derived {
            None => check(panics && want.is_ok(), || format!("it panicked; the model says {want:?}")),
            Some(made) => match agree(made, want)? {
                Some(made) if !panics => self.admit(vault, made, Some(output), None),
                Some(_) => Err("no panic came through".into()),
                None => Ok(()),
            },
        }
    }
}

//! Steps with views, writers and owned views.

use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use securememory::{Error, OwnedView, Secret, View, ViewMut, WithError};

use super::program::{Step, Then};
use super::run::{Found, Runner, agree, catch, check, panic_on_purpose, pick};
use super::values::Value;

/// Something that borrows a secret, and the secret.
pub struct Held<T> {
    // Dropped in this order.
    what: T,
    pub secret: usize,
    _owner: Rc<Secret>,
}

pub type Reading = Held<View<'static>>;

/// A writer, and what it would commit.
pub struct Writing {
    held: Held<ViewMut<'static>>,
    draft: Value,
}

/// An owned view, or a part of one.
pub struct Owning {
    view: OwnedView,
    pub copy: usize,
    range: (usize, usize),
    /// Where the copy is.
    pub address: usize,
}

impl Reading {
    fn open(at: usize, secret: &Rc<Secret>) -> Result<Self, Error> {
        let view = secret.view()?;
        // SAFETY: the secret lies in an `Rc` that is dropped after the view, in the same structure.
        let what = unsafe { std::mem::transmute::<View<'_>, View<'static>>(view) };
        Ok(Self { what, secret: at, _owner: Rc::clone(secret) })
    }

    pub fn address(&self) -> usize {
        self.what.as_ptr().addr()
    }

    pub fn finish(self) -> Result<(), Error> {
        self.what.finish()
    }
}

impl Writing {
    fn open(at: usize, secret: &Rc<Secret>, draft: Value) -> Result<Self, Error> {
        let view = secret.view_mut()?;
        // SAFETY: as for `Reading`.
        let what = unsafe { std::mem::transmute::<ViewMut<'_>, ViewMut<'static>>(view) };
        Ok(Self { held: Held { what, secret: at, _owner: Rc::clone(secret) }, draft })
    }

    pub fn address(&self) -> usize {
        self.held.what.as_ptr().addr()
    }

    pub fn commit(self) -> Result<(), Error> {
        self.held.what.commit()
    }

    pub fn secret(&self) -> usize {
        self.held.secret
    }
}

impl<T> Deref for Held<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.what
    }
}

impl<T> DerefMut for Held<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.what
    }
}

impl Owning {
    /// Lends the bytes, if the model says that there are any.
    pub fn lend<R>(&self, f: impl FnOnce(&[u8]) -> R) -> Result<R, Error> {
        self.view.with(f).map_err(|error| match error {
            WithError::NotRun(error) => error,
            // Nobody can come between in one thread.
            WithError::Ran { .. } => Error::Unsupported("it ran"),
            _ => Error::Unsupported("a new kind of error"),
        })
    }

    pub fn part(&self) -> Result<OwnedView, Error> {
        self.view.part(..)
    }
}

impl Runner {
    pub fn step_of_view(&mut self, step: Step) -> Found {
        match step {
            Step::View { secret } => self.view(secret),
            Step::With { secret, then } => self.with(secret, then),
            Step::EndView { view } | Step::DropView { view } | Step::LeakView { view } => {
                let Some(view) = pick(view, self.views.len()) else { return Ok(()) };
                let view = self.views.remove(view);
                self.end_view(view, step)
            }
            Step::OpenWriter { secret } => self.open_writer(secret),
            Step::Edit { writer, at } => {
                let Some(writer) = pick(writer, self.writers.len()) else { return Ok(()) };
                edit(&mut self.writers[writer], at)
            }
            Step::Commit { writer } | Step::Discard { writer } | Step::LeakWriter { writer } => {
                let Some(writer) = pick(writer, self.writers.len()) else { return Ok(()) };
                let writer = self.writers.remove(writer);
                self.end_writer(writer, step)
            }
            Step::WriteAndPanic { secret, at } => self.write_and_panic(secret, at),
            Step::Replace { secret, longer } => self.replace(secret, longer),
            Step::Compare { secret, other } => self.compare_two(secret, other),
            Step::Own { secret } => self.own(secret),
            Step::Part { owned, start, end } => self.part(owned, start, end),
            Step::Use { owned, then } => self.use_owned(owned, then),
            Step::DropOwned { owned } | Step::LeakOwned { owned } => {
                let Some(at) = pick(owned, self.owned.len()) else { return Ok(()) };
                let owned = self.owned.remove(at);
                if matches!(step, Step::LeakOwned { .. }) {
                    self.leaked.1.push(owned);
                } else {
                    self.model.drop_owned(owned.copy);
                }
                Ok(())
            }
            _ => Err(format!("{step:?} is not for here")),
        }
    }

    fn view(&mut self, number: u8) -> Found {
        let Some((at, secret)) = self.secret(number) else { return Ok(()) };
        let want = self.model.open(at);
        let Some(view) = agree(Reading::open(at, &secret), want)? else { return Ok(()) };
        let value = self.model.secrets[at].value.clone();
        check(value.is(&view), || format!("a view of secret {at} shows other bytes"))?;
        self.remember(at, view.address(), value);
        self.views.push(view);
        Ok(())
    }

    fn end_view(&mut self, view: Reading, step: Step) -> Found {
        let at = view.secret;
        // With a newer value the secret has another version, and the view, of a sealed one, the old value.
        if self.model.secrets[at].version == 0 {
            let whole = self.model.secrets[at].value.is(&view);
            check(whole, || format!("at its end, a view of secret {at} shows other bytes"))?;
        }
        match step {
            Step::LeakView { .. } => {
                self.forgotten.push(view.address());
                let Held { what, _owner: owner, .. } = view;
                std::mem::forget(what);
                drop(owner);
                return Ok(());
            }
            Step::EndView { .. } => _ = agree(view.finish(), Ok(()))?,
            _ => drop(view),
        }
        self.model.end(at);
        Ok(())
    }

    fn with(&mut self, number: u8, then: Then) -> Found {
        let Some((at, secret)) = self.secret(number) else { return Ok(()) };
        let want = self.model.open(at);
        let value = self.model.secrets[at].value.clone();
        // What is tried inside is known beforehand.
        let inner = match (want, then) {
            (Ok(()), Then::Nested) => {
                let inner = self.model.open(at);
                inner.iter().for_each(|()| self.model.end(at));
                inner
            }
            (Ok(()), Then::Write) => {
                let inner = self.model.open_writer(at);
                inner.iter().for_each(|()| _ = self.model.end_writer(at, None));
                inner
            }
            (Ok(()), Then::Close) => Err(Error::WouldDeadlock),
            _ => Ok(()),
        };
        let ran = catch(|| {
            secret.with(|bytes| {
                check(value.is(bytes), || "a callback saw other bytes".into())?;
                match then {
                    Then::Nothing => Ok(()),
                    Then::Panic => panic_on_purpose(),
                    Then::Nested => agree(secret.view().map(|view| value.is(&view)), inner)
                        .and_then(|same| check(same != Some(false), || "a nested view differs".into())),
                    Then::Close => agree(secret.close(), inner).map(drop),
                    Then::Write => agree(secret.view_mut().map(drop), inner).map(drop),
                }
            })
        });
        match ran {
            None => check(want.is_ok() && then == Then::Panic, || format!("it panicked; model: {want:?}"))?,
            Some(outcome) => {
                if let Some(inside) = agree(outcome.map_err(Error::from), want)? {
                    inside?;
                }
            }
        }
        if want.is_ok() {
            self.model.end(at);
        }
        Ok(())
    }

    fn open_writer(&mut self, number: u8) -> Found {
        let Some((at, secret)) = self.secret(number) else { return Ok(()) };
        let want = self.model.open_writer(at);
        let value = self.model.secrets[at].value.clone();
        let opened = Writing::open(at, &secret, value.clone());
        let Some(writer) = agree(opened, want)? else { return Ok(()) };
        check(value.is(&writer.held), || format!("a writer of secret {at} finds other bytes"))?;
        self.remember(at, writer.address(), value);
        self.writers.push(writer);
        Ok(())
    }

    fn end_writer(&mut self, writer: Writing, step: Step) -> Found {
        let at = writer.secret();
        check(writer.draft.is(&writer.held), || format!("a writer of secret {at} has other bytes"))?;
        self.remember(at, writer.address(), writer.draft.clone());
        match step {
            Step::LeakWriter { .. } => {
                self.forgotten.push(writer.address());
                let Held { what, _owner: owner, .. } = writer.held;
                std::mem::forget(what);
                drop(owner);
                Ok(())
            }
            Step::Commit { .. } => {
                let want = self.model.end_writer(at, Some(&writer.draft));
                agree(writer.commit(), want).map(drop)
            }
            _ => {
                drop(writer);
                self.model.end_writer(at, None).map_err(|error| format!("{error:?} for a discard"))
            }
        }
    }

    fn write_and_panic(&mut self, number: u8, place: u16) -> Found {
        let Some((at, secret)) = self.secret(number) else { return Ok(()) };
        let want = self.model.open_writer(at);
        let panicked = catch(|| {
            let mut writer = secret.view_mut()?;
            let place = usize::from(place) % writer.len();
            writer[place] ^= 0x55;
            if writer.len() > usize::from(u16::MAX) {
                return Ok::<_, Error>(());
            }
            panic_on_purpose()
        });
        match panicked {
            Some(refused) => _ = agree(refused, want)?,
            None => {
                check(want.is_ok(), || format!("it could be written; the model says {want:?}"))?;
                self.model.end_writer(at, None).map_err(|error| format!("{error:?}"))?;
            }
        }
        Ok(())
    }

    fn replace(&mut self, number: u8, longer: bool) -> Found {
        let Some((at, secret)) = self.secret(number) else { return Ok(()) };
        let len = secret.len();
        let value = self.draw(len + usize::from(longer));
        let mut source = value.bytes();
        let want = if longer {
            Err(Error::LengthMismatch { expected: len, got: len + 1 })
        } else {
            self.model.open_writer(at).and_then(|()| self.model.end_writer(at, Some(&value)))
        };
        let done = agree(secret.replace(&mut source), want)?.is_some();
        let right = if done { source.iter().all(|&byte| byte == 0) } else { value.is(&source) };
        check(right, || "the source of a replacement is neither whole nor wiped".into())
    }

    fn compare_two(&mut self, first: u8, second: u8) -> Found {
        let (Some((a, first)), Some((b, second))) = (self.secret(first), self.secret(second)) else {
            return Ok(());
        };
        let want = self.model.open(a).and_then(|()| {
            let other = self.model.open(b);
            other.iter().for_each(|()| self.model.end(b));
            self.model.end(a);
            other
        });
        let equal = self.model.secrets[a].value == self.model.secrets[b].value;
        let found = agree(first.ct_eq(&second), want)?;
        check(found.is_none_or(|found| found == equal), || format!("{a} equal to {b}: {found:?}"))
    }
}

/// Changes one byte of a draft.
fn edit(writer: &mut Writing, at: u16) -> Found {
    let at = usize::from(at) % writer.held.len();
    let byte = writer.held[at].wrapping_add(113);
    writer.held[at] = byte;
    writer.draft.set(at, byte);
    Ok(())
}

impl Runner {
    fn own(&mut self, number: u8) -> Found {
        let Some((at, secret)) = self.secret(number) else { return Ok(()) };
        let want = self.model.own(at);
        let Some(view) = agree(secret.owned_view(), want.map(drop))? else { return Ok(()) };
        let Ok(copy) = want else { return Ok(()) };
        let value = self.model.secrets[at].value.clone();
        let (same, address) = view
            .with(|bytes| (value.is(bytes), bytes.as_ptr().addr()))
            .map_err(|error| format!("a new owned view: {error}"))?;
        check(same, || format!("an owned view of secret {at} shows other bytes"))?;
        let range = (0, value.len());
        self.owned.push(Owning { view, copy, range, address });
        // A copy, wherever the secret is.
        let vault = self.model.secrets[at].vault;
        let what = super::places::What::Bytes { value, paged: None };
        self.places.push(super::places::Place { vault, address, what });
        Ok(())
    }

    fn part(&mut self, number: u8, start: u8, end: u8) -> Found {
        let Some(at) = pick(number, self.owned.len()) else { return Ok(()) };
        let Owning { view, copy, range, address } = &self.owned[at];
        let len = range.1 - range.0;
        let (start, end) = (usize::from(start) % (len + 2), usize::from(end) % (len + 2));
        let want = if start > end || end > len {
            Err(Error::OutOfRange { start, end, len })
        } else if self.model.copies[*copy].revoked {
            Err(Error::Revoked)
        } else {
            Ok(())
        };
        if let Some(part) = agree(view.part(start..end), want)? {
            let range = (range.0 + start, range.0 + end);
            let part = Owning { view: part, copy: *copy, range, address: *address };
            self.model.copies[part.copy].handles += 1;
            self.owned.push(part);
        }
        Ok(())
    }

    fn use_owned(&mut self, number: u8, then: Then) -> Found {
        let Some(at) = pick(number, self.owned.len()) else { return Ok(()) };
        let owned = &self.owned[at];
        let copy = &mut self.model.copies[owned.copy];
        let want = if copy.revoked { Err(Error::Revoked) } else { Ok(()) };
        copy.wiped |= copy.revoked;
        let value = copy.value.part(owned.range.0, owned.range.1);
        let used = catch(|| {
            owned.lend(|bytes| {
                let same = value.is(bytes);
                if then == Then::Panic {
                    panic_on_purpose();
                }
                same
            })
        });
        match used {
            None => check(want.is_ok(), || format!("it ran; the model says {want:?}")),
            Some(used) => {
                let same = agree(used, want)?;
                check(same != Some(false), || "an owned view shows other bytes".into())
            }
        }
    }
}

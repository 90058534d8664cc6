//! Steps that end secrets and keys, looks at what is left, and the end of a program.

use std::rc::Rc;
use std::time::Duration;

use securememory::testing::thread_id;
use securememory::{Closed, Error, Level, OnClose, Outstanding, Secret, Store, Vault};

use super::common::look_open;
use super::ends::Closing;
use super::places::{Place, What};
use super::program::{Span, Step, Wait};
use super::run::{Found, Runner, agree, check, pick, soon};

/// Long enough for whatever does not wait for anybody.
const LONG: Duration = Duration::from_secs(5);

fn is_mine(thread: u32) -> bool {
    thread == thread_id()
}

fn all_mine(views: &Outstanding) -> bool {
    views.threads().all(is_mine)
}

/// What was closed, in the model's words.
fn outcome(closed: &Closed) -> Option<Closing> {
    Some(match closed {
        Closed::Closed => Closing::Closed,
        Closed::Deferred { views } if all_mine(views) => Closing::Deferred(views.views()),
        Closed::Revoked { views } if all_mine(views) => Closing::Revoked(views.views()),
        _ => return None,
    })
}

impl Runner {
    pub fn close(&mut self, number: u8, wait: Wait) -> Found {
        let Some((at, secret)) = self.secret(number) else { return Ok(()) };
        let want = self.model.close(at);
        let got = match wait {
            Wait::AsPolicy => secret.close(),
            Wait::Zero => secret.close_timeout(Duration::ZERO),
            Wait::Short => secret.close_timeout(Duration::from_millis(2)),
        };
        match (agree(got, want.map(drop))?, want) {
            (Some(closed), Ok(want)) => {
                let got = outcome(&closed);
                // A janitor that was at the secret ends it in a moment.
                let janitor = self.model.vaults[self.model.secrets[at].vault].setup.janitor;
                let left = matches!(got, Some(Closing::Deferred(0) | Closing::Revoked(0)));
                let right = got == Some(want) || (janitor && left && want == Closing::Closed);
                check(right, || format!("closing secret {at} gave {closed:?}, the model says {want:?}"))
            }
            _ => Ok(()),
        }
    }

    pub fn close_many(&mut self, first: u8, count: u8) -> Found {
        let Some(first) = pick(first, self.secrets.len()) else { return Ok(()) };
        let chosen: Vec<(usize, Rc<Secret>)> =
            self.secrets.iter().skip(first).take(usize::from(count)).cloned().collect();
        let want: Vec<_> = chosen.iter().map(|(at, _)| self.model.close(*at)).collect();
        let secrets: Vec<&Secret> = chosen.iter().map(|(_, secret)| &**secret).collect();
        let refused = want.iter().enumerate().find_map(|(at, one)| Some((at, one.err()?)));
        match (Secret::close_many(&secrets), refused) {
            (Ok(closed), None) => {
                let got: Vec<_> = closed.iter().map(|closed| outcome(closed).ok_or(Error::Closed)).collect();
                let janitor = self.model.vaults.iter().any(|vault| vault.setup.janitor);
                check(got == want || janitor, || format!("closing many gave {got:?}, not {want:?}"))
            }
            (Err(failed), Some((index, error))) if failed.index == index && failed.error == error => Ok(()),
            (got, want) => Err(format!("closing many gave {got:?}, the model says {want:?}")),
        }
    }

    /// Compares what a secret says of itself, and remembers what is at rest.
    pub fn look(&mut self, number: u8) -> Found {
        let Some((at, secret)) = self.secret(number) else { return Ok(()) };
        let status = secret.status();
        let model = &self.model.secrets[at];
        let vault = &self.model.vaults[model.vault];
        let copies = self.model.copies.iter().filter(|copy| copy.secret == at && copy.handles > 0).count();
        let views = model.readers + model.writers + copies;
        let rests = if model.paged { !model.closed } else { !model.closed && vault.free_slots() > 0 };
        let knows_version = model.paged || rests;
        let store = if model.paged { Store::Paged } else { Store::Sealed };
        let locked = vault.setup.lock != Level::Require || model.wiped || status.protections.lock.got;
        let right = status.closed == (model.closed || vault.closed)
            && status.len == model.value.len()
            && status.store == store
            && status.open_views == views
            && !status.stuck_open
            && status.at_rest.is_some() == rests
            && (!knows_version || status.version == model.version)
            && locked;
        check(right, || {
            format!(
                "secret {at}: {status:?}; the model: closed {}, {views} views, rests {rests}",
                model.closed
            )
        })?;
        if let Some(place) = status.at_rest.filter(|_| !model.paged) {
            let mut record = vec![0; place.len.min(200)];
            let got = look_open(place.address, &mut record);
            check(got == record.len(), || format!("the record of secret {at} cannot be read"))?;
            let what = What::Record { record, secret: at };
            self.places.push(Place { vault: model.vault, address: place.address, what });
        }
        Ok(())
    }

    pub fn step_of_vault(&mut self, step: Step) -> Found {
        let (Step::Refresh { vault: number }
        | Step::FinishRefresh { vault: number }
        | Step::Purge { vault: number }
        | Step::Tidy { vault: number }
        | Step::Warm { vault: number, .. }
        | Step::CloseVault { vault: number }
        | Step::DropVault { vault: number }) = step
        else {
            return Err(format!("{step:?} is not for here"));
        };
        let Some((at, vault)) = self.vault(number) else { return Ok(()) };
        let setup = self.model.vaults[at].setup;
        let open = if self.model.vaults[at].closed { Err(Error::Closed) } else { Ok(()) };
        // Moving records takes two places.
        let may_fail = self.model.vaults[at].free_slots() < 2;
        match step {
            Step::Refresh { .. } => match vault.refresh() {
                Ok(()) => self.model.vaults[at].epoch += 1,
                Err(Error::ScratchExhausted { .. }) if may_fail => {}
                Err(error) => check(open == Err(error), || format!("a refresh: {error:?}"))?,
            },
            Step::FinishRefresh { .. } => match vault.finish_refresh(LONG) {
                Ok(done) => {
                    check(done.damaged == 0, || format!("{done:?}"))?;
                    let keys = vault.status().keys;
                    check(keys == 1 || setup.refresh_after.is_some(), || format!("{keys} keys are left"))?;
                }
                Err(Error::ScratchExhausted { .. }) if may_fail => {}
                Err(error) => check(open == Err(error), || format!("the end of a refresh: {error:?}"))?,
            },
            Step::Purge { .. } => {
                if let Some(purged) = agree(vault.purge(), open)? {
                    self.model.purge(at);
                    let views = self.model.vaults[at].slots + self.model.vaults[at].tickets;
                    let left = purged.outstanding.len();
                    check(left == views || setup.janitor, || format!("{views} views, and {purged:?}"))?;
                }
            }
            Step::Tidy { .. } => {
                let (next, lingering) = (vault.tidy(), self.model.lingering(at));
                self.model.tidy(at);
                let more = setup.janitor || setup.expires || setup.revoke_after.is_some() || self.expires(at);
                check(more || next.is_some() == (lingering > 0), || format!("tidied: {next:?}"))?;
            }
            Step::Warm { views, .. } => {
                let want = self.model.vaults[at].has_room(usize::from(views));
                agree(vault.warm_thread(usize::from(views)), want)?;
            }
            Step::CloseVault { .. } => self.close_vault(at, &vault)?,
            _ => {
                let cursors = self.cursors(at);
                if setup.close_on_drop && self.model.close_vault(at, cursors).is_err() {
                    // It would be closed by whoever seals something next, or not at all.
                    return Ok(());
                }
                let revokes = setup.on_close == OnClose::Revoke || setup.revoke_after == Some(Span::None);
                if setup.close_on_drop && revokes {
                    self.revoke_cursors(at);
                }
                self.vaults[at] = None;
            }
        }
        Ok(())
    }

    /// Has a secret of the vault, or had one, a time to live?
    fn expires(&self, at: usize) -> bool {
        self.model.secrets.iter().any(|secret| secret.vault == at && secret.expires)
    }

    fn close_vault(&mut self, at: usize, vault: &Vault) -> Found {
        let cursors = self.cursors(at);
        let setup = self.model.vaults[at].setup;
        let want = self.model.close_vault(at, cursors);
        // With nobody to wait for it ends at once.
        let wait = if want == Ok(0) { LONG } else { Duration::from_millis(2) };
        let Some(closed) = agree(vault.close(wait), want.map(drop))? else { return Ok(()) };
        let revokes = setup.on_close == OnClose::Revoke;
        if revokes || setup.revoke_after == Some(Span::None) {
            self.revoke_cursors(at);
        }
        let named = |(id, label): (u64, &Option<String>)| (id, label.clone());
        let mut got: Vec<_> =
            closed.outstanding.iter().map(|view| named((view.secret_id, &view.label))).collect();
        let open = self.model.copies.iter().filter(|copy| copy.handles > 0);
        let secrets = open.map(|copy| &self.model.secrets[copy.secret]).filter(|secret| secret.vault == at);
        let mut expected: Vec<_> = secrets.map(|secret| named((secret.id, &secret.label))).collect();
        let all = want.unwrap_or(0);
        let others = got.iter().filter(|view| !expected.contains(view)).count();
        let mine = closed.outstanding.iter().all(|view| is_mine(view.thread));
        got.retain(|view| expected.contains(view));
        if all == 0 {
            expected.clear();
        }
        got.sort();
        expected.sort();
        let right = closed.outstanding.len() == all
            && got == expected
            && others == if all == 0 { 0 } else { cursors }
            && mine
            && closed.revoked == (all > 0 && revokes)
            && closed.failed.is_none()
            && vault.is_closed();
        check(right, || format!("{closed:?}; the model names {all}, of them {expected:?}"))
    }

    /// What the vault says when everything has been given back but what was forgotten.
    fn check_vaults(&self) -> Found {
        for (at, vault) in self.vaults.iter().enumerate() {
            let Some(vault) = vault else { continue };
            soon(self.model.vaults[at].setup.janitor, || self.check_vault(at, vault))?;
        }
        Ok(())
    }

    fn check_vault(&self, at: usize, vault: &Vault) -> Found {
        let (status, model) = (vault.status(), &self.model.vaults[at]);
        let live = self.model.live(at);
        check(status.secrets == live, || {
            format!("vault {at} counts {} secrets, not {live}", status.secrets)
        })?;
        // Keys are replaced by a count of seals, too.
        let counts = model.setup.refresh_after.is_some();
        let epoch = if model.closed { 0 } else { model.epoch };
        check(status.epoch == epoch || (counts && status.epoch > epoch), || {
            format!("vault {at} is at key {}, the model at {epoch}", status.epoch)
        })?;
        check(status.scratch_unlocked == 0 || model.setup.lock != Level::Require, || {
            format!("vault {at} has places that are not locked")
        })?;
        let left = vault.diagnostics().views.len();
        let forgotten = model.slots + model.tickets;
        check(left == forgotten, || format!("vault {at} has {left} views, and {forgotten} were forgotten"))
    }

    fn end_views(&mut self) {
        for view in std::mem::take(&mut self.views) {
            let at = view.secret;
            drop(view);
            self.model.end(at);
        }
        for writer in std::mem::take(&mut self.writers) {
            let at = writer.secret();
            drop(writer);
            _ = self.model.end_writer(at, None);
        }
    }

    fn end_owned(&mut self) {
        for owned in std::mem::take(&mut self.owned) {
            self.model.drop_owned(owned.copy);
        }
    }

    /// Gives everything back, in one order of several.
    pub fn finish(mut self, order: u64) -> Found {
        self.compare()?;
        match order % 4 {
            0 => {
                self.secrets.clear();
                self.end_views();
                self.compare()?;
                self.end_owned();
                self.end_streams();
            }
            1 => {
                self.end_streams();
                self.end_owned();
                self.compare()?;
                self.end_views();
                self.secrets.clear();
            }
            2 => {
                self.end_views();
                self.secrets.reverse();
                self.secrets.clear();
                self.end_streams();
                self.compare()?;
                self.end_owned();
            }
            _ => {
                // The vaults first: nothing can be asked any more.
                self.vaults.iter_mut().for_each(|vault| *vault = None);
                self.end_owned();
                self.secrets.clear();
                self.end_views();
                self.end_streams();
            }
        }
        self.compare()?;
        self.check_vaults()?;
        // What was forgotten is given back after all, so that the next program finds everything as it was.
        let (secrets, owned) = std::mem::take(&mut self.leaked);
        if secrets.is_empty() && owned.is_empty() {
            return Ok(());
        }
        drop(secrets);
        for owned in owned {
            self.model.drop_owned(owned.copy);
        }
        self.compare()?;
        let lives = (0..self.vaults.len()).map(|at| self.model.live(at)).sum::<u64>();
        check(lives == 0, || format!("the model has {lives} secrets left"))?;
        self.check_vaults()
    }

    /// Everything has been given back: is any of it to be found in the process?
    pub fn search(needle: &super::common::Needle) -> Found {
        let found = needle.find();
        check(found.is_empty(), || format!("in the end there is plaintext: {found:#?}"))
    }
}

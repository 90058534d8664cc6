//! Beginnings and ends: of secrets, of vaults, of processes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use securememory::Closed;

use super::{Actor, Outcome, Stop};
use crate::stress::child;
use crate::stress::scene::{Entry, Facts};

impl Actor<'_> {
    /// A new secret of the shared vault.
    pub fn fresh(&mut self) -> Result<Entry, Stop> {
        let (facts, made) = self.scene.entry(&self.scene.vault, &mut self.random, &mut self.buffer);
        made.map_err(|error| self.stop(&facts, error, "making"))
    }

    pub(super) fn create(&mut self) -> Outcome {
        let entry = self.fresh()?;
        // Whoever has the last reference drops it.
        drop(self.scene.exchange(&mut self.random, entry));
        Ok(())
    }

    pub(super) fn drop_under_view(&mut self, picked: Arc<Entry>) -> Outcome {
        drop(picked);
        let entry = self.fresh()?;
        let old = self.scene.exchange(&mut self.random, entry);
        let parcel = self.parcel(&old)?;
        drop(old);
        self.open_parcel(&parcel)
    }

    pub(super) fn close(&mut self, entry: &Entry) -> Outcome {
        let facts = &*entry.facts;
        let wait = Duration::from_micros(self.random.of(&[0, 200, 2000]));
        facts.closing.store(true, Ordering::SeqCst);
        let closed = entry.secret.close_timeout(wait);
        match closed {
            Ok(Closed::Closed) => {}
            Ok(Closed::Deferred { .. }) if !facts.revokes => {}
            Ok(Closed::Revoked { .. }) if facts.revokes => facts.revoked.store(true, Ordering::SeqCst),
            Ok(other) => return Err(self.unexpected(format!("secret {}: {other:?}", facts.number))),
            Err(error) => return Err(self.stop(facts, error, "close")),
        }
        facts.closed.store(true, Ordering::SeqCst);
        match self.view(entry) {
            Err(Stop::Refused(_)) => {}
            Err(stop) => return Err(stop),
            // `view` has told it.
            Ok(_) => return Err(Stop::Told),
        }
        // Most closed secrets make room, or there would soon be no others.
        if self.random.one_in(4) { Ok(()) } else { self.create() }
    }

    pub(super) fn status(&self, entry: &Entry) -> Outcome {
        let status = entry.secret.status();
        let vault = self.scene.vault.status();
        if status.stuck_open || status.vault_id != vault.id || status.len != entry.secret.len() {
            return Err(self.unexpected(format!("secret {}: {status:?}", entry.facts.number)));
        }
        Ok(())
    }

    pub(super) fn vault(&mut self) -> Outcome {
        let vault = self.scene.builder.clone().build();
        let vault = vault.map_err(|error| self.stop(&Facts::default(), error, "a vault's making"))?;
        let (facts, made) = self.scene.entry(&vault, &mut self.random, &mut self.buffer);
        let entry = made.map_err(|error| self.stop(&facts, error, "making"))?;
        // Secrets keep what they need of their vault.
        drop(vault);
        self.read(&entry)
    }

    pub(super) fn fork(&mut self, entry: &Entry) -> Outcome {
        if !self.scene.may_fork() {
            return Err(Stop::Idle);
        }
        let others: Vec<Arc<Entry>> = (0..4).map(|_| self.scene.pick(&mut self.random)).collect();
        let view = if self.random.one_in(2) { Some(self.view(entry)?) } else { None };
        child::fork(self.tally, &others, view.as_deref(), false);
        match view {
            Some(view) => {
                self.check(&entry.facts, &view, 0, "a view across a fork");
                self.finish(&entry.facts, view)
            }
            None => Ok(()),
        }
    }
}

//! Keys: those of the shared vault turn over, those of a small one are purged.

use std::time::Duration;

use securememory::{Error, Secret};

use super::{Actor, Outcome, Stop};
use crate::stress::scene::Facts;
use crate::stress::tally::Reason;

/// Secrets of a vault that is purged.
const PURGED: usize = 4;

impl Actor<'_> {
    /// A new key for the vault that all share; mostly everything is moved to it, where there is time for
    /// that.
    pub(super) fn refresh(&mut self) -> Outcome {
        let vault = &self.scene.vault;
        vault.refresh().map_err(|error| self.unless_others_refresh(error, "refresh"))?;
        if self.random.one_in(4) {
            return Ok(());
        }
        let wait = self.random.of(&[0, 50, 1000, 200_000]);
        vault
            .finish_refresh(Duration::from_micros(wait))
            .map(drop)
            .map_err(|error| self.unless_others_refresh(error, "the finish of a refresh"))
    }

    /// Others may keep old keys in use, move what is to be moved, and take the place of the next key.
    fn unless_others_refresh(&self, error: Error, call: &str) -> Stop {
        match error {
            Error::Timeout { .. } => Stop::Refused(Reason::Timeout),
            Error::Busy(_) => Stop::Refused(Reason::Busy),
            error => self.stop(&Facts::default(), error, call),
        }
    }

    /// A vault of its own whose keys are destroyed under its secrets.
    pub(super) fn purge(&mut self) -> Outcome {
        let none = Facts::default();
        let vault = self.scene.builder.clone().build();
        let vault = vault.map_err(|error| self.stop(&none, error, "a vault's making"))?;
        let mut entries = Vec::new();
        for _ in 0..PURGED {
            let (facts, made) = self.scene.entry(&vault, &mut self.random, &mut self.buffer);
            entries.push(made.map_err(|error| self.stop(&facts, error, "making"))?);
            if self.random.one_in(2) {
                vault.refresh().map_err(|error| self.stop(&none, error, "refresh"))?;
            }
        }
        let Some(kept) = entries.first() else { return Ok(()) };
        let view = self.view(kept)?;
        vault.purge().map_err(|error| self.stop(&none, error, "purge"))?;
        self.check(&kept.facts, &view, 0, "a view over a purge");
        view.finish().map_err(|error| self.stop(&kept.facts, error, "finish"))?;
        for entry in &entries {
            let gone = if entry.facts.sealed { Error::Purged } else { Error::Closed };
            let calls: [fn(&Secret) -> Option<Error>; 3] = [
                |secret| secret.view().err(),
                |secret| secret.view_mut().err(),
                |secret| secret.owned_view().err(),
            ];
            for outcome in calls.map(|call| call(&entry.secret)) {
                match outcome {
                    Some(error) if error == gone => {}
                    // A fork under way may be waited for before anything is looked at.
                    Some(error) => return Err(self.stop(&entry.facts, error, "opening after a purge")),
                    None => {
                        let number = entry.facts.number;
                        return Err(self.unexpected(format!("secret {number} was opened after a purge")));
                    }
                }
            }
        }
        let (facts, made) = self.scene.entry(&vault, &mut self.random, &mut self.buffer);
        let new = made.map_err(|error| self.stop(&facts, error, "making after a purge"))?;
        self.read(&new)
    }
}

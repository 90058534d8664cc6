//! The model, continued: how secrets and vaults end.

use securememory::{Error, OnClose};

use super::program::Span;
use super::reference::{Copy, Model, Secret};

/// What a close must achieve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    Closed,
    Deferred(usize),
    Revoked(usize),
}

impl Model {
    pub fn expire(&mut self, at: usize) {
        let secret = &mut self.secrets[at];
        if secret.due && !secret.closed {
            (secret.expired, secret.closed) = (true, true);
            self.settle(at);
        }
    }

    pub fn tidy(&mut self, vault: usize) {
        for at in 0..self.secrets.len() {
            if self.secrets[at].vault == vault && self.exists(at) {
                self.expire(at);
            }
        }
        for copy in &mut self.copies {
            copy.wiped |= self.secrets[copy.secret].vault == vault && copy.revoked;
        }
    }

    fn copies_of(&mut self, at: usize) -> impl Iterator<Item = &mut Copy> {
        self.copies.iter_mut().filter(move |copy| copy.secret == at && copy.handles > 0)
    }

    pub fn close(&mut self, at: usize) -> Result<Closing, Error> {
        let secret = &mut self.secrets[at];
        if secret.readers > 0 || secret.writers > 0 {
            return Err(Error::WouldDeadlock);
        }
        secret.closed = true;
        let (on_close, revoke_after) = (secret.on_close, secret.revoke_after);
        self.settle(at);
        match self.copies_of(at).count() {
            0 => Ok(Closing::Closed),
            left if on_close == OnClose::Defer => {
                let revoked = revoke_after == Some(Span::None);
                self.copies_of(at).for_each(|copy| copy.revoked |= revoked);
                Ok(Closing::Deferred(left))
            }
            left => {
                self.copies_of(at).for_each(|copy| (copy.revoked, copy.wiped) = (true, true));
                Ok(Closing::Revoked(left))
            }
        }
    }

    pub fn purge(&mut self, vault: usize) {
        self.vaults[vault].purges += 1;
        self.vaults[vault].epoch += 1;
        for at in 0..self.secrets.len() {
            if self.secrets[at].vault == vault && self.secrets[at].paged && self.exists(at) {
                self.secrets[at].closed = true;
                self.settle(at);
            }
        }
    }

    /// Closes a vault. Gives how many views must be named: all but those of chunks that are written.
    pub fn close_vault(&mut self, vault: usize, cursors: usize) -> Result<usize, Error> {
        let ours = |secret: &&Secret| secret.vault == vault;
        if self.secrets.iter().filter(ours).any(|secret| secret.readers + secret.writers > 0) {
            return Err(Error::WouldDeadlock);
        }
        if !self.vaults[vault].closed {
            self.vaults[vault].purges += 1;
        }
        self.vaults[vault].closed = true;
        for at in 0..self.secrets.len() {
            if self.secrets[at].vault == vault && self.exists(at) {
                self.secrets[at].closed = true;
                self.settle(at);
            }
        }
        let secrets = &self.secrets;
        let left = |copy: &&mut Copy| copy.handles > 0 && secrets[copy.secret].vault == vault;
        let (mut open, mut all) = (cursors, cursors);
        self.copies.iter_mut().filter(left).for_each(|copy| {
            open += usize::from(!copy.wiped);
            all += 1;
        });
        let setup = &self.vaults[vault].setup;
        let (now, soon) = (setup.on_close == OnClose::Revoke, setup.revoke_after == Some(Span::None));
        if open == 0 {
            return Ok(0);
        }
        self.copies.iter_mut().filter(left).for_each(|copy| {
            copy.revoked |= now || soon;
            copy.wiped |= now;
        });
        Ok(all)
    }
}

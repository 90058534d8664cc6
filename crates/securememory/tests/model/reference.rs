//! What must happen, in plain structures: the state that a program's secrets are in, and what each call on it has to give.
//! One thread only; so nothing ever waits for somebody else, and every result is certain.

use securememory::{Error, OnClose, Store};

use super::program::{Setup, Span};
use super::values::Value;

/// A billion-and-something clauses shorter than the library: no locks, no memory, no keys.
#[derive(Default)]
pub struct Model {
    pub vaults: Vec<Vault>,
    pub secrets: Vec<Secret>,
    pub copies: Vec<Copy>,
}

pub struct Vault {
    pub setup: Setup,
    /// Places for views of sealed secrets, owned views and chunks, in use.
    pub slots: usize,
    /// Notes of views of paged secrets.
    pub tickets: usize,
    /// How often all keys were destroyed.
    pub purges: u64,
    pub epoch: u64,
    /// Sealed chunks of streams.
    pub chunks: u64,
    pub closed: bool,
}

impl Vault {
    pub fn new(setup: Setup) -> Self {
        Self { setup, slots: 0, tickets: 0, purges: 0, epoch: 1, chunks: 0, closed: false }
    }

    fn most(&self) -> usize {
        // Views of a vault by default, not a page size.
        self.setup.tight.unwrap_or(4096)
    }

    fn exhausted(&self) -> Error {
        Error::ScratchExhausted { limit: self.most() }
    }

    pub fn free_slots(&self) -> usize {
        self.most() - self.slots
    }

    /// Are there so many places?
    pub fn has_room(&self, slots: usize) -> Result<(), Error> {
        match self.closed {
            true => Err(Error::Closed),
            false if self.free_slots() >= slots => Ok(()),
            false => Err(self.exhausted()),
        }
    }

    pub fn take_slot(&mut self) -> Result<(), Error> {
        self.has_room(1)?;
        self.slots += 1;
        Ok(())
    }

    /// Why something that was sealed before cannot be had.
    pub fn purged(&self) -> Error {
        if self.closed { Error::Closed } else { Error::Purged }
    }

    fn take_ticket(&mut self) -> Result<(), Error> {
        // One of the thread's own.
        if self.tickets > self.most() {
            return Err(self.exhausted());
        }
        self.tickets += 1;
        Ok(())
    }
}

pub struct Secret {
    pub vault: usize,
    pub paged: bool,
    pub value: Value,
    pub version: u64,
    /// Purges of the vault before it was sealed as it is.
    pub sealed_at: u64,
    pub closed: bool,
    /// What was at rest is wiped.
    pub wiped: bool,
    pub on_close: OnClose,
    pub revoke_after: Option<Span>,
    /// Views that somebody has, or that were forgotten.
    pub readers: usize,
    pub writers: usize,
    /// In the list of those whose pages stay open.
    pub listed: bool,
    /// The secret itself is gone; an owned view may keep what is at rest.
    pub dropped: bool,
    /// Its time is over from the start.
    pub due: bool,
    pub expires: bool,
    /// That has been noticed.
    pub expired: bool,
    pub id: u64,
    pub label: Option<String>,
}

/// The copy of an owned view, with all its parts.
pub struct Copy {
    pub secret: usize,
    pub value: Value,
    pub handles: usize,
    pub revoked: bool,
    /// That has been carried out.
    pub wiped: bool,
}

impl Model {
    pub fn is_paged(&self, vault: usize, len: usize) -> bool {
        match self.vaults[vault].setup.store {
            Store::Paged => true,
            // The setups' own bound.
            Store::Auto => len > super::run::SEALED_MAX,
            _ => false,
        }
    }

    /// May a secret be made, for which code of the user's may run?
    pub fn can_create(&self, vault: usize, len: usize) -> Result<(), Error> {
        if len == 0 {
            return Err(Error::Empty);
        }
        if self.is_paged(vault, len) && !self.vaults[vault].closed {
            return Ok(());
        }
        self.vaults[vault].has_room(1)
    }

    pub fn create(&mut self, vault: usize, value: Value, on_close: OnClose) -> usize {
        self.secrets.push(Secret {
            vault,
            paged: self.is_paged(vault, value.len()),
            version: 0,
            sealed_at: self.vaults[vault].purges,
            closed: false,
            wiped: false,
            on_close,
            revoke_after: self.vaults[vault].setup.revoke_after,
            readers: 0,
            writers: 0,
            listed: false,
            dropped: false,
            due: false,
            expires: false,
            expired: false,
            id: 0,
            label: None,
            value,
        });
        self.secrets.len() - 1
    }

    fn is_purged(&self, secret: usize) -> bool {
        let secret = &self.secrets[secret];
        !secret.paged && secret.sealed_at != self.vaults[secret.vault].purges
    }

    /// Opens a sealed secret into a place of its own.
    fn open_copy(&mut self, at: usize) -> Result<(), Error> {
        let secret = &self.secrets[at];
        self.vaults[secret.vault].has_room(1)?;
        if secret.closed {
            return Err(Error::Closed);
        }
        if self.is_purged(at) {
            return Err(Error::Purged);
        }
        self.vaults[self.secrets[at].vault].take_slot()
    }

    /// Has the secret time left? One whose time is over is closed.
    fn check_time(&mut self, at: usize) -> Result<(), Error> {
        self.expire(at);
        if self.secrets[at].expired { Err(Error::Expired) } else { Ok(()) }
    }

    pub fn open(&mut self, at: usize) -> Result<(), Error> {
        self.check_time(at)?;
        let secret = &mut self.secrets[at];
        if secret.paged {
            let vault = &mut self.vaults[secret.vault];
            vault.take_ticket()?;
            let refused = if secret.closed {
                Some(Error::Closed)
            } else {
                (secret.writers > 0).then_some(Error::WouldDeadlock)
            };
            if let Some(error) = refused {
                vault.tickets -= 1;
                return Err(error);
            }
        } else {
            self.open_copy(at)?;
        }
        self.secrets[at].readers += 1;
        Ok(())
    }

    pub fn end(&mut self, at: usize) {
        let secret = &mut self.secrets[at];
        secret.readers -= 1;
        let vault = &mut self.vaults[secret.vault];
        if secret.paged {
            vault.tickets -= 1;
            secret.listed |= secret.readers == 0 && vault.setup.lingers;
        } else {
            vault.slots -= 1;
        }
        self.settle(at);
    }

    /// What is closed is wiped when nobody is inside.
    pub fn settle(&mut self, at: usize) {
        let secret = &mut self.secrets[at];
        secret.wiped |= secret.closed && secret.writers == 0 && (!secret.paged || secret.readers == 0);
    }

    pub fn open_writer(&mut self, at: usize) -> Result<(), Error> {
        self.check_time(at)?;
        let secret = &mut self.secrets[at];
        if secret.writers > 0 || (secret.paged && secret.readers > 0) {
            return Err(Error::WouldDeadlock);
        }
        if secret.paged {
            let vault = &mut self.vaults[secret.vault];
            vault.take_ticket()?;
            if secret.closed {
                vault.tickets -= 1;
                return Err(Error::Closed);
            }
        } else if secret.closed {
            return Err(Error::Closed);
        } else {
            self.open_copy(at)?;
        }
        self.secrets[at].writers += 1;
        Ok(())
    }

    /// Ends a change, with the new value if it is to be valid.
    pub fn end_writer(&mut self, at: usize, commit: Option<&Value>) -> Result<(), Error> {
        let purged = self.is_purged(at);
        let secret = &mut self.secrets[at];
        let outcome = match commit {
            None => Ok(()),
            Some(_) if secret.closed => Err(Error::Closed),
            Some(_) if purged => Err(Error::Purged),
            Some(value) => {
                secret.value = value.clone();
                secret.version += 1;
                secret.sealed_at = self.vaults[secret.vault].purges;
                Ok(())
            }
        };
        secret.writers -= 1;
        let vault = &mut self.vaults[secret.vault];
        if secret.paged {
            vault.tickets -= 1;
        } else {
            vault.slots -= 1;
        }
        self.settle(at);
        outcome
    }

    pub fn own(&mut self, at: usize) -> Result<usize, Error> {
        self.check_time(at)?;
        if self.secrets[at].paged {
            // A view as long as the bytes are copied.
            self.open(at)?;
            let room = self.vaults[self.secrets[at].vault].take_slot();
            self.end(at);
            room?;
        } else {
            self.open_copy(at)?;
        }
        let value = self.secrets[at].value.clone();
        self.copies.push(Copy { secret: at, value, handles: 1, revoked: false, wiped: false });
        Ok(self.copies.len() - 1)
    }

    pub fn drop_owned(&mut self, copy: usize) {
        self.copies[copy].handles -= 1;
        if self.copies[copy].handles == 0 {
            self.vaults[self.secrets[self.copies[copy].secret].vault].slots -= 1;
        }
    }

    /// Is there anything left of it but views that were forgotten?
    pub fn exists(&self, at: usize) -> bool {
        !self.secrets[at].dropped || self.copies.iter().any(|copy| copy.secret == at && copy.handles > 0)
    }

    /// What the vault has to count as live.
    pub fn live(&self, vault: usize) -> u64 {
        let ours = (0..self.secrets.len())
            .filter(|&at| self.secrets[at].vault == vault && self.exists(at) && !self.secrets[at].wiped);
        if self.vaults[vault].closed { 0 } else { ours.count() as u64 + self.vaults[vault].chunks }
    }

    /// How many secrets' pages stay open without a view, or did so once.
    pub fn lingering(&self, vault: usize) -> usize {
        let ours = |at: &usize| self.secrets[*at].vault == vault && self.secrets[*at].listed;
        (0..self.secrets.len()).filter(ours).filter(|&at| self.exists(at)).count()
    }

    /// May the bytes of the secret be found where its pages are?
    pub fn may_show(&self, at: usize) -> bool {
        let secret = &self.secrets[at];
        self.exists(at) && !secret.wiped && (secret.readers > 0 || secret.writers > 0 || secret.listed)
    }
}

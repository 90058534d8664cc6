//! How secrets are made.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use zeroize::Zeroize;

use crate::counters;
use crate::error::{Error, FromOwnedError, Result, TryError};
use crate::events;
use crate::locks;
use crate::os;
use crate::policy::{Policy, Store};
use crate::secret::Secret;
use crate::store::{Bytes, Machinery, Object, Source, Spec};
use crate::vault::Vault;

/// A secret to be: its label, alignment, store and policy, where they differ from the vault's.
///
/// ```
/// use securememory::{Secret, Store};
/// let key = Secret::builder().label("disk key").align(64).store(Store::Paged).random(32)?;
/// assert_eq!(key.view()?.as_ptr().addr() % 64, 0);
/// # Ok::<(), securememory::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is given the bytes"]
pub struct SecretBuilder {
    /// `None`: the default one, looked up when the secret is made.
    vault: Option<Arc<Machinery>>,
    spec: Spec,
}

/// Random bytes that become a secret.
struct Random;

impl Source<Infallible> for Random {
    const FOREIGN: bool = false;

    fn write(self, room: &mut [u8]) -> Result<(), TryError<Infallible>> {
        Ok(os::fill_random(room).map_err(Error::System)?)
    }
}

/// Code of the user's that writes a secret; it finds zeros.
struct Closure<F>(F);

impl<E, F: FnOnce(&mut [u8]) -> Result<(), TryError<E>>> Source<E> for Closure<F> {
    const FOREIGN: bool = true;

    fn write(self, room: &mut [u8]) -> Result<(), TryError<E>> {
        room.fill(0);
        locks::user_code();
        (self.0)(room)
    }
}

// Here and not in `vault`, which knows nothing of secrets.
impl Vault {
    /// Begins a secret in this vault.
    pub fn secret(&self) -> SecretBuilder {
        SecretBuilder::in_vault(self.shared())
    }
}

impl SecretBuilder {
    pub(super) fn in_vault(vault: &Arc<Machinery>) -> Self {
        Self { vault: Some(Arc::clone(vault)), spec: Spec::default() }
    }

    pub(super) fn in_default_vault() -> Self {
        Self { vault: None, spec: Spec::default() }
    }

    /// A name for people, at most 255 bytes. Not secret: it is shown in `Debug` and in diagnoses.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.spec.label = Some(label.into());
        self
    }

    /// The alignment of the bytes in every view: a power of two up to the page size; 16 by default.
    pub fn align(mut self, align: usize) -> Self {
        self.spec.align = Some(align);
        self
    }

    /// How it is kept.
    pub fn store(mut self, store: Store) -> Self {
        self.spec.store = Some(store);
        self
    }

    /// A policy of its own. A sealed secret shares its vault's key and scratch: what it requires must be
    /// what the vault has.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.spec.policy = Some(policy);
        self
    }

    fn make<E>(self, len: usize, source: impl Source<E>) -> Result<Secret, TryError<E>> {
        let vault = match self.vault {
            Some(vault) => vault,
            None => Vault::global_machinery()?,
        };
        let made = Object::make(vault, self.spec, len, source).map(Secret::from_object);
        events::tell();
        if let Err(TryError::Failed(error)) = &made {
            counters::refused(error);
        }
        made
    }

    /// As [`Secret::from_bytes`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn from_bytes(self, source: &mut [u8]) -> Result<Secret> {
        let secret = self.make(source.len(), Bytes(source)).map_err(TryError::into_error)?;
        source.zeroize();
        Ok(secret)
    }

    /// As [`Secret::from_vec`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn from_vec(self, mut source: Vec<u8>) -> Result<Secret, FromOwnedError<Vec<u8>>> {
        match self.from_bytes(&mut source) {
            Ok(secret) => {
                // The spare capacity as well: the vector may have been longer once.
                source.zeroize();
                Ok(secret)
            }
            Err(error) => Err(FromOwnedError { error, source }),
        }
    }

    /// As [`Secret::from_string`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn from_string(self, source: String) -> Result<Secret, FromOwnedError<String>> {
        self.from_vec(source.into_bytes()).map_err(|failed| {
            let FromOwnedError { error, source } = failed;
            // It was valid before, and is untouched.
            FromOwnedError { error, source: String::from_utf8(source).unwrap_or_default() }
        })
    }

    /// As [`Secret::random`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn random(self, len: usize) -> Result<Secret> {
        self.make(len, Random).map_err(TryError::into_error)
    }

    /// As [`Secret::init_with`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn init_with(self, len: usize, write: impl FnOnce(&mut [u8])) -> Result<Secret> {
        let write = Closure(|room: &mut [u8]| {
            write(room);
            Ok(())
        });
        self.make(len, write).map_err(TryError::into_error)
    }

    /// As [`Secret::try_init_with`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_init_with<E>(
        self,
        len: usize,
        write: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Secret, TryError<E>> {
        self.make(len, Closure(|room: &mut [u8]| write(room).map_err(TryError::Closure)))
    }

    /// As [`Secret::read_from`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn read_from(self, reader: &mut (impl io::Read + ?Sized), len: usize) -> Result<Secret> {
        let read = Closure(|room: &mut [u8]| {
            let mut got = 0;
            while got < len {
                match reader.read(&mut room[got..]) {
                    Ok(0) => return Err(Error::EndedEarly { expected: len, got }.into()),
                    // A reader that claims more than it was given room for is wrong; do not follow it.
                    Ok(read) => got = got.saturating_add(read).min(len),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(Error::Reader { kind: error.kind(), got }.into()),
                }
            }
            Ok(())
        });
        self.make(len, read).map_err(TryError::into_error)
    }
}

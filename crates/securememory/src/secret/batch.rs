//! Many secrets at once: made, read and closed with one fetch of the vault's key for many of them.

use std::fmt;
use std::time::Instant;

use zeroize::Zeroize;

use crate::error::{Error, Result};
use crate::events;
use crate::locks;
use crate::secret::{Closed, Secret};
use crate::store::{OPENS, Opened, open_many};
use crate::vault::Vault;

/// What went wrong with one of many secrets.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManyError {
    /// Which one: its place among those that were given.
    pub index: usize,
    /// Has the closure run for it? Then what it did must be distrusted. It has run for all before it, in any case, and for
    /// none after it.
    pub ran: bool,
    /// What it was.
    pub error: Error,
}

impl fmt::Display for ManyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "number {} of many: {}", self.index, self.error)
    }
}

impl std::error::Error for ManyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl Vault {
    /// Makes a secret of each source and wipes the sources: all or none.
    ///
    /// As many [`SecretBuilder::from_bytes`](crate::SecretBuilder::from_bytes), but for sealed secrets the key is fetched
    /// only once for up to 64 of them.
    ///
    /// ```
    /// use securememory::{Secret, Vault};
    /// let vault = Vault::global()?;
    /// let mut keys = vec![*b"first key 16 b..", *b"second key 16 b."];
    /// let secrets = vault.secrets_from(&mut keys)?;
    /// assert_eq!(keys, [[0; 16]; 2]);
    /// let all: Vec<&Secret> = secrets.iter().collect();
    /// let mut lengths = 0;
    /// Secret::with_many(&all, |_, bytes| lengths += bytes.len()).map_err(|failed| failed.error)?;
    /// assert_eq!(lengths, 32);
    /// # Ok::<(), securememory::Error>(())
    /// ```
    ///
    /// Of a `Vec` the bytes are wiped, not the spare capacity.
    ///
    /// # Errors
    ///
    /// As for one of them; [`Error::Purged`] where a purge came in the middle. No source has been touched then, and no secret
    /// is left.
    pub fn secrets_from<S: AsRef<[u8]> + AsMut<[u8]>>(&self, sources: &mut [S]) -> Result<Vec<Secret>> {
        events::ended(self.make_secrets(sources))
    }

    fn make_secrets<S: AsRef<[u8]> + AsMut<[u8]>>(&self, sources: &mut [S]) -> Result<Vec<Secret>> {
        let no_memory = Error::OutOfMemory { bytes: sources.len().saturating_mul(size_of::<Secret>()) };
        let (mut views, mut objects, mut secrets) = (Vec::new(), Vec::new(), Vec::new());
        views.try_reserve_exact(sources.len()).map_err(|_| no_memory)?;
        objects.try_reserve_exact(sources.len()).map_err(|_| no_memory)?;
        secrets.try_reserve_exact(sources.len()).map_err(|_| no_memory)?;
        views.extend(sources.iter().map(AsRef::as_ref));
        self.shared().make_many(&views, &mut objects)?;
        secrets.extend(objects.into_iter().map(Secret::from_object));
        sources.iter_mut().for_each(|source| source.as_mut().zeroize());
        Ok(secrets)
    }
}

impl Secret {
    /// Lends the bytes of each of these secrets to the closure, in order, with their place among them.
    ///
    /// Sealed secrets of one vault are opened up to eight at a time with one fetch of the key. No key is at hand while the
    /// closure runs, and each of those has a place in protected memory of its own, as for [`Secret::with`]. They are open
    /// from before the first of them is lent: a change that is made meanwhile is not seen, and closing one of them from
    /// within the closure is [`Error::WouldDeadlock`].
    ///
    /// # Errors
    ///
    /// [`ManyError`] with what was wrong with the first that could not be read, as for [`Secret::with`].
    pub fn with_many(secrets: &[&Self], mut f: impl FnMut(usize, &[u8])) -> Result<(), ManyError> {
        let mut done = 0;
        while let Some(rest @ [first, ..]) = secrets.get(done..) {
            let mut objects = [&first.0; OPENS];
            objects.iter_mut().zip(rest).for_each(|(place, secret)| *place = &secret.0);
            let (mut index, mut failed) = (done, None);
            done += open_many(objects.get(..rest.len()).unwrap_or(&objects), |opened| {
                if failed.is_none() {
                    failed = lend(index, opened, &mut f).err();
                }
                index += 1;
            });
            if let Some(failed) = failed {
                return Err(failed);
            }
        }
        Ok(())
    }

    /// Closes these secrets, as [`Secret::close`] does each: all of them turn readers away at once, and then their views
    /// are waited for together. Says of each what was achieved.
    ///
    /// # Errors
    ///
    /// [`ManyError`] with what was wrong with the first that could not be closed, as for [`Secret::close`]. The others are
    /// closed all the same.
    pub fn close_many(secrets: &[&Self]) -> Result<Vec<Closed>, ManyError> {
        let fail = |index| move |error| ManyError { index, ran: false, error };
        let mut outcomes = Vec::new();
        let bytes = secrets.len().saturating_mul(size_of::<Closed>());
        outcomes.try_reserve_exact(secrets.len()).map_err(|_| fail(0)(Error::OutOfMemory { bytes }))?;
        // What is wrong with one is found again below.
        secrets.iter().for_each(|secret| _ = secret.0.begin_close());
        let (started, mut failed) = (Instant::now(), None);
        for (index, secret) in secrets.iter().enumerate() {
            let left = secret.0.policy().close_wait.saturating_sub(started.elapsed());
            match secret.close_timeout(left) {
                Ok(outcome) => outcomes.push(outcome),
                Err(error) => _ = failed.get_or_insert(fail(index)(error)),
            }
        }
        failed.map_or(Ok(outcomes), Err)
    }
}

fn lend(index: usize, opened: Result<Opened<'_>>, f: &mut impl FnMut(usize, &[u8])) -> Result<(), ManyError> {
    let mut opened = opened.map_err(|error| ManyError { index, ran: false, error })?;
    locks::user_code();
    f(index, opened.bytes());
    opened.end().map_err(|error| ManyError { index, ran: true, error })
}

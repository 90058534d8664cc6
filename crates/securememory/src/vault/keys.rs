//! A vault's keys: replaced, and destroyed.

use std::time::Duration;

use crate::counters::{self, Count};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::events;
use crate::locks;
use crate::store::Refreshed;
use crate::vault::diagnostics::open_views;
use crate::vault::{OpenView, Vault, VaultBuilder};

impl Vault {
    /// Makes a new key, which seals from now on; its shares are new, too. When this returns, the new key is in use. What
    /// was sealed before stays readable under its old key, until it has been moved: by [`Vault::finish_refresh`], or a
    /// few secrets at a time by every creation and commit, or by a [janitor](VaultBuilder::janitor). Then the old key is
    /// destroyed. Readers neither wait nor fail meanwhile, and no change is lost.
    ///
    /// At most four keys live at once. Where there are four, this first moves what the others have sealed, for as long
    /// as the policy's wait.
    ///
    /// ```
    /// use securememory::Vault;
    /// use std::time::Duration;
    /// let vault = Vault::builder().build()?;
    /// let token = vault.secret().from_bytes(&mut *b"0123456789abcdef".to_vec())?;
    /// vault.refresh()?;
    /// let refreshed = vault.finish_refresh(Duration::from_secs(1))?;
    /// assert_eq!((refreshed.moved, vault.status().keys), (1, 1));
    /// assert!(token.ct_eq_bytes(b"0123456789abcdef")?);
    /// # Ok::<(), securememory::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What the system refuses ([`Error::System`], [`Error::Refused`], [`Error::HoldRefused`]), [`Error::NotInForce`]
    /// where the new key would be less protected than the first one was, [`Error::Timeout`] where there are four keys
    /// and the others stay in use, [`Error::Forked`]. The old key goes on sealing then.
    pub fn refresh(&self) -> Result<()> {
        locks::user_code();
        let _span = tracing::debug_span!("refresh_vault", vault = self.id()).entered();
        events::ended(self.machinery().refresh())
    }

    /// Moves everything that older keys have sealed to the present one, and destroys those keys. Takes about half a
    /// microsecond a secret.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] where that was not reached within `wait`, [`Error::KeyLost`] where an older key is
    /// lost, [`Error::Purged`] where a purge came in between, and whatever the system refuses. What has been
    /// moved stays moved, and a later call goes on.
    pub fn finish_refresh(&self, wait: Duration) -> Result<Refreshed> {
        locks::user_code();
        let _span = tracing::debug_span!("finish_refresh", vault = self.id()).entered();
        let refreshed = events::ended(self.machinery().finish_refresh(wait))?;
        let Refreshed { moved, damaged, .. } = refreshed;
        if damaged > 0 {
            tracing::warn!(damaged, "secrets could not be opened to be moved to the new key");
        }
        tracing::debug!(moved, "all secrets are sealed under the present key");
        Ok(refreshed)
    }

    /// Destroys all keys of the vault, and so makes worthless everything that was sealed in it, however many secrets and
    /// streams that are: opening them is [`Error::Purged`] from now on. Paged secrets are closed. New secrets work.
    ///
    /// Views that are open keep their copies until they end, and are named by what is returned; so does the chunk of a stream that is open for reading;
    /// a change cannot be committed any more, and the chunk that a stream is being written to is wiped when the stream is
    /// next used or dropped. The ciphertext of a purged secret is overwritten when that is closed or dropped, as usual.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] where a thread was in the middle of a read for as long as the policy's wait, and may still have
    /// a key in hand (the secrets are unreadable for all others); [`Error::StuckOpen`] where the pages of a paged secret
    /// could not be opened to be wiped (it is closed, and tried again when it is closed or dropped); [`Error::Forked`];
    /// [`Error::LockTimeout`]. Errors of the new key, as for
    /// [`Vault::refresh`]: then everything is purged, but nothing can be sealed ([`Error::Purged`]) before a
    /// refresh has succeeded.
    pub fn purge(&self) -> Result<Purged> {
        locks::user_code();
        let _span = tracing::debug_span!("purge_vault", vault = self.id()).entered();
        match events::ended(self.machinery().purge()) {
            Ok(()) => {
                counters::add(Count::Purges);
                tracing::info!(vault = self.id(), "all keys of a vault were destroyed");
                Ok(Purged { outstanding: open_views(self.machinery()) })
            }
            Err(error) => {
                tracing::warn!(vault = self.id(), %error, "a vault could not be purged as a whole");
                Err(error)
            }
        }
    }
}

/// What [`Vault::purge`] has left.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// The views that were open when all else was gone, the oldest first. (One may be of a secret that was made since.)
    pub outstanding: Vec<OpenView>,
}

impl VaultBuilder {
    /// Replaces a key by a new one when it has sealed so many times (creations, commits, and what a refresh moves). By
    /// default only where the cipher needs it: AES-256-GCM after 2^31 seals.
    ///
    /// It is done by the seal that reaches the number, and told by [`VaultStatus::epoch`](crate::VaultStatus::epoch).
    /// Where four keys live, it is done as soon as the oldest one's secrets have been moved, a few by each
    /// seal. Where it is refused, work goes on under the old key, and `refresh_refused` in the status says
    /// why.
    pub fn refresh_after_seals(mut self, seals: u64) -> Self {
        self.settings().seals_max = seals.max(1);
        self
    }

    /// Replaces a key by a new one when it is so old; never by default. It is looked at when something is sealed, and by
    /// the [janitor](VaultBuilder::janitor).
    pub fn refresh_after(mut self, age: Duration) -> Self {
        self.settings().age_max = Some(age);
        self
    }
}

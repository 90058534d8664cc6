//! The end of a vault, on request.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::events;
use crate::locks;
use crate::policy::OnClose;
use crate::vault::diagnostics::open_views;
use crate::vault::{OpenView, Vault, ViewKind};

/// What [`Vault::close`] has achieved. Its `Display` has one line for each view that is left.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VaultClosed {
    /// The views that were open when the wait was over, the oldest first. Each keeps its bytes until it ends, or is
    /// [revoked](Self::revoked). One in the [making](crate::ViewKind::Opening) has a key in hand: that key is wiped as far
    /// as it can be under its user, and by a later close, or the end of the vault's last secret, altogether.
    pub outstanding: Vec<OpenView>,
    /// They have been revoked: see [`OnClose::Revoke`].
    pub revoked: bool,
    /// What could not be wiped or given back, the first of it: [`Error::StuckOpen`] for pages that could not be opened to
    /// be wiped, [`Error::LockTimeout`], errors of the system. A later close tries again.
    pub failed: Option<Error>,
}

impl VaultClosed {
    /// Is everything wiped, and given back to the system?
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.outstanding.is_empty() && self.failed.is_none()
    }
}

impl fmt::Display for VaultClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.outstanding.len(), self.revoked) {
            (0, _) => f.write_str("closed")?,
            (views, false) => write!(f, "closed, but for {views} views")?,
            (views, true) => write!(f, "closed, and {views} views revoked")?,
        }
        if let Some(error) = &self.failed {
            write!(f, "; not all could be wiped: {error}")?;
        }
        self.outstanding.iter().try_for_each(|view| write!(f, "\n{view}"))
    }
}

impl Vault {
    /// Ends the vault, with everything in it: for the shutdown of a program, or of a part of it.
    ///
    /// At once, nothing is opened or made in it any more ([`Error::Closed`]), and what is at rest is wiped: first the keys,
    /// by which all that is sealed has become worthless, then their shares, then the pages of secrets, then memory is
    /// given back, and last descriptors. Chunks of streams that are being written are wiped, too.
    ///
    /// Then it waits for open views, as long as `wait`; zero: not at all. With those that are left it does what the vault's
    /// policy says ([`Policy::on_close`](crate::Policy::on_close), [`Policy::revoke_after`](crate::Policy::revoke_after)),
    /// and tells whose they are. Each that ends later gives back what it was the last to need.
    ///
    /// It may be called again, by several threads, too: each waits for the views for itself. It waits for nobody but for
    /// views, and, a second at most, for a thread that is changing the keys; to overwrite many secrets takes its time,
    /// half a microsecond each, and where that would take longer than `wait`, ciphertext is left to whoever drops it.
    ///
    /// ```
    /// use securememory::{Error, Vault};
    /// use std::time::Duration;
    /// let vault = Vault::builder().build()?;
    /// let token = vault.secret().label("api token").random(32)?;
    /// let view = token.owned_view()?;
    /// let closed = vault.close(Duration::from_millis(10))?;
    /// assert_eq!(closed.outstanding[0].label.as_deref(), Some("api token"));
    /// assert_eq!(token.view().unwrap_err(), Error::Closed);
    /// drop(view);
    /// assert!(vault.close(Duration::ZERO)?.is_complete());
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::WouldDeadlock`] inside a view of the same thread, of any secret of the vault: nothing is changed then.
    /// [`Error::Forked`] in a child; [`Error::LockTimeout`].
    pub fn close(&self, wait: Duration) -> Result<VaultClosed> {
        locks::user_code();
        let _span = tracing::debug_span!("close_vault", vault = self.id()).entered();
        let machinery = self.machinery();
        let closing = events::ended(machinery.close(wait))?;
        let mut outstanding = if closing.deferred { open_views(machinery) } else { Vec::new() };
        // They have been wiped.
        outstanding.retain(|view| view.kind != ViewKind::Chunk);
        let revoked = !outstanding.is_empty() && machinery.settings.policy.on_close == OnClose::Revoke;
        if !outstanding.is_empty() {
            locks::user_code();
            tracing::warn!(
                vault = self.id(),
                views = outstanding.len(),
                revoked,
                "a vault was closed under open views"
            );
        }
        if let Some(error) = &closing.failed {
            tracing::warn!(vault = self.id(), %error, "a vault was closed, and not all of it could be wiped");
        }
        Ok(VaultClosed { outstanding, revoked, failed: closing.failed })
    }

    /// Has it been closed?
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.machinery().is_closed()
    }
}

//! What a coordinator is to do, and what it tells.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Signal;
use crate::locks;

/// Who had a signal before.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nobody: the default action.
    Default,
    /// It was ignored.
    Ignored,
    /// A handler.
    Handler,
}

/// What has happened to a signal's handler.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Ours is installed.
    Installed {
        /// For this signal.
        signal: Signal,
        /// Above this.
        replaced: Before,
    },
    /// The signal is to end the process, but the program, or who started it, has it ignored: it is left alone, and its
    /// handlers are not asked.
    LeftIgnored {
        /// This signal.
        signal: Signal,
    },
    /// What was there before is there again.
    Restored {
        /// For this signal.
        signal: Signal,
    },
    /// Somebody has put a handler above ours, which stays, and passes everything on.
    Dormant {
        /// For this signal.
        signal: Signal,
    },
    /// Somebody has put a handler in the place of ours.
    Replaced {
        /// For this signal.
        signal: Signal,
    },
    /// Ours is installed again, above theirs.
    Reclaimed {
        /// For this signal.
        signal: Signal,
    },
    /// Ours has been replaced as often as it is reclaimed. From now on it is only told.
    GivenUp {
        /// For this signal.
        signal: Signal,
    },
    /// Ours is back after it had made place for a handler that needs a stack of its own.
    CameBack {
        /// For this signal.
        signal: Signal,
    },
}

/// What is done where somebody has replaced our handler.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IfReplaced {
    /// It is told, once for each handler that does so.
    #[default]
    Report,
    /// Ours is installed again, above theirs, which is called after it; three times for each signal, so that two who do the
    /// same do not go on for ever.
    Reclaim,
}

/// What is told of changes.
pub(super) type Hook = Arc<dyn Fn(&Change) + Send + Sync>;

/// What a coordinator is to do.
#[derive(Clone, Default)]
#[must_use = "options do nothing until they are given to `Coordinator::install`"]
pub struct Options {
    pub(super) ends: bool,
    pub(super) if_replaced: IfReplaced,
    pub(super) watch: Option<Duration>,
    pub(super) hook: Option<Hook>,
}

impl Options {
    /// Signals are passed on if no handler wants them; nobody looks whether our handler is replaced; changes are told
    /// through `tracing` alone.
    pub fn new() -> Self {
        Self::default()
    }

    /// With `true`: those of the signals that end a process by default end this one, after all secrets have been wiped,
    /// unless a handler says [`Outcome::Handled`](super::Outcome::Handled). A handler that was there before is called
    /// between the wipe and the end. A signal that is ignored when the coordinator is installed (by nohup(1), say) is left
    /// alone: see [`Change::LeftIgnored`].
    pub fn ends(mut self, ends: bool) -> Self {
        self.ends = ends;
        self
    }

    /// What to do where somebody has replaced our handler. It is noticed by [`Coordinator::check`](super::Coordinator::check)
    /// and by [`Options::watch`].
    pub fn if_replaced(mut self, what: IfReplaced) -> Self {
        self.if_replaced = what;
        self
    }

    /// Has a thread look, that often (every 10 ms at most), whether our handlers are installed.
    pub fn watch(mut self, every: Duration) -> Self {
        self.watch = Some(every.max(Duration::from_millis(10)));
        self
    }

    /// Has a function called for each change, on the thread that makes it or finds it; without any lock of ours.
    pub fn on_change(mut self, hook: impl Fn(&Change) + Send + Sync + 'static) -> Self {
        self.hook = Some(Arc::new(hook));
        self
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("ends", &self.ends)
            .field("if_replaced", &self.if_replaced)
            .field("watch", &self.watch)
            .field("hook", &self.hook.is_some())
            .finish()
    }
}

/// Tells changes. Without any lock of ours.
pub(super) fn tell(hook: Option<&Hook>, changes: &[Change]) {
    for change in changes {
        locks::user_code();
        match change {
            Change::Installed { .. } | Change::Restored { .. } | Change::CameBack { .. } => {
                tracing::debug!(?change, "signals");
            }
            Change::LeftIgnored { .. } | Change::Reclaimed { .. } => tracing::info!(?change, "signals"),
            _ => tracing::warn!(?change, "signals"),
        }
        if let Some(hook) = hook {
            hook(change);
        }
    }
}

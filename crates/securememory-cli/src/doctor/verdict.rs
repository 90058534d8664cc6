//! What became of one attack, and what kept an attack from taking place.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// What became of one attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was carried out and got nothing.
    Blocked,
    /// It got the secret, or did its damage unnoticed.
    Leaked,
    /// It cannot be carried out on this host, for a known reason.
    Skipped,
    /// The store cannot be had on this host.
    Absent,
    /// It could not be carried out, and should have been: nothing is known.
    Failed,
}

/// An outcome and what it rests on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// What became of the attack.
    pub outcome: Outcome,
    /// What was done and seen.
    pub detail: String,
}

impl Verdict {
    /// The attack got nothing.
    pub fn blocked(detail: impl Into<String>) -> Self {
        Self { outcome: Outcome::Blocked, detail: detail.into() }
    }

    /// The attack worked.
    pub fn leaked(detail: impl Into<String>) -> Self {
        Self { outcome: Outcome::Leaked, detail: detail.into() }
    }
}

/// An attack that did not take place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Trouble {
    /// This host does not have or does not allow what it needs.
    NotHere(String),
    /// The library cannot keep a secret in this way on this host, and says so.
    NoStore(String),
    /// Something went wrong that should not.
    Failed(String),
}

impl Trouble {
    /// Something went wrong that should not.
    pub fn failed(why: impl Into<String>) -> Self {
        Self::Failed(why.into())
    }

    /// For `map_err`: a refusal by the host's rules is a reason to skip, all else is a failure.
    pub fn forbidden(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| match error.raw_os_error() {
            Some(code) if crate::system::is_refusal(code) => Self::NotHere(format!(
                "this host does not let one process look into another ({what}: {error}); so a thief is kept out \
                 as well, but that is not the library's doing"
            )),
            _ => Self::Failed(format!("{what}: {error}")),
        }
    }
}

impl From<Trouble> for Verdict {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::NotHere(detail) => Self { outcome: Outcome::Skipped, detail },
            Trouble::NoStore(detail) => Self { outcome: Outcome::Absent, detail },
            Trouble::Failed(detail) => {
                Self { outcome: Outcome::Failed, detail: format!("failed to run: {detail}") }
            }
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<securememory::Error> for Trouble {
    fn from(error: securememory::Error) -> Self {
        let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        match error.kind() {
            securememory::ErrorKind::Protection => {
                Self::NoStore(format!("not to be had here: {error}{hint}"))
            }
            _ => Self::Failed(format!("the library: {error}{hint}")),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHere(why) | Self::NoStore(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

//! What is promised: attack by store, with the reason in a sentence.
//!
//! The one source: the doctor judges by it, and the table in SECURITY.md is printed from it
//! (`securememory doctor --print-promises`); a test holds the two together.

mod elsewhere;
mod table;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use table::TABLE;

/// How the secret under attack is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kept {
    /// A `Vec<u8>`, the baseline that must lose: a check that cannot fail proves nothing
    Plain,
    /// The library's sealed store, the key in a page that a protection key denies to all but its user
    SealedPkey,
    /// The library's sealed store, the key in two shares
    SealedSplit,
    /// The library's sealed store, the key in memory that the kernel does not keep mapped
    SealedSecretmem,
    /// The library's sealed store, the key in a page that nothing may touch
    SealedGuarded,
    /// The library's paged store
    Paged,
}

impl Kept {
    /// All, in the order of the table.
    pub const ALL: [Self; 6] = [
        Self::Plain,
        Self::SealedPkey,
        Self::SealedSplit,
        Self::SealedSecretmem,
        Self::SealedGuarded,
        Self::Paged,
    ];

    /// As it is called on the command line, in the table and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::SealedPkey => "sealed-pkey",
            Self::SealedSplit => "sealed-split",
            Self::SealedSecretmem => "sealed-secretmem",
            Self::SealedGuarded => "sealed-guarded",
            Self::Paged => "paged",
        }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// An attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // The table says what each one is.
pub enum Attack {
    StrayRead,
    ReadInstant,
    ProcMem,
    ProcFd,
    ProcFdRoot,
    BothShares,
    OldShare,
    KeyOnly,
    CiphertextOnly,
    VaultClose,
    Tamper,
    ExchangeCiphertexts,
    CoreDump,
    Swap,
    ForkChild,
    Overflow,
    Underflow,
    ReadAfterClose,
    ForkInRead,
    Residue,
    Log,
    Crash,
    KillTerm,
    KillInt,
    KillHup,
    KillQuit,
    KillSegv,
    KillBus,
    KillAbrt,
}

impl Attack {
    /// As it is called on the command line, in the table and in JSON.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// What is promised of it for a store, and why.
    pub fn promise(self, kept: Kept) -> Promise {
        let row = self.row();
        match kept {
            Kept::Plain => row.plain,
            Kept::SealedPkey => row.pkey,
            Kept::SealedSplit => row.split,
            Kept::SealedSecretmem => row.secretmem,
            Kept::SealedGuarded => row.guarded,
            Kept::Paged => row.paged,
        }
    }

    fn row(self) -> &'static Row {
        // The table has one row for each attack, in the order of the enum; a test sees to it.
        &TABLE[self as usize]
    }
}

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Does the store withstand it?
    pub withstands: bool,
    /// Why, in a few words.
    pub because: &'static str,
}

const fn blocked(because: &'static str) -> Promise {
    Promise { withstands: true, because }
}

const fn leaked(because: &'static str) -> Promise {
    Promise { withstands: false, because }
}

/// One attack and what comes of it.
pub struct Row {
    /// The attack.
    pub attack: Attack,
    name: &'static str,
    deed: &'static str,
    plain: Promise,
    pkey: Promise,
    split: Promise,
    secretmem: Promise,
    guarded: Promise,
    paged: Promise,
}

/// The table for SECURITY.md.
pub fn markdown() -> String {
    let mut text = String::from("| attack | what the attacker does |");
    let mut rule = String::from("|---|---|");
    for kept in Kept::ALL {
        text += &format!(" {kept} |");
        rule += "---|";
    }
    text = format!("{text}\n{rule}\n");
    for row in &TABLE {
        text += &format!("| `{}` | {} |", row.name, row.deed);
        for kept in Kept::ALL {
            let promise = row.attack.promise(kept);
            let word = if promise.withstands { "blocked" } else { "**leaked**" };
            text += &format!(" {word}: {} |", promise.because);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::ValueEnum;

    use super::*;

    #[test]
    fn one_row_for_each_attack_in_order() {
        assert_eq!(Attack::value_variants().len(), TABLE.len());
        for (row, attack) in TABLE.iter().zip(Attack::value_variants()) {
            assert_eq!(row.attack, *attack);
            let on_the_command_line = attack.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(attack.name(), on_the_command_line);
            assert_eq!(serde_json::to_value(attack).unwrap(), on_the_command_line);
        }
        for (kept, value) in Kept::ALL.iter().zip(Kept::value_variants()) {
            assert_eq!((kept, kept.name()), (value, value.to_possible_value().unwrap().get_name()));
        }
    }

    #[test]
    fn every_attack_must_win_against_the_baseline() {
        assert!(TABLE.iter().all(|row| !row.plain.withstands));
    }

    #[test]
    fn the_markdown_is_one_table() {
        let text = markdown();
        assert!(text.lines().all(|line| line.matches('|').count() == 9), "{text}");
        assert_eq!(text.lines().count(), TABLE.len() + 2);
    }
}

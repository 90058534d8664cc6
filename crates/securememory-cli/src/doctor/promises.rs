//! What is promised: attack by store, with the reason in a sentence.
//!
//! The one source: the doctor judges by it, and the table in SECURITY.md is printed from it
//! (`securememory doctor --print-promises`); a test holds the two together.

use std::fmt;

use serde::{Deserialize, Serialize};

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
#[allow(missing_docs)] // The table below says what each one is.
pub enum Attack {
    StrayRead,
    ReadInstant,
    ProcMem,
    ProcFd,
    ProcFdRoot,
    BothShares,
    Tamper,
    CoreDump,
    Swap,
    ForkChild,
    Overflow,
    Underflow,
    ReadAfterClose,
    ForkInRead,
    Residue,
    Log,
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

/// All attacks, in the order in which they are carried out and shown.
pub const TABLE: [Row; 16] = [
    Row {
        attack: Attack::StrayRead,
        name: "stray-read",
        deed: "code inside the process reads every byte that a load can read while no view is open, and tries all \
               of it as the key",
        plain: leaked("it is there to read"),
        pkey: blocked("ciphertext; the key's page faults"),
        split: blocked("ciphertext and one key share, which alone is noise"),
        secretmem: blocked("ciphertext; the key's page faults"),
        guarded: blocked("ciphertext; the key's page faults"),
        paged: blocked("its pages fault"),
    },
    Row {
        attack: Attack::ReadInstant,
        name: "read-instant",
        deed: "a second thread on the same processor looks, in the middle of reads, at all memory that a load can \
               read then, and tries all of it as the key (the open view itself it gets in any case; where there \
               is no key, that is what it looks for)",
        plain: leaked("it is there to read"),
        pkey: blocked("the key is used where it lies, and only the reading thread may touch it"),
        split: leaked("for about 100 ns of a read the key is in scratch memory"),
        secretmem: leaked(
            "without protection keys its page is open to the whole process during a read; with them it is not",
        ),
        guarded: leaked("for about 100 ns of a read the key is in scratch memory"),
        paged: leaked("the view is open"),
    },
    Row {
        attack: Attack::ProcMem,
        name: "proc-mem",
        deed: "another process that may trace this one reads all its memory through /proc/PID/mem, pages without \
               access included, and tries all of it, alone and in pairs, as the key",
        plain: leaked("it is there to read"),
        pkey: leaked("protection keys do not bind a tracer: he takes the key from its page"),
        split: blocked("the other key share is not in memory"),
        secretmem: blocked("the kernel itself cannot read the key's page"),
        guarded: leaked("page protection does not bind a tracer: he takes the key from its page"),
        paged: leaked("page protection does not bind a tracer"),
    },
    Row {
        attack: Attack::ProcFd,
        name: "proc-fd",
        deed: "a file-read bug of an ordinary user that can name /proc/PID/mem and every /proc/PID/fd/N, all it \
               gets combined",
        plain: leaked("/proc/PID/mem is enough"),
        pkey: leaked("/proc/PID/mem is enough"),
        split: blocked("the file with the other key share has mode 0000 and cannot be opened by name"),
        secretmem: blocked("the kernel itself cannot read the key's page, and no file leads to it"),
        guarded: leaked("/proc/PID/mem is enough"),
        paged: leaked("/proc/PID/mem is enough"),
    },
    Row {
        attack: Attack::ProcFdRoot,
        name: "proc-fd-root",
        deed: "the same in a process of root, whom a file's mode does not bind",
        plain: leaked("/proc/PID/mem is enough"),
        pkey: leaked("/proc/PID/mem is enough"),
        split: leaked("root opens the file, and both shares make the key"),
        secretmem: blocked("the same holds for root"),
        guarded: leaked("/proc/PID/mem is enough"),
        paged: leaked("/proc/PID/mem is enough"),
    },
    Row {
        attack: Attack::BothShares,
        name: "both-shares",
        deed: "another process that may trace this one takes its memory and duplicates of its descriptors \
               (pidfd_getfd), and combines them",
        plain: leaked("memory is enough"),
        pkey: leaked("memory is enough"),
        split: leaked("both shares make the key: who may trace a process owns it"),
        secretmem: blocked("the kernel itself cannot read the key's page, and no descriptor leads to it"),
        guarded: leaked("memory is enough"),
        paged: leaked("memory is enough"),
    },
    Row {
        attack: Attack::Tamper,
        name: "tamper",
        deed: "a stray store changes one bit of each byte at rest, one after the other",
        plain: leaked("nobody notices"),
        pkey: blocked("the tag does not fit: `Err(Tampered)`"),
        split: blocked("the tag does not fit: `Err(Tampered)`"),
        secretmem: blocked("the tag does not fit: `Err(Tampered)`"),
        guarded: blocked("the tag does not fit: `Err(Tampered)`"),
        paged: blocked("the store faults"),
    },
    Row {
        attack: Attack::CoreDump,
        name: "core-dump",
        deed: "the process aborts with a view open and all core filters on, and the core is searched for secret \
               and key",
        plain: leaked("it is in the core"),
        pkey: blocked("key, scratch and view are left out of cores"),
        split: blocked("key share, scratch and view are left out of cores"),
        secretmem: blocked("key, scratch and view are left out of cores"),
        guarded: blocked("key, scratch and view are left out of cores"),
        paged: blocked("its pages are left out of cores"),
    },
    Row {
        attack: Attack::Swap,
        name: "swap",
        deed: "memory is written to swap: is everything that holds secret or key locked, by the kernel's own list? \
               (Where locking was refused, `status()` says so, and this is skipped.)",
        plain: leaked("it is not locked"),
        pkey: blocked("key and view are locked"),
        split: blocked("key share and view are locked"),
        secretmem: blocked("the key's page is never swapped, and the view is locked"),
        guarded: blocked("key and view are locked"),
        paged: blocked("its pages are locked"),
    },
    Row {
        attack: Attack::ForkChild,
        name: "fork-child",
        deed: "a forked child tries every way to read or change what it inherited, and is searched from outside, \
               its memory combined with its descriptors",
        plain: leaked("the child has a copy"),
        pkey: blocked("`Err(Forked)`; its key is wiped"),
        split: blocked("`Err(Forked)`; its key share is wiped"),
        secretmem: blocked("`Err(Forked)`; the key's page is not there"),
        guarded: blocked("`Err(Forked)`; its key is wiped"),
        paged: blocked("`Err(Forked)`; its pages are wiped"),
    },
    Row {
        attack: Attack::Overflow,
        name: "overflow",
        deed: "one byte is changed behind the end of an open view, at several lengths and distances of up to a page",
        plain: leaked("nobody notices"),
        pkey: blocked("canary or guard page"),
        split: blocked("canary or guard page"),
        secretmem: blocked("canary or guard page"),
        guarded: blocked("canary or guard page"),
        paged: blocked("canary or guard page"),
    },
    Row {
        attack: Attack::Underflow,
        name: "underflow",
        deed: "one byte is changed up to 16 bytes before the start of an open view, at several lengths",
        plain: leaked("nobody notices"),
        pkey: blocked("canary or guard page"),
        split: blocked("canary or guard page"),
        secretmem: blocked("canary or guard page"),
        guarded: blocked("canary or guard page"),
        paged: blocked("canary or guard page"),
    },
    Row {
        attack: Attack::ReadAfterClose,
        name: "read-after-close",
        deed: "after the close every way to read is tried, and the place where it lay is read past all page \
               protection",
        plain: leaked("freed memory keeps what was in it"),
        pkey: blocked("`Err(Closed)`; the ciphertext is overwritten"),
        split: blocked("`Err(Closed)`; the ciphertext is overwritten"),
        secretmem: blocked("`Err(Closed)`; the ciphertext is overwritten"),
        guarded: blocked("`Err(Closed)`; the ciphertext is overwritten"),
        paged: blocked("`Err(Closed)`; the pages are wiped"),
    },
    Row {
        attack: Attack::ForkInRead,
        name: "fork-in-read",
        deed: "the process forks in a loop beside threads that read in a loop, and every child is searched for \
               secret and key",
        plain: leaked("the child has a copy"),
        pkey: blocked("a fork lets no read be half done, and what holds plaintext or key is wiped"),
        split: blocked("a fork lets no read be half done, and what holds plaintext or key is wiped"),
        secretmem: blocked(
            "a fork lets no read be half done, the key's page is not there, and what holds plaintext is wiped",
        ),
        guarded: blocked("a fork lets no read be half done, and what holds plaintext or key is wiped"),
        paged: blocked("its pages are wiped"),
    },
    Row {
        attack: Attack::Residue,
        name: "residue",
        deed: "a tracer searches all memory, buffers that the secret came from included, for traces of secret and \
               key: after reads and changes (save for the place where they rest), after the close, after the end \
               of the vault",
        plain: leaked("copies stay behind"),
        pkey: blocked("wiped, stack and registers too"),
        split: blocked("wiped, stack and registers too"),
        secretmem: blocked("wiped, stack and registers too"),
        guarded: blocked("wiped, stack and registers too"),
        paged: blocked("wiped"),
    },
    Row {
        attack: Attack::Log,
        name: "log",
        deed: "everything that can be printed is printed (Debug and Display of secrets, views, vaults, statuses \
               and errors) and searched, decoded from hexadecimal, base64, escapes and lists of numbers",
        plain: leaked("Debug prints its bytes"),
        pkey: blocked("only names and numbers are printed"),
        split: blocked("only names and numbers are printed"),
        secretmem: blocked("only names and numbers are printed"),
        guarded: blocked("only names and numbers are printed"),
        paged: blocked("only names and numbers are printed"),
    },
];

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

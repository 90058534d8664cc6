//! The table itself: what each attack does, what is promised of it, and why.

use super::{Attack, Row, blocked, leaked};

/// All attacks, in the order in which they are carried out and shown.
pub const TABLE: [Row; 29] = [
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
        attack: Attack::OldShare,
        name: "old-share",
        deed: "a tracer has memory, descriptors and a record of a moment before a refresh and of one after it, and \
               tries everything of the one with everything of the other (but no whole key on a record of its own \
               time)",
        plain: leaked("it is in memory at either time"),
        pkey: blocked("every refresh makes a new key, which moves each record, and destroys the old one"),
        split: blocked("every refresh makes a new key in new shares, and an old one and a new one are noise"),
        secretmem: blocked(
            "every refresh makes a new key, which moves each record, and destroys the old one",
        ),
        guarded: blocked("every refresh makes a new key, which moves each record, and destroys the old one"),
        paged: leaked("there is no key to turn over: a tracer reads its pages at either time"),
    },
    Row {
        attack: Attack::KeyOnly,
        name: "key-only",
        deed: "a thief has the key, all memory but the place where the secret rests, and all descriptors, after \
               reads and changes, with no view open: he looks for copies, and for older records, which his key opens",
        plain: leaked("copies stay behind"),
        pkey: blocked("copies are wiped, old records are overwritten"),
        split: blocked("copies are wiped, old records are overwritten"),
        secretmem: blocked("copies are wiped, old records are overwritten"),
        guarded: blocked("copies are wiped, old records are overwritten"),
        paged: blocked("there is no key, and copies are wiped"),
    },
    Row {
        attack: Attack::CiphertextOnly,
        name: "ciphertext-only",
        deed: "a thief copies what a load can read where the secret rests; then the vault is purged, and he tries \
               all memory and all files that are left, alone and in pairs, as the key of his copy",
        plain: leaked("the copy is the secret"),
        pkey: blocked("the key is destroyed, and nothing else opens the copy"),
        split: blocked("the key's shares are destroyed, and nothing else opens the copy"),
        secretmem: blocked("the key is destroyed, and nothing else opens the copy"),
        guarded: blocked("the key is destroyed, and nothing else opens the copy"),
        paged: blocked("its pages fault when he copies, and are wiped after that"),
    },
    Row {
        attack: Attack::VaultClose,
        name: "vault-close",
        deed: "a thief copies what a load can read where the secret rests; then its vault is closed, though the secret's \
               handle lives, and he tries all memory and all files that are left, alone and in pairs, as the key of his copy",
        plain: leaked("the copy is the secret"),
        pkey: blocked("`Err(Closed)`; the key is destroyed, and nothing else opens the copy"),
        split: blocked("`Err(Closed)`; the key's shares are destroyed, and nothing else opens the copy"),
        secretmem: blocked("`Err(Closed)`; the key is destroyed, and nothing else opens the copy"),
        guarded: blocked("`Err(Closed)`; the key is destroyed, and nothing else opens the copy"),
        paged: blocked("`Err(Closed)`; its pages fault when he copies, and are wiped after that"),
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
        attack: Attack::ExchangeCiphertexts,
        name: "exchange-ciphertexts",
        deed: "stray stores exchange what two secrets of equal length are at rest, in one vault and between two, \
               and both are read",
        plain: leaked("nobody notices"),
        pkey: blocked("each record is bound to its vault and secret: `Err(Tampered)`"),
        split: blocked("each record is bound to its vault and secret: `Err(Tampered)`"),
        secretmem: blocked("each record is bound to its vault and secret: `Err(Tampered)`"),
        guarded: blocked("each record is bound to its vault and secret: `Err(Tampered)`"),
        paged: blocked("the stores fault"),
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
    Row {
        attack: Attack::Crash,
        name: "crash",
        deed: "a process with `fault::install` ends in the middle of its work, with a view open in one thread and reads \
               in another: by a stray read of closed memory, one past its own view, a write through a null pointer, \
               abort, and exit; a tracer holds all threads at their end, searches memory, files and registers, and \
               tries all of it as the key",
        plain: leaked("it is left in memory"),
        pkey: blocked("key and views are wiped before the process ends"),
        split: blocked("both key shares and views are wiped before the process ends"),
        secretmem: blocked("key and views are wiped before the process ends"),
        guarded: blocked("key and views are wiped before the process ends"),
        paged: blocked("its pages are wiped before the process ends"),
    },
    killed(
        Attack::KillTerm,
        "kill-term",
        "the same, by SIGTERM that another process sends, with `signal::Coordinator` and `Options::ends`",
    ),
    killed(Attack::KillInt, "kill-int", "the same, by SIGINT"),
    killed(Attack::KillHup, "kill-hup", "the same, by SIGHUP"),
    killed(Attack::KillQuit, "kill-quit", "the same, by SIGQUIT"),
    killed(
        Attack::KillSegv,
        "kill-segv",
        "the same, by SIGSEGV that another process sends, with `fault::install` alone",
    ),
    killed(Attack::KillBus, "kill-bus", "the same, by SIGBUS"),
    killed(Attack::KillAbrt, "kill-abrt", "the same, by SIGABRT"),
];

/// What is promised of an end by a signal that is sent.
const fn killed(attack: Attack, name: &'static str, deed: &'static str) -> Row {
    Row {
        attack,
        name,
        deed,
        plain: leaked("it is left in memory"),
        pkey: blocked("as in a crash"),
        split: blocked("as in a crash"),
        secretmem: blocked("as in a crash"),
        guarded: blocked("as in a crash"),
        paged: blocked("as in a crash"),
    }
}

//! What Linux and other Unix systems offer, limit and show.

use securememory::Host;

use super::{Page, Tone, words};

pub(super) fn offers(page: &mut Page, host: &Host) {
    page.heading("What the machine grants");
    page.feature("memory locks", host.lock, "mlock: pages stay out of swap");
    page.feature("core dump exclusion", host.dont_dump, "MADV_DONTDUMP");
    page.feature("wiping on fork", host.wipe_on_fork, "MADV_WIPEONFORK: a forked child finds zeros");
    page.feature("in-memory files", host.memfd, "memfd_create: the key hold `split` needs them");
    page.feature("secret memory", host.secretmem, "memfd_secret: the key hold `secretmem` needs it");
    page.feature("protection keys", host.protection_keys, "pkey_alloc: the key hold `pkey` needs them");
    page.feature("guard advice", host.guard_advice, "MADV_GUARD_INSTALL; no use is made of it yet");
}

pub(super) fn limits(page: &mut Page, host: &Host) {
    page.heading("Limits, and how to raise them");
    let lockable = format!(
        "{} (hard limit {}), {} locked by this process",
        words::limit(host.memlock_soft),
        words::limit(host.memlock_hard),
        host.locked_now.map_or_else(|| "an unknown amount".to_owned(), words::bytes)
    );
    page.row("lockable memory", Tone::Plain, &lockable);
    if !host.memlock_enforced {
        page.more("this process is not bound by it (CAP_IPC_LOCK)");
    }
    page.more("`ulimit -l KIB`; LimitMEMLOCK= in a systemd unit; --ulimit memlock= for a container");
    let mappings = format!("{}, {} in use", number(host.max_map_count), number(host.mappings_now));
    page.row("mappings", Tone::Plain, &mappings);
    page.more("`sysctl vm.max_map_count=N`; matters for many `Paged` secrets, not for `Sealed` ones");
    let files = format!(
        "{} (hard limit {}), {} open",
        count_limit(host.nofile_soft),
        count_limit(host.nofile_hard),
        number(host.open_files)
    );
    page.row("descriptors", Tone::Plain, &files);
    page.more("`ulimit -n N`; LimitNOFILE= in a systemd unit; --ulimit nofile= for a container");
}

pub(super) fn eyes(page: &mut Page, host: &Host) {
    page.heading("Who may see memory");
    let user = if host.user_id == 0 { "root".to_owned() } else { format!("user {}", host.user_id) };
    page.row("this process", Tone::Plain, &user);
    let ptrace = match host.yama {
        None => "not restricted beyond the user (no Yama)",
        Some(0) => "processes of the same user may read this one (Yama, ptrace_scope 0)",
        Some(1) => "only parents may read their children (Yama, ptrace_scope 1)",
        Some(2) => "only the administrator (Yama, ptrace_scope 2)",
        Some(_) => "nobody (Yama, ptrace_scope 3)",
    };
    page.row("other processes", Tone::Plain, ptrace);
    page.row("dumpable", Tone::Plain, yes_no(host.dumpable));
    let size = match host.core_limit {
        Some(0) => "switched off by `ulimit -c`".to_owned(),
        limit => format!("up to {}", words::limit(limit)),
    };
    let pattern = host.core_pattern.as_deref().unwrap_or("unknown");
    page.row("core dumps", Tone::Plain, &format!("{size}, pattern `{pattern}`"));
    page.row("swap in use", Tone::Plain, yes_no(host.swap));
    page.row(
        "/proc",
        Tone::Plain,
        if host.proc_mounted { "mounted" } else { "not mounted: nothing is verified" },
    );
    page.row("container", Tone::Plain, host.container.as_deref().unwrap_or("no sign of one"));
    let seccomp = match host.seccomp {
        Some(0) => "none",
        Some(1) => "strict",
        Some(2) => "a filter is installed",
        _ => "not known",
    };
    page.row("system call filter", Tone::Plain, seccomp);
}

fn yes_no(value: Option<bool>) -> &'static str {
    match value {
        Some(true) => "yes",
        Some(false) => "no",
        None => "not known",
    }
}

/// A number, or that there is no limit.
fn count_limit(value: Option<u64>) -> String {
    value.map_or_else(|| "unlimited".to_owned(), |number| number.to_string())
}

/// A number, or that it is not known.
fn number(value: Option<u64>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |number| number.to_string())
}

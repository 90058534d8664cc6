//! The same as JSON.

use securememory::harden::Report;
use securememory::{Achieved, Build, Diagnostics, Error, Feature, Host, Preflight, Protections, VaultStatus};
use serde_json::{Value, json};

use super::{HoldHere, Info, words};

/// The whole answer, one object.
pub(super) fn page(info: &Info) -> String {
    let vault = match &info.vault {
        Ok(status) => vault(status),
        Err(error) => json!({
            "error": error.to_string(),
            "hint": error.hint().map(|hint| hint.to_string()),
        }),
    };
    let holds: serde_json::Map<String, Value> =
        info.holds.iter().map(|hold| (hold.name.to_owned(), self::hold(hold))).collect();
    let page = json!({
        "version": 1,
        "securememory": env!("CARGO_PKG_VERSION"),
        "build": build(),
        "host": host(&info.host),
        "vault": vault,
        "diagnostics": info.diagnostics.as_ref().map(diagnostics),
        "hardening": hardening(&info.hardening),
        "holds": holds,
        "preflight": info.preflight.as_ref().map(preflight),
        "advice": info.advice,
    });
    format!("{page:#}\n")
}

/// What was decided when this was compiled.
fn build() -> Value {
    let all = Build::HERE.all().map(|(name, can)| (name.to_owned(), Value::from(can)));
    let mut all = serde_json::Map::from_iter(all);
    all.insert("backend".to_owned(), Build::HERE.backend.into());
    Value::Object(all)
}

/// `null`: not known, or no limit.
fn diagnostics(found: &Diagnostics) -> Value {
    let budget = &found.budget;
    json!({
        "locked": budget.locked,
        "locked_in_process": budget.locked_in_process,
        "lock_limit": budget.lock_limit,
        "lock_left": budget.lock_left.filter(|&left| left != u64::MAX),
        "degradations": found.degradations.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn hardening(found: &Report) -> Value {
    json!({
        "not_dumpable": found.not_dumpable.in_force(),
        "no_cores": found.no_cores.in_force(),
        "empty_cores": found.empty_cores.in_force(),
        "swap": found.swap.found().map(|swaps| swaps.iter().map(|swap| &*swap.name).collect::<Vec<_>>()),
        "dumped_bytes": found.dumped.found().map(|dumped| dumped.resident),
        "failures": found.failures().map(|(measure, error)| format!("{measure}: {error}")).collect::<Vec<_>>(),
    })
}

fn preflight(found: &Result<Preflight, Error>) -> Value {
    match found {
        Ok(found) => json!({ "fits": found.fits, "text": found.to_string() }),
        Err(error) => json!({ "error": error.to_string() }),
    }
}

/// What was found out about the host. `null`: not known, or no limit.
pub(crate) fn host(host: &Host) -> Value {
    json!({
        "os": host.os,
        "arch": host.arch,
        "kernel": host.kernel,
        "page_size": host.page_size,
        "user_id": host.user_id,
        "limits": {
            "memlock_soft": host.memlock_soft,
            "memlock_hard": host.memlock_hard,
            "memlock_enforced": host.memlock_enforced,
            "locked_now": host.locked_now,
            "max_map_count": host.max_map_count,
            "mappings_now": host.mappings_now,
            "nofile_soft": host.nofile_soft,
            "nofile_hard": host.nofile_hard,
            "open_files": host.open_files,
            "core_limit": host.core_limit,
        },
        "features": {
            "memfd_create": feature(host.memfd),
            "memfd_secret": feature(host.secretmem),
            "protection_keys": feature(host.protection_keys),
            "guard_advice": feature(host.guard_advice),
            "wipe_on_fork": feature(host.wipe_on_fork),
            "dont_dump": feature(host.dont_dump),
            "lock": feature(host.lock),
        },
        "dumpable": host.dumpable,
        "core_pattern": host.core_pattern,
        "swap": host.swap,
        "yama": host.yama,
        "proc_mounted": host.proc_mounted,
        "container": host.container,
        "seccomp": host.seccomp,
        "no_new_privs": host.no_new_privs,
        "capabilities": host.capabilities.map(|set| format!("{set:016x}")),
    })
}

fn feature(feature: Feature) -> Value {
    match feature {
        Feature::Available => json!({ "available": true }),
        Feature::Unavailable { errno } => json!({ "available": false, "errno": errno }),
        _ => json!({ "available": null }),
    }
}

fn hold(hold: &HoldHere) -> Value {
    match &hold.made {
        Ok(()) => json!({ "available": true }),
        Err(error) => json!({
            "available": false,
            "error": error.to_string(),
            "hint": error.hint().map(|hint| hint.to_string()),
        }),
    }
}

fn vault(status: &VaultStatus) -> Value {
    json!({
        "hold": words::hold(status.hold),
        "hold_stepped_down": status.hold_stepped_down.map(|error| error.to_string()),
        "replicas": status.replicas,
        "cipher": words::cipher(status.cipher),
        "locked_bytes": status.locked_bytes,
        "scratch_slots": status.scratch_slots,
        "scratch_unlocked": status.scratch_unlocked,
        "protections": protections(&status.protections),
        "closed_encrypted": status.closed_encrypted.as_ref().map(achieved),
    })
}

fn protections(protections: &Protections) -> Value {
    json!({
        "guard": achieved(&protections.guard),
        "lock": achieved(&protections.lock),
        "dump": achieved(&protections.dump),
        "fork": achieved(&protections.fork),
    })
}

fn achieved(achieved: &Achieved) -> Value {
    json!({
        "asked": words::level(achieved.asked),
        "in_force": achieved.got,
        "evidence": words::evidence(achieved.evidence),
        "refused": achieved.refused.map(|refused| refused.to_string()),
    })
}

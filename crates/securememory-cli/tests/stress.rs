//! The stress run, as a user starts it: it is right where nothing is wrong, and finds what is.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::{Command, Output};

use serde_json::Value;

fn stress(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_securememory")).arg("stress").args(args).output().unwrap()
}

/// Runs with `--json`; exit code and report, after a look at the shape that is promised.
fn report(args: &[&str]) -> (i32, Value) {
    let output = stress(&[args, &["--json", "--threads", "4", "--secrets", "16"]].concat());
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", said(&output.stdout), said(&output.stderr)));
    assert_eq!(report["version"], 1);
    for key in ["faults", "wrong_bytes", "hangs", "unexpected_errors", "operations"] {
        assert!(report[key].is_u64(), "{key}: {report:#}");
    }
    let code = output.status.code().unwrap();
    assert_eq!(report["ok"], code == 0, "{report:#}");
    assert_eq!(!report["skipped"].is_null(), code == 77, "{report:#}");
    (code, report)
}

/// Nothing may be found, or the hold is not to be had here.
fn is_right(store: &str, hold: &str) {
    let (code, report) = report(&["--store", store, "--hold", hold, "--seconds", "3"]);
    if code == 77 {
        println!("skipped: {store} {hold}: {}", report["skipped"]);
        assert!(["split", "pkey", "secretmem"].contains(&hold), "{report:#}");
        return;
    }
    assert_eq!(code, 0, "{report:#}");
    for key in ["faults", "wrong_bytes", "hangs", "unexpected_errors"] {
        assert_eq!(report[key], 0, "{report:#}");
    }
    let leaks = report["leaks"].as_object().unwrap();
    assert!(leaks.len() == 5 && leaks.values().all(|count| *count == 0), "{report:#}");
    if hold != "auto" {
        assert_eq!(report["hold"], hold);
    }
    let kinds = ["read", "keep", "nest", "lend", "receive", "write", "replace", "create", "close"];
    let forks = (!cfg!(windows)).then_some("fork");
    for kind in kinds.into_iter().chain(["refresh", "purge"]).chain(forks) {
        assert!(report["by_kind"][kind]["done"].as_u64().unwrap() > 0, "no {kind}: {report:#}");
    }
    // The threads were in each other's way: otherwise it shows little.
    assert!(report["refusals"]["closed"].as_u64().unwrap() > 0, "{report:#}");
}

#[test]
fn sealed_secrets_whose_key_is_in_two_shares() {
    is_right("sealed", "split");
}

#[test]
fn sealed_secrets_whose_key_is_guarded() {
    is_right("sealed", "guarded");
}

#[test]
fn sealed_secrets_whose_key_is_behind_a_protection_key() {
    is_right("sealed", "pkey");
}

#[test]
fn sealed_secrets_whose_key_is_in_secret_memory() {
    is_right("sealed", "secretmem");
}

#[test]
fn paged_secrets() {
    is_right("paged", "auto");
}

#[test]
fn secrets_of_both_stores() {
    is_right("auto", "auto");
}

/// Does damage; it must be found, with this in the words, and `count` must say how much.
fn is_found(sabotage: &str, args: &[&str], count: &str, words: &[&str]) -> Value {
    let run = ["--seconds", "1", "--store", "sealed", "--sabotage", sabotage];
    let (code, report) = report(&[&run, args].concat());
    assert_eq!(code, 1, "{sabotage}: {report:#}");
    assert!(report[count].as_u64().unwrap() > 0, "{sabotage}: {report:#}");
    for other in ["faults", "wrong_bytes", "hangs", "unexpected_errors"] {
        assert!(other == count || report[other] == 0, "{sabotage}: {report:#}");
    }
    let found = report["found"].to_string();
    for word in words {
        assert!(found.contains(word), "{sabotage}: {word} is not in {found}");
    }
    report
}

#[test]
fn a_wrong_byte_is_found() {
    let report = is_found("wrong-byte", &[], "wrong_bytes", &["wrong bytes", "view of secret"]);
    assert!(report["found"].to_string().contains("bytes are wrong, the first at"), "{report:#}");
}

#[test]
fn an_older_value_is_found() {
    is_found("stale", &[], "wrong_bytes", &["version 0 is seen after 1 was valid"]);
}

#[test]
fn a_hang_is_found() {
    let report = is_found("hang", &["--hang-after", "2"], "hangs", &["hang: thread 0 is in"]);
    assert!(report["leaks"].is_null(), "nobody got to look: {report:#}");
}

#[test]
fn a_fault_is_found_with_its_signal() {
    let end = if cfg!(windows) { "access violation (0xC0000005)" } else { "SIGSEGV" };
    let report = is_found("fault", &[], "faults", &[&format!("killed by {end} during the run")]);
    assert_eq!(report["faults"], 1);
}

#[test]
fn an_error_that_nothing_explains_is_found() {
    is_found("error", &[], "unexpected_errors", &["Tampered"]);
}

#[test]
fn a_panic_is_found() {
    is_found("panic", &[], "unexpected_errors", &["thread 0 has panicked"]);
}

#[cfg(not(windows))]
#[test]
fn a_child_that_gets_in_is_found() {
    is_found("child", &[], "unexpected_errors", &["a forked child: a secret was opened"]);
}

#[test]
fn a_leak_is_found() {
    for hold in ["split", "guarded"] {
        let args = ["--seconds", "1", "--store", "sealed", "--sabotage", "leak", "--hold", hold];
        let (code, report) = report(&args);
        if code == 77 {
            println!("skipped: {}", report["skipped"]);
            continue;
        }
        assert_eq!(code, 1, "{report:#}");
        let leaked = |what: &str| report["leaks"][what].as_u64().unwrap();
        assert!(leaked("regions_kib") > 0, "{report:#}");
        // Only this hold has descriptors.
        assert_eq!(leaked("descriptors") > 0, hold == "split", "{report:#}");
        assert!(report["found"].to_string().contains("leak: "), "{report:#}");
    }
}

#[test]
fn the_report_is_for_people() {
    let output = stress(&["--seconds", "1", "--threads", "2", "--secrets", "8", "--seed", "77"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.starts_with("2 threads, 8 secrets, 1 s, store auto, hold auto, seed 77\n"), "{text}");
    for part in ["operation ", "read ", "faults  ", "leaked descriptors ", "all right: "] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    assert!(!text.contains('\u{1b}') && !text.contains('\r'), "{text}");
}

#[test]
fn what_cannot_be_run_is_a_usage_error() {
    for args in [["--threads", "0"], ["--seconds", "0"], ["--store", "elsewhere"], ["--hold", "tight"]] {
        assert_eq!(stress(&args).status.code(), Some(2), "{args:?}");
    }
    let mut worker = Command::new(env!("CARGO_BIN_EXE_securememory"));
    let output = worker.arg("stress-worker").stdin(std::process::Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

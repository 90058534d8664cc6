//! The doctor, run as a user runs it.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const STORES: [&str; 6] =
    ["plain", "sealed-pkey", "sealed-split", "sealed-secretmem", "sealed-guarded", "paged"];

/// Those that not every host has.
const RARE: [&str; 2] = ["sealed-pkey", "sealed-secretmem"];

fn doctor(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_securememory")).arg("doctor").args(args).output().unwrap()
}

/// Runs with `--json`; what it says, after a look at the shape that is promised.
fn report(args: &[&str]) -> Value {
    let output = doctor(&[args, &["--json"]].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "{error}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    });
    let keys: Vec<&String> = report.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["checks", "host", "ok", "version"]);
    assert_eq!(report["version"], 1);
    assert!(report["host"]["page_size"].is_number() && report["host"]["fault_injector"].is_boolean());
    assert_eq!(report["ok"].as_bool().unwrap(), output.status.code() == Some(0), "{report:#}");
    for check in report["checks"].as_array().unwrap() {
        let keys: Vec<&String> = check.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["attack", "detail", "outcome", "promised", "store"]);
        assert!(["blocked", "leaked", "skipped"].contains(&check["outcome"].as_str().unwrap()), "{check}");
        assert!(["blocked", "leaked"].contains(&check["promised"].as_str().unwrap()), "{check}");
        assert!(!check["detail"].as_str().unwrap().is_empty());
    }
    report
}

fn checks(report: &Value) -> Vec<(&str, &str, &str, &str)> {
    let checks = report["checks"].as_array().unwrap().iter();
    checks
        .map(|check| {
            let text = |key: &str| check[key].as_str().unwrap();
            (text("attack"), text("store"), text("outcome"), text("promised"))
        })
        .collect()
}

fn temporary(name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("securememory-test-{}-{name}", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn all_promises_hold_here_and_every_attack_wins_against_the_baseline() {
    let report = report(&[]);
    assert!(report["ok"] == true, "{report:#}");
    let checks = checks(&report);
    for attack in [
        "stray-read",
        "read-instant",
        "proc-mem",
        "proc-fd",
        "both-shares",
        "old-share",
        "key-only",
        "ciphertext-only",
        "vault-close",
        "tamper",
        "exchange-ciphertexts",
        "core-dump",
        "swap",
        "fork-child",
        "overflow",
        "underflow",
        "read-after-close",
        "fork-in-read",
        "residue",
        "log",
        "crash",
        "kill-term",
        "kill-int",
        "kill-hup",
        "kill-quit",
        "kill-segv",
        "kill-bus",
        "kill-abrt",
    ] {
        let stores: Vec<&str> =
            checks.iter().filter(|check| check.0 == attack).map(|check| check.1).collect();
        assert_eq!(stores, STORES, "{attack}");
    }
    for (attack, store, outcome, promised) in &checks {
        if *store == "plain" {
            assert_eq!(*promised, "leaked", "{attack}");
        }
        // Some hosts forbid processes to look into each other, or send cores away: a skip, with its reason.
        // Whether a page can be read in the midst of a read depends on the moment, and on the processor.
        let better = *attack == "read-instant" && *outcome == "blocked" && *store != "plain";
        let fine = *outcome == "skipped" || outcome == promised || better;
        assert!(fine, "{attack} on {store}: {outcome}");
    }
    absent_or_attacked(&report, "sealed-pkey", "protection_keys");
    absent_or_attacked(&report, "sealed-secretmem", "memfd_secret");
    let inside =
        ["stray-read", "tamper", "exchange-ciphertexts", "overflow", "underflow", "read-after-close", "log"];
    let always = checks.iter().filter(|check| !RARE.contains(&check.1));
    for (attack, store, outcome, promised) in always.filter(|check| inside.contains(&check.0)) {
        assert!(outcome == promised, "{attack} on {store} needs nothing of the host: {outcome}");
    }
}

/// A store that not every host has: all its checks are skipped, with a reason, or none of those that need nothing else.
fn absent_or_attacked(report: &Value, store: &str, feature: &str) {
    let checks = report["checks"].as_array().unwrap().iter().filter(|check| check["store"] == store);
    for check in checks {
        let absent = check["detail"].as_str().unwrap().starts_with("not to be had here");
        if report["host"]["features"][feature]["available"] == true {
            assert!(!absent, "{check}");
        } else {
            assert!(absent && check["outcome"] == "skipped", "{check}");
        }
    }
}

#[test]
fn a_store_that_cannot_be_had_is_a_failure_only_if_strict() {
    let args = ["--only", "stray-read", "--store", "plain,sealed-pkey,paged"];
    let relaxed = report(&args);
    let strict = report(&[&args[..], &["--strict"]].concat());
    let skipped = checks(&relaxed).iter().any(|check| check.2 == "skipped");
    assert_eq!(relaxed["host"]["features"]["protection_keys"]["available"] != true, skipped, "{relaxed:#}");
    assert!(relaxed["ok"] == true, "{relaxed:#}");
    assert_eq!(strict["ok"], !skipped, "{strict:#}");
}

#[test]
fn an_attack_that_finds_nothing_says_what_it_would_have_found() {
    let report = report(&["--only", "key-only,ciphertext-only,vault-close,exchange-ciphertexts,old-share"]);
    let mut said = 0;
    for check in report["checks"].as_array().unwrap() {
        let text = |key: &str| check[key].as_str().unwrap();
        let sealed = text("store").starts_with("sealed");
        if text("outcome") == "skipped" || !sealed {
            continue;
        }
        let proof = match text("attack") {
            "key-only" => "an old record that was laid out was opened, and no other",
            "ciphertext-only" | "vault-close" => "of the secret or key; zeros, none of",
            "exchange-ciphertexts" => "exchanged back, both read as before",
            _ => "all of one time opens the record of that time",
        };
        assert!(text("detail").contains(proof), "{check}");
        said += 1;
    }
    // The exchange needs nothing of the host.
    assert!(said >= 2, "{report:#}");
}

#[test]
fn an_end_that_leaves_nothing_says_how_it_came_and_what_is_left_without_us() {
    let report = report(&["--only", "crash,kill-quit,kill-segv", "--crowd", "20"]);
    let mut said = 0;
    for check in report["checks"].as_array().unwrap() {
        let text = |key: &str| check[key].as_str().unwrap();
        if text("store") == "plain" || text("outcome") == "skipped" {
            println!("skipped: {check}");
            continue;
        }
        let ends: &[&str] = match text("attack") {
            "crash" => &[
                "a stray read of closed memory (signal: 11 (SIGSEGV)",
                "a stray read past a view (signal: 11 (SIGSEGV)",
                "a write through a null pointer (signal: 11 (SIGSEGV)",
                "exit (exit status: 73,",
                "abort (signal: 6 (SIGABRT)",
            ],
            "kill-quit" => &["a signal from outside (signal: 3 (SIGQUIT)"],
            _ => &["a signal from outside (signal: 11 (SIGSEGV)"],
        };
        let without = match text("store") {
            "paged" => "without fault handling the secret was found",
            _ => "without fault handling secret and key were found",
        };
        for part in ends.iter().chain(&["with 20 more secrets: ", without]) {
            assert!(text("detail").contains(part), "{part} is missing: {check}");
        }
        if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
            // One to each side may be there by chance: each 256th time what lies beside them in the dump is the next byte.
            let held: usize = (24..=26)
                .map(|held| text("detail").matches(&format!("; {held} bytes in registers")).count())
                .sum();
            let saved = text("detail").matches("saved them for the signal handler").count();
            assert_eq!((held, saved), (ends.len(), usize::from(ends.len() > 1)), "{check}");
        }
        said += 1;
    }
    println!("{said} checks looked at");
}

#[test]
fn only_what_was_asked_for_is_checked() {
    let report = report(&["--only", "log,swap", "--store", "plain", "--store", "paged"]);
    let asked: Vec<(&str, &str)> = checks(&report).iter().map(|check| (check.0, check.1)).collect();
    assert_eq!(asked, [("swap", "plain"), ("swap", "paged"), ("log", "plain"), ("log", "paged")]);
    assert_eq!(doctor(&["--only", "no-such-attack"]).status.code(), Some(2));
    assert_eq!(doctor(&["--store", "no-such-store"]).status.code(), Some(2));
}

#[test]
fn a_key_of_ones_own_is_protected_and_attacked() {
    let key = b"my own key, and nobody else's";
    let path = temporary("key", key);
    let only = ["--only", "stray-read,fork-child,log,both-shares,key-only,ciphertext-only", "--secret"];
    let report = report(&[&only[..], &[path.to_str().unwrap()]].concat());
    std::fs::remove_file(&path).unwrap();
    for (attack, store, outcome, promised) in checks(&report) {
        let needs_nothing = ["stray-read", "log"].contains(&attack) && !RARE.contains(&store);
        let forbidden = outcome == "skipped" && !needs_nothing;
        assert!(outcome == promised || forbidden, "{attack} on {store}: {report:#}");
    }
    // The baseline and the promised leak work on other bytes.
    let details = report.to_string();
    assert!(details.contains("windows of the secret"), "{details}");
    assert!(!details.contains("my own key"));
}

#[test]
fn a_key_from_standard_input() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_securememory"))
        .args(["doctor", "--json", "--only", "stray-read", "--store", "paged", "--secret", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"q7Zk-vR2m_Xw9;Lt4&Hs8").unwrap();
    let output = child.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        report["checks"][0]["detail"].as_str().unwrap().contains("14 windows of the secret"),
        "{report:#}"
    );
}

#[test]
fn a_key_that_occurs_everywhere_is_skipped_with_the_reason() {
    let path = temporary("zeros", &[0; 40]);
    let args = ["--only", "stray-read", "--store", "paged", "--secret", path.to_str().unwrap()];
    let relaxed = report(&args);
    let strict = report(&[&args[..], &["--strict"]].concat());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(relaxed["checks"][0]["outcome"], "skipped");
    assert!(
        relaxed["checks"][0]["detail"].as_str().unwrap().contains("nothing to search for"),
        "{relaxed:#}"
    );
    assert_eq!((&relaxed["ok"], &strict["ok"]), (&Value::Bool(true), &Value::Bool(false)));
}

#[test]
fn a_key_that_cannot_be_used_is_a_clear_error() {
    let (empty, seven) = (temporary("empty", b""), temporary("seven", b"1234567"));
    for (path, why) in [
        (empty.to_str().unwrap(), "is empty"),
        (seven.to_str().unwrap(), "has 7 bytes; the doctor needs at least 8"),
        ("/no/such/file", "No such file"),
        ("/", "Is a directory"),
    ] {
        let output = doctor(&["--secret", path]);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(why) && message.lines().count() == 1, "{message}");
        assert!(output.stdout.is_empty());
    }
    std::fs::remove_file(empty).unwrap();
    std::fs::remove_file(seven).unwrap();
}

#[test]
fn security_md_promises_what_the_doctor_checks() {
    let printed = String::from_utf8(doctor(&["--print-promises"]).stdout).unwrap();
    let page = include_str!("../../../SECURITY.md");
    let (_, after) = page.split_once("<!-- promises:begin -->\n").unwrap();
    let (table, _) = after.split_once("<!-- promises:end -->").unwrap();
    assert_eq!(
        table, printed,
        "print it anew with `securememory doctor --print-promises` and put it between the markers in SECURITY.md"
    );
}

#[test]
fn the_table_is_for_people() {
    let output = doctor(&["--only", "log,proc-mem", "--verbose"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\u{1b}'), "no colours into a pipe: {text}");
    for part in ["attack ", "sealed-split", "proc-mem ", "= blocked", "= leaked", "promises"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
}

#[test]
fn the_hidden_commands_are_of_no_use_without_an_order() {
    for command in ["doctor-attacker", "doctor-victim"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_securememory"));
        let output = child.arg(command).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{command}");
    }
}

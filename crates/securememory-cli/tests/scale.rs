//! The scale run, as a user starts it, with few secrets: its figures are there, and can be.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_securememory");
const SCALE: [&str; 3] = ["bench", "scale", "--json"];

fn report(output: &Output) -> Value {
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", said(&output.stdout), said(&output.stderr)));
    assert_eq!(report["version"], 1);
    assert_eq!(report["ok"], output.status.code() == Some(0), "{report:#}");
    assert_eq!(report["wrong"] == 0, report["ok"] == true, "{report:#}");
    report
}

fn run(args: &[&str]) -> Value {
    report(&Command::new(BINARY).args(SCALE).args(args).output().unwrap())
}

fn figure(report: &Value, name: &str) -> f64 {
    let value = report["figures"][name]["value"].as_f64();
    value.unwrap_or_else(|| panic!("no {name}: {report:#}"))
}

fn is_plausible_and_sealed(report: &Value) {
    assert_eq!((&report["ok"], &report["secrets"]), (&true.into(), &3000.into()), "{report:#}");
    assert!(report["limit"].is_null() && report["found"] == Value::Array(Vec::new()), "{report:#}");
    // 32 bytes with nonce, tag and handle; and of so few the vault itself is a large part.
    let each = figure(report, "bytes_each");
    assert!((100.0..2000.0).contains(&each), "{report:#}");
    assert_eq!(figure(report, "handle_bytes"), 8.0);
    assert!(figure(report, "locked_bytes") <= 65536.0, "{report:#}");
    assert_eq!(figure(report, "locked_bytes"), figure(report, "vault_locked_bytes"), "{report:#}");
    assert!((1.0..=100.0).contains(&figure(report, "mappings")), "{report:#}");
    assert!(figure(report, "descriptors") <= 16.0, "{report:#}");
    let ratio = figure(report, "create_last_ns") / figure(report, "create_second_ns");
    assert!((figure(report, "create_ratio") / ratio - 1.0).abs() < 0.01, "{report:#}");
    for name in ["create_seconds", "read_ns", "change_ns", "close_ns", "drop_ns", "reader_alone_ms"] {
        assert!(figure(report, name) > 0.0, "{report:#}");
    }
    for (name, goal) in [("bytes_each", 176.0), ("locked_bytes", 65536.0), ("purge_ms", 1.0)] {
        assert_eq!(report["figures"][name]["goal"], goal, "{report:#}");
    }
}

#[test]
fn sealed_secrets() {
    let report = run(&["--secrets", "3000"]);
    is_plausible_and_sealed(&report);
    if report["hold"] == "split" {
        assert!(figure(&report, "descriptors") >= 1.0 && figure(&report, "memory_file_bytes") >= 4096.0);
    }
}

#[test]
fn so_few_that_not_all_can_be_told() {
    let report = run(&["--secrets", "1", "--hold", "guarded"]);
    assert_eq!(report["ok"], true, "{report:#}");
    assert!(report["figures"]["create_ratio"]["value"].is_null(), "{report:#}");
}

#[test]
fn paged_secrets() {
    let report = run(&["--secrets", "3000", "--store", "paged"]);
    assert_eq!((&report["ok"], &report["secrets"]), (&true.into(), &3000.into()), "{report:#}");
    assert!((4096.0..8192.0).contains(&figure(&report, "bytes_each")), "{report:#}");
    assert!((1.0..=3.0).contains(&figure(&report, "mappings_each")), "{report:#}");
    assert!(figure(&report, "create_ratio") > 0.0 && figure(&report, "close_ns") > 0.0, "{report:#}");
}

/// `prlimit` in front of the tool, if there is one.
fn limited(limits: &[&str]) -> Option<Command> {
    let mut command = Command::new("prlimit");
    command.args(limits);
    if Command::new("prlimit").args(limits).arg("true").status().is_ok_and(|status| status.success()) {
        return Some(command);
    }
    println!("skipped: prlimit (package util-linux) is not there, or cannot set {limits:?}");
    None
}

#[test]
fn paged_secrets_up_to_a_limit() {
    let Some(mut command) = limited(&["--as=100000000"]) else { return };
    let output = command.arg(BINARY).args(SCALE).args(["--store", "paged", "--secrets", "30000"]).output();
    let report = report(&output.unwrap());
    assert_eq!(report["ok"], true, "{report:#}");
    assert!(report["preflight"].as_str().unwrap().contains("do not fit; address space: "), "{report:#}");
    let made = report["secrets"].as_u64().unwrap();
    assert!((1_000..20_000).contains(&made), "{report:#}");
    assert!(report["limit"]["error"].as_str().unwrap().contains("memory"), "{report:#}");
    assert!(
        report["limit"]["hint"].is_null() || report["limit"]["hint"].as_str().unwrap().contains("ulimit -v")
    );
}

/// The tool where every user may start it; removed in the end.
struct ForAll(PathBuf);

impl ForAll {
    fn make() -> Self {
        let place = std::env::temp_dir().join(format!("securememory-scale-{}", std::process::id()));
        std::fs::create_dir(&place).unwrap();
        std::fs::set_permissions(&place, PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::copy(BINARY, place.join("securememory")).unwrap();
        Self(place)
    }
}

impl Drop for ForAll {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn an_ordinary_user_who_may_lock_64_kib() {
    const USER: [&str; 6] = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--bounding-set=-all",
        "--no-new-privs",
    ];
    let Some(mut command) = limited(&["--memlock=65536:65536"]) else { return };
    if rustix::process::geteuid().is_root() {
        if !Command::new(USER[0]).args(&USER[1..]).arg("true").status().is_ok_and(|status| status.success()) {
            println!("skipped: setpriv (package util-linux) is not there, or cannot become another user");
            return;
        }
        command.args(USER);
    }
    let place = ForAll::make();
    let output = command.arg(place.0.join("securememory")).args(SCALE).args(["--secrets", "3000"]).output();
    is_plausible_and_sealed(&report(&output.unwrap()));
}

#[test]
fn bench_itself_keeps_its_options() {
    let bench = |args: &[&str]| Command::new(BINARY).arg("bench").args(args).output().unwrap().status.code();
    // It refuses to measure a build with the fault injector, as this is where all crates' tests are built together.
    let counted = if securememory::HAS_INJECTOR { 2 } else { 0 };
    assert_eq!(bench(&["--count", "1", "--only", "sealed.create.32"]), Some(counted));
    assert_eq!(bench(&["--json", "scale"]), Some(2));
    assert_eq!(bench(&["scale", "--store", "elsewhere"]), Some(2));
    assert_eq!(bench(&["scale", "--secrets", "0"]), Some(2));
}

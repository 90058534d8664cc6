//! Hardening of the process: what it does, seen from outside and by a crash; and what it says where a call fails. Each case
//! runs in a process of its own.
#![cfg(unix)]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests end by panics, and fork and crash by raw calls"
)]

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use common::{Needle, case};
use securememory::harden::{self, Measure, Options, Outcome};
use securememory::testing::inject::{self, Plan};
use securememory::{Call, CallError, Evidence, Store, Vault};

fn dumpable() -> i32 {
    // SAFETY: asks for a number.
    unsafe { libc::prctl(libc::PR_GET_DUMPABLE) }
}

fn core_limits() -> (u64, u64) {
    let found = common::limits_of(libc::RLIMIT_CORE);
    (found.soft, found.hard)
}

fn filter() -> String {
    std::fs::read_to_string("/proc/self/coredump_filter").unwrap().trim().trim_start_matches('0').to_owned()
}

/// Cores as large as may be.
fn allow_cores() {
    let most = common::limits_of(libc::RLIMIT_CORE).hard;
    if most < 64 << 20 {
        common::skip("needs a hard limit on cores that allows some");
    }
    common::soft_limit(libc::RLIMIT_CORE, most).unwrap();
}

#[test]
fn each_measure_is_carried_out_alone_and_what_is_looked_at_changes_nothing() {
    case("each_measure_is_carried_out_alone_and_what_is_looked_at_changes_nothing").run(|| {
        allow_cores();
        let before = (dumpable(), core_limits(), filter());
        assert!(before.0 == 1 && before.1.0 > 0 && !before.2.is_empty(), "{before:?}");
        let nothing = harden::process(Options::none());
        assert!(nothing.swap.found().is_none() && nothing.dumped.found().is_none());
        let found = harden::process(Options::look());
        assert_eq!((dumpable(), core_limits(), filter()), before);
        assert_eq!([found.not_dumpable, found.no_cores, found.empty_cores], [Outcome::NotAsked; 3]);
        assert_eq!(found.failures().next(), None, "{found}");
        let heap = found.dumped.found().unwrap();
        assert!(heap.resident > 0 && heap.bytes >= heap.resident);
        assert!(heap.largest.iter().any(|part| part.name == "[stack]" || part.name == "[heap]"), "{found}");
        let table = std::fs::read_to_string("/proc/swaps").unwrap();
        assert_eq!(found.swap.found().unwrap().len(), table.lines().count() - 1);

        assert_eq!(harden::process(Options::none().empty_cores(true)).empty_cores, Outcome::Done);
        assert_eq!((dumpable(), core_limits(), filter()), (before.0, before.1, String::new()));
        assert_eq!(harden::process(Options::none().no_cores(true)).no_cores, Outcome::Done);
        assert_eq!((dumpable(), core_limits()), (1, (0, 0)));
        assert_eq!(harden::process(Options::none().not_dumpable(true)).not_dumpable, Outcome::Done);
        assert_eq!(dumpable(), 0);
        let again = harden::process(Options::all());
        assert_eq!([again.not_dumpable, again.no_cores, again.empty_cores], [Outcome::Already; 3], "{again}");
    });
}

#[test]
fn memory_of_the_library_is_not_among_what_cores_contain() {
    case("memory_of_the_library_is_not_among_what_cores_contain").run(|| {
        let before = harden::process(Options::look()).dumped.found().unwrap().bytes;
        let vault = Vault::builder().store(Store::Paged).build().unwrap();
        let secret = vault.secret().random(16 << 20).unwrap();
        let view = secret.view_mut().unwrap();
        let after = harden::process(Options::look()).dumped.found().unwrap().bytes;
        // The pages are open and writable.
        assert!(after < before + (4 << 20), "{before} {after}");
        view.commit().unwrap();
        // The same much elsewhere is told.
        let elsewhere = vec![1_u8; 16 << 20];
        let found = harden::process(Options::look());
        assert!(found.dumped.found().unwrap().resident >= 16 << 20, "{found}");
        drop(elsewhere);
    });
}

/// Runs `prepare` in a forked child that then crashes with the needle in its memory. Did it leave a core?
fn leaves_core(prepare: impl FnOnce()) -> bool {
    // SAFETY: the process of a case has one thread that does anything.
    unsafe {
        let pid = libc::fork();
        assert!(pid >= 0);
        if pid == 0 {
            prepare();
            libc::signal(libc::SIGABRT, libc::SIG_DFL);
            libc::abort();
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGABRT, "{status:#x}");
        libc::WCOREDUMP(status)
    }
}

/// The bytes of all cores in the directory, which are removed.
fn cores(directory: &PathBuf) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        File::open(entry.path()).unwrap().read_to_end(&mut bytes).unwrap();
        std::fs::remove_file(entry.path()).unwrap();
    }
    bytes
}

fn holds(bytes: &[u8], needle: &Needle) -> bool {
    bytes
        .windows(needle.len())
        .any(|window| (0..needle.len()).all(|index| window[index] == needle.byte(index)))
}

#[test]
fn after_a_crash_there_is_no_core_or_an_empty_one() {
    case("after_a_crash_there_is_no_core_or_an_empty_one").run(|| {
        allow_cores();
        let found = harden::process(Options::look());
        let pattern = found.core_pattern.found().unwrap();
        let directory = std::env::temp_dir().join(format!("securememory-cores-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        std::env::set_current_dir(&directory).unwrap();
        let needle = Needle::new(0x4841_5244, 32);
        let plain: Vec<u8> = (0..needle.len()).map(|index| needle.byte(index)).collect();
        let crashes = leaves_core(|| {});
        if !crashes || pattern.starts_with(['|', '/', '@']) {
            std::fs::remove_dir_all(&directory).unwrap();
            common::skip(&format!(
                "needs a system where a crash leaves a core in its directory, not {pattern:?}"
            ));
        }
        assert!(holds(&cores(&directory), &needle), "what is not hardened leaves it");
        let harden = |options: Options| {
            let report = harden::process(options);
            assert_eq!(report.failures().next(), None, "{report}");
        };
        assert!(!leaves_core(|| harden(Options::none().not_dumpable(true))));
        assert!(!leaves_core(|| harden(Options::none().no_cores(true))));
        assert!(!leaves_core(|| harden(Options::all())));
        assert!(cores(&directory).is_empty());
        assert!(leaves_core(|| harden(Options::none().empty_cores(true))));
        let empty = cores(&directory);
        assert!(!empty.is_empty() && !holds(&empty, &needle));
        drop(plain);
        std::fs::remove_dir_all(&directory).unwrap();
    });
}

/// The bytes at an address of another process.
fn steal(process: i32, address: usize, len: usize) -> Result<Vec<u8>, std::io::Error> {
    let mut bytes = vec![0; len];
    File::open(format!("/proc/{process}/mem"))?.read_exact_at(&mut bytes, address as u64)?;
    Ok(bytes)
}

#[test]
fn another_process_of_the_same_user_reads_nothing_any_more() {
    case("another_process_of_the_same_user_reads_nothing_any_more").run(|| {
        common::become_ordinary_user();
        let bytes = *b"what another process could read.";
        let (mut told, mut tell) = std::io::pipe().unwrap();
        let (mut wait, mut go) = std::io::pipe().unwrap();
        // SAFETY: as in `leaves_core`.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let mut byte = [0];
            wait.read_exact(&mut byte).unwrap();
            let report = harden::process(Options::none().not_dumpable(true));
            tell.write_all(&[u8::from(report.not_dumpable == Outcome::Done)]).unwrap();
            let _ = wait.read_exact(&mut byte);
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(0) };
        }
        let stolen = steal(pid, bytes.as_ptr().addr(), bytes.len());
        go.write_all(&[1]).unwrap();
        let mut done = [0];
        told.read_exact(&mut done).unwrap();
        let after = steal(pid, bytes.as_ptr().addr(), bytes.len());
        let attached = {
            // SAFETY: asks to trace our own child.
            let outcome = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) };
            (outcome, std::io::Error::last_os_error().raw_os_error())
        };
        go.write_all(&[1]).unwrap();
        let mut status = 0;
        // SAFETY: waits for our own child.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!((status, done), (0, [1]));
        match stolen {
            Ok(stolen) => assert_eq!(stolen, bytes),
            Err(error) => {
                common::skip(&format!("another process may not even read one that is not hardened: {error}"))
            }
        }
        // Or it is not even to be seen, proc(5), `hidepid`.
        let refused = [libc::EACCES, libc::ENOENT].map(|errno| Err(Some(errno)));
        assert!(refused.contains(&after.map_err(|error| error.raw_os_error())), "it is read still");
        assert_eq!(attached, (-1, Some(libc::EPERM)));
    });
}

/// What the documentation says of the files under /proc/self.
#[test]
fn what_a_hardened_process_of_an_ordinary_user_still_sees_of_itself() {
    case("what_a_hardened_process_of_an_ordinary_user_still_sees_of_itself").run(|| {
        common::become_ordinary_user();
        let vault = Vault::builder().build().unwrap();
        let evidence = |vault: &Vault| vault.status().protections.dump.evidence;
        assert_eq!(evidence(&vault), Evidence::Kernel);
        let report = harden::process(Options::all());
        assert_eq!(report.failures().next(), None, "{report}");
        assert!(report.not_dumpable.in_force());
        for (name, readable) in [
            ("mem", false),
            ("pagemap", false),
            ("environ", false),
            ("smaps", true),
            ("maps", true),
            ("status", true),
        ] {
            assert_eq!(File::open(format!("/proc/self/{name}")).is_ok(), readable, "{name}");
        }
        let write = std::fs::write("/proc/self/coredump_filter", "1");
        assert_eq!(write.map_err(|error| error.raw_os_error()), Err(Some(libc::EACCES)));
        assert_eq!(evidence(&vault), Evidence::Kernel);
        // Old vaults and new ones work.
        for vault in [vault, Vault::builder().build().unwrap()] {
            let secret = vault.secret().random(32).unwrap();
            assert_eq!(secret.with(<[u8]>::len), Ok(32));
            vault.refresh().unwrap();
            assert_eq!(evidence(&vault), Evidence::Kernel);
            assert!(vault.budget().locked_in_process.is_some());
        }
    });
}

#[test]
fn what_fails_is_told_by_call_and_number_and_the_rest_is_done() {
    case("what_fails_is_told_by_call_and_number_and_the_rest_is_done").run(|| {
        allow_cores();
        let errno = libc::EPERM;
        let failed = |call| CallError { call, errno };
        let failures = |options: Options| harden::process(options).failures().collect::<Vec<_>>();
        for (call, all) in [
            (Call::Prctl, vec![Measure::NotDumpable]),
            (Call::Setrlimit, vec![Measure::NoCores]),
            (Call::Write, vec![Measure::EmptyCores]),
            (
                Call::Open,
                vec![
                    Measure::EmptyCores,
                    Measure::Swap,
                    Measure::DumpedMemory,
                    Measure::CorePattern,
                    Measure::PtraceScope,
                ],
            ),
        ] {
            let expected: Vec<_> = all.into_iter().map(|measure| (measure, failed(call))).collect();
            let found = common::in_child(|| {
                let plan = inject::fail(call, Plan::Always { errno });
                let found = failures(Options::all());
                assert!(found == expected, "{call}: {found:?}");
                drop(plan);
                let report = harden::process(Options::look());
                let done = [
                    (Measure::NotDumpable, report.not_dumpable),
                    (Measure::NoCores, report.no_cores),
                    (Measure::EmptyCores, report.empty_cores),
                ];
                done.iter().all(|(measure, outcome)| {
                    let refused = expected.iter().any(|(failed, _)| failed == measure);
                    *outcome == if refused { Outcome::NotAsked } else { Outcome::Already }
                })
            });
            assert_eq!(found, 0, "{call}");
        }
        // A call in the middle: asking, doing, asking again.
        for n in 1..=3 {
            let found = common::in_child(|| {
                let _plan = inject::fail(Call::Prctl, Plan::Nth { n, errno });
                failures(Options::all()) == [(Measure::NotDumpable, failed(Call::Prctl))]
                    && dumpable() == i32::from(n < 3)
            });
            assert_eq!(found, 0, "call {n}");
        }
    });
}

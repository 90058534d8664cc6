//! Vaults that children inherit, with many processes: servers, daemons whose parents go, children that nobody was told of, and
//! programs.
#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests end by panics; processes are made by raw calls"
)]

mod common;

use std::io::{Read, Write};
use std::process::Command;
use std::time::Duration;

use common::inherited::{BYTES, Family, builder, builders, change_keys_in_shared_memory, own_vaults_work};
use common::{Footprint, Needle, case, in_child, raw_clone, share_files, wait_for};
use securememory::Store;
use securememory::fault::{self, FaultPolicy};

fn families() -> Vec<Family> {
    builders().into_iter().map(Family::new).collect()
}

fn forked() -> libc::pid_t {
    // SAFETY: the child ends by `exit` or `_exit`.
    unsafe { libc::fork() }
}

/// Reads and changes what it has, and makes more.
fn works(family: &mut Family, number: u8) -> bool {
    assert!(family.is_whole());
    for secret in [&family.sealed, &family.paged] {
        secret.replace(&mut [number; 16]).unwrap();
        assert_eq!(secret.ct_eq_bytes(&[number; 16]), Ok(true));
        let made = family.vault.secret().store(secret.status().store).from_bytes(&mut [number; 50]).unwrap();
        assert_eq!(made.ct_eq_bytes(&[number; 50]), Ok(true));
    }
    family.vault.refresh().unwrap();
    family.vault.finish_refresh(Duration::from_secs(60)).unwrap();
    family.sealed.ct_eq_bytes(&[number; 16]) == Ok(true)
}

#[test]
fn a_server_with_a_hundred_children() {
    case("a_server_with_a_hundred_children").deadline(Duration::from_secs(200)).run(|| {
        let mut families = families();
        let before = Footprint::now();
        let (gate, held) = std::io::pipe().unwrap();
        let children: Vec<_> = (0..100)
            .map(|number| {
                let pid = forked();
                if pid == 0 {
                    // All of them at the same time.
                    (&gate).read_exact(&mut [0]).unwrap();
                    let right = families.iter_mut().all(|family| works(family, number));
                    std::process::exit(i32::from(!right));
                }
                // Its keys turn over meanwhile, and the next child has the next ones.
                families.iter().for_each(|family| family.vault.refresh().unwrap());
                pid
            })
            .collect();
        for family in &families {
            family.vault.finish_refresh(Duration::from_secs(60)).unwrap();
        }
        (&held).write_all(&[0; 100]).unwrap();
        children.into_iter().for_each(|pid| assert_eq!(wait_for(pid), 0));
        assert!(families.iter_mut().all(Family::is_whole));
        drop((gate, held));
        let after = Footprint::now();
        assert_eq!(
            [after.descriptors() as u64, after.locked()],
            [before.descriptors() as u64, before.locked()]
        );
        // Keys that have turned over lie elsewhere, and may merge there with fewer neighbours; a mapping that is left by each
        // child, or by each key, would be seen.
        assert!(after.mappings() < before.mappings() + 20, "{} {}", after.mappings(), before.mappings());
    });
}

/// The parent is gone, and its secrets are wiped, before its grandchild first looks at its own.
#[test]
fn a_daemon_keeps_what_it_has_inherited() {
    case("a_daemon_keeps_what_it_has_inherited").run(|| {
        let _faults = fault::install(FaultPolicy::Abort).unwrap();
        let mut families = families();
        let (mut from, to) = std::io::pipe().unwrap();
        let pid = forked();
        if pid == 0 {
            let parent = std::process::id() as i32;
            // SAFETY: a session of its own.
            unsafe { libc::setsid() };
            if forked() != 0 {
                // With the wipe at its exit.
                std::process::exit(3);
            }
            // SAFETY: asks for a number.
            while unsafe { libc::getppid() } == parent {
                std::thread::sleep(Duration::from_millis(1));
            }
            let right = families.iter_mut().all(|family| works(family, 77));
            let word: &[u8] = if right { b"daemon" } else { b"wrong" };
            (&to).write_all(word).unwrap();
            std::process::exit(0);
        }
        drop(to);
        let status = wait_for(pid);
        assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 3));
        let mut word = String::new();
        from.read_to_string(&mut word).unwrap();
        assert_eq!(word, "daemon");
        assert!(families.iter_mut().all(Family::is_whole));
    });
}

/// A child that dies wipes what it has, and nothing of its parent's.
#[test]
fn a_child_dies_alone() {
    case("a_child_dies_alone").run(|| {
        let _faults = fault::install(FaultPolicy::Abort).unwrap();
        let mut families = families();
        for death in [libc::SIGABRT, libc::SIGSEGV, 0] {
            let pid = forked();
            if pid == 0 {
                assert!(families.iter_mut().all(|family| works(family, 5)));
                // SAFETY: ends the child.
                unsafe {
                    match death {
                        0 => libc::exit(6),
                        libc::SIGABRT => libc::abort(),
                        _ => _ = std::hint::black_box((16 as *const u8).read_volatile()),
                    }
                    libc::_exit(9);
                }
            }
            let status = wait_for(pid);
            let expected = if death == 0 { (true, 6) } else { (false, death) };
            let ended = (
                libc::WIFEXITED(status),
                if death == 0 { libc::WEXITSTATUS(status) } else { libc::WTERMSIG(status) },
            );
            assert_eq!(ended, expected);
            assert!(families.iter_mut().all(Family::is_whole));
            families.iter().for_each(|family| family.vault.refresh().unwrap());
            assert!(families.iter_mut().all(Family::is_whole));
        }
    });
}

#[test]
fn a_child_that_nobody_was_told_of_has_nothing_and_nor_have_its_children() {
    case("a_child_that_nobody_was_told_of_has_nothing_and_nor_have_its_children").run(|| {
        let mut families = families();
        // SAFETY: as fork(3), by a raw call; the child ends below, by `_exit`.
        let pid = unsafe { raw_clone(libc::SIGCHLD) };
        if pid == 0 {
            let mut refused = || {
                let wrong: Vec<_> = families.iter_mut().flat_map(Family::not_refused).collect();
                if !wrong.is_empty() {
                    eprintln!("{wrong:#?}");
                }
                wrong.is_empty() && own_vaults_work()
            };
            let right = refused() && in_child(&mut refused) == 0 && {
                // But its own are inherited by its own.
                let mut own = Family::new(builder(common::HOLD));
                in_child(|| works(&mut own, 4)) == 0 && own.is_whole() && in_child(&mut refused) == 0
            };
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!right)) };
        }
        assert_eq!(wait_for(pid), 0);
        assert!(families.iter_mut().all(Family::is_whole));
        assert_eq!(in_child(|| families.iter_mut().all(|family| works(family, 1))), 0);
    });
}

#[test]
fn a_child_that_shares_memory_does_not_change_its_parents_keys() {
    case("a_child_that_shares_memory_does_not_change_its_parents_keys").run(|| {
        let mut families = families();
        let before = Footprint::now();
        for flags in [libc::CLONE_VM, libc::CLONE_VM | libc::CLONE_FILES] {
            assert_eq!(change_keys_in_shared_memory(&families, flags), (0, 0), "{flags:#x}");
            assert!(families.iter_mut().all(Family::is_whole));
        }
        before.assert_same("after them");
        assert!(families.iter_mut().all(|family| works(family, 1)));
    });
}

#[test]
fn programs_get_nothing() {
    case("programs_get_nothing").run(|| {
        common::need("split");
        let mut families = families();
        let shares = share_files();
        assert!(!shares.is_empty());
        for _ in 0..5 {
            let listing = in_child(|| {
                // Forked, then executed: with what was made for the child.
                let listing = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
                !String::from_utf8(listing.stdout).unwrap().contains("memfd")
            });
            assert_eq!(listing, 0);
            let mut command = Command::new("ls");
            command.args(["-l", "/proc/self/fd"]);
            // SAFETY: nothing is done; but so it is forked, with our hook.
            unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, || Ok(())) };
            let listing = String::from_utf8(command.output().unwrap().stdout).unwrap();
            assert!(!listing.contains("memfd"), "{listing}");
        }
        assert_eq!(share_files(), shares);
        assert!(families.iter_mut().all(Family::is_whole));
    });
}

/// At rest nothing lies open in the child, either: the pages are closed, and the heirs' shares gone.
#[test]
fn what_is_at_rest_is_closed_in_the_child() {
    case("what_is_at_rest_is_closed_in_the_child").run(|| {
        for builder in builders() {
            let vault = builder.build().unwrap();
            let needle = Needle::new(0x5eed, 64);
            let make =
                |store| vault.secret().store(store).init_with(64, |room| needle.write(room, 0)).unwrap();
            let secrets = [make(Store::Sealed), make(Store::Paged)];
            let is_hidden = || {
                let all = secrets.iter().all(|secret| secret.with(|bytes| needle.is(bytes)).unwrap());
                // What is closed is read by the kernel all the same, in the process's own pages; what is readable is not.
                let found = needle.find();
                assert!(found.iter().all(|place| !place.contains(" r")), "{found:#?}");
                all
            };
            assert!(is_hidden());
            assert_eq!(in_child(is_hidden), 0);
            assert_eq!(in_child(|| is_hidden() && BYTES.len() == 16 && in_child(is_hidden) == 0), 0);
            assert!(is_hidden());
        }
    });
}

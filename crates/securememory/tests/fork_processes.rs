//! The ways in which a process comes from another: programs executed, daemons, servers with many children, and children that
//! share memory. The parent goes on unharmed, and nothing of it leaks.
#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests end by panics; processes are made by raw calls"
)]

mod common;

use std::ffi::CStr;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use common::inherited::{BYTES, Family, change_keys_in_shared_memory, own_vaults_work};
use common::{case, in_child, raw_clone, share_files, wait_for};
use securememory::fault::{self, FaultPolicy};
use securememory::signal::{Coordinator, Options, Signal};
use securememory::{Error, Hold, Level, Vault, VaultBuilder};

fn builders() -> Vec<VaultBuilder> {
    let of = |hold| Vault::builder().hold(hold).hold_level(Level::Require);
    let holds = [Hold::Split, Hold::Guarded, Hold::Secretmem, Hold::Pkey];
    let built = holds.into_iter().filter(|&hold| match of(hold).build() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("SKIPPED {hold:?}: {error}");
            false
        }
    });
    built.map(of).collect()
}

fn families() -> Vec<Family> {
    builders().into_iter().map(Family::new).collect()
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [-1; 2];
    // SAFETY: two words are written, which are descriptors of ours then.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    }
}

const LIST: [&CStr; 3] = [c"sh", c"-c", c"ls -l /proc/self/fd"];

/// The descriptors that a program finds which is executed in a child that `make` makes.
fn listed(make: impl FnOnce() -> libc::pid_t) -> Vec<String> {
    let (mut from, to) = {
        let (from, to) = pipe();
        (std::fs::File::from(from), to)
    };
    let arguments: Vec<_> = LIST.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect();
    let pid = make();
    if pid == 0 {
        // SAFETY: what is done here may be done in a child of vfork(2).
        unsafe {
            libc::dup2(to.as_raw_fd(), 1);
            libc::execvp(LIST[0].as_ptr(), arguments.as_ptr());
            libc::_exit(9);
        }
    }
    drop(to);
    let mut listing = String::new();
    from.read_to_string(&mut listing).unwrap();
    assert_eq!(wait_for(pid), 0);
    listing
        .lines()
        .filter_map(|line| line.split_once(" -> "))
        // Without the numbers of pipes and processes.
        .map(|(head, target)| {
            let number = head.rsplit(' ').next().unwrap();
            format!(
                "{number} -> {}",
                target.trim_end_matches(|c: char| c.is_ascii_digit() || "[]/fd".contains(c))
            )
        })
        .collect()
}

fn forked() -> libc::pid_t {
    // SAFETY: the child executes a program.
    unsafe { libc::fork() }
}

#[allow(deprecated, reason = "its dangers are what is tested")]
#[inline(always)]
fn vforked() -> libc::pid_t {
    // SAFETY: the child executes a program, or ends, in the frame that called this, which is inlined.
    unsafe { libc::vfork() }
}

#[test]
fn no_descriptor_of_ours_gets_into_a_program() {
    case("no_descriptor_of_ours_gets_into_a_program").run(|| {
        let before = listed(forked);
        assert!(!before.is_empty());
        let mut families = families();
        let _faults = fault::install(FaultPolicy::Abort).unwrap();
        let _signals = Coordinator::install(&[Signal::USR1], Options::new()).unwrap();
        let views: Vec<_> = families.iter().map(|family| family.sealed.owned_view().unwrap()).collect();
        assert_eq!(listed(forked), before);
        // In a child that has vaults of its own.
        assert_eq!(in_child(|| own_vaults_work() && listed(forked) == before), 0);
        let listing = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
        let listing = String::from_utf8(listing.stdout).unwrap();
        for word in ["memfd", "secretmem"] {
            assert!(!listing.contains(word), "{listing}");
        }
        drop(views);
        assert!(families.iter_mut().all(Family::is_whole));
    });
}

#[test]
fn a_parent_of_spawned_programs_is_unharmed() {
    case("a_parent_of_spawned_programs_is_unharmed").run(|| {
        let mut families = families();
        let _faults = fault::install(FaultPolicy::Abort).unwrap();
        let views: Vec<_> = families.iter().map(|family| family.sealed.owned_view().unwrap()).collect();
        let shares = share_files();
        for _ in 0..20 {
            let mut pid = -1;
            let arguments = [c"true".as_ptr().cast_mut(), std::ptr::null_mut()];
            // SAFETY: the strings and the array live over the call; the environment is empty.
            let error = unsafe {
                let none = [std::ptr::null_mut()];
                let (actions, attributes) = (std::ptr::null(), std::ptr::null());
                libc::posix_spawnp(
                    &raw mut pid,
                    c"true".as_ptr(),
                    actions,
                    attributes,
                    arguments.as_ptr(),
                    none.as_ptr(),
                )
            };
            assert_eq!((error, wait_for(pid)), (0, 0));
            assert!(families.iter_mut().all(Family::is_whole));
        }
        assert_eq!(share_files(), shares);
        assert!(views.iter().all(|view| view.with(|bytes| bytes == BYTES) == Ok(true)));
    });
}

#[test]
fn a_child_that_shares_memory_does_not_change_its_parents_keys() {
    case("a_child_that_shares_memory_does_not_change_its_parents_keys").run(|| {
        let mut families = families();
        let replicas: Vec<_> = families.iter().map(|family| family.vault.status().replicas).collect();
        let shares = share_files();
        for flags in [libc::CLONE_VM, libc::CLONE_VM | libc::CLONE_FILES, libc::CLONE_VM | libc::CLONE_VFORK]
        {
            assert_eq!(change_keys_in_shared_memory(&families, flags), (0, 0), "{flags:#x}");
            assert!(families.iter_mut().all(Family::is_whole));
            let now: Vec<_> = families.iter().map(|family| family.vault.status().replicas).collect();
            assert_eq!((now, share_files()), (replicas.clone(), shares.clone()));
        }
        // And of vfork(2) itself, with a program.
        let before = listed(forked);
        let pid = vforked();
        if pid == 0 {
            // SAFETY: as in `listed`.
            unsafe {
                libc::execlp(c"true".as_ptr(), c"true".as_ptr(), std::ptr::null::<i8>());
                libc::_exit(9);
            }
        }
        assert_eq!(wait_for(pid), 0);
        assert_eq!(listed(forked), before);
        for family in &mut families {
            assert!(family.is_whole());
            family.vault.refresh().unwrap();
            assert!(family.is_whole());
        }
    });
}

#[test]
fn a_child_that_nobody_was_told_of_has_nothing() {
    case("a_child_that_nobody_was_told_of_has_nothing").run(|| {
        let mut families = families();
        // SAFETY: as fork(3), by a raw call; the child ends below, by `_exit`.
        let pid = unsafe { raw_clone(libc::SIGCHLD) };
        if pid == 0 {
            let wrong: Vec<_> = families.iter_mut().flat_map(Family::not_refused).collect();
            if !wrong.is_empty() {
                eprintln!("{wrong:#?}");
            }
            let right = wrong.is_empty() && own_vaults_work() && in_child(own_vaults_work) == 0;
            drop(families);
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!right)) };
        }
        assert_eq!(wait_for(pid), 0);
        assert!(families.iter_mut().all(Family::is_whole));
    });
}

/// Forks twice, as daemons do; its words come through a pipe.
#[test]
fn a_daemon_that_forks_twice() {
    case("a_daemon_that_forks_twice").run(|| {
        let mut families = families();
        let _faults = fault::install(FaultPolicy::Abort).unwrap();
        let (from, to) = pipe();
        let pid = forked();
        if pid == 0 {
            let own = Vault::builder().build().unwrap().secret().from_bytes(&mut BYTES.to_vec()).unwrap();
            let parent = std::process::id() as i32;
            // SAFETY: a session of its own.
            unsafe { libc::setsid() };
            if forked() != 0 {
                // In order, with whatever is to be done at an exit.
                std::process::exit(3);
            }
            let refused = own.view().err() == Some(Error::Forked)
                && families.iter_mut().all(|family| family.not_refused().is_empty());
            // Its parent has gone, and is wiped.
            // SAFETY: asks for a number.
            while unsafe { libc::getppid() } == parent {
                std::thread::sleep(Duration::from_millis(1));
            }
            let word: &[u8] = if refused && own_vaults_work() { b"daemon" } else { b"wrong" };
            std::fs::File::from(to).write_all(word).unwrap();
            std::process::exit(0);
        }
        drop(to);
        let status = wait_for(pid);
        assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 3));
        let mut word = String::new();
        std::fs::File::from(from).read_to_string(&mut word).unwrap();
        assert_eq!(word, "daemon");
        assert!(families.iter_mut().all(Family::is_whole));
    });
}

#[test]
fn a_server_with_many_children() {
    const CHILDREN: usize = 40;
    case("a_server_with_many_children").deadline(Duration::from_secs(200)).run(|| {
        let mut families = families();
        let own = common::Footprint::now();
        let children: Vec<_> = (0..CHILDREN)
            .map(|child| {
                let pid = forked();
                if pid == 0 {
                    let vault = Vault::builder().build().unwrap();
                    let right = (0..50).all(|round| {
                        let bytes = [child as u8 ^ round; 40];
                        let secret = vault.secret().from_bytes(&mut bytes.to_vec()).unwrap();
                        secret.ct_eq_bytes(&bytes) == Ok(true)
                    });
                    let refused =
                        families.iter().all(|family| family.sealed.view().err() == Some(Error::Forked));
                    std::process::exit(i32::from(!(right && refused)));
                }
                // It goes on meanwhile, and its keys with it.
                families.iter().for_each(|family| family.vault.refresh().unwrap());
                assert!(families.iter_mut().all(Family::is_whole));
                pid
            })
            .collect();
        for pid in children {
            assert_eq!(wait_for(pid), 0);
        }
        for family in &mut families {
            family.vault.finish_refresh(Duration::from_secs(60)).unwrap();
            assert!(family.is_whole());
        }
        assert_eq!(common::Footprint::now().descriptors(), own.descriptors());
    });
}

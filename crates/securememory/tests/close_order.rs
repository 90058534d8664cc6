//! In which order a vault's end destroys and gives back: keys, shares, regions, descriptors.
#![cfg(unix)]
#![allow(unsafe_code, clippy::unwrap_used, reason = "asks for the sizes of files by their numbers")]

mod common;

use std::sync::Mutex;
use std::time::Duration;

use common::shares::{Anchor, split};
use common::{Footprint, case};
use securememory::testing::inject;
use securememory::{Call, Secret, Store};

/// What is watched: the page with the shares, as long as it is mapped, and the files.
static WATCHED: Mutex<Option<(Anchor, Vec<i32>)>> = Mutex::new(None);
/// The calls that are of interest, and what was gone before each: the shares in memory, and those in the files.
static SEEN: Mutex<Vec<(Call, bool, bool)>> = Mutex::new(Vec::new());

fn see(call: Call) {
    if !matches!(call, Call::Ftruncate | Call::Munmap | Call::Close) {
        return;
    }
    let watched = WATCHED.lock().unwrap();
    let Some((page, files)) = &*watched else { return };
    let in_memory = page.shares_of_all_keys().iter().all(|share| share == &[0; 64]);
    let in_files = files.iter().all(|&file| is_empty(file));
    SEEN.lock().unwrap().push((call, in_memory, in_files));
}

fn is_empty(file: i32) -> bool {
    let mut found = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: writes one structure that lives over the call, and says whether it did.
    unsafe { libc::fstat(file, found.as_mut_ptr()) != 0 || found.assume_init().st_size == 0 }
}

fn places(seen: &[(Call, bool, bool)], call: Call) -> (usize, usize) {
    let at = |(place, &(seen, ..)): (usize, &(Call, bool, bool))| (seen == call).then_some(place);
    let found: Vec<usize> = seen.iter().enumerate().filter_map(at).collect();
    (*found.first().unwrap(), *found.last().unwrap())
}

fn assert_in_order(seen: &[(Call, bool, bool)]) {
    let (first_cut, last_cut) = places(seen, Call::Ftruncate);
    let (first_unmapped, last_unmapped) = places(seen, Call::Munmap);
    let (first_closed, _) = places(seen, Call::Close);
    assert!(seen[first_cut].1, "shares in memory before those in files: {seen:?}");
    assert!(last_cut < first_unmapped && seen[first_unmapped].2, "shares before regions: {seen:?}");
    assert!(last_unmapped < first_closed, "regions before descriptors: {seen:?}");
}

fn run(end: impl FnOnce(securememory::Vault, Vec<Secret>)) -> Vec<(Call, bool, bool)> {
    let before = Footprint::now();
    let (vault, files) = split();
    let mut secrets = Vec::new();
    for store in [Store::Sealed, Store::Paged] {
        secrets.push(vault.secret().store(store).random(16).unwrap());
        secrets.push(vault.secret().store(store).random(100_000).unwrap());
    }
    // So many that they are not all moved to the next key by what is made after it.
    secrets.extend((0..60).map(|_| vault.secret().store(Store::Sealed).random(16).unwrap()));
    vault.refresh().unwrap();
    secrets.push(vault.secret().random(16).unwrap());
    assert!(secrets.iter().all(|secret| secret.view().is_ok()));
    let all = common::share_files();
    assert!(all.len() > files.len(), "files of two keys");
    *WATCHED.lock().unwrap() = Some((Anchor::find(), all));
    inject::observe(see);
    end(vault, secrets);
    *WATCHED.lock().unwrap() = None;
    before.assert_same("after the end");
    SEEN.lock().unwrap().clone()
}

#[test]
fn a_close_goes_from_keys_to_descriptors() {
    case("a_close_goes_from_keys_to_descriptors").run(|| {
        let seen = run(|vault, secrets| {
            assert!(vault.close(Duration::ZERO).unwrap().is_complete());
            *WATCHED.lock().unwrap() = None;
            drop((vault, secrets));
        });
        assert_in_order(&seen);
    });
}

#[test]
fn so_does_the_end_of_the_last_secret() {
    case("so_does_the_end_of_the_last_secret").run(|| {
        let mut seen = run(|vault, mut secrets| {
            // The pages of secrets end with these.
            let last = secrets.remove(0);
            drop((vault, secrets));
            SEEN.lock().unwrap().clear();
            drop(last);
        });
        // The page with the alive mark is the very last.
        assert_eq!(seen.pop().map(|(call, ..)| call), Some(Call::Munmap), "{seen:?}");
        assert_in_order(&seen);
    });
}

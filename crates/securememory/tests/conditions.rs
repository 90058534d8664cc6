//! What the library says of itself and what it does, in the conditions that the process finds itself in: limits, filters,
//! namespaces. `lab/conditions` sets them, runs this, and makes docs/CONDITIONS.md of what it prints.
//!
//! SECUREMEMORY_CONDITIONS: print a line of JSON for each kind of vault. SECUREMEMORY_CONDITIONS_PAUSE: after each, wait for
//! a line of input while the vault is there, so that others can look at the process. SECUREMEMORY_CONDITIONS_PRESS: a
//! condition that the process first brings upon itself, see conditions/press.rs.
#![cfg(target_os = "linux")]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests end by panics; they fork, and look at memory by system calls"
)]

mod common;
#[path = "conditions/look.rs"]
mod look;
#[path = "conditions/press.rs"]
mod press;
#[path = "conditions/round.rs"]
mod round;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
#[path = "conditions/later.rs"]
mod later;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
#[path = "common/refuse.rs"]
mod refuse;

use std::io::Write;

use common::case;
use round::{KINDS, POLICIES, Row};
use securememory::Secret;

#[test]
fn what_is_said_is_what_is_done() {
    case("what_is_said_is_what_is_done").run(|| {
        let variable = |name: &str| std::env::var(format!("SECUREMEMORY_CONDITIONS{name}")).ok();
        let (print, pause) = (variable("").is_some(), variable("_PAUSE").is_some());
        let reader = look::Reader::new().expect("a pipe");
        let pressed = variable("_PRESS").map(|what| {
            press::press(&what).unwrap_or_else(|why| common::skip(&format!("no such condition here: {why}")))
        });
        let tell = |row: &Row, secret: Option<&Secret>| {
            let place = secret.and_then(|secret| secret.status().at_rest);
            let mut out = std::io::stdout().lock();
            let (address, len) = place.map_or((0, 0), |place| (place.address, place.len));
            let _ = writeln!(out, "@look {{\"address\":{address},\"len\":{len},\"row\":{}}}", row.line());
            let _ = out.flush();
            let _ = std::io::stdin().read_line(&mut String::with_capacity(16));
        };
        let mut wrong = Vec::new();
        for kind in KINDS {
            for policy in POLICIES {
                let row = round::of(kind, policy, &reader, &|row, secret| {
                    if pause {
                        tell(row, Some(secret));
                    }
                });
                if print {
                    println!("@row {}", row.line());
                }
                if !row.differ.is_empty() {
                    wrong.push(row.line());
                }
            }
        }
        drop(pressed);
        assert!(wrong.is_empty(), "what was said and what was done differ:\n{}", wrong.join("\n"));
    });
}

/// Filters that come later: each call alone, refused in the two ways that there are, and all of them together.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
mod filters_that_come_later {
    use super::*;

    macro_rules! later {
        ($($name:ident: $wanted:literal;)*) => {$(
            #[test]
            fn $name() {
                case(concat!("filters_that_come_later::", stringify!($name))).run(|| later::under($wanted));
            }
        )*};
    }

    later! {
        memfd_create_eperm: "memfd_create:EPERM";
        memfd_create_enosys: "memfd_create:ENOSYS";
        memfd_secret_eperm: "memfd_secret:EPERM";
        memfd_secret_enosys: "memfd_secret:ENOSYS";
        mlock_eperm: "mlock,mlock2:EPERM";
        mlock_enosys: "mlock,mlock2:ENOSYS";
        madvise_eperm: "madvise:EPERM";
        madvise_enosys: "madvise:ENOSYS";
        pkey_alloc_eperm: "pkey_alloc:EPERM";
        pkey_alloc_enosys: "pkey_alloc:ENOSYS";
        getrandom_eperm: "getrandom:EPERM";
        getrandom_enosys: "getrandom:ENOSYS";
        wipe_on_fork_einval: "wipe_on_fork:EINVAL";
        all_eperm: "memfd_create,memfd_secret,mlock,mlock2,madvise,pkey_alloc:EPERM";
        all_enosys: "memfd_create,memfd_secret,mlock,mlock2,madvise,pkey_alloc:ENOSYS";
    }
}

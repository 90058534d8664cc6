//! The library's own bounds, and what nobody can have: a clear error at once, nothing leaks, nothing is lost. Each case runs in a
//! process of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests end by panics")]

#[cfg_attr(windows, path = "common/windows.rs")]
mod common;

use std::io::{self, Read};
use std::time::{Duration, Instant};

use common::stores::{builders, use_fully, warm_up};
use common::{Footprint, Needle, case, cpu_time, page_size};
use securememory::testing::errno;
use securememory::{Call, CallError, Closed, Error, ErrorKind, Hold, Level, OwnedView, Policy, Vault, View};

/// Views of a vault by default; not a page size.
const VIEWS: usize = 4096;

/// All addresses of a process on x86-64, or half of those that 32 bits can name.
fn all_addresses() -> usize {
    (if usize::BITS == 64 { 1_u64 << 47 } else { 1 << 31 }) as usize
}

/// Gives `give` bytes of the needle, then ends, fails, or panics.
struct Faltering<'a> {
    needle: &'a Needle,
    given: usize,
    give: usize,
    end: End,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Early,
    Fails(io::ErrorKind),
    Panics,
    Lies,
}

impl Read for Faltering<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        // In pieces, of which some end inside a word.
        let n = room.len().min(1 + self.given % 13).min(self.give - self.given);
        if n == 0 {
            return match self.end {
                End::Early => Ok(0),
                End::Fails(kind) => Err(kind.into()),
                End::Panics => panic!("as planned"),
                End::Lies => {
                    self.needle.write(room, self.given);
                    Ok(usize::MAX)
                }
            };
        }
        self.needle.write(&mut room[..n], self.given);
        self.given += n;
        Ok(n)
    }
}

/// Interrupted at every other call.
struct Interrupted<'a>(&'a [u8], bool);

impl Read for Interrupted<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 { Err(io::ErrorKind::Interrupted.into()) } else { self.0.read(&mut room[..1]) }
    }
}

#[test]
fn a_reader_that_falters() {
    case("a_reader_that_falters").run(|| {
        std::panic::set_hook(Box::new(|info| {
            if !info.to_string().contains("as planned") {
                eprintln!("{info}");
            }
        }));
        warm_up();
        let before = Footprint::now();
        let mut seed = 1000;
        for (name, builder) in builders() {
            let vault = builder.build().unwrap();
            let interrupted = vault.secret().read_from(&mut Interrupted(b"bit by bit", false), 10).unwrap();
            assert!(interrupted.ct_eq_bytes(b"bit by bit").unwrap());
            let ends = [
                End::Early,
                End::Fails(io::ErrorKind::BrokenPipe),
                End::Fails(io::ErrorKind::UnexpectedEof),
                End::Panics,
            ];
            for end in ends {
                for (give, len) in [(0usize, 32usize), (31, 32), (5000, 9000)] {
                    seed += 1;
                    let needle = Needle::new(seed, len.next_multiple_of(8));
                    let mut reader = Faltering { needle: &needle, given: 0, give, end };
                    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        vault.secret().read_from(&mut reader, len)
                    }));
                    match (end, outcome) {
                        (End::Early, Ok(Err(error))) => {
                            assert_eq!(error, Error::EndedEarly { expected: len, got: give });
                            assert!(error.to_string().contains(&format!("{give} of {len} bytes")));
                        }
                        (End::Fails(kind), Ok(Err(error))) => {
                            assert_eq!(error, Error::Reader { kind, got: give }, "{name}");
                            assert_eq!(error.kind(), ErrorKind::System);
                        }
                        (End::Panics, Err(_)) => {}
                        (end, outcome) => panic!("{name} {end:?} {give}: {outcome:?}"),
                    }
                    if give >= 8 {
                        assert_eq!(needle.find(), Vec::<String>::new(), "{name} {end:?} {give} of {len}");
                    }
                    assert_eq!(vault.status().secrets, 1, "{name} {end:?}");
                }
            }
            // Said to have read more than there was room for: taken for as much as there was.
            let needle = Needle::new(7, 64);
            let mut liar = Faltering { needle: &needle, given: 0, give: 30, end: End::Lies };
            let secret = vault.secret().read_from(&mut liar, 64).unwrap();
            assert!(secret.with(|bytes| needle.is(bytes)).unwrap());
            // The search finds what is there: with a view open it lies in scratch, or in open pages.
            let view = secret.view().unwrap();
            assert!(!needle.find().is_empty(), "{name}");
            view.finish().unwrap();
            assert_eq!(secret.close(), Ok(Closed::Closed));
            assert_eq!(needle.find(), Vec::<String>::new(), "{name} after a close");
            use_fully(name, &vault);
            drop((interrupted, secret, vault));
            before.assert_same(name);
        }
    });
}

#[test]
fn sizes_that_cannot_be() {
    case("sizes_that_cannot_be").run(|| {
        warm_up();
        let before = Footprint::now();
        for (name, builder) in builders() {
            let vault = builder.build().unwrap();
            let small = vault.secret().random(8).unwrap();
            let most = all_addresses();
            // In 32 bits half of what a pointer reaches may be had.
            let half = if usize::BITS == 64 { isize::MAX as usize / 2 } else { isize::MAX as usize };
            let sizes = [
                usize::MAX,
                usize::MAX - 1,
                usize::MAX - page_size(),
                usize::MAX - 2 * page_size(),
                usize::MAX / 2,
                usize::MAX / 2 + 1,
                isize::MAX as usize - 3 * page_size(),
                half,
                half - 8,
                most,
                most - page_size(),
                most + 1,
                if usize::BITS == 64 { most << 9 } else { usize::MAX / 4 * 3 },
            ];
            for len in sizes {
                for align in [1, 16, page_size()] {
                    let make = || vault.secret().align(align);
                    let mut ran = false;
                    let outcomes = [
                        make().random(len).map(drop),
                        make().init_with(len, |_| ran = true).map(drop),
                        make().read_from(&mut io::repeat(7), len).map(drop),
                        small.derive(len, |_, _| panic!("called")).map(drop),
                    ];
                    assert!(!ran, "{name} {len}");
                    for outcome in outcomes {
                        match outcome.unwrap_err() {
                            Error::TooLarge { .. } | Error::OutOfMemory { .. } => {}
                            // On s390x there is so much address space that it is the access that is refused.
                            Error::System(CallError {
                                call: Call::Mmap | Call::Mprotect,
                                errno: errno::ENOMEM,
                            }) => {}
                            other => panic!("{name} {len:#x} {align}: {other:?}"),
                        }
                    }
                }
            }
            let empty = [
                vault.secret().random(0).map(drop),
                vault.secret().init_with(0, |_| panic!("called")).map(drop),
                vault.secret().from_bytes(&mut []).map(drop),
                vault.secret().from_vec(Vec::with_capacity(9)).map(drop).map_err(Error::from),
                vault.secret().from_string(String::new()).map(drop).map_err(Error::from),
                vault.secret().read_from(&mut io::repeat(7), 0).map(drop),
                small.derive(0, |_, _| panic!("called")).map(drop),
            ];
            for outcome in empty {
                let error = outcome.unwrap_err();
                assert_eq!(error, Error::Empty, "{name}");
                assert_eq!((error.kind(), error.hint()), (ErrorKind::Usage, None));
            }
            assert_eq!(vault.status().secrets, 1, "{name}");
            use_fully(name, &vault);
            drop((small, vault));
            before.assert_same(name);
        }
        // Limits of a vault that cannot be.
        for views in [0, usize::MAX, usize::MAX / 128, all_addresses()] {
            let error = Vault::builder().views_max(views).build().unwrap_err();
            assert!(
                matches!(
                    error,
                    Error::ScratchExhausted { limit: 0 } | Error::TooLarge { .. } | Error::OutOfMemory { .. }
                ),
                "{views}: {error:?}"
            );
            before.assert_same(views);
        }
    });
}

#[test]
fn arguments_that_cannot_be() {
    case("arguments_that_cannot_be").run(|| {
        warm_up();
        let before = Footprint::now();
        for (name, builder) in builders() {
            let vault = builder.build().unwrap();
            for align in [0, 3, 24, page_size() + 1, 2 * page_size(), usize::MAX, !(usize::MAX >> 1)] {
                let mut source = [5; 3];
                let error = vault.secret().align(align).from_bytes(&mut source).unwrap_err();
                assert_eq!(error, Error::BadAlignment { align, limit: page_size() }, "{name}");
                assert_eq!((error.kind(), source), (ErrorKind::Usage, [5; 3]));
            }
            for align in (0..=12).map(|bits| 1usize << bits) {
                for len in [1, 17, page_size() - 31, page_size(), page_size() + 1] {
                    let secret = vault.secret().align(align).init_with(len, |room| room.fill(9)).unwrap();
                    let view = secret.view().unwrap();
                    assert_eq!(view.as_ptr().addr() % align, 0, "{name} {align}");
                    assert!(view.iter().all(|&byte| byte == 9));
                    view.finish().unwrap();
                    let mut change = secret.view_mut().unwrap();
                    assert_eq!(change.as_ptr().addr() % align, 0, "{name} {align}");
                    change.fill(8);
                    change.commit().unwrap();
                    let owned = secret.owned_view().unwrap();
                    owned
                        .with(|bytes| {
                            assert_eq!(bytes.as_ptr().addr() % align, 0, "{name} {align}");
                            assert!(bytes.iter().all(|&byte| byte == 8));
                        })
                        .unwrap();
                }
            }
            for len in [256usize, 257, 100_000] {
                let mut source = [5; 3];
                let error = vault.secret().label("x".repeat(len)).from_bytes(&mut source).unwrap_err();
                assert_eq!(error, Error::LabelTooLong { len, limit: 255 }, "{name}");
                assert_eq!((error.kind(), source), (ErrorKind::Usage, [5; 3]));
            }
            // Bytes count, not characters.
            let error = vault.secret().label("ß".repeat(128)).random(1).unwrap_err();
            assert_eq!(error, Error::LabelTooLong { len: 256, limit: 255 });
            let label = "x".repeat(255);
            let secret = vault.secret().label(label.clone()).random(1).unwrap();
            assert_eq!(secret.label(), Some(&*label));
            assert_eq!(vault.status().secrets, 1);
            drop((secret, vault));
            before.assert_same(name);
        }
        let inheriting = Vault::builder().policy(Policy::new().fork(Level::Off)).hold(Hold::Secretmem);
        assert!(matches!(inheriting.build().unwrap_err(), Error::Unsupported(_)));
        before.assert_same("in the end");
    });
}

const NESTED: usize = 10_000;

#[test]
fn ten_thousand_views() {
    case("ten_thousand_views").run(|| {
        warm_up();
        let before = Footprint::now();
        for (name, builder) in builders() {
            let vault = builder.build().unwrap();
            let secret = vault.secret().from_bytes(&mut b"seen by many".to_vec()).unwrap();
            let other = vault.secret().from_bytes(&mut b"another one".to_vec()).unwrap();
            let started = cpu_time();
            let mut views: Vec<View<'_>> = Vec::new();
            for _ in 0..NESTED {
                match secret.view() {
                    Ok(view) => views.push(view),
                    Err(error) => {
                        assert_eq!(error, Error::ScratchExhausted { limit: VIEWS }, "{name}");
                        break;
                    }
                }
            }
            // Of a paged secret, a thread's first view is not counted.
            let most = if name == "paged" { VIEWS + 1 } else { VIEWS };
            assert_eq!(views.len(), most, "{name}");
            let refused = Instant::now();
            for _ in 0..10 {
                let exhausted = Error::ScratchExhausted { limit: VIEWS };
                assert_eq!(other.view().unwrap_err(), exhausted, "{name}");
                if name != "paged" {
                    // A copy needs a place in scratch, of which a paged secret's views take none.
                    assert_eq!(other.owned_view().unwrap_err(), exhausted, "{name}");
                    let mut source = *b"untouched";
                    assert_eq!(vault.secret().from_bytes(&mut source).unwrap_err(), exhausted, "{name}");
                    assert_eq!(source, *b"untouched");
                }
                assert_eq!(other.view_mut().unwrap_err(), exhausted, "{name}");
            }
            assert!(refused.elapsed() < Duration::from_secs(1), "{name}: {:?}", refused.elapsed());
            let status = secret.status();
            assert_eq!(status.open_views, most, "{name}");
            assert!(!status.closed && !status.stuck_open);
            assert!(views.iter().all(|view| **view == *b"seen by many"), "{name}");
            // Each on its own, in any order.
            let middle = views.split_off(2048);
            drop(views);
            assert!(other.ct_eq_bytes(b"another one").unwrap(), "{name}");
            assert!(middle.iter().all(|view| **view == *b"seen by many"), "{name}");
            for view in middle {
                view.finish().unwrap();
            }
            assert_eq!(secret.status().open_views, 0, "{name}");
            let used = cpu_time() - started;
            assert!(used < Duration::from_secs(5), "{name}: {used:?}");
            use_fully(name, &vault);
            assert_eq!(secret.close(), Ok(Closed::Closed));
            drop((secret, other, vault));
            before.assert_same(name);
        }
    });
}

#[test]
fn ten_thousand_owned_views() {
    case("ten_thousand_owned_views").run(|| {
        warm_up();
        let before = Footprint::now();
        for (name, builder) in builders() {
            let vault = builder.views_max(500).build().unwrap();
            let secret = vault.secret().from_bytes(&mut b"seen by many".to_vec()).unwrap();
            let mut views = Vec::new();
            let started = cpu_time();
            let mut refused = 0;
            for _ in 0..NESTED {
                match secret.owned_view() {
                    Ok(view) => views.push(view),
                    Err(error) => {
                        assert_eq!(error, Error::ScratchExhausted { limit: 500 }, "{name}");
                        refused += 1;
                    }
                }
            }
            assert_eq!((views.len(), refused), (500, NESTED - 500), "{name}");
            let used = cpu_time() - started;
            assert!(used < Duration::from_secs(5), "{name}: {used:?}");
            assert_eq!(secret.status().open_views, 500, "{name}");
            // They go to other threads and outlive the secret.
            let late = Duration::from_millis(5);
            assert!(
                matches!(secret.close_timeout(late), Ok(Closed::Deferred { views }) if views.views() == 500)
            );
            drop(secret);
            let parts: Vec<&[OwnedView]> = views.chunks(250).collect();
            common::in_threads(&parts, |part| {
                assert!(part.iter().all(|view| view.with(|bytes| bytes == b"seen by many").unwrap()));
            });
            views.clear();
            use_fully(name, &vault);
            assert_eq!(vault.status().secrets, 0, "{name}");
            drop((views, vault));
            before.assert_same(name);
        }
    });
}

#[test]
fn more_vaults_than_there_can_be() {
    case("more_vaults_than_there_can_be").run(|| {
        warm_up();
        let small = || {
            Vault::builder()
                .hold(Hold::Guarded)
                .views_max(1)
                .locked_max(0)
                .policy(Policy::new().lock(Level::Off))
        };
        let fill = || {
            let mut vaults = Vec::new();
            loop {
                match small().build() {
                    Ok(vault) => vaults.push(vault),
                    Err(error) => break (vaults, error),
                }
                assert!(vaults.len() <= 5000);
            }
        };
        // The tables of what is ours never shrink: a signal handler may be walking them.
        drop(fill());
        let before = Footprint::now();
        let (mut vaults, error) = fill();
        assert_eq!(error, Error::TooManyVaults { limit: vaults.len() });
        assert_eq!(error.kind(), ErrorKind::Limit);
        // Refused without a trace, also of large tables.
        let full = Footprint::now();
        for _ in 0..5 {
            assert_eq!(small().views_max(10_000).build().unwrap_err(), error);
        }
        assert_eq!(Vault::builder().views_max(10_000).build().unwrap_err(), error);
        full.assert_same("after refused vaults");
        assert!(vaults.iter().step_by(100).all(|vault| vault.secret().random(8).is_ok()));
        vaults.pop();
        use_fully("one more", &Vault::builder().build().unwrap());
        drop(vaults);
        before.assert_same("in the end");
    });
}

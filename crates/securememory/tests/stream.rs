//! `SecretStream`: what was written is read, nothing else is, and no more than a chunk of it lies open.
#![cfg(any(target_os = "linux", windows))]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests end by panics, damage memory and fork by raw calls"
)]

#[cfg_attr(windows, path = "common/windows.rs")]
mod common;

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
#[cfg(unix)]
use std::time::Duration;

use common::{Footprint, Needle, case};
use proptest::prelude::*;
use securememory::testing::inject::{self, Plan};
use securememory::testing::{TestGuard, errno};
use securememory::{AtRest, Call, Error, Level, Policy, SecretStream, Store, Vault, WithError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

fn vault() -> Vault {
    Vault::builder().build().unwrap()
}

/// Byte `at` of what the tests write.
fn byte(at: usize) -> u8 {
    (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[7]
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(byte).collect()
}

/// A complete stream with chunks of ten bytes.
fn written(vault: &Vault, len: usize) -> SecretStream {
    let mut stream = vault.stream().chunk_size(10).build().unwrap();
    stream.write_all(&bytes(len)).unwrap();
    stream.finish().unwrap();
    stream
}

fn ours(error: &io::Error) -> Error {
    *error.get_ref().unwrap().downcast_ref::<Error>().unwrap()
}

/// Reads from the start: what could be read, and the error that ended it.
fn read(stream: &mut SecretStream) -> (Vec<u8>, Option<Error>) {
    stream.rewind().unwrap();
    let mut got = Vec::new();
    let error = stream.read_to_end(&mut got).err();
    (got, error.as_ref().map(ours))
}

// --- what is written is read -------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Step {
    Write(usize),
    Read(usize),
    ReadChunk,
    Rewind,
    Finish,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let writes = proptest::collection::vec((0usize..80).prop_map(Step::Write), 0..12);
    let step = prop_oneof![
        1 => (0usize..20).prop_map(Step::Write),
        6 => (0usize..90).prop_map(Step::Read),
        3 => Just(Step::ReadChunk),
        1 => Just(Step::Rewind),
        1 => Just(Step::Finish),
    ];
    (writes, proptest::collection::vec(step, 1..25)).prop_map(|(mut all, rest)| {
        all.extend(rest);
        all
    })
}

proptest! {
    #[test]
    fn a_stream_is_like_a_vector(chunk in 1usize..70, steps in steps()) {
        let _guard = TestGuard::new();
        let vault = vault();
        let mut stream = vault.stream().chunk_size(chunk).build().unwrap();
        let (mut model, mut at, mut complete): (Vec<u8>, usize, bool) = (Vec::new(), 0, false);
        for step in steps {
            match step {
                Step::Write(_) if complete => {
                    let error = stream.write(b"more").unwrap_err();
                    prop_assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
                    prop_assert_eq!(ours(&error), Error::Complete);
                }
                Step::Write(len) => {
                    let piece: Vec<u8> = (model.len()..model.len() + len).map(byte).collect();
                    let taken = stream.write(&piece).unwrap();
                    prop_assert!(taken <= len && (taken > 0 || len == 0));
                    model.extend(&piece[..taken]);
                }
                Step::Read(len) => {
                    complete = true;
                    let mut room = vec![0; len];
                    let got = stream.read(&mut room).unwrap();
                    prop_assert_eq!(&room[..got], &model[at..at + got]);
                    prop_assert!(got > 0 || len == 0 || at == model.len());
                    at += got;
                }
                Step::ReadChunk => {
                    complete = true;
                    let lent = stream.read_chunk(<[u8]>::to_vec).unwrap();
                    prop_assert_eq!(lent.is_none(), at == model.len());
                    let lent = lent.unwrap_or_default();
                    prop_assert_eq!(&lent[..], &model[at..at + lent.len()]);
                    at += lent.len();
                    prop_assert!(at == model.len() || at % chunk == 0, "to the end of the chunk");
                }
                Step::Rewind => {
                    (complete, at) = (true, 0);
                    stream.rewind().unwrap();
                }
                Step::Finish => {
                    complete = true;
                    stream.finish().unwrap();
                }
            }
            prop_assert_eq!(stream.len(), model.len() as u64);
            prop_assert_eq!(stream.is_empty(), model.is_empty());
            if complete {
                prop_assert_eq!(stream.chunks(), model.len().div_ceil(chunk).max(1));
            }
        }
        stream.rewind().unwrap();
        let mut all = Vec::<u8>::new();
        stream.for_each_chunk(|bytes| all.extend(bytes)).unwrap();
        prop_assert_eq!(&all, &model);
        prop_assert_eq!(read(&mut stream), (model, None));
    }
}

#[test]
fn sizes_of_chunks_are_checked() {
    let _guard = TestGuard::new();
    let vault = vault();
    assert_eq!(vault.stream().chunk_size(0).build().unwrap_err(), Error::Empty);
    let huge = vault.stream().chunk_size(usize::MAX - 5).build().unwrap_err();
    assert!(matches!(huge, Error::TooLarge { .. }), "{huge:?}");
    assert_eq!(SecretStream::new().unwrap().chunk_size(), 16 * 1024 - 256);
}

#[test]
fn a_stream_is_sealed_whatever_the_store_and_goes_to_other_threads() {
    let _guard = TestGuard::new();
    let vault = Vault::builder().store(Store::Paged).build().unwrap();
    let mut stream = vault.stream().chunk_size(10).build().unwrap();
    stream.write_all(&bytes(15)).unwrap();
    let mut stream = std::thread::spawn(move || {
        stream.write_all(&bytes(25)[15..]).unwrap();
        let mut room = [0; 13];
        stream.read_exact(&mut room).unwrap();
        assert_eq!(room[..], bytes(13));
        stream
    })
    .join()
    .unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, bytes(25)[13..]);
    assert!(vault.diagnostics().views.is_empty());
}

#[test]
fn a_panic_of_the_closure_leaves_the_stream_where_it_was() {
    let _guard = TestGuard::new();
    let mut stream = written(&vault(), 25);
    stream.read_chunk(|_| ()).unwrap();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = stream.read_chunk(|_| panic!("of the closure"));
    }));
    assert!(caught.is_err());
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, bytes(25)[10..]);
}

#[test]
fn the_traits_of_tokio_are_always_ready() {
    let _guard = TestGuard::new();
    fn ready<T>(poll: Poll<io::Result<T>>) -> T {
        let Poll::Ready(result) = poll else { panic!("not ready") };
        result.unwrap()
    }
    let mut stream = vault().stream().chunk_size(10).build().unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let all = bytes(34);
    let mut given = 0;
    while given < all.len() {
        given += ready(Pin::new(&mut stream).poll_write(&mut context, &all[given..]));
        ready(Pin::new(&mut stream).poll_flush(&mut context));
    }
    ready(Pin::new(&mut stream).poll_shutdown(&mut context));
    let refused = Pin::new(&mut stream).poll_write(&mut context, &all);
    assert!(matches!(refused, Poll::Ready(Err(error)) if ours(&error) == Error::Complete));
    let mut got = Vec::<u8>::new();
    loop {
        let mut room = [0; 7];
        let mut room = ReadBuf::new(&mut room);
        ready(Pin::new(&mut stream).poll_read(&mut context, &mut room));
        if room.filled().is_empty() {
            break;
        }
        got.extend(room.filled());
    }
    assert_eq!(got, all);
}

// --- what someone changed is not ---------------------------------------------------------------------------

#[test]
fn chunks_in_another_order_are_noticed() {
    let _guard = TestGuard::new();
    for (one, other) in [(0, 1), (1, 2), (2, 4), (3, 4)] {
        let mut stream = written(&vault(), 45);
        stream.swap_chunks(one, other);
        let (got, error) = read(&mut stream);
        assert_eq!(error, Some(Error::Tampered), "{one} and {other}");
        assert_eq!(got, bytes(10 * one), "what came before");
    }
}

#[test]
fn chunks_of_another_stream_are_noticed() {
    let _guard = TestGuard::new();
    let vault = vault();
    // Also those at the same place, with the same bytes; and of another vault.
    for other in [&vault, &self::vault()] {
        for len in [50, 45, 0] {
            let (mut stream, mut other) = (written(&vault, len), written(other, len));
            let last = stream.chunks() - 1;
            stream.exchange_chunk(last, &mut other, last);
            assert_eq!(read(&mut stream), (bytes(10 * last), Some(Error::Tampered)));
            assert_eq!(read(&mut other), (bytes(10 * last), Some(Error::Tampered)));
        }
    }
}

#[test]
fn chunks_of_the_same_stream_of_another_vault_are_noticed() {
    let _guard = TestGuard::new();
    // Ids are unique in a vault: these have the same.
    let (mut stream, mut other) = (written(&vault(), 25), written(&vault(), 25));
    stream.exchange_chunk(1, &mut other, 1);
    assert_eq!(read(&mut stream), (bytes(10), Some(Error::Tampered)));
    assert_eq!(read(&mut other), (bytes(10), Some(Error::Tampered)));
}

#[test]
fn a_missing_chunk_is_noticed() {
    let _guard = TestGuard::new();
    for chunk in 0..4 {
        let mut stream = written(&vault(), 45);
        stream.drop_chunk(chunk);
        assert_eq!(read(&mut stream), (bytes(10 * chunk), Some(Error::Tampered)), "{chunk}");
    }
}

#[test]
fn a_missing_end_is_noticed() {
    let _guard = TestGuard::new();
    for len in [41, 45, 50] {
        for chunks in 0..5u64 {
            let mut stream = written(&vault(), len);
            stream.truncate(chunks as usize);
            let (got, error) = read(&mut stream);
            assert_eq!(error, Some(Error::Truncated { chunks }));
            assert_eq!(
                got,
                bytes(10 * (chunks as usize).saturating_sub(1)),
                "the last of what is there is not shown"
            );
        }
    }
    // While it is read, too: when the chunk before was opened, there was more to come.
    let mut stream = written(&vault(), 45);
    stream.read_chunk(|_| ()).unwrap();
    stream.read_chunk(|_| ()).unwrap();
    stream.truncate(2);
    let cut = Error::Truncated { chunks: 2 };
    assert_eq!(stream.read_chunk(|_| panic!("shown")).unwrap_err(), WithError::<Option<()>>::NotRun(cut));
    assert_eq!(stream.read(&mut [0; 5]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_stream_cannot_be_made_to_look_empty() {
    let _guard = TestGuard::new();
    for len in [1, 10, 25] {
        let mut stream = written(&vault(), len);
        stream.set_len(0);
        assert_eq!(read(&mut stream), (Vec::new(), Some(Error::Tampered)));
        stream.truncate(0);
        assert_eq!(read(&mut stream), (Vec::new(), Some(Error::Truncated { chunks: 0 })));
    }
    let mut empty = written(&vault(), 0);
    assert_eq!(read(&mut empty), (Vec::new(), None));
    // Nor an empty one like one with a byte.
    empty.set_len(1);
    assert_eq!(read(&mut empty), (Vec::new(), Some(Error::Tampered)));
}

#[test]
fn a_mark_that_was_forged_does_not_make_a_chunk_the_last() {
    let _guard = TestGuard::new();
    let mut stream = written(&vault(), 45);
    stream.truncate(3);
    // The mark is a bit of the record's version, which lies two words before the nonce.
    flip(stream.chunk_at_rest(2).unwrap(), -9, 0x40);
    assert_eq!(read(&mut stream), (bytes(20), Some(Error::Truncated { chunks: 3 })));
}

fn flip(place: AtRest, at: i64, bits: u8) {
    let address = (place.address as i64 + at) as usize;
    let byte = common::look(address, 1).unwrap()[0];
    common::poke(address, byte ^ bits);
}

fn at_rest(place: AtRest) -> Vec<u8> {
    common::look(place.address, place.len).unwrap()
}

#[test]
fn a_flipped_bit_is_noticed() {
    let _guard = TestGuard::new();
    let vault = vault();
    for chunk in 0..3 {
        let mut stream = written(&vault, 25);
        let place = stream.chunk_at_rest(chunk).unwrap();
        // Nonce, tag, first and last byte.
        for at in [0, 40, 48, place.len as i64 - 1] {
            flip(place, at, 0x40);
            let (got, error) = read(&mut stream);
            assert_eq!((got, error), (bytes(10 * chunk), Some(Error::Tampered)), "byte {at} of {chunk}");
            flip(place, at, 0x40);
        }
        // The record's version, two words before the nonce, says at which place it belongs, and is not
        // believed.
        for at in [-16, -9] {
            flip(place, at, 0x40);
        }
        assert_eq!(read(&mut stream), (bytes(25), None));
    }
}

// --- how much lies open ------------------------------------------------------------------------------------

/// Mebibytes that go through 64 KiB of lockable memory (16 pages where those are larger); `.ci/long` asks for more.
#[cfg(unix)]
fn mebibytes() -> usize {
    std::env::var("SECUREMEMORY_STREAM_MIB").map_or(64, |text| text.parse().unwrap())
}

#[cfg(unix)] // Windows has no such limit.
#[test]
fn any_length_goes_through_64_kib_of_lockable_memory() {
    let most = common::usual_locked_max() as u64;
    let case = case("any_length_goes_through_64_kib_of_lockable_memory").limit(libc::RLIMIT_MEMLOCK, most);
    case.deadline(Duration::from_secs(600)).run(|| {
        common::become_ordinary_user();
        let vault = vault();
        let mut stream = vault.stream().build().unwrap();
        // Of a size that shares no boundary with the chunks.
        let block = bytes(1_000_003);
        let total = mebibytes() << 20;
        // The kernel's listing grows with the ciphertext, so not after every block; scratch is kept, so no
        // peak is missed.
        let bounded = |when: &str| {
            let status = vault.status();
            assert!(status.locked_bytes as u64 <= most, "{status:?} {when}");
            assert_eq!(status.scratch_unlocked, 0, "{status:?} {when}");
            assert!(common::locked() <= most, "{when}");
        };
        let mut left = total;
        while left > 0 {
            let piece = &block[..block.len().min(left)];
            stream.write_all(piece).unwrap();
            left -= piece.len();
            if (left / block.len()).is_multiple_of(16) {
                bounded("while it is written");
            }
            assert_eq!(vault.diagnostics().views.len(), 1, "one chunk is open");
        }
        stream.finish().unwrap();
        assert!(vault.diagnostics().views.is_empty());
        assert_eq!(stream.len(), total as u64);
        let mut room = vec![0; block.len()];
        left = total;
        while left > 0 {
            let piece = block.len().min(left);
            stream.read_exact(&mut room[..piece]).unwrap();
            assert!(room[..piece] == block[..piece]);
            left -= piece;
            if (left / block.len()).is_multiple_of(16) {
                bounded("while it is read");
            }
            assert!(vault.diagnostics().views.len() <= 1, "one chunk is open");
        }
        assert_eq!(stream.read(&mut room).unwrap(), 0);
        println!("{} chunks, {} bytes locked", stream.chunks(), vault.status().locked_bytes);
    });
}

/// Is the mapping that a place was found in one that a forked child does not get, and a dump does not show?
fn is_scratch(place: &str) -> bool {
    let range = place.split(" in ").nth(1).unwrap().split(' ').next().unwrap();
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut flags = smaps.lines().skip_while(|line| !line.starts_with(range));
    let flags = flags.find(|line| line.starts_with("VmFlags")).unwrap();
    flags.contains(" wf") && flags.contains(" dd")
}

#[test]
fn plaintext_is_in_scratch_and_nowhere_else() {
    case("plaintext_is_in_scratch_and_nowhere_else").run(|| {
        common::need("wipe_on_fork");
        let needle = Needle::new(0x5eed, 1024);
        let vault = vault();
        let mut stream = vault.stream().chunk_size(256).build().unwrap();
        let mut room = [0; 64];
        for from in (0..needle.len()).step_by(room.len()) {
            needle.write(&mut room, from);
            stream.write_all(&room).unwrap();
        }
        room.fill(0);
        std::hint::black_box(&room);
        // Three chunks are sealed, the fourth is full and kept back.
        assert_eq!(stream.chunks(), 3);
        let found = needle.find();
        assert!(!found.is_empty() && found.iter().all(|place| is_scratch(place)), "{found:?}");
        stream.finish().unwrap();
        assert_eq!(needle.find(), [""; 0], "all of it is sealed");
        // What was sealed does not stay beside what follows it.
        let mut other = vault.stream().chunk_size(64).build().unwrap();
        needle.write(&mut room, 0);
        other.write_all(&room).unwrap();
        room.fill(0);
        other.write_all(&[0]).unwrap();
        assert_eq!((other.chunks(), needle.find()), (1, Vec::new()));
        drop(other);
        let mut from = 0;
        while let Some(len) = stream
            .read_chunk(|bytes| {
                let right = bytes.iter().enumerate().all(|(at, &byte)| byte == needle.byte(from + at));
                assert!(right);
                let found = needle.find();
                assert!(!found.is_empty() && found.iter().all(|place| is_scratch(place)), "{found:?}");
                bytes.len()
            })
            .unwrap()
        {
            from += len;
            assert_eq!(needle.find(), [""; 0], "a chunk that was read is wiped");
        }
        assert_eq!(from, needle.len());
        // Half-read, and then left.
        stream.rewind().unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
        assert!(!needle.find().is_empty());
        stream.rewind().unwrap();
        assert_eq!(needle.find(), [""; 0]);
    });
}

// --- ends --------------------------------------------------------------------------------------------------

#[test]
fn a_close_and_a_drop_overwrite_all_of_it() {
    case("a_close_and_a_drop_overwrite_all_of_it").run(|| {
        let needle = Needle::new(0xd00d, 512);
        let vault = vault();
        for close in [true, false] {
            let mut stream = vault.stream().chunk_size(100).build().unwrap();
            let mut room = [0; 512];
            needle.write(&mut room, 0);
            stream.write_all(&room).unwrap();
            room.fill(0);
            std::hint::black_box(&room);
            // So small that it stays mapped in its slab.
            let places: Vec<_> = (0..4).map(|chunk| stream.chunk_at_rest(chunk).unwrap()).collect();
            let sealed: Vec<_> = places.iter().map(|&place| at_rest(place)).collect();
            assert!(!needle.find().is_empty(), "what is not sealed yet");
            let mut stream = Some(stream);
            if close {
                let closed = stream.as_mut().unwrap();
                closed.close().unwrap();
                assert_eq!(ours(&closed.write(b"more").unwrap_err()), Error::Closed);
                assert_eq!(ours(&closed.read(&mut [0]).unwrap_err()), Error::Closed);
                assert_eq!(closed.rewind(), Err(Error::Closed));
                assert_eq!(closed.close(), Ok(()));
            } else {
                stream = None;
            }
            assert_eq!(needle.find(), [""; 0]);
            for (place, sealed) in places.into_iter().zip(sealed) {
                let left = at_rest(place);
                let same = left.iter().zip(&sealed).filter(|(left, sealed)| left == sealed).count();
                assert!(same < 20, "{same} bytes of {} are as they were", left.len());
            }
            assert_eq!(vault.status().secrets, 0);
            assert!(vault.diagnostics().views.is_empty());
            drop(stream);
        }
        // With a chunk open.
        let mut stream = written(&vault, 25);
        stream.read_exact(&mut [0; 3]).unwrap();
        assert_eq!(vault.diagnostics().views.len(), 1);
        drop(stream);
        assert_eq!(vault.status().secrets, 0);
        assert!(vault.diagnostics().views.is_empty());
    });
}

#[cfg(unix)] // There are no forks on Windows.
#[test]
fn a_child_gets_an_error_and_the_parent_keeps_its_stream() {
    case("a_child_gets_an_error_and_the_parent_keeps_its_stream").run(|| {
        let vault = vault();
        let writing = {
            let mut stream = vault.stream().chunk_size(10).build().unwrap();
            stream.write_all(&bytes(25)).unwrap();
            stream
        };
        let mut reading = written(&vault, 25);
        reading.read_exact(&mut [0; 3]).unwrap();
        let mut both = Some((writing, reading));
        // SAFETY: the one thread that runs; the child ends with `_exit`.
        unsafe {
            let child = libc::fork();
            assert!(child >= 0);
            if child == 0 {
                let forked = |error: io::Error| ours(&error) == Error::Forked;
                let (writing, reading) = both.as_mut().unwrap();
                let right = writing.write(b"more").is_err_and(forked)
                    && reading.read(&mut [0; 3]).is_err_and(forked)
                    && writing.finish() == Err(Error::Forked)
                    && reading.rewind() == Err(Error::Forked)
                    && reading.close() == Err(Error::Forked)
                    && vault.stream().build().is_err_and(|error| error == Error::Forked);
                drop(both.take());
                libc::_exit(i32::from(!right));
            }
            let mut status = -1;
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            assert_eq!(status, 0);
        }
        let (mut writing, mut reading) = both.unwrap();
        writing.write_all(&bytes(31)[25..]).unwrap();
        assert_eq!(read(&mut writing), (bytes(31), None));
        let mut rest = Vec::new();
        reading.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, bytes(25)[3..]);
    });
}

// --- refusals ----------------------------------------------------------------------------------------------

/// Writes `all`, each piece after one refusal of the n-th call; says how many there were.
fn write_under_refusals(stream: &mut SecretStream, all: &[u8], call: Call, errno: i32, n: u64) -> u32 {
    let mut refusals = 0;
    let mut given = 0;
    while given < all.len() {
        let plan = inject::fail(call, Plan::FromNth { n, errno });
        let refused = stream.write(&all[given..]);
        drop(plan);
        match refused {
            Ok(taken) => given += taken,
            Err(error) => {
                assert!(error.kind() != io::ErrorKind::Interrupted, "{error:?}");
                refusals += 1;
                given += stream.write(&all[given..]).unwrap();
            }
        }
        assert_eq!(stream.len(), given as u64);
    }
    let plan = inject::fail(call, Plan::FromNth { n, errno });
    let finished = stream.finish();
    drop(plan);
    if finished.is_err() {
        refusals += 1;
        stream.finish().unwrap();
    }
    refusals
}

#[test]
fn refusals_lose_nothing_and_leak_nothing() {
    case("refusals_lose_nothing_and_leak_nothing").run(|| {
        common::need("split");
        let refusals = [
            (Call::Mmap, errno::ENOMEM),
            (Call::Mprotect, errno::ENOMEM),
            (Call::Mlock, errno::ENOMEM),
            (Call::Madvise, errno::EINVAL),
            (Call::Getrandom, errno::EIO),
            (Call::Pread, errno::EIO),
        ];
        let split = || {
            let strict = Policy::new().lock(Level::Require).dump(Level::Require);
            Vault::builder().policy(strict).hold(common::HOLD).hold_level(Level::Require).build().unwrap()
        };
        // What the first use of things takes for good.
        drop(written(&split(), 25));
        for (call, errno) in refusals {
            for n in 1..=2 {
                for len in [0, 5, 9_000, 10_000] {
                    let before = Footprint::now();
                    let vault = split();
                    let mut stream = vault.stream().chunk_size(5_000).build().unwrap();
                    let count = write_under_refusals(&mut stream, &bytes(len), call, errno, n);
                    let often = n == 1 && (len > 0 || matches!(call, Call::Getrandom | Call::Pread));
                    assert!(count > 0 || !often, "{call:?} never mattered");
                    assert_eq!(read(&mut stream), (bytes(len), None), "{call:?} {errno} {n}");
                    assert!(vault.diagnostics().views.is_empty());
                    drop((stream, vault));
                    before.assert_same(format!("after {call:?} {errno} {n} with {len} bytes"));
                }
            }
        }
    });
}

#[cfg(unix)] // Windows has no such limit.
#[test]
fn memory_that_runs_out_is_an_error_and_loses_nothing() {
    case("memory_that_runs_out_is_an_error_and_loses_nothing").run(|| {
        let vault = vault();
        let mut stream = vault.stream().chunk_size(5_000).build().unwrap();
        let block = bytes(100_000);
        let mut room = vec![0; block.len()];
        stream.write_all(&block).unwrap();
        let limit = common::limits_of(libc::RLIMIT_AS).soft;
        common::soft_limit(libc::RLIMIT_AS, common::address_space() + (4 << 20)).unwrap();
        let mut given = block.len();
        let refused = loop {
            match stream.write(&block[given % block.len()..]) {
                Ok(taken) => given += taken,
                Err(error) => break error,
            }
            assert!(given < 1 << 30, "the limit has no effect");
        };
        let finished = stream.finish();
        common::soft_limit(libc::RLIMIT_AS, limit).unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::OutOfMemory);
        assert!(matches!(finished, Err(Error::OutOfMemory { .. })), "{finished:?}");
        assert_eq!(stream.len(), given as u64);
        for from in (0..given).step_by(block.len()) {
            let len = block.len().min(given - from);
            stream.read_exact(&mut room[..len]).unwrap();
            assert!(room[..len] == block[..len]);
        }
        assert_eq!(stream.read(&mut room).unwrap(), 0);
    });
}

#[test]
fn a_lost_key_is_an_error_and_not_a_loss_of_what_is_not_sealed() {
    if !common::can("split") {
        return;
    }
    let _guard = TestGuard::new();
    let vault = Vault::builder().hold(common::HOLD).hold_level(Level::Require).build().unwrap();
    let mut stream = vault.stream().chunk_size(10).build().unwrap();
    assert_eq!(stream.write(&bytes(10)).unwrap(), 10);
    assert!(securememory::testing::wipe_key(&vault));
    for _ in 0..3 {
        assert_eq!(ours(&stream.write(b"more").unwrap_err()), Error::KeyLost);
        assert_eq!(stream.finish(), Err(Error::KeyLost));
        assert_eq!((stream.len(), stream.chunks()), (10, 0), "nothing is counted that is not kept");
    }
}

#[test]
fn its_debug_output_shows_numbers() {
    let _guard = TestGuard::new();
    let mut stream = vault().stream().chunk_size(10).build().unwrap();
    stream.write_all(b"hunter2hunter2").unwrap();
    let shown = format!("{stream:?}");
    assert!(shown.contains("len: 14") && shown.contains("chunks: 1") && !shown.contains("hunter"), "{shown}");
}

//! Who is measured: ours, the peers, the floors. A new peer is a file in `peers/` and a line here.

use securememory::{Hold, Policy};

use crate::floors::{self, calls, cipher, large, pkey};
use crate::peer::AtRest::{self, Encrypted, Inaccessible, Readable};
use crate::peer::job;
use crate::peers::{
    hardware_enclave, memsafe, memsec, ours, redoubt, secure_gate, secure_types, shrouded, siegel,
};
use crate::work::{self, Job, Work};
use crate::{Failure, versions};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Ours,
    Peer,
    Floor,
}

pub struct Entry {
    pub id: &'static str,
    pub group: Group,
    /// `None` of a floor.
    pub at_rest: Option<AtRest>,
    pub note: &'static str,
    pub version: fn() -> String,
    /// `None`: in all.
    works: Option<&'static [Work]>,
    pub make: fn(Work) -> Result<Job, Failure>,
}

impl Entry {
    pub fn does(&self, work: Work) -> bool {
        self.works.is_none_or(|works| works.contains(&work))
    }
}

/// Those that bounds name.
pub const SPLIT: &str = "securememory sealed, key split";
pub const PAGED: &str = "securememory paged";
pub const SODIUM: &str = "libsodium";
pub const PAIR: &str = "mprotect pair around a look at 32 B";
pub const BARE_PAIR: &str = "mprotect pair, page not touched";
pub const PREAD_OPEN: &str = "pread of 64 B + AEGIS-256 opens 32 B";
pub const TWO_FILES: &str = "pread of 64 B, a file each";
pub const OPEN_MIB: [&str; 2] = ["AEGIS-256 opens 1 MiB + wipe", "AEGIS-256X4 opens 1 MiB + wipe"];
pub const SEAL_MIB: [&str; 2] = ["AEGIS-256 seals 1 MiB + wipe", "AEGIS-256X4 seals 1 MiB + wipe"];

const fn ours(id: &'static str, at_rest: AtRest, note: &'static str, make: Make) -> Entry {
    Entry { id, group: Group::Ours, at_rest: Some(at_rest), note, version: versions::ours, works: None, make }
}

const fn peer(
    id: &'static str,
    at_rest: AtRest,
    note: &'static str,
    version: fn() -> String,
    make: Make,
) -> Entry {
    Entry { id, group: Group::Peer, at_rest: Some(at_rest), note, version, works: None, make }
}

const fn floor(id: &'static str, works: &'static [Work], make: Make) -> Entry {
    Entry { id, group: Group::Floor, at_rest: None, note: "", version: String::new, works: Some(works), make }
}

type Make = fn(Work) -> Result<Job, Failure>;

macro_rules! of {
    ($name:literal) => {
        || versions::locked($name)
    };
}

const READS: &[Work] = &[work::READ, Work::Busy];
const PAIRS: &[Work] = &[work::READ, Work::Busy, Work::TwoDifferent];
const PREADS: &[Work] = &[work::READ, Work::Busy, Work::TwoDifferent, Work::TwoSame];

#[rustfmt::skip]
pub const ALL: &[Entry] = &[
    ours(SPLIT, Encrypted, "AEGIS-256 in ordinary memory; the key in two shares, one in in-memory files that are mapped nowhere",
        |work| job(ours::Ours::sealed(Hold::Split)?, work)),
    ours("securememory sealed, key pkey", Encrypted, "the same; the key in a page that a protection key denies",
        |work| job(ours::Ours::sealed(Hold::Pkey)?, work)),
    ours("securememory sealed, key secretmem", Encrypted, "the same; the key in a page of memfd_secret, without access at rest",
        |work| job(ours::Ours::sealed(Hold::Secretmem)?, work)),
    ours("securememory sealed, key guarded", Encrypted, "the same; the key in a page without access at rest",
        |work| job(ours::Ours::sealed(Hold::Guarded)?, work)),
    ours(PAGED, Inaccessible, "plaintext in locked pages between guard pages, without access at rest",
        |work| job(ours::Ours::paged()?, work)),
    ours("securememory, all defaults", Encrypted, "sealed up to a length, paged above; the first key hold that works",
        |work| job(ours::Ours::profile(Policy::new())?, work)),
    ours("securememory, profile strict", Encrypted, "the same; no protection may be missing",
        |work| job(ours::Ours::profile(Policy::strict())?, work)),
    ours("securememory, profile hardened", Encrypted, "the same; the key in memfd_secret, all sealed",
        |work| job(ours::Ours::hardened()?, work)),

    peer(SODIUM, Inaccessible, "sodium_malloc, sodium_mprotect_noaccess", sodium::version, sodium::make),
    peer("secrets", Inaccessible, "SecretVec: libsodium's pages without access at rest", of!("secrets"), sodium::secrets),
    peer("memsec, malloc", Inaccessible, "malloc_sized, mprotect by the caller; a failed lock is not told", of!("memsec"),
        |work| job(memsec::Memsec::new(memsec::Memsec::Malloc)?, work)),
    peer("memsec, memfd_secret", Inaccessible, "memfd_secret_sized, mprotect by the caller; a descriptor each", of!("memsec"),
        |work| job(memsec::Memsec::new(memsec::Memsec::MemfdSecret)?, work)),
    peer("memsafe", Inaccessible, "Secret<N>: a locked page without access at rest, no guard pages", of!("memsafe"),
        |work| job(memsafe::Memsafe, work)),
    peer("shrouded, guarded", Inaccessible, "expose_guarded: without access after the first such read, which is part of a creation here", of!("shrouded"),
        |work| job(shrouded::Guarded, work)),
    peer("secure-types", Inaccessible, "SecureVec: memfd_secret without access at rest; a descriptor each", of!("secure-types"),
        |work| job(secure_types::SecureTypes, work)),
    peer("siegel", Inaccessible, "ProtectedRegion: pages without access at rest", of!("siegel"),
        |work| job(siegel::Siegel, work)),

    peer("hardware-enclave, no cache", Encrypted, "MemoryEnclave, AES-256-GCM; both halves of the key readable in one page; of 32 B it is given 31, since 32 would be cached in the clear", of!("hardware-enclave"),
        |work| job(hardware_enclave::Enclave::Uncached, work)),
    peer("redoubt", Encrypted, "cipherbox, AEGIS-128L; the master key in a page without access at rest", of!("redoubt"),
        |work| job(redoubt::Redoubt, work)),
    peer("secure-gate, sealed", Encrypted, "ChaCha20-Poly1305; its key derived from 16 KiB that are readable", of!("secure-gate"),
        |work| job(secure_gate::Gate::readable_key(), work)),
    peer("secure-gate, sealed, key closed", Encrypted, "the same; the 16 KiB without access at rest", of!("secure-gate"),
        |work| job(secure_gate::Gate::closed_key(), work)),

    peer("hardware-enclave, cached", Readable, "MemoryEnclave as it is by default: secrets of 32 B that were opened stay in the clear in a locked page; others are encrypted", of!("hardware-enclave"),
        |work| job(hardware_enclave::Enclave::Cached, work)),
    peer("hardware-enclave, buffer", Readable, "SecureBuffer: locked pages between guard pages, read-only at rest", of!("hardware-enclave"),
        |work| job(hardware_enclave::Buffer, work)),
    peer("shrouded, exposed", Readable, "expose: locked pages between guard pages, always readable", of!("shrouded"),
        |work| job(shrouded::Exposed, work)),
    peer("OpenSSL secure heap", Readable, "CRYPTO_secure_malloc: a locked arena between guard pages, always readable", openssl::version, openssl::make),
    peer("secure-gate, plain", Readable, "Dynamic: the heap; wiped when dropped", of!("secure-gate"),
        |work| job(secure_gate::Plain, work)),

    floor("system call (getppid)", &[work::READ], |work| floors::job(work, || Ok(()), calls::bare_call)),
    floor(PAIR, PAIRS, |work| floors::job(work, calls::Page::new, calls::pair_and_look)),
    floor(BARE_PAIR, PAIRS, |work| floors::job(work, calls::Page::new, calls::pair)),
    floor("WRPKRU pair", PAIRS, |work| floors::job(work, pkey::Pkey::new, pkey::pair)),
    floor("pread of 64 B", READS, |work| floors::job(work, calls::Share::new, calls::fetch)),
    floor(TWO_FILES, &[Work::TwoDifferent, Work::TwoSame], |work| floors::job(work, calls::Share::new, calls::fetch)),
    floor("pread of 64 B, one file", &[Work::TwoSame], |work| {
        let share = calls::Share::new()?;
        floors::job(work, || share.again(), calls::fetch)
    }),
    floor("AEGIS-256 opens 32 B", READS, |work| floors::job(work, cipher::Cipher::new, cipher::open)),
    floor("AEGIS-256 seals 32 B", &[work::CREATE], |work| floors::job(work, cipher::Cipher::new, cipher::seal)),
    floor(PREAD_OPEN, PREADS, |work| floors::job(work, cipher::Cipher::new, cipher::fetch_and_open)),
    floor("pread + 32 random B + AEGIS-256 seals 32 B", &[work::CREATE],
        |work| floors::job(work, cipher::Cipher::new, cipher::fetch_and_seal)),
    floor("open, then seal, with their parts", &[Work::Write(32)], |work| floors::job(work, cipher::Cipher::new, cipher::rewrite)),
    floor("six calls that make and unmake a closed page", &[work::CREATE], |work| floors::job(work, || Ok(()), calls::six)),
    floor(OPEN_MIB[0], &[work::READ_MIB], |work| floors::job(work, || large::Large::new(1 << 20, false), large::open_and_wipe)),
    floor(OPEN_MIB[1], &[work::READ_MIB], |work| floors::job(work, || large::Large::new(1 << 20, true), large::open_and_wipe)),
    floor(SEAL_MIB[0], &[work::CREATE_MIB], |work| floors::job(work, || large::Large::new(1 << 20, false), large::seal_and_wipe)),
    floor(SEAL_MIB[1], &[work::CREATE_MIB], |work| floors::job(work, || large::Large::new(1 << 20, true), large::seal_and_wipe)),
    floor("wipe of 1 MiB", &[work::READ_MIB, work::CREATE_MIB], |work| {
        floors::job(work, || Ok(vec![0x5a_u8; 1 << 20]), |bytes| {
            large::wipe(bytes);
            Ok(0)
        })
    }),
];

/// What needs libsodium.
mod sodium {
    #[cfg(feature = "sodium")]
    pub use here::*;
    #[cfg(not(feature = "sodium"))]
    pub use none::*;

    #[cfg(feature = "sodium")]
    mod here {
        use crate::Failure;
        use crate::peer::job;
        use crate::peers::{libsodium, secrets};
        use crate::work::{Job, Work};

        pub use libsodium::version;

        pub fn make(work: Work) -> Result<Job, Failure> {
            job(libsodium::Sodium::new()?, work)
        }

        pub fn secrets(work: Work) -> Result<Job, Failure> {
            job(secrets::Secrets, work)
        }
    }

    #[cfg(not(feature = "sodium"))]
    mod none {
        use crate::work::{Job, Work};
        use crate::{Failure, Skipped};

        pub const fn version() -> String {
            String::new()
        }

        pub fn make(_: Work) -> Result<Job, Failure> {
            Err(Skipped("libsodium was not there when this was built (Debian: libsodium-dev)".into()).into())
        }

        pub use make as secrets;
    }
}

/// What needs OpenSSL.
mod openssl {
    #[cfg(feature = "openssl")]
    pub use here::*;
    #[cfg(not(feature = "openssl"))]
    pub use none::*;

    #[cfg(feature = "openssl")]
    mod here {
        use crate::Failure;
        use crate::peer::job;
        use crate::peers::openssl;
        use crate::work::{Job, Work};

        pub use openssl::version;

        pub fn make(work: Work) -> Result<Job, Failure> {
            job(openssl::SecureHeap::new()?, work)
        }
    }

    #[cfg(not(feature = "openssl"))]
    mod none {
        use crate::work::{Job, Work};
        use crate::{Failure, Skipped};

        pub const fn version() -> String {
            String::new()
        }

        pub fn make(_: Work) -> Result<Job, Failure> {
            Err(Skipped("OpenSSL was not there when this was built (Debian: libssl-dev)".into()).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_floors_alone_protect_nothing() {
        for (index, entry) in ALL.iter().enumerate() {
            assert!(ALL[..index].iter().all(|other| other.id != entry.id), "{}", entry.id);
            assert_eq!(entry.at_rest.is_none(), entry.group == Group::Floor, "{}", entry.id);
        }
    }

    #[test]
    fn what_bounds_name_is_there_and_measured_where_they_need_it() {
        let does = |id: &str, work| ALL.iter().any(|entry| entry.id == id && entry.does(work));
        assert!(does(SPLIT, Work::Busy) && does(PAGED, work::READ) && does(SODIUM, work::CREATE));
        assert!(does(PAIR, work::READ) && does(PAIR, Work::Busy) && does(PREAD_OPEN, work::READ));
        assert!(does(TWO_FILES, Work::TwoSame) && does(TWO_FILES, Work::TwoDifferent));
        for index in 0..2 {
            assert!(does(OPEN_MIB[index], work::READ_MIB) && does(SEAL_MIB[index], work::CREATE_MIB));
        }
    }
}

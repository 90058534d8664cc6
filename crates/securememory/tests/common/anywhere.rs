//! What tests share on every system.

use securememory::testing::skip;
use securememory::{Build, Error, Hold, Level, Store, Vault, VaultBuilder};

use super::page_size;

/// What a vault locks at most by default: 64 KiB, or 16 pages where that is more.
pub fn usual_locked_max() -> usize {
    (16 * page_size()).max(64 << 10)
}

/// On pages of at least so many bytes the first view of a vault lies beside the shares of its key.
pub const LARGE_PAGE: usize = 64 << 10;

/// The page that an address lies in.
pub fn page_of(address: usize) -> usize {
    address - address % page_size()
}

/// Starts and ends two threads: the C library keeps their stacks for the next ones.
pub fn keep_stacks() {
    let barrier = std::sync::Barrier::new(2);
    in_threads(&[(); 2], |()| {
        barrier.wait();
    });
}

/// Runs `work` on each of `items` in a thread of its own. When it returns, the threads are gone, and not only their work
/// done, as at the end of a scope.
pub fn in_threads<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(|| work(item))).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("the thread"));
    });
}

/// How often to try what is tried so often: where instructions are emulated, `SECUREMEMORY_FEWER` divides it.
pub fn tries(often: usize) -> usize {
    let fewer = std::env::var("SECUREMEMORY_FEWER").map_or(1, |text| text.parse().expect("a whole number"));
    often.div_ceil(fewer)
}

/// Is a key in two shares to be had? Every build for Linux has it; who has refused the files for the test says so.
pub fn has_split() -> bool {
    Build::HERE.split && std::env::var_os("SECUREMEMORY_WITHOUT_SPLIT").is_none()
}

/// Builders of vaults of every kind that this host has: both stores, and of the sealed one every hold of the key.
pub fn every_kind() -> Vec<(&'static str, VaultBuilder)> {
    let sealed = |hold| Vault::builder().store(Store::Sealed).hold(hold).hold_level(Level::Require);
    let all = [
        ("sealed, pkey", sealed(Hold::Pkey)),
        ("sealed, split", sealed(Hold::Split)),
        ("sealed, secretmem", sealed(Hold::Secretmem)),
        ("sealed, guarded", sealed(Hold::Guarded)),
        ("paged", Vault::builder().store(Store::Paged)),
    ];
    let here = all.into_iter().filter(|(name, builder)| match builder.clone().build() {
        Ok(_) => true,
        Err(Error::HoldRefused(cause))
            if ["sealed, pkey", "sealed, secretmem"].contains(name)
                || (*name == "sealed, split" && !has_split()) =>
        {
            eprintln!("skipped: {name} is not to be had here: {cause}");
            false
        }
        Err(error) => panic!("{name}: {error}"),
    });
    here.collect()
}

/// The hold of a key that every build has which needs no key of protection: two shares, or else a closed page.
pub const HOLD: Hold = if Build::HERE.split { Hold::Split } else { Hold::Guarded };

/// Ends a case of a test whose build cannot do what it is about.
pub fn need(what: &str) {
    if !can(what) {
        skip(&format!("this build does not have {what}"));
    }
}

/// Can this build do something that a test is about? Else it says that the test is skipped, and why.
pub fn can(what: &str) -> bool {
    let all = Build::HERE.all();
    let (_, can) = all.iter().find(|(name, _)| *name == what).expect("a capability");
    if !can {
        eprintln!("skipped: a build for {} does not have {what}", Build::HERE.backend);
    }
    *can
}

/// Runs `body` in a thread that a panic of the body's ends, without a word of it on standard error.
pub fn killed_by_a_panic(body: impl FnOnce() + Send + 'static) {
    const NAME: &str = "to be killed";
    static QUIET: std::sync::Once = std::sync::Once::new();
    QUIET.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |told| {
            if std::thread::current().name() != Some(NAME) {
                loud(told);
            }
        }));
    });
    let thread = std::thread::Builder::new().name(NAME.to_owned()).spawn(body).expect("a thread");
    let panic = thread.join().expect_err("it was to panic");
    assert_eq!(panic.downcast_ref::<&str>(), Some(&KILLED), "another panic than it was to be");
}

/// What a thread that is to be killed says last.
pub const KILLED: &str = "killed in the middle";

/// Why a vault whose protections are all required cannot be made here, if it is a system that takes calls without
/// carrying them out, as Wine does with CryptProtectMemory.
pub fn strict_is_refused() -> Option<Error> {
    let strict = Vault::builder().hold(HOLD).policy(securememory::Policy::strict()).build();
    strict.err().filter(|_| cfg!(windows))
}

/// What may be done with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    None,
    /// It can be read.
    Read,
    /// And written.
    ReadWrite,
}

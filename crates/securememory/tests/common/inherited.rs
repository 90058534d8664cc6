//! A vault with all that can be in it, and every call of the library's on it, for a child that has inherited it.

use std::ffi::{c_int, c_void};
use std::io::Write;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::wait_for;
use securememory::{Error, Hold, Level, Policy, Secret, SecretStream, Store, Vault, VaultBuilder, with2};

/// What is in its secrets, and in each chunk of its streams.
pub const BYTES: &[u8; 16] = b"the parent's own";

/// An inherited lock would be waited for a second. (A busy machine takes its time, too.)
const AT_ONCE: Duration = Duration::from_millis(950);

/// A vault and what is in it.
pub struct Family {
    pub vault: Vault,
    pub sealed: Secret,
    pub paged: Secret,
    /// With one chunk that is sealed, and half of another.
    pub writing: SecretStream,
    pub complete: SecretStream,
}

impl Family {
    pub fn new(builder: VaultBuilder) -> Self {
        let vault = builder.build().unwrap();
        let of = |store| vault.secret().store(store).from_bytes(&mut BYTES.to_vec()).unwrap();
        let (sealed, paged) = (of(Store::Sealed), of(Store::Paged));
        let mut writing = vault.stream().chunk_size(16).build().unwrap();
        writing.write_all(BYTES).unwrap();
        writing.write_all(&BYTES[..8]).unwrap();
        let mut complete = vault.stream().chunk_size(16).build().unwrap();
        complete.write_all(BYTES).unwrap();
        complete.write_all(BYTES).unwrap();
        complete.finish().unwrap();
        Self { vault, sealed, paged, writing, complete }
    }

    /// Is all as it was made?
    pub fn is_whole(&mut self) -> bool {
        let secrets = [&self.sealed, &self.paged].iter().all(|secret| secret.ct_eq_bytes(BYTES) == Ok(true));
        let mut read = Vec::new();
        self.complete.rewind().unwrap();
        self.complete.for_each_chunk(|chunk| read.extend_from_slice(chunk)).unwrap();
        secrets && read == [*BYTES, *BYTES].concat()
    }

    /// Calls everything, and gives the calls that were anything else than refused at once.
    pub fn not_refused(&mut self) -> Vec<String> {
        let mut wrong = Vec::new();
        let Self { vault, sealed, paged, writing, complete } = self;
        let mut check = |name: &str, call: &mut dyn FnMut() -> Option<Error>| {
            let started = Instant::now();
            let (error, took) = (call(), started.elapsed());
            if error != Some(Error::Forked) || took > AT_ONCE {
                wrong.push(format!("{name}: {error:?} after {took:?}"));
            }
        };
        let kind = |error: std::io::Error| error.get_ref().unwrap().downcast_ref::<Error>().copied().unwrap();
        for (store, secret) in [("sealed", &*sealed), ("paged", &*paged)] {
            let mut on = |name: &str, call: &mut dyn FnMut() -> Option<Error>| {
                check(&format!("{store} {name}"), call);
            };
            on("view", &mut || secret.view().err());
            on("view_mut", &mut || secret.view_mut().err());
            on("try_view_mut_for", &mut || secret.try_view_mut_for(Duration::ZERO).err());
            on("owned_view", &mut || secret.owned_view().err());
            on("with", &mut || secret.with(|_| ()).err().map(Error::from));
            on("replace", &mut || secret.replace(&mut [7; 16]).err());
            on("ct_eq", &mut || secret.ct_eq(secret).err());
            on("ct_eq_bytes", &mut || secret.ct_eq_bytes(BYTES).err());
            on("derive", &mut || secret.derive(16, |_, _| ()).err());
            on("close", &mut || secret.close().err());
            on("close_timeout", &mut || secret.close_timeout(Duration::from_secs(9)).err());
            on("with2", &mut || with2(secret, secret, |_, _| ()).err().map(Error::from));
            on("with_many", &mut || Secret::with_many(&[secret, secret], |_, _| ()).err().map(|e| e.error));
            on("close_many", &mut || Secret::close_many(&[secret]).err().map(|e| e.error));
            // What is no Result is only to be had at once, and without the parent's secrets.
            on("status", &mut || {
                let status = secret.status();
                (status.at_rest.is_none() && status.len == 16).then_some(Error::Forked)
            });
        }
        check("random", &mut || vault.secret().random(8).err());
        check("random, paged", &mut || vault.secret().store(Store::Paged).random(8).err());
        check("from_bytes", &mut || vault.secret().from_bytes(&mut [1; 8]).err());
        check("init_with", &mut || vault.secret().init_with(8, |_| ()).err());
        check("secrets_from", &mut || vault.secrets_from(&mut [[1; 8]]).err());
        check("preflight", &mut || vault.preflight(1, 8).err());
        check("warm_thread", &mut || vault.warm_thread(3).err());
        check("refresh", &mut || vault.refresh().err());
        check("finish_refresh", &mut || vault.finish_refresh(Duration::from_secs(9)).err());
        check("purge", &mut || vault.purge().err());
        check("close of the vault", &mut || vault.close(Duration::from_secs(9)).err());
        check("is_alive", &mut || (!vault.is_alive()).then_some(Error::Forked));
        check("tidy", &mut || vault.tidy().is_none().then_some(Error::Forked));
        check("status", &mut || (vault.status().secrets == 0).then_some(Error::Forked));
        check("diagnostics", &mut || vault.diagnostics().views.is_empty().then_some(Error::Forked));
        check("write", &mut || writing.write(BYTES).err().map(kind));
        check("finish", &mut || writing.finish().err());
        check("read_chunk", &mut || complete.read_chunk(|_| ()).err().map(Error::from));
        check("rewind", &mut || complete.rewind().err());
        check("close of a stream", &mut || writing.close().err());
        check("a new stream", &mut || vault.stream().build().and_then(|mut stream| stream.finish()).err());
        wrong
    }
}

/// A vault of the process's own works, and so does the default one. (A lock that was waited for would be an error.)
pub fn own_vaults_work() -> bool {
    let own = Vault::builder().build().unwrap();
    let works = |secret: Secret| {
        let mut view = secret.view_mut().unwrap();
        view[0] = b'T';
        view.commit().unwrap();
        secret.ct_eq_bytes(b"The parent's own") == Ok(true) && secret.close().is_ok()
    };
    let of = |vault: &Vault, store| vault.secret().store(store).from_bytes(&mut BYTES.to_vec()).unwrap();
    [Store::Sealed, Store::Paged].into_iter().all(|store| {
        works(of(&own, store)) && works(of(&Vault::global().unwrap(), store)) && {
            own.refresh().unwrap();
            own.purge().unwrap();
            true
        }
    })
}

/// The policy of a vault that a child inherits.
pub fn off() -> Policy {
    Policy::new().fork(Level::Off)
}

/// Such a vault, with this hold and no other.
pub fn builder(hold: Hold) -> VaultBuilder {
    Vault::builder().policy(off()).hold(hold).hold_level(Level::Require)
}

/// One of each hold that can be had here, but for the one that cannot be inherited.
pub fn builders() -> Vec<VaultBuilder> {
    let can = |hold: &Hold| match builder(*hold).build() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("SKIPPED {hold:?}: {error}");
            false
        }
    };
    [Hold::Split, Hold::Guarded, Hold::Pkey].into_iter().filter(can).map(builder).collect()
}

static VAULTS: AtomicPtr<&'static [Family]> = AtomicPtr::new(std::ptr::null_mut());
static WRONG: AtomicU32 = AtomicU32::new(0);

/// In a child that shares its parent's memory.
extern "C" fn changes_keys(_: *mut c_void) -> c_int {
    // SAFETY: the parent waits, and has lent it.
    let families = unsafe { *VAULTS.load(Ordering::Relaxed) };
    for Family { vault, .. } in families {
        let outcomes = [
            vault.refresh(),
            vault.finish_refresh(Duration::ZERO).map(drop),
            vault.purge().map(drop),
            vault.close(Duration::ZERO).map(drop),
        ];
        let wrong = outcomes.iter().filter(|outcome| **outcome != Err(Error::Forked)).count();
        WRONG.fetch_add(wrong as u32, Ordering::Relaxed);
    }
    // SAFETY: ends the child and nothing else.
    unsafe { libc::_exit(0) }
}

/// Has such a child, made with these flags of clone(2) besides, change and destroy the keys of the vaults. Gives its wait
/// status, and how many calls of all such children were anything else than refused.
pub fn change_keys_in_shared_memory(families: &[Family], flags: c_int) -> (i32, u32) {
    let mut lent = families;
    VAULTS.store((&raw mut lent).cast(), Ordering::Relaxed);
    let mut stack = vec![0_u64; 1 << 15];
    // SAFETY: it has a stack of its own, and is waited for.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.len()).cast::<c_void>();
        libc::clone(changes_keys, top, libc::SIGCHLD | flags, std::ptr::null_mut())
    };
    assert!(pid > 0);
    (wait_for(pid), WRONG.load(Ordering::Relaxed))
}

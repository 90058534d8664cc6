//! Threads that end with something of the library in their keeping, in thread-locals of every sort, and what is called while
//! threads and the process end.
#![cfg(unix)]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests end by panics; thread-specific data of the C library and the end of a process are raw calls"
)]

mod common;

use std::any::Any;
use std::cell::RefCell;
use std::ffi::c_void;
use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread::LocalKey;
use std::time::Duration;

use common::{Ending, Needle, case, every_kind};
use securememory::{Closed, Error, Secret, Store, Vault, ViewKind};

const LEN: usize = 64;

/// Something that a thread keeps until it ends.
type Kept = Box<dyn Any>;

/// What is kept in one place; dropped by the destructor of the place.
type Place = RefCell<Vec<Kept>>;

macro_rules! places {
    ($($name:ident)*) => {
        thread_local! { $(static $name: Place = const { RefCell::new(Vec::new()) };)* }
        /// Thread-locals of the standard library, whose destructors run in an order of its own.
        static PLACES: [&LocalKey<Place>; SORTS] = [$(&$name),*];
    };
}

/// As many sorts of things are kept.
const SORTS: usize = 6;
places!(FIRST SECOND THIRD FOURTH FIFTH SIXTH);

/// Who sees to the end of what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// `thread_local!`
    Std,
    /// pthread_key_create(3): these run when all of the standard library's have.
    Pthread,
}

extern "C" fn drop_place(place: *mut c_void) {
    // SAFETY: put there by `make_place`.
    drop(unsafe { Box::from_raw(place.cast::<Place>()) });
}

fn keys() -> &'static [libc::pthread_key_t; SORTS] {
    static KEYS: OnceLock<[libc::pthread_key_t; SORTS]> = OnceLock::new();
    KEYS.get_or_init(|| {
        [(); SORTS].map(|()| {
            let mut key = 0;
            // SAFETY: writes one number.
            assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, Some(drop_place)) }, 0);
            key
        })
    })
}

/// Registers the destructor of a place with the calling thread.
fn make_place(by: By, which: usize) {
    match by {
        By::Std => PLACES[which].with(|place| place.borrow_mut().clear()),
        By::Pthread => {
            let place = Box::into_raw(Box::new(Place::default()));
            // SAFETY: a key of ours; what was there is null, since each thread makes a place once.
            assert_eq!(unsafe { libc::pthread_setspecific(keys()[which], place.cast()) }, 0);
        }
    }
}

fn keep(by: By, which: usize, thing: Kept) {
    match by {
        By::Std => PLACES[which].with(|place| place.borrow_mut().push(thing)),
        By::Pthread => {
            // SAFETY: made by `make_place`, and this thread's own.
            let place = unsafe { &*libc::pthread_getspecific(keys()[which]).cast::<Place>() };
            place.borrow_mut().push(thing);
        }
    }
}

/// A secret as one in a static, that can be ended all the same.
struct Static(*mut Secret);

// SAFETY: of a secret that may be shared.
unsafe impl Send for Static {}
// SAFETY: as above.
unsafe impl Sync for Static {}

impl Static {
    fn new(secret: Secret) -> Self {
        Self(Box::into_raw(Box::new(secret)))
    }

    fn get(&self) -> &'static Secret {
        // SAFETY: it lives until the value is dropped, when all threads that had a view have ended.
        unsafe { &*self.0 }
    }
}

impl Drop for Static {
    fn drop(&mut self) {
        // SAFETY: as above.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

/// One of each sort.
fn things(vault: &Vault, seen: &Static, changed: &Static, needle: &Needle) -> [Kept; SORTS] {
    let fresh = || vault.secret().init_with(LEN, |room| needle.write(room, 0)).unwrap();
    let mut writing = changed.get().view_mut().unwrap();
    needle.write(&mut writing, 0);
    let mut stream = vault.stream().chunk_size(LEN).build().unwrap();
    (0..LEN * 3 / 2).for_each(|at| stream.write_all(&[needle.byte(at % LEN)]).unwrap());
    let owned = fresh().owned_view().unwrap();
    // Its last handle: the vault ends with it.
    let other = Vault::builder().build().unwrap();
    let inside = other.secret().init_with(LEN, |room| needle.write(room, 0)).unwrap();
    let views = (seen.get().view().unwrap(), seen.get().view().unwrap());
    [
        Box::new(views),
        Box::new((owned.part(8..).unwrap(), owned)),
        Box::new(writing),
        Box::new((fresh(), vault.clone())),
        Box::new(stream),
        Box::new((other, inside.owned_view().unwrap(), inside)),
    ]
}

/// A number that looks random.
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

/// An order of the places.
fn shuffled(state: &mut u64) -> [usize; SORTS] {
    let mut order = std::array::from_fn(|n| n);
    (1..SORTS).rev().for_each(|n| order.swap(n, next(state) % (n + 1)));
    order
}

fn what_is_kept_ends(name: &'static str, by: By) {
    // Emulated machines are slow.
    case(name).deadline(Duration::from_secs(300)).run(|| {
        let needle = Needle::new(1, LEN);
        let mut chance = 1;
        for (kind, builder) in every_kind() {
            let vault = builder.build().unwrap();
            let make = || vault.secret().init_with(LEN, |room| needle.write(room, 0)).unwrap();
            let (seen, changed) = (Static::new(make()), Static::new(vault.secret().random(LEN).unwrap()));
            let mut slots = None;
            for round in 0..60 {
                // Registered before the thread's first call of the library, or after it; things of other sorts in each place.
                let (early, places) = (round % 2 == 0, shuffled(&mut chance));
                let what = shuffled(&mut chance);
                std::thread::scope(|scope| {
                    let thread = scope.spawn(|| {
                        if early {
                            places.iter().for_each(|&place| make_place(by, place));
                        }
                        seen.get().with(|bytes| assert!(needle.is(bytes))).unwrap();
                        let things = things(&vault, &seen, &changed, &needle);
                        if !early {
                            places.iter().for_each(|&place| make_place(by, place));
                        }
                        things.into_iter().zip(what).for_each(|(thing, place)| keep(by, place, thing));
                        assert_eq!(seen.get().status().open_views, 2);
                    });
                    thread.join().unwrap();
                });
                let when = format!("{kind}, round {round}, {places:?} {what:?}");
                let views = vault.diagnostics().views;
                assert!(views.is_empty(), "{when}: {views:?}");
                assert_eq!(vault.status().secrets, 2, "{when}");
                // Not committed.
                assert!(!changed.get().with(|bytes| needle.is(bytes)).unwrap(), "{when}");
                let now = vault.status().scratch_slots;
                assert_eq!(*slots.get_or_insert(now), now, "{when}: slots are used again");
                if round % 15 == 0 {
                    let found = needle.find();
                    assert!(found.is_empty(), "{when}: {found:#?}");
                }
            }
            assert_eq!(seen.get().close().unwrap(), Closed::Closed);
            drop((seen, changed));
            let found = needle.find();
            assert!(found.is_empty(), "{kind}: {found:#?}");
        }
    });
}

#[test]
fn what_thread_locals_keep_ends_with_the_thread() {
    // without a guard: the case has one
    what_is_kept_ends("what_thread_locals_keep_ends_with_the_thread", By::Std);
}

#[test]
fn what_thread_specific_data_keeps_ends_with_the_thread() {
    // without a guard: the case has one
    what_is_kept_ends("what_thread_specific_data_keeps_ends_with_the_thread", By::Pthread);
}

/// Calls of every sort.
fn everything() -> Result<(), Error> {
    // Also in the default vault, which is made where there is none.
    Secret::random(8)?.with(|_| ())?;
    for store in [Store::Sealed, Store::Paged] {
        let vault = Vault::builder().store(store).janitor().build()?;
        let secret = vault.secret().label("late").random(LEN)?;
        let derived = secret.derive(8, |input, output| output.fill(input[0]))?;
        Secret::with_many(&[&secret, &derived], |_, _| ()).map_err(|failed| failed.error)?;
        let mut view = secret.view_mut()?;
        view[0] = 1;
        view.commit()?;
        let owned = secret.owned_view()?;
        assert_eq!(owned.part(..1)?.with(|bytes| bytes[0])?, 1);
        let mut stream = vault.stream().chunk_size(LEN).build()?;
        stream.write_all(&[7; 200]).map_err(|_| Error::Closed)?;
        stream.for_each_chunk(|bytes| assert!(bytes.iter().all(|&byte| byte == 7)))?;
        vault.refresh()?;
        vault.warm_thread(3)?;
        // The janitor may be moving records at this moment, which is listed, too.
        let views = vault.diagnostics().views;
        assert_eq!(views.iter().filter(|view| view.kind == ViewKind::Owned).count(), 1, "{views:?}");
        assert_eq!(vault.status().secrets, 2 + stream.chunks() as u64);
        drop(owned);
        assert_eq!(secret.close()?, Closed::Closed);
        vault.tidy();
        vault.purge()?;
    }
    Ok(())
}

/// What [`everything`] has given, each time.
static GIVEN: Mutex<Vec<Result<(), Error>>> = Mutex::new(Vec::new());

fn call_everything() {
    let given = everything();
    GIVEN.lock().unwrap().push(given);
}

/// Calls the library when it is dropped.
struct Late;

impl Drop for Late {
    fn drop(&mut self) {
        call_everything();
    }
}

/// A thread whose ends call the library, in every place.
fn end_late() {
    for by in [By::Std, By::Pthread] {
        for place in 0..SORTS {
            make_place(by, place);
            keep(by, place, Box::new(Late));
        }
    }
}

fn assert_all_worked(times: usize) {
    let given = std::mem::take(&mut *GIVEN.lock().unwrap());
    assert_eq!(given, vec![Ok(()); times]);
}

#[test]
fn the_library_works_in_destructors_of_thread_locals() {
    case("the_library_works_in_destructors_of_thread_locals").deadline(Duration::from_secs(60)).run(|| {
        for used_before in [false, true] {
            let thread = std::thread::spawn(move || {
                if used_before {
                    call_everything();
                }
                end_late();
            });
            thread.join().unwrap();
            assert_all_worked(2 * SORTS + usize::from(used_before));
        }
    });
}

extern "C" fn call_at_exit() {
    call_everything();
}

/// How many were right, at the very end: the exit code.
static EXPECTED: AtomicU32 = AtomicU32::new(0);
const RIGHT: i32 = 7;

extern "C" fn judge_at_exit() {
    let given = GIVEN.lock().unwrap();
    // A program that is linked statically with glibc runs no destructors of thread-locals there.
    let fewer = cfg!(target_feature = "crt-static") && given.len() == 1;
    let all = given.len() == EXPECTED.load(Ordering::SeqCst) as usize;
    let right = (all || fewer) && given.iter().all(Result::is_ok);
    if !right {
        eprintln!("{given:?}");
    }
    // SAFETY: ends the process.
    unsafe { libc::_exit(if right { RIGHT } else { 1 }) }
}

fn at_exit(function: extern "C" fn()) {
    // SAFETY: a function that lives as long as the process.
    assert_eq!(unsafe { libc::atexit(function) }, 0);
}

/// exit(3) runs the thread-locals' destructors of the thread that calls it, and then what was registered, the last first.
/// A thread's own data of the C library is left as it is.
fn exit_late() {
    at_exit(judge_at_exit);
    at_exit(call_at_exit);
    end_late();
    EXPECTED.store(SORTS as u32 + 1, Ordering::SeqCst);
}

#[test]
fn the_library_works_while_the_process_exits() {
    case("the_library_works_while_the_process_exits").ending(Ending::Code(RIGHT)).run(exit_late);
}

#[test]
fn the_library_works_while_the_main_thread_exits() {
    case("the_library_works_while_the_main_thread_exits").run(|| {
        // SAFETY: the child ends by `exit`; nothing in it needs a lock that another thread may have had but the allocator's
        // and standard error's, which the C library and nobody's writing keep free.
        let status = unsafe {
            let child = libc::fork();
            if child == 0 {
                // In the child, this is the main thread.
                exit_late();
                libc::exit(2);
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            status
        };
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == RIGHT, "{status:#x}");
    });
}

#[test]
fn threads_at_work_do_not_hold_up_an_exit() {
    case("threads_at_work_do_not_hold_up_an_exit").deadline(Duration::from_secs(30)).run(|| {
        let begun = std::sync::Arc::new(AtomicU32::new(0));
        for _ in 0..4 {
            let begun = std::sync::Arc::clone(&begun);
            std::thread::spawn(move || {
                loop {
                    everything().unwrap();
                    begun.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        common::signals::until("all are at work", || begun.load(Ordering::SeqCst) >= 8);
    });
}

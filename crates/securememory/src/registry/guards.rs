//! Which test guards a thread is under, and what is known of the vaults that were made there. Feature `testing` only.
//!
//! What may not be left is judged by [`crate::testing`]; here is what the rooms below it tell.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::{arenas, dying, files};
use crate::os;
use crate::os::signals::{self, Action, MAX_SIGNAL};
use crate::registry::vaults::Seat;

/// What a test can leave behind.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Left {
    /// A handle of a vault that is not closed (a [`Vault`](crate::Vault), a stream) outlives the guard.
    Vault,
    /// A [`Secret`](crate::Secret) of a vault that is not closed outlives the guard.
    Secret,
    /// A view that was never dropped.
    View,
    /// A place for a view that nobody has and that is not free.
    Slot,
    /// Pages in which plaintext lies, or may lie, of a secret that is gone.
    Pages,
    /// A paged secret whose pages linger open.
    Lingering,
    /// Memory of a vault that has ended.
    Arena,
    /// A file with a key share of a vault that has ended.
    File,
    /// A plan of the fault injector.
    Plan,
    /// A thread that is still under the guard.
    Thread,
    /// Fault handling is installed.
    FaultHandling,
    /// The coordinator of signals is installed.
    Coordinator,
    /// A handler is registered for a signal.
    Registration,
    /// Of a signal something else is done than before.
    Disposition,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vault => "vault",
            Self::Secret => "secret",
            Self::View => "view",
            Self::Slot => "slot",
            Self::Pages => "pages",
            Self::Lingering => "lingering secret",
            Self::Arena => "memory",
            Self::File => "file",
            Self::Plan => "plan of the fault injector",
            Self::Thread => "thread",
            Self::FaultHandling => "fault handling",
            Self::Coordinator => "coordinator",
            Self::Registration => "registered handler",
            Self::Disposition => "signal",
        })
    }
}

/// One thing that was left, in words.
pub(crate) type Finding = (Left, String);

/// A vault's machinery, whose type is not known down here.
pub(crate) type Anything = dyn Any + Send + Sync;

/// What is known of one guard's test.
#[derive(Debug)]
pub(crate) struct Watch {
    id: u64,
    /// Where the guard was made.
    place: &'static std::panic::Location<'static>,
    process: u32,
    vaults: Mutex<Vec<Weak<Anything>>>,
    /// What was found when a vault of it ended.
    remains: Mutex<Vec<Finding>>,
    /// The default vault of threads under the guard.
    default: Mutex<Option<Arc<Anything>>>,
    /// Threads that are under it besides the one that has made it.
    pub(crate) threads: AtomicUsize,
    /// The guard was dropped.
    pub(crate) over: AtomicBool,
    /// What is left on purpose, how often, and why.
    expected: Mutex<Vec<(Left, usize, String)>>,
}

thread_local! {
    static STACK: RefCell<Vec<Arc<Watch>>> = const { RefCell::new(Vec::new()) };
}

static NEXT: AtomicU64 = AtomicU64::new(1);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    pub(crate) fn new(place: &'static std::panic::Location<'static>) -> Arc<Self> {
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            place,
            process: os::process_id(),
            vaults: Mutex::new(Vec::new()),
            remains: Mutex::new(Vec::new()),
            default: Mutex::new(None),
            threads: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            expected: Mutex::new(Vec::new()),
        })
    }

    pub(crate) fn place(&self) -> &'static std::panic::Location<'static> {
        self.place
    }

    /// Is this the process that it watches? A child is watched by nobody.
    pub(crate) fn is_here(&self) -> bool {
        self.process == os::process_id()
    }

    /// Puts the calling thread under it.
    pub(crate) fn enter(self: &Arc<Self>) {
        let _ = STACK.try_with(|stack| stack.borrow_mut().push(Arc::clone(self)));
    }

    /// Takes the calling thread out.
    pub(crate) fn leave(&self) {
        let _ = STACK.try_with(|stack| {
            let mut stack = stack.borrow_mut();
            if let Some(at) = stack.iter().rposition(|watch| watch.id == self.id) {
                stack.remove(at);
            }
        });
    }

    /// So many of these are left on purpose.
    pub(crate) fn expect(&self, why: &str, what: Left, count: usize) {
        locked(&self.expected).push((what, count, why.to_owned()));
    }

    pub(crate) fn expected(&self) -> Vec<(Left, usize, String)> {
        locked(&self.expected).clone()
    }

    /// A vault was made under it.
    pub(crate) fn made(&self, machinery: Weak<Anything>) {
        locked(&self.vaults).push(machinery);
    }

    /// Its vaults that live.
    pub(crate) fn living(&self) -> Vec<Arc<Anything>> {
        let mut vaults = locked(&self.vaults);
        let living: Vec<_> = vaults.iter().filter_map(Weak::upgrade).collect();
        vaults.retain(|vault| vault.strong_count() != 0);
        drop(vaults);
        living
    }

    /// Notes what a vault of it has left.
    pub(crate) fn note(&self, found: Vec<Finding>) {
        locked(&self.remains).extend(found);
    }

    /// What its vaults have left that have ended.
    pub(crate) fn remains(&self) -> Vec<Finding> {
        locked(&self.remains).clone()
    }

    /// The default vault of threads under it, or none yet.
    pub(crate) fn default_vault(&self) -> Option<Arc<Anything>> {
        locked(&self.default).clone()
    }

    /// Offers one; the one that is it now.
    pub(crate) fn offer_default(&self, made: Arc<Anything>) -> Arc<Anything> {
        if self.over.load(Ordering::SeqCst) {
            made
        } else {
            locked(&self.default).get_or_insert(made).clone()
        }
    }

    /// Gives the default vault up.
    pub(crate) fn drop_default(&self) {
        let vault = locked(&self.default).take();
        drop(vault);
    }
}

/// The guard that the calling thread is under: the innermost one.
pub(crate) fn current() -> Option<Arc<Watch>> {
    let innermost = STACK.try_with(|stack| stack.borrow().last().cloned()).ok().flatten();
    innermost.filter(|watch| watch.is_here())
}

/// What is still there of a vault that has ended, or was not made. Before its seat is given to another one.
pub(crate) fn remains_of(seat: Seat, vault: u64) -> Vec<Finding> {
    if dying::has_begun() {
        return Vec::new();
    }
    let (process, number) = (os::process_id(), seat.number());
    let arenas = arenas::all().filter_map(|arena| {
        // Whether it is in use is asked first: a free entry names the vault that had it, until another takes it.
        let (base, purpose) = (arena.base_of(process)?, arena.purpose()?);
        let size = arena.size.load(Ordering::Relaxed);
        let said = || format!("{purpose:?} of vault {vault}, {size} bytes at {base:#x}");
        (arena.vault.load(Ordering::Relaxed) == number).then(|| (Left::Arena, said()))
    });
    let files = files::all().filter_map(|file| {
        let number_of = file.number.load(Ordering::Acquire).checked_sub(1)?;
        let of =
            file.vault.load(Ordering::Relaxed) == number && file.owner.load(Ordering::Relaxed) == process;
        of.then(|| (Left::File, format!("descriptor {number_of} of vault {vault}")))
    });
    arenas.chain(files).collect()
}

/// Fault handling and the coordinator are the process's: one test at a time has them.
struct Turn {
    /// The guard, and what was done of each signal before.
    holder: Option<(u64, Vec<Option<Action>>)>,
    place: Option<&'static std::panic::Location<'static>>,
}

static TURN: Mutex<Turn> = Mutex::new(Turn { holder: None, place: None });
static TURN_OVER: Condvar = Condvar::new();

/// As long as a test waits for another one.
const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(60) };

fn actions() -> Vec<Option<Action>> {
    (1..=MAX_SIGNAL as i32).map(signals::look_at_action).collect()
}

/// Something of the process's is going to be installed: under a guard, that waits until no other guard's test has it.
pub(crate) fn installing() {
    let Some(watch) = current() else { return };
    let under = STACK
        .try_with(|stack| stack.borrow().iter().map(|watch| watch.id).collect::<Vec<_>>())
        .unwrap_or_default();
    let started = Instant::now();
    let mut turn = locked(&TURN);
    while let Some((holder, _)) = &turn.holder {
        if under.contains(holder) {
            return;
        }
        let left = PATIENCE.saturating_sub(started.elapsed());
        let other = turn.place.map_or_else(String::new, |place| format!(" at {place}"));
        #[allow(clippy::panic, reason = "of a test, which ends by panics")]
        if left.is_zero() {
            drop(turn);
            panic!(
                "the test guard at {} has waited {PATIENCE:?} for the one{other}, under which fault handling or a \
                 coordinator has been installed",
                watch.place
            );
        }
        turn = TURN_OVER.wait_timeout(turn, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    *turn = Turn { holder: Some((watch.id, actions())), place: Some(watch.place) };
}

impl Watch {
    /// Has it the turn? Then the signals of which something else is done than before it had.
    pub(crate) fn changed_signals(&self) -> Option<Vec<i32>> {
        let turn = locked(&TURN);
        let (_, before) = turn.holder.as_ref().filter(|(holder, _)| *holder == self.id)?;
        let changed = (1..).zip(before.iter().zip(actions())).filter(|(_, (before, now))| *before != now);
        Some(changed.map(|(signal, _)| signal).collect())
    }

    /// Gives the turn to the next one.
    pub(crate) fn end_turn(&self) {
        let mut turn = locked(&TURN);
        if turn.holder.as_ref().is_some_and(|(holder, _)| *holder == self.id) {
            *turn = Turn { holder: None, place: None };
            TURN_OVER.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::registry::arenas::{Extent, Purpose};

    #[test]
    fn memory_and_files_of_a_vault_that_has_ended_are_found() {
        let (seat, other) = (Seat::take().unwrap(), Seat::take().unwrap());
        let kinds = |seat| remains_of(seat, 7).into_iter().map(|(what, _)| what).collect::<Vec<_>>();
        assert_eq!(kinds(seat), []);
        // Of an address and a number that nobody has.
        let page = os::page_size();
        let extent = Extent { base: page, size: 3 * page, capacity: page };
        let arena = arenas::enter(extent, Purpose::Key, seat.number(), std::ptr::null_mut()).unwrap();
        files::enter(1 << 30, (1, 2), os::process_id(), seat.number()).unwrap();
        assert_eq!((kinds(seat), kinds(other)), (vec![Left::Arena, Left::File], vec![]));
        assert!(arena.withdraw());
        files::withdraw(1 << 30, (1, 2));
        assert_eq!(kinds(seat), []);
        [seat, other].into_iter().for_each(Seat::give);
    }

    #[test]
    fn memory_that_another_vault_enters_at_this_moment_is_not_its() {
        let (seat, other) = (Seat::take().unwrap(), Seat::take().unwrap());
        let page = os::page_size();
        let extent = Extent { base: page, size: 3 * page, capacity: page };
        let use_one = |seat: Seat| {
            let arena = arenas::enter(extent, Purpose::Key, seat.number(), std::ptr::null_mut()).unwrap();
            assert!(arena.withdraw());
        };
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    use_one(other);
                }
            });
            // The entry that is given back names its vault still, until the other takes it.
            let found = (0..300_000).find_map(|_| {
                use_one(seat);
                remains_of(seat, 7).pop()
            });
            over.store(true, Ordering::Relaxed);
            assert_eq!(found, None);
        });
        [seat, other].into_iter().for_each(Seat::give);
    }

    #[test]
    fn who_waits_too_long_for_another_test_is_told_for_which() {
        let watch = || Watch::new(std::panic::Location::caller());
        let (first, second) = (watch(), watch());
        let install = |watch: &Arc<Watch>| {
            watch.enter();
            let outcome = std::panic::catch_unwind(installing);
            watch.leave();
            outcome.map_err(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default())
        };
        assert_eq!((install(&first), install(&first)), (Ok(()), Ok(())), "it has its turn");
        let said = install(&second).unwrap_err();
        assert_eq!(said.matches("registry/guards.rs").count(), 2, "{said}");
        assert!(second.changed_signals().is_none() && first.changed_signals() == Some(Vec::new()));
        first.end_turn();
        assert_eq!(install(&second), Ok(()));
        second.end_turn();
    }
}

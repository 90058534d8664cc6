//! Who has been installed, and whether he still is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::Duration;

use super::options::{Hook, tell};
use super::{Change, IfReplaced, Options, Signal};
use crate::error::{Error, Result};
use crate::fault::guard::{self, Holder};
use crate::fault::outside;
use crate::fault::thread;
use crate::locks::{self, Guard, Lock, Rank};
use crate::os::{self, signals};

/// The process's coordinator.
pub(super) static CURRENT: Lock<Option<Current>> = Lock::new(Rank::Coordinator, None);

/// It is to be ended by whoever looks at it next: it was dropped when others were at it.
static LEFT: AtomicU32 = AtomicU32::new(0);

/// The right to change the coordinator.
pub(super) struct Turn(Option<Guard<'static, Option<Current>>>);

impl Turn {
    pub(super) fn current(&mut self) -> Option<&mut Option<Current>> {
        self.0.as_deref_mut()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0 = None;
        // As in `fault::outside`.
        fence(Ordering::SeqCst);
        finish_left();
    }
}

/// Takes the right to change the coordinator.
#[cfg_attr(debug_assertions, track_caller)]
pub(super) fn turn() -> Result<Turn> {
    let mut current = CURRENT.lock()?;
    end_left(&mut current);
    Ok(Turn(Some(current)))
}

/// The coordinator has been dropped, and the lock was not to be had. Waits for nobody.
pub(super) fn leave() {
    LEFT.store(1, Ordering::SeqCst);
    fence(Ordering::SeqCst);
    finish_left();
    // Where it is still to be done, and nobody comes, the thread does it.
    if LEFT.load(Ordering::SeqCst) != 0 {
        thread::wake();
    }
}

fn finish_left() {
    while LEFT.load(Ordering::SeqCst) != 0 {
        let Some(mut current) = CURRENT.try_lock() else { return };
        let done = locks::without_waiting(|| end_left(&mut current));
        drop(current);
        if !done {
            return;
        }
        fence(Ordering::SeqCst);
    }
}

/// Ends what was left. False: others change what is installed at this moment. Nobody is told of changes.
fn end_left(current: &mut Option<Current>) -> bool {
    if LEFT.swap(0, Ordering::SeqCst) == 0 {
        return true;
    }
    let done = super::end_here(current, &mut Vec::new()).0;
    let late = matches!(done, Err(Error::LockTimeout(_)));
    if late {
        LEFT.store(1, Ordering::SeqCst);
    }
    !late
}

#[cfg(feature = "testing")]
pub(super) fn set_frozen(frozen: bool) -> bool {
    CURRENT.set_frozen(frozen)
}

/// What is known of it.
pub(super) struct Current {
    pub(super) options: Options,
    pub(super) signals: Vec<Watched>,
}

/// A signal whose handler is installed.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) signal: Signal,
    pub(super) roles: u32,
    /// How often ours has been put back.
    reclaimed: u32,
    /// The handler in our place that has been told of; zero: none.
    told: usize,
}

/// How often ours is put back.
const RECLAIMS: u32 = 3;

/// Nanoseconds between two looks of the thread; zero: it does not look.
static EVERY: AtomicU64 = AtomicU64::new(0);
/// When it looks next, as [`os::coarse_now`] tells.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Watched {
    pub(super) fn new(signal: Signal, roles: u32) -> Self {
        Self { signal, roles, reclaimed: 0, told: 0 }
    }

    /// Under [`guard::changing`].
    fn look(&mut self, if_replaced: IfReplaced, changes: &mut Vec<Change>) -> Result<bool> {
        let (signal, number) = (self.signal, self.signal.as_raw());
        match outside::come_back(number)? {
            Holder::Ours => {}
            Holder::Back => changes.push(Change::CameBack { signal }),
            Holder::Other => {
                let theirs = signals::action(number)?.handler.wrapping_add(1);
                let is_new = std::mem::replace(&mut self.told, theirs) != theirs;
                if if_replaced == IfReplaced::Report {
                    changes.extend(is_new.then_some(Change::Replaced { signal }));
                    return Ok(false);
                }
                if self.reclaimed >= RECLAIMS {
                    changes.extend(is_new.then_some(Change::GivenUp { signal }));
                    return Ok(false);
                }
                changes.push(Change::Replaced { signal });
                outside::put(number, self.roles)?;
                self.reclaimed += 1;
                // The next time it is told, be it the same one.
                self.told = 0;
                changes.push(Change::Reclaimed { signal });
            }
        }
        Ok(true)
    }
}

/// Looks at all signals: those for which somebody else's handler is installed.
pub(super) fn look() -> Result<Vec<Signal>> {
    let mut changes = Vec::new();
    let (hook, others) = look_at_all(&mut changes)?;
    tell(hook.as_ref(), &changes);
    others
}

/// What goes wrong with one signal does not keep the others; and what has been done is told in any case.
fn look_at_all(changes: &mut Vec<Change>) -> Result<(Option<Hook>, Result<Vec<Signal>>)> {
    let back = thread::BACK.swap(0, Ordering::AcqRel);
    let mut turn = turn()?;
    let Some(current) = turn.current().and_then(Option::as_mut) else { return Ok((None, Ok(Vec::new()))) };
    let if_replaced = current.options.if_replaced;
    let (mut others, mut failure) = (Vec::new(), None);
    let _changing = guard::changing()?;
    for watched in &mut current.signals {
        if back & watched.signal.bit() != 0 {
            changes.push(Change::CameBack { signal: watched.signal });
        }
        match watched.look(if_replaced, changes) {
            Ok(true) => {}
            Ok(false) => others.push(watched.signal),
            Err(error) => _ = failure.get_or_insert(error),
        }
    }
    Ok((current.options.hook.as_ref().map(Arc::clone), failure.map_or(Ok(others), Err)))
}

/// Has the thread look from now on, or no more.
pub(super) fn begin(every: Option<Duration>) {
    let every = every.map_or(0, |every| u64::try_from(every.as_nanos()).unwrap_or(u64::MAX));
    NEXT.store(os::coarse_now().saturating_add(every), Ordering::Relaxed);
    EVERY.store(every, Ordering::Release);
    if every != 0 {
        thread::wake();
    }
}

/// The thread's look. Says how soon the next one is due.
pub(super) fn look_if_due() -> Option<Duration> {
    if LEFT.load(Ordering::Acquire) != 0 {
        // Takes what is left with it.
        let _ = turn();
    }
    let every = EVERY.load(Ordering::Acquire);
    if every == 0 && thread::BACK.load(Ordering::Acquire) == 0 {
        return None;
    }
    let (now, next) = (os::coarse_now(), NEXT.load(Ordering::Relaxed));
    if now < next && thread::BACK.load(Ordering::Acquire) == 0 {
        return Some(Duration::from_nanos(next - now));
    }
    if let Err(error) = look() {
        locks::user_code();
        tracing::warn!(%error, "whether our signal handlers are installed could not be seen");
    }
    NEXT.store(now.saturating_add(every), Ordering::Relaxed);
    (every != 0).then_some(Duration::from_nanos(every))
}

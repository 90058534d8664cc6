//! Who is called after us: the handler that was there before, as the kernel would have called it.
//!
//! For each signal there is a [`Station`]: whose business the signal is, and what was done about it before us. The
//! kernel calls [`super::inside::entry`]; what is not ours ends in [`pass`].
//!
//! **Levels.** If somebody takes our place and we take it back, their handler is the one before us, and we are the one
//! before theirs: a circle. So what was there before is kept in levels, one more each time. Who comes back to us while we
//! are calling the handler of one level is sent to the level below. How that is told: the delivery is the same one, and
//! the stack is deeper (see `turn`).

pub(super) mod abort;
mod turn;

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::roles::{ASIDE, FAULT, Roles, WIPES};
use super::{outside, thread};
use crate::os::signals::{self, Action, Failure, Info, MAX_SIGNAL, Mask};
use crate::registry::deliveries;
use crate::shutdown::dying::{self, Fatal};
use turn::Turn;
pub(super) use turn::comes_back;

/// Times that our place may be taken back.
pub(crate) const LEVELS: usize = 8;

/// What was done about a signal before us.
#[derive(Debug)]
struct Previous {
    /// Or [`UNSETTLED`].
    handler: AtomicUsize,
    flags: AtomicI32,
    mask: AtomicU64,
}

/// In place of a handler that wanted to be called once, while it is found out whether the kernel has called it.
const UNSETTLED: usize = libc::SIG_ERR;
/// Looks, of 50 µs each, at what is not settled: the thread that settles it makes one system call, but must be given a processor.
const LOOKS: u32 = 20_000;

impl Previous {
    /// The handler, as soon as it is known; if that takes too long, the default action.
    #[inline(never)]
    fn settled(&self) -> usize {
        for _ in 0..LOOKS {
            let handler = self.handler.load(Ordering::Acquire);
            if handler != UNSETTLED {
                return handler;
            }
            signals::pause(50_000);
        }
        libc::SIG_DFL
    }
}

/// A signal.
#[derive(Debug)]
pub(crate) struct Station {
    pub(crate) roles: Roles,
    /// Levels that are filled.
    levels: AtomicUsize,
    previous: [Previous; LEVELS],
    /// What is to become of the delivery that the coordinator's thread has just sent to itself: zero, there is none;
    /// [`PASSING`](super::roles::PASSING); [`ENDING`](super::roles::ENDING). Written by that thread alone.
    pub(crate) sent_on: AtomicU32,
    /// Deliveries that wait for the coordinator's thread.
    pub(crate) waiting: AtomicU32,
    /// For which delivery we have made place last: its words, mixed.
    aside: AtomicU64,
    /// How often in a row for the same one: then our handler was back before the kernel had called the other one.
    again: AtomicU32,
}

static STATIONS: [Station; MAX_SIGNAL + 1] = [const {
    Station {
        roles: Roles::none(),
        levels: AtomicUsize::new(0),
        previous: [const {
            Previous { handler: AtomicUsize::new(0), flags: AtomicI32::new(0), mask: AtomicU64::new(0) }
        }; LEVELS],
        sent_on: AtomicU32::new(0),
        waiting: AtomicU32::new(0),
        aside: AtomicU64::new(0),
        again: AtomicU32::new(0),
    }
}; MAX_SIGNAL + 1];

/// Counts what the coordinator's thread has to look at; it sleeps on this.
pub(crate) static WORK: AtomicU32 = AtomicU32::new(0);

/// The process whose stations these are. A child of vfork(2) shares them, but has actions of its own.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// This process has stations: it installs handlers, or was forked by one that did.
pub(crate) fn own() {
    OWNER.store(crate::os::process_id(), Ordering::Release);
}

/// The same in a child, for one that has them.
pub(crate) fn own_in_child() {
    if OWNER.load(Ordering::Acquire) != 0 {
        own();
    }
}

fn is_owner() -> bool {
    OWNER.load(Ordering::Acquire) == crate::os::process_id()
}

/// A signal's station; `None`: no such signal.
pub(crate) fn station(signal: c_int) -> Option<&'static Station> {
    STATIONS.get(usize::try_from(signal).ok().filter(|&signal| signal != 0)?)
}

impl Station {
    /// We make place for a delivery.
    fn make_place(&self, delivery: &Delivery) {
        // Two that differ are taken for the same one in a few cases, by which we are away for longer than need be.
        let words = delivery.address as u64 ^ u64::from(delivery.code.cast_unsigned()) << 32;
        let of = words ^ u64::from(crate::os::thread_id() as u32).rotate_left(48);
        let again = self.aside.swap(of, Ordering::Relaxed) == of;
        let before = self.again.load(Ordering::Relaxed);
        self.again.store(if again { before.saturating_add(1) } else { 0 }, Ordering::Relaxed);
        self.roles.add(ASIDE);
    }

    /// How often in a row place was made for the same delivery.
    pub(super) fn made_again(&self) -> u32 {
        self.again.load(Ordering::Relaxed)
    }

    pub(crate) fn levels(&self) -> usize {
        self.levels.load(Ordering::Acquire)
    }

    /// What was done before us at a level. While that is found out, it waits.
    pub(crate) fn previous(&self, level: usize) -> Option<Action> {
        let previous = self.previous.get(level)?;
        Some(Action {
            handler: previous.settled(),
            flags: previous.flags.load(Ordering::Relaxed),
            mask: previous.mask.load(Ordering::Relaxed),
        })
    }

    /// Corrects what was done before us at a level, before or while we are installed.
    pub(crate) fn set_previous(&self, level: usize, action: Action) {
        if let Some(previous) = self.previous.get(level) {
            previous.flags.store(action.flags, Ordering::Relaxed);
            previous.mask.store(action.mask, Ordering::Relaxed);
            previous.handler.store(action.handler, Ordering::Release);
        }
    }

    /// What was done before us at a level is not known until it is set: who wants to know waits for that.
    pub(super) fn unsettle(&self, level: usize) {
        if let Some(previous) = self.previous.get(level) {
            previous.handler.store(UNSETTLED, Ordering::Release);
        }
    }

    #[cfg(test)]
    pub(super) fn is_settled(&self, level: usize) -> bool {
        self.previous.get(level).is_none_or(|previous| previous.handler.load(Ordering::Acquire) != UNSETTLED)
    }

    pub(crate) fn set_levels(&self, levels: usize) {
        self.levels.store(levels, Ordering::Release);
    }

    /// A handler that wanted to be called once is called now; false: it was called before.
    pub(super) fn use_up(&self, level: usize, action: &Action) -> bool {
        let Some(previous) = self.previous.get(level) else { return false };
        while previous.settled() == action.handler {
            let (from, to) = (action.handler, Action::DEFAULT.handler);
            if previous.handler.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return true;
            }
        }
        false
    }
}

/// One call of our handler.
pub(crate) struct Delivery {
    pub(crate) signal: c_int,
    pub(crate) info: *mut Info,
    pub(crate) context: *mut c_void,
    pub(crate) code: c_int,
    pub(crate) address: usize,
    sender: c_int,
    /// It is a fault in our memory, and is passed on all the same.
    pub(super) is_ours: bool,
}

impl Delivery {
    /// # Safety
    ///
    /// What a handler was called with, which is valid until it returns.
    #[allow(unsafe_code)]
    pub(super) unsafe fn new(signal: c_int, info: *mut Info, context: *mut c_void) -> Self {
        // SAFETY: as the caller vouches.
        let words = unsafe { signals::words(info) };
        Self {
            signal,
            info,
            context,
            code: words.code,
            address: words.address,
            sender: words.sender,
            is_ours: false,
        }
    }

    /// Did the kernel raise it for what this thread has done? Else somebody has sent it, and the address is none.
    pub(crate) fn is_fault(&self) -> bool {
        signals::is_fault(self.code)
    }

    /// What has failed, if it is about an access to memory.
    pub(super) fn failure(&self) -> Option<Failure> {
        signals::failure(self.signal, self.code).filter(|_| self.is_fault())
    }

    /// The access that has failed, for who dies of it.
    pub(super) fn fatal(&self) -> Option<Fatal> {
        let is_lost = self.failure()? != Failure::Denied;
        Some(Fatal { address: self.address, is_lost })
    }

    /// Is it abort(3), which ends the process whatever is done about the signal, and does not tell us so? Or raise(3), which
    /// looks the same.
    fn is_abort(&self) -> bool {
        self.signal == libc::SIGABRT
            && signals::is_raised(self.code)
            && self.sender.cast_unsigned() == crate::os::process_id()
    }

    /// Does it come again if the thread goes on as before? So it seems; who has sent it with a code of the kernel's, which
    /// a process may do to itself, has made it seem so.
    fn recurs(&self) -> bool {
        signals::recurs(self.signal, self.code)
    }

    /// How deep in the stack our handler was called: it lies in its frame.
    fn frame(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn bit(&self) -> Mask {
        signals::bit(self.signal)
    }

    /// Remembers what came with it, for the coordinator's thread.
    #[allow(unsafe_code)]
    pub(super) fn hand_over(&self) {
        // SAFETY: what our handler was called with.
        deliveries::put(self.signal, |index| unsafe { signals::word(self.info, index) });
    }
}

/// Is the signal ignored, and would it be without us? A fault cannot be: the kernel ends the process.
pub(super) fn is_ignored(station: &Station, delivery: &Delivery) -> bool {
    let level = station.levels().saturating_sub(1);
    let action = station.previous(level).unwrap_or(Action::DEFAULT);
    action.handler == libc::SIG_IGN && !delivery.is_fault()
}

/// Hands a delivery on to whoever was there before us. `last`: it has to end the process, whatever they do.
#[inline(never)]
#[allow(unsafe_code)]
pub(super) fn pass(station: &Station, delivery: &Delivery, last: bool) {
    let wipes = last || station.roles.now() & (FAULT | WIPES) != 0;
    let Some(turn) = Turn::begin(station, delivery) else {
        return by_default(delivery, wipes);
    };
    let level = turn.level();
    let action = station.previous(level).unwrap_or(Action::DEFAULT);
    if !action.is_function() {
        turn.end();
        if action.handler == libc::SIG_DFL || delivery.is_fault() || last {
            by_default(delivery, wipes);
        } else if delivery.is_abort() && wipes {
            dying::run(None);
        }
        return;
    }
    // SAFETY: what our handler was called with.
    let stack = unsafe { signals::alternate_stack(delivery.context) };
    // Where it has to be the last, and would not come again, it is called on this stack all the same.
    if !action.has(libc::SA_ONSTACK) && stack.is_some() && (delivery.recurs() || !last) {
        turn.end();
        if delivery.is_abort() && wipes {
            // Nobody will tell us when that handler has returned.
            dying::run(None);
        }
        return step_aside(station, delivery, action, last, wipes);
    }
    if action.has(libc::SA_RESETHAND) && !use_up(station, level, delivery, &action) {
        turn.end();
        return by_default(delivery, wipes);
    }
    let abort = abort::make_room(delivery, Some(&action));
    call(&action, delivery);
    abort::take_room(abort);
    turn.end();
    if last {
        by_default(delivery, wipes);
    } else if delivery.is_abort() && wipes {
        // abort(3) goes on by itself, and asks nobody any more.
        dying::run(None);
    } else {
        stay(station, delivery);
    }
}

/// Who does not know a fault resets the signal to what ends the process, and returns: so does Rust's own handler. It means
/// itself, and takes us out with it. So we take that for what is to be done after us, to be there when it happens.
#[inline(never)]
fn stay(station: &Station, delivery: &Delivery) {
    let is_over = signals::action(delivery.signal).is_ok_and(|now| now.handler == libc::SIG_DFL);
    if is_over && delivery.is_ours {
        // It has been told, and the program asked: not once more.
        return dying::run(delivery.fatal());
    }
    let Some(level) = station.levels().checked_sub(1) else { return };
    if is_over && station.roles.now() != 0 && is_owner() {
        station.set_previous(level, Action::DEFAULT);
        let _ = signals::put_action(delivery.signal, outside::ours(delivery.signal, &Action::DEFAULT));
    }
}

/// A handler that wanted to be called once is called now; false: it was called before.
#[inline(never)]
fn use_up(station: &Station, level: usize, delivery: &Delivery, action: &Action) -> bool {
    if is_owner() {
        return station.use_up(level, action);
    }
    // What is installed is this process's own, and the stations are not.
    signals::put_action(delivery.signal, Action::DEFAULT);
    true
}

/// Calls a handler under the mask that the kernel would have set.
#[allow(unsafe_code)]
fn call(action: &Action, delivery: &Delivery) {
    let own = if action.has(libc::SA_NODEFER) { 0 } else { delivery.bit() };
    // SAFETY: a context that is valid until our handler returns.
    let interrupted = unsafe { signals::interrupted_mask(delivery.context) };
    let ours = signals::set_mask(interrupted | action.mask | own);
    // SAFETY: installed as a handler by somebody. A handler without SA_SIGINFO takes the first of these arguments; the
    // kernel passes all of them to it, too.
    let function = unsafe { std::mem::transmute::<usize, signals::Function>(action.handler) };
    function(delivery.signal, delivery.info, delivery.context);
    if let Some(ours) = ours {
        signals::set_mask(ours);
    }
}

/// Lets the kernel call a handler that must not run on the alternate stack: on its own, when we have returned.
#[inline(never)]
fn step_aside(station: &Station, delivery: &Delivery, mut action: Action, last: bool, wipes: bool) {
    if last {
        // When it comes again after that handler, it ends the process.
        action.flags |= libc::SA_RESETHAND;
    }
    if !signals::put_action(delivery.signal, action) {
        return by_default(delivery, wipes);
    }
    if is_owner() {
        station.make_place(delivery);
        thread::wake();
    }
    if !come_again(delivery) {
        by_default(delivery, wipes);
    }
}

/// Has the kernel deliver it again when we have returned, with the same words. Also a fault: it may have been sent with a
/// code of the kernel's; or another thread may repair meanwhile what would have ended the process without us.
#[allow(unsafe_code)]
fn come_again(delivery: &Delivery) -> bool {
    // SAFETY: what our handler was called with.
    unsafe { signals::send_again(delivery.signal, delivery.info) || delivery.recurs() }
}

/// What the kernel does where nobody has said anything. signal(7)
#[derive(PartialEq, Eq)]
enum Default {
    Nothing,
    Stop,
    End,
}

fn default_of(signal: c_int) -> Default {
    match signal {
        libc::SIGCHLD | libc::SIGURG | libc::SIGWINCH | libc::SIGCONT => Default::Nothing,
        libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => Default::Stop,
        _ => Default::End,
    }
}

/// Has the kernel do what it would have done without any handler.
#[inline(never)]
pub(super) fn by_default(delivery: &Delivery, wipes: bool) {
    match default_of(delivery.signal) {
        Default::Nothing => return,
        Default::Stop => {
            signals::send(libc::SIGSTOP);
            return;
        }
        Default::End => {}
    }
    if wipes {
        dying::run(delivery.fatal());
    }
    if !signals::put_action(delivery.signal, Action::DEFAULT) || !come_again(delivery) {
        signals::end_now(delivery.signal);
    }
}

/// The same for one that is not passed on to anybody: it ends the process, and wipes before.
pub(super) fn end(delivery: &Delivery) {
    by_default(delivery, true);
    if default_of(delivery.signal) != Default::End {
        dying::run(None);
        signals::end_now(delivery.signal);
    }
}

/// The same on an ordinary thread, where our handler is not installed any more.
pub(super) fn end_here(signal: c_int) -> ! {
    dying::run(None);
    if default_of(signal) == Default::End && signals::set_action(signal, Action::DEFAULT).is_ok() {
        signals::send(signal);
        signals::unblock(signals::bit(signal));
    }
    signals::end_now(signal)
}

/// Does a signal end the process where nobody has said anything?
pub(crate) fn ends_by_default(signal: c_int) -> bool {
    default_of(signal) == Default::End
}

//! Signals, by name.

use std::fmt;

use crate::error::{Error, Result};
use crate::fault::outside::FAULTS;
use crate::os::signals::{self, Mask, numbers};

/// A signal that can be coordinated. signal(7)
///
/// Not among them are SIGKILL and SIGSTOP, which nobody can handle; those that a thread raises by what it does (SIGSEGV,
/// SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS) and SIGABRT, which are [`fault::install`](crate::fault::install)'s; and those
/// that the C library keeps to itself.
///
/// Windows has console events instead: CTRL_C is [`INT`](Self::INT), CTRL_BREAK is [`QUIT`](Self::QUIT), CTRL_CLOSE is
/// [`HUP`](Self::HUP), and CTRL_LOGOFF and CTRL_SHUTDOWN are [`TERM`](Self::TERM). The other names are there, and to coordinate
/// one of them is [`Error::BadSignal`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(i32);

macro_rules! names {
    ($($name:ident = $number:ident, $text:literal;)*) => {
        impl Signal {
            $(#[doc = $text] pub const $name: Self = Self(numbers::$number);)*

            fn name(self) -> Option<&'static str> {
                match self.0 {
                    $(numbers::$number => Some(stringify!($number)),)*
                    _ => None,
                }
            }
        }
    };
}

names! {
    HUP = SIGHUP, "The terminal is gone; by custom, for a daemon: read the configuration again.";
    INT = SIGINT, "Interrupted from the keyboard.";
    QUIT = SIGQUIT, "Quit from the keyboard, with a core dump.";
    USR1 = SIGUSR1, "The program's own, the first.";
    USR2 = SIGUSR2, "The program's own, the second.";
    PIPE = SIGPIPE, "Written to a pipe that nobody reads. Ignored in programs of Rust unless they say otherwise.";
    ALRM = SIGALRM, "A timer of alarm(2).";
    TERM = SIGTERM, "Please end.";
    CHLD = SIGCHLD, "A child has stopped or ended.";
    CONT = SIGCONT, "Goes on after a stop.";
    TSTP = SIGTSTP, "Stopped from the keyboard.";
    TTIN = SIGTTIN, "Reads from the terminal in the background.";
    TTOU = SIGTTOU, "Writes to the terminal in the background.";
    URG = SIGURG, "Urgent data at a socket.";
    XCPU = SIGXCPU, "The limit on processor time is reached.";
    XFSZ = SIGXFSZ, "The limit on file sizes is reached.";
    VTALRM = SIGVTALRM, "A timer of processor time.";
    PROF = SIGPROF, "A profiler's timer.";
    WINCH = SIGWINCH, "The window's size has changed.";
    IO = SIGIO, "Something can be read or written.";
}

impl Signal {
    /// What asks a program to end: SIGHUP, SIGINT, SIGQUIT, SIGTERM.
    pub const TERMINATION: [Self; 4] = [Self::HUP, Self::INT, Self::QUIT, Self::TERM];

    /// The `n`-th real-time signal, from zero. They are queued, and each is delivered.
    ///
    /// # Errors
    ///
    /// [`Error::BadSignal`] where there are not so many; macOS, FreeBSD and OpenBSD have none that can be coordinated.
    pub fn real_time(n: u8) -> Result<Self> {
        let signal = signals::real_time().map_or(0, |(first, _)| first + i32::from(n));
        Self::from_raw(signal)
    }

    /// The signal of a number.
    ///
    /// # Errors
    ///
    /// [`Error::BadSignal`] where there is no such signal, or it is none that can be coordinated.
    pub fn from_raw(signal: i32) -> Result<Self> {
        let ordinary = signals::can_be_handled(signal);
        let real_time = is_real_time(signal);
        if (ordinary && !FAULTS.contains(&signal)) || real_time {
            return Ok(Self(signal));
        }
        Err(Error::BadSignal { signal })
    }

    /// Its number.
    #[must_use]
    pub const fn as_raw(self) -> i32 {
        self.0
    }

    pub(super) const fn known(signal: i32) -> Self {
        Self(signal)
    }

    pub(super) fn bit(self) -> Mask {
        signals::bit(self.0)
    }
}

fn is_real_time(signal: i32) -> bool {
    signals::real_time().is_some_and(|(first, last)| (first..=last).contains(&signal))
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None if is_real_time(self.0) => {
                write!(f, "SIGRTMIN+{}", self.0 - signals::real_time().map_or(0, |(first, _)| first))
            }
            None => write!(f, "signal {}", self.0),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_coordinated_is_refused() {
        let refused = [0, -1, 65, i32::MAX, libc::SIGKILL, libc::SIGSTOP, 32, libc::SIGRTMIN() - 1];
        for signal in refused.into_iter().chain(FAULTS) {
            assert_eq!(Signal::from_raw(signal), Err(Error::BadSignal { signal }));
        }
        assert!(Signal::real_time(0).is_ok() && Signal::real_time(255).is_err());
    }

    #[test]
    fn they_have_names() {
        assert_eq!(Signal::TERM.to_string(), "SIGTERM");
        assert_eq!(Signal::real_time(2).map(|signal| signal.to_string()).as_deref(), Ok("SIGRTMIN+2"));
        assert_eq!(
            Signal::from_raw(libc::SIGPWR).map(|signal| signal.to_string()),
            Ok(format!("signal {}", libc::SIGPWR))
        );
    }
}

#[cfg(all(test, windows))]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_event_is_refused_and_names_are_those_of_signals() {
        for signal in [0, -1, 9, 10, 17, 34, 64, i32::MAX, Signal::USR1.as_raw()].into_iter().chain(FAULTS) {
            assert_eq!(Signal::from_raw(signal), Err(Error::BadSignal { signal }));
        }
        assert!(Signal::real_time(0).is_err());
        assert!(Signal::TERMINATION.iter().all(|one| Signal::from_raw(one.as_raw()) == Ok(*one)));
        assert_eq!(Signal::TERM.to_string(), "SIGTERM");
    }
}

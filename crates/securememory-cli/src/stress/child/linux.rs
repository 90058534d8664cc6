//! Forked children: they must find every secret gone, and end at once.

use std::sync::Arc;

use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};
use securememory::Error;

use crate::stress::scene::Entry;
use crate::stress::tally::Tally;
use crate::stress::value::Wrong;
use crate::{raw, system};

/// What a child ends with, and what that means.
const VERDICTS: [(u8, &str); 5] = [
    (0, "every secret was refused"),
    (10, "a secret was opened and showed its right bytes"),
    (11, "a secret was opened and showed wrong bytes"),
    (12, "a call was refused with another error than Forked"),
    (13, "a view that was open across the fork was not wiped"),
];

/// Forks, waits for the child, and judges how it ended. `liar`: the child claims to have got in.
pub fn fork(tally: &Tally, entries: &[Arc<Entry>], open: Option<&[u8]>, liar: bool) {
    let child = || if liar { 10 } else { look(entries, open) };
    let pid = match raw::fork_beside_threads(child) {
        Ok(pid) => pid,
        Err(error) => return tally.unexpected(format!("fork: {error}")),
    };
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return tally.unexpected(format!("fork: {pid} is no process"));
    };
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(Some((_, status))) => return judge(tally, status),
            other => return tally.unexpected(format!("waiting for a child: {other:?}")),
        }
    }
}

fn judge(tally: &Tally, status: WaitStatus) {
    if let Some(signal) = status.terminating_signal() {
        return tally.fault(format!("a forked child was killed by {}", system::signal_name(signal)));
    }
    let code = status.exit_status();
    match VERDICTS.iter().find(|(verdict, _)| Some(i32::from(*verdict)) == code) {
        Some((0, _)) => {}
        Some((11, what)) => tally.wrong(&Wrong { bytes: 1, what: (*what).to_owned() }, "a forked child"),
        Some((_, what)) => tally.unexpected(format!("a forked child: {what}")),
        None => tally.unexpected(format!("a forked child ended with {code:?}")),
    }
}

/// The child's part. Nothing here allocates or takes a lock that another thread of the parent may have held.
fn look(entries: &[Arc<Entry>], open: Option<&[u8]>) -> u8 {
    if open.is_some_and(|bytes| bytes.iter().any(|&byte| byte != 0)) {
        return 13;
    }
    for entry in entries {
        match entry.secret.view() {
            Ok(view) => return if entry.facts.check(&view, 0).is_ok() { 10 } else { 11 },
            Err(Error::Forked) => {}
            Err(_) => return 12,
        }
        let calls = [
            entry.secret.owned_view().err(),
            entry.secret.view_mut().err(),
            entry.secret.close().err(),
            entry.secret.with(|_| ()).err().map(|failed| failed.error()),
        ];
        if calls.iter().any(|error| *error != Some(Error::Forked)) {
            return 12;
        }
    }
    0
}

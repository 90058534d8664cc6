//! Threads that hold a view and do not give it back before they are told to.

use std::sync::mpsc::{Receiver, Sender, channel};

use securememory::testing::thread_id;
use securememory::{Error, OnClose, Secret, ViewKind, WithError};

use super::common::look_open;
use super::round::LEN;

/// What a thread holds, as a close has to tell it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    pub secret: u64,
    pub label: Option<String>,
    pub thread: u32,
    /// As its name, since kinds have no order.
    pub kind: String,
}

/// The way to a thread that holds.
pub struct Handle {
    pub held: Held,
    /// Where the bytes are.
    pub address: usize,
    pub value: u8,
    go: Sender<()>,
}

impl Handle {
    pub fn release(&self) {
        self.go.send(()).expect("the holder waits");
    }

    /// Are the bytes to be found where they were?
    pub fn shows(&self) -> bool {
        let mut seen = [0; LEN];
        look_open(self.address, &mut seen) == LEN && seen == [self.value; LEN]
    }
}

/// What a holder is told to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    View,
    Writer,
    Owned,
    /// An owned view of which it has only a part left.
    Part,
    /// An owned view that it is using all the time.
    Using,
}

fn report(tell: &Sender<Handle>, secret: &Secret, kind: ViewKind, bytes: (usize, u8)) -> Receiver<()> {
    let (go, wait) = channel();
    let held = Held {
        secret: secret.id(),
        label: secret.label().map(str::to_owned),
        thread: thread_id(),
        kind: kind.to_string(),
    };
    tell.send(Handle { held, address: bytes.0, value: bytes.1, go }).expect("the round waits");
    wait
}

fn place(bytes: &[u8]) -> (usize, u8) {
    (bytes.as_ptr().addr(), bytes[0])
}

fn is_whole(bytes: &[u8]) -> bool {
    bytes.len() == LEN && bytes.iter().all(|&byte| byte == bytes[0])
}

/// Holds, is told, and looks at the end whether all is as the policy says.
pub fn hold(what: Hold, secret: &Secret, on_close: OnClose, tell: &Sender<Handle>) {
    let revoked = on_close == OnClose::Revoke;
    let outcome = if revoked { Err(Error::Revoked) } else { Ok(()) };
    match what {
        Hold::View => {
            let view = secret.view().expect("a view");
            let before = view[0];
            let wait = report(tell, secret, ViewKind::Borrowed, place(&view));
            if wait.recv().is_err() {
                return;
            }
            assert!(is_whole(&view) && view[0] == before, "a view keeps its bytes");
            assert_eq!(view.finish(), outcome);
        }
        Hold::Writer => {
            let mut writer = secret.view_mut().expect("a writer");
            writer.fill(0x77);
            let wait = report(tell, secret, ViewKind::Writer, place(&writer));
            if wait.recv().is_err() {
                return;
            }
            assert!(is_whole(&writer) && writer[0] == 0x77, "a writer keeps its bytes");
            assert_eq!(writer.commit(), Err(if revoked { Error::Revoked } else { Error::Closed }));
        }
        Hold::Owned | Hold::Part => {
            let mut view = secret.owned_view().expect("an owned view");
            if what == Hold::Part {
                view = view.part(..).expect("a part");
            }
            let at = view.with(place).expect("its bytes");
            let wait = report(tell, secret, ViewKind::Owned, at);
            if wait.recv().is_err() {
                return;
            }
            let used = view.with(is_whole);
            assert_eq!(used, if revoked { Err(WithError::NotRun(Error::Revoked)) } else { Ok(true) });
        }
        Hold::Using => {
            let view = secret.owned_view().expect("an owned view");
            let used = view.with(|bytes| {
                let wait = report(tell, secret, ViewKind::Owned, place(bytes));
                _ = wait.recv();
                is_whole(bytes)
            });
            let revoked = Err(WithError::Ran { result: true, error: Error::Revoked });
            assert_eq!(used, if outcome.is_ok() { Ok(true) } else { revoked });
        }
    }
}

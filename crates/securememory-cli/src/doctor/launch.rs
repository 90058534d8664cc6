//! Starts an attacker, with a deadline.

use std::io::{self, Read, Write};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use super::order::{Answer, Order};
use super::verdict::Trouble;
use crate::system::{self, Family};

/// Whose processes attacker and victim are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// The doctor's.
    Same,
    /// One without rights; only root can choose that.
    Ordinary,
}

/// Has an order carried out.
pub fn launch(order: &Order, user: User) -> Result<Answer, Trouble> {
    let mut command = system::myself("doctor-attacker")?;
    Family::led_by(&mut command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if user == User::Ordinary {
        system::as_ordinary_user(&mut command);
    }
    let mut child = command.spawn().map_err(|error| match (user, error.kind()) {
        (User::Ordinary, _) => {
            Trouble::NotHere(format!("no process of an ordinary user can be made here: {error}"))
        }
        (User::Same, _) => Trouble::failed(format!("an attacker could not be started: {error}")),
    })?;
    let family = Family::of(&child)?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut input), Some(output), Some(errors)) = pipes else {
        return Err(Trouble::failed("an attacker without pipes"));
    };
    let answer = read_all(output);
    let errors = read_all(errors);
    let line = serde_json::to_string(order).map_err(|error| Trouble::failed(error.to_string()))? + "\n";
    // An attacker that is gone shows when its answer is read.
    let _ = input.write_all(line.as_bytes());
    drop(input);
    let answer = answer.recv_timeout(order.deadline);
    // Its victim and their children are of its family.
    family.end();
    let status = child.wait()?;
    let answer = answer.map_err(|_| {
        Trouble::failed(format!("no answer within {} s; --deadline gives more", order.deadline.as_secs()))
    })?;
    serde_json::from_str(&answer).map_err(|_| {
        let errors = errors.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
        let last = errors.lines().rfind(|line| !line.starts_with("note:")).unwrap_or("no message");
        Trouble::failed(format!("the attacker died ({status}): {last}"))
    })
}

/// All of a stream as text, from a thread that may be left behind.
fn read_all(mut stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read: io::Result<usize> = stream.read_to_end(&mut bytes);
        // Nobody waits for it any more: fine.
        let _ = send.send(if read.is_ok() {
            String::from_utf8_lossy(&bytes).into_owned()
        } else {
            String::new()
        });
    });
    receive
}

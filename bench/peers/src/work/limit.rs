//! How many secrets of 32 bytes can be made, how the next one fails, and whether those that were made survive it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Once;
use crate::peer::Peer;
use crate::{Failure, proc};

/// So many are enough, and so much time.
const ENOUGH: usize = 100_000;
const TIME: Duration = Duration::from_secs(20);
/// The parent is told how far it got at least, in case the next one is the end of the process.
const TELL: usize = 256;

/// Of an ordinary user.
pub const LOCKABLE: u64 = 8 << 20;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    pub made: usize,
    /// Why there are no more; `None` if the process did not live to tell.
    pub end: Option<String>,
    /// Bytes locked in the whole process at that moment.
    pub locked: Option<u64>,
    /// Could the first and the last one still be read after the failure?
    pub readable: Option<bool>,
}

/// What the child says before it drops all that it made: the drop may be the end of it.
pub const MADE: &str = "made ";
/// And how far it has come.
pub const SO_FAR: &str = "so-far ";

pub fn job<P: Peer>(peer: P) -> Once {
    Box::new(move || {
        let limit = until_failure(&peer)?;
        Ok(serde_json::to_string(&limit)?)
    })
}

fn until_failure<P: Peer>(peer: &P) -> Result<Limit, Failure> {
    let mut secrets = Vec::with_capacity(ENOUGH);
    // There may be no more descriptors later.
    let status = proc::Status::open()?;
    let begin = Instant::now();
    let end = loop {
        if secrets.len() == ENOUGH {
            break "none failed".to_string();
        }
        if secrets.len().is_multiple_of(TELL) {
            println!("{SO_FAR}{}", secrets.len());
            if begin.elapsed() > TIME {
                break format!("none failed in {} s", TIME.as_secs());
            }
        }
        match catch_unwind(AssertUnwindSafe(|| peer.create(&mut [0x5a; 32]))) {
            Ok(Ok(secret)) => secrets.push(secret),
            Ok(Err(failure)) => break format!("error: {failure}"),
            Err(panic) => break format!("panic: {}", message(&*panic)),
        }
    };
    let locked = Some(status.locked()?);
    let made = secrets.len();
    let mut readable = true;
    let last = made.saturating_sub(1);
    for index in [0, last] {
        if let Some(secret) = secrets.get_mut(index) {
            let same = |bytes: &[u8]| u64::from(bytes.iter().all(|byte| *byte == 0x5a));
            let read = catch_unwind(AssertUnwindSafe(|| P::read(secret, same)));
            readable &= matches!(read, Ok(Ok(1)));
        }
    }
    let limit = Limit { made, end: Some(end), locked, readable: Some(readable) };
    println!("{MADE}{}", serde_json::to_string(&limit)?);
    drop(secrets);
    Ok(limit)
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

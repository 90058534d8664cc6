//! `crash` and `kill-…`: a process that ends in the middle of its work, with threads that use the secret.

#[cfg_attr(windows, path = "crash/windows.rs")]
#[cfg_attr(not(windows), path = "crash/linux.rs")]
mod system;

use std::io::BufRead;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::held::{Crowd, Held};
use super::{next_line, open, say};
use crate::doctor::order::{Armed, Care, Command, EXIT_CODE, End, Order, Reply};
use crate::doctor::verdict::Trouble;
use crate::raw;
use crate::system::{page_size, thread as this_thread};

/// Reads that are made before the end is told that all is ready.
const READS: u64 = 50;

/// Gets ready to die, and dies.
pub fn arm(input: &mut impl BufRead, order: &Order, held: &Held, care: Care) -> Result<(), Trouble> {
    system::take_care(care)?;
    let witness = system::witness(order)?;
    let users = Users {
        holding: AtomicU8::new(0),
        told: AtomicU8::new(raw::HOLD),
        over: AtomicBool::new(false),
        reads: AtomicU64::new(0),
        reader: AtomicI32::new(0),
    };
    thread::scope(|scope| {
        let (send, ready) = mpsc::channel();
        let holder = scope.spawn(|| users.hold(held, send));
        let reader = scope.spawn(|| users.read(held, order));
        let outcome = (|| {
            // Threads take room that is not there any more when the host allows no more secrets.
            let crowd = Crowd::make(held, &order.needle, order.crowd)?;
            let Ok(mut armed) = ready.recv() else {
                return Err(Trouble::failed("the thread that was to open a view has ended"));
            };
            let is_ready =
                || users.reads.load(Ordering::Relaxed) >= READS && users.holding.load(Ordering::Relaxed) != 0;
            while !is_ready() && !reader.is_finished() && !holder.is_finished() {
                thread::sleep(Duration::from_micros(50));
            }
            armed.reader = users.reader.load(Ordering::Relaxed);
            armed.witness = witness;
            (armed.crowd, armed.limit) = (crowd.len(), crowd.limit.clone());
            say(&Reply::Armed(armed));
            while let Some(Command::Die(end)) = next_line(input) {
                die(end, held, &users)?;
            }
            Ok(())
        })();
        users.over.store(true, Ordering::Relaxed);
        users.told.store(raw::RELEASE, Ordering::Relaxed);
        let panicked = |_| Trouble::failed("a thread beside the end panicked");
        outcome.and(holder.join().map_err(panicked)?).and(reader.join().map_err(panicked)?)
    })
}

/// What the threads that use the secret are told.
struct Users {
    holding: AtomicU8,
    told: AtomicU8,
    over: AtomicBool,
    reads: AtomicU64,
    reader: AtomicI32,
}

impl Users {
    /// Opens a view and works on its bytes.
    fn hold(&self, held: &Held, ready: mpsc::Sender<Armed>) -> Result<(), Trouble> {
        let view = open(held)?;
        let bytes = view.bytes();
        // Behind a view is a guard page; behind a vector only luck.
        let beyond = match held {
            Held::Plain(_) => 16,
            Held::Kept(_) => view.address().saturating_add(bytes.len()).next_multiple_of(page_size()),
        };
        let armed = Armed {
            holder: this_thread(),
            reader: 0,
            witness: None,
            signal_stack: system::saves_registers().map(|stack| (stack.start, stack.end)),
            at_end: system::end_mark(),
            held: raw::held_bytes(bytes.len()),
            crowd: 0,
            limit: None,
        };
        // Received as long as anybody is there.
        let _ = ready.send(armed);
        drop(ready);
        raw::hold(bytes, &self.holding, &self.told, beyond);
        Ok(())
    }

    /// Reads again and again. When the process is ending, reads are errors, and are tried none the less.
    fn read(&self, held: &Held, order: &Order) -> Result<(), Trouble> {
        self.reader.store(this_thread(), Ordering::Relaxed);
        while !self.over.load(Ordering::Relaxed) {
            let read = held.read(&order.needle);
            let reads = self.reads.fetch_add(1, Ordering::Relaxed);
            if let Err(why) = read
                && reads < READS
            {
                return Err(Trouble::failed(format!("a read beside the end gave {why}")));
            }
        }
        Ok(())
    }
}

/// Dies; or, of a signal that is sent, waits for it.
fn die(end: End, held: &Held, users: &Users) -> Result<(), Trouble> {
    match end {
        End::StrayRead => {
            stray_read(held)?;
            Err(Trouble::failed("a stray read did not fault"))
        }
        End::InView => {
            users.told.store(raw::STRAY, Ordering::Relaxed);
            thread::sleep(Duration::from_secs(10));
            Err(Trouble::failed("a stray read past a view did not end the process"))
        }
        End::NullWrite => {
            raw::null_store();
            Err(Trouble::failed("a null pointer could be written through"))
        }
        End::Abort => std::process::abort(),
        End::Exit => std::process::exit(EXIT_CODE),
        End::Sent(_) => Ok(()),
    }
}

/// Reads where no view is open: a paged secret at rest, or behind the end of another view.
fn stray_read(held: &Held) -> Result<(), Trouble> {
    let Held::Kept(kept) = held else {
        raw::stray_load(16);
        return Ok(());
    };
    if let Some(at) = kept.paged_decoy() {
        raw::stray_load(at);
        return Ok(());
    }
    let view = kept.decoy.view()?;
    let end = view.as_ptr().expose_provenance().saturating_add(view.len());
    raw::stray_load(end.next_multiple_of(page_size()));
    Ok(())
}

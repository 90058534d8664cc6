//! `crash`, `kill-…`: what is left of a process when it ends, before the kernel takes it away.

use std::ops::Range;
use std::process::ExitStatus;
use std::time::Instant;

use super::captive::Captive;
use super::find_key;
use super::tracer::{ENDS, Tracer, Witness, signal_of};
use crate::doctor::crack::{Crack, Found, KEY, Record, everywhere};
use crate::doctor::loot::{Loot, Through, loot};
use crate::doctor::memory::{Mapping, Sight, mappings, without};
use crate::doctor::needle::Needle;
use crate::doctor::order::{Armed, Care, Command, EXIT_CODE, End, Order};
use crate::doctor::promises::{Attack, Kept};
use crate::doctor::search::{Search, how};
use crate::doctor::verdict::{Trouble, Verdict};
use crate::system;

/// Every way in which a program ends itself.
pub fn crash(order: &Order, victim: Captive) -> Result<Verdict, Trouble> {
    every(order, victim, ENDS, Care::Faults)
}

/// A signal from outside.
pub fn killed(order: &Order, victim: Captive, attack: Attack) -> Result<Verdict, Trouble> {
    let signal = signal_of(attack).ok_or_else(|| Trouble::failed("not an attack by a signal"))?;
    let faults = matches!(attack, Attack::KillSegv | Attack::KillBus | Attack::KillAbrt);
    let care = if faults { Care::Faults } else { Care::FaultsAndSignals };
    every(order, victim, &[End::Sent(signal)], care)
}

/// One victim after the other, and at last one without fault handling, that must leave something.
fn every(order: &Order, victim: Captive, ends: &[End], care: Care) -> Result<Verdict, Trouble> {
    let (mut next, mut seen, mut last) = (Some(victim), Vec::new(), String::new());
    for end in ends {
        let victim = next.take().map_or_else(|| Captive::take(order), Ok)?;
        let left = Left::of(order, victim, *end, care)?;
        if let Some(leak) = left.leak {
            return Ok(Verdict::leaked(format!("{}: {leak}", left.ended)));
        }
        seen.push(left.ended);
        last = left.crowd + &left.nothing;
    }
    let control = control(order, ends.last().copied().unwrap_or(End::Abort))?;
    Ok(Verdict::blocked(format!(
        "{}: of the thread with the view, which are the stated limit. Else, at the last: {last}; {control}",
        seen.join(", ")
    )))
}

/// The same without fault handling. What is left then is the proof that it would be found.
fn control(order: &Order, end: End) -> Result<String, Trouble> {
    // Bytes that may be lost, and one secret: if that is left, many would be.
    let needle = Needle::random(order.needle.len())?;
    let order = &Order { needle, stand_in: true, crowd: 0, ..order.clone() };
    let left = Left::of(order, Captive::take(order)?, end, Care::None)?;
    let has_key = !matches!(order.kept, Kept::Plain | Kept::Paged);
    if !left.secret || has_key && !left.key && !left.unseen {
        return Err(Trouble::failed(format!(
            "the search was blind: without fault handling it found nothing after {}",
            left.ended
        )));
    }
    let what = if left.key { "secret and key were" } else { "the secret was" };
    Ok(format!("without fault handling {what} found"))
}

/// What is left of a process when all its threads are held at their exit.
struct Left {
    /// How it has ended, and what registers had.
    ended: String,
    /// How many other secrets there were.
    crowd: String,
    /// What was found outside of the registers of the thread with the view.
    leak: Option<String>,
    /// What was not found.
    nothing: String,
    /// Was it the secret, was it the key?
    secret: bool,
    key: bool,
    /// Is there a page for a key that could not be looked at?
    unseen: bool,
}

impl Left {
    /// Has a victim end, and looks at everything.
    fn of(order: &Order, mut victim: Captive, end: End, care: Care) -> Result<Self, Trouble> {
        let sight = Sight::outside(victim.pid)?;
        let known = find_key(order, &mut victim, &sight)?;
        let record = victim.facts.decoy.map(|at| Record::take(&sight, &at)).transpose()?;
        let shares = loot(victim.pid, Through::Duplicate)?.shares;
        let armed = victim.arm(care)?;
        let witness = Witness::of(&armed);
        let mut tracer = Tracer::seize(victim.pid, &armed)?;
        let begin = Instant::now();
        let sent = match end {
            End::Sent(signal) => {
                tracer.send(signal)?;
                Some(signal)
            }
            _ => {
                victim.tell(Command::Die(end))?;
                None
            }
        };
        tracer.until_exit(sent, order.deadline / 3)?;
        let took = begin.elapsed();
        let remains = Remains::take(&victim, &mut tracer, sight, shares)?;
        let mut looked = remains.look(order, known.as_ref(), record.as_ref(), &armed, end)?;
        let maps = remains.maps;
        tracer.let_go();
        let status = victim.end()?;
        if let (Some(witness), Some(known)) = (witness, &known) {
            let pages = maps.iter().filter(|mapping| mapping.secret());
            for range in pages.map(|mapping| &mapping.range) {
                match witness.sees(&mut victim, range) {
                    Ok(bytes) => looked.see_key(order, known, record.as_ref(), &maps, range, &bytes)?,
                    Err(why) => looked.see_nothing(&why),
                }
            }
        }
        if !is_true(end, status) {
            let said = victim.last_words().map(|trouble| format!(": {trouble}")).unwrap_or_default();
            return Err(Trouble::failed(format!("told to end by {}, it ended by {status}{said}", name(end))));
        }
        let crowd = match (armed.crowd, &armed.limit) {
            (0, None) => String::new(),
            (crowd, None) => format!("with {crowd} more secrets: "),
            (crowd, Some(limit)) => {
                format!("with {crowd} more secrets, where the host allows no more ({limit}): ")
            }
        };
        let (took, registers) = (took.as_millis(), &looked.ended);
        let ended = format!("{} ({status}, {took} ms; {registers})", name(end));
        Ok(Self { ended, crowd, ..looked })
    }
}

impl Left {
    /// Says that there is a page at which nobody can look.
    fn see_nothing(&mut self, why: &Trouble) {
        self.unseen = true;
        self.nothing += &format!("; the key's page itself could not be looked at: {why}");
    }

    /// Looks at a page that a witness has shown, and nobody else can read.
    fn see_key(
        &mut self,
        order: &Order,
        known: &Found,
        record: Option<&Record>,
        maps: &[Mapping],
        range: &Range<usize>,
        bytes: &[u8],
    ) -> Result<(), Trouble> {
        let mut search = Search::new(order, Some(known))?;
        search.finder.look(range.start, bytes);
        let mut cracks = record.map(|record| Crack::new(record, &[], 8));
        cracks.iter_mut().for_each(|crack| crack.look(range.start, bytes));
        let opened = cracks.and_then(|crack| crack.found).map(|found| how(&found, maps));
        let found = search.finds(maps).or(opened);
        self.key |= found.is_some();
        self.leak = self.leak.take().or(found);
        self.nothing +=
            &format!("; nor in {} bytes that only a process which shares the memory can read", bytes.len());
        Ok(())
    }
}

/// All there is to be looked at.
struct Remains<'a> {
    tracer: &'a Tracer,
    sight: Sight,
    maps: Vec<Mapping>,
    files: Loot,
    /// What files had before.
    shares: Vec<[u8; KEY]>,
}

impl<'a> Remains<'a> {
    fn take(
        victim: &Captive,
        tracer: &'a mut Tracer,
        sight: Sight,
        shares: Vec<[u8; KEY]>,
    ) -> Result<Self, Trouble> {
        let (maps, files) = match tracer.seen_before() {
            Some(seen) => seen,
            None => (mappings(victim.pid)?, loot(victim.pid, Through::Duplicate)?),
        };
        Ok(Self { tracer, sight, maps, files, shares })
    }

    fn look(
        &self,
        order: &Order,
        known: Option<&Found>,
        record: Option<&Record>,
        armed: &Armed,
        end: End,
    ) -> Result<Left, Trouble> {
        // Where the kernel saves the registers of the thread with the view, if that is the one that has failed.
        let frames = armed.signal_stack.filter(|_| end == End::InView).map(|(start, end)| start..end);
        let mut search = Search::of_shares(order, known, &self.shares)?;
        search.memory(&self.sight, &without(&self.maps, frames.clone()));
        search.finder.look(0, &self.files.bytes);
        // What is a stated limit: the registers of threads that are working on a view, or in the middle of a read.
        let (mut limit, mut reading) = (Search::new(order, known)?, Search::new(order, known)?);
        if let Some(frames) = frames {
            limit.memory(&self.sight, &within(&self.maps, &frames));
        }
        let in_frames = limit.secret_bytes();
        let mut crack = record.map(|record| self.everything(record));
        // Only now: some systems stop threads for it, and save their registers where a search would find them.
        let threads = self.tracer.registers()?;
        for (thread, bytes) in &threads {
            let search = match *thread {
                thread if thread == armed.holder => &mut limit,
                thread if thread == armed.reader => &mut reading,
                _ => &mut search,
            };
            search.finder.look(0, bytes);
        }
        search.saw()?;
        if order.stand_in && limit.secret_bytes() < armed.held {
            return Err(Trouble::failed(format!(
                "the search of registers was blind: it found {} of {} bytes that a thread had in them",
                limit.secret_bytes(),
                armed.held
            )));
        }
        let others = || threads.iter().filter(|(thread, _)| *thread != armed.reader);
        let cracked =
            crack.as_mut().map(|crack| self.crack(crack, others().map(|(_, bytes)| &bytes[..]), end));
        let (cracked, none) = cracked.unwrap_or_default();
        let key = cracked.or_else(|| search.finds_key(&self.maps)).or_else(|| limit.finds_key(&self.maps));
        let found = search.finds(&self.maps).or_else(|| key.clone());
        let mut registers = format!("{} bytes in registers", limit.secret_bytes());
        if in_frames > 0 {
            registers += " and where the kernel has saved them for the signal handler";
        }
        if reading.finds(&[]).is_some() {
            registers += ", and traces in those of a read that was stopped in its midst";
        }
        Ok(Left {
            ended: registers,
            crowd: String::new(),
            leak: found.map(|found| format!("{}, {found}", search.walk)),
            nothing: format!(
                "{}, nor in {} files ({} bytes) nor in registers of other threads{none}",
                search.nothing(),
                self.files.read,
                self.files.bytes.len(),
            ),
            secret: search.secret_bytes() > 0,
            key: key.is_some(),
            unseen: false,
        })
    }

    /// Tries all that is left in memory and files as the key.
    fn everything<'r>(&'r self, record: &'r Record) -> Crack<'r> {
        let mut crack = everywhere(&self.sight, &self.maps, record, &self.files.shares);
        crack.look(0, self.files.shares.as_flattened());
        crack
    }

    /// Tries what registers had, too; how much all of it was. Every two together, at the last end: that takes long, and
    /// one end is like the other.
    fn crack<'r>(
        &self,
        crack: &mut Crack<'_>,
        registers: impl Iterator<Item = &'r [u8]>,
        end: End,
    ) -> (Option<String>, String) {
        registers.for_each(|bytes| crack.look(0, bytes));
        let mut verb = "is";
        if Some(&end) == ENDS.last() && crack.found.is_none() {
            crack.look_at_pairs();
            verb = "and no two of them make";
        }
        let tried = format!("; none of {} sets of 32 bytes {verb} the key", crack.tried);
        (crack.found.map(|found| how(&found, &self.maps)), tried)
    }
}

/// The parts of mappings that lie in a range.
fn within(mappings: &[Mapping], range: &Range<usize>) -> Vec<Mapping> {
    without(&without(mappings, Some(0..range.start)), Some(range.end..usize::MAX))
}

/// Does the process end as one that has no protection would?
fn is_true(end: End, status: ExitStatus) -> bool {
    match end {
        End::StrayRead | End::InView | End::NullWrite => system::ended_by_fault(status),
        End::Abort => system::ended_by_abort(status),
        End::Exit => status.code() == Some(EXIT_CODE),
        End::Sent(signal) => system::ended_by(status, signal),
    }
}

fn name(end: End) -> &'static str {
    match end {
        End::StrayRead => "a stray read of closed memory",
        End::InView => "a stray read past a view",
        End::NullWrite => "a write through a null pointer",
        End::Abort => "abort",
        End::Exit => "exit",
        End::Sent(_) => "a signal from outside",
    }
}

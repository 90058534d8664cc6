//! What all checks of one run share: the needles, the controls, a place for cores.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::launch::{User, launch};
use super::needle::{Needle, WINDOW, random};
use super::order::{Answer, Order, Task};
use super::promises::{Attack, Kept};
use super::verdict::{Trouble, Verdict};
use crate::system;

/// Bytes of a secret where the user gave none: whole blocks of every cipher, and a part of one, for which ciphers
/// have code of its own that may leave traces of its own.
const LEN: usize = 45;
/// Bytes of the baseline, always: a freed vector loses its first 16 to the allocator, and a very large one all.
const PLAIN_LEN: usize = 64;

/// What all checks of one run share.
pub struct Scene {
    key: Option<Needle>,
    root: bool,
    beacon: Needle,
    /// How many secrets there are besides, where the process crashes.
    crowd: usize,
    /// How long an attack may take.
    deadline: Duration,
    /// For each store that was met: what is common to all processes that use it, of the user's key.
    controls: Vec<(Kept, Result<Vec<u32>, Trouble>)>,
}

impl Scene {
    /// Sets it.
    pub fn set(key: Option<Needle>, root: bool, crowd: usize, deadline: Duration) -> io::Result<Self> {
        // No core of the doctor or of anything that it starts, but for the one attack that asks for one.
        system::no_cores()?;
        Ok(Self { key, root, beacon: Needle::random(4 * WINDOW)?, crowd, deadline, controls: Vec::new() })
    }

    /// Has one attack carried out.
    pub fn attack(&mut self, attack: Attack, kept: Kept) -> Verdict {
        self.try_attack(attack, kept).unwrap_or_else(Verdict::from)
    }

    fn try_attack(&mut self, attack: Attack, kept: Kept) -> Result<Verdict, Trouble> {
        if let Some(why) = attack.is_not_of_this_system() {
            return Err(Trouble::NotHere(why.to_owned()));
        }
        if attack == Attack::ProcFdRoot && !self.root {
            return Err(Trouble::NotHere("this doctor does not run as root".to_owned()));
        }
        let needle = self.own_key(attack, kept)?;
        let cores = (attack == Attack::CoreDump).then(Cores::new).transpose()?;
        let order = Order {
            task: Task::Attack(attack),
            kept,
            stand_in: needle.is_none(),
            needle: needle.map_or_else(|| self.stand_in(kept), Ok)?,
            beacon: self.beacon.clone(),
            directory: cores.as_ref().map(|cores| cores.path.clone()),
            crowd: self.crowd,
            deadline: self.deadline,
        };
        let user = if attack == Attack::ProcFd && self.root { User::Ordinary } else { User::Same };
        match launch(&order, user)? {
            Answer::Verdict(verdict) => Ok(verdict),
            Answer::Common(_) => Err(Trouble::failed("an answer to another question")),
        }
    }

    /// The user's key, where it may be used: not where it is meant to be lost, and not where a disk is near.
    fn own_key(&mut self, attack: Attack, kept: Kept) -> Result<Option<Needle>, Trouble> {
        let Some(mut key) = self.key.clone() else { return Ok(None) };
        if !attack.promise(kept).withstands || attack == Attack::CoreDump {
            return Ok(None);
        }
        key.leave_out(&self.control(kept, &key)?);
        Ok(Some(key))
    }

    /// Windows of the key that a process has which keeps another secret in the same way.
    fn control(&mut self, kept: Kept, key: &Needle) -> Result<Vec<u32>, Trouble> {
        if let Some((_, known)) = self.controls.iter().find(|(of, _)| *of == kept) {
            return known.clone();
        }
        let order = Order {
            task: Task::Control,
            kept,
            stand_in: false,
            needle: key.clone(),
            beacon: self.beacon.clone(),
            directory: None,
            crowd: 0,
            deadline: self.deadline,
        };
        let common = match launch(&order, User::Same) {
            Ok(Answer::Common(windows)) => Ok(windows),
            Ok(Answer::Verdict(Verdict { detail, .. })) => Err(Trouble::failed(format!("control: {detail}"))),
            Err(trouble) => Err(trouble),
        };
        self.controls.push((kept, common.clone()));
        common
    }

    /// Random bytes that nobody has ever seen in plain.
    fn stand_in(&self, kept: Kept) -> io::Result<Needle> {
        match kept {
            Kept::Plain => Needle::random(PLAIN_LEN),
            _ => Needle::random(self.key.as_ref().map_or(LEN, Needle::len)),
        }
    }
}

/// A directory of its own for core dumps, gone when this ends.
struct Cores {
    path: PathBuf,
}

impl Cores {
    fn new() -> io::Result<Self> {
        let suffix: String = random(8)?.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = std::env::temp_dir().join(format!("securememory-doctor-{suffix}"));
        // Fails where it exists already, so nobody can have prepared it.
        system::private_directory(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Cores {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

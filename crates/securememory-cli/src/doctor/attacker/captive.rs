//! The victim's process, seen from the attacker's side.

#[cfg(target_os = "linux")]
use std::io::{self, Read};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, ExitStatus, Stdio};

use crate::doctor::order::{Armed, Care, Claim, Command, Facts, Order, Reply};
use crate::doctor::snapshot::Piece;
use crate::doctor::verdict::Trouble;
use crate::system;

/// A victim that waits for commands. It is killed when this ends.
pub struct Captive {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Its process id.
    pub pid: u32,
    /// What it told about itself.
    pub facts: Facts,
}

impl Captive {
    /// Starts one; it has the secret in hand when this returns.
    pub fn take(order: &Order) -> Result<Self, Trouble> {
        let mut captive = Self::start(order)?;
        match captive.reply()? {
            Reply::Ready(facts) => captive.facts = *facts,
            other => return Err(Self::unexpected(&other)),
        }
        Ok(captive)
    }

    /// Starts a control, which answers and ends.
    pub fn common(order: &Order) -> Result<Vec<u32>, Trouble> {
        match Self::start(order)?.reply()? {
            Reply::Common(windows) => Ok(windows),
            other => Err(Self::unexpected(&other)),
        }
    }

    fn start(order: &Order) -> Result<Self, Trouble> {
        let mut command = system::myself("doctor-victim")?;
        if let Some(directory) = &order.directory {
            command.current_dir(directory);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Trouble::failed(format!("a victim could not be started: {error}")))?;
        let pipes = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = pipes else {
            return Err(Trouble::failed("a victim without pipes"));
        };
        let facts = Facts {
            plaintext: None,
            decoy: None,
            record: None,
            locked: Claim::Missing,
            undumped: Claim::Missing,
        };
        let mut captive = Self { pid: child.id(), child, input, output: BufReader::new(output), facts };
        captive.say(order)?;
        Ok(captive)
    }

    /// Has it get ready to die.
    pub fn arm(&mut self, care: Care) -> Result<Armed, Trouble> {
        match self.command(Command::Arm(care))? {
            Reply::Armed(armed) => Ok(armed),
            other => Err(Self::unexpected(&other)),
        }
    }

    /// Gives a command and waits for nothing.
    pub fn tell(&mut self, command: Command) -> Result<(), Trouble> {
        self.say(&command)
    }

    /// Waits for its end, which it has come to.
    pub fn end(&mut self) -> Result<ExitStatus, Trouble> {
        Ok(self.child.wait()?)
    }

    /// Sends these bytes down its input, which somebody else reads now, and reads so many for them.
    #[cfg(target_os = "linux")]
    pub fn exchange(&mut self, bytes: &[u8], len: usize) -> io::Result<Vec<u8>> {
        let mut answer = vec![0; len];
        self.input.write_all(bytes)?;
        self.output.read_exact(&mut answer)?;
        Ok(answer)
    }

    /// What a victim that is gone said last, if it was trouble.
    pub fn last_words(&mut self) -> Option<Trouble> {
        let mut line = String::new();
        self.output.read_line(&mut line).ok()?;
        match serde_json::from_str(&line) {
            Ok(Reply::Trouble(trouble)) => Some(trouble),
            _ => None,
        }
    }

    fn say(&mut self, what: &impl serde::Serialize) -> Result<(), Trouble> {
        let line = serde_json::to_string(what).map_err(|error| Trouble::failed(error.to_string()))? + "\n";
        // A victim that is gone shows when its answer is read.
        let _ = self.input.write_all(line.as_bytes());
        Ok(())
    }

    /// Waits for an answer.
    pub fn reply(&mut self) -> Result<Reply, Trouble> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.is_empty() {
            let status = self.child.wait()?;
            return Err(Trouble::failed(format!("the victim died: {status}")));
        }
        match serde_json::from_str(&line) {
            Ok(Reply::Trouble(trouble)) => Err(trouble),
            Ok(reply) => Ok(reply),
            Err(error) => Err(Trouble::failed(format!("the victim's answer is strange: {error}"))),
        }
    }

    /// Gives a command and waits for the answer.
    pub fn command(&mut self, command: Command) -> Result<Reply, Trouble> {
        self.say(&command)?;
        self.reply()
    }

    /// Gives a command that leaves nothing to say but that it is done.
    pub fn command_done(&mut self, command: Command) -> Result<(), Trouble> {
        match self.command(command)? {
            Reply::Done => Ok(()),
            other => Err(Self::unexpected(&other)),
        }
    }

    /// Gives a command after which it tells anew what is where.
    pub fn command_facts(&mut self, command: Command) -> Result<(), Trouble> {
        match self.command(command)? {
            Reply::Ready(facts) => self.facts = *facts,
            other => return Err(Self::unexpected(&other)),
        }
        Ok(())
    }

    /// Has it show memory that is not to be read from outside.
    pub fn show(&mut self, command: Command) -> Result<Vec<Piece>, Trouble> {
        match self.command(command)? {
            Reply::Memory(pieces) => {
                Ok(pieces.into_iter().map(|(address, bytes)| (address, bytes.show())).collect())
            }
            other => Err(Self::unexpected(&other)),
        }
    }

    /// Opens a view and returns where its bytes are, and how many places for views are not locked, as it says.
    #[cfg(target_os = "linux")]
    pub fn open_view(&mut self) -> Result<(usize, usize), Trouble> {
        match self.command(Command::OpenView)? {
            Reply::View { address, unlocked } => Ok((address, unlocked)),
            other => Err(Self::unexpected(&other)),
        }
    }

    /// Has it abort, and waits for its end.
    #[cfg(target_os = "linux")]
    pub fn last_command(&mut self, command: Command) -> Result<ExitStatus, Trouble> {
        self.say(&command)?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let status = self.child.wait()?;
        match serde_json::from_str(&line) {
            Ok(Reply::Trouble(trouble)) => Err(trouble),
            _ if system::ended_by_abort(status) => Ok(status),
            _ => Err(Trouble::failed(format!("the victim should have been killed: {status}"))),
        }
    }

    /// An answer that does not fit the command.
    pub fn unexpected(reply: &Reply) -> Trouble {
        let shape = match reply {
            Reply::Ready(_) => "facts",
            Reply::Trouble(trouble) => return trouble.clone(),
            Reply::Done => "done",
            Reply::Memory(_) => "memory",
            Reply::Tried { .. } => "what it tried",
            Reply::View { .. } => "a view",
            Reply::Child { .. } => "a child",
            Reply::Readers { .. } => "readers",
            Reply::Armed(_) => "that it is ready",
            Reply::Verdict(_) => "a verdict",
            Reply::Common(_) => "windows",
        };
        Trouble::failed(format!("the victim answered with {shape}, out of turn"))
    }
}

impl Drop for Captive {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

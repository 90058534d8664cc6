//! Threads that read, write, make and stream until their vault is closed.

use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;

use securememory::{Error, Secret, Vault};

#[cfg(target_os = "linux")]
use super::common::in_child;
use super::round::{LEN, LOCKS_LATE};

/// What a thread of the crowd does, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Read,
    ReadMany,
    Owned,
    Write,
    Create,
    Batch,
    Stream,
    /// Refreshes and purges.
    Keys,
    #[cfg(target_os = "linux")]
    Fork,
}

fn whole(bytes: &[u8]) {
    assert!(bytes.iter().all(|&byte| byte == bytes[0]), "half of one value and half of another");
}

fn io(error: &std::io::Error) -> Error {
    *error.get_ref().and_then(|inside| inside.downcast_ref::<Error>()).expect("an error of the library")
}

/// One turn.
fn turn(work: Work, n: usize, vault: &Vault, secrets: &[Secret]) -> Result<(), Error> {
    let secret = &secrets[n % secrets.len()];
    match work {
        Work::Read => {
            let view = secret.view()?;
            whole(&view);
            let nested = secret.view()?;
            // Of a sealed secret it may be of a newer value.
            whole(&nested);
            drop(view);
            nested.finish()
        }
        Work::ReadMany => {
            let some: Vec<&Secret> = secrets.iter().take(5).collect();
            Secret::with_many(&some, |_, bytes| whole(bytes)).map_err(|failed| failed.error)
        }
        Work::Owned => {
            let view = secret.owned_view()?;
            let part = view.part(3..7)?;
            drop(view);
            part.with(whole)?;
            Ok(())
        }
        Work::Write if n.is_multiple_of(2) => secret.replace(&mut [n as u8; LEN]),
        Work::Write => {
            let mut writer = secret.view_mut()?;
            writer.fill(n as u8);
            if n.is_multiple_of(3) { Ok(()) } else { writer.commit() }
        }
        Work::Create => {
            let made = vault.secret().from_bytes(&mut [n as u8; LEN])?;
            made.with(whole)?;
            let derived = made.derive(40, |from, to| to.fill(from[0]))?;
            derived.close()?;
            Ok(())
        }
        Work::Batch => {
            let made = vault.secrets_from(&mut [[n as u8; LEN]; 6])?;
            made[n % 6].with(whole)?;
            Ok(())
        }
        Work::Stream => {
            let mut stream = vault.stream().chunk_size(64).build()?;
            stream.write_all(&[n as u8; 150]).map_err(|error| io(&error))?;
            let mut read = [0; 150];
            stream.read_exact(&mut read).map_err(|error| io(&error))?;
            assert_eq!(read, [n as u8; 150]);
            Ok(())
        }
        Work::Keys => {
            match n % 5 {
                0 => _ = vault.purge()?,
                1 | 3 => vault.refresh()?,
                _ => _ = vault.finish_refresh(Duration::from_millis(20))?,
            }
            _ = vault.tidy();
            std::thread::sleep(Duration::from_micros(300));
            Ok(())
        }
        #[cfg(target_os = "linux")]
        Work::Fork => {
            let status = in_child(|| {
                // SAFETY: sets a timer of the child's own.
                unsafe { libc::alarm(20) };
                secret.view().err() == Some(Error::Forked)
                    && vault.close(Duration::ZERO).err() == Some(Error::Forked)
                    && secret.close().err() == Some(Error::Forked)
            });
            assert_eq!(status, 0, "a child");
            std::thread::sleep(Duration::from_millis(1));
            if vault.is_closed() { Err(Error::Closed) } else { Ok(()) }
        }
    }
}

/// Goes on until the vault is closed; says how many turns that were.
pub fn work(work: Work, mine: usize, vault: &Vault, secrets: &[Secret], keys_turn: bool) -> usize {
    for n in 0.. {
        match turn(work, mine + n, vault, secrets) {
            Ok(()) => {}
            Err(Error::Closed | Error::Revoked) if vault.is_closed() => return n,
            // What else may come of it, and does not end it.
            Err(Error::Purged | Error::Closed) if keys_turn => {}
            Err(Error::Timeout { .. } | Error::Busy(_)) => {}
            // Where dozens of threads make secrets, one of them may have to wait for too long.
            Err(Error::LockTimeout(_)) => _ = LOCKS_LATE.fetch_add(1, Ordering::Relaxed),
            Err(error) => panic!("{work:?} {n}: {error:?}, closed: {}", vault.is_closed()),
        }
    }
    unreachable!("the numbers do not end")
}

//! A fork in the middle of a program: in the child nothing of it can be had, and it disturbs nothing.

use std::io::{Read, Write};
use std::time::Duration;

use securememory::{Error, Vault};

use super::common::in_child;
use super::run::{Found, Runner, check};

/// After so many seconds a child is killed that has not ended.
const PATIENCE: u32 = 20;

fn forked<T>(what: &str, got: Result<T, impl Into<Error>>) -> Found {
    match got.map_err(Into::into) {
        Err(Error::Forked) => Ok(()),
        got => Err(format!("in a child, {what} gave {:?}", got.map(|_| "Ok"))),
    }
}

fn forked_io<T>(what: &str, got: std::io::Result<T>) -> Found {
    let is_forked = got.as_ref().err().is_some_and(|error| {
        error.get_ref().and_then(|inside| inside.downcast_ref::<Error>()) == Some(&Error::Forked)
    });
    check(is_forked, || format!("in a child, {what} gave {:?}", got.map(|_| "Ok")))
}

impl Runner {
    pub fn fork(&mut self, new_vault: bool) -> Found {
        let status = in_child(|| {
            // SAFETY: sets a timer of the child's own.
            unsafe { libc::alarm(PATIENCE) };
            let found = self.in_child(new_vault);
            if let Err(found) = &found {
                eprintln!("{found}");
            }
            found.is_ok()
        });
        check(status == 0, || format!("the child of a fork ended with wait status {status:#x}"))
    }

    fn in_child(&mut self, new_vault: bool) -> Found {
        for vault in self.vaults.iter().flatten() {
            check(!vault.is_alive(), || "a vault is alive in a child".into())?;
            forked("a creation", vault.secret().random(8))?;
            forked("a batch", vault.secrets_from(&mut [[1; 8]]))?;
            forked("a refresh", vault.refresh())?;
            forked("the end of a refresh", vault.finish_refresh(Duration::ZERO))?;
            forked("a purge", vault.purge())?;
            forked("a warming", vault.warm_thread(1))?;
            forked("a stream", vault.stream().build())?;
            check(vault.tidy().is_none(), || "a child tidies".into())?;
            check(vault.diagnostics().views.is_empty(), || "a child has views".into())?;
        }
        for (_, secret) in &self.secrets {
            let len = secret.len();
            forked("a view", secret.view())?;
            forked("a writer", secret.view_mut())?;
            forked("an owned view", secret.owned_view())?;
            forked("a callback", secret.with(|_| ()))?;
            forked("a replacement", secret.replace(&mut vec![0; len]))?;
            forked("a comparison", secret.ct_eq_bytes(&[]))?;
            forked("a close", secret.close())?;
            forked("a close without patience", secret.close_timeout(Duration::ZERO))?;
            forked("a derivation", secret.derive(8, |_, _| ()))?;
        }
        for owned in &self.owned {
            forked("a use of an owned view", owned.lend(|_| ()))?;
            forked("a part of an owned view", owned.part())?;
        }
        for stream in &mut self.streams {
            let real = stream.real();
            forked_io("a write", real.write(b"x"))?;
            forked_io("a read", real.read(&mut [0]))?;
            forked("the end of a stream", real.finish())?;
            forked("the close of a stream", real.close())?;
        }
        // What is not finished is dropped, and all of it is the parent's.
        for (n, view) in std::mem::take(&mut self.views).into_iter().enumerate() {
            let wiped = view.iter().all(|&byte| byte == 0);
            check(wiped, || "a view is not wiped in a child".into())?;
            if n % 2 == 0 {
                forked("the end of a view", view.finish())?;
            }
        }
        for (n, writer) in std::mem::take(&mut self.writers).into_iter().enumerate() {
            if n % 2 == 0 {
                forked("a commit", writer.commit())?;
            }
        }
        self.secrets.clear();
        self.owned.clear();
        self.streams.clear();
        self.vaults.clear();
        if new_vault {
            let made = || -> Result<bool, Error> {
                let secret = Vault::builder().build()?.secret().from_bytes(&mut [7; 24])?;
                secret.ct_eq_bytes(&[7; 24])
            };
            check(made() == Ok(true), || "a new vault does not work in a child".into())?;
        }
        Ok(())
    }
}

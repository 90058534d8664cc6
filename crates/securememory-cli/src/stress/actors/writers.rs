//! Changes, made and dropped, and what must be refused inside one's own view.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use securememory::Error;

use super::{Actor, Outcome, Stop};
use crate::stress::scene::{Entry, Facts};
use crate::stress::tally::Reason;
use crate::stress::value::{self, DISCARDED};

impl Actor<'_> {
    pub(super) fn write(&mut self, entry: &Entry) -> Outcome {
        let facts = &*entry.facts;
        let floor = facts.floor();
        let mut view = entry.secret.view_mut().map_err(|error| self.stop(facts, error, "view_mut"))?;
        self.check(facts, &view, floor, "view_mut");
        let change = facts.begin_change();
        value::write(&mut view, facts.number, change.version);
        self.dawdle();
        if value::check(&view, facts.number) != Ok(change.version) {
            self.tally.unexpected(format!("a writer of secret {} was not alone", facts.number));
        }
        let committed = view.commit();
        facts.end_change(change, committed.is_ok());
        committed.map_err(|error| self.stop(facts, error, "commit"))
    }

    pub(super) fn discard(&mut self, entry: &Entry) -> Outcome {
        let facts = &*entry.facts;
        let floor = facts.floor();
        let mut view = entry.secret.view_mut().map_err(|error| self.stop(facts, error, "view_mut"))?;
        self.check(facts, &view, floor, "view_mut");
        value::write(&mut view, facts.number, DISCARDED | self.random.next());
        self.dawdle();
        if self.random.one_in(2) {
            drop(view);
        } else {
            // Without a message: this does not run the panic hook.
            let _ = catch_unwind(AssertUnwindSafe(move || {
                let _view = view;
                resume_unwind(Box::new(()))
            }));
        }
        Ok(())
    }

    pub(super) fn replace(&mut self, entry: &Entry) -> Outcome {
        let facts = &*entry.facts;
        let change = facts.begin_change();
        let version = change.version;
        self.value(facts, entry.secret.len(), version);
        let replaced = entry.secret.replace(&mut self.buffer);
        facts.end_change(change, replaced.is_ok());
        match replaced {
            Ok(()) if self.buffer.iter().any(|&byte| byte != 0) => {
                Err(self.unexpected(format!("replace of secret {} has not wiped its source", facts.number)))
            }
            Ok(()) => Ok(()),
            Err(_) if value::check(&self.buffer, facts.number) != Ok(version) => {
                Err(self
                    .unexpected(format!("replace of secret {} failed and changed its source", facts.number)))
            }
            Err(error) => Err(self.stop(facts, error, "replace")),
        }
    }

    pub(super) fn inside(&mut self, entry: &Entry) -> Outcome {
        let facts = &*entry.facts;
        if self.random.one_in(3) {
            let view = self.view(entry)?;
            let close = entry.secret.close_timeout(Duration::ZERO);
            self.check(facts, &view, 0, "a view around a refused close");
            drop(view);
            return self.must_be_refused(facts, close.map(|_| ()), "close inside a view");
        }
        // A sealed secret's writer has a copy; readers of the old value are not in its way.
        let sealed = facts.sealed;
        if self.random.one_in(2) {
            let view = self.view(entry)?;
            let writer = entry.secret.view_mut();
            self.check(facts, &view, 0, "a view around a writer");
            return match writer {
                Ok(writer) if sealed => {
                    drop(writer);
                    self.finish(facts, view)
                }
                Err(error) if sealed => Err(self.stop(facts, error, "view_mut inside a view")),
                other => self.must_be_refused(facts, other.map(drop), "view_mut inside a view"),
            };
        }
        let mut writer = entry.secret.view_mut().map_err(|error| self.stop(facts, error, "view_mut"))?;
        value::write(&mut writer, facts.number, DISCARDED);
        match entry.secret.view() {
            Ok(view) if sealed => {
                self.check(facts, &view, 0, "a view inside view_mut");
                self.finish(facts, view)
            }
            Err(error) if sealed => Err(self.stop(facts, error, "a view inside view_mut")),
            other => self.must_be_refused(facts, other.map(drop), "a view inside view_mut"),
        }
    }

    pub(super) fn must_be_refused(&self, facts: &Facts, outcome: Result<(), Error>, call: &str) -> Outcome {
        match outcome {
            Err(Error::WouldDeadlock) => Err(Stop::Refused(Reason::WouldDeadlock)),
            Err(error) => Err(self.stop(facts, error, call)),
            Ok(()) => Err(self.unexpected(format!("{call} of secret {} succeeded", facts.number))),
        }
    }
}

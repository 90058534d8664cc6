//! Views of all kinds.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use securememory::with2;

use super::{Actor, Outcome, Stop};
use crate::stress::scene::{Entry, Parcel};

impl Actor<'_> {
    pub(super) fn read(&self, entry: &Entry) -> Outcome {
        let facts = &*entry.facts;
        let floor = facts.floor();
        let read = entry.secret.with(|bytes| self.check(facts, bytes, floor, "with"));
        self.lent(facts, read, "with")
    }

    pub(super) fn keep(&mut self, entry: &Entry) -> Outcome {
        let view = self.view(entry)?;
        self.dawdle();
        self.check(&entry.facts, &view, 0, "a view that was kept");
        self.finish(&entry.facts, view)
    }

    pub(super) fn nest(&mut self, entry: &Entry) -> Outcome {
        if self.random.one_in(4) {
            let (one, other) = (entry, &*self.scene.pick(&mut self.random));
            let (floor, other_floor) = (one.facts.floor(), other.facts.floor());
            let both = with2(&one.secret, &other.secret, |one_bytes, other_bytes| {
                self.check(&one.facts, one_bytes, floor, "with2");
                self.check(&other.facts, other_bytes, other_floor, "with2");
            });
            // Either of them may be the reason.
            return both.map_err(|failed| match one.facts.explains(&failed.error()) {
                Some(reason) => Stop::Refused(reason),
                None => self.stop(&other.facts, failed.error(), "with2"),
            });
        }
        let outer = self.view(entry)?;
        let inner = self.view(entry);
        self.dawdle();
        if let Ok(inner) = inner {
            self.check(&entry.facts, &outer, 0, "an outer view");
            // In any order: they do not know of each other.
            if self.random.one_in(2) {
                self.finish(&entry.facts, outer)?;
                self.check(&entry.facts, &inner, 0, "an inner view");
                return self.finish(&entry.facts, inner);
            }
            self.finish(&entry.facts, inner)?;
        }
        self.check(&entry.facts, &outer, 0, "an outer view");
        self.finish(&entry.facts, outer)
    }

    pub(super) fn parcel(&self, entry: &Entry) -> Result<Parcel, Stop> {
        let facts = &entry.facts;
        let (floor, closed) = (facts.floor(), facts.closed.load(Ordering::SeqCst));
        match entry.secret.owned_view() {
            Ok(_) if closed => {
                Err(self.unexpected(format!("secret {} was opened after its close", facts.number)))
            }
            Ok(view) => Ok(Parcel { view, facts: Arc::clone(facts), floor }),
            Err(error) => Err(self.stop(facts, error, "owned_view")),
        }
    }

    pub(super) fn lend(&self, entry: &Entry) -> Outcome {
        let parcel = self.parcel(entry)?;
        self.scene.send(parcel).map_or(Ok(()), |oldest| self.open_parcel(&oldest))
    }

    pub(super) fn receive(&mut self) -> Outcome {
        let parcel = self.scene.receive().ok_or(Stop::Idle)?;
        let opened = self.open_parcel(&parcel);
        if opened.is_ok() && self.random.one_in(2) {
            // Several threads may use it one after the other.
            return self.scene.send(parcel).map_or(Ok(()), |oldest| self.open_parcel(&oldest));
        }
        opened
    }

    pub(super) fn open_parcel(&self, parcel: &Parcel) -> Outcome {
        let facts = &*parcel.facts;
        let revoked = facts.revoked.load(Ordering::SeqCst);
        let used = parcel.view.with(|bytes| self.check(facts, bytes, parcel.floor, "an owned view"));
        if used.is_ok() && revoked {
            return Err(
                self.unexpected(format!("an owned view of secret {} outlived its revocation", facts.number))
            );
        }
        self.lent(facts, used, "an owned view")
    }
}

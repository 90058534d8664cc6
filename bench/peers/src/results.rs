//! What was measured, before anything is made of it.

use std::collections::BTreeMap;

use crate::entries::{self, Entry, Group};
use crate::peer::AtRest;
use crate::stats::Series;
use crate::team::End;
use crate::work::Work;
use crate::work::limit::Limit;
use crate::work::memory::Memory;

/// What a figure of a turn is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Nanoseconds alone, or calls a second of one thread.
    First = 0,
    /// Nanoseconds beside the neighbour, or calls a second of both threads.
    Second = 1,
    /// The part of the time for which the other threads had a processor.
    Share = 2,
}

/// Of one entry in one work.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    pub figures: [Series; 3],
    /// In which pass it ended early, and how.
    pub ends: Vec<(usize, End)>,
    pub limit: Option<Limit>,
    pub memory: Option<Memory>,
}

#[derive(Debug, Default)]
pub struct Results {
    /// By the number of the entry, and by the name of the work.
    cells: BTreeMap<(usize, String), Cell>,
}

impl Results {
    pub fn cell(&mut self, entry: usize, work: Work) -> &mut Cell {
        self.cells.entry((entry, work.id())).or_default()
    }

    pub fn get(&self, entry: usize, work: Work) -> Option<&Cell> {
        self.cells.get(&(entry, work.id()))
    }

    /// The figures of an entry that came through all passes; else there is nothing to be compared.
    pub fn series(&self, id: &str, work: Work, figure: Figure) -> Option<&Series> {
        let entry = entries::ALL.iter().position(|entry| entry.id == id)?;
        self.whole(entry, work, figure)
    }

    fn whole(&self, entry: usize, work: Work, figure: Figure) -> Option<&Series> {
        let cell = self.get(entry, work)?;
        let series = &cell.figures[figure as usize];
        (cell.ends.is_empty() && !series.is_empty()).then_some(series)
    }

    /// The peers that leave this at rest and came through, each with its figures.
    pub fn peers(&self, work: Work, figure: Figure, at_rest: &[AtRest]) -> Vec<(&'static Entry, &Series)> {
        let fits = |entry: &Entry| {
            entry.group == Group::Peer && entry.at_rest.is_some_and(|it| at_rest.contains(&it))
        };
        let all = entries::ALL.iter().enumerate().filter(|(_, entry)| fits(entry));
        all.filter_map(|(index, entry)| Some((entry, self.whole(index, work, figure)?))).collect()
    }

    /// The one of them with the least time.
    pub fn fastest(&self, work: Work, figure: Figure, at_rest: &[AtRest]) -> Option<(&'static str, &Series)> {
        let peers = self.peers(work, figure, at_rest).into_iter();
        peers.map(|(entry, series)| (entry.id, series)).min_by(|a, b| a.1.median().total_cmp(&b.1.median()))
    }

    /// The one of them with the most calls a second.
    pub fn most(&self, work: Work, figure: Figure, at_rest: &[AtRest]) -> Option<(&'static str, &Series)> {
        let peers = self.peers(work, figure, at_rest).into_iter();
        peers.map(|(entry, series)| (entry.id, series)).max_by(|a, b| a.1.median().total_cmp(&b.1.median()))
    }
}

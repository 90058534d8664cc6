//! The run: passes, in each pass the works, in each work a process for every entry, and these take turns.
//!
//! A turn is a few milliseconds, and the order of the turns moves on from round to round: whatever disturbs the machine
//! for longer disturbs all of them alike. Each pass has processes of its own, at another time: what stays the same
//! within a process, as the cost of interrupting another core does, is seen in several states.

use std::time::{Duration, Instant};

use crate::results::Results;
use crate::team::{End, Member};
use crate::work::{self, Work, limit::Limit};
use crate::{Failure, entries};

#[derive(Clone, Debug)]
pub struct Settings {
    pub passes: usize,
    /// Rounds of turns in a work of a pass.
    pub rounds: usize,
    /// How long a turn takes.
    pub slice: Duration,
    /// The name of the only work, or how the names of the only ones begin.
    pub only: Option<String>,
}

impl Settings {
    pub const FULL: Self = Self { passes: 5, rounds: 12, slice: Duration::from_millis(4), only: None };
    pub const QUICK: Self = Self { passes: 2, rounds: 4, slice: Duration::from_millis(2), only: None };

    fn chosen(&self, work: Work) -> bool {
        self.only.as_ref().is_none_or(|only| work.id().starts_with(only.as_str()))
    }
}

pub fn run(settings: &Settings) -> Result<Results, Failure> {
    let mut results = Results::default();
    let begin = Instant::now();
    for pass in 0..settings.passes {
        for &work in work::ALL.iter().filter(|work| settings.chosen(**work)) {
            eprint!("{:.0} s: pass {}, {}          \r", begin.elapsed().as_secs_f64(), pass + 1, work.id());
            if work.in_turns() {
                in_turns(&mut results, work, pass, settings)?;
            } else if pass == 0 {
                once(&mut results, work)?;
            }
        }
        eprintln!("pass {} of {}: {:.0} s", pass + 1, settings.passes, begin.elapsed().as_secs_f64());
    }
    Ok(results)
}

fn in_turns(results: &mut Results, work: Work, pass: usize, settings: &Settings) -> Result<(), Failure> {
    let mut team = Vec::new();
    for entry in those_of(work) {
        // What cannot be measured here need not be asked again.
        let skipped = |(_, end): &(usize, End)| matches!(end, End::Skipped(_));
        if results.cell(entry, work).ends.iter().any(skipped) {
            continue;
        }
        match Member::start(entry, work, pass, settings.slice)? {
            Ok(member) => team.push((entry, member)),
            Err(end) => results.cell(entry, work).ends.push((pass, end)),
        }
    }
    for round in 0..settings.rounds {
        let mut ended = Vec::new();
        for index in order(pass, round, team.len()) {
            let Some((entry, member)) = team.get_mut(index) else { continue };
            let cell = results.cell(*entry, work);
            match member.turn() {
                Ok(figures) => {
                    for (series, figure) in cell.figures.iter_mut().zip(figures) {
                        series.insert(pass, round, figure);
                    }
                }
                Err(end) => {
                    cell.ends.push((pass, end));
                    ended.push(*entry);
                }
            }
        }
        team.retain(|(entry, _)| !ended.contains(entry));
    }
    Ok(())
}

/// Who is when: another one begins each time, and in every other pass they go backwards, so that none always comes after
/// the same one.
fn order(pass: usize, round: usize, len: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    order.rotate_left((pass * 7 + round) % len.max(1));
    if pass % 2 == 1 {
        order.reverse();
    }
    order
}

fn once(results: &mut Results, work: Work) -> Result<(), Failure> {
    for entry in those_of(work) {
        if !matches!(entries::ALL.get(entry), Some(one) if one.group != entries::Group::Floor) {
            continue;
        }
        let mut member = match Member::start(entry, work, 0, Duration::ZERO)? {
            Ok(member) => member,
            Err(end) => {
                results.cell(entry, work).ends.push((0, end));
                continue;
            }
        };
        let said = member.once();
        let cell = results.cell(entry, work);
        match said {
            Ok(json) if work == Work::Memory => cell.memory = Some(serde_json::from_str(&json)?),
            Ok(json) => cell.limit = Some(serde_json::from_str(&json)?),
            Err(end) => {
                cell.limit = so_far(&member);
                cell.ends.push((0, end));
            }
        }
    }
    Ok(())
}

/// What is known of one that did not live to tell.
fn so_far(member: &Member) -> Option<Limit> {
    if let Some(json) = &member.made {
        return serde_json::from_str(json).ok();
    }
    let made = member.so_far.as_ref()?.parse().ok()?;
    Some(Limit { made, end: None, locked: None, readable: None })
}

fn those_of(work: Work) -> impl Iterator<Item = usize> {
    entries::ALL.iter().enumerate().filter(move |(_, entry)| entry.does(work)).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_begins_now_and_then() {
        for len in [1, 2, 3, 24, 25] {
            let firsts: Vec<usize> = (0..2 * len).map(|round| order(0, round, len)[0]).collect();
            assert!((0..len).all(|who| firsts.contains(&who)), "{len}: {firsts:?}");
            let mut all = order(3, 5, len);
            all.sort_unstable();
            assert_eq!(all, (0..len).collect::<Vec<_>>());
        }
        assert!(order(3, 4, 0).is_empty());
    }

    #[test]
    fn only_takes_a_name_or_its_beginning() {
        let settings = Settings { only: Some("read".into()), ..Settings::QUICK };
        assert!(settings.chosen(work::READ) && settings.chosen(Work::Busy) && !settings.chosen(Work::Memory));
    }
}

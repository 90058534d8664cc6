//! Damage done on purpose, by the first thread at a fixed operation: whoever judges must find it.

use std::time::Duration;

use securememory::Store;

use super::actors::{Actor, Outcome};
use super::child;
use super::order::Sabotage;
use super::value;
use crate::{raw, system};

/// Does it.
pub fn strike(actor: &mut Actor<'_>, sabotage: Sabotage) -> Outcome {
    match sabotage {
        Sabotage::WrongByte => {
            let entry = actor.fresh()?;
            let view = entry.secret.view().map_err(|error| actor.stop(&entry.facts, error, "view"))?;
            let mut seen = view.to_vec();
            let at = actor.random.below(seen.len());
            seen[at] ^= 1;
            actor.check(&entry.facts, &seen, 0, "view");
        }
        Sabotage::Stale => {
            let entry = actor.fresh()?;
            let facts = &*entry.facts;
            facts.end_change(facts.begin_change(), true);
            let mut old = vec![0; entry.secret.len()];
            value::write(&mut old, facts.number, 0);
            entry.secret.replace(&mut old).map_err(|error| actor.stop(facts, error, "replace"))?;
            let floor = facts.floor();
            let read = entry.secret.with(|bytes| actor.check(facts, bytes, floor, "with"));
            read.map_err(|failed| actor.stop(facts, failed.error(), "with"))?;
        }
        Sabotage::Hang => loop {
            std::thread::sleep(Duration::from_secs(1));
        },
        Sabotage::Leak => {
            let vault = actor.scene.builder.clone().build();
            Box::leak(Box::new(vault));
        }
        Sabotage::Fault => {
            // No core: this one is of no interest to anybody.
            let _ = system::no_cores();
            raw::flip_byte(8);
        }
        Sabotage::Error => {
            let made = actor.scene.vault.secret().store(Store::Sealed).random(40);
            let secret = made.map_err(|error| actor.stop(&Default::default(), error, "making"))?;
            if let Some(place) = secret.status().at_rest {
                raw::flip_byte(place.address + place.len - 1);
            }
            drop(secret.view().map_err(|error| actor.stop(&Default::default(), error, "view"))?);
        }
        Sabotage::Child => child::fork(actor.tally, &[], None, true),
        Sabotage::Panic => std::panic::resume_unwind(Box::new(())),
    }
    Ok(())
}

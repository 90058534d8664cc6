//! `core-dump`: the victim aborts with a view open, and its core is searched.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;

use super::captive::Captive;
use super::find_key;
use crate::doctor::memory::{Sight, walk_file};
use crate::doctor::order::{Claim, Command, Order};
use crate::doctor::search::Search;
use crate::doctor::verdict::{Trouble, Verdict};

/// Lets it dump into the order's directory.
pub fn core_dump(order: &Order, mut victim: Captive) -> Result<Verdict, Trouble> {
    let directory = order.directory.as_ref().ok_or_else(|| Trouble::failed("no directory for the core"))?;
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let pattern = pattern.trim_end();
    if pattern.starts_with('|') {
        return Err(Trouble::NotHere(format!("cores go to a program here (core_pattern is `{pattern}`)")));
    }
    if pattern.contains('/') {
        return Err(Trouble::NotHere(format!(
            "cores go to a fixed place here (core_pattern is `{pattern}`)"
        )));
    }
    // Without the right to look for the key first, the secret alone is searched for.
    let key = match Sight::outside(victim.pid) {
        Ok(sight) => find_key(order, &mut victim, &sight)?,
        Err(_) => None,
    };
    let mut search = Search::new(order, key.as_ref())?;
    victim.open_view()?;
    let undumped = victim.facts.undumped.clone();
    let status = victim.last_command(Command::Abort)?;
    let core = fs::read_dir(directory)?.find_map(|entry| entry.ok().map(|entry| entry.path()));
    let Some(core) = core.filter(|_| status.core_dumped()) else {
        return Err(Trouble::NotHere(format!(
            "the kernel wrote no core ({status}, core_pattern `{pattern}`)"
        )));
    };
    search.walk.bytes = walk_file(File::open(&core)?, |offset, bytes| search.finder.look(offset, bytes))?;
    fs::remove_file(&core)?;
    search.saw()?;
    match (search.finds(&[]), undumped) {
        (None, _) => Ok(Verdict::blocked(format!("in a core, made with a view open: {}", search.nothing()))),
        (Some(_), Claim::Refused(why)) => Err(Trouble::NotHere(format!(
            "the host refused to leave pages out of cores, and status() says so: {why}"
        ))),
        (Some(finds), _) => Ok(Verdict::leaked(format!("in a core: {}, {finds}", search.walk))),
    }
}

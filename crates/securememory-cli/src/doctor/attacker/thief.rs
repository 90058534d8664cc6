//! Another process that reads memory and descriptors: `proc-mem`, `proc-fd`, `both-shares`.

use super::captive::Captive;
use crate::doctor::crack::{KEY, Record, search};
use crate::doctor::loot::{Loot, Through, loot};
use crate::doctor::memory::{Sight, mappings};
use crate::doctor::order::Order;
use crate::doctor::search::{Search, how};
use crate::doctor::verdict::{Trouble, Verdict};

/// Memory alone, whatever its pages allow.
pub fn proc_mem(order: &Order, victim: &Captive) -> Result<Verdict, Trouble> {
    take(order, victim, &Loot::default())
}

/// Memory and files, combined.
pub fn combine(order: &Order, victim: &Captive, through: Through) -> Result<Verdict, Trouble> {
    let loot = loot(victim.pid, through)?;
    let mut verdict = take(order, victim, &loot)?;
    let Loot { descriptors, read, refused, bytes, .. } = &loot;
    verdict.detail = format!(
        "of {descriptors} descriptors {read} files were read ({} bytes) and {refused} refused; {}",
        bytes.len(),
        verdict.detail
    );
    Ok(verdict)
}

fn take(order: &Order, victim: &Captive, loot: &Loot) -> Result<Verdict, Trouble> {
    let sight = Sight::outside(victim.pid)?;
    let maps = mappings(victim.pid)?;
    let mut plain = Search::new(order, None)?;
    plain.memory(&sight, &maps);
    plain.finder.look(0, &loot.bytes);
    plain.saw()?;
    if let Some(finds) = plain.finds(&maps) {
        return Ok(Verdict::leaked(format!("{}, {finds}", plain.walk)));
    }
    let Some(decoy) = victim.facts.decoy else { return Ok(Verdict::blocked(plain.nothing())) };
    let (found, tried) = search(&sight, &maps, &Record::take(&sight, &decoy)?, &loot.shares);
    match found {
        Some(found) => {
            Ok(Verdict::leaked(format!("{}{}", how(&found, &maps), open(order, victim, &sight, &found.key)?)))
        }
        None => {
            let shares = match loot.shares.len() {
                0 => String::new(),
                shares => format!(", with {shares} from files,"),
            };
            Ok(Verdict::blocked(format!(
                "{}; none of {tried} sets of 32 bytes{shares} and no two of them make the key",
                plain.nothing()
            )))
        }
    }
}

/// Opens the secret itself with the key. Not a user's own: it would be in plain in this process then.
fn open(order: &Order, victim: &Captive, sight: &Sight, key: &[u8; KEY]) -> Result<String, Trouble> {
    let Some(at) = victim.facts.record.filter(|_| order.stand_in) else { return Ok(String::new()) };
    let Some(plaintext) = Record::take(sight, &at)?.open(key) else {
        return Err(Trouble::failed("the key opens the decoy but not the secret beside it"));
    };
    if order.needle.is(&plaintext) {
        Ok(format!(", and with it the {} bytes of the secret were decrypted", plaintext.len()))
    } else {
        Err(Trouble::failed("what was decrypted is not the secret"))
    }
}

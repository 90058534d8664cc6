//! One search: for the secret, for the vault's key if it is known, and for the beacon that proves the search saw.

use std::ops::Range;

use super::crack::{Found, KEY, With};
use super::finder::Finder;
use super::memory::{Mapping, Sight, Walk, walk};
use super::needle::{Needle, WINDOW};
use super::order::Order;
use super::verdict::Trouble;

const BEACON: usize = 0;
const SECRET: usize = 1;
const KEY_ITSELF: usize = 2;
const IN_FILE: &str = "key share that belongs in a file";

/// A search and what it has seen so far.
pub struct Search {
    /// The searcher, for bytes that are not memory.
    pub finder: Finder,
    /// What was read.
    pub walk: Walk,
    names: Vec<&'static str>,
}

impl Search {
    /// Prepares to search for the secret of an order, and for a key.
    pub fn new(order: &Order, key: Option<&Found>) -> Result<Self, Trouble> {
        Self::of_shares(order, key, &[])
    }

    /// The same, and for these shares of the key, with their other halves.
    pub fn of_shares(order: &Order, key: Option<&Found>, shares: &[[u8; KEY]]) -> Result<Self, Trouble> {
        let mut needles = vec![order.beacon.clone(), order.needle.clone()];
        let mut names = vec!["beacon", "secret"];
        if let Some(found) = key {
            let state = found.key.iter().zip(AEGIS_CONSTANTS).map(|(byte, constant)| byte ^ constant);
            needles.push(Needle::hide(found.key)?);
            needles.push(Needle::hide(state)?);
            names.extend(["key", "key in the cipher's first state"]);
            if let With::File(share) = found.with {
                needles.push(Needle::hide(share)?);
                names.push(IN_FILE);
            }
            for share in shares {
                needles.push(Needle::hide(*share)?);
                needles.push(Needle::hide(found.key.iter().zip(share).map(|(key, share)| key ^ share))?);
                names.extend([IN_FILE, "key share that belongs in memory"]);
            }
        }
        let finder = Finder::new(&needles.iter().collect::<Vec<_>>());
        if finder.windows(SECRET) == 0 {
            return Err(Trouble::NotHere(
                "every 8 bytes in a row of this key also occur in a process that does not have it: nothing to \
                 search for"
                    .to_owned(),
            ));
        }
        Ok(Self { finder, walk: Walk::default(), names })
    }

    /// The key is meant to be in this range.
    pub fn ignore_key(&mut self, range: Range<usize>) {
        self.finder.ignore(KEY_ITSELF, range);
    }

    /// Searches memory.
    pub fn memory(&mut self, sight: &Sight, mappings: &[Mapping]) {
        self.walk = walk(sight, mappings, |address, bytes| self.finder.look(address, bytes));
    }

    /// A search that did not see the beacon saw nothing, and proves nothing.
    pub fn saw(&self) -> Result<(), Trouble> {
        if self.finder.found(BEACON) > 0 {
            return Ok(());
        }
        Err(Trouble::failed(format!("the search was blind: {}, but did not see the beacon", self.walk)))
    }

    /// What was found and where, if anything was.
    pub fn finds(&self, mappings: &[Mapping]) -> Option<String> {
        self.finds_from(SECRET, mappings)
    }

    /// The same of the key alone.
    pub fn finds_key(&self, mappings: &[Mapping]) -> Option<String> {
        self.finds_from(KEY_ITSELF, mappings)
    }

    /// How many bytes of the secret were found.
    pub fn secret_bytes(&self) -> usize {
        let mut windows = self.finder.numbers(SECRET);
        windows.sort_unstable();
        let mut next = 0;
        windows.into_iter().map(|number| number as usize).fold(0, |bytes, start| {
            let end = start + WINDOW;
            let more = end - start.max(next);
            next = end;
            bytes + more
        })
    }

    fn finds_from(&self, first: usize, mappings: &[Mapping]) -> Option<String> {
        let finds: Vec<String> = (first..self.names.len())
            .filter_map(|needle| {
                let address = self.finder.first(needle)?;
                let (found, of) = (self.finder.found(needle), self.finder.windows(needle));
                Some(format!(
                    "{found} of {} of the {} {}",
                    windows(of),
                    self.names[needle],
                    place(mappings, address)
                ))
            })
            .collect();
        (!finds.is_empty()).then(|| format!("found {}", finds.join(", ")))
    }

    /// What was searched, for a search that found nothing.
    pub fn nothing(&self) -> String {
        format!("{}, saw the beacon, {}", self.walk, self.none())
    }

    /// What was not found.
    pub fn none(&self) -> String {
        let windows = windows(self.finder.windows(SECRET));
        let key = if self.names.len() > KEY_ITSELF { " or key" } else { "" };
        format!("none of {windows} of the secret{key}")
    }
}

/// A number of windows, in words.
pub fn windows(number: usize) -> String {
    format!("{number} window{}", if number == 1 { "" } else { "s" })
}

/// Where an address is, in words.
pub fn place(mappings: &[Mapping], address: usize) -> String {
    let mapping = mappings.iter().find(|mapping| mapping.range.contains(&address));
    match mapping.map(|mapping| mapping.name.as_str()) {
        Some("") => format!("at {address:#x}"),
        Some(name) => format!("in {name}"),
        None => format!("at offset {address:#x}"),
    }
}

/// Where a key was, in words.
pub fn how(found: &Found, mappings: &[Mapping]) -> String {
    let at = place(mappings, found.address);
    match found.with {
        With::Nothing => format!("the vault's key lies {at}"),
        With::File(_) => format!("a share {at} and a share from a descriptor make the vault's key"),
        With::Memory(other) => format!("shares {at} and {} make the vault's key", place(mappings, other)),
    }
}

/// AEGIS-256 begins with the key, exclusive-or these constants, in two of its six state words
/// (draft-irtf-cfrg-aegis-aead, Init): who finds that has the key.
pub const AEGIS_CONSTANTS: [u8; KEY] = [
    0x00, 0x01, 0x01, 0x02, 0x03, 0x05, 0x08, 0x0d, 0x15, 0x22, 0x37, 0x59, 0x90, 0xe9, 0x79, 0x62, 0xdb,
    0x3d, 0x18, 0x55, 0x6d, 0xc2, 0x2f, 0xf1, 0x20, 0x11, 0x31, 0x42, 0x73, 0xb5, 0x28, 0xdd,
];

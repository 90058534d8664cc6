//! What more secrets would take, before any is made.

use crate::error::{Error, Protection};
use crate::policy::{Level, Store};
use crate::region::pool::PagesCost;
use crate::store::header::HEADER;
use crate::store::ledger::Kind;
use crate::store::machinery::Machinery;
use crate::store::paged::Paged;
use crate::store::sealed::Sealed;
use crate::store::slab;

/// Bytes, but for the mappings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) store: Store,
    pub(crate) memory: u64,
    pub(crate) address_space: u64,
    pub(crate) locked: u64,
    pub(crate) mappings: u64,
}

impl Machinery {
    /// What `count` more secrets of `len` bytes take, with the vault's own store and policy.
    pub(crate) fn cost(&self, count: usize, len: usize) -> Result<Cost, Error> {
        let too_large = Error::TooLarge { len, limit: isize::MAX as usize };
        if len == 0 {
            return Err(Error::Empty);
        }
        count.checked_mul(len).ok_or(too_large)?;
        let levels = self.settings.policy.levels();
        let sealed = self.settings.kind_for(self.settings.store, len) == Kind::Sealed;
        if !sealed && levels.secretmem == Level::Require {
            return Err(Error::NotInForce(Protection::Secretmem));
        }
        let count = count as u64;
        let body = if sealed { Sealed::size(len)? } else { Paged::SIZE };
        let ordinary = slab::bytes_for(count, HEADER, body).ok_or(too_large)?;
        let pages = if sealed { PagesCost::default() } else { self.pool.cost(count, len, levels)? };
        let sum = |pages: u64| ordinary.checked_add(pages).ok_or(too_large);
        Ok(Cost {
            store: if sealed { Store::Sealed } else { Store::Paged },
            memory: sum(pages.memory)?,
            address_space: sum(pages.address_space)?,
            locked: if levels.lock == Level::Off { 0 } else { pages.locked },
            mappings: pages.mappings,
        })
    }
}

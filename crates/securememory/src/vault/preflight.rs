//! Whether the limits suffice for what is to come, and what to raise where they do not.

use std::fmt;

use crate::error::{Error, Hint, Quota, Result};
use crate::os::room::{self, Room};
#[cfg(doc)]
use crate::policy::OnLockLimit;
use crate::policy::{Level, Store};
use crate::registry::dying::why_gone;
use crate::store::Limits;
use crate::vault::Vault;

/// What secrets need and processes have limits on.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Memory, in bytes: of the machine, of the control groups around the process, what the kernel may still promise
    /// where `vm.overcommit_memory` is 2, and for sealed secrets what `ulimit -d` grants.
    Memory,
    /// Address space, in bytes: `ulimit -v`.
    AddressSpace,
    /// Locked memory, in bytes: `ulimit -l`.
    LockedMemory,
    /// Mappings: `vm.max_map_count`.
    Mappings,
    /// Descriptors: `ulimit -n`.
    Descriptors,
    /// Secrets of the vault: [`VaultBuilder::secrets_max`](crate::VaultBuilder::secrets_max).
    Secrets,
    /// Their bytes: [`VaultBuilder::bytes_max`](crate::VaultBuilder::bytes_max).
    SecretBytes,
}

impl Resource {
    fn unit(self) -> &'static str {
        match self {
            Self::Memory | Self::AddressSpace | Self::LockedMemory | Self::SecretBytes => " bytes",
            Self::Mappings | Self::Descriptors | Self::Secrets => "",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::AddressSpace => "address space",
            Self::LockedMemory => "locked memory",
            Self::Mappings => "mappings",
            Self::Descriptors => "descriptors",
            Self::Secrets => "secrets of the vault",
            Self::SecretBytes => "bytes of the vault's secrets",
        })
    }
}

/// How much of one resource is needed, and how much there is.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// What the secrets would take more than is taken now.
    pub needed: u64,
    /// What the process may take more than now; [`u64::MAX`] where there is no bound, `None` where it is not
    /// known.
    pub available: Option<u64>,
    /// What the process has taken now, if known.
    pub in_use: Option<u64>,
}

impl Need {
    fn of(needed: u64, room: Room) -> Self {
        Self { needed, available: room.left, in_use: room.in_use }
    }

    /// Under a limit of the vault's own, the maximum where there is none.
    fn within(needed: u64, in_use: u64, limit: u64) -> Self {
        let left = if limit == u64::MAX { limit } else { limit.saturating_sub(in_use) };
        Self { needed, available: Some(left), in_use: Some(in_use) }
    }

    /// Is there as much as is needed? `None` where that is not known.
    #[must_use]
    pub fn fits(&self) -> Option<bool> {
        if self.needed == 0 { Some(true) } else { self.available.map(|available| self.needed <= available) }
    }
}

/// Something of which there is too little.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Of what.
    pub resource: Resource,
    /// How much of it is needed, and how much there is.
    pub need: Need,
    /// Would creation fail? Not for locked memory that the policy only prefers: then the last secrets are not
    /// locked, or are sealed if [`OnLockLimit::NextStore`] says so.
    pub refuses: bool,
    /// What to change.
    pub hint: Hint,
    sealed: bool,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (resource, unit) = (self.resource, self.resource.unit());
        let available = self.need.available.unwrap_or(0);
        write!(f, "{resource}: {} more{unit} are needed and {available} are left", self.need.needed)?;
        f.write_str(match (self.refuses, self.sealed) {
            (true, _) => "",
            (false, false) => " (the others would not be locked)",
            (false, true) => " (the others would be sealed)",
        })?;
        write!(f, "; {}", self.hint)
    }
}

/// What [`Vault::preflight`] has found. Its `Display` says it in words.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preflight {
    /// No limit is known to stand in the way of all of them, with all that the policy asks for. What could
    /// not be found out is in [`Self::unverified`].
    pub fits: bool,
    /// How many secrets it is about.
    pub count: usize,
    /// Bytes of each.
    pub size: usize,
    /// The store they would have: [`Store::Sealed`] or [`Store::Paged`].
    pub store: Store,
    /// Bytes of memory.
    pub memory: Need,
    /// Bytes of address space.
    pub address_space: Need,
    /// Bytes of locked memory.
    pub locked: Need,
    /// Mappings.
    pub mappings: Need,
    /// Descriptors.
    pub descriptors: Need,
    /// Secrets, of which the vault may have a limit.
    pub secrets: Need,
    /// Their bytes, likewise.
    pub secret_bytes: Need,
    lock: Level,
    may_seal: bool,
}

impl Preflight {
    fn needs(&self) -> [(Resource, Need); 7] {
        [
            (Resource::Memory, self.memory),
            (Resource::AddressSpace, self.address_space),
            (Resource::LockedMemory, self.locked),
            (Resource::Mappings, self.mappings),
            (Resource::Descriptors, self.descriptors),
            (Resource::Secrets, self.secrets),
            (Resource::SecretBytes, self.secret_bytes),
        ]
    }

    /// What there is too little of.
    pub fn shortages(&self) -> impl Iterator<Item = Shortage> + use<> {
        let (lock, sealed) = (self.lock, self.may_seal);
        let short = |(_, need): &(Resource, Need)| need.fits() == Some(false);
        self.needs().into_iter().filter(short).map(move |(resource, need)| Shortage {
            resource,
            need,
            refuses: resource != Resource::LockedMemory || lock == Level::Require,
            hint: hint(resource, need),
            sealed,
        })
    }

    /// What could not be found out, because the system does not tell: without /proc, for example.
    pub fn unverified(&self) -> impl Iterator<Item = Resource> + use<> {
        let unknown = |(_, need): &(Resource, Need)| need.fits().is_none();
        self.needs().into_iter().filter(unknown).map(|(resource, _)| resource)
    }
}

fn hint(resource: Resource, Need { available, in_use, .. }: Need) -> Hint {
    let limit = in_use.and_then(|in_use| in_use.checked_add(available?));
    match resource {
        Resource::Memory => Hint::Memory { available },
        Resource::AddressSpace => Hint::AddressSpace { limit },
        Resource::LockedMemory => Hint::LockedMemory { limit, in_use },
        Resource::Mappings => Hint::Mappings { limit },
        Resource::Descriptors => Hint::Descriptors { limit },
        Resource::Secrets => Hint::Budget(Quota::Secrets),
        Resource::SecretBytes => Hint::Budget(Quota::Bytes),
    }
}

impl fmt::Display for Preflight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let store = if self.store == Store::Sealed { "sealed" } else { "paged" };
        let verdict = if self.fits { "fit" } else { "do not fit" };
        write!(f, "{} more {store} secrets of {} bytes {verdict}", self.count, self.size)?;
        self.shortages().try_for_each(|shortage| write!(f, "; {shortage}"))?;
        self.unverified().try_for_each(|resource| write!(f, "; {resource} could not be checked"))
    }
}

impl Vault {
    /// Says whether the limits suffice for `count` more secrets of `size` bytes in this vault, made with its
    /// own store and policy, and what to raise where they do not.
    ///
    /// It reads what the system tells now and promises nothing: others take memory too. What is needed is
    /// counted from above, by a few percent; labels, views and changes under way are not in it. Pages that ended
    /// secrets of the same size have left are taken off, ordinary memory is not. It reads the listings of
    /// mappings and descriptors: a diagnosis, not for every creation.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] where `size`, or all of them together, are more than an address space can hold;
    /// [`Error::Empty`] for a `size` of zero; [`Error::NotInForce`] where the policy requires what the store
    /// cannot give; [`Error::Forked`]; [`Error::LockTimeout`].
    ///
    /// ```
    /// use securememory::Vault;
    /// let vault = Vault::global()?;
    /// let preflight = vault.preflight(1_000_000, 32)?;
    /// if !preflight.fits {
    ///     eprintln!("{preflight}");
    /// }
    /// # Ok::<(), securememory::Error>(())
    /// ```
    pub fn preflight(&self, count: usize, size: usize) -> Result<Preflight> {
        if !self.is_alive() {
            return Err(why_gone());
        }
        if self.is_closed() {
            return Err(Error::Closed);
        }
        let cost = self.machinery().cost(count, size)?;
        let settings = &self.machinery().settings;
        let live = self.machinery().live();
        let Limits { secrets, bytes } = settings.limits;
        let may_seal = settings.policy.may_seal(settings.store);
        let lock = if may_seal { Level::Prefer } else { settings.policy.page_levels().lock };
        let mut memory = room::memory();
        if cost.store == Store::Sealed {
            // Closed pages are not writable and do not count against this one.
            memory.left = memory.left.zip(room::data().left).map(|(machine, data)| machine.min(data));
        }
        let mut found = Preflight {
            fits: true,
            count,
            size,
            store: cost.store,
            memory: Need::of(cost.memory, memory),
            address_space: Need::of(cost.address_space, room::address_space()),
            locked: Need::of(cost.locked, room::locked()),
            mappings: Need::of(cost.mappings, room::mappings()),
            // Neither store has any of its own.
            descriptors: Need::of(0, room::descriptors()),
            secrets: Need::within(count as u64, live.secrets, secrets),
            // The product was checked with the cost.
            secret_bytes: Need::within((count as u64).saturating_mul(size as u64), live.bytes, bytes),
            lock,
            may_seal,
        };
        found.fits = found.shortages().next().is_none();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn preflight(change: impl FnOnce(&mut Preflight)) -> Preflight {
        let enough = Need { needed: 5, available: Some(5), in_use: Some(1) };
        let mut found = Preflight {
            fits: true,
            count: 5,
            size: 32,
            store: Store::Paged,
            memory: enough,
            address_space: enough,
            locked: enough,
            mappings: enough,
            descriptors: enough,
            secrets: enough,
            secret_bytes: enough,
            lock: Level::Prefer,
            may_seal: false,
        };
        change(&mut found);
        found
    }

    #[test]
    fn what_is_not_known_is_neither_short_nor_silent() {
        let found = preflight(|found| {
            found.mappings.available = None;
            // Of what is not needed there is enough.
            found.descriptors = Need { needed: 0, available: None, in_use: None };
        });
        assert_eq!(found.shortages().next(), None);
        assert!(found.unverified().eq([Resource::Mappings]));
        let text = found.to_string();
        assert_eq!(text, "5 more paged secrets of 32 bytes fit; mappings could not be checked");
    }

    #[test]
    fn each_shortage_has_its_hint() {
        let found = preflight(|found| {
            for need in [
                &mut found.memory,
                &mut found.address_space,
                &mut found.locked,
                &mut found.mappings,
                &mut found.descriptors,
                &mut found.secrets,
                &mut found.secret_bytes,
            ] {
                need.needed = 6;
            }
        });
        let on = |windows, unix| if cfg!(windows) { windows } else { unix };
        let hints = [
            on("page file", "memory.max"),
            "ulimit -v",
            on("working set", "ulimit -l"),
            on("page file", "vm.max_map_count"),
            "ulimit -n",
            "secrets_max",
            "bytes_max",
        ];
        assert_eq!(found.shortages().count(), hints.len());
        for (shortage, hint) in found.shortages().zip(hints) {
            let text = shortage.to_string();
            assert!(text.contains("6 more") && text.contains("5 are left") && text.contains(hint), "{text}");
            assert_eq!(shortage.refuses, shortage.resource != Resource::LockedMemory, "{text}");
        }
        let sealed = preflight(|found| (found.may_seal, found.locked.needed) = (true, 6));
        let text = sealed.shortages().next().unwrap().to_string();
        assert!(text.contains("(the others would be sealed)"), "{text}");
        let required = preflight(|found| (found.lock, found.locked.needed) = (Level::Require, 6));
        let shortage = required.shortages().next().unwrap();
        assert!(shortage.refuses);
        assert_eq!(shortage.hint, Hint::LockedMemory { limit: Some(6), in_use: Some(1) });
    }
}

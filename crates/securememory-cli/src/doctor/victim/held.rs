//! The secret in the victim's hands, kept in one of the ways there are.

use std::io::{self, Read};

use securememory::{Cipher, Error, ErrorKind, Hint, Hold, Level, Secret, Status, Store, Vault, with2};

use crate::doctor::crack::RecordAt;
use crate::doctor::memory::Sight;
use crate::doctor::needle::Needle;
use crate::doctor::order::{Claim, Facts};
use crate::doctor::promises::Kept;
use crate::doctor::verdict::Trouble;

/// The secret.
pub enum Held {
    /// In a vector.
    Plain(Vec<u8>),
    /// In the library.
    Kept(InVault),
}

/// A secret in the library.
pub struct InVault {
    /// Its vault, which has nothing else in it but the decoy.
    pub vault: Vault,
    /// The secret.
    pub secret: Secret,
    /// Random bytes beside it.
    pub decoy: Secret,
}

impl Held {
    /// Makes it.
    pub fn make(kept: Kept, needle: &Needle) -> Result<Self, Trouble> {
        let sealed = |hold| Vault::builder().store(Store::Sealed).hold(hold).hold_level(Level::Require);
        let builder = match kept {
            Kept::Plain => {
                let mut bytes = vec![0; needle.len()];
                needle.fill(&mut bytes);
                return Ok(Self::Plain(bytes));
            }
            Kept::SealedPkey => sealed(Hold::Pkey),
            Kept::SealedSplit => sealed(Hold::Split),
            Kept::SealedSecretmem => sealed(Hold::Secretmem),
            Kept::SealedGuarded => sealed(Hold::Guarded),
            Kept::Paged => Vault::builder().store(Store::Paged),
        };
        Self::make_in(builder.build()?, needle)
    }

    /// Makes another one in the same vault, if there is a vault.
    pub fn sibling(&self, needle: &Needle) -> Result<Self, Trouble> {
        match self {
            Self::Plain(_) => Self::make(Kept::Plain, needle),
            Self::Kept(kept) => Self::make_in(kept.vault.clone(), needle),
        }
    }

    fn make_in(vault: Vault, needle: &Needle) -> Result<Self, Trouble> {
        let decoy = vault.secret().random(16)?;
        let secret = vault.secret().label("doctor").init_with(needle.len(), |place| needle.fill(place))?;
        Ok(Self::Kept(InVault { vault, secret, decoy }))
    }

    /// Where things lie, and what the library says of itself.
    pub fn facts(&self) -> Facts {
        let kept = match self {
            Self::Plain(bytes) => {
                let place = (bytes.as_ptr().expose_provenance(), bytes.len());
                return Facts {
                    plaintext: Some(place),
                    decoy: None,
                    record: None,
                    locked: Claim::Missing,
                    undumped: Claim::Missing,
                };
            }
            Self::Kept(kept) => kept,
        };
        let status = kept.secret.status();
        let claim = |achieved: securememory::Achieved| match (achieved.got, achieved.refused) {
            (true, _) => Claim::InForce,
            (false, Some(refused)) => Claim::Refused(refused.to_string()),
            (false, None) => Claim::Missing,
        };
        Facts {
            plaintext: status.at_rest.filter(|_| status.store == Store::Paged).map(|at| (at.address, at.len)),
            decoy: record(&kept.decoy.status()),
            record: record(&status),
            locked: claim(status.protections.lock),
            undumped: claim(status.protections.dump),
        }
    }

    /// Every way to use it, tried once: those that worked, and the errors of the others.
    pub fn try_all(&self) -> (Vec<String>, Vec<String>) {
        let ways = match self {
            Self::Plain(bytes) => vec![("read", if bytes.is_empty() { Err(Error::Empty) } else { Ok(()) })],
            Self::Kept(kept) => kept.ways(),
        };
        let (mut worked, mut refused) = (Vec::new(), Vec::new());
        for (way, result) in ways {
            match result {
                Ok(()) => worked.push(way.to_owned()),
                Err(error) => refused.push(error.to_string()),
            }
        }
        (worked, refused)
    }

    /// A copy of the decoy's record, which is an old one when this returns. Nothing where there is no record.
    pub fn plant(&self) -> Result<Vec<u8>, Trouble> {
        let (Self::Kept(kept), Some(decoy)) = (self, self.facts().decoy) else { return Ok(Vec::new()) };
        let copy = Sight::inside()?.bytes(decoy.address, decoy.range().len())?;
        kept.decoy.view_mut()?.commit()?;
        Ok(copy)
    }

    /// Places for views that are not locked, as the library says.
    pub fn unlocked(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Kept(kept) => kept.vault.status().scratch_unlocked,
        }
    }

    /// Reads it in the simplest way and sees that it is right.
    pub fn read(&self, needle: &Needle) -> Result<(), String> {
        let right = match self {
            Self::Plain(bytes) => needle.is(std::hint::black_box(bytes)),
            Self::Kept(kept) => {
                kept.secret.with(|bytes| needle.is(bytes)).map_err(|failed| failed.error().to_string())?
            }
        };
        if right { Ok(()) } else { Err("other bytes than were stored".to_owned()) }
    }

    /// Reads and changes it in every way there is, as a program does, and copies it from several sources.
    pub fn exercise(&mut self, needle: &Needle) -> Result<(), Trouble> {
        match self {
            // Several at once: the place of a single one may be used again before anybody looks.
            Self::Plain(bytes) => drop(std::hint::black_box([(); 8].map(|()| bytes.clone()))),
            Self::Kept(kept) => {
                for _ in 0..3 {
                    kept.all_ways()?;
                    kept.try_all_sources(needle)?;
                }
                // Another thread, whose stack stays behind when it ends.
                std::thread::scope(|scope| scope.spawn(|| kept.all_ways()).join())
                    .map_err(|_| Trouble::failed("a reading thread panicked"))??;
            }
        }
        self.read(needle).map_err(|why| Trouble::failed(format!("after reads and changes: {why}")))
    }
}

/// Secrets that are given back where the host has no room for more.
const RESERVE: usize = 16;

/// Is it the host that allows no more? At the limit of mappings it is a protection that is refused.
fn is_limit(error: &Error) -> bool {
    error.kind() == ErrorKind::Limit
        || matches!(
            error.hint(),
            Some(
                Hint::Mappings { .. }
                    | Hint::AddressSpace { .. }
                    | Hint::LockedMemory { .. }
                    | Hint::Descriptors { .. }
            )
        )
}

/// Many secrets beside the one, with the same bytes: whichever is left behind is found.
pub struct Crowd {
    vectors: Vec<Vec<u8>>,
    secrets: Vec<Secret>,
    /// Why there are no more.
    pub limit: Option<String>,
}

impl Crowd {
    /// Makes so many, or as many as the host has room for.
    pub fn make(beside: &Held, needle: &Needle, count: usize) -> Result<Self, Trouble> {
        let mut crowd = Self { vectors: Vec::new(), secrets: Vec::new(), limit: None };
        for _ in 0..count {
            match beside {
                Held::Plain(_) => crowd.vectors.push(needle.show()),
                Held::Kept(kept) => {
                    match kept.vault.secret().init_with(needle.len(), |place| needle.fill(place)) {
                        Ok(secret) => crowd.secrets.push(secret),
                        Err(error) if is_limit(&error) => {
                            crowd.limit = Some(error.to_string());
                            // The process itself needs room, too.
                            crowd.secrets.truncate(crowd.secrets.len().saturating_sub(RESERVE));
                            return Ok(crowd);
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        Ok(crowd)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.vectors.len() + self.secrets.len()
    }
}

impl InVault {
    /// Where a secret rests that nobody is using, if it is in pages.
    pub fn paged_decoy(&self) -> Option<usize> {
        let status = self.decoy.status();
        status.at_rest.filter(|_| status.store == Store::Paged).map(|at| at.address)
    }

    fn all_ways(&self) -> Result<(), Trouble> {
        for (way, result) in self.ways() {
            result.map_err(|error| Trouble::failed(format!("{way}: {error}")))?;
        }
        Ok(())
    }

    /// Every way to read or to change a secret, by name, tried once.
    pub fn ways(&self) -> Vec<(&'static str, Result<(), Error>)> {
        let (secret, decoy) = (&self.secret, &self.decoy);
        let copy = |from: &[u8], to: &mut [u8]| to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        vec![
            ("with", secret.with(touch).map_err(Error::from)),
            (
                "view",
                secret.view().and_then(|view| {
                    touch(&view);
                    view.finish()
                }),
            ),
            ("owned_view", secret.owned_view().and_then(|view| view.with(touch).map_err(Error::from))),
            (
                "with2",
                with2(secret, decoy, |one, two| {
                    touch(one);
                    touch(two)
                })
                .map_err(Error::from),
            ),
            ("ct_eq", secret.ct_eq(decoy).map(|_| ())),
            ("ct_eq_bytes", secret.ct_eq_bytes(&[1, 2, 3]).map(|_| ())),
            ("derive", secret.derive(secret.len(), copy).map(drop)),
            (
                "view_mut",
                secret.view_mut().and_then(|mut view| {
                    touch(&view);
                    view[0] ^= 0;
                    view.commit()
                }),
            ),
        ]
    }

    /// Makes the same secret from a buffer, a vector and a reader, and ends it.
    fn try_all_sources(&self, needle: &Needle) -> Result<(), Trouble> {
        let mut buffer = vec![0; needle.len() + 64];
        needle.fill(&mut buffer[..needle.len()]);
        let from_bytes = self.vault.secret().from_bytes(&mut buffer[..needle.len()])?;
        let mut vector = Vec::with_capacity(needle.len() * 2);
        vector.resize(needle.len(), 0);
        needle.fill(&mut vector);
        let from_vec = self.vault.secret().from_vec(vector).map_err(Error::from)?;
        let from_reader =
            self.vault.secret().read_from(&mut Source { needle, given: false }, needle.len())?;
        let mut new = vec![0; needle.len()];
        needle.fill(&mut new);
        from_reader.replace(&mut new)?;
        for secret in [from_bytes, from_vec, from_reader] {
            secret.with(touch).map_err(Error::from)?;
            secret.close()?;
        }
        Ok(())
    }
}

/// Gives the secret to a reader of bytes, straight into its buffer.
struct Source<'a> {
    needle: &'a Needle,
    given: bool,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given || buffer.len() < self.needle.len() {
            return Err(io::Error::other("the whole is wanted at once"));
        }
        self.given = true;
        self.needle.fill(&mut buffer[..self.needle.len()]);
        Ok(self.needle.len())
    }
}

/// Uses every byte, one at a time, so that no copy of several is made here.
fn touch(bytes: &[u8]) {
    for byte in bytes {
        std::hint::black_box(*byte);
    }
}

fn record(status: &Status) -> Option<RecordAt> {
    let at = status.at_rest.filter(|_| status.store == Store::Sealed)?;
    let cipher = match status.cipher? {
        Cipher::Aegis256 => 1,
        Cipher::Aegis256X4 => 4,
        _ => 2,
    };
    Some(RecordAt {
        address: at.address,
        cipher,
        vault: status.vault_id,
        id: status.id,
        version: status.version,
        epoch: status.epoch,
        len: status.len,
    })
}

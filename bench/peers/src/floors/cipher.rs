//! The bare cipher on 32 bytes, alone and with the fetch of its key.

use std::os::fd::OwnedFd;

use aegis::aegis256::Aegis256;
use rustix::rand::GetRandomFlags;

use super::Result;
use super::calls::{SHARE, share_file};
use super::region::Region;
use crate::peer::look_at;

pub const KEY: usize = 32;
pub const TAG: usize = 16;
const SECRET: usize = 32;

/// A key in an in-memory file, guarded and locked memory to read it into, and a text under that key.
pub struct Cipher {
    file: OwnedFd,
    region: Region,
    nonce: [u8; KEY],
    tag: [u8; TAG],
    text: [u8; SECRET],
}

impl Cipher {
    pub fn new() -> Result<Self> {
        let (region, file) = (Region::locked()?, share_file()?);
        let mut floor = Self { file, region, nonce: [0; KEY], tag: [0; TAG], text: [0; SECRET] };
        fetch_and_seal(&mut floor)?;
        Ok(floor)
    }

    /// The plaintext, and the key above it: the first half of the share at the page's end.
    fn page(&mut self) -> (&mut [u8; SECRET], &[u8; KEY]) {
        let place = self.region.last(SECRET + SHARE);
        // SAFETY: the last bytes of a page that is open from `new` on and belongs to this value alone, which is
        // borrowed for as long as the references live; the two do not overlap.
        unsafe { (&mut *place.cast(), &*place.add(SECRET).cast()) }
    }

    /// One `pread` of 64 bytes that end where the page ends; the key is the first 32 of them.
    fn fetch(&mut self) -> Result<()> {
        // SAFETY: as in `page`; nothing else lies there.
        let share: &mut [u8; SHARE] = unsafe { &mut *self.region.last(SHARE).cast() };
        let got = rustix::io::pread(&self.file, share.as_mut_slice(), 0)?;
        if got == SHARE { Ok(()) } else { Err("a short read".into()) }
    }
}

/// Opens 32 bytes, key set-up included, and looks at them.
pub fn open(floor: &mut Cipher) -> Result<u64> {
    let (nonce, tag, text) = (floor.nonce, floor.tag, floor.text);
    let (plain, key) = floor.page();
    *plain = text;
    let cipher = Aegis256::<TAG>::new(key, &nonce);
    cipher.decrypt_in_place(plain, &tag, &[]).map_err(|_| "the tag does not fit")?;
    Ok(look_at(plain))
}

/// Seals 32 bytes, key set-up included, under the nonce that is there.
pub fn seal(floor: &mut Cipher) -> Result<u64> {
    let nonce = floor.nonce;
    let (plain, key) = floor.page();
    let mut text = *plain;
    let tag = Aegis256::<TAG>::new(key, &nonce).encrypt_in_place(&mut text, &[]);
    (floor.tag, floor.text) = (tag, text);
    Ok(0)
}

/// The parts of a sealed read.
pub fn fetch_and_open(floor: &mut Cipher) -> Result<u64> {
    floor.fetch()?;
    open(floor)
}

/// The parts of a sealed creation: fetch the key, draw a nonce, seal.
pub fn fetch_and_seal(floor: &mut Cipher) -> Result<u64> {
    floor.fetch()?;
    let mut nonce = [0; KEY];
    random(&mut nonce)?;
    floor.nonce = nonce;
    seal(floor)
}

/// The parts of a sealed write: open, change, seal under a fresh nonce; the key is fetched for each of the two.
pub fn rewrite(floor: &mut Cipher) -> Result<u64> {
    fetch_and_open(floor)?;
    let (plain, _) = floor.page();
    plain[0] = plain[0].wrapping_add(1);
    fetch_and_seal(floor)
}

/// Random bytes from the kernel, by the raw call.
pub fn random(place: &mut [u8]) -> Result<()> {
    let got = rustix::rand::getrandom(&mut *place, GetRandomFlags::empty())?;
    if got == place.len() { Ok(()) } else { Err("too few random bytes".into()) }
}

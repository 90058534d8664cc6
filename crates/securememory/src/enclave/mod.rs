//! The machinery of sealed secrets: the cipher, and the key that is lent for the moment of its use.
//!
//! From before the key is lent to the end of the scrub a thread is in its *window*. All that works with the
//! key runs below a call that is not inlined, so that when it has returned, everything it put on the stack
//! lies below the frame of the one who scrubs.

pub(crate) mod cipher;
pub(crate) mod hold;

use crate::error::{Error, Protection};
use crate::os;
use crate::policy::{Cipher, Hold, Level, Levels};
use crate::region::both;
use crate::region::lease::Lease;
use crate::region::scrub;
use crate::registry::Thread;
use crate::status::Protections;
use cipher::{ASSOCIATED, Confirmation, Forged, NONCE, TAG};
use hold::anchor::{Anchor, MAX_SHARES};
use hold::{Check, KeyHold, broken, lost};

/// What a ciphertext is bound to.
#[derive(Clone, Copy)]
pub(crate) struct Binding {
    pub(crate) vault: u64,
    pub(crate) secret: u64,
    pub(crate) version: u64,
}

impl Binding {
    /// `"smv1"`, cipher, vault, secret, version, epoch (always 0 so far), length; little endian.
    #[inline]
    fn associated(&self, cipher: Cipher, len: usize) -> [u8; ASSOCIATED] {
        let mut bytes = [0; ASSOCIATED];
        bytes[..4].copy_from_slice(b"smv1");
        bytes[4..8].copy_from_slice(&cipher::number(cipher).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.vault.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.secret.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.version.to_le_bytes());
        bytes[40..48].copy_from_slice(&(len as u64).to_le_bytes());
        bytes
    }
}

/// What stands before the ciphertext in a record.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Envelope {
    pub(crate) nonce: [u8; NONCE],
    pub(crate) tag: [u8; TAG],
}

/// The cipher and the key of one vault.
pub(crate) struct Enclave {
    cipher: Cipher,
    anchor: Anchor,
    hold: KeyHold,
    confirmation: Confirmation,
    stepped_down: Option<Error>,
    /// Bytes of stack to wipe after a window.
    scrub_depth: usize,
}

impl Enclave {
    pub(crate) fn make(
        wish: Hold,
        wish_level: Level,
        cipher: Option<Cipher>,
        levels: Levels,
    ) -> Result<Self, Error> {
        let cipher = cipher.unwrap_or_else(cipher::choose);
        cipher::available(cipher)?;
        let anchor = Anchor::make(levels)?;
        match KeyHold::make(wish, wish_level, cipher, &anchor, levels) {
            Ok((hold, stepped_down)) => {
                let scrub_depth = scrub::depth(cipher::stack(cipher));
                let confirmation = hold.confirmation();
                Ok(Self { cipher, anchor, hold, confirmation, stepped_down, scrub_depth })
            }
            Err(error) => {
                let mut anchor = anchor;
                anchor.end();
                Err(error)
            }
        }
    }

    pub(crate) fn cipher(&self) -> Cipher {
        self.cipher
    }

    pub(crate) fn hold(&self) -> &KeyHold {
        &self.hold
    }

    pub(crate) fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    pub(crate) fn stepped_down(&self) -> Option<Error> {
        self.stepped_down
    }

    #[inline]
    pub(crate) fn is_alive(&self) -> bool {
        self.anchor.is_alive()
    }

    pub(crate) fn locked_bytes(&self) -> usize {
        self.anchor.locked_bytes() + self.hold.locked_bytes()
    }

    /// What is in force now on all that holds the key and its shares.
    pub(crate) fn protections(&self) -> Protections {
        let anchor = self.anchor.protections();
        self.hold.protections(true).map_or(anchor, |hold| both(anchor, hold))
    }

    /// What was found in force there at creation.
    pub(crate) fn protections_at_creation(&self) -> Protections {
        let anchor = *self.anchor.protections_at_creation();
        self.hold.protections(false).map_or(anchor, |hold| both(anchor, hold))
    }

    /// Refuses where a secret requires more than the vault got.
    pub(crate) fn satisfies(&self, levels: Levels) -> Result<(), Error> {
        let got = self.protections_at_creation();
        let wanted = [
            (Protection::Lock, levels.lock, got.lock),
            (Protection::Dump, levels.dump, got.dump),
            (Protection::Fork, levels.fork, got.fork),
        ];
        for (protection, level, achieved) in wanted {
            if level == Level::Require && !achieved.got {
                return Err(match achieved.refused {
                    Some(cause) => Error::Refused { protection, cause },
                    None => Error::NotInForce(protection),
                });
            }
        }
        let in_secretmem = matches!(self.hold, KeyHold::Secretmem(_));
        if levels.secretmem == Level::Require && !in_secretmem {
            return Err(Error::NotInForce(Protection::Secretmem));
        }
        Ok(())
    }

    /// Decrypts into a slot whose window is open, and closes the window. On an error the data is wiped.
    #[inline]
    pub(crate) fn open(
        &self,
        thread: Thread,
        slot: &mut Lease,
        binding: Binding,
        envelope: &Envelope,
        ciphertext: &[u8],
    ) -> Result<(), Error> {
        let outcome = self.open_in_window(thread, slot, binding, envelope, ciphertext);
        if outcome.is_err() {
            slot.wipe_data();
        }
        self.end_window(slot);
        outcome
    }

    #[inline(never)]
    fn open_in_window(
        &self,
        thread: Thread,
        slot: &mut Lease,
        binding: Binding,
        envelope: &Envelope,
        ciphertext: &[u8],
    ) -> Result<(), Error> {
        let cipher = cipher::for_len(self.cipher, ciphertext.len());
        let associated = binding.associated(cipher, ciphertext.len());
        for _ in 0..=MAX_SHARES {
            slot.bytes_mut().copy_from_slice(ciphertext);
            let opened = self.hold.lend(&self.anchor, thread.index(), slot, Check::Forged, |key, data| {
                // Where it is the key that is wrong, it is not the data that was tampered with.
                cipher::open(cipher, key, &envelope.nonce, &associated, data, &envelope.tag)
                    .map_err(|forged| if self.confirmation.confirms(key) { forged } else { Forged::Key })
            })?;
            match opened {
                Ok(()) => return Ok(()),
                Err(Forged::Data) => return Err(Error::Tampered),
                Err(Forged::Key) if self.hold.distrust(&self.anchor, slot) => {}
                Err(Forged::Key) => break,
            }
        }
        Err(lost(&self.anchor))
    }

    /// Encrypts what lies in a slot whose window is open, in place, and closes the window. On an error the data is
    /// wiped; nothing that was made may be published.
    #[inline]
    pub(crate) fn seal(&self, thread: Thread, slot: &mut Lease, binding: Binding) -> Result<Envelope, Error> {
        let outcome = self.seal_in_window(thread, slot, binding);
        if outcome.is_err() {
            slot.wipe_data();
        }
        self.end_window(slot);
        outcome
    }

    #[inline(never)]
    fn seal_in_window(&self, thread: Thread, slot: &mut Lease, binding: Binding) -> Result<Envelope, Error> {
        let mut nonce = [0; NONCE];
        os::fill_random(&mut nonce)?;
        let cipher = cipher::for_len(self.cipher, slot.len());
        let associated = binding.associated(cipher, slot.len());
        for _ in 0..=MAX_SHARES {
            let sealed = self.hold.lend(&self.anchor, thread.index(), slot, Check::Always, |key, data| {
                // Before anything is changed, so that another key may be tried, with the nonce that was not used yet.
                if !self.confirmation.confirms(key) {
                    return Err(Forged::Key);
                }
                broken::in_window();
                cipher::seal(cipher, key, &nonce, &associated, data)
            })?;
            match sealed {
                Ok(tag) => return Ok(Envelope { nonce, tag }),
                Err(Forged::Data) => {
                    return Err(Error::TooLarge { len: slot.len(), limit: isize::MAX as usize });
                }
                Err(Forged::Key) if self.hold.distrust(&self.anchor, slot) => {}
                Err(Forged::Key) => break,
            }
        }
        Err(lost(&self.anchor))
    }

    #[inline]
    fn end_window(&self, slot: &Lease) {
        slot.wipe_head();
        scrub::after_window(self.scrub_depth);
        slot.close_window();
    }

    /// Destroys the key; in a child that inherited it, does nothing.
    pub(crate) fn destroy_key(&mut self) {
        self.hold.destroy(&self.anchor);
    }

    /// Gives the page back that everything else hung on. The last call; in the owner process only.
    pub(crate) fn end(&mut self) {
        self.anchor.end();
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    #![allow(unsafe_code, clippy::unwrap_used, clippy::panic)]

    use std::time::Duration;

    use super::*;
    use crate::registry;
    use crate::store::{Machinery, Settings};

    const PAINT: usize = 160 * 1024;

    /// The stack below here, filled with a pattern. Returns its lower end.
    #[inline(always)]
    fn paint() -> *const u8 {
        const RED_ZONE: usize = 128;
        let low: *mut u8;
        // SAFETY: a test thread has far more stack than this, and what lies below the stack pointer and its red zone
        // is nobody's while no function is called.
        unsafe {
            std::arch::asm!(
                "lea {low}, [rsp - {below}]",
                "mov rdi, {low}",
                "rep stosb",
                low = out(reg) low, below = const PAINT + RED_ZONE,
                inout("rcx") PAINT => _, out("rdi") _, in("al") 0xA5u8,
                options(nostack, preserves_flags)
            );
        }
        low
    }

    /// How far from the upper end the pattern was overwritten.
    fn depth_used(low: *const u8) -> usize {
        // SAFETY: still our own stack; this function's frames are near its upper end.
        let intact = (0..PAINT).take_while(|&at| unsafe { low.add(at).read_volatile() } == 0xA5).count();
        PAINT - intact
    }

    #[test]
    fn renewals_stay_above_the_depth_that_is_scrubbed_after_them() {
        for cipher in [Cipher::Aegis256, Cipher::XChaCha20Poly1305] {
            renewals_stay_above_the_depth(cipher);
        }
    }

    fn renewals_stay_above_the_depth(cipher: Cipher) {
        let settings = Settings { hold: Hold::Split, cipher: Some(cipher), ..Settings::default() };
        let machinery = Machinery::make(settings).unwrap();
        let Enclave { anchor, hold: KeyHold::Split(split), .. } = &machinery.enclave else {
            panic!("split is asked for")
        };
        let mut slot = machinery.scratch.take(registry::thread(), 1, 8, 8, false, Duration::ZERO).unwrap();
        machinery.enclave.hold.fetch(anchor, 1, &mut slot).unwrap();
        for measured in [false, true] {
            assert!(split.lose_one());
            let low = paint();
            // SAFETY: the key was fetched into this head, by another replica than the one that was lost.
            let tried = unsafe { split.renew_lost(anchor, slot.head()) };
            let used = depth_used(low);
            println!("{cipher:?}: {used} bytes to renew a replica");
            assert!(tried && split.renewed() == 1 + usize::from(measured));
            assert!(!measured || (100..=split.renewal_stack()).contains(&used), "{used} {cipher:?}");
        }
        slot.wipe_head();
        slot.close_window();
        slot.release();
    }

    #[test]
    fn the_cipher_path_stays_above_the_scrubbed_depth() {
        let aegis =
            [Hold::Pkey, Hold::Split, Hold::Secretmem, Hold::Guarded].map(|hold| (hold, Cipher::Aegis256));
        let others = [Hold::Pkey, Hold::Split, Hold::Secretmem].map(|hold| (hold, Cipher::XChaCha20Poly1305));
        let more = [Cipher::Aegis256X4, Cipher::Aes256Gcm].map(|cipher| (Hold::Split, cipher));
        let built = more.into_iter().filter(|&(_, cipher)| cipher::available(cipher).is_ok());
        // A large record may be sealed by a wide variant of the vault's cipher.
        for ((hold, cipher), len) in
            aegis.into_iter().chain(others).chain(built).flat_map(|each| [(each, 100), (each, 2000)])
        {
            let settings =
                Settings { hold, hold_level: Level::Require, cipher: Some(cipher), ..Settings::default() };
            let machinery = match Machinery::make(settings) {
                Err(Error::HoldRefused(cause)) if matches!(hold, Hold::Pkey | Hold::Secretmem) => {
                    eprintln!("skipped: {hold:?} is not to be had here: {cause}");
                    continue;
                }
                made => made.unwrap(),
            };
            let thread = registry::thread();
            let binding = Binding { vault: machinery.id, secret: 1, version: 0 };
            let mut slot = machinery.scratch.take(thread, 1, len, 16, false, Duration::ZERO).unwrap();
            slot.bytes_mut().fill(9);
            // Both ways once unmeasured: first calls resolve symbols and detect the processor.
            for measured in [false, true] {
                let low = paint();
                let envelope = machinery.enclave.seal_in_window(thread, &mut slot, binding).unwrap();
                let sealing = depth_used(low);
                let sealed = slot.bytes().to_vec();
                let low = paint();
                machinery.enclave.open_in_window(thread, &mut slot, binding, &envelope, &sealed).unwrap();
                let opening = depth_used(low);
                let forged = Envelope { tag: [0; TAG], ..envelope };
                let low = paint();
                let refused = machinery.enclave.open_in_window(thread, &mut slot, binding, &forged, &sealed);
                let refusing = depth_used(low);
                assert_eq!(refused, Err(Error::Tampered));
                println!(
                    "{hold:?} {cipher:?}, {len}: {sealing} bytes to seal, {opening} to open, {refusing} to refuse"
                );
                if measured {
                    let most = sealing.max(opening).max(refusing);
                    assert!(most <= cipher::stack(cipher), "{sealing} {opening} {refusing} {cipher:?}");
                    assert!(opening > 100, "the measurement measures");
                }
            }
            slot.close_window();
            slot.release();
        }
    }
}

#![allow(unsafe_code, clippy::unwrap_used, clippy::panic)]

use std::time::Duration;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::time::Instant;

use super::cipher::TAG;
use super::*;
use crate::os::Build;
use crate::registry;
use crate::store::{Machinery, Settings};
use crate::testing::TestGuard;

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

fn other_slot(machinery: &Machinery) -> Lease {
    machinery.scratch.take(registry::thread(), 0, 1, 1, false, Duration::from_secs(5)).unwrap()
}

// Where there are replicas.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[test]
fn renewals_stay_above_the_depth_that_is_scrubbed_after_them() {
    let _guard = TestGuard::new();
    if !Build::HERE.split {
        eprintln!("skipped: this build has no split keys");
        return;
    }
    let all = [Cipher::Aegis256, Cipher::XChaCha20Poly1305, Cipher::Aegis256X4, Cipher::Aes256Gcm];
    for cipher in all.into_iter().filter(|&cipher| cipher::available(cipher).is_ok()) {
        renewals_stay_above_the_depth(cipher);
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn renewals_stay_above_the_depth(cipher: Cipher) {
    let settings = Settings { hold: Hold::Split, cipher: Some(cipher), ..Settings::default() };
    let machinery = Machinery::make(settings).unwrap();
    let Enclave { anchor, epochs, .. } = &machinery.enclave;
    let keys = epochs.freeze().unwrap();
    let hold = keys.key(1).unwrap();
    let KeyHold::Split(split) = hold else { panic!("split is asked for") };
    let mut slot =
        machinery.scratch.take(registry::thread(), 1, 8, 8, false, Duration::from_secs(5)).unwrap();
    hold.fetch(anchor, 1, &mut slot).unwrap();
    for measured in [false, true] {
        assert!(split.lose_one());
        let started = Instant::now();
        let used = loop {
            let low = paint();
            // SAFETY: the key was fetched into this head, by another replica than the one that was lost.
            let tried = unsafe { split.renew_lost(anchor, slot.head()) };
            let used = depth_used(low);
            if tried {
                break used;
            }
            // Another test is in the middle of a fork.
            assert!(started.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(1));
        };
        println!("{cipher:?}: {used} bytes to renew a replica");
        assert_eq!(split.renewed(), 1 + usize::from(measured));
        assert!(!measured || (100..=split.renewal_stack()).contains(&used), "{used} {cipher:?}");
    }
    slot.wipe_head();
    slot.close_window();
    slot.release();
}

#[test]
fn the_cipher_path_stays_above_the_scrubbed_depth() {
    let _guard = TestGuard::new();
    // Where there are no split keys, what is tried with them is tried with the hold that there is.
    let split = if Build::HERE.split { Hold::Split } else { Hold::Guarded };
    let aegis = [Hold::Pkey, split, Hold::Secretmem, Hold::Guarded].map(|hold| (hold, Cipher::Aegis256));
    let others = [Hold::Pkey, split, Hold::Secretmem].map(|hold| (hold, Cipher::XChaCha20Poly1305));
    let more = [Cipher::Aegis256X4, Cipher::Aes256Gcm].map(|cipher| (split, cipher));
    let built = more.into_iter().filter(|&(_, cipher)| cipher::available(cipher).is_ok());
    // A large record may be sealed by a wide variant of the vault's cipher.
    for ((hold, cipher), len) in
        aegis.into_iter().chain(others).chain(built).flat_map(|each| [(each, 100), (each, 2000)])
    {
        let settings =
            Settings { hold, hold_level: Level::Require, cipher: Some(cipher), ..Settings::default() };
        let machinery = match Machinery::make(settings) {
            Err(Error::HoldRefused(cause))
                if !matches!(hold, Hold::Guarded | Hold::Split) || (hold == Hold::Split && cfg!(windows)) =>
            {
                eprintln!("skipped: {hold:?} is not to be had here: {cause}");
                continue;
            }
            made => made.unwrap(),
        };
        let thread = registry::thread();
        let binding = Binding { vault: machinery.id, secret: 1, version: 0, epoch: 1 };
        let mut slot = machinery.scratch.take(thread, 1, len, 16, false, Duration::from_secs(5)).unwrap();
        slot.bytes_mut().fill(9);
        // Both ways once unmeasured: first calls resolve symbols and detect the processor.
        for measured in [false, true] {
            let mut sealed = vec![0u8; len];
            // SAFETY: initialised bytes may be seen as bytes that need not be.
            let out = unsafe { std::slice::from_raw_parts_mut(sealed.as_mut_ptr().cast(), len) };
            let low = paint();
            let envelope = machinery.enclave.seal_in_window(thread, &mut slot, binding, None, out).unwrap();
            let sealing = depth_used(low);
            let opening = |envelope| Sealed { binding, envelope, ciphertext: &sealed };
            let low = paint();
            machinery.enclave.open_in_window(thread, &mut slot, &opening(&envelope)).unwrap();
            let opening_used = depth_used(low);
            assert_eq!(slot.bytes(), vec![9; len]);
            let forged = Envelope { tag: [0; TAG], ..envelope };
            let low = paint();
            let refused = machinery.enclave.open_in_window(thread, &mut slot, &opening(&forged));
            let refusing = depth_used(low);
            let mut again = vec![MaybeUninit::uninit(); len];
            let (mut done, mut other) = (false, other_slot(&machinery));
            let low = paint();
            let both =
                machinery.enclave.with_two_keys(thread, (1, &mut slot), (1, &mut other), |old, new, room| {
                    done = Nonces::new().draw().is_ok_and(|nonce| {
                        old.open(&opening(&envelope), room).is_ok()
                            && new.seal(binding, &nonce, room, &mut again).is_ok()
                    });
                });
            let moving = depth_used(low);
            assert!(both.is_ok() && done);
            other.release();
            println!("{hold:?} {cipher:?}, {len}: {moving} bytes to move");
            assert!(!measured || moving <= cipher::stack(cipher) + BATCH_STACK, "{moving} {cipher:?}");
            slot.bytes_mut().fill(9);
            assert_eq!(refused, Err(Error::Tampered));
            let opening = opening_used;
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

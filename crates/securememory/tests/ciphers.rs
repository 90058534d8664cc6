//! Every cipher keeps secrets of all lengths, and says when it is not in this build.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::time::Duration;

use securememory::testing::TestGuard;
use securememory::{Cipher, Error, Secret, Store, Vault};

const ALL: [Cipher; 4] = [Cipher::Aegis256, Cipher::Aegis256X4, Cipher::XChaCha20Poly1305, Cipher::Aes256Gcm];

/// A vault with each cipher that is in this build.
fn vaults() -> impl Iterator<Item = (Cipher, Vault)> {
    ALL.into_iter().filter_map(|cipher| {
        match Vault::builder().store(Store::Sealed).cipher(cipher).refresh_after_seals(50).build() {
            Err(error) if cipher == Cipher::Aes256Gcm && !cfg!(feature = "aes-gcm") => {
                assert!(matches!(error, Error::Unsupported(_)), "{error}");
                assert!(error.to_string().contains("feature `aes-gcm`"), "{error}");
                None
            }
            made => Some((cipher, made.unwrap())),
        }
    })
}

#[test]
fn streams_batches_and_new_keys_work_under_every_cipher() {
    let _guard = TestGuard::new();
    for (cipher, vault) in vaults() {
        let mut stream = vault.stream().chunk_size(1500).build().unwrap();
        let written: Vec<u8> = (0..40_000).map(|n| (n % 251) as u8).collect();
        stream.write_all(&written).unwrap();
        stream.finish().unwrap();
        let mut start = vec![0; 10_000];
        stream.read_exact(&mut start).unwrap();
        let expected: Vec<Vec<u8>> = (0..100).map(|n| vec![n as u8; 1 + n * 40]).collect();
        let secrets = vault.secrets_from(&mut expected.clone()).unwrap();
        assert!(vault.status().epoch > 1, "{cipher:?}: a key that has sealed so often is replaced");
        vault.refresh().unwrap();
        vault.finish_refresh(Duration::from_secs(20)).unwrap();
        assert_eq!(vault.status().keys, 1, "{cipher:?}");
        let all: Vec<&Secret> = secrets.iter().collect();
        Secret::with_many(&all, |at, bytes| assert_eq!(bytes, expected[at], "{cipher:?}")).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!([start, rest].concat() == written, "{cipher:?}");
    }
}

#[test]
fn secrets_come_back_under_every_cipher() {
    let _guard = TestGuard::new();
    for (cipher, vault) in vaults() {
        assert_eq!(vault.status().cipher, cipher);
        // Lengths, not a page size.
        for len in [1, 63, 1023, 1024, 1025, 4096, 200_000] {
            let original: Vec<u8> = (0..len).map(|n| (n * 7 + 3) as u8).collect();
            let secret = vault.secret().from_bytes(&mut original.clone()).unwrap();
            assert!(secret.with(|bytes| bytes == original).unwrap(), "{cipher:?} {len}");
            let mut view = secret.view_mut().unwrap();
            view[len - 1] ^= 0xFF;
            view.commit().unwrap();
            assert!(secret.with(|bytes| bytes[len - 1] == original[len - 1] ^ 0xFF).unwrap());
            let used = secret.status().cipher.unwrap();
            let widened = len >= 1024 && (cipher, used) == (Cipher::Aegis256, Cipher::Aegis256X4);
            assert!(used == cipher || widened, "{cipher:?} {len}: {used:?}");
        }
    }
}

//! Every cipher keeps secrets of all lengths, and says when it is not in this build.
#![allow(clippy::unwrap_used)]

use securememory::{Cipher, Error, Store, Vault};

const ALL: [Cipher; 4] = [Cipher::Aegis256, Cipher::Aegis256X4, Cipher::XChaCha20Poly1305, Cipher::Aes256Gcm];

#[test]
fn secrets_come_back_under_every_cipher() {
    for cipher in ALL {
        let vault = match Vault::builder().store(Store::Sealed).cipher(cipher).build() {
            Err(error) if cipher == Cipher::Aes256Gcm && !cfg!(feature = "aes-gcm") => {
                assert!(matches!(error, Error::Unsupported(_)), "{error}");
                assert!(error.to_string().contains("feature `aes-gcm`"), "{error}");
                continue;
            }
            made => made.unwrap(),
        };
        assert_eq!(vault.status().cipher, cipher);
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

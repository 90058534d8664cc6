#![allow(clippy::unwrap_used, unsafe_code)]

use proptest::prelude::*;

use super::*;

/// All that are in this build.
fn built() -> Vec<Cipher> {
    let all = [Cipher::Aegis256, Cipher::Aegis256X4, Cipher::XChaCha20Poly1305, Cipher::Aes256Gcm];
    all.into_iter().filter(|&cipher| available(cipher).is_ok()).collect()
}

fn ciphers() -> impl Strategy<Value = Cipher> {
    prop::sample::select(built())
}

pub(super) fn seal_vec(
    cipher: Cipher,
    key: &[u8; KEY],
    nonce: &[u8; NONCE],
    associated: &[u8; ASSOCIATED],
    plain: &[u8],
) -> (Vec<u8>, [u8; TAG]) {
    let mut sealed = vec![MaybeUninit::uninit(); plain.len()];
    let tag = seal(cipher, key, nonce, associated, plain, &mut sealed).unwrap();
    // SAFETY: the call succeeded, so all of it was written.
    (sealed.iter().map(|byte| unsafe { byte.assume_init() }).collect(), tag)
}

proptest! {
    #[test]
    fn what_is_sealed_opens_and_what_is_changed_does_not(
        cipher in ciphers(), key: [u8; KEY], nonce: [u8; NONCE], associated: [u8; 48],
        plain in proptest::collection::vec(any::<u8>(), 1..300), flip in any::<prop::sample::Index>(),
    ) {
        let (sealed, tag) = seal_vec(cipher, &key, &nonce, &associated, &plain);
        let mut out = vec![0xEE; plain.len()];
        prop_assert_eq!(open(cipher, &key, &nonce, &associated, &sealed, &mut out, &tag), Ok(()));
        prop_assert_eq!(&out, &plain);
        let mut changed = sealed.clone();
        changed[flip.index(sealed.len())] ^= 1;
        prop_assert!(open(cipher, &key, &nonce, &associated, &changed, &mut out, &tag).is_err());
        let mut other = associated;
        other[flip.index(48)] ^= 0x80;
        prop_assert!(open(cipher, &key, &nonce, &other, &sealed, &mut out, &tag).is_err());
        let mut other = nonce;
        other[flip.index(NONCE)] ^= 0x80;
        prop_assert!(open(cipher, &key, &other, &associated, &sealed, &mut out, &tag).is_err());
    }

    #[test]
    fn what_does_not_open_leaves_nothing_of_the_plaintext(
        cipher in ciphers(), key: [u8; KEY], nonce: [u8; NONCE], len in 1usize..300, bits in 1u8..,
    ) {
        let (sealed, mut tag) = seal_vec(cipher, &key, &nonce, &[0; ASSOCIATED], &vec![0x5A; len]);
        tag[7] ^= bits;
        let mut out = vec![0xEE; len];
        let refused = open(cipher, &key, &nonce, &[0; ASSOCIATED], &sealed, &mut out, &tag);
        prop_assert_eq!(refused, Err(Forged::Data));
        prop_assert!(out.iter().all(|&byte| byte == 0) || out.iter().all(|&byte| byte == 0xEE));
    }

    #[test]
    fn a_key_is_confirmed_and_no_other(cipher in ciphers(), key: [u8; KEY], at in 0..KEY, bits in 1u8..) {
        let confirmation = Confirmation::of(cipher, &key).unwrap();
        prop_assert!(confirmation.confirms(&key));
        let mut other = key;
        other[at] ^= bits;
        prop_assert!(!confirmation.confirms(&other));
    }
}

#[test]
fn places_of_different_lengths_are_refused_untouched() {
    let (key, nonce, associated) = ([1; KEY], [2; NONCE], [3; ASSOCIATED]);
    for cipher in built() {
        for (from, to) in [(31, 32), (33, 32), (0, 32)] {
            let mut out = vec![0xEE; to];
            let opened = open(cipher, &key, &nonce, &associated, &vec![0; from], &mut out, &[0; TAG]);
            assert_eq!(opened, Err(Forged::Data), "{cipher:?}");
            assert_eq!(out, vec![0xEE; to]);
            let mut out = vec![MaybeUninit::uninit(); to];
            let sealed = seal(cipher, &key, &nonce, &associated, &vec![0; from], &mut out);
            assert_eq!(sealed, Err(Forged::Data), "{cipher:?}");
        }
    }
}

#[test]
fn large_records_get_the_wide_variant_where_it_is_the_faster_one() {
    let large = if has_wide_aes() { Cipher::Aegis256X4 } else { Cipher::Aegis256 };
    assert_eq!(for_len(Cipher::Aegis256, WIDE - 1), Cipher::Aegis256);
    assert_eq!(for_len(Cipher::Aegis256, WIDE), large);
    for other in [Cipher::XChaCha20Poly1305, Cipher::Aes256Gcm, Cipher::Aegis256X4] {
        assert_eq!(for_len(other, 1 << 20), other);
    }
}

#[test]
fn ciphers_have_numbers_of_their_own() {
    let all = [Cipher::Aegis256, Cipher::XChaCha20Poly1305, Cipher::Aes256Gcm, Cipher::Aegis256X4];
    assert_eq!(all.map(number), [1, 2, 3, 4]);
}

#[test]
fn a_cipher_with_short_nonces_may_seal_so_often_and_no_more() {
    assert_eq!(most_seals(Cipher::Aes256Gcm), u64::from(u32::MAX));
    assert_eq!(most_seals(Cipher::XChaCha20Poly1305), u64::MAX);
}

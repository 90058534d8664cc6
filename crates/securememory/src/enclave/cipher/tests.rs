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

proptest! {
    #[test]
    fn what_is_sealed_opens_and_what_is_changed_does_not(
        cipher in ciphers(), key: [u8; KEY], nonce: [u8; NONCE], associated: [u8; 48],
        plain in proptest::collection::vec(any::<u8>(), 1..300), flip in any::<prop::sample::Index>(),
    ) {
        let mut data = plain.clone();
        let tag = seal(cipher, &key, &nonce, &associated, &mut data).unwrap();
        let mut opened = data.clone();
        prop_assert_eq!(open(cipher, &key, &nonce, &associated, &mut opened, &tag), Ok(()));
        prop_assert_eq!(&opened, &plain);
        let mut changed = data.clone();
        changed[flip.index(data.len())] ^= 1;
        prop_assert!(open(cipher, &key, &nonce, &associated, &mut changed, &tag).is_err());
        let mut other = associated;
        other[flip.index(48)] ^= 0x80;
        prop_assert!(open(cipher, &key, &nonce, &other, &mut data.clone(), &tag).is_err());
        let mut other = nonce;
        other[flip.index(NONCE)] ^= 0x80;
        prop_assert!(open(cipher, &key, &other, &associated, &mut data, &tag).is_err());
    }

    #[test]
    fn from_one_place_to_another_is_the_same_as_in_place(
        cipher in ciphers(), key: [u8; KEY], nonce: [u8; NONCE], associated: [u8; 48],
        plain in proptest::collection::vec(any::<u8>(), 0..700),
    ) {
        let mut data = plain.clone();
        let tag = seal(cipher, &key, &nonce, &associated, &mut data).unwrap();
        let mut sealed = vec![MaybeUninit::uninit(); plain.len()];
        prop_assert_eq!(seal_to(cipher, &key, &nonce, &associated, &plain, &mut sealed), Ok(tag));
        // SAFETY: the call succeeded, so all of it was written.
        let sealed: Vec<u8> = sealed.iter().map(|byte| unsafe { byte.assume_init() }).collect();
        prop_assert_eq!(&sealed, &data);
        let mut out = vec![0xEE; plain.len()];
        prop_assert_eq!(open_to(cipher, &key, &nonce, &associated, &sealed, &mut out, &tag), Ok(()));
        prop_assert_eq!(&out, &plain);
    }

    #[test]
    fn what_does_not_open_leaves_nothing_of_the_plaintext(
        cipher in ciphers(), key: [u8; KEY], nonce: [u8; NONCE], len in 1usize..300, bits in 1u8..,
    ) {
        let mut sealed = vec![0x5A; len];
        let mut tag = seal(cipher, &key, &nonce, &[0; ASSOCIATED], &mut sealed).unwrap();
        tag[7] ^= bits;
        let mut out = vec![0xEE; len];
        let refused = open_to(cipher, &key, &nonce, &[0; ASSOCIATED], &sealed, &mut out, &tag);
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
            let opened = open_to(cipher, &key, &nonce, &associated, &vec![0; from], &mut out, &[0; TAG]);
            assert_eq!(opened, Err(Forged::Data), "{cipher:?}");
            assert_eq!(out, vec![0xEE; to]);
            let mut out = vec![MaybeUninit::uninit(); to];
            let sealed = seal_to(cipher, &key, &nonce, &associated, &vec![0; from], &mut out);
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

//! Known answers from the publications, at the level of the ciphers themselves: in place and from one place to another.

#![allow(clippy::unwrap_used, unsafe_code)]

use chacha20poly1305::KeyInit;
use chacha20poly1305::aead::consts::{U16, U32};
use chacha20poly1305::aead::{AeadInOut, Nonce};

use super::aegis::Variant;
use super::*;

/// In hexadecimal digits.
struct Vector {
    key: &'static str,
    nonce: &'static str,
    associated: &'static str,
    plain: &'static str,
    sealed: &'static str,
    tag: &'static str,
}

fn hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2));
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn array<const N: usize>(text: &str) -> [u8; N] {
    hex(text).try_into().unwrap()
}

fn check_aegis(variant: Variant, vector: &Vector) {
    let (key, nonce, tag) = (array(vector.key), array(vector.nonce), array(vector.tag));
    let (associated, plain, sealed) = (hex(vector.associated), hex(vector.plain), hex(vector.sealed));
    let mut out = vec![MaybeUninit::uninit(); plain.len()];
    assert_eq!(variant.seal(&key, &nonce, &associated, &plain, &mut out), Ok(tag));
    // SAFETY: the call succeeded, so all of it was written.
    assert!(out.iter().zip(&sealed).all(|(got, want)| unsafe { got.assume_init() } == *want));
    let mut out = vec![0xEE; plain.len()];
    assert_eq!(variant.open(&key, &nonce, &associated, &sealed, &mut out, &tag), Ok(()));
    assert_eq!(out, plain);
}

fn check_rust<A: KeyInit<KeySize = U32> + AeadInOut<TagSize = U16>>(vector: &Vector) {
    let (key, nonce, tag) = (array(vector.key), hex(vector.nonce), array(vector.tag));
    let nonce: &Nonce<A> = nonce.as_slice().try_into().unwrap();
    let (associated, plain, sealed) = (hex(vector.associated), hex(vector.plain), hex(vector.sealed));
    let mut data = plain.clone();
    assert_eq!(rust_crypto::encrypt::<A>(&key, nonce, &associated, data.as_mut_slice().into()), Ok(tag));
    assert_eq!(data, sealed);
    let place = data.as_mut_slice().into();
    assert_eq!(rust_crypto::decrypt::<A>(&key, nonce, &associated, place, &tag), Ok(()));
    assert_eq!(data, plain);
    let mut out = vec![0xEE; plain.len()];
    let places = pair(&plain, &mut out).unwrap();
    assert_eq!(rust_crypto::encrypt::<A>(&key, nonce, &associated, places), Ok(tag));
    assert_eq!(out, sealed);
    let places = pair(&sealed, &mut out).unwrap();
    assert_eq!(rust_crypto::decrypt::<A>(&key, nonce, &associated, places, &tag), Ok(()));
    assert_eq!(out, plain);
}

/// What our own `seal` gives: the first bytes of the nonce are the cipher's, the others are bound last.
fn check_binding<A: KeyInit<KeySize = U32> + AeadInOut<TagSize = U16>>(cipher: Cipher, short: usize) {
    let nonce: [u8; NONCE] = std::array::from_fn(|at| at as u8);
    let (key, associated) = ([7; KEY], [9; ASSOCIATED]);
    let bound: Vec<u8> = associated.iter().chain(&nonce[short..]).copied().collect();
    let (ours, tag) = super::tests::seal_vec(cipher, &key, &nonce, &associated, &[1; 20]);
    let mut theirs = [1; 20];
    let place = theirs.as_mut_slice().into();
    let theirs_tag = rust_crypto::encrypt::<A>(&key, nonce[..short].try_into().unwrap(), &bound, place);
    assert_eq!((Ok(tag), &ours[..]), (theirs_tag, &theirs[..]));
}

const AEGIS_KEY: &str = "1001000000000000000000000000000000000000000000000000000000000000";
const AEGIS_NONCE: &str = "1000020000000000000000000000000000000000000000000000000000000000";

/// draft-irtf-cfrg-aegis-aead-17, appendix A, test vectors of AEGIS-256, 1 to 5, with tags of 128 bits.
#[test]
fn aegis_256_gives_the_published_answers() {
    let vector = |associated, plain, sealed, tag| Vector {
        key: AEGIS_KEY,
        nonce: AEGIS_NONCE,
        associated,
        plain,
        sealed,
        tag,
    };
    let vectors = [
        vector(
            "",
            "00000000000000000000000000000000",
            "754fc3d8c973246dcc6d741412a4b236",
            "3fe91994768b332ed7f570a19ec5896e",
        ),
        vector("", "", "", "e3def978a0f054afd1e761d7553afba3"),
        vector(
            "0001020304050607",
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "f373079ed84b2709faee373584585d60accd191db310ef5d8b11833df9dec711",
            "8d86f91ee606e9ff26a01b64ccbdd91d",
        ),
        vector(
            "0001020304050607",
            "000102030405060708090a0b0c0d",
            "f373079ed84b2709faee37358458",
            "c60b9c2d33ceb058f96e6dd03c215652",
        ),
        vector(
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223242526272829",
            "101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637",
            "57754a7d09963e7c787583a2e7b859bb24fa1e04d49fd550b2511a358e3bca252a9b1b8b30cc4a67",
            "ab8a7d53fd0e98d727accca94925e128",
        ),
    ];
    for vector in &vectors {
        check_aegis(AEGIS_256, vector);
    }
}

/// The same, 6 to 9: what must not open, and leave nothing.
#[test]
fn aegis_256_refuses_what_the_publication_says() {
    let (ad, ct, tag) =
        ("0001020304050607", "f373079ed84b2709faee37358458", "c60b9c2d33ceb058f96e6dd03c215652");
    for (key, nonce, associated, sealed, tag) in [
        (AEGIS_NONCE, AEGIS_KEY, ad, ct, tag),
        (AEGIS_KEY, AEGIS_NONCE, ad, "f373079ed84b2709faee37358459", tag),
        (AEGIS_KEY, AEGIS_NONCE, "0001020304050608", ct, tag),
        (AEGIS_KEY, AEGIS_NONCE, ad, ct, "c60b9c2d33ceb058f96e6dd03c215653"),
    ] {
        let (key, nonce, associated, tag) = (array(key), array(nonce), hex(associated), array(tag));
        let mut out = vec![0xEE; hex(sealed).len()];
        let opened = AEGIS_256.open(&key, &nonce, &associated, &hex(sealed), &mut out, &tag);
        assert_eq!(opened, Err(Forged::Data));
        assert!(out.iter().all(|&byte| byte == 0));
    }
}

/// draft-irtf-cfrg-aegis-aead-17, A.7.2 and A.7.3, with tags of 128 bits. (Early drafts have another answer there.)
#[test]
fn aegis_256x4_gives_the_published_answers() {
    let vector = |associated, plain, sealed, tag| Vector {
        key: "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        nonce: "101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f",
        associated,
        plain,
        sealed,
        tag,
    };
    check_aegis(AEGIS_256_X4, &vector("", "", "", "3b7fee6cee7bf17888ad11ed2397beb4"));
    let vector = vector(
        "0102030401020304",
        "0405060704050607040506070405060704050607040506070405060704050607\
         0405060704050607040506070405060704050607040506070405060704050607\
         0405060704050607040506070405060704050607040506070405060704050607\
         040506070405060704050607040506070405060704050607",
        "bfc2085b7e8017da99b0b6d646ae4d01f4ba8f2e7dfca1d759ae48a135139b9a\
         aac6b4f5db810d426be1fdaff4e1454153a34b11da78ed7e418ee2ee9853042e\
         95536aecbb694cea1b16a478eb0d4d1bf6509b1ce652a45af58e0e46ffccfa2d\
         0426e702391d2ff5813808b81748a490dd656465fed61f09",
        "b63b611b13975e2f3dc3cb6c2397bfcd",
    );
    check_aegis(AEGIS_256_X4, &vector);
}

/// draft-irtf-cfrg-xchacha, A.3.1.
#[test]
fn xchacha20_poly1305_gives_the_published_answer() {
    check_rust::<XChaCha20Poly1305>(&Vector {
        key: "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
        nonce: "404142434445464748494a4b4c4d4e4f5051525354555657",
        associated: "50515253c0c1c2c3c4c5c6c7",
        plain: "4c616469657320616e642047656e746c656d656e206f662074686520636c6173\
                73206f66202739393a204966204920636f756c64206f6666657220796f75206f\
                6e6c79206f6e652074697020666f7220746865206675747572652c2073756e73\
                637265656e20776f756c642062652069742e",
        sealed: "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb\
                 731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452\
                 2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9\
                 21f9664c97637da9768812f615c68b13b52e",
        tag: "c0875924c1c7987947deafd8780acf49",
    });
    check_binding::<XChaCha20Poly1305>(Cipher::XChaCha20Poly1305, 24);
}

/// D. McGrew, J. Viega, The Galois/Counter Mode of Operation, appendix B: test cases 13 to 16.
#[cfg(feature = "aes-gcm")]
#[test]
fn aes_256_gcm_gives_the_published_answers() {
    const KEY: &str = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
    const NONCE: &str = "cafebabefacedbaddecaf888";
    const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
    const PLAIN: &str = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                         1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255";
    const SEALED: &str = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                          8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad";
    let vector =
        |key, nonce, associated, plain, sealed, tag| Vector { key, nonce, associated, plain, sealed, tag };
    let one_block = "cea7403d4d606b6e074ec5d3baf39d18";
    let associated = "feedfacedeadbeeffeedfacedeadbeefabaddad2";
    for vector in [
        vector(ZEROS, &ZEROS[..24], "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
        vector(ZEROS, &ZEROS[..24], "", &ZEROS[..32], one_block, "d0d1c8a799996bf0265b98b5d48ab919"),
        vector(KEY, NONCE, "", PLAIN, SEALED, "b094dac5d93471bdec1a502270e3cc6c"),
        vector(KEY, NONCE, associated, &PLAIN[..120], &SEALED[..120], "76fc6ece0f4e1768cddf8853bb2d551b"),
    ] {
        check_rust::<Aes256Gcm>(&vector);
    }
    check_binding::<Aes256Gcm>(Cipher::Aes256Gcm, 12);
}

//! How a program might print a secret.

use super::common::Needle;

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let whole = bytes.chunks_exact(3).flat_map(|three| {
        let word = three.iter().fold(0_usize, |word, &byte| word << 8 | usize::from(byte));
        [18, 12, 6, 0].map(|shift| char::from(DIGITS[word >> shift & 63]))
    });
    whole.collect()
}

/// The needle, and parts of it, in all ways in which a program might print it.
pub fn spellings(needle: &Needle) -> Vec<String> {
    let bytes: Vec<u8> = (0..needle.len()).map(|index| needle.byte(index)).collect();
    let mut all = Vec::new();
    for part in bytes.chunks(8) {
        let each = |write: &dyn Fn(&u8) -> String| part.iter().map(write).collect::<Vec<_>>();
        all.push(String::from_utf8_lossy(part).into_owned());
        all.push(each(&|byte| byte.to_string()).join(", "));
        all.push(each(&|byte| format!("{byte:02x}")).concat());
        all.push(each(&|byte| format!("{byte:02X}")).concat());
        all.push(format!("{:?}", String::from_utf8_lossy(part)).trim_matches('"').to_owned());
    }
    // Wherever it begins among the groups of three; without the edges.
    all.extend((0..3).map(|skip| base64(&bytes[skip..][..21])));
    all.extend((0..3).map(|skip| base64(&bytes[skip..][..21]).replace('+', "-").replace('/', "_")));
    all
}

#[test]
fn a_needle_is_found_however_it_is_spelt() {
    // without a guard: there is no vault
    let needle = Needle::new(5, 32);
    let bytes: Vec<u8> = (0..32).map(|index| needle.byte(index)).collect();
    let found = |text: &str| spellings(&needle).iter().any(|spelling| text.contains(spelling));
    assert!(found(&format!("{bytes:?}")) && found(&String::from_utf8_lossy(&bytes)));
    assert!(found(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()));
    assert!(found(&base64(&[&[0][..], &bytes].concat())) && found(&base64(&[&[0, 0][..], &bytes].concat())));
    assert!(!found("nothing of it"));
}

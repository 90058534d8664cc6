//! Numbers and states in words.

use securememory::{Achieved, Cipher, Evidence, Feature, HoldUsed, Level};

/// Bytes with the largest unit that leaves no remainder to speak of.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (unit, name) in UNITS {
        if count >= unit {
            let tenths = count / (unit / 10);
            return if count.is_multiple_of(unit) || tenths >= 1000 {
                format!("{} {name}", count / unit)
            } else {
                format!("{}.{} {name}", tenths / 10, tenths % 10)
            };
        }
    }
    format!("{count} B")
}

/// Bytes, or that there is no limit.
pub(super) fn limit(value: Option<u64>) -> String {
    value.map_or_else(|| "unlimited".to_owned(), bytes)
}

/// The words for a feature: yes, no with the errno, or not known.
pub(super) fn feature(feature: Feature) -> String {
    match feature {
        Feature::Available => "yes".to_owned(),
        Feature::Unavailable { errno } => {
            // The text ends in "(os error 22)"; the number is wanted, that wording is not.
            let text = std::io::Error::from_raw_os_error(errno).to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            format!("no: {text} (errno {errno})")
        }
        _ => "not known".to_owned(),
    }
}

pub(super) fn hold(hold: HoldUsed) -> &'static str {
    match hold {
        HoldUsed::Pkey => "pkey",
        HoldUsed::Split => "split",
        HoldUsed::Secretmem => "secretmem",
        HoldUsed::Guarded => "guarded",
        _ => "other",
    }
}

pub(super) fn cipher(cipher: Cipher) -> &'static str {
    match cipher {
        Cipher::Aegis256 => "AEGIS-256",
        Cipher::Aegis256X4 => "AEGIS-256X4",
        Cipher::XChaCha20Poly1305 => "XChaCha20-Poly1305",
        Cipher::Aes256Gcm => "AES-256-GCM",
        _ => "other",
    }
}

pub(super) fn level(level: Level) -> &'static str {
    match level {
        Level::Require => "required",
        Level::Prefer => "preferred",
        Level::Off => "not asked for",
        _ => "other",
    }
}

pub(super) fn evidence(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::Kernel => "the kernel's own listing says so",
        Evidence::Unverified => "the call succeeded; not verified",
        Evidence::Construction => "by construction",
        Evidence::None => "not in force",
        _ => "other",
    }
}

/// A protection in one line: in force or not, how that is known, how badly it was wanted.
pub(super) fn achieved(achieved: &Achieved) -> String {
    let wanted = level(achieved.asked);
    if achieved.got {
        return format!("in force, {} ({wanted})", evidence(achieved.evidence));
    }
    match achieved.refused {
        Some(refused) => format!("NOT in force: {refused} ({wanted})"),
        None => format!("NOT in force ({wanted})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_the_unit_that_fits() {
        for (count, told) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (65_536, "64 KiB"),
            (8 << 20, "8 MiB"),
            // Not a page size.
            ((8 << 20) + 4096, "8.0 MiB"),
            (3 << 30, "3 GiB"),
            (u64::MAX, "17179869183 GiB"),
        ] {
            assert_eq!(bytes(count), told);
        }
        assert_eq!(limit(None), "unlimited");
    }

    #[test]
    fn a_missing_feature_names_its_errno() {
        assert!(feature(Feature::Unavailable { errno: 38 }).contains("38"));
        assert!(!feature(Feature::Unavailable { errno: 38 }).contains("os error"));
    }
}

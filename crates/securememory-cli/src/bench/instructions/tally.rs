//! What was counted, by kind and function.

use std::collections::BTreeMap;

/// Whose work an instruction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The library's own, with what the bench needs to repeat the operation and look at the bytes.
    Own,
    /// The cipher's: the processor decides how many.
    Cipher,
    /// Copying and clearing memory and registers: the processor decides, too.
    Clearing,
    /// Of the kernel's, in the process: random numbers, clocks.
    Kernel,
}

impl Kind {
    /// By the function, the source file that it is in, and the first bytes of the instruction.
    pub(super) fn of(function: &str, file: &str, code: [u8; 8]) -> Self {
        // C, and Rust in both ways of writing names.
        let names = ["aegis", "libaegis", "_aegis", "softaes"];
        let is_cipher = names.iter().any(|name| function.starts_with(name) || file.starts_with(name))
            || function.starts_with("_ZN5aegis")
            // Where the list of functions names no files.
            || ["encrypt_detached", "decrypt_detached"].contains(&function);
        let copies = ["memcpy", "memmove", "memset", "memcmp", "bcmp"];
        if is_cipher {
            Self::Cipher
        } else if function.contains("wipe_below") || copies.contains(&function) || clears_register(code) {
            Self::Clearing
        } else {
            Self::Own
        }
    }
}

/// Outside the cipher nothing is compiled for AVX: what is written so clears registers. And, where there is none, an
/// exclusive or of a vector register with itself.
fn clears_register(code: [u8; 8]) -> bool {
    match code {
        // VEX and EVEX; in 64-bit code these bytes begin nothing else.
        [0xc4 | 0xc5 | 0x62, ..] => true,
        [0x0f, 0x57, which, ..] | [0x45, 0x0f, 0x57, which, ..] => {
            which >> 6 == 3 && which >> 3 & 7 == which & 7
        }
        _ => false,
    }
}

/// Instructions by kind and function, and system calls by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    functions: BTreeMap<(Kind, String), u64>,
    calls: BTreeMap<u64, u64>,
}

impl Tally {
    pub(super) fn add(&mut self, kind: Kind, function: String, times: u64) {
        *self.functions.entry((kind, function)).or_default() += times;
    }

    pub(super) fn call(&mut self, number: u64) {
        *self.calls.entry(number).or_default() += 1;
    }
}

/// What one operation takes.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Each {
    pub(super) own: f64,
    pub(super) cipher: f64,
    pub(super) clearing: f64,
    pub(super) kernel: f64,
    pub(super) calls: BTreeMap<String, f64>,
    #[serde(skip)]
    pub(super) functions: Vec<(Kind, String, f64)>,
}

impl Each {
    /// What `many` has more than `few`, by as many operations.
    pub(super) fn of(few: &Tally, many: &Tally, operations: u64) -> Self {
        let each = |few: Option<&u64>, many: u64| {
            (many as f64 - few.copied().unwrap_or(0) as f64) / operations as f64
        };
        let mut functions: Vec<_> = (many.functions.iter())
            .map(|(name, &count)| (name.0, name.1.clone(), each(few.functions.get(name), count)))
            .collect();
        functions.sort_by(|(.., one), (.., other)| other.total_cmp(one));
        let sum =
            |kind| functions.iter().filter(|function| function.0 == kind).map(|(.., count)| count).sum();
        Self {
            own: sum(Kind::Own),
            cipher: sum(Kind::Cipher),
            clearing: sum(Kind::Clearing),
            kernel: sum(Kind::Kernel),
            calls: (many.calls.iter())
                .map(|(number, &count)| (name(*number), each(few.calls.get(number), count)))
                .filter(|(_, count)| *count >= 0.005)
                .collect(),
            functions,
        }
    }
}

/// Of the system calls that an operation may make.
fn name(number: u64) -> String {
    const NAMES: [(libc::c_long, &str); 9] = [
        (libc::SYS_pread64, "pread64"),
        (libc::SYS_getrandom, "getrandom"),
        (libc::SYS_mprotect, "mprotect"),
        (libc::SYS_pkey_mprotect, "pkey_mprotect"),
        (libc::SYS_futex, "futex"),
        (libc::SYS_mmap, "mmap"),
        (libc::SYS_munmap, "munmap"),
        (libc::SYS_madvise, "madvise"),
        (libc::SYS_clock_gettime, "clock_gettime"),
    ];
    let known = NAMES.iter().find(|(known, _)| known.unsigned_abs() == number);
    known.map_or_else(|| format!("call-{number}"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_name_file_and_code() {
        const PUSH: [u8; 8] = [0x55, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Kind::of("aegis256_encrypt_detached", "", PUSH), Kind::Cipher);
        assert_eq!(Kind::of("decrypt_detached", "aegis256_aesni.c", PUSH), Kind::Cipher);
        assert_eq!(Kind::of("decrypt_detached", "", PUSH), Kind::Cipher);
        let own = "_ZN12securememory7enclave6cipher5aegis4seal17h0123456789abcdefE";
        assert_eq!(Kind::of(own, "", PUSH), Kind::Own);
        // vpxor xmm0, xmm0, xmm0; xorps xmm9, xmm9; xorps xmm0, xmm1.
        assert_eq!(Kind::of(own, "", [0xc5, 0xf9, 0xef, 0xc0, 0, 0, 0, 0]), Kind::Clearing);
        assert_eq!(Kind::of(own, "", [0x45, 0x0f, 0x57, 0xc9, 0, 0, 0, 0]), Kind::Clearing);
        assert_eq!(Kind::of(own, "", [0x0f, 0x57, 0xc1, 0, 0, 0, 0, 0]), Kind::Own);
        assert_eq!(Kind::of("memset", "", PUSH), Kind::Clearing);
    }

    #[test]
    fn an_operation_takes_what_more_operations_take_more() {
        let tally = |own, calls: u64| {
            let mut tally = Tally::default();
            tally.add(Kind::Own, "f".into(), own);
            (0..calls).for_each(|_| tally.call(libc::SYS_pread64.unsigned_abs()));
            tally
        };
        let each = Each::of(&tally(1000, 4), &tally(1300, 6), 2);
        assert!(each.own == 150.0 && each.cipher == 0.0 && each.calls["pread64"] == 1.0);
        assert!(Each::of(&tally(1000, 4), &tally(1300, 4), 2).calls.is_empty());
    }
}

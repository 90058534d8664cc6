//! The one line about a fault, put together without allocation and without anything that could panic: it is said in a
//! signal handler.

use super::report::{Access, Done, FaultReport, Memory, Place};

/// The line, in pieces.
pub(super) fn say(report: &FaultReport, piece: &mut dyn FnMut(&[u8])) {
    piece(name_of(report.signal));
    piece(b": thread ");
    number(report.thread.into(), piece);
    piece(match report.access {
        Access::Read => b" read",
        Access::Write => b" wrote to",
        Access::Execute => b" tried to run",
        Access::Unknown => b" touched",
    });
    piece(b" memory at ");
    hexadecimal(report.address as u64, piece);
    piece(b", ");
    match report.place {
        Place::Overflow { bytes } => {
            number(bytes as u64, piece);
            piece(b" bytes beyond the last of ");
        }
        Place::Underflow { bytes } => {
            number(bytes as u64, piece);
            piece(b" bytes before the first of ");
        }
        Place::Ended => piece(b"beside what was "),
        Place::AtRest => piece(b"where there is, at rest, "),
        Place::Key => piece(b"where there is "),
        Place::Lost => piece(b"lost or cut away, that has "),
        Place::Unmapped => piece(b"unmapped by somebody, that had "),
        Place::Guard => piece(b"a guard page of "),
    }
    whose(report, piece);
    piece(match report.done {
        Done::Wiped => b"; all secrets are wiped and the process ends",
        Done::PassedOn => b"; passed on",
        Done::Replaced => b"; replaced by noise, what reads it gets an error",
        Done::Asked => b"; the program is asked what to do",
    });
    piece(match report.place {
        Place::Overflow { .. } => b"; look for an index or a length that reaches beyond the view",
        Place::Underflow { .. } => b"; look for an index or a pointer that reaches below the view",
        Place::Ended => b"; look for a pointer that is used after its view has ended",
        Place::AtRest => b"; look for a pointer that is kept beyond its view, or a stray one",
        Place::Key | Place::Guard => b"; look for code that reads memory which it was not given",
        Place::Lost => b"; look into the kernel's log for errors of the hardware",
        Place::Unmapped => b"; look for munmap with a wrong address or length",
    });
}

fn whose(report: &FaultReport, piece: &mut dyn FnMut(&[u8])) {
    let view = matches!(report.memory, Memory::View);
    match report.secret_id {
        Some(secret) => {
            piece(if view { b"a view of secret " } else { b"secret " });
            number(secret, piece);
            let label = report.label.bytes.get(..report.label.len.into()).unwrap_or_default();
            if !label.is_empty() {
                piece(b" \"");
                piece(label);
                piece(b"\"");
            }
            piece(b" in vault ");
        }
        None => piece(match report.memory {
            Memory::View => b"views of vault ",
            Memory::Paged => b"paged secrets of vault ",
            Memory::Key => b"a key of vault ",
            Memory::Ciphertext => b"ciphertext of vault ",
        }),
    }
    number(report.vault_id, piece);
}

#[cfg(windows)]
fn name_of(exception: i32) -> &'static [u8] {
    use windows_sys::Win32::Foundation as f;
    match exception {
        f::EXCEPTION_ACCESS_VIOLATION => b"access violation",
        f::EXCEPTION_IN_PAGE_ERROR => b"in-page error",
        f::EXCEPTION_GUARD_PAGE => b"guard page",
        _ => b"exception",
    }
}

#[cfg(unix)]
fn name_of(signal: i32) -> &'static [u8] {
    match signal {
        libc::SIGSEGV => b"SIGSEGV",
        libc::SIGBUS => b"SIGBUS",
        _ => b"signal",
    }
}

fn number(mut value: u64, piece: &mut dyn FnMut(&[u8])) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' | (value % 10) as u8;
        value /= 10;
        at = at.wrapping_sub(1);
        if value == 0 {
            break;
        }
    }
    piece(digits.get(at..).unwrap_or_default());
}

fn hexadecimal(value: u64, piece: &mut dyn FnMut(&[u8])) {
    piece(b"0x");
    let digits = (u64::BITS - value.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        let nibble = (value.wrapping_shr(digit.wrapping_mul(4)) & 15) as u8;
        piece(&[if nibble < 10 { b'0' | nibble } else { b'a'.wrapping_add(nibble).wrapping_sub(10) }]);
    }
}

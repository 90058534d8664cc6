//! Everything that can be printed, printed and searched.
//!
//! The needle is masked, so it cannot be encoded as hexadecimal or base64 to search for that; what was printed is
//! decoded instead.

use std::fmt::{Debug, Display};
use std::time::Duration;

use securememory::{Closed, Error, WithError, with2};

use super::held::{Held, InVault};
use crate::doctor::finder::Finder;
use crate::doctor::order::Order;
use crate::doctor::search::windows;
use crate::doctor::verdict::{Trouble, Verdict};

/// Prints and searches.
pub fn log(order: &Order, held: Held) -> Result<Verdict, Trouble> {
    let mut texts = Texts::default();
    match &held {
        Held::Plain(bytes) => texts.debug(bytes),
        Held::Kept(kept) => print_all(order, kept, &mut texts)?,
    }
    let mut finder = Finder::new(&[&order.needle]);
    let of = finder.windows(0);
    if of == 0 {
        return Err(Trouble::NotHere(
            "every window of this key also occurs in a process without it".to_owned(),
        ));
    }
    let mut bytes = 0;
    for text in &texts.all {
        bytes += text.len();
        for decoded in decodings(text) {
            finder.look(0, &decoded);
        }
    }
    let count = texts.all.len();
    match finder.found(0) {
        0 => Ok(Verdict::blocked(format!(
            "{count} texts, {bytes} bytes, none of {} in any notation",
            windows(of)
        ))),
        found => Ok(Verdict::leaked(format!("{found} of {} can be read in {count} texts", windows(of)))),
    }
}

#[derive(Default)]
struct Texts {
    all: Vec<String>,
}

impl Texts {
    fn debug(&mut self, value: &impl Debug) {
        self.all.push(format!("{value:?}"));
        self.all.push(format!("{value:#?}"));
    }

    fn both(&mut self, value: &(impl Debug + Display)) {
        self.debug(value);
        self.all.push(value.to_string());
    }

    fn error(&mut self, error: Error) {
        self.both(&error);
        self.debug(&error.kind());
        if let Some(hint) = error.hint() {
            self.both(&hint);
        }
    }
}

fn print_all(order: &Order, kept: &InVault, texts: &mut Texts) -> Result<(), Trouble> {
    let (vault, secret) = (&kept.vault, &kept.secret);
    texts.debug(vault);
    texts.debug(&vault.status());
    texts.debug(&vault.secret().label("a label"));
    let show = |texts: &mut Texts| {
        texts.debug(secret);
        texts.debug(&secret.status());
    };
    show(texts);
    let view = secret.view()?;
    texts.debug(&view);
    show(texts);
    // From within one's own view: an error.
    if let Err(error) = secret.close() {
        texts.error(error);
    }
    view.finish()?;
    print_fresh(order, kept, texts)?;
    // A close that does not wait, with a view that is named.
    let view = secret.owned_view()?;
    let closed: Result<Closed, Error> = secret.close_timeout(Duration::ZERO);
    texts.debug(&closed);
    drop(view);
    show(texts);
    for (_, result) in kept.ways() {
        if let Err(error) = result {
            texts.error(error);
        }
    }
    Ok(())
}

/// Of a secret of its own, since the first may be closing by now.
fn print_fresh(order: &Order, kept: &InVault, texts: &mut Texts) -> Result<(), Trouble> {
    let needle = &order.needle;
    let secret = kept.vault.secret().init_with(needle.len(), |place| needle.fill(place))?;
    let view = secret.view_mut()?;
    texts.debug(&view);
    drop(view);
    let view = secret.owned_view()?;
    texts.debug(&view);
    drop(view);
    let mut bytes = vec![0; needle.len() + 1];
    needle.fill(&mut bytes[..needle.len()]);
    if let Err(error) = secret.replace(&mut bytes) {
        texts.error(error);
    }
    bytes.truncate(needle.len());
    if let Err(failed) = kept.vault.secret().align(3).from_vec(bytes) {
        texts.both(&failed);
        texts.error(failed.error);
    }
    secret.close()?;
    match with2(&secret, &kept.decoy, |_, _| ()) {
        Err(failed) => {
            texts.both(&failed);
            let failed: WithError<u8> = WithError::NotRun(failed.error());
            texts.both(&failed);
        }
        Ok(()) => return Err(Trouble::failed("a closed secret could be read")),
    }
    Ok(())
}

/// What someone who reads a log could make of it.
fn decodings(text: &str) -> Vec<Vec<u8>> {
    let mut all = vec![text.as_bytes().to_vec(), unescaped(text), listed(text, 10), listed(text, 16)];
    for start in 0..2 {
        all.push(hexadecimal(text, start));
    }
    for start in 0..4 {
        all.push(base64(text, start));
    }
    all
}

/// `\x1b`, `\u{1b}`, `\n` and the like.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = (first == b'\\').then(|| escape(after)).flatten();
        let (byte, len) = escaped.unwrap_or((first, 0));
        bytes.push(byte);
        rest = &after[len..];
    }
    bytes
}

fn escape(after: &[u8]) -> Option<(u8, usize)> {
    let digits = |bytes: &[u8]| u8::from_str_radix(std::str::from_utf8(bytes).ok()?, 16).ok();
    match after.first()? {
        b'x' => Some((digits(after.get(1..3)?)?, 3)),
        b'u' => {
            let end = after.iter().position(|&byte| byte == b'}')?;
            Some((digits(after.get(2..end)?)?, end + 1))
        }
        b'n' => Some((b'\n', 1)),
        b'r' => Some((b'\r', 1)),
        b't' => Some((b'\t', 1)),
        b'0' => Some((0, 1)),
        other => Some((*other, 1)),
    }
}

/// Runs of hexadecimal digits, in pairs from the first or the second digit of each run.
fn hexadecimal(text: &str, start: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for run in text.split(|letter: char| !letter.is_ascii_hexdigit()) {
        let digits = run.as_bytes().get(start..).unwrap_or_default();
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        bytes.extend(digits.chunks_exact(2).filter_map(pair));
    }
    bytes
}

/// Numbers up to 255 with anything between them.
fn listed(text: &str, radix: u32) -> Vec<u8> {
    let numbers = text.split(|letter: char| !letter.is_digit(radix)).filter(|run| !run.is_empty());
    numbers.filter_map(|run| u8::from_str_radix(run, radix).ok()).collect()
}

/// Runs of base64 digits of both alphabets, from the given digit of each run.
fn base64(text: &str, start: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let digit = |letter: u8| match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    };
    for run in text.as_bytes().split(|&letter| digit(letter).is_none()) {
        let digits: Vec<u8> = run.iter().skip(start).filter_map(|&letter| digit(letter)).collect();
        for group in digits.chunks(4) {
            let bits = group.iter().fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit))
                << (6 * (4 - group.len()));
            bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::doctor::needle::Needle;

    #[test]
    fn every_notation_is_read() {
        let secret: Vec<u8> = (0..32_u8).map(|n| n.wrapping_mul(37).wrapping_add(200)).collect();
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let spaced: String = secret.iter().map(|byte| format!("0x{byte:02X} ")).collect();
        let escaped: String =
            secret.iter().map(|byte| std::ascii::escape_default(*byte).to_string()).collect();
        let latin: String = secret.iter().map(|&byte| char::from(byte)).collect();
        let texts = [
            format!("{secret:?}"),
            format!("{secret:#?}"),
            format!("{secret:x?}"),
            format!("key={hex}!"),
            format!("key=a{}", hex.to_uppercase()),
            spaced,
            format!("b\"{escaped}\""),
            format!("{latin:?}")
                .chars()
                .map(|c| if c.is_ascii() { c.to_string() } else { format!("\\u{{{:x}}}", u32::from(c)) })
                .collect(),
            // Standard alphabet, by the tool of that name.
            "text yO0SN1yBpsvwFTpfhKnO8xg9Yoes0fYbQGWKr9T5HkM=".to_owned(),
        ];
        for text in texts {
            let mut finder = Finder::new(&[&Needle::hide(secret.iter().copied()).unwrap()]);
            decodings(&text).iter().for_each(|decoded| finder.look(0, decoded));
            assert!(finder.found(0) > 16, "{} of 25 in {text}", finder.found(0));
        }
    }
}

//! The functions of this program, as its file lists them.

use std::io;

/// A function: where it begins and ends in the file's addresses, and what it is called.
#[derive(Clone, Debug)]
pub(super) struct Symbol {
    start: u64,
    end: u64,
    pub(super) name: String,
    /// The source file that it is in, where the list says so.
    pub(super) file: String,
}

/// All of them, in the order of their addresses.
#[derive(Debug, Default)]
pub(super) struct Symbols(Vec<Symbol>);

const SECTION: usize = 64;
const ENTRY: usize = 24;
/// Of a section: a table of symbols. Of a symbol: a function; the name of a source file.
const SYMBOLS: u32 = 2;
const FUNCTION: u8 = 2;
const FILE: u8 = 4;

impl Symbols {
    /// From an ELF file of this machine's kind.
    pub(super) fn read(elf: &[u8]) -> io::Result<Self> {
        parse(elf).ok_or_else(|| io::Error::other("this program's file lists no functions"))
    }

    pub(super) fn at(&self, address: u64) -> Option<&Symbol> {
        let after = self.0.partition_point(|symbol| symbol.start <= address);
        self.0.get(after.checked_sub(1)?).filter(|symbol| address < symbol.end)
    }
}

fn parse(elf: &[u8]) -> Option<Symbols> {
    // 64 bits, lowest byte first.
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (sections, count) = (number(elf, 40, 8)?, number(elf, 60, 2)?);
    let section = |index: u64| {
        let at = usize::try_from(sections + index * SECTION as u64).ok()?;
        let kind = u32::try_from(number(elf, at + 4, 4)?).ok()?;
        let from = usize::try_from(number(elf, at + 24, 8)?).ok()?;
        let len = usize::try_from(number(elf, at + 32, 8)?).ok()?;
        Some((kind, number(elf, at + 40, 4)?, elf.get(from..from.checked_add(len)?).unwrap_or_default()))
    };
    let (_, names, table) = (0..count).filter_map(section).find(|(kind, ..)| *kind == SYMBOLS)?;
    let (.., names) = section(names)?;
    let (mut found, mut file) = (Vec::new(), String::new());
    for entry in table.chunks_exact(ENTRY) {
        let name = text(names, number(entry, 0, 4)?);
        let info = *entry.get(4)?;
        match info & 0xf {
            FILE => file = name,
            FUNCTION => {
                let (start, len) = (number(entry, 8, 8)?, number(entry, 16, 8)?);
                // Only local ones are listed below their file.
                let file = if info >> 4 == 0 { file.clone() } else { String::new() };
                found.push(Symbol { start, end: start.saturating_add(len), name, file });
            }
            _ => {}
        }
    }
    found.retain(|symbol| symbol.end > symbol.start);
    found.sort_by_key(|symbol| symbol.start);
    (!found.is_empty()).then_some(Symbols(found))
}

/// A number of so many bytes.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let mut word = [0; 8];
    word.get_mut(..len)?.copy_from_slice(bytes.get(at..at.checked_add(len)?)?);
    Some(u64::from_le_bytes(word))
}

/// A name in a table of names.
fn text(names: &[u8], at: u64) -> String {
    let rest = usize::try_from(at).ok().and_then(|at| names.get(at..)).unwrap_or_default();
    let name = rest.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn this_program_lists_its_functions() {
        let symbols = Symbols::read(&std::fs::read("/proc/self/exe").unwrap()).unwrap();
        let aegis = symbols.0.iter().find(|symbol| symbol.name == "aegis256_encrypt_detached").unwrap();
        assert_eq!(symbols.at(aegis.start).unwrap().name, aegis.name);
        assert_eq!(symbols.at(aegis.end - 1).unwrap().name, aegis.name);
        assert!(symbols.0.iter().any(|symbol| symbol.file.starts_with("aegis256")));
        assert!(symbols.at(0).is_none() && symbols.at(u64::MAX).is_none());
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        let elf = std::fs::read("/proc/self/exe").unwrap();
        for wrong in [&elf[..0], &elf[1..], &elf[..200]] {
            Symbols::read(wrong).unwrap_err();
        }
    }
}

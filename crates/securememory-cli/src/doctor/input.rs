//! The user's own key, taken in without ever holding it in plain.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::needle::{Needle, WINDOW};

/// The longest key that the doctor works with.
const LONGEST: usize = 64 * 1024;

/// Reads a key from a file, or from standard input for `-`.
pub fn read_key(path: &Path) -> Result<Needle, String> {
    let name = path.display();
    let needle = if path == Path::new("-") {
        crate::system::standard_input().and_then(masked)
    } else {
        File::open(path).and_then(masked)
    };
    let needle = needle.map_err(|error| format!("the key in {name} cannot be read: {error}"))?;
    match needle.len() {
        0 => Err(format!("the key in {name} is empty")),
        len if len < WINDOW => Err(format!(
            "the key in {name} has {len} bytes; the doctor needs at least {WINDOW}, since shorter ones occur by chance"
        )),
        len if len > LONGEST => {
            Err(format!("the key in {name} has more than the {LONGEST} bytes that the doctor takes"))
        }
        _ => Ok(needle),
    }
}

/// One byte at a time, masked at once: slow, and there is never a window of the key in this process.
fn masked(mut source: File) -> io::Result<Needle> {
    let mut needle = Needle::default();
    let mut byte = [0];
    while needle.len() <= LONGEST {
        match source.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => needle.push(byte[0])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(needle)
}

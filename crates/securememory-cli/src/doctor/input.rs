//! The user's own key, taken in without ever holding it in plain.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::needle::{Needle, WINDOW};

/// The longest key that the doctor works with.
const LONGEST: usize = 64 * 1024;

/// Reads a key from a file, or from standard input for `-`.
pub fn read_key(path: &Path) -> Result<Needle, String> {
    let name = path.display();
    let needle = if path == Path::new("-") {
        masked(io::stdin().as_fd())
    } else {
        File::open(path).and_then(|file| masked(file.as_fd()))
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
fn masked(source: BorrowedFd<'_>) -> io::Result<Needle> {
    let mut needle = Needle::default();
    let mut byte = [0];
    while needle.len() <= LONGEST {
        match rustix::io::retry_on_intr(|| rustix::io::read(source, &mut byte))? {
            0 => break,
            _ => needle.push(byte[0])?,
        }
    }
    Ok(needle)
}

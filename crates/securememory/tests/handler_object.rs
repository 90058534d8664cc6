//! What runs in the signal handler calls nothing that must not be called there.
//!
//! The library is built as one release object, as a program gets it. From the entry of the handler on all relocations are
//! followed, from section to section; the compiler gives every function a section of its own. What is met that the object
//! does not define is imported, and must be on the list below. So an allocation, a lock of the standard library, a panic (an
//! index, an addition that is checked) or a thread-local is found, wherever the compiler has put it.
#![cfg(all(target_os = "linux", target_pointer_width = "64", target_endian = "little"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What the kernel, a handler of others, or `exit` enters by.
const ENTRIES: [&str; 2] = ["5fault6inside5entry5entry", "5fault7outside7at_exit"];

/// What may be imported, and why it may be called in a signal handler.
const ALLOWED: [(&str, &str); 12] = [
    ("syscall", "loads registers and enters the kernel; sets errno"),
    ("sigaction", "signal-safety(7)"),
    ("sigaltstack", "a system call and no more, in glibc and musl"),
    ("nanosleep", "signal-safety(7)"),
    ("sysconf", "signal-safety(7)"),
    (
        "__errno_location",
        "an address relative to the thread pointer; the C library's errno is never made lazily",
    ),
    ("memcpy", "signal-safety(7)"),
    ("memmove", "signal-safety(7)"),
    ("memset", "signal-safety(7)"),
    ("memcmp", "signal-safety(7)"),
    ("bcmp", "the same as memcmp"),
    (
        CANNOT_UNWIND,
        "met only where a function of the program's panics, which has promised not to; ends the process",
    ),
];

/// What the entry, a C function, calls where a function of Rust's that it calls unwinds.
const CANNOT_UNWIND: &str = "core::panicking::panic_cannot_unwind";

#[test]
fn the_handler_imports_only_what_is_allowed_in_one() {
    // without a guard: no library is called
    let object = object();
    for entry in ENTRIES {
        let met = object.reach(entry);
        let foreign: Vec<String> =
            met.iter().filter(|(name, _)| !is_allowed(name)).map(|(name, way)| told(name, way)).collect();
        assert!(foreign.is_empty(), "{entry} must not call:\n{}", foreign.join("\n"));
        assert!(met.contains_key("syscall"), "nothing was followed from {entry}");
        println!("{entry}: {}", met.keys().cloned().collect::<Vec<_>>().join(" "));
    }
}

/// The test above can fail: what every thread may call is seen to allocate, to panic, and to have thread-locals.
#[test]
fn an_ordinary_function_is_found_out() {
    // without a guard: no library is called
    let met = object().reach("12VaultBuilder5build");
    for part in ["rust_alloc", "9panicking", THREAD_LOCAL] {
        assert!(met.keys().any(|name| name.contains(part)), "nothing like {part} in {:?}", met.keys());
    }
    assert!(met.keys().any(|name| !is_allowed(name)));
}

fn is_allowed(name: &str) -> bool {
    // Mangled in one of two ways.
    let name = if name.contains("9panicking19panic_cannot_unwind") { CANNOT_UNWIND } else { name };
    ALLOWED.iter().any(|(allowed, _)| *allowed == name)
}

fn told(name: &str, way: &[String]) -> String {
    format!("  {name}\n    by {}", way.join("\n    by "))
}

/// Stands for a section of thread-locals, and for a call that asks for one.
const THREAD_LOCAL: &str = "(thread-local)";

/// The library as one object, built once.
fn object() -> &'static Object {
    static OBJECT: OnceLock<Object> = OnceLock::new();
    OBJECT.get_or_init(|| {
        let place = build();
        Object::parse(&std::fs::read(&place).expect("the object"))
    })
}

fn build() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("handler-object");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()));
    cargo.args(["rustc", "--quiet", "--release", "--lib", "--manifest-path"]).arg(manifest);
    cargo.arg("--target-dir").arg(&target).args(["--", "--emit=obj", "-Ccodegen-units=1"]);
    // Flags for the tests' own build are not for this one: a sanitizer, for instance, calls much.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("CARGO_BUILD_TARGET");
    let done = cargo.output().expect("cargo starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let objects = std::fs::read_dir(target.join("release/deps")).expect("what was built").flatten();
    let objects = objects.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("securememory-") && name.ends_with(".o")
    });
    // The newest, should a change of the compiler have left others.
    let written = |path: &PathBuf| path.metadata().and_then(|data| data.modified()).expect("a time");
    objects.max_by_key(written).expect("an object")
}

/// Sections of an object file, and who refers to whom. elf(5)
struct Object {
    /// Each section's name, whether it has thread-locals, and what it refers to.
    sections: Vec<Section>,
    /// Where functions are defined.
    defined: Vec<(String, usize)>,
}

#[derive(Default)]
struct Section {
    name: String,
    thread_local: bool,
    sections: BTreeSet<usize>,
    imports: BTreeSet<String>,
}

const SYMBOLS: u32 = 2;
const RELOCATIONS: u32 = 4;
const FLAG_THREAD_LOCAL: u64 = 0x400;
const TYPE_THREAD_LOCAL: u8 = 6;

impl Object {
    fn parse(file: &[u8]) -> Self {
        assert_eq!(file[..6], *b"\x7fELF\x02\x01", "a 64-bit object of this byte order");
        let number = |at: usize, len: usize| {
            file[at..at + len].iter().rev().fold(0_u64, |number, &byte| number << 8 | u64::from(byte))
        };
        let at = |at: usize| usize::try_from(number(at, 8)).unwrap();
        let text = |at: usize| {
            let bytes: Vec<u8> = file[at..].iter().copied().take_while(|&byte| byte != 0).collect();
            String::from_utf8(bytes).unwrap()
        };
        let (table, size, mut count) = (at(0x28), number(0x3A, 2) as usize, number(0x3C, 2) as usize);
        if count == 0 {
            // More than fit: then the first one tells.
            count = at(table + 0x20);
        }
        let header = |index: usize| table + index * size;
        let (kind, offset) = (|index| number(header(index) + 4, 4) as u32, |index| at(header(index) + 0x18));
        let (len, link) =
            (|index| at(header(index) + 0x20), |index| number(header(index) + 0x28, 4) as usize);
        let names = match number(0x3E, 2) as usize {
            0xFFFF => link(0),
            index => index,
        };
        let mut sections: Vec<Section> = (0..count)
            .map(|index| Section {
                name: text(offset(names) + number(header(index), 4) as usize),
                thread_local: number(header(index) + 8, 8) & FLAG_THREAD_LOCAL != 0,
                ..Section::default()
            })
            .collect();
        let symbols = (0..count).find(|&index| kind(index) == SYMBOLS).expect("symbols");
        let extended: Option<usize> = (0..count).find(|&index| kind(index) == 18);
        // Name, type and section of a symbol; section 0: imported.
        let symbol = |index: usize| {
            let at = offset(symbols) + index * 24;
            let section = match number(at + 6, 2) as usize {
                0xFFFF => number(offset(extended.expect("indices")) + index * 4, 4) as usize,
                section => section,
            };
            (text(offset(link(symbols)) + number(at, 4) as usize), file[at + 4] & 15, section)
        };
        for index in (0..count).filter(|&index| kind(index) == RELOCATIONS) {
            let of = number(header(index) + 0x2C, 4) as usize;
            for entry in (0..len(index) / 24).map(|entry| offset(index) + entry * 24) {
                let (name, kind, section) = symbol(number(entry + 12, 4) as usize);
                if kind == TYPE_THREAD_LOCAL {
                    sections[of].imports.insert(format!("{THREAD_LOCAL} {name}"));
                }
                if section == 0 {
                    sections[of].imports.insert(name);
                } else if section < count {
                    sections[of].sections.insert(section);
                }
            }
        }
        let all = (1..len(symbols) / 24).map(symbol);
        let defined = all.filter(|&(_, kind, section)| kind == 2 && section != 0 && section < count);
        let defined = defined.map(|(name, _, section)| (name, section)).collect();
        Self { sections, defined }
    }

    /// All that is imported by what can be reached from a function, with the way there.
    fn reach(&self, function: &str) -> BTreeMap<String, Vec<String>> {
        let starts: Vec<usize> = self
            .defined
            .iter()
            .filter(|(name, _)| {
                let end = name.find(function).map(|at| &name[at + function.len()..]);
                // Of what is in it: only the hash of the old mangling may follow.
                end.is_some_and(|end| end.is_empty() || end.starts_with("17h"))
            })
            .map(|&(_, section)| section)
            .collect();
        let [start] = starts[..] else { panic!("{} functions are {function}", starts.len()) };
        let (mut met, mut from) = (BTreeMap::new(), BTreeMap::from([(start, start)]));
        let mut open = vec![start];
        while let Some(index) = open.pop() {
            let section = &self.sections[index];
            let way = || {
                let mut way = vec![section.name.clone()];
                let mut at = index;
                while at != start {
                    at = from[&at];
                    way.push(self.sections[at].name.clone());
                }
                way
            };
            if section.thread_local {
                met.entry(THREAD_LOCAL.to_owned()).or_insert_with(way);
            }
            for import in &section.imports {
                met.entry(import.clone()).or_insert_with(way);
            }
            for &next in &section.sections {
                from.entry(next).or_insert_with(|| {
                    open.push(next);
                    index
                });
            }
        }
        met
    }
}

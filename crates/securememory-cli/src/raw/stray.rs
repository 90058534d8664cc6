//! Stray loads and stores, and work on bytes in registers.

use std::ptr;
use std::sync::atomic::AtomicU8;

/// Flips all bits of the byte at an address, with a load and a store as an overflow would do it: in a victim's child,
/// or where a stress run is sabotaged.
pub fn flip_byte(address: usize) {
    let byte: *mut u8 = ptr::with_exposed_provenance_mut(std::hint::black_box(address));
    // SAFETY: not sound, and meant so: it stands for the bug that a guard page, a canary or a tag has to catch. It
    // is called only in processes that exist to be damaged and that nobody believes afterwards. Volatile, so that the
    // compiler neither drops the store nor draws conclusions from it.
    unsafe { ptr::write_volatile(byte, !ptr::read_volatile(byte)) }
}

/// Loads the byte at an address, as a stray read does: it is meant to fault.
pub fn stray_load(address: usize) -> u8 {
    let byte: *const u8 = ptr::with_exposed_provenance(std::hint::black_box(address));
    // SAFETY: not sound, and meant so: it is the fault under test, in a victim that ends by it. Volatile, so that it is
    // neither dropped nor taken for something that does not happen.
    unsafe { byte.read_volatile() }
}

/// Stores into a field of nothing, as through a null pointer.
pub fn null_store() {
    let word: *mut u32 = ptr::with_exposed_provenance_mut(std::hint::black_box(16));
    // SAFETY: as above; nothing is ever mapped there.
    unsafe { word.write_volatile(1) }
}

// What `hold` is told.
/// Keep on.
pub const HOLD: u8 = 0;
/// Return.
pub const RELEASE: u8 = 1;
/// Read what must not be read.
pub const STRAY: u8 = 2;

/// How many bytes [`hold`] keeps in registers, of so many.
pub fn held_bytes(len: usize) -> usize {
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) || len < 8 {
        0
    } else if len < 24 {
        8
    } else {
        24
    }
}

/// Works on bytes as optimised code does, with the first 24 (or 8) of them in registers and nowhere else, until it
/// is told something else; told to stray, it loads from `beyond` with those registers as they are. It says when it has
/// them there.
pub fn hold(bytes: &[u8], holding: &AtomicU8, told: &AtomicU8, beyond: usize) {
    static NOTHING: [u8; 16] = [0; 16];
    let Some(word) = bytes.first_chunk::<8>() else {
        holding.store(1, std::sync::atomic::Ordering::Relaxed);
        while told.load(std::sync::atomic::Ordering::Relaxed) == HOLD {
            std::thread::yield_now();
        }
        if told.load(std::sync::atomic::Ordering::Relaxed) == STRAY {
            stray_load(beyond);
        }
        return;
    };
    let wide = bytes.get(8..24).unwrap_or(&NOTHING).as_ptr();
    let holding = holding.as_ptr();
    let (word, told, beyond) = (word.as_ptr(), told.as_ptr(), ptr::with_exposed_provenance::<u8>(beyond));
    // SAFETY: loads of 8 and 16 bytes that are there, of the byte that says how to go on, and the one that is meant to
    // fault; a store of a byte that others only load. What the registers held is cleared at the end.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!(
            "mov {word}, [{word}]",
            "movdqu {wide_held}, [{wide}]",
            "mov byte ptr [{holding}], 1",
            "2:",
            "pause",
            "cmp byte ptr [{told}], 0",
            "je 2b",
            "cmp byte ptr [{told}], 2",
            "jne 3f",
            "mov {beyond:l}, [{beyond}]",
            "3:",
            "xor {word:e}, {word:e}",
            "pxor {wide_held}, {wide_held}",
            word = inout(reg) word => _,
            wide = in(reg) wide,
            wide_held = out(xmm_reg) _,
            holding = in(reg) holding,
            told = in(reg) told,
            beyond = inout(reg_abcd) beyond => _,
            options(nostack),
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!(
            "ldr {word}, [{word}]",
            "ldr {wide_held:q}, [{wide}]",
            "mov {next:w}, #1",
            "strb {next:w}, [{holding}]",
            "2:",
            "yield",
            "ldrb {next:w}, [{told}]",
            "cbz {next:w}, 2b",
            "cmp {next:w}, #2",
            "b.ne 3f",
            "ldrb {next:w}, [{beyond}]",
            "3:",
            "mov {word}, xzr",
            "movi {wide_held}.2d, #0",
            word = inout(reg) word => _,
            wide = in(reg) wide,
            wide_held = out(vreg) _,
            holding = in(reg) holding,
            told = in(reg) told,
            beyond = in(reg) beyond,
            next = out(reg) _,
            options(nostack),
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = (word, wide);
        // SAFETY: these bytes live for as long as this runs.
        let (holding, told) = unsafe { (AtomicU8::from_ptr(holding), AtomicU8::from_ptr(told)) };
        holding.store(1, std::sync::atomic::Ordering::Relaxed);
        while told.load(std::sync::atomic::Ordering::Relaxed) == HOLD {
            std::hint::spin_loop();
        }
        if told.load(std::sync::atomic::Ordering::Relaxed) == STRAY {
            stray_load(beyond.addr());
        }
    }
}

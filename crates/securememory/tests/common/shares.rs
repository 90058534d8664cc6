//! The shares of a split key, as an attacker or a careless host sees them.

use securememory::{Hold, Level, Store, Vault};

/// A vault with a split key, and the descriptors of its files.
pub fn split() -> (Vault, Vec<i32>) {
    super::need("split");
    let before = super::share_files();
    let builder = Vault::builder().store(Store::Sealed).hold(Hold::Split).hold_level(Level::Require);
    let vault = builder.build().expect("a vault with a split key");
    let files: Vec<i32> = super::share_files().into_iter().filter(|file| !before.contains(file)).collect();
    assert_eq!(files.len(), vault.status().replicas);
    assert!(files.len() >= 2);
    (vault, files)
}

/// Cuts a file, or makes it longer by zeros.
pub fn truncate(file: i32, len: libc::off_t) {
    // SAFETY: changes a file by its number.
    assert_eq!(unsafe { libc::ftruncate(file, len) }, 0);
}

/// Closes a number, as a stray close does.
pub fn close(number: i32) {
    // SAFETY: changes no memory.
    assert_eq!(unsafe { libc::close(number) }, 0);
}

/// Share A in a file.
pub fn share_in(file: i32) -> [u8; 64] {
    let mut share = [0; 64];
    // SAFETY: within the array.
    assert_eq!(unsafe { libc::pread(file, share.as_mut_ptr().cast(), 64, 0) }, 64);
    share
}

/// Changes it.
pub fn set_share(file: i32, share: &[u8; 64]) {
    // SAFETY: within the array.
    assert_eq!(unsafe { libc::pwrite(file, share.as_ptr().cast(), 64, 0) }, 64);
}

/// A file of the host's, with a known content and position.
pub struct Host {
    /// One of its numbers.
    pub file: i32,
    content: Vec<u8>,
}

impl Host {
    /// Whatever files in memory have here, `vm.memfd_noexec`.
    const MODE: libc::mode_t = 0o640;

    /// A file with this content.
    pub fn new(content: &[u8]) -> Self {
        // SAFETY: makes a file, and writes from the slice.
        let file = unsafe {
            let file = libc::memfd_create(c"the host's".as_ptr(), libc::MFD_CLOEXEC);
            assert!(file >= 0);
            assert_eq!(libc::fchmod(file, Self::MODE), 0);
            assert_eq!(libc::write(file, content.as_ptr().cast(), content.len()), content.len() as isize);
            file
        };
        Self { file, content: content.to_vec() }
    }

    /// Puts the file under another number, as a stray dup2 does.
    pub fn take_over(&self, number: i32) {
        // SAFETY: what the number stood for is closed.
        assert_eq!(unsafe { libc::dup3(self.file, number, libc::O_CLOEXEC) }, number);
    }

    /// Under this number lies the host's file, as it was.
    pub fn assert_untouched(&self, number: i32) {
        let mut found = vec![0; self.content.len() * 2];
        let len = self.content.len();
        // SAFETY: within the vector; the structure lives over the call.
        unsafe {
            assert_eq!(
                libc::pread(number, found.as_mut_ptr().cast(), 2 * len, 0),
                len as isize,
                "fd {number}"
            );
            assert_eq!(libc::lseek(number, 0, libc::SEEK_CUR), len as libc::off_t);
            let mut stat: libc::stat = std::mem::zeroed();
            assert_eq!(libc::fstat(number, &raw mut stat), 0);
            assert_eq!(stat.st_mode & 0o777, Self::MODE, "its mode");
        }
        assert_eq!(found[..len], self.content);
    }
}

const ALIVE: u64 = 0x616c_6976_655f_736d;

/// The page with the alive mark and the shares in memory, of the only vault.
pub struct Anchor {
    page: *mut u8,
}

// SAFETY: an address; what is done with it is up to the tests.
unsafe impl Send for Anchor {}
// SAFETY: as above.
unsafe impl Sync for Anchor {}

impl Anchor {
    /// Places for shares B of one key.
    pub const PLACES: usize = 15;

    /// Looks for it.
    pub fn find() -> Self {
        let text = std::fs::read_to_string("/proc/self/maps").expect("/proc/self/maps");
        let pages = text.lines().filter(|line| line.contains(" rw-p 00000000 00:00 0 ")).filter_map(|line| {
            let (start, end) = line.split(' ').next()?.split_once('-')?;
            let parse = |text| usize::from_str_radix(text, 16).ok();
            (parse(end)? - parse(start)? == super::page_size()).then_some(parse(start)?)
        });
        let mut found = pages.map(std::ptr::with_exposed_provenance_mut::<u8>).filter(|page| {
            // SAFETY: a readable page, aligned.
            unsafe { page.cast::<u64>().read_volatile() == ALIVE }
        });
        let page = found.next().expect("the page with the mark");
        assert_eq!(found.next(), None, "one vault");
        Self { page }
    }

    /// Its address.
    pub fn address(&self) -> usize {
        self.page.addr()
    }

    fn place(&self, place: usize) -> *mut u8 {
        self.page.wrapping_add(64 + place * 64)
    }

    /// All shares B of the first key.
    pub fn shares(&self) -> Vec<[u8; 64]> {
        self.in_places(Self::PLACES)
    }

    /// The shares B of all four keys that there may be.
    pub fn shares_of_all_keys(&self) -> Vec<[u8; 64]> {
        self.in_places(4 * Self::PLACES)
    }

    fn in_places(&self, count: usize) -> Vec<[u8; 64]> {
        // SAFETY: inside the page of a live vault.
        (0..count).map(|place| unsafe { self.place(place).cast::<[u8; 64]>().read_volatile() }).collect()
    }

    /// Puts them back, and the mark, while nobody uses the vault.
    pub fn restore(&self, shares: &[[u8; 64]]) {
        for (place, share) in shares.iter().enumerate() {
            // SAFETY: inside the page of a live vault; nobody reads now.
            unsafe { self.place(place).cast::<[u8; 64]>().write_volatile(*share) };
        }
        self.set_alive(true);
    }

    /// Sets the alive mark, or takes it away, as the kernel does in a child.
    pub fn set_alive(&self, alive: bool) {
        // SAFETY: inside the page of a live vault, aligned.
        unsafe { self.page.cast::<u64>().write_volatile(if alive { ALIVE } else { 0 }) };
    }
}

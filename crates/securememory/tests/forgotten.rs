//! Views and writers that were forgotten (`std::mem::forget`): nothing of them outlives their secret and their vault.
#![allow(clippy::unwrap_used, clippy::mem_forget, reason = "it is what is tested")]

#[cfg_attr(windows, path = "common/windows.rs")]
mod common;

use common::{Footprint, Needle, case};
use securememory::testing::{Left, expect_leak};
use securememory::{Store, Vault};

/// Larger than a page: such pages are mapped for themselves.
const LEN: usize = 8192;

#[test]
fn a_forgotten_writer_leaves_neither_bytes_nor_pages_behind() {
    case("a_forgotten_writer_leaves_neither_bytes_nor_pages_behind").run(|| {
        let needle = Needle::new(6_001, LEN);
        let once = |store| {
            let vault = Vault::builder().store(store).build().unwrap();
            let secret = vault.secret().init_with(LEN, |room| needle.write(room, 0)).unwrap();
            std::mem::forget(secret.view_mut().unwrap());
            expect_leak("the writer that was forgotten", Left::View, 1);
            drop(secret);
            if store == Store::Paged {
                assert_eq!(needle.find(), Vec::<String>::new(), "with the secret, its bytes are gone");
            }
        };
        for store in [Store::Sealed, Store::Paged] {
            once(store);
            let before = Footprint::now();
            once(store);
            before.assert_same(format!("after a forgotten writer, {store:?}"));
            assert_eq!(needle.find(), Vec::<String>::new());
        }
    });
}

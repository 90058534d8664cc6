//! Vaults of every store, and all that can be done with one.

use securememory::{Closed, Hold, Level, Store, Vault, VaultBuilder};

use super::{HOLD, keep_stacks};

/// How the sealed and paged stores are asked for, by the names of the doctor.
pub fn builders() -> [(&'static str, VaultBuilder); 3] {
    [
        ("sealed-split", Vault::builder().store(Store::Sealed).hold(HOLD).hold_level(Level::Require)),
        ("sealed-guarded", Vault::builder().store(Store::Sealed).hold(Hold::Guarded)),
        ("paged", Vault::builder().store(Store::Paged)),
    ]
}

/// Makes, reads, changes, shares, asks and closes, and looks at each result.
pub fn use_fully(name: &str, vault: &Vault) {
    let mut source = *b"twenty-four secret bytes";
    let secret = vault.secret().from_bytes(&mut source).unwrap();
    assert_eq!(source, [0; 24], "{name}");
    let outer = secret.view().unwrap();
    let inner = secret.view().unwrap();
    assert_eq!(*outer, *b"twenty-four secret bytes", "{name}");
    assert_eq!(*inner, *outer, "{name}");
    inner.finish().unwrap();
    outer.finish().unwrap();
    let mut change = secret.view_mut().unwrap();
    change[0] = b'T';
    change.commit().unwrap();
    let owned = secret.owned_view().unwrap();
    assert_eq!(owned.with(|bytes| bytes[0]), Ok(b'T'), "{name}");
    drop(owned);
    assert!(!secret.status().closed, "{name}");
    assert_eq!(secret.close(), Ok(Closed::Closed), "{name}");
}

/// A first round, so that what a process takes once (by the library, the test harness, the C library) is taken.
pub fn warm_up() {
    keep_stacks();
    for (name, builder) in builders() {
        use_fully(name, &builder.build().unwrap());
    }
}

//! What the compiler must know of the public types.

use std::panic::{RefUnwindSafe, UnwindSafe};

use securememory::testing::TestGuard;
use securememory::{
    Closed, Error, OwnedView, Policy, Secret, SecretBuilder, SecretStream, Status, StreamBuilder, Vault,
    VaultBuilder, VaultStatus, View, ViewMut, WithError,
};

const fn goes_anywhere<T: Send + Sync + UnwindSafe + RefUnwindSafe + 'static>() {}

const _: () = {
    goes_anywhere::<Secret>();
    goes_anywhere::<Vault>();
    goes_anywhere::<Error>();
    goes_anywhere::<Policy>();
    goes_anywhere::<Closed>();
    goes_anywhere::<Status>();
    goes_anywhere::<VaultStatus>();
    goes_anywhere::<SecretBuilder>();
    goes_anywhere::<VaultBuilder>();
    goes_anywhere::<SecretStream>();
    goes_anywhere::<StreamBuilder>();
    goes_anywhere::<OwnedView>();
    goes_anywhere::<WithError<()>>();
};

/// Compiles only if `T` does not implement the trait: with an implementation, `A` could be either.
macro_rules! stays {
    ($type:ty, $trait:ident) => {
        const _: fn() = || {
            trait Ambiguous<A> {
                fn which() {}
            }
            impl<T: ?Sized> Ambiguous<()> for T {}
            impl<T: ?Sized + $trait> Ambiguous<u8> for T {}
            let _ = <$type as Ambiguous<_>>::which;
        };
    };
}

stays!(View<'static>, Send);
stays!(View<'static>, Sync);
stays!(ViewMut<'static>, Send);
stays!(ViewMut<'static>, Sync);
stays!(Secret, Clone);

#[test]
fn an_error_is_small() {
    let _guard = TestGuard::new();
    assert!(size_of::<Error>() <= 48);
    assert_eq!(size_of::<Secret>(), size_of::<usize>());
}
